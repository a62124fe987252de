"""`ser tune`: search the classifier's settings with Optuna, then test the best trial once.

Any number of these commands, on any number of machines, work on one study; each prints its own trials and
rewrites `RUNS/STUDY/tune.json`, which tells how the whole study stands. Run it again to go on with a study.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ser.cli.common import (
    add_check,
    add_corpus_arguments,
    add_encoder_arguments,
    add_settings,
    prepare_features,
    settings_of,
    stop_on_signals,
)

if TYPE_CHECKING:
    import optuna

    from ser.training.crossval import CrossvalSettings
    from ser.tuning.search import Event, Search

POLL_S = 0.2
STATUS = "tune.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from ser.classifier.bigru import ClassifierSettings
    from ser.training.trainer import TrainingSettings
    from ser.tuning.space import SPACE, TuningSettings

    add_corpus_arguments(parser)
    add_check(parser)
    add_encoder_arguments(parser)
    parser.add_argument("--study", required=True, metavar="NAME", help="a study of this name goes on")
    parser.add_argument(
        "--storage", metavar="ADDRESS",
        help="journal:PATH, sqlite:///PATH, postgresql://..., mysql://... or grpc://HOST:PORT "
        "(default: studies.journal in the folder of --out); SER_STORAGE where it is not given",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder for the study's runs")
    parser.add_argument(
        "--timeout", dest="timeout_s", type=float, default=TuningSettings.timeout_s, metavar="SECONDS",
        help="no trial starts after so long (default %(default)s)",
    )  # fmt: skip
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="worker processes on this machine")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--validation-share", type=float, default=0.10)
    parser.add_argument(
        "--no-final", action="store_true", help="only search: leave testing the best trial to another command"
    )
    parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)
    add_settings(parser, TuningSettings, leave_out=("timeout_s", "seed"))
    add_settings(parser, ClassifierSettings, TrainingSettings, leave_out=SPACE.keys())


def run(args: argparse.Namespace) -> int:
    from ser.cli.crossval import draw_report
    from ser.errors import SettingsError
    from ser.training.crossval import Stopped
    from ser.tuning.search import Search, score_best
    from ser.tuning.space import TuningSettings, check_study_name
    from ser.tuning.storage import default_storage, open_storage

    if args.jobs < 1:
        raise SettingsError(f"--jobs must be at least 1, got {args.jobs}.")
    folder = args.out / check_study_name(args.study)
    settings, base = settings_of(TuningSettings, args), _base(args)
    should_stop = _stop_with_parent(stop_on_signals(), args.parent)
    corpus, features, encoder = prepare_features(args)
    search = Search(corpus, features, encoder, base, settings)
    storage = open_storage(args.storage or os.environ.get("SER_STORAGE") or default_storage(args.out))
    study = search.open(storage, args.study)
    status = Status(study, search, folder)
    if args.parent is None:
        status.print_start()
    try:
        if args.jobs > 1:
            _work_in_processes(args, should_stop, status)
        else:
            search.run(study, status.tell, should_stop)
        if args.no_final:
            status.write("searched")
            return 0
        status.write("testing")
        run_folder, result = score_best(
            study, corpus, features, encoder, base, folder, status.after_fold, should_stop
        )
    except (Stopped, KeyboardInterrupt):
        status.write("stopped")
        raise
    draw_report(run_folder)
    status.write("done")
    _print_result(result, run_folder)
    return 0


class Status:
    """Prints what happens, and keeps `tune.json` up to date."""

    def __init__(self, study: optuna.Study, search: Search, folder: Path) -> None:
        self.study, self.search, self.path = study, search, folder / STATUS
        self.started = time.time()
        folder.mkdir(parents=True, exist_ok=True)
        self.write("searching")

    def tell(self, event: Event) -> None:
        """Something happened to a trial."""
        from ser.tuning.storage import best_of

        best = best_of(self.study)
        value = "" if event.value is None else f"{100 * event.value:7.2f} %"
        known = "" if best is None else f"{100 * (best.value or 0):7.2f} %  (trial {best.number})"
        epoch = "" if event.epoch is None else str(event.epoch)
        print(f"{event.number:5d}  {event.kind:12s}  {epoch:>5s}  {value:>9s}  {known}", flush=True)
        self.write("searching")

    def after_fold(self, number: int, report: Any) -> None:
        """An epoch of a fold of the best trial, which is trained again to be tested."""
        if number == 0:
            print(f"  testing the best trial: epoch {report.epoch}", flush=True)

    def write(self, state: str) -> None:
        """Rewrite `tune.json`; each worker writes the same truth, that of the study."""
        from ser.files import write_json
        from ser.tuning.storage import summary

        settings = self.search.settings
        content = {
            "state": state,
            "corpus": self.search.about["corpus"]["name"],
            "protocol": self.search.about["folds"]["protocol"],
            "sampler": settings.sampler,
            "n_trials": settings.trials,
            "timeout_s": settings.timeout_s,
            "started": self.started,
            "updated": time.time(),
            **summary(self.study),
        }
        write_json(self.path, content)

    def print_start(self) -> None:
        """What is searched, and the head of the live table."""
        from ser.tuning.storage import count_finished

        about, wanted = self.search.about, self.search.settings.trials
        corpus = about["corpus"]
        print(
            f"{corpus['name']}: {corpus['n_utterances']} utterances, {corpus['n_speakers']} speakers; study "
            f"{self.study.study_name}: {count_finished(self.study)} of {wanted} trials are finished\n"
            "trial  what          epoch  validation  best so far (accuracy on validation speakers)",
            flush=True,
        )


def _base(args: argparse.Namespace) -> CrossvalSettings:
    from ser.classifier.bigru import ClassifierSettings
    from ser.training.crossval import CrossvalSettings
    from ser.training.trainer import TrainingSettings

    return CrossvalSettings(
        settings_of(ClassifierSettings, args), settings_of(TrainingSettings, args), "speakers", args.folds,
        args.validation_share, args.seed,
    )  # fmt: skip


def _stop_with_parent(asked: Callable[[], bool], parent: int | None) -> Callable[[], bool]:
    """Also stop where the command that started this worker has gone."""
    return asked if parent is None else lambda: asked() or os.getppid() != parent


def _work_in_processes(args: argparse.Namespace, should_stop: Callable[[], bool], status: Status) -> None:
    """Run the same command `--jobs` times, each as one worker on the study, and wait for them."""
    from ser.errors import JobError
    from ser.training.crossval import Stopped
    from ser.tuning.search import STOPPED

    threads = args.threads or max(1, (os.cpu_count() or 1) // args.jobs)
    words = [
        *sys.argv[1:],
        "--jobs",
        "1",
        "--no-final",
        "--parent",
        str(os.getpid()),
        "--threads",
        str(threads),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "ser", *words]
    workers = [subprocess.Popen(command, env=environment) for _ in range(args.jobs)]
    try:
        told = False
        while any(worker.poll() is None for worker in workers):
            time.sleep(POLL_S)
            if should_stop() and not told:
                told = True
                _signal(workers, signal.SIGTERM)
    finally:
        _signal(workers, signal.SIGKILL)  # after a second Ctrl-C; their trials are taken up again
        for worker in workers:
            worker.wait()
    if should_stop():
        raise Stopped(STOPPED)
    if all(worker.returncode for worker in workers):
        raise JobError("Every worker failed; each has said why above. Run the same command again to go on.")


def _signal(workers: list[subprocess.Popen[bytes]], number: int) -> None:
    for worker in workers:
        with suppress(ProcessLookupError):
            worker.send_signal(number)


def _print_result(result: dict[str, Any], folder: Path) -> None:
    from ser.cli.crossval import print_scores

    study = result["study"]
    print(f"\nBest of study {study['name']}: trial {study['trial']}, validation {100 * study['value']:.2f} %")
    for name, value in study["parameters"].items():
        print(f"  {name:14s} {value:g}" if isinstance(value, float) else f"  {name:14s} {value}")
    print_scores(result)
    print(f"Report: {folder / 'report.html'}\nModel:  {folder / 'checkpoint'}")
