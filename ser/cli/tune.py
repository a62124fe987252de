"""`ser tune`: search the classifier's settings with Optuna, then test the best trial once.

Any number of these commands, on any number of machines, work on one study; each prints its own trials and
rewrites `RUNS/STUDY/tune.json`, which tells how the whole study stands. The same command resumes a study.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ser.cli import arguments, prepare
from ser.cli.config import add_config_arguments

if TYPE_CHECKING:
    from ser.tuning.nested import Outer
    from ser.tuning.search import Event, Search, Study

POLL_S = 0.2
STATUS = "tune.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from ser.classifier.settings import ClassifierSettings
    from ser.training.settings import TrainingSettings
    from ser.tuning.space import SPACE, TuningSettings

    arguments.add_corpus_arguments(parser)
    arguments.add_check(parser)
    arguments.add_encoder_arguments(parser)
    add, addresses = parser.add_argument, "sqlite:///PATH, postgresql://..., mysql://... or grpc://HOST:PORT"
    default, default_s = "SER_STORAGE, else studies.db in the folder of --out", TuningSettings.timeout_s
    wait = f"start no new trial after this many seconds, earlier runs of the study counted (default {default_s})"
    add("--study", required=True, metavar="NAME", help="study name; an existing study is resumed")
    add("--storage", metavar="ADDRESS", help=f"{addresses} (default: {default})")
    add("-o", "--out", type=Path, default=Path("runs"), help="folder for the study's runs (default %(default)s)")
    add("--timeout", dest="timeout_s", type=float, default=default_s, metavar="SECONDS", help=wait)
    add("--jobs", type=int, default=1, metavar="N", help="worker processes on this machine (default 1)")
    add("--no-final", action="store_true", help="only search: leave testing the best trial to another command")
    add(
        "--nested", action="store_true",
        help="then repeat the search for each fold among the speakers outside its test part, to measure what it is "
        "worth to choose on speakers who are then tested; takes as many times longer as there are folds",
    )  # fmt: skip
    add("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments.add_split_arguments(parser, splits=("speakers",))
    arguments.add_settings(parser, TuningSettings, leave_out=("timeout_s", "seed"))
    add_config_arguments(parser)
    arguments.add_settings(parser, ClassifierSettings, TrainingSettings, leave_out=SPACE.keys())


def run(args: argparse.Namespace) -> int:
    from ser.cli.crossval import draw_report
    from ser.errors import SettingsError, Stopped
    from ser.tuning.nested import outer_searches
    from ser.tuning.search import Search
    from ser.tuning.space import TuningSettings, check_study_name
    from ser.tuning.storage import default_storage, open_storage

    if args.jobs < 1:
        raise SettingsError(f"--jobs must be at least 1, got {args.jobs}.")
    folder = args.out / check_study_name(args.study)
    settings, base = arguments.settings_of(TuningSettings, args), arguments.crossval_settings(args)
    should_stop = _or_without_parent(args, prepare.stop_on_signals())
    search = Search(*prepare.prepare_features(args), base, settings)
    folder.mkdir(parents=True, exist_ok=True)
    storage = open_storage(args.storage or os.environ.get("SER_STORAGE") or default_storage(args.out))
    study = search.open(storage, args.study)
    outer = outer_searches(search, storage, args.study) if args.nested else ()
    status = Status(study, search, folder / STATUS)
    if not args.worker:
        status.print_start()
    try:
        if args.jobs > 1:
            _work_in_processes(args, should_stop)
        else:
            search.run(study, status.tell, should_stop)
            if args.no_final:
                _search_each(outer, should_stop)
        status.write("searched" if args.no_final else "testing")
        if args.no_final:
            return 0
        run_folder, result = search.score_best(study, folder, status.after_fold, should_stop)
    except (Stopped, KeyboardInterrupt):
        status.write("stopped")
        raise
    draw_report(run_folder)
    status.write("done")
    _print_result(result, run_folder)
    print(f"Study:  {status.finished()}")
    if outer:
        _search_each(outer, should_stop)
        _print_nested(outer, folder, run_folder, should_stop)
    return 0


class Status:
    """Prints what happens, and keeps `tune.json` up to date where there is one."""

    def __init__(self, study: Study, search: Search, path: Path | None = None) -> None:
        from ser.tuning.storage import seconds_used

        self.study, self.search, self.path = study, search, path
        self.started = time.time() - seconds_used(study)  # the time limit counts from here
        self.write("searching")

    def tell(self, event: Event) -> None:
        """Print what happened to a trial."""
        from ser.tuning.storage import best_of

        best = best_of(self.study)
        value = "" if event.value is None else f"{100 * event.value:7.2f} %"
        known = "" if best is None else f"{100 * (best.value or 0):7.2f} %  (trial {best.number})"
        epoch = "" if event.epoch is None else str(event.epoch)
        print(f"{event.number:5d}  {event.kind:12s}  {epoch:>5s}  {value:>9s}  {known}", flush=True)
        self.write("searching")

    def after_fold(self, number: int, report: Any) -> None:
        """Print the epochs of the best trial, which is trained again to be tested."""
        if number == 0:
            print(f"  testing the best trial: epoch {report.epoch}", flush=True)

    def write(self, state: str) -> None:
        """Rewrite `tune.json`; each worker writes the same truth, that of the study."""
        from ser.files import write_json
        from ser.tuning.search import NOT_NESTED
        from ser.tuning.storage import summary

        if self.path is None:
            return
        about, settings = self.search.about, self.search.settings
        content = {
            "state": state,
            "corpus": about["corpus"]["name"],
            "protocol": f"{about['folds']['protocol']}; {NOT_NESTED}",
            "sampler": settings.sampler,
            "n_trials": settings.trials,
            "timeout_s": settings.timeout_s,
            "started": self.started,
            "updated": time.time(),
        }
        write_json(self.path, content | summary(self.study))

    def print_start(self) -> None:
        """Print what is searched, and the head of the live table."""
        corpus = self.search.about["corpus"]
        print(
            f"{corpus['name']}: {corpus['n_utterances']} utterances, {corpus['n_speakers']} speakers; "
            f"study {self.study.study_name}: {self.finished()}\n"
            "trial  event         epoch  validation  best so far (accuracy on validation speakers)",
            flush=True,
        )

    def finished(self) -> str:
        from ser.tuning.storage import count_finished, seconds_used

        settings = self.search.settings
        is_over = seconds_used(self.study) >= settings.timeout_s
        hint = "; the time limit is reached, a larger --timeout allows more" if is_over else ""
        return f"{count_finished(self.study)} of {settings.trials} trials are finished{hint}"


def _or_without_parent(args: argparse.Namespace, should_stop: Callable[[], bool]) -> Callable[[], bool]:
    """Also stop a worker when the command that started it has gone."""
    parent = os.getppid()
    return lambda: should_stop() or (args.worker and os.getppid() != parent)


def _work_in_processes(args: argparse.Namespace, should_stop: Callable[[], bool]) -> None:
    """Run the same command `--jobs` times, each as one worker on the study, and wait for them."""
    from ser.errors import JobError, Stopped
    from ser.tuning.search import STOPPED

    threads = str(args.threads or max(1, (os.cpu_count() or 1) // args.jobs))
    words = [*args.words, "--jobs", "1", "--no-final", "--threads", threads, "--processes", "1", "--worker"]
    command, environment = [sys.executable, "-m", "ser", *words], os.environ | {"OMP_NUM_THREADS": threads}
    workers = [subprocess.Popen(command, env=environment) for _ in range(args.jobs)]
    asked = False
    try:
        while any(worker.poll() is None for worker in workers):
            time.sleep(POLL_S)
            if should_stop() and not asked:
                asked = True
                for worker in workers:
                    worker.send_signal(signal.SIGTERM)
    finally:
        for worker in workers:
            worker.kill()  # after a second Ctrl-C; what they ran is run again
            worker.wait()
    if should_stop():
        raise Stopped(STOPPED)
    if all(worker.returncode for worker in workers):
        raise JobError("Every worker failed; see their messages above. Run the same command again to resume.")


def _search_each(outer: Outer, should_stop: Callable[[], bool]) -> None:
    """Run the search of each fold, one after the other."""
    for search, study in outer:
        status = Status(study, search)
        status.print_start()
        search.run(study, status.tell, should_stop)


def _print_nested(outer: Outer, folder: Path, tuned: Path, should_stop: Callable[[], bool]) -> None:
    """Test the best trial of each fold's search, and print what was gained by choosing on test speakers."""
    from ser.cli.crossval import print_epoch
    from ser.cli.output import interval_text, print_groups, print_scores
    from ser.tuning.nested import score_nested

    result = score_nested(outer, folder, tuned, print_epoch, should_stop)
    print(f"\n{result['protocol']}")
    print_groups({f"fold {number}": one for number, one in enumerate(result["folds"], start=1)}, "nested")
    print_scores(result["pooled"], result["labels"], result["majority_share"])
    gain = result["tuned_minus_nested"]
    print(f"Tuned minus nested: WA {interval_text(gain['wa'])}, UAR {interval_text(gain['uar'])}")
    print(f"Nested: {folder / 'nested.json'}")


def _print_result(result: dict[str, Any], folder: Path) -> None:
    from ser.cli.crossval import print_result

    study = result["study"]
    print(f"\nBest of study {study['name']}: trial {study['trial']}, validation {100 * study['value']:.2f} %")
    for name, value in study["parameters"].items():
        print(f"  {name:14s} {value:g}" if isinstance(value, float) else f"  {name:14s} {value}")
    print_result(result)
    print(f"Report: {folder / 'report.html'}\nModel:  {folder / 'checkpoint'}")
