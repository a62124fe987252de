"""The search of section 4.2: Optuna's TPE with pruning, by validation speakers only.

In: a corpus, its features, the settings that stay fixed, a study. Out: trials in the study, and with
`score_best` a run folder in which the chosen configuration is tested once. A trial trains the folds in
lockstep and reports the mean validation accuracy after each epoch; its value is the mean over folds at each
fold's best epoch. The folds of a trial come without their test parts. Any number of processes, on any number
of machines, run `Search` on one study.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import BaseSampler, CmaEsSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from ser.classifier.checkpoint import EncoderReference
from ser.corpora.corpus import Corpus
from ser.errors import JobError
from ser.files import write_json
from ser.training.crossval import Crossval, Stopped
from ser.training.frames import FrameSource, LabelledFrames
from ser.training.lockstep import Lockstep
from ser.training.settings import CrossvalSettings
from ser.training.trainer import Diverged, EpochReport
from ser.tuning.liveness import Watch, alive, give_back
from ser.tuning.space import PAPER_BEST, SPACE, Range, Space, TuningSettings, trial_settings
from ser.tuning.storage import ERROR, SCORED, best_of, count_finished, open_study, quiet, study_identity

POLL_S, LOOK_S = 0.2, 3.0
EI_CANDIDATES = 24  # Optuna's default, made explicit
STOPPED = "Stopped. Run the same command again to go on."

AfterFold = Callable[[int, EpochReport], None]


@dataclass(frozen=True)
class Event:
    """Something that happened to a trial.

    Attributes:
        kind: "epoch", "complete", "pruned", "queued again" (its worker died or was stopped) or "lost" (others
            took this worker for dead).
        number: of the trial.
        epoch, value: where there are any.
    """

    kind: str
    number: int
    epoch: int | None = None
    value: float | None = None


Listener = Callable[[Event], None]


class Search:
    """One worker on a study."""

    def __init__(
        self, corpus: Corpus, features: FrameSource, encoder: EncoderReference, base: CrossvalSettings,
        settings: TuningSettings, space: Space = SPACE,
    ) -> None:  # fmt: skip
        """Args:
        corpus, features, encoder: what to learn from.
        base: what every trial shares; what `space` names is overwritten.
        settings: how to search.
        space: what to vary.

        Raises:
            FoldError: the corpus cannot be split so.
        """
        quiet()
        self.data, self.base = LabelledFrames.of(corpus, features, encoder.dim), base
        self.settings, self.space = settings, space
        # No trial gets to know who is in a test part.
        self.folds = [replace(fold, test=()) for fold in base.folds(corpus)]
        self.about = study_identity(corpus, encoder, base, self.folds, space)

    def open(self, storage: optuna.storages.BaseStorage, name: str) -> optuna.Study:
        """The study of this search, made or taken up.

        Raises:
            SettingsError: it was made with something else.
        """
        pruner = optuna.pruners.SuccessiveHalvingPruner(
            min_resource=self.settings.min_resource, reduction_factor=self.settings.reduction_factor,
            min_early_stopping_rate=0, bootstrap_count=0,
        )  # fmt: skip
        study = open_study(storage, name, self.about, sampler=SeededByTrial(self.settings), pruner=pruner)
        if self.settings.enqueue_paper:
            study.enqueue_trial({key: PAPER_BEST[key] for key in self.space}, skip_if_exists=True)
        return study

    def run(
        self, study: optuna.Study, listener: Listener = lambda event: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:  # fmt: skip
        """Run trials until all workers together have finished as many as were asked for, or time is up.

        A trial that another worker runs is waited for: if that worker dies, this one takes it up.

        Raises:
            Stopped: `should_stop` said so; the trial that ran is queued again.
        """
        watch = Watch(study)
        end = time.monotonic() + self.settings.timeout_s
        while time.monotonic() < end and count_finished(study) < self.settings.trials:
            for number in watch.reclaim():
                listener(Event("queued again", number))
            if self._has_room(study):
                self._run_one(study, listener, should_stop)
            else:
                _wait(LOOK_S, should_stop)
            if should_stop():
                raise Stopped(STOPPED)

    def _has_room(self, study: optuna.Study) -> bool:
        trials = study.get_trials(deepcopy=False)
        waiting = any(trial.state == TrialState.WAITING for trial in trials)
        return waiting or sum(trial.state != TrialState.FAIL for trial in trials) < self.settings.trials

    def _run_one(self, study: optuna.Study, listener: Listener, should_stop: Callable[[], bool]) -> None:
        trial = study.ask()
        if rank(study, trial.number) >= self.settings.trials:  # another worker asked in the same moment
            study.tell(trial, state=TrialState.FAIL)
            return
        try:
            with alive(trial):
                value = self._objective(trial, listener, should_stop)
            study.tell(trial, value)
            listener(Event("complete", trial.number, value=value))
        except (optuna.TrialPruned, Diverged):  # without weights there is no accuracy to report
            study.tell(trial, state=TrialState.PRUNED)
            listener(Event("pruned", trial.number))
        except UpdateFinishedTrialError:
            listener(Event("lost", trial.number))
        except (Stopped, KeyboardInterrupt):
            if give_back(study, study.get_trials(deepcopy=False)[trial.number]):
                listener(Event("queued again", trial.number))
            raise
        except Exception as error:
            trial.set_user_attr(ERROR, type(error).__name__)  # its words may name folders
            study.tell(trial, state=TrialState.FAIL)
            raise

    def _objective(self, trial: optuna.Trial, listener: Listener, should_stop: Callable[[], bool]) -> float:
        settings = trial_settings(self.base, suggest(trial, self.space))
        lockstep = Lockstep(self.data, self.folds, settings.classifier, settings.training)

        def after_fold(number: int, report: EpochReport) -> None:
            if should_stop():
                raise Stopped(STOPPED)

        while not lockstep.done:
            epoch = lockstep.run_epoch(after_fold)
            value = lockstep.validation_accuracy()
            trial.report(value, step=epoch)
            listener(Event("epoch", trial.number, epoch, value))
            if trial.should_prune():
                raise optuna.TrialPruned
        return lockstep.best_validation_accuracy()


class SeededByTrial(BaseSampler):
    """Gives each trial a fresh sampler, seeded with the count of trials before it that were not in vain.

    So workers with one seed do not draw the same numbers, and a search that was stopped and taken up again
    draws what it would have drawn. `constant_liar` is on where other trials run at the same time.
    """

    def __init__(self, settings: TuningSettings) -> None:
        self.settings = settings
        self._sampler = sampler(settings, settings.seed, several=False)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        others = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        several = any(other.number != trial.number for other in others)
        self._sampler = sampler(self.settings, self.settings.seed + rank(study, trial.number), several)
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)


def sampler(settings: TuningSettings, seed: int, several: bool) -> BaseSampler:
    """TPE as in the paper, or CMA-ES (which draws the optimiser at random, for it knows numbers only)."""
    if settings.sampler == "cmaes":
        return CmaEsSampler(
            n_startup_trials=settings.startup_trials, seed=seed, consider_pruned_trials=True,
            warn_independent_sampling=False, independent_sampler=None, popsize=None, use_separable_cma=False,
            with_margin=False, lr_adapt=False, source_trials=None,
        )  # fmt: skip
    return TPESampler(
        multivariate=True, group=True, n_startup_trials=settings.startup_trials, seed=seed,
        constant_liar=several, n_ei_candidates=EI_CANDIDATES,
    )  # fmt: skip


def distribution(part: Any) -> BaseDistribution:
    """Optuna's word for a part of the space."""
    if not isinstance(part, Range):
        return CategoricalDistribution(part.words)
    if part.is_whole:
        return IntDistribution(int(part.low), int(part.last), step=int(part.step))
    return FloatDistribution(part.low, part.last, step=part.step)


