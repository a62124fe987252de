"""The classifier of section 3.5 and figure 3: frames -> dropout -> zero masking -> layer norm -> Bi-GRU -> dense.

A batch is packed: the frames of its utterances one after the other, `(total frames, dim)`, and their lengths. So
there are no padded steps to mask, and the logits of an utterance do not depend on the utterances beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from ser.classifier.gru import BiGRULayer, PackedIndex
from ser.classifier.settings import AXES_BUFFERS, FUNCTIONALS_BUFFERS, NORM_EPSILON, VOICE_BUFFERS, ClassifierSettings


class BiGRUClassifier(nn.Module):
    """Frames of an encoder to logits of the emotions."""

    components_mean: torch.Tensor
    components_axes: torch.Tensor
    functionals_mean: torch.Tensor
    functionals_deviation: torch.Tensor

    def __init__(self, dim: int, n_labels: int, settings: ClassifierSettings | None = None) -> None:
        super().__init__()
        self.settings = settings or ClassifierSettings()
        self.dim, self.n_labels = dim, n_labels
        if self.settings.weighted_layers:
            self.layer_weights = nn.Parameter(torch.zeros(self.settings.weighted_layers))
        width = self.settings.width(dim)
        if self.settings.components:
            whole = dim * max(1, self.settings.concatenated_layers)
            for name, shape in zip(AXES_BUFFERS, ((whole,), (whole, width)), strict=True):
                self.register_buffer(name, torch.zeros(shape))
        self.norm = nn.LayerNorm(width, eps=NORM_EPSILON)
        inputs = [width] + [2 * units for units in self.settings.units]
        self.gru = nn.ModuleList(
            BiGRULayer(width, units) for width, units in zip(inputs, self.settings.units, strict=False)
        )
        pooled = inputs[-1] * (2 if self.settings.pooling == "attentive" else 1)
        if self.settings.pooling == "attentive":
            self.attention = nn.Linear(inputs[-1], 1)
        if self.settings.voices:
            shape = (self.settings.stacked_layers, dim) if self.settings.stacked_layers else (dim,)
            for name in VOICE_BUFFERS:
                self.register_buffer(name, torch.zeros(shape))
        self.dense = nn.Linear(pooled, n_labels)
        nn.init.xavier_uniform_(self.dense.weight)
        nn.init.zeros_(self.dense.bias)
        if self.settings.functionals:
            for name in FUNCTIONALS_BUFFERS:
                self.register_buffer(name, torch.ones(2 * width))
            self.linear = nn.Linear(2 * width, n_labels)
            nn.init.zeros_(self.linear.weight)
            nn.init.zeros_(self.linear.bias)

    def forward(self, frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Logits `(batch, n_labels)` of a packed batch, whose softmax are the probabilities; see `each`."""
        return averaged(self.each(frames, lengths))

    def each(
        self, frames: torch.Tensor, lengths: torch.Tensor, generator: torch.Generator | None = None
    ) -> list[torch.Tensor]:
        """Logits of a packed batch by the Bi-GRU, and by the linear classifier where there is one.

        Args:
            frames: `(total frames, dim)` float32, utterance after utterance; `(total frames, layers, dim)`
                where layers are weighted or concatenated.
            lengths: `(batch,)` frames of each, each at least 1.
            generator: source of the dropout's randomness in training.

        Returns:
            `(batch, n_labels)` each.
        """
        index = PackedIndex.of(lengths.cpu()).to(frames.device)
        if self.settings.weighted_layers:
            frames = torch.einsum("l,fld->fd", self.layer_weights.softmax(dim=0), frames)
        elif self.settings.concatenated_layers:
            frames = frames.flatten(1)
        if self.settings.components:
            frames = (frames - self.components_mean) @ self.components_axes
        x = self._dropped(frames, self.settings.dropout, generator)
        # Without scale and bias, which the first layer folds into its input kernel.
        x = functional.layer_norm(x, self.norm.normalized_shape, eps=self.norm.eps)
        for number, layer in enumerate(self.gru):
            x = layer(x, index, None if number else self.norm)
        ends = [(self.dense, self._pooled(x, index))]
        if self.settings.functionals:
            ends.append((self.linear, self._functionals(frames, lengths)))
        return [end(self._dropped(pooled, self.settings.final_dropout, generator)) for end, pooled in ends]

    def penalty(self) -> torch.Tensor:
        """Sum of squares of the GRU input kernels, what Keras' kernel regulariser multiplies with its coefficient."""
        return torch.stack([layer.weight_ih.square().sum() for layer in self.gru]).sum()

    def _dropped(self, frames: torch.Tensor, share: float, generator: torch.Generator | None) -> torch.Tensor:
        if not self.training or share == 0:
            return frames
        # 16 random bits a number are four times as fast as `bernoulli_`, which draws 64 or more.
        draws = torch.empty(-(-frames.numel() // 4), dtype=torch.int64, device=frames.device)
        bits = draws.random_(-(2**63), None, generator=generator).view(torch.int16)[: frames.numel()]
        lost = min(round(share * 2**16), 2**16 - 1)
        kept = (bits >= lost - 2**15).view_as(frames).to(frames.dtype)
        return kept.mul_(1 / (1 - lost / 2**16)).mul_(frames)

    def _functionals(self, frames: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Standardised mean and standard deviation of each utterance's frames, `(batch, 2 * width)`."""
        each = frames.split(lengths.tolist())
        values = torch.stack([torch.cat([one.mean(dim=0), one.std(dim=0, correction=0)]) for one in each])
        return (values - self.functionals_mean) / self.functionals_deviation

    def _pooled(self, states: torch.Tensor, index: PackedIndex) -> torch.Tensor:
        last = self.gru[-1]
        if self.settings.pooling == "last":
            return last.last(states, index)
        return torch.stack([self._attended(utterance) for utterance in states.split(index.lengths.tolist())])

    def _attended(self, frames: torch.Tensor) -> torch.Tensor:
        """Mean and standard deviation of one utterance's states under learned attention."""
        weight = self.attention(frames).softmax(dim=0)
        mean = (weight * frames).sum(dim=0)
        variance = (weight * frames.square()).sum(dim=0) - mean.square()
        return torch.cat([mean, variance.clamp(min=1e-6).sqrt()])


def averaged(each: Sequence[torch.Tensor]) -> torch.Tensor:
    """Logits `(batch, n_labels)` whose softmax is the average of that of each."""
    if len(each) == 1:
        return each[0]
    return torch.stack([one.log_softmax(dim=-1) for one in each]).logsumexp(dim=0) - math.log(len(each))
