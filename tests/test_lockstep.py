"""Folds that train side by side give what folds in turn give, and a stop between them loses nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ser.classifier.bigru import ClassifierSettings
from ser.corpora.folds import Fold
from ser.training.lockstep import Lockstep
from ser.training.trainer import TrainingSettings

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
    parts = np.array_split(np.arange(N), N_FOLDS)
    folds = [
        Fold(
            tuple(np.concatenate([parts[(k + 2) % N_FOLDS], parts[(k + 3) % N_FOLDS]]).tolist()),
            tuple(parts[(k + 1) % N_FOLDS].tolist()),
            tuple(parts[k].tolist()),
        )
        for k in range(N_FOLDS)
    ]
    return Lockstep(frames or Frames(), np.arange(N) % 3, folds, 3, DIM, LAYERS, settings)


def in_turn(settings: TrainingSettings = SETTINGS) -> Lockstep:
    one = lockstep(settings=settings)
    for training in one.trainings:
        while not training.stopped:
            training.run_epoch()
    return one


def assert_same(one: Lockstep, other: Lockstep) -> None:
    for mine, theirs in zip(one.trainings, other.trainings, strict=True):
        assert mine.epochs == theirs.epochs
        for key, value in theirs.model.state_dict().items():
            assert torch.equal(mine.model.state_dict()[key], value), key


def test_side_by_side_equals_in_turn_bit_for_bit():
    one, reported = lockstep(), []
    while not one.done:
        one.run_epoch(lambda fold, report: reported.append((report.epoch, fold)))
    assert_same(one, in_turn())
    assert reported == [(epoch, fold) for epoch in (1, 2, 3) for fold in range(N_FOLDS)]


@pytest.mark.parametrize("stop_at", range(1, 3 * N_FOLDS + 1))
def test_after_a_stop_every_epoch_of_every_fold_is_reported_once(stop_at):
    one, reported = lockstep(), []

    def after_fold(fold, report):
        reported.append((fold, report.epoch))
        if len(reported) == stop_at:
            raise KeyError("stop")

    stops = 0
    while not one.done:
        try:
            one.run_epoch(after_fold)
        except KeyError:
            stops += 1
    assert stops == 1
    assert sorted(reported) == [(fold, epoch) for fold in range(N_FOLDS) for epoch in (1, 2, 3)]
    assert_same(one, in_turn())


def test_a_thread_that_is_left_over_begins_the_next_epoch_of_a_fold_that_was_reported():
    one, ahead = lockstep(), []
    while not one.done:
        epoch = one.run_epoch()
        assert one.epoch == epoch
        ahead.append([len(training.epochs) - epoch for training in one.trainings])
        scores = [training.epochs[epoch - 1].validation_wa for training in one.trainings]
        if epoch < SETTINGS.max_epochs:
            assert one.validation_accuracy() == np.mean(scores)
    assert ahead == [[1, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]


@pytest.mark.parametrize("n_threads", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 8))])
def test_folds_that_stop_at_different_epochs_are_reported_in_turn_on_any_number_of_threads(n_threads):
    torch.set_num_threads(n_threads)
    settings = replace(SETTINGS, max_epochs=8, patience=2)
    one, reported, means = lockstep(settings=settings), [], []
    while not one.done:
        one.run_epoch(lambda fold, report: reported.append((report.epoch, fold)))
        means.append(one.validation_accuracy())
    torch.set_num_threads(1)  # several round differently, which shows in losses and not in how many are right
    other = in_turn(settings)
    lengths = [len(training.epochs) for training in other.trainings]
    assert len(set(lengths)) > 1
    assert reported == [
        (epoch, fold)
        for epoch in range(1, max(lengths) + 1)
        for fold, length in enumerate(lengths)
        if epoch <= length
    ]
    for epoch, mean in enumerate(means, 1):
        now = [
            training.best if epoch >= length else training.epochs[epoch - 1]
            for training, length in zip(other.trainings, lengths, strict=True)
        ]
        assert mean == np.mean([report.validation_wa for report in now])


def test_a_fold_gets_no_report_and_is_not_saved_while_it_trains(tmp_path):
    one = lockstep()

    def after_fold(fold, report):
        assert len(one.trainings[fold].epochs) == report.epoch
        one.save(tmp_path, fold)

    while not one.done:
        one.run_epoch(after_fold)
    other = lockstep()
    assert other.restore(tmp_path)
    assert other.done
    assert_same(other, in_turn())


@pytest.mark.parametrize("fold", [0, 1, 4])
def test_an_error_in_a_fold_reaches_the_caller(fold):
    frames = Frames()
    one = lockstep(frames)
    frames.broken = {one.folds[fold].train[0]}
    with pytest.raises(OSError, match="disk gone"):
        one.run_epoch()


def test_an_error_in_a_fold_that_went_ahead_reaches_the_caller():
    frames = Frames()
    one = lockstep(frames)

    def break_when_others_have_read(fold, report):
        frames.broken = {one.folds[0].train[0]} if fold == 0 else frames.broken

    for training in one.trainings[1:]:  # only the first fold still reads what breaks
        training.features = Frames()
    with pytest.raises(OSError, match="disk gone"):
        one.run_epoch(break_when_others_have_read)


def test_torchs_threads_are_what_they_were_also_in_threads_begun_later():
    from threading import Thread

    lockstep().run_epoch()
    seen = []
    thread = Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert [torch.get_num_threads(), *seen] == [2, 2]


def test_with_one_thread_nothing_trains_ahead_of_its_report():
    torch.set_num_threads(1)
    one = lockstep()

    def after_fold(fold, report):
        assert [len(training.epochs) for training in one.trainings] == [1] * (fold + 1) + [0] * (
            N_FOLDS - fold - 1
        )

    one.run_epoch(after_fold)
