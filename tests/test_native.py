"""The compiled kernels give what torch gives, to the rounding that they promise, or stay out of the way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from support import voice
from test_fast_hubert import KINDS, LENGTHS, WIDE, random_model, relative_difference, waveforms
from torch import nn
from torch.nn import functional

from ser import gru, native
from ser.classifier import BiGRUClassifier, ClassifierSettings
from ser.compat import import_torchaudio
from ser.encoder import Encoder
from ser.gru import BiGRULayer, PackedIndex
from ser.native import IntegerLayer
from ser.native_hubert import NativeHubert

import_torchaudio()
from transformers import HubertConfig, HubertModel  # noqa: E402

needs_kernels = pytest.mark.skipif(
    native.kernels() is None, reason="no C compiler, or a processor without AVX2"
)
ROUNDING = 3e-4  # of a layer, relative to its largest output; typically 1e-4
MODEL_ROUNDING = 1e-3

# width, outputs, taps, stride, frames: what DistilHuBERT and the shipped encoder have, and what divides by nothing.
SHAPES = [
    (512, 512, 3, 2, 401), (512, 512, 2, 2, 40), (10, 512, 1, 1, 1000), (400, 384, 1, 1, 99), (768, 3072, 1, 1, 50),
    (3072, 768, 1, 1, 50), (5, 3, 1, 1, 1), (67, 17, 2, 1, 9), (130, 33, 3, 3, 31), (64, 16, 1, 1, 6),
    (384, 384, 3, 1, 399), (67, 17, 3, 1, 9), (5, 3, 3, 1, 4), (64, 16, 3, 1, 3), (64, 16, 3, 2, 3),
]  # fmt: skip


def expected_layer(
    frames: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, stride: int, norm: Any, gelu: bool
) -> torch.Tensor:
    out = functional.conv1d(frames.t()[None].double(), weight.double(), bias.double(), stride)[0].t()
    out = out if norm is None else norm.double()(out)
    return functional.gelu(out) if gelu else out


@contextmanager
def n_threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@needs_kernels
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("width", "outputs", "taps", "stride", "n"), SHAPES)
@pytest.mark.parametrize(("normed", "gelu"), [(False, False), (True, True)])
def test_a_layer_is_that_of_torch(width, outputs, taps, stride, n, normed, gelu, threads):
    torch.manual_seed(40)
    weight, bias = torch.randn(outputs, width, taps) / (width * taps) ** 0.5, torch.randn(outputs)
    frames, norm = torch.randn(n, width), nn.LayerNorm(outputs) if normed else None
    if norm is not None:
        norm.weight.data.normal_()
        norm.bias.data.normal_()
    with n_threads(threads):
        found = IntegerLayer(weight, bias, stride, norm, gelu)(frames)
    with torch.no_grad():
        expected = expected_layer(frames, weight, bias, stride, norm, gelu)
    assert found.shape == expected.shape
    assert relative_difference(expected, found) < ROUNDING


@needs_kernels
@pytest.mark.skipif(
    native.kernels() is None or not native.kernels().ser_has_wide(),
    reason="a processor without AVX-512's VNNI",
)
@pytest.mark.parametrize(("width", "outputs", "taps", "stride", "n"), SHAPES)
def test_a_layer_is_the_same_to_the_bit_with_avx512_and_without(width, outputs, taps, stride, n):
    torch.manual_seed(40)
    layer, frames = IntegerLayer(torch.randn(outputs, width, taps), None, stride), torch.randn(n, width)
    assert layer._layer.wide
    wide = layer(frames)
    layer._layer.wide = 0
    torch.testing.assert_close(wide, layer(frames), rtol=0, atol=0)


@needs_kernels
@pytest.mark.parametrize("level", [1e-20, 1e-6, 1.0, 1e6, 1e15])
def test_a_layer_is_as_exact_whatever_the_level_of_its_inputs(level):
    torch.manual_seed(40)
    weight, bias = torch.randn(32, 128, 1), torch.zeros(32)
    frames = level * torch.randn(20, 128)
    expected = expected_layer(frames, weight, bias, 1, None, False)
    assert relative_difference(expected, IntegerLayer(weight, bias)(frames)) < ROUNDING


@needs_kernels
def test_a_sum_that_would_leave_32_bits_is_kept_within_them():
    """Inputs and weights alike, all of one sign and of the largest size: nothing cancels."""
    weight, frames = torch.ones(16, 512, 3), torch.ones(9, 512)
    found = IntegerLayer(weight, None)(frames)
    torch.testing.assert_close(found, torch.full_like(found, 3 * 512), rtol=ROUNDING, atol=0)
    alternating = torch.ones(512).mul_(torch.tensor([1.0, -1.0]).repeat(256))
    found = IntegerLayer(alternating.expand(16, 512), None)(-alternating.expand(4, 512).contiguous())
    torch.testing.assert_close(found, torch.full_like(found, -512), rtol=ROUNDING, atol=0)


@needs_kernels
def test_rows_of_zeros_give_the_bias_and_what_is_not_finite_stays_visible():
    layer = IntegerLayer(torch.randn(20, 70), torch.arange(20.0))
    frames = torch.zeros(3, 70)
    frames[1, 5], frames[2, 69] = float("nan"), float("inf")
    found = layer(frames)
    torch.testing.assert_close(found[0], torch.arange(20.0))
    assert found[1:].isnan().all()


@needs_kernels
@pytest.mark.parametrize("taps", [1, 2, 3])
def test_an_output_does_not_depend_on_the_frames_beside_it(taps):
    """To the last bit, from a multiple of three outputs on."""
    torch.manual_seed(40)
    layer = IntegerLayer(torch.randn(48, 100, taps), torch.randn(48), 2, gelu=True)
    frames = torch.randn(301, 100)
    part = layer(frames[96:146])
    assert torch.equal(part, layer(frames)[48 : 48 + len(part)])


@needs_kernels
def test_weights_that_are_not_finite_stay_visible():
    weight = torch.randn(3, 70)
    weight[0, 5], weight[2, 69] = float("nan"), float("inf")
    found = IntegerLayer(weight, None)(torch.randn(4, 70))
    assert found.isnan().any(dim=0).tolist() == [True, False, True]


@needs_kernels
@pytest.mark.parametrize(("n", "dim", "outputs"), [(1, 5, 48), (50, 67, 192), (300, 768, 1152)])
def test_the_projection_of_training_is_that_of_torch_and_its_gradient_is_in_float32(n, dim, outputs):
    torch.manual_seed(40)
    given = [torch.randn(n, dim), torch.randn(outputs, dim) / dim**0.5, torch.randn(outputs)]
    upstream, results = torch.randn(n, outputs), []
    for project in (gru._CompiledProjection.apply, functional.linear):
        ours = [one.clone().requires_grad_() for one in given]
        out = project(*ours)
        out.backward(upstream)
        results.append((out.detach(), [one.grad for one in ours]))
    (found, gradients), (expected, expected_gradients) = results
    assert relative_difference(expected, found) < ROUNDING
    torch.testing.assert_close(gradients, expected_gradients)


@needs_kernels
@pytest.mark.parametrize("pooling", ["last", "attentive"])
def test_logits_and_gradients_of_training_are_those_without_kernels(pooling, monkeypatch):
    torch.manual_seed(40)
    model = BiGRUClassifier(70, 6, ClassifierSettings(64, 16, 2, dropout=0.2, pooling=pooling))
    frames, lengths, results = torch.randn(100, 70), torch.tensor([30, 45, 1, 24]), []
    for compiled in (native.kernels(), None):
        monkeypatch.setattr(native, "kernels", lambda compiled=compiled: compiled)
        model.zero_grad()
        logits = model(frames, lengths, torch.Generator().manual_seed(40))
        logits.square().sum().backward()
        gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        results.append((logits.detach(), gradient))
    for found, expected in zip(*results, strict=True):
        assert relative_difference(expected, found) < MODEL_ROUNDING


@needs_kernels
@pytest.mark.parametrize("units", [8, 32, 64, 96, 192])
@pytest.mark.parametrize("lengths", [[1], [50], [7, 1, 30, 30, 2]])
def test_the_recurrence_is_that_of_training(units, lengths):
    torch.manual_seed(40)
    layer, index = BiGRULayer(20, units), PackedIndex.of(torch.tensor(lengths))
    layer.bias_ih.data.normal_()
    layer.bias_hh.data.normal_()
    frames = torch.randn(sum(lengths), 20)
    expected = layer(frames, index).detach()
    with torch.no_grad():
        torch.testing.assert_close(layer(frames, index), expected, rtol=0, atol=2e-6)


def states_and_gradients(recurrence: Any, lengths: list[int], units: int) -> list[torch.Tensor]:
    """Of random gates, weights and a loss that all states enter."""
    torch.manual_seed(40)
    rows, index = 2 * sum(lengths), PackedIndex.of(torch.tensor(lengths))
    gates, weight = torch.randn(rows, 3 * units), torch.randn(2, 3 * units, units) / units**0.5
    given = [one.requires_grad_() for one in (gates, weight, torch.randn(2, units))]
    states = recurrence.apply(given[0], index, *given[1:])
    (states * torch.randn_like(states)).sum().backward()
    return [states.detach(), *(one.grad for one in given if one.grad is not None)]


@needs_kernels
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("units", [8, 24, 32, 80, 192])
@pytest.mark.parametrize("lengths", [[1], [9], [7, 1, 30, 30, 2], [3] * 4, list(range(1, 20))])
def test_the_recurrence_of_training_and_its_gradient_are_those_of_torch(lengths, units, threads):
    with n_threads(threads):
        found = states_and_gradients(gru._CompiledRecurrence, lengths, units)
    expected = states_and_gradients(gru._Recurrence, lengths, units)
    assert len(found) == len(expected) == 4
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=1e-5 * float(one.abs().max()))


@needs_kernels
def test_states_and_their_gradient_depend_neither_on_the_batch_nor_on_threads():
    """To the last bit."""
    torch.manual_seed(40)
    units, lengths = 32, [5, 12, 1, 7, 7, 3]
    weight, bias = torch.randn(2, 3 * units, units) / units**0.5, torch.randn(2, units)
    gates, upstream = torch.randn(2 * sum(lengths), 3 * units), torch.randn(sum(lengths), 2, units)

    def run(lengths: list[int], gates: torch.Tensor, upstream: torch.Tensor) -> list[torch.Tensor]:
        gates = gates.clone().requires_grad_()
        states = gru._CompiledRecurrence.apply(gates, PackedIndex.of(torch.tensor(lengths)), weight, bias)
        states.backward(upstream)
        return [states.detach(), gates.grad.view(-1, 2, 3 * units)]

    with n_threads(2):
        together = run(lengths, gates, upstream)
    start = 0
    with n_threads(1):
        for length in lengths:
            stop = start + length
            alone = run([length], gates[2 * start : 2 * stop], upstream[start:stop])
            assert all(torch.equal(a, b[start:stop]) for a, b in zip(alone, together, strict=True))
            start = stop


@needs_kernels
def test_a_state_that_is_not_a_number_stays_visible():
    layer, index = BiGRULayer(3, 8), PackedIndex.of(torch.tensor([4]))
    frames = torch.zeros(4, 3)
    frames[2, 0] = float("nan")
    with torch.no_grad():
        forward, backward = layer(frames, index).isnan().all(dim=1), layer(frames, index).isnan().any(dim=1)
    assert forward.tolist() == [False, False, True, False]
    assert backward.all()


@needs_kernels
@pytest.mark.parametrize("samples", LENGTHS)
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "wavlm"])
def test_hidden_states_are_those_of_transformers(kind, samples):
    model = random_model(kind)
    with torch.inference_mode():
        expected = model(waveforms(samples), output_hidden_states=True)
        compiled = NativeHubert.of(model)
        assert compiled is not None
        found = compiled(waveforms(samples), output_hidden_states=True)
    both = [(expected.last_hidden_state, found.last_hidden_state)]
    for one, other in both + list(zip(expected.hidden_states, found.hidden_states, strict=True)):
        assert one.shape == other.shape
        assert relative_difference(one, other) < MODEL_ROUNDING


@needs_kernels
@pytest.mark.parametrize("kind", ["group norm", "layer norm"])
def test_every_row_of_a_batch_is_what_it_is_alone(kind):
    compiled = NativeHubert.of(random_model(kind))
    together = waveforms(20_000, batch=3)
    with torch.inference_mode():
        for row, expected in zip(together, compiled(together).last_hidden_state, strict=True):
            assert torch.equal(expected, compiled(row[None]).last_hidden_state[0])


@needs_kernels
@pytest.mark.parametrize("level", [0.0, 1e-4, 1.0])
def test_silence_and_very_soft_recordings_meet_the_group_norm_s_epsilon_alike(level):
    model = random_model("group norm")
    samples = level * waveforms(16_000)
    with torch.inference_mode():
        expected = model.feature_extractor(samples)[0].t()
        found = NativeHubert.of(model).front_end(samples[0])
    assert relative_difference(expected, found) < MODEL_ROUNDING


@pytest.mark.parametrize(
    "change",
    [
        {"feat_extract_activation": "relu"},
        {"hidden_act": "relu"},
        {"do_stable_layer_norm": True, "adapter_attn_dim": 4},
    ],
)
def test_a_model_of_another_kind_is_left_alone(change):
    assert NativeHubert.of(HubertModel(HubertConfig(**WIDE | change)).eval()) is None
    assert NativeHubert.of(KINDS["wavlm"]().eval()) is None


@needs_kernels
def test_an_encoder_is_compiled_without_being_asked_and_has_the_same_fingerprint(tiny_encoder):
    encoder, plain = Encoder.load(tiny_encoder), Encoder.load(tiny_encoder, fast=False)
    assert isinstance(encoder.model, NativeHubert)
    assert encoder.device == torch.device("cpu")
    assert encoder.fingerprint == plain.fingerprint
    samples = [voice(1.7), voice(0.4)]
    for one, other in zip(encoder(samples), plain(samples), strict=True):
        assert relative_difference(torch.from_numpy(other), torch.from_numpy(one)) < MODEL_ROUNDING


@pytest.fixture
def fresh_kernels():
    native.kernels.cache_clear()
    yield
    native.kernels.cache_clear()


@pytest.mark.parametrize(
    "environment",
    [{"SER_NATIVE": "0"}, {"CC": "/no/such/compiler"}, {"CC": "false"}],
    ids=["refused", "missing", "failing"],
)
def test_without_a_compiler_there_are_no_kernels_and_nothing_is_left_behind(
    environment, fresh_kernels, monkeypatch, tmp_path
):
    for name, value in ({"SER_CACHE": str(tmp_path)} | environment).items():
        monkeypatch.setenv(name, value)
    assert native.kernels() is None
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@needs_kernels
def test_the_kernels_are_compiled_once_and_found_again(fresh_kernels, monkeypatch, tmp_path):
    monkeypatch.setenv("SER_CACHE", str(tmp_path))
    assert native.kernels() is not None
    (built,) = (path for path in tmp_path.rglob("*") if path.is_file())
    before = built.stat().st_mtime_ns
    native.kernels.cache_clear()
    assert native.kernels() is not None
    assert built.stat().st_mtime_ns == before


def test_a_cache_that_cannot_be_written_is_no_reason_to_fail(fresh_kernels, monkeypatch, tmp_path):
    blocked = tmp_path / "a file"
    blocked.write_text("in the way")
    monkeypatch.setenv("SER_CACHE", str(blocked))
    assert native.kernels() is None
