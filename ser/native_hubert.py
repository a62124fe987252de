"""A frozen HuBERT or wav2vec 2.0 on the compiled kernels of `ser.native`.

`NativeHubert.of(model)` takes transformers' model and answers as it does, hidden states included, within 1e-3 of their
size. In: `(batch, samples)` float32. Of the model's own parts only the norms are kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ser import native
from ser.fast_hubert import PositionEmbedding, folded_norm, is_gelu, is_known, is_wide
from ser.native import IntegerLayer

NUMBERS_AT_ONCE = 1 << 23  # of what lies between the front end's layers, 32 MiB
LAYERS = ("HubertEncoderLayer", "Wav2Vec2EncoderLayer")  # with the norm behind each half
STABLE_LAYERS = tuple(f"{name}StableLayerNorm" for name in LAYERS)  # and before it


@dataclass(frozen=True)
class Output:
    """What transformers' models return, as far as this project asks for it.

    Attributes:
        last_hidden_state: `(batch, frames, dim)`, normed where the norms stand before the layers.
        hidden_states: before the first transformer layer and after each.
    """

    last_hidden_state: torch.Tensor
    hidden_states: tuple[torch.Tensor, ...]


class NativeHubert(nn.Module):
    """See above; made by `of`."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.config = model.config
        self.front_end = FrontEnd(model.feature_extractor.conv_layers)
        projection, encoder = model.feature_projection, model.encoder
        self.projection_norm = getattr(projection, "layer_norm", None)
        self.projection = _linear(projection.projection)
        self.position = _position(encoder.pos_conv_embed)
        self.norm = encoder.layer_norm
        self.stable = type(encoder.layers[0]).__name__ in STABLE_LAYERS
        self.layers = nn.ModuleList(_TransformerLayer(layer, self.stable) for layer in encoder.layers)

    @classmethod
    def of(cls, model: nn.Module) -> NativeHubert | None:
        """None where the kernels or the model's kind are not there; then the model is as it was."""
        return cls(model) if native.kernels() is not None and _is_known(model) else None

    def forward(self, waveforms: torch.Tensor, output_hidden_states: bool = False) -> Output:
        """Of `(batch, samples)`, utterance by utterance; all states are always there."""
        rows = [self._states(samples) for samples in waveforms]
        states = tuple(torch.stack(same) for same in zip(*rows, strict=True))
        return Output(self.norm(states[-1]) if self.stable else states[-1], states)

    def _states(self, samples: torch.Tensor) -> list[torch.Tensor]:
        """`(frames, dim)` of each layer."""
        frames = self.front_end(samples)
        hidden = self.projection(frames if self.projection_norm is None else self.projection_norm(frames))
        hidden = self.position(hidden)
        states = [hidden if self.stable else self.norm(hidden)]
        for layer in self.layers:
            states.append(layer(states[-1]))
        return states


