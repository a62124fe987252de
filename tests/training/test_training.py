"""Training follows its settings, stops when it should, and can be taken up again as if it had never stopped."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from ser.classifier.bigru import ClassifierSettings
from ser.errors import SettingsError
from ser.features.reduce import principal_components, useful_dimensions
from ser.training.frames import LabelledFrames, mask_frames
from ser.training.optimizers import RMSprop
from ser.training.saved import restore, save
from ser.training.settings import TrainingSettings, settings_from
from ser.training.trainer import Diverged, Training, flushed_denormals

SMALL = ClassifierSettings(base_units=6, final_units=4, gru_layers=2, dropout=0.2)
QUICK = TrainingSettings(learning_rate=0.01, l2=0.001, optimizer="adam", max_epochs=6, batch_size=8, seed=1)
N, DIM, LABELS = 48, 5, 3


class Separable:
    """Utterances of unequal length whose mean tells their class."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.targets = rng.integers(0, LABELS, N)
        lengths = rng.integers(3, 20, N)
        self.frames = [
            (rng.standard_normal((length, DIM)) + 2 * np.eye(LABELS, DIM)[target]).astype(np.float32)
            for length, target in zip(lengths, self.targets, strict=True)
        ]

    def gather(self, indices, max_frames):
        cut = [self.frames[i][:max_frames] for i in indices]
        return np.concatenate(cut), np.array([len(frames) for frames in cut])


@pytest.fixture
def source() -> Separable:
    return Separable()


def training(
    source: Separable, settings: TrainingSettings = QUICK, validation=range(36, N), stream: int = 0
) -> Training:
    return Training(data_of(source), range(36), validation, SMALL, settings, stream)


def data_of(source: Separable) -> LabelledFrames:
    """Two corpora, of 12 and 36 utterances; the second has a speaker of 30 and one of 6."""
    speakers = ["few"] * 12 + ["much"] * 30 + ["little"] * 6
    return LabelledFrames(source, source.targets, LABELS, DIM, ["small"] * 12 + ["large"] * 36, speakers)


def run(one: Training) -> Training:
    while not one.stopped:
        one.run_epoch()
    return one


def poisoned(one: Training) -> Training:
    """Its next epoch diverges."""
    with torch.no_grad():
        one.model.dense.weight.fill_(float("nan"))
    return one


def assert_same(one: Training, other: Training) -> None:
    assert (one.epochs, one.best_epoch) == (other.epochs, other.best_epoch)
    assert all(torch.equal(one.best_state[key], other.best_state[key]) for key in other.best_state)


def test_it_learns_what_can_be_learnt(source):
    one = run(training(source, replace(QUICK, max_epochs=40, patience=0)))
    assert one.epochs[-1].train_loss < one.epochs[0].train_loss / 2
    assert one.best.validation_wa > 0.7


def test_two_runs_with_one_seed_agree_bit_for_bit_and_another_stream_differs(source):
    first, again, other = (run(training(source, stream=stream)) for stream in (0, 0, 1))
    assert_same(first, again)
    assert first.epochs != other.epochs


@pytest.mark.parametrize(("optimizer", "average"), [("sgd", 0.0), ("adam", 0.9), ("rmsprop", 0.0)])
def test_a_training_taken_up_after_any_epoch_ends_as_if_it_had_never_stopped(source, tmp_path, optimizer, average):
    brief = replace(QUICK, momentum=0.9, patience=0, max_epochs=4)
    settings = replace(brief, optimizer=optimizer, weight_average=average)
    whole, path = run(training(source, settings)), tmp_path / "state.safetensors"
    for stop_after in (1, 3):
        part, taken_up = training(source, settings), training(source, settings)
        for _ in range(stop_after):
            part.run_epoch()
        save(part, path)
        restore(taken_up, path)
        assert_same(run(taken_up), whole)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SettingsError, match="Delete it"):
        restore(training(source), path)


