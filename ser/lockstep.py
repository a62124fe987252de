"""The folds of a cross-validation trained in lockstep: an epoch of every fold, then a report.

So there is one honest score an epoch, the mean over folds, which a pruner can act on. A fold that has stopped early
keeps contributing its best score.

On the processor the folds of an epoch train side by side, one thread each. The matrices of a recurrence's step are too
small to share: two threads at one product lose more in waking each other than they save. What a fold computes depends
on its own seed alone, so the order in which folds run changes no number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ser.classifier import ClassifierSettings
from ser.folds import Fold
from ser.training import EpochReport, FrameSource, Training, TrainingSettings


class Lockstep:
    """One training a fold."""

    def __init__(
        self, features: FrameSource, targets: NDArray[np.int64], folds: Sequence[Fold], n_labels: int, dim: int,
        classifier: ClassifierSettings, settings: TrainingSettings,
    ) -> None:  # fmt: skip
        self.folds = tuple(folds)
        self.trainings = [
            Training(
                features,
                targets,
                n_labels,
                dim,
                fold.train,
                fold.validation,
                classifier,
                settings,
                name=number,
            )
            for number, fold in enumerate(folds)
        ]
        self._unreported: dict[int, EpochReport] = {}

    @property
    def epoch(self) -> int:
        """The epoch that every fold that still trains has completed."""
        running = [len(training.epochs) for training in self.trainings if not training.stopped]
        return min(running) if running else max(len(training.epochs) for training in self.trainings)

    @property
    def done(self) -> bool:
        return not self._unreported and all(training.stopped for training in self.trainings)

    def run_epoch(self, after_fold: Callable[[int, EpochReport], None] = lambda fold, report: None) -> int:
        """Train every fold that has not stopped up to the next epoch; returns that epoch.

        `after_fold` is called with the fold's number and its report, in the caller's thread and in the order of the
        folds; what it raises ends the epoch there, once the folds under way have finished theirs. The next call
        reports those, and goes on with the folds that are behind.
        """
        for number in sorted(self._unreported):
            after_fold(number, self._unreported.pop(number))
        goal = self.epoch + 1
        behind = [
            number
            for number, training in enumerate(self.trainings)
            if not training.stopped and len(training.epochs) < goal
        ]
        if min(len(behind), torch.get_num_threads()) < 2:
            for number in behind:
                after_fold(number, self.trainings[number].run_epoch())
        else:
            self._side_by_side(behind, after_fold)
        return goal

    def _side_by_side(self, numbers: Sequence[int], after_fold: Callable[[int, EpochReport], None]) -> None:
        runs: dict[int, Future[EpochReport]] = {}
        try:
            with _single_threads(len(numbers)) as pool:
                for number in numbers:
                    runs[number] = pool.submit(self.trainings[number].run_epoch)
                for number in numbers:
                    report = runs[number].result()
                    del runs[number]
                    after_fold(number, report)
        finally:
            for number, run in runs.items():
                if run.done() and not run.cancelled() and run.exception() is None:
                    self._unreported[number] = run.result()

    def validation_accuracy(self) -> float:
        """Mean over folds of the validation accuracy now; of the best epoch where a fold has stopped."""
        reports = [training.best if training.stopped else training.epochs[-1] for training in self.trainings]
        return float(np.mean([report.validation_wa for report in reports]))

    def best_validation_accuracy(self) -> float:
        """Mean over folds of the validation accuracy at each fold's best epoch: what the search maximises."""
        return float(np.mean([training.best.validation_wa for training in self.trainings]))

    def best_epochs(self) -> list[int]:
        return [training.best_epoch for training in self.trainings]

    def save(self, folder: Path, number: int) -> None:
        """Keep one fold's state."""
        self.trainings[number].save(_state_file(folder, number))

    def restore(self, folder: Path) -> bool:
        """Go back to what was saved, each fold by itself; False where nothing was."""
        found = False
        self._unreported.clear()
        for number, training in enumerate(self.trainings):
            if _state_file(folder, number).exists():
                training.restore(_state_file(folder, number))
                found = True
        return found


@contextmanager
def _single_threads(n: int) -> Iterator[ThreadPoolExecutor]:
    """Up to `n` workers, no more than torch's threads, each computing with one; what has not begun is dropped."""
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(min(n, threads), initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # a worker's setting is also the default of threads that begin later


def _state_file(folder: Path, number: int) -> Path:
    return folder / f"fold_{number}.safetensors"
