"""The recurrent layer equals torch.nn.GRU, and an utterance's logits depend on nothing but the utterance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ser.classifier.bigru import BiGRUClassifier, ClassifierSettings
from ser.classifier.gru import BiGRULayer, PackedIndex
from ser.errors import SettingsError

LENGTHS = torch.tensor([7, 3, 12, 1])


def reference_gru(layer: BiGRULayer, dim: int) -> nn.GRU:
    """torch's own GRU with the same weights."""
    gru = nn.GRU(dim, layer.units, bidirectional=True, batch_first=True)
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        for direction, suffix in enumerate(("_l0", "_l0_reverse")):
            getattr(gru, name + suffix).data.copy_(getattr(layer, name)[direction])
    return gru


def random_layer(dim: int, units: int) -> BiGRULayer:
    torch.manual_seed(0)
    layer = BiGRULayer(dim, units)
    for parameter in layer.parameters():
        parameter.data.normal_(0, 0.5)
    return layer


def test_states_and_gradients_equal_those_of_torch_gru_on_packed_sequences():
    layer = random_layer(5, 4)
    reference = reference_gru(layer, 5)
    frames = torch.randn(int(LENGTHS.sum()), 5, requires_grad=True)
    frames_too = frames.detach().clone().requires_grad_(True)
    index = PackedIndex.of(LENGTHS)
    ours = layer(frames, index)

    padded = nn.utils.rnn.pad_sequence(frames_too.split(LENGTHS.tolist()), batch_first=True)
    packed = nn.utils.rnn.pack_padded_sequence(padded, LENGTHS, batch_first=True, enforce_sorted=False)
    unpacked, _ = nn.utils.rnn.pad_packed_sequence(reference(packed)[0], batch_first=True)
    theirs = torch.cat([row[:length] for row, length in zip(unpacked, LENGTHS, strict=True)])
    torch.testing.assert_close(ours, theirs)

    weight = torch.randn_like(ours)
    (ours * weight).sum().backward()
    (theirs * weight).sum().backward()
    torch.testing.assert_close(frames.grad, frames_too.grad)
    for direction, suffix in enumerate(("_l0", "_l0_reverse")):
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            torch.testing.assert_close(
                getattr(layer, name).grad[direction], getattr(reference, name + suffix).grad, msg=name + suffix
            )


def on_a_gpu(layer: BiGRULayer, frames: torch.Tensor, index: PackedIndex, norm=None) -> torch.Tensor:
    """What `BiGRULayer.forward` does with frames on a GPU."""
    return layer.by_torch(frames, index, *layer.input_kernel(norm))


@pytest.mark.parametrize("pooling", ["last", "attentive"])
def test_torchs_own_gru_gives_the_same_logits_and_gradients(pooling, monkeypatch):
    """It computes on a GPU, here on the processor."""
    torch.manual_seed(40)
    model = BiGRUClassifier(9, 6, ClassifierSettings(16, 8, 2, dropout=0.0, pooling=pooling))
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    frames, results = torch.randn(int(LENGTHS.sum()), 9), []
    for by_torch in (False, True):
        if by_torch:
            monkeypatch.setattr(BiGRULayer, "forward", on_a_gpu)
        model.zero_grad()
        logits = model(frames, LENGTHS)
        logits.square().sum().backward()
        with torch.inference_mode():
            torch.testing.assert_close(model(frames, LENGTHS), logits.detach())
        results.append([logits.detach(), *(parameter.grad for parameter in model.parameters())])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_final_states_are_the_last_forward_and_the_first_backward_one():
    layer = random_layer(5, 4)
    frames = torch.randn(int(LENGTHS.sum()), 5)
    index = PackedIndex.of(LENGTHS)
    final = layer.last(layer(frames, index), index)
    for row, utterance in zip(final, frames.split(LENGTHS.tolist()), strict=True):
        _, hidden = reference_gru(layer, 5)(utterance[None])
        torch.testing.assert_close(row, hidden.reshape(-1))


def test_gradients_agree_with_finite_differences():
    torch.manual_seed(2)
    model = BiGRUClassifier(4, 3, ClassifierSettings(3, 2, 2, dropout=0.0)).double()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    frames = torch.randn(6, 4, dtype=torch.double)
    names = [name for name, _ in model.named_parameters()]

    def loss(*values: torch.Tensor) -> torch.Tensor:
        call = torch.func.functional_call
        logits = call(model, dict(zip(names, values, strict=True)), (frames, torch.tensor([4, 2])))
        return nn.functional.cross_entropy(logits, torch.tensor([0, 2]))

    values = tuple(parameter.detach().clone().requires_grad_() for parameter in model.parameters())
    assert torch.autograd.gradcheck(loss, values)


