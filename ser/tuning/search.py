"""The search of section 4.2: Optuna's TPE with pruning, by validation speakers only.

In: a corpus, its features, the settings that stay fixed, a study. Out: trials in the study, and with
`Search.score_best` a run folder in which the best configuration is tested once. A trial trains the folds in lockstep
and reports the mean validation accuracy after each epoch; its value is the mean over folds at each fold's best epoch.
The folds of a trial come without their test parts. Any number of processes, on any number of machines, run `Search`
on one study. A trial that was interrupted is queued again and starts anew.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
from optuna import Study
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.pruners import SuccessiveHalvingPruner
from optuna.storages import BaseStorage, RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState

from ser.classifier.checkpoint import EncoderReference
from ser.corpora.corpus import Corpus
from ser.corpora.folds import Fold
from ser.errors import JobError, SettingsError, Stopped
from ser.files import write_json
from ser.training.crossval import Crossval
from ser.training.frames import FrameSource, LabelledFrames
from ser.training.lockstep import Lockstep
from ser.training.settings import CrossvalSettings
from ser.training.trainer import Diverged, EpochReport
from ser.tuning import storage as studies
from ser.tuning.sampler import ByNumber
from ser.tuning.space import SPACE, Space, TuningSettings, check_study_name, suggest, trial_settings
from ser.tuning.storage import FINISHED, best_of, count_finished, first_number

POLL_S = 0.5
STOPPED = "Stopped. Run the same command again to resume."
NOT_NESTED = "the configuration was chosen by validation speakers who are test speakers of other folds"

AfterFold = Callable[[int, EpochReport], None]


@dataclass(frozen=True)
class Event:
    """Something that happened to a trial of this worker.

    Attributes:
        kind: "epoch", "complete", "pruned", "queued again" (it was stopped) or "lost" (other workers took this one for
            dead, so one of them repeats the trial).
        number: of the trial.
        epoch, value: where there are any.
    """

    kind: str
    number: int
    epoch: int | None = None
    value: float | None = None


Listener = Callable[[Event], None]


@dataclass(frozen=True)
class ChosenSettings(CrossvalSettings):
    """Settings that a search has chosen; their scores say so."""

    def protocol(self, n_folds: int) -> str:
        return f"{super().protocol(n_folds)}; {NOT_NESTED}"


@dataclass
class Search:
    """One worker on a study; raises FoldError where the corpus cannot be split so.

    Attributes:
        corpus, features, encoder: what to learn from.
        base: what every trial shares; what `space` names is overwritten.
        settings: how to search.
        space: what to vary.
        test_fold: search among the speakers outside this fold's test part, by folds of these.
    """

    corpus: Corpus
    features: FrameSource
    encoder: EncoderReference
    base: CrossvalSettings
    settings: TuningSettings
    space: Space = field(default_factory=lambda: SPACE)
    test_fold: Fold | None = None

    def __post_init__(self) -> None:
        self.data = LabelledFrames.of(self.corpus, self.features, self.encoder.dim)
        # No trial gets to know who is in a test part.
        folds = self.base.folds(self.corpus, self.test_fold)
        self.folds = [replace(fold, test=()) for fold in folds]
        self.about = studies.study_identity(self.corpus, self.encoder, self.base, self.folds, self.space)
        self._has_heartbeats = False  # see `storage`

    def open(self, storage: BaseStorage, name: str) -> Study:
        """The study of this search, made where it is missing.

        Raises:
            SettingsError: it was made with something else.
        """
        settings = self.settings
        pruner = SuccessiveHalvingPruner(settings.min_resource, settings.reduction_factor)
        which: dict[str, Any] = {"storage": storage, "study_name": check_study_name(name), "pruner": pruner}
        try:
            study = optuna.create_study(**which, direction="maximize")
        except DuplicatedStudyError:
            study = optuna.load_study(**which)
        if studies.IDENTITY not in study.user_attrs and not study.get_trials(deepcopy=False):
            study.set_metric_names([studies.METRIC])
            study.set_user_attr(studies.IDENTITY, self.about)
        found = study.user_attrs.get(studies.IDENTITY, {})
        other = ", ".join(key for key in self.about if found.get(key) != self.about[key])
        if other:
            raise SettingsError(
                f"The study {name!r} was made with other {other}. Choose another name for this search, or give what "
                "the study was made with. Studies of versions that had another order of optimizers cannot be resumed."
            )
        self._has_heartbeats = isinstance(storage, RDBStorage)
        study.sampler = ByNumber(settings, self.space)
        return study

    def run(
        self, study: Study, listener: Listener = lambda event: None, should_stop: Callable[[], bool] = lambda: False
    ) -> None:
        """Run trials until all workers together have finished as many as requested, or time is up.

        Args:
            study: as `open` returned it.
            listener: called with each event.
            should_stop: asked after each epoch of each fold.

        Raises:
            Stopped: `should_stop` said so; the current trial is queued again.
        """
        wanted, objective = self.settings.trials, _Objective(self, listener, should_stop)
        while count_finished(study) < wanted and not should_stop():
            has_time = self.settings.timeout_s > studies.seconds_used(study)
            n_running = self._count_running(study, study.get_trials(deepcopy=False))
            if has_time and n_running + count_finished(study) < wanted:
                objective.optimize(study)
            elif n_running:  # others run the last trials: if one of them dies, its trial is repeated here
                time.sleep(POLL_S)
                fail_stale_trials(study)
            else:
                return
        if should_stop():
            raise Stopped(STOPPED)

    def is_surplus(self, trial: optuna.Trial) -> bool:
        """Whether the trials that were begun before this one, by whichever worker, are enough if none of them dies.

        Trials are numbered one by one, so of workers that ask for the last trial at the same time only one gets it.
        """
        waits_or_ended = (TrialState.WAITING, *FINISHED)
        others = [one for one in trial.study.get_trials(deepcopy=False) if one.number != trial.number]
        before = [one for one in others if first_number(one) < trial.number]
        n_before = sum(one.state in waits_or_ended for one in before) + self._count_running(trial.study, before)
        return n_before >= self.settings.trials

    def _count_running(self, study: Study, trials: Sequence[FrozenTrial]) -> int:
        """How many of these trials run, or are just being queued again.

        Heartbeats, which begin before the parameters are drawn, tell whether a trial runs; before, that it is young.
        """
        everyone, now = study.get_trials(deepcopy=False), datetime.now()
        repeated = {number for one in everyone for number in one.system_attrs.get("retry_history", ())}

        def runs(trial: FrozenTrial) -> bool:
            began, ended = trial.datetime_start or now, trial.datetime_complete or now
            if trial.state == TrialState.FAIL:  # without an error: its worker has died
                is_left = studies.ERROR not in trial.user_attrs and trial.number not in repeated
                return is_left and now - ended < timedelta(seconds=studies.QUEUE_S)
            is_alive = bool(trial.params) or now - began < timedelta(seconds=2 * studies.GRACE_S)
            return trial.state == TrialState.RUNNING and is_alive

        return sum(map(runs, trials)) * self._has_heartbeats

    def score_best(
        self,
        study: Study,
        folder: Path,
        listener: AfterFold = lambda number, report: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> tuple[Path, dict[str, Any]]:
        """Train the best trial's configuration again, test each fold's model once, keep the model for use.

        What was scored before is not scored again; of several processes with one folder, one does it and the
        others wait.

        Returns:
            The run folder below `folder`, and the content of its `result.json`.

        Raises:
            JobError: no trial was completed.
            Stopped: `should_stop` said so; the same command resumes.
        """
        best = best_trial(study)
        run = folder / f"trial_{best.number:03d}"
        run.mkdir(parents=True, exist_ok=True)
        settings = ChosenSettings(**vars(trial_settings(self.base, best.params)))
        with (run / "scoring.lock").open("ab") as lock:
            fcntl.flock(lock.fileno(), fcntl.LOCK_EX)
            crossval = Crossval(self.corpus, self.features, self.encoder, settings, run)
            result = crossval.run_once(listener, should_stop)
            result["study"] = {
                "name": study.study_name,
                "trial": best.number,
                "parameters": best.params,
                "value": best.value,
                "validation_accuracy": crossval.lockstep.best_validation_accuracy(),
            }
            write_json(run / "result.json", result)
        figures = {name: result["pooled"][name]["value"] for name in ("wa", "uar", "macro_f1")}
        study.set_user_attr(studies.SCORED, {"trial": best.number, "run": run.name, **figures})
        return run, result


def best_trial(study: Study) -> FrozenTrial:
    """The completed trial with the highest value. Raises JobError where there is none."""
    best = best_of(study)
    if best is None:
        raise JobError(f"No trial of the study {study.study_name!r} was completed, so there is none to score.")
    return best


class Surplus(Exception):
    """Others have begun as many trials as are wanted."""


class _Objective:
    """What Optuna calls for each trial."""

    def __init__(self, search: Search, listener: Listener, should_stop: Callable[[], bool]) -> None:
        self.search, self.listener, self.should_stop = search, listener, should_stop

    def optimize(self, study: Study) -> None:
        """Run a trial; returns where it is not needed or others have taken this worker for dead."""
        try:
            study.optimize(self, n_trials=1, catch=Surplus, callbacks=[self._ended])
        except ValueError as error:  # ended by others; SQLite may give one repeated trial to two workers
            if not str(error).startswith("Cannot tell a"):
                raise

    def __call__(self, trial: optuna.Trial) -> float:
        try:
            if self.search.is_surplus(trial):
                if trial.params:  # it repeats another
                    self._queue_again(trial)
                raise Surplus
            return self._validation_accuracy(trial)
        except (Stopped, KeyboardInterrupt):
            self._queue_again(trial)
            self.listener(Event("queued again", trial.number))
            raise
        except UpdateFinishedTrialError:
            self.listener(Event("lost", trial.number))
            raise
        except Diverged as error:  # without weights there is no accuracy to report
            raise optuna.TrialPruned from error
        except optuna.TrialPruned:
            raise
        except Exception as error:
            trial.set_user_attr(studies.ERROR, type(error).__name__)  # its words may name folders
            raise

    def _queue_again(self, trial: optuna.Trial) -> None:
        RetryHeartbeatStaleTrialCallback()(trial.study, trial.study.get_trials()[trial.number])

    def _validation_accuracy(self, trial: optuna.Trial) -> float:
        search, started = self.search, time.monotonic()
        trial.set_user_attr(studies.SECONDS, 0.0)
        settings = trial_settings(search.base, suggest(trial, search.space))
        lockstep = Lockstep(search.data, search.folds, settings.classifier, settings.training)
        while not lockstep.done:
            epoch = lockstep.run_epoch(self._after_fold)
            value = lockstep.validation_accuracy()
            trial.report(value, step=epoch)
            trial.set_user_attr(studies.SECONDS, time.monotonic() - started)
            self.listener(Event("epoch", trial.number, epoch, value))
            if trial.should_prune():
                raise optuna.TrialPruned
        return lockstep.best_validation_accuracy()

    def _after_fold(self, number: int, report: EpochReport) -> None:
        if self.should_stop():
            raise Stopped(STOPPED)

    def _ended(self, study: Study, trial: FrozenTrial) -> None:
        value = trial.value if trial.state == TrialState.COMPLETE else None
        if trial.state in FINISHED:
            self.listener(Event(trial.state.name.lower(), trial.number, value=value))
