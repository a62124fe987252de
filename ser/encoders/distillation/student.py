"""The student of a distillation: a small `HubertModel` at 50 frames a second, and its prediction heads.

The default front end reads 25 ms windows every 10 ms, begins as a bank of mel-spaced band-pass filters (four
phases a band) and halves the rate once; on a CPU it costs a quarter of the seven-layer front end of HuBERT.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ser.audio.load import SAMPLE_RATE_HZ
from ser.encoders.encoder import FRAME_SAMPLES
from ser.errors import SettingsError
from ser.runtime import import_torchaudio

PHASES = 4  # cosine, sine and their negatives: after the non-linearity their sum hardly depends on phase
BIAS_CHANNELS = 4  # constant channels: what layer normalisation needs to tell loud frames from soft ones


@dataclass(frozen=True)
class StudentSettings:
    """Size of the student; the defaults make 5.2 M parameters.

    Attributes:
        hidden_size: numbers a frame.
        layers: transformer layers.
        intermediate_size: units of each feed-forward block.
        heads: attention heads.
        conv_dim, conv_kernel, conv_stride: the front end; the strides multiply to 320 samples, one frame.
        position_kernel: frames that the convolutional position embedding sees.
    """

    hidden_size: int = 384
    layers: int = 2
    intermediate_size: int = 1536
    heads: int = 6
    conv_dim: tuple[int, ...] = (384, 384, 384)
    conv_kernel: tuple[int, ...] = (400, 3, 2)
    conv_stride: tuple[int, ...] = (160, 1, 2)
    position_kernel: int = 64

    def __post_init__(self) -> None:
        if int(np.prod(self.conv_stride)) != FRAME_SAMPLES:
            raise SettingsError(
                f"conv_stride {self.conv_stride} multiplies to {int(np.prod(self.conv_stride))}; "
                f"50 frames a second need {FRAME_SAMPLES}."
            )
        if not len(self.conv_dim) == len(self.conv_kernel) == len(self.conv_stride):
            raise SettingsError("conv_dim, conv_kernel and conv_stride must have one number a layer each.")
        if self.hidden_size % self.heads or self.hidden_size % 16:
            raise SettingsError(
                f"hidden_size {self.hidden_size} must be divisible by heads ({self.heads}) and by 16."
            )

    @property
    def receptive_samples(self) -> int:
        """Samples that one frame of the front end sees."""
        seen, hop = 1, 1
        for kernel, stride in zip(self.conv_kernel, self.conv_stride, strict=True):
            seen += (kernel - 1) * hop
            hop *= stride
        return seen


def build_student(settings: StudentSettings) -> Any:
    """A `HubertModel` of these settings with fresh weights, dropout off."""
    import_torchaudio()
    from transformers import HubertConfig, HubertModel

    config = HubertConfig(
        hidden_size=settings.hidden_size,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        intermediate_size=settings.intermediate_size,
        conv_dim=list(settings.conv_dim),
        conv_kernel=list(settings.conv_kernel),
        conv_stride=list(settings.conv_stride),
        conv_bias=True,
        feat_extract_norm="layer",
        num_conv_pos_embeddings=settings.position_kernel,
        num_conv_pos_embedding_groups=16,
        mask_time_prob=0.0,
        layerdrop=0.0,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        feat_proj_dropout=0.0,
        final_dropout=0.0,
    )
    model = HubertModel(config)
    if settings.conv_kernel[0] >= 200:
        first = model.feature_extractor.conv_layers[0].conv
        weight, bias = filterbank(settings.conv_dim[0], settings.conv_kernel[0])
        first.weight.data.copy_(weight)
        first.bias.data.copy_(bias)
    return model


def filterbank(channels: int, kernel: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Windowed sinusoids at mel-spaced frequencies, 60 to 7,600 Hz.

    Returns:
        weight `(channels, 1, kernel)` and bias `(channels,)`: the last `BIAS_CHANNELS` filters are zero with biases
        of alternating sign.
    """
    bands = (channels - BIAS_CHANNELS) // PHASES
    low_mel, high_mel = 2595 * np.log10(1 + np.array([60.0, 7600.0]) / 700)
    mel = np.linspace(float(low_mel), float(high_mel), bands)
    frequency_hz = 700 * (10 ** (mel / 2595) - 1)
    time_s = (np.arange(kernel) - kernel / 2) / SAMPLE_RATE_HZ
    phases = np.array([0, 0.5, 1, 1.5]) * np.pi
    angle = 2 * np.pi * frequency_hz[:, None, None] * time_s + phases[None, :, None]
    filters = (np.cos(angle) * np.hanning(kernel)).reshape(bands * PHASES, kernel)
    filters *= 4.0 / np.linalg.norm(filters, axis=1, keepdims=True)
    weight = torch.zeros(channels, 1, kernel)
    weight[: len(filters), 0] = torch.from_numpy(filters).float()
    bias = torch.zeros(channels)
    bias[bands * PHASES :: 2], bias[bands * PHASES + 1 :: 2] = 3.0, -3.0
    return weight, bias


class Distiller(nn.Module):
    """The student with one linear prediction head a distilled teacher layer (Chang et al. 2022)."""

    def __init__(self, settings: StudentSettings, n_teacher_layers: int, teacher_dim: int) -> None:
        super().__init__()
        self.student = build_student(settings)
        self.heads = nn.ModuleList(
            nn.Linear(settings.hidden_size, teacher_dim) for _ in range(n_teacher_layers)
        )

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """`(batch, samples)` to predictions `(layers, batch, frames, teacher dim)`."""
        hidden = self.student(waveforms).last_hidden_state
        return torch.stack([head(hidden) for head in self.heads])