def test_the_running_average_of_the_weights_validates_and_answers(source):
    one = training(source, replace(QUICK, weight_average=0.15, batch_size=36, max_epochs=4, patience=0))
    expected: dict[str, torch.Tensor] = {}
    for step in range(4):
        report = one.run_epoch()
        now = {key: value.clone() for key, value in one.model.state_dict().items()}
        decay = min(0.15, (1 + step) / (10 + step))
        expected = {key: decay * expected.get(key, now[key]) + (1 - decay) * now[key] for key in now}
        if one.best_epoch == step + 1:
            for key, value in one.best_state.items():
                torch.testing.assert_close(value, expected[key])
        right = one.logits(one.validation, best=False).argmax(axis=1) == one.targets[one.validation]
        assert report.validation_wa == pytest.approx(right.mean())
    assert not torch.equal(one.best_state["dense.weight"], one.model.state_dict()["dense.weight"])


def test_it_stops_after_as_many_epochs_without_improvement_as_patience_says(source):
    one = run(training(source, replace(QUICK, learning_rate=1e-12, l2=0.0, max_epochs=50, patience=3)))
    assert (one.best_epoch, len(one.epochs)) == (1, 4)  # such a step changes no weight


def test_what_early_stopping_watches_is_a_setting(source):
    settings = replace(QUICK, optimizer="sgd", learning_rate=0.002, l2=0.5, patience=3, max_epochs=25)
    for monitor, share in (("loss_with_penalty", 1), ("loss", 0)):
        one = run(training(source, replace(settings, monitor=monitor)))
        watched = [report.validation_loss + share * report.penalty for report in one.epochs]
        assert one.best_epoch == int(np.argmin(watched)) + 1


def test_unwatched_or_without_validation_it_runs_to_the_last_epoch_and_keeps_that_one(source):
    one = run(training(source, replace(QUICK, monitor="none", max_epochs=5, patience=1)))
    assert len(one.epochs) == one.best_epoch == 5
    assert one.best.validation_wa is not None
    one = run(training(source, replace(QUICK, max_epochs=5), validation=[]))
    assert len(one.epochs) == one.best_epoch == 5
    assert one.best.validation_loss is None


def test_a_diverged_training_stops_and_keeps_what_was_best_and_reports_plain_json(source):
    one = training(source, replace(QUICK, max_epochs=20))
    one.run_epoch()
    report = poisoned(one).run_epoch()
    assert (one.stopped, one.best_epoch) == (True, 1)
    assert all(torch.isfinite(value).all() for value in one.best_state.values())
    json.dumps(report.to_dict(), allow_nan=False)
    assert {report.train_loss, report.train_wa, report.validation_loss, report.validation_wa} == {None}
    with pytest.raises(Diverged, match="Lower the learning rate"):  # at once
        training(source, replace(QUICK, optimizer="sgd", learning_rate=1e30)).run_epoch()


def test_utterances_are_cut_to_max_frames(source):
    short = run(training(source, replace(QUICK, max_frames=3)))
    for frames in source.frames:
        frames[3:] = np.nan
    assert_same(run(training(source, replace(QUICK, max_frames=3))), short)


