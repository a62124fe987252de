"""The fast front end and position embedding give what transformers' own give, or stay out of the way."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from support import TINY, voice

from ser import native
from ser.compat import import_torchaudio
from ser.encoder import Encoder
from ser.fast_hubert import FrontEnd, PositionEmbedding, speed_up

import_torchaudio()
from transformers import HubertConfig, HubertModel, Wav2Vec2Config, Wav2Vec2Model, WavLMConfig, WavLMModel  # noqa: E402

WIDE = TINY | {"num_conv_pos_embeddings": 64}
KINDS: dict[str, Any] = {
    "group norm": lambda: HubertModel(HubertConfig(**WIDE)),
    "group norm and biases": lambda: HubertModel(HubertConfig(**WIDE, conv_bias=True)),
    "layer norm": lambda: HubertModel(HubertConfig(**WIDE, feat_extract_norm="layer", do_stable_layer_norm=True)),
    "three layers, as the shipped one": lambda: HubertModel(
        HubertConfig(
            **WIDE | {"conv_dim": (16, 16, 16)}, conv_kernel=(400, 3, 2), conv_stride=(160, 1, 2),
            num_feat_extract_layers=3, conv_bias=True, feat_extract_norm="layer",
        )
    ),
    "wav2vec 2.0": lambda: Wav2Vec2Model(Wav2Vec2Config(**WIDE)),
    "wavlm": lambda: WavLMModel(WavLMConfig(**WIDE)),
}  # fmt: skip
# Around the shortest clip, one group of four outputs, and the borders of the blocks; 0.1 s to 21 s.
LENGTHS = [1600, 1999, 2000, 4321, 16_000, 33_333, 64_001, 163_840, 330_000]


def random_model(kind: str) -> Any:
    torch.manual_seed(40)
    model = KINDS[kind]().eval().requires_grad_(False)
    for name, parameter in model.named_parameters():  # norms and biases that do something
        if "norm" in name or "bias" in name:
            parameter.data.add_(0.3 * torch.randn_like(parameter))
    return model


def waveforms(samples: int, batch: int = 1) -> torch.Tensor:
    return torch.stack([torch.from_numpy(voice(samples / 16_000, seed=seed)) for seed in range(batch)])


def relative_difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max() / one.abs().max())


@pytest.mark.parametrize("samples", LENGTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_hidden_states_are_those_of_transformers(kind, samples):
    model = random_model(kind)
    with torch.inference_mode():
        expected = model(waveforms(samples), output_hidden_states=True).hidden_states
        assert speed_up(model)
        assert isinstance(model.feature_extractor, FrontEnd)
        assert isinstance(model.encoder.pos_conv_embed, PositionEmbedding)
        found = model(waveforms(samples), output_hidden_states=True).hidden_states
    for one, other in zip(expected, found, strict=True):
        assert one.shape == other.shape
        assert relative_difference(one, other) < 1e-4


@pytest.mark.parametrize("kind", ["group norm", "layer norm"])
def test_every_row_of_a_batch_is_what_it_is_alone(kind):
    model = random_model(kind)
    speed_up(model)
    together = waveforms(20_000, batch=3)
    with torch.inference_mode():
        whole = model(together).last_hidden_state
        for row, expected in zip(together, whole, strict=True):
            assert relative_difference(expected, model(row[None]).last_hidden_state[0]) < 1e-5


@pytest.mark.parametrize("level", [0.0, 1e-4, 1.0])
def test_silence_and_very_soft_recordings_meet_the_group_norm_s_epsilon_alike(level):
    model = random_model("group norm")
    samples = level * waveforms(16_000)
    with torch.inference_mode():
        expected = model.feature_extractor(samples)
        speed_up(model)
        assert relative_difference(expected, model.feature_extractor(samples)) < 1e-4


@pytest.mark.parametrize(
    "change", [{"feat_extract_activation": "relu"}, {"feat_extract_activation": "gelu_new"}]
)
def test_a_front_end_of_another_kind_is_left_as_it_was(change):
    model = HubertModel(HubertConfig(**WIDE | change)).eval()
    before = copy.copy(model.feature_extractor)
    assert not speed_up(model)
    assert type(model.feature_extractor) is type(before)


def test_a_narrow_or_batch_normed_position_embedding_is_left_as_it_was():
    for change in ({"num_conv_pos_embeddings": 16}, {"conv_pos_batch_norm": True}):
        model = HubertModel(HubertConfig(**WIDE | change)).eval()
        speed_up(model)
        assert not isinstance(model.encoder.pos_conv_embed, PositionEmbedding)


def test_an_encoder_without_a_compiler_is_fast_without_being_asked(tiny_encoder, monkeypatch):
    monkeypatch.setattr(native, "kernels", lambda: None)
    encoder = Encoder.load(tiny_encoder)
    assert isinstance(encoder.model.feature_extractor, FrontEnd)
    assert encoder.device == torch.device("cpu")
    assert encoder.fingerprint == Encoder.load(tiny_encoder, fast=False).fingerprint
