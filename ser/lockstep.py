"""The folds of a cross-validation trained in lockstep: an epoch of every fold, then a report.

So there is one honest score an epoch, the mean over folds, which a pruner can act on. A fold that has stopped early
keeps contributing its best score.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
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

    @property
    def epoch(self) -> int:
        """The epoch that every fold that still trains has completed."""
        running = [len(training.epochs) for training in self.trainings if not training.stopped]
        return min(running) if running else max(len(training.epochs) for training in self.trainings)

    @property
    def done(self) -> bool:
        return all(training.stopped for training in self.trainings)

    def run_epoch(self, after_fold: Callable[[int, EpochReport], None] = lambda fold, report: None) -> int:
        """Train every fold that has not stopped up to the next epoch; returns that epoch.

        `after_fold` is called with the fold's number and its report; what it raises ends the epoch there, and the next
        call goes on with the folds that are behind.
        """
        goal = self.epoch + 1
        for number, training in enumerate(self.trainings):
            if not training.stopped and len(training.epochs) < goal:
                after_fold(number, training.run_epoch())
        return goal

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
        for number, training in enumerate(self.trainings):
            if _state_file(folder, number).exists():
                training.restore(_state_file(folder, number))
                found = True
        return found


def _state_file(folder: Path, number: int) -> Path:
    return folder / f"fold_{number}.safetensors"