def test_functionals_are_standardised_by_the_training_utterances_and_their_copies(source):
    data = data_of(source)
    one = Training(data, range(36), range(36, N), replace(SMALL, functionals=True), TrainingSettings(max_epochs=1))
    each = [data.gather([index], 300)[0] for index in range(36)]
    rows = np.stack([np.r_[frames.mean(axis=0), frames.std(axis=0)] for frames in each])
    np.testing.assert_allclose(one.model.functionals_mean, rows.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(one.model.functionals_deviation, rows.std(axis=0), rtol=1e-5)
    one.run_epoch()
    assert one.model.linear.weight.abs().max() > 0
    with pytest.raises(SettingsError, match="functionals"):
        replace(SMALL, functionals=True, components=3)


def test_it_learns_from_the_components_of_its_training_frames(source):
    data, classifier = data_of(source), replace(SMALL, components=3)
    settings = replace(QUICK, max_epochs=40, patience=0)
    one = run(Training(data, range(36), range(36, N), classifier, settings))
    mean, axes = principal_components(lambda some: data.gather(some, 300)[0], range(36), 3)
    np.testing.assert_array_equal(one.model.components_axes, axes)  # no gradient changes them
    np.testing.assert_array_equal(one.model.components_mean, mean)
    assert one.model.gru[0].weight_ih.shape[-1] == 3
    assert one.best.validation_wa > 0.7
    assert classifier.cost(DIM) < SMALL.cost(DIM)


def test_it_learns_from_the_dimensions_that_validation_speakers_are_recognised_by(source):
    data, classifier = data_of(source), replace(SMALL, components=3, components_by="validation")
    one = Training(data, range(36), range(36, N), classifier, replace(QUICK, max_epochs=2))
    told = (lambda some: source.gather(some, 300)[0]), source.targets, range(36)
    np.testing.assert_array_equal(one.model.components_axes, useful_dimensions(*told, range(36, N), 3)[1])
    without = Training(data, range(36), [], classifier, replace(QUICK, max_epochs=2))  # the final model has only these
    np.testing.assert_array_equal(without.model.components_axes, useful_dimensions(*told, range(36), 3)[1])
    assert classifier.cost(DIM) < replace(SMALL, components=3).cost(DIM)  # to pick costs nothing


def test_class_weights_balance_the_classes(source):
    weights = training(source, replace(QUICK, class_weights=True)).class_weights.numpy()
    np.testing.assert_allclose(weights * np.bincount(source.targets[:36], minlength=LABELS), 12)


def test_masking_zeroes_spans_of_each_utterance_and_leaves_the_source_alone(source):
    frames, lengths = source.gather(range(10), 300)
    before = frames.copy()
    masked = mask_frames(frames, lengths, np.random.default_rng(0))
    assert np.array_equal(frames, before)
    assert (masked == 0).any()
    assert np.array_equal(masked[masked != 0], frames[masked != 0])


@pytest.mark.parametrize("n_layers", [3, 13])
def test_masking_takes_dimensions_of_every_layer_and_no_whole_layer(n_layers):
    lengths = np.full(200, 10)
    frames = np.ones((2000, n_layers, 50), dtype=np.float32)
    lost = mask_frames(frames, lengths, np.random.default_rng(0)).reshape(200, 10, n_layers, 50) == 0
    assert not lost.all(axis=(1, 3)).any()  # an utterance without one of its layers
    of_dimensions = lost.all(axis=(1, 2)).sum(axis=1)
    assert 0 < of_dimensions.mean() < of_dimensions.max() == 5  # a tenth at most
    of_steps = lost.all(axis=(2, 3)).sum(axis=1)
    assert of_steps.max() == 1


def test_rmsprop_is_that_of_keras():
    """keras/src/optimizers/rmsprop.py: epsilon stands under the root, which matters where gradients are small."""
    weight, mean = torch.nn.Parameter(torch.tensor([1.0, 1.0, 1.0])), np.zeros(3)
    gradients = np.array([[1.0, 1e-4, 1e-6], [-2.0, 1e-5, 1e-6]])
    optimizer, expected = RMSprop([weight], 0.01), np.ones(3)
    for gradient in gradients:
        weight.grad = torch.tensor(gradient, dtype=torch.float32)
        optimizer.step()
        mean = 0.9 * mean + 0.1 * gradient**2
        expected -= 0.01 * gradient / np.sqrt(mean + 1e-7)
    np.testing.assert_allclose(weight.detach().numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("balance", "expected"),
    [
        ("none", [1, 1, 1]),
        ("corpora", [12**-0.5, 36**-0.5, 36**-0.5]),
        ("speakers", [(12 * 12) ** -0.5, (36 * 30) ** -0.5, (36 * 6) ** -0.5]),
    ],
)
def test_balance_weights_by_the_root_of_what_a_corpus_and_a_speaker_have(source, balance, expected):
    weights = data_of(source).weights(np.arange(N), balance)
    assert weights.mean() == pytest.approx(1)
    np.testing.assert_allclose(weights[[0, 12, 42]] / weights[0], np.array(expected) / expected[0], rtol=1e-6)


def test_balance_weights_the_loss_of_each_training_utterance(source):
    settings = replace(QUICK, learning_rate=1e-12, batch_size=36, max_epochs=1, balance="corpora")
    one = Training(data_of(source), range(36), [], replace(SMALL, dropout=0.0), settings)
    found = one.run_epoch().train_loss
    logits = torch.from_numpy(one.logits(range(36)))
    each = torch.nn.functional.cross_entropy(logits, torch.from_numpy(source.targets[:36]), reduction="none")
    weights = np.repeat([12**-0.5, 24**-0.5], [12, 24])
    assert found == pytest.approx(float((each.numpy() * weights).sum() / weights.sum()), rel=1e-5)
    assert found != pytest.approx(float(each.mean()), rel=1e-3)


def test_numbers_too_small_for_a_processor_are_rounded_to_zero_while_training_and_only_then():
    tiny = torch.full((8,), 2e-38)
    with flushed_denormals():
        assert (tiny * 0.1).sum() == 0
    assert (tiny * 0.1).sum() > 0


def test_the_defaults_are_the_papers_best_configuration():
    assert TrainingSettings() == TrainingSettings(
        learning_rate=0.003, l2=0.016, optimizer="sgd", batch_size=16, max_epochs=150, patience=3, max_frames=300,
        seed=40,
    )  # fmt: skip


NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("name", "value"),
    [("learning_rate", 0), ("optimizer", "lion"), ("patience", -1), ("momentum", 1.0), ("balance", "all"), ("l2", NAN),
     ("l2", INFINITE), ("patience", -(10**400)), ("seed", -1), ("seed", 2**32)],
)  # fmt: skip
def test_settings_come_from_flat_parameters_and_those_that_make_no_sense_are_refused(name, value):
    classifier, settings = settings_from({"base_units": 128, "l2": 0.01})
    assert (classifier.base_units, settings.l2) == (128, 0.01)
    with pytest.raises(SettingsError, match="weight_decay"):
        settings_from({"weight_decay": 0.1})
    with pytest.raises(SettingsError, match=name):
        TrainingSettings(**{name: value})
    assert TrainingSettings(max_epochs=10**400).max_epochs == 10**400  # beyond all floats