def suggest(trial: optuna.Trial, space: Space) -> dict[str, Any]:
    """The parameters of a trial, drawn by its sampler."""
    chosen: dict[str, Any] = {}
    for name, part in space.items():
        if not isinstance(part, Range):
            chosen[name] = trial.suggest_categorical(name, part.words)
        elif part.is_whole:
            chosen[name] = trial.suggest_int(name, int(part.low), int(part.last), step=int(part.step))
        else:
            chosen[name] = trial.suggest_float(name, part.low, part.last, step=part.step)
    return chosen


def rank(study: optuna.Study, number: int) -> int:
    """How many trials before this one count, that is, did not fail."""
    trials = study.get_trials(deepcopy=False)
    return sum(trial.number < number and trial.state != TrialState.FAIL for trial in trials)


def score_best(
    study: optuna.Study, corpus: Corpus, features: FrameSource, encoder: EncoderReference,
    base: CrossvalSettings, folder: Path, listener: AfterFold = lambda number, report: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[Path, dict[str, Any]]:  # fmt: skip
    """Train the best trial's configuration again, test each fold's model once, keep the model for use.

    The training is deterministic, so its validation accuracy is the trial's. What was scored before is not
    scored again; of several processes with one folder, one does it and the others wait.

    Returns:
        The run folder below `folder`, and the content of its `result.json`.

    Raises:
        JobError: no trial was completed.
        Stopped: `should_stop` said so; the same command goes on.
    """
    best = best_of(study)
    if best is None or best.value is None:
        raise JobError(
            f"No trial of the study {study.study_name!r} was completed, so there is none to score."
        )
    run = folder / f"trial_{best.number:03d}"
    run.mkdir(parents=True, exist_ok=True)
    with (run / "scoring.lock").open("ab") as lock:
        fcntl.flock(lock.fileno(), fcntl.LOCK_EX)
        crossval = Crossval(corpus, features, encoder, trial_settings(base, best.params), run)
        result = _finished_result(run) or crossval.run(listener, should_stop)
        result["study"] = {
            "name": study.study_name,
            "trial": best.number,
            "parameters": best.params,
            "value": best.value,
            "validation_accuracy": crossval.lockstep.best_validation_accuracy(),
        }
        write_json(run / "result.json", result)
    figures: Mapping[str, Any] = {name: result["pooled"][name]["value"] for name in ("wa", "uar", "macro_f1")}
    study.set_user_attr(SCORED, {"trial": best.number, "run": run.name, **figures})
    return run, result


def _finished_result(run: Path) -> dict[str, Any] | None:
    """What an earlier process wrote, if it came to the end."""
    if not (run / "result.json").exists():
        return None
    progress = json.loads((run / "progress.json").read_text(encoding="utf-8"))
    result: dict[str, Any] = json.loads((run / "result.json").read_text(encoding="utf-8"))
    return result if progress["state"] == "done" else None


def _wait(seconds: float, should_stop: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not should_stop():
        time.sleep(POLL_S)