class FrontEnd:
    """The strided convolutions, each with its norm and GELU: `(samples,)` to `(frames, channels)`.

    A stretch of frames goes through all layers before the next: what lies between is never whole in memory.
    """

    def __init__(self, layers: nn.ModuleList) -> None:
        first = layers[0]
        self.kernel, self.stride = first.conv.kernel_size[0], first.conv.stride[0]
        norm = getattr(first, "layer_norm", None)
        self.group_norm = norm if isinstance(norm, nn.GroupNorm) else None
        self.weight = first.conv.weight.detach()[:, 0]  # (channels, taps)
        self.first = _convolution(first, self.weight, 1)
        rest = list(layers)[1:]
        self.rest = [_convolution(layer, layer.conv.weight, layer.conv.stride[0]) for layer in rest]
        self.step = math.prod(layer.stride for layer in self.rest)
        numbers, step = 0, self.step  # between the layers, for each frame that comes out
        for layer, behind in zip([self.first, *self.rest], self.rest, strict=False):
            numbers, step = numbers + step * layer.outputs, step // behind.stride
        self.frames_at_once = max(1, NUMBERS_AT_ONCE // max(1, numbers))

    def __call__(self, samples: torch.Tensor) -> torch.Tensor:
        windows, first = samples.unfold(0, self.kernel, self.stride), self.first
        if self.group_norm is not None:
            first = first.rescaled(*folded_norm(windows, self.weight, self.group_norm))
        layers = [first, *self.rest]
        n = len(windows)
        for layer in layers:
            n = layer.n_frames(n)
        out = torch.empty(n, layers[-1].outputs)
        between: list[torch.Tensor] = []
        stretches = -(-n // self.frames_at_once)
        longest = -(-n // stretches)
        for start in range(0, n, longest):
            part = out[start : start + longest]
            sizes = [len(part)]  # of what each layer gives, the last one's first
            for layer in reversed(self.rest):
                sizes.append(layer.reach(sizes[-1]))
            between = between or [
                torch.empty(size, layer.outputs) for size, layer in zip(sizes[:0:-1], layers, strict=False)
            ]
            frames = windows[start * self.step :][: sizes[-1]]
            for layer, size, room in zip(layers, reversed(sizes), [*between, part], strict=True):
                frames = layer(frames, out=room[:size])
        return out


class _TransformerLayer(nn.Module):
    """`(frames, dim)` to the same shape."""

    def __init__(self, layer: Any, stable: bool) -> None:
        super().__init__()
        attention, feed_forward = layer.attention, layer.feed_forward
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        self.heads = attention.num_heads
        self.queries_keys_values = IntegerLayer(
            torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts])
        )
        norms = layer.layer_norm, layer.final_layer_norm
        self.attention_norm, self.final_norm = norms if stable else (nn.Identity(), nn.Identity())
        behind = (None, None) if stable else norms
        self.out = _linear(attention.out_proj, norm=behind[0])
        self.into = _linear(feed_forward.intermediate_dense, gelu=True)
        self.back = _linear(feed_forward.output_dense, norm=behind[1])

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        parts = self.queries_keys_values(self.attention_norm(hidden))
        hidden = self.out(native.attention(parts, self.heads), residual=hidden)
        return self.back(self.into(self.final_norm(hidden)), residual=hidden)


class _Added(nn.Module):
    """A position embedding on torch, added to what it embeds."""

    def __init__(self, embedding: nn.Module) -> None:
        super().__init__()
        self.embedding = embedding

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        embedded: torch.Tensor = self.embedding(hidden[None])[0]
        return hidden + embedded


def _position(embedding: Any) -> native.PositionEmbedding | _Added:
    if not is_wide(embedding):
        return _Added(embedding)
    if native.PositionEmbedding.fits(embedding.conv):
        return native.PositionEmbedding(embedding.conv)
    return _Added(PositionEmbedding(embedding))


def _convolution(layer: Any, weight: torch.Tensor, stride: int) -> IntegerLayer:
    norm = getattr(layer, "layer_norm", None)
    norm = norm if isinstance(norm, nn.LayerNorm) else None
    return IntegerLayer(weight, layer.conv.bias, stride, norm, gelu=True)


def _linear(layer: nn.Linear, norm: nn.LayerNorm | None = None, gelu: bool = False) -> IntegerLayer:
    return IntegerLayer(layer.weight, layer.bias, norm=norm, gelu=gelu)


def _is_known(model: Any) -> bool:
    """Whether every part is one that this file computes."""
    convolutions = getattr(getattr(model, "feature_extractor", None), "conv_layers", None)
    layers = getattr(getattr(model, "encoder", None), "layers", ())
    return (
        convolutions is not None
        and all(is_known(layer, index) for index, layer in enumerate(convolutions))
        and len(layers) > 0
        and all(type(layer).__name__ in LAYERS + STABLE_LAYERS for layer in layers)
        and all(getattr(layer, "adapter_layer", None) is None for layer in layers)
        and all(layer.attention.head_dim % native.LANES == 0 for layer in layers)
        and all(is_gelu(layer.feed_forward.intermediate_act_fn) for layer in layers)
        and getattr(model, "adapter", None) is None
    )