def test_a_device_that_is_not_there_is_refused(source, monkeypatch):
    monkeypatch.setenv("SER_DEVICE", "abacus")
    with pytest.raises(SettingsError, match="SER_DEVICE is 'abacus'"):
        training(source)
    if not torch.cuda.is_available():
        monkeypatch.setenv("SER_DEVICE", "cuda")
        with pytest.raises(SettingsError, match=r"cuda.*Unset it"):
            training(source)


GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=GPU)])
@pytest.mark.parametrize("optimizer", ["sgd", pytest.param("adam", marks=pytest.mark.slow)])
def test_a_training_on_a_device_learns_is_kept_and_goes_on(source, tmp_path, monkeypatch, device, optimizer):
    monkeypatch.setenv("SER_DEVICE", device)
    settings = replace(QUICK, optimizer=optimizer, max_epochs=8, patience=0)
    one, again = training(source, settings), training(source, settings)
    one.run_epoch()
    save(one, tmp_path / "state")
    restore(again, tmp_path / "state")
    for each in (one, again):
        assert run(each).epochs[-1].train_loss < each.epochs[0].train_loss
        assert each.logits(range(36, N)).shape == (N - 36, LABELS)
        assert each.model.dense.weight.device.type == device
        assert each.best_model().dense.weight.device.type == "cpu"
