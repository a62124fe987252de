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
from torch.nn import functional

from ser import native
from ser.fast_hubert import PositionEmbedding, folded_norm, is_gelu, is_known, is_wide
from ser.native import IntegerLayer

FRAMES_AT_ONCE = 128  # of the front end, about 2.5 s
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
        position = encoder.pos_conv_embed
        self.position = PositionEmbedding(position) if is_wide(position) else position
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
        hidden = hidden + self.position(hidden[None])[0]
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
        for start in range(0, n, FRAMES_AT_ONCE):
            part = out[start : start + FRAMES_AT_ONCE]
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
        self.stable, self.heads = stable, attention.num_heads
        self.queries_keys_values = IntegerLayer(
            torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts])
        )
        self.out, self.into = _linear(attention.out_proj), _linear(feed_forward.intermediate_dense, gelu=True)
        self.back = _linear(feed_forward.output_dense)
        self.attention_norm, self.final_norm = layer.layer_norm, layer.final_layer_norm

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if self.stable:
            hidden = hidden + self._attended(self.attention_norm(hidden))
            return hidden + self.back(self.into(self.final_norm(hidden)))
        hidden = self.attention_norm(hidden + self._attended(hidden))
        normed: torch.Tensor = self.final_norm(hidden + self.back(self.into(hidden)))
        return normed

    def _attended(self, hidden: torch.Tensor) -> torch.Tensor:
        n = len(hidden)
        parts = self.queries_keys_values(hidden).view(n, 3, self.heads, -1)
        queries, keys, values = parts.permute(1, 2, 0, 3).unsqueeze(1)
        mixed = functional.scaled_dot_product_attention(queries, keys, values)[0]
        return self.out(mixed.transpose(0, 1).reshape(n, -1))


def _convolution(layer: Any, weight: torch.Tensor, stride: int) -> IntegerLayer:
    norm = getattr(layer, "layer_norm", None)
    norm = norm if isinstance(norm, nn.LayerNorm) else None
    return IntegerLayer(weight, layer.conv.bias, stride, norm, gelu=True)


def _linear(layer: nn.Linear, gelu: bool = False) -> IntegerLayer:
    return IntegerLayer(layer.weight, layer.bias, gelu=gelu)


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
        and all(is_gelu(layer.feed_forward.intermediate_act_fn) for layer in layers)
        and getattr(model, "adapter", None) is None
    )
