"""The folds of a cross-validation trained in lockstep: an epoch of every fold, then a report.

So there is one honest score an epoch, the mean over folds, which a pruner can act on. A fold that has stopped early
keeps contributing its best score.

On the processor the folds of an epoch train side by side, one thread each; elsewhere one after the other. The matrices
of a recurrence's step are too small to share: two threads at one product lose more in waking each other than they save.
Where the last folds of an epoch leave threads idle, as five folds on two threads do, folds that were reported already
begin the next one. What a fold computes depends on its own seed alone, so the order in which folds run changes no
number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ser.classifier.bigru import ClassifierSettings
from ser.corpora.folds import Fold
from ser.runtime import chosen_device
from ser.training.trainer import EpochReport, FrameSource, Training, TrainingSettings


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
        """The epoch of every fold that still trains that was reported last."""
        running = [self._reported(number) for number in range(len(self.folds)) if not self._is_over(number)]
        return min(running) if running else max(len(training.epochs) for training in self.trainings)

    @property
    def done(self) -> bool:
        return not self._unreported and all(training.stopped for training in self.trainings)

    def run_epoch(self, after_fold: Callable[[int, EpochReport], None] = lambda fold, report: None) -> int:
        """Train every fold that has not stopped up to the next epoch; returns that epoch.

        `after_fold` is called with the fold's number and its report, in the caller's thread and in the order of the
        folds; what it raises ends the epoch there, once the folds under way have finished theirs. The next call
        reports those, and goes on with the folds that are behind. A fold does not train while `after_fold` gets its
        report.
        """
        goal = self.epoch + 1
        early = [number for number in sorted(self._unreported) if self._unreported[number].epoch == goal]
        for number in early:
            after_fold(number, self._unreported.pop(number))
        behind = [
            number
            for number, training in enumerate(self.trainings)
            if not training.stopped and len(training.epochs) < goal
        ]
        together = sum(not training.stopped or len(training.epochs) >= goal for training in self.trainings)
        if min(together, torch.get_num_threads()) < 2 or chosen_device().type != "cpu":
            for number in behind:
                after_fold(number, self.trainings[number].run_epoch())
        elif behind:
            self._side_by_side(behind, early, after_fold)
        return goal

    def _side_by_side(
        self, behind: Sequence[int], reported: Sequence[int], after_fold: Callable[[int, EpochReport], None]
    ) -> None:
        """Train the folds that are behind; meanwhile some of those reported may go on, where threads are left."""
        threads = torch.get_num_threads()
        idle, several_rounds = -len(behind) % threads, len(behind) > threads
        free = [number for number in reported if not self.trainings[number].stopped]
        runs: dict[int, Future[EpochReport]] = {}
        try:
            with _single_threads(len(behind) + idle) as pool:

                def begin(numbers: Sequence[int]) -> None:
                    runs.update((number, pool.submit(self.trainings[number].run_epoch)) for number in numbers)

                begin(behind)
                for place, number in enumerate(behind):
                    # Only once it is sure that two folds are in the next epoch: a last one gets every thread, which
                    # rounds differently.
                    if idle and len(free) > 1 and (several_rounds or not place):
                        begin(free[:idle])
                        idle, free = max(0, idle - len(free)), free[idle:]
                    report = runs.pop(number).result()
                    after_fold(number, report)
                    if not self.trainings[number].stopped:
                        free.append(number)
                for number in [number for number, run in runs.items() if run.cancel()]:
                    del runs[number]
                for run in runs.values():
                    run.result()
        finally:
            for number, run in runs.items():
                if run.done() and not run.cancelled() and run.exception() is None:
                    self._unreported[number] = run.result()

    def _reported(self, number: int) -> int:
        """The fold's last epoch that `after_fold` got."""
        return len(self.trainings[number].epochs) - (number in self._unreported)

    def _is_over(self, number: int) -> bool:
        return self.trainings[number].stopped and number not in self._unreported

    def validation_accuracy(self) -> float:
        """Mean over folds of the validation accuracy in this epoch; of the best epoch where a fold has stopped."""
        epoch = self.epoch
        reports = [
            training.best if self._is_over(number) else training.epochs[epoch - 1]
            for number, training in enumerate(self.trainings)
        ]
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
