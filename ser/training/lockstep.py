"""The folds of a cross-validation trained in lockstep: an epoch of every fold, then a report.

In: `LabelledFrames`, folds, settings. Out: one honest score each epoch, the mean over folds, which a pruner can act on.
A fold that has stopped early keeps contributing its best score.

On the processor the folds of an epoch train side by side, one thread each: the matrices of a recurrence's step are too
small to share. What a fold computes depends on its own seed, not on the folds beside it; only a fold that is alone in
its epoch gets every thread, which rounds differently.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from ser.classifier.settings import ClassifierSettings
from ser.corpora.folds import Fold
from ser.runtime import chosen_device
from ser.training.frames import LabelledFrames
from ser.training.saved import found, n_epochs, restore, save
from ser.training.settings import TrainingSettings
from ser.training.trainer import EpochReport, Training


class Lockstep:
    """A training for each fold."""

    def __init__(
        self, data: LabelledFrames, folds: Sequence[Fold], classifier: ClassifierSettings, settings: TrainingSettings
    ) -> None:
        self.folds = tuple(folds)
        self.trainings = [
            Training(data, fold.train, fold.validation, classifier, settings, stream=number)
            for number, fold in enumerate(folds)
        ]

    @property
    def epoch(self) -> int:
        """The last epoch that every fold has ended or stopped before."""
        running = [len(training.epochs) for training in self.trainings if not training.stopped]
        return min(running) if running else max(len(training.epochs) for training in self.trainings)

    @property
    def done(self) -> bool:
        return all(training.stopped for training in self.trainings)

    def run_epoch(self, after_fold: Callable[[int, EpochReport], None] = lambda fold, report: None) -> int:
        """Train every fold that has not stopped up to the next epoch; returns that epoch.

        `after_fold` is called with the fold's number and its report, in the caller's thread and in the order of the
        folds. What it raises ends the epoch once the folds under way have ended theirs: of those, restore what was
        saved.

        Raises:
            Diverged: the first epoch of a fold gave no finite loss.
        """
        goal = self.epoch + 1
        behind = [
            number
            for number, training in enumerate(self.trainings)
            if not training.stopped and len(training.epochs) < goal
        ]
        together = sum(not training.stopped or len(training.epochs) >= goal for training in self.trainings)
        threads = torch.get_num_threads()
        workers = min(together, threads) if chosen_device().type == "cpu" else 1
        each = 1 if workers > 1 else threads
        pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(each,))
        try:
            reports = pool.map(lambda number: self.trainings[number].run_epoch(), behind)
            for number, report in zip(behind, reports, strict=True):
                after_fold(number, report)
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)  # which a worker changed for threads that begin later
        return goal

    def validation_accuracy(self) -> float:
        """Mean over folds of the validation accuracy in this epoch; of the best epoch where a fold has stopped."""
        epoch = self.epoch
        reports = [one.best if one.stopped else one.epochs[epoch - 1] for one in self.trainings]
        return float(np.mean([report.validation_wa for report in reports]))

    def best_validation_accuracy(self) -> float:
        """Mean over folds of the validation accuracy at each fold's best epoch: what the search maximises."""
        return float(np.mean([training.best.validation_wa for training in self.trainings]))

    def best_epochs(self) -> list[int]:
        return [training.best_epoch for training in self.trainings]

    def save(self, folder: Path, number: int) -> None:
        """Write one fold's state."""
        save(self.trainings[number], state_file(folder, number))

    def restore(self, folder: Path) -> bool:
        """Take over what was saved, each fold by itself; False where nothing was."""
        restored = [found(one, state_file(folder, number)) for number, one in enumerate(self.trainings)]
        return any(restored)

    def follow(self, folder: Path, after_fold: Callable[[int, EpochReport], None]) -> None:
        """Take over what workers saved since, and call `after_fold` for each new epoch of each fold."""
        for number, training in enumerate(self.trainings):
            path, n_known = state_file(folder, number), len(training.epochs)
            if n_epochs(path) > n_known:
                restore(training, path)
                for report in training.epochs[n_known:]:
                    after_fold(number, report)


def state_file(folder: Path, number: int) -> Path:
    return folder / f"fold_{number}.safetensors"
