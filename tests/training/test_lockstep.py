"""Folds that train side by side give what folds in turn give, and a stop between them loses nothing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from ser.classifier.bigru import ClassifierSettings
from ser.corpora.folds import Fold
from ser.training.frames import LabelledFrames
from ser.training.lockstep import Lockstep
from ser.training.settings import TrainingSettings

DIM, N = 4, 60
N_FOLDS = 5  # so that two threads have one left over
LAYERS = ClassifierSettings(base_units=4, final_units=3)
SETTINGS = TrainingSettings(learning_rate=0.05, optimizer="adam", max_epochs=3, patience=0, batch_size=8)


class Frames:
    """Utterances of unequal length; those of the indices in `broken` cannot be read."""

    def __init__(self) -> None:
        rng = np.random.default_rng(3)
        self.frames = [rng.standard_normal((2 + i % 7, DIM)).astype(np.float32) for i in range(N)]
        self.broken: set[int] = set()

    def gather(self, indices, max_frames):
        if self.broken & set(indices):
            raise OSError("disk gone")
        chosen = [self.frames[index][:max_frames] for index in indices]
        return np.concatenate(chosen), np.array([len(one) for one in chosen])


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def lockstep(frames: Frames | None = None, settings: TrainingSettings = SETTINGS) -> Lockstep:
    parts = [part.tolist() for part in np.array_split(np.arange(N), N_FOLDS)]
    around = [parts[k:] + parts[:k] for k in range(N_FOLDS)]  # tested, validated, trained on, idle
    folds = [Fold((*one[2], *one[3]), tuple(one[1]), tuple(one[0])) for one in around]
    data = LabelledFrames(frames or Frames(), np.arange(N) % 3, 3, DIM)
    return Lockstep(data, folds, LAYERS, settings)


def in_turn(settings: TrainingSettings = SETTINGS) -> Lockstep:
    one = lockstep(settings=settings)
    for training in one.trainings:
        while not training.stopped:
            training.run_epoch()
    return one


def to_the_end(one: Lockstep, after_fold) -> Lockstep:
    while not one.done:
        one.run_epoch(after_fold)
    return one


def assert_same(one: Lockstep, other: Lockstep) -> None:
    for mine, theirs in zip(one.trainings, other.trainings, strict=True):
        assert mine.epochs == theirs.epochs
        for key, value in theirs.model.state_dict().items():
            assert torch.equal(mine.model.state_dict()[key], value), key


def test_side_by_side_equals_in_turn_bit_for_bit():
    reported = []
    one = to_the_end(lockstep(), lambda fold, report: reported.append((report.epoch, fold)))
    assert_same(one, in_turn())
    assert reported == [(epoch, fold) for epoch in (1, 2, 3) for fold in range(N_FOLDS)]


@pytest.mark.parametrize("stop_at", [1, 7, *(pytest.param(at, marks=pytest.mark.slow) for at in (4, 5, 3 * N_FOLDS))])
def test_after_a_stop_a_restored_lockstep_ends_as_one_that_was_not_stopped(tmp_path, stop_at):
    one, reported = lockstep(), []

    def after_fold(fold, report):
        assert len(one.trainings[fold].epochs) == report.epoch  # none is saved while it trains
        one.save(tmp_path, fold)
        reported.append((fold, report.epoch))
        if len(reported) == stop_at:
            raise KeyError("stop")

    with pytest.raises(KeyError):
        to_the_end(one, after_fold)
    one = lockstep()
    assert one.restore(tmp_path)
    assert one.done == (stop_at == 3 * N_FOLDS)
    to_the_end(one, after_fold)
    assert sorted(reported) == [(fold, epoch) for fold in range(N_FOLDS) for epoch in (1, 2, 3)]
    assert_same(one, in_turn())


@pytest.mark.parametrize("n_threads", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 8))])
def test_folds_that_stop_at_different_epochs_are_reported_in_turn_on_any_number_of_threads(n_threads):
    torch.set_num_threads(n_threads)
    settings = replace(SETTINGS, max_epochs=8, patience=2)
    one, reported, means = lockstep(settings=settings), [], []
    while not one.done:
        one.run_epoch(lambda fold, report: reported.append((report.epoch, fold)))
        means.append(one.validation_accuracy())
    torch.set_num_threads(1)  # several round differently, which shows in losses and not in how many are right
    trainings = in_turn(settings).trainings
    lengths = [len(training.epochs) for training in trainings]
    assert len(set(lengths)) > 1
    epochs = range(1, max(lengths) + 1)
    assert reported == [(epoch, fold) for epoch in epochs for fold in range(N_FOLDS) if epoch <= lengths[fold]]
    for epoch, mean in zip(epochs, means, strict=True):
        now = [one.best if epoch >= len(one.epochs) else one.epochs[epoch - 1] for one in trainings]
        assert mean == np.mean([report.validation_wa for report in now])


@pytest.mark.parametrize("fold", [0, 1, 4])
def test_an_error_in_a_fold_reaches_the_caller(fold):
    frames = Frames()
    one = lockstep(frames)
    frames.broken = {one.folds[fold].train[0]}
    with pytest.raises(OSError, match="disk gone"):
        one.run_epoch()


def test_torchs_threads_are_what_they_were_also_in_threads_begun_later():
    lockstep().run_epoch()
    with ThreadPoolExecutor(1) as pool:
        later = pool.submit(torch.get_num_threads).result()
    assert (torch.get_num_threads(), later) == (2, 2)
