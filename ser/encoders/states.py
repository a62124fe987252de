"""Hidden states of the transformers models that serve as encoders.

In: a model and waveforms at 16 kHz, `(batch, samples)`. Out: states of any of its layers, `(batch, frames, dim)`, with
gradients where the weights have them. Answers, the exported graph and distillation all compute them here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn

from ser.audio.load import SAMPLE_RATE_HZ
from ser.encoders.chunking import FRAME_SAMPLES

WHISPER = "whisper"
FINAL_NORM = "final_norm"  # in config.json; false: the norm behind the last layer is left out
# Log-mel spectrogram of Whisper (Radford et al. 2022, section 2.2; transformers' WhisperFeatureExtractor).
MEL_WINDOW, MEL_HOP = 400, 160  # samples
MEL_BINS = MEL_WINDOW // 2 + 1
MEL_HIGHEST_HZ = 8000.0
MEL_FLOOR = 1e-10  # of a band's power
MEL_RANGE = 8.0  # decades below the loudest point of the recording


def hidden_states(model: Any, waveforms: torch.Tensor, layers: Sequence[int]) -> list[torch.Tensor]:
    """Compute hidden states.

    Args:
        model: a `HubertModel`, `Wav2Vec2Model`, `WavLMModel` or `WhisperEncoder`.
        waveforms: `(batch, samples)` at 16 kHz, all equally long.
        layers: 0 is what enters the first layer, k what layer k returns. Models with a norm behind their last layer
            (Whisper; `do_stable_layer_norm`, as in HuBERT large) return the last layer's states after that norm, as
            transformers' `last_hidden_state` does, unless their configuration says `"final_norm": false`.

    Returns:
        for each of `layers`, `(batch, frames, dim)`.
    """
    norm = final_norm(model)
    if model.config.model_type == WHISPER:
        states = _whisper_states(model, waveforms, max(layers))
    else:
        states = model(waveforms, output_hidden_states=True).hidden_states
    last = n_layers(model.config)
    return [norm(states[layer]) if norm and layer == last else states[layer] for layer in layers]


def final_norm(model: Any) -> nn.Module | None:
    """The norm behind the last layer, None where there is none or the configuration leaves it out."""
    if not getattr(model.config, FINAL_NORM, True):
        return None
    if model.config.model_type == WHISPER:
        return model.layer_norm
    return model.encoder.layer_norm if model.config.do_stable_layer_norm else None


def n_layers(config: Any) -> int:
    """Number of transformer layers; the front end is layer 0 and does not count."""
    return int(config.encoder_layers if config.model_type == WHISPER else config.num_hidden_layers)


def field_and_stride(config: Any) -> tuple[int, int]:
    """Receptive field and stride of the front end in samples; Whisper's is padded, so that a frame hears its own."""
    if config.model_type == WHISPER:
        return FRAME_SAMPLES, FRAME_SAMPLES
    field, stride = 1, 1
    for kernel, step in zip(config.conv_kernel, config.conv_stride, strict=True):
        field += (kernel - 1) * stride
        stride *= step
    return field, stride


class LayerFrames(nn.Module):
    """Frames of one layer, `(batch, frames, dim)`, or with `stack` of several, `(batch, frames, layers, dim)`."""

    def __init__(self, model: nn.Module, layers: Sequence[int], stack: bool) -> None:
        super().__init__()
        self.model, self.layers, self.stack = model, tuple(layers), stack

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        states = hidden_states(self.model, waveforms, self.layers)
        return torch.stack(states, dim=2) if self.stack else states[0]


def _whisper_states(model: Any, waveforms: torch.Tensor, last: int) -> list[torch.Tensor]:
    """Whisper's states up to layer `last`, its positions cut to the length of the waveform: no padding to 30 s."""
    # On the processor: a GPU's convolutions round to 10 bits, too few for the logarithm of a faint band.
    mel = log_mel(waveforms.cpu(), model.config.num_mel_bins).to(model.conv1.weight.device)
    hidden = nn.functional.gelu(model.conv1(mel))
    hidden = nn.functional.gelu(model.conv2(hidden)).transpose(1, 2)
    states = [hidden + model.embed_positions.weight[: hidden.shape[1]]]
    for layer in model.layers[:last]:
        states.append(layer(states[-1], None))
    return states


def log_mel(waveforms: torch.Tensor, n_bands: int) -> torch.Tensor:
    """Whisper's input, `(batch, bands, samples // 160)`, as a convolution and a product, which ONNX has as well."""
    basis, filters = _mel_tables(n_bands)
    padded = nn.functional.pad(waveforms[:, None], (MEL_WINDOW // 2, MEL_WINDOW // 2), mode="reflect")
    spectrum = nn.functional.conv1d(padded, basis, stride=MEL_HOP)[..., :-1]
    power = spectrum[:, :MEL_BINS] ** 2 + spectrum[:, MEL_BINS:] ** 2
    bands = (filters @ power).clamp(min=MEL_FLOOR).log10()
    loudest = bands.amax(dim=(1, 2), keepdim=True)
    return (torch.maximum(bands, loudest - MEL_RANGE) + 4) / 4


@cache
def _mel_tables(n_bands: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines, then sines, under a Hann window, `(2 * MEL_BINS, 1, MEL_WINDOW)`; mel filters `(bands, MEL_BINS)`."""
    from transformers.audio_utils import mel_filter_bank

    turns = np.outer(np.arange(MEL_BINS), np.arange(MEL_WINDOW)) % MEL_WINDOW
    phase = 2 * np.pi / MEL_WINDOW * turns
    window = (1 - np.cos(2 * np.pi / MEL_WINDOW * np.arange(MEL_WINDOW))) / 2  # of Hann
    basis = np.concatenate([np.cos(phase), np.sin(phase)]) * window
    filters = mel_filter_bank(MEL_BINS, n_bands, 0.0, MEL_HIGHEST_HZ, SAMPLE_RATE_HZ, norm="slaney", mel_scale="slaney")
    with torch.inference_mode(False):  # they serve a distillation's gradients too
        return torch.from_numpy(basis[:, None]).float(), torch.from_numpy(filters.T.copy()).float()