def test_units_are_spaced_linearly_from_base_to_final():
    assert ClassifierSettings().units == (192, 32)
    assert ClassifierSettings(256, 64, 1).units == (256,)
    assert ClassifierSettings(256, 64, 3).units == (256, 160, 64)


def test_the_penalty_counts_input_kernels_and_nothing_else():
    model = BiGRUClassifier(4, 3, ClassifierSettings(3, 2, 2))
    for name, parameter in model.named_parameters():
        parameter.data.fill_(2.0 if name.endswith("weight_ih") else 100.0)
    n_weights = 2 * 9 * 4 + 2 * 6 * 6
    assert model.penalty().item() == pytest.approx(4.0 * n_weights)


def test_dropout_acts_in_training_only_and_follows_its_generator():
    model = BiGRUClassifier(8, 3, ClassifierSettings(4, 2, 2, dropout=0.5))
    frames, lengths = torch.randn(5, 8), torch.tensor([5])
    first, again, other = (model.each(frames, lengths, torch.Generator().manual_seed(seed))[0] for seed in (3, 3, 4))
    torch.testing.assert_close(first, again, atol=0, rtol=0)
    assert not torch.equal(first, other)
    model.eval()
    assert torch.equal(model(frames, lengths), model(frames, lengths))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.85])
def test_dropout_zeroes_its_share_and_scales_the_others_up(share):
    model = BiGRUClassifier(201, 3, ClassifierSettings(4, 2, 2, dropout=share))
    dropped = model._dropped(torch.ones(503, 201), share, torch.Generator().manual_seed(5))
    kept = dropped[dropped != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - share)), rtol=1e-4, atol=0)
    of_columns, of_rows = (dropped == 0).float().mean(dim=0), (dropped == 0).float().mean(dim=1)
    assert (dropped == 0).float().mean().item() == pytest.approx(share, abs=0.005)
    assert of_columns.std() < 0.03  # of independent draws 0.022 at a half, and 0.035 of rows
    assert of_rows.std() < 0.05


WRONG = [{"base_units": 0}, {"final_units": 10**9}, {"dropout": 1.0}, {"pooling": "max"}, {"gru_layers": 0}]


@pytest.mark.parametrize("wrong", WRONG)
def test_settings_that_make_no_sense_are_refused_with_the_value_given(wrong):
    with pytest.raises(SettingsError, match=str(next(iter(wrong.values())))):
        ClassifierSettings(**wrong)


def test_the_bigru_and_the_linear_classifier_are_averaged_and_each_learns_by_itself():
    torch.manual_seed(3)
    model = BiGRUClassifier(12, 4, ClassifierSettings(8, 6, 2, functionals=True)).eval()
    model.linear.weight.data.normal_()
    frames = torch.randn(int(LENGTHS.sum()), 12)
    bigru, linear = model.each(frames, LENGTHS)
    expected = (bigru.softmax(dim=1) + linear.softmax(dim=1)) / 2
    torch.testing.assert_close(model(frames, LENGTHS).softmax(dim=1), expected)
    rows = [
        np.r_[one.mean(axis=0), one.std(axis=0)] for one in np.split(frames.numpy(), np.cumsum(LENGTHS.numpy())[:-1])
    ]
    scaled = (torch.from_numpy(np.stack(rows)) - model.functionals_mean) / model.functionals_deviation
    torch.testing.assert_close(linear, model.linear(scaled))
    linear.sum().backward()
    assert model.dense.weight.grad is None
    assert model.linear.weight.grad is not None


@pytest.mark.parametrize("functionals", [False, True])
@pytest.mark.parametrize("pooling", ["last", "attentive"])
def test_an_utterance_alone_gets_the_logits_that_it_gets_among_others(pooling, functionals):
    torch.manual_seed(3)
    model = BiGRUClassifier(12, 4, ClassifierSettings(8, 6, 2, pooling=pooling, functionals=functionals)).eval()
    lengths = torch.tensor([7, 1, 20])
    frames = torch.randn(int(lengths.sum()), 12)
    with torch.inference_mode():
        together = model(frames, lengths)
        alone = [model(one, torch.tensor([len(one)])) for one in frames.split(lengths.tolist())]
    torch.testing.assert_close(torch.cat(alone), together, atol=1e-5, rtol=1e-5)
