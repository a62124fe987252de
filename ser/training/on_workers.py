"""The folds of a cross-validation, each trained by a worker: of this machine, or of others that share the run folder.

A worker saves its fold there after each epoch and goes on from what it finds, so that a fold whose worker died is taken
up by another one at its last epoch. The command reads how far they are from the same files.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, wait
from dataclasses import dataclass
from pathlib import Path

import torch

from ser.corpora.folds import Fold
from ser.training.frames import LabelledFrames
from ser.training.lockstep import Lockstep, state_file
from ser.training.saved import found, save
from ser.training.settings import CrossvalSettings
from ser.training.trainer import EpochReport, Training

PAUSE_S = 1.0  # between looks at the files
STOP = "stop"  # a file beside the states: workers end after the epoch that they are in


@dataclass(frozen=True)
class FoldJob:
    """One fold to train; `states` is the folder of its file."""

    data: LabelledFrames
    fold: Fold
    number: int
    settings: CrossvalSettings
    states: Path

    def train(self) -> None:
        """Train the fold to its end from where it is, on one thread as in lockstep."""
        torch.set_num_threads(1)
        parts, how, path = self.fold, self.settings, state_file(self.states, self.number)
        training = Training(self.data, parts.train, parts.validation, how.classifier, how.training, self.number)
        found(training, path)
        while not training.stopped and not (self.states / STOP).exists():
            training.run_epoch()
            save(training, path)


def train_on(
    executor: Executor,
    lockstep: Lockstep,
    data: LabelledFrames,
    settings: CrossvalSettings,
    states: Path,
    after_fold: Callable[[int, EpochReport], None],
    check: Callable[[], None],
) -> None:
    """Have the folds that are left trained; `after_fold` is called for each epoch, `check` may raise to stop.

    Raises:
        Diverged: the first epoch of a fold gave no finite loss.
    """
    states = states.resolve()
    (states / STOP).unlink(missing_ok=True)
    futures = [
        executor.submit(FoldJob.train, FoldJob(data, fold, number, settings, states))
        for number, (fold, training) in enumerate(zip(lockstep.folds, lockstep.trainings, strict=True))
        if not training.stopped
    ]
    try:
        waiting = set(futures)
        while waiting:
            ended, waiting = wait(waiting, PAUSE_S)
            lockstep.follow(states, after_fold)
            for one in ended:
                one.result()
            check()
    except BaseException:
        (states / STOP).touch()
        raise
    finally:
        for one in futures:
            one.cancel()
