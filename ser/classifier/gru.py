"""A bidirectional GRU layer over utterances of unequal length, without padding.

In: the frames of a batch, utterance after utterance, `(total frames, dim)`, and a `PackedIndex` of their lengths. Out:
the states at every frame, `(total frames, 2 * units)`, in the same order.

On a GPU torch's own GRU computes them (cuDNN). On the processor the recurrence is written out here, for training and
for answers alike; tests/benchmarks/bench_training.py compares its speed with that of `nn.GRU`. The input projection of
all steps and both directions is one product; then each step computes the utterances that have not ended, both
directions at once, and the gradient is written by hand, so that only what depends on the neighbouring step stays in
the loop. A just-in-time compiler for that loop (TorchScript, numba) saved nothing that could be measured. Equal to
`torch.nn.GRU` on packed sequences (Cho et al. 2014, in the form with the reset gate after the product).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional


@dataclass(frozen=True)
class PackedIndex:
    """Two orders of a batch, and the ways between them.

    By frame: utterance after utterance, row `2 * i + d` being direction d of frame i. By step, for each direction: all
    first frames in that direction, then all second ones, ...; within a step the longest utterance first, as in torch's
    `PackedSequence`. Place `d * total + p` is the p-th of direction d.

    Attributes:
        lengths: `(batch,)` frames of each utterance.
        to_steps: `(2 * total frames,)` the row of each place.
        to_rows: `(2 * total frames,)` the place of each row.
        sizes: how many utterances have a frame at each step.
    """

    lengths: torch.Tensor
    to_steps: torch.Tensor
    to_rows: torch.Tensor
    sizes: list[int]

    @classmethod
    def of(cls, lengths: torch.Tensor) -> PackedIndex:
        """From the lengths `(batch,)`, each at least 1."""
        utterance = torch.repeat_interleave(lengths)
        forward = torch.arange(len(utterance)) - (torch.cumsum(lengths, 0) - lengths)[utterance]
        steps = torch.stack([forward, lengths[utterance] - 1 - forward], dim=1)  # (total, 2)
        rank = torch.argsort(torch.argsort(lengths, descending=True, stable=True))[utterance]
        sizes = torch.bincount(forward)
        place = (torch.cumsum(sizes, 0) - sizes)[steps] + rank[:, None]
        to_rows = (place + torch.tensor([0, len(utterance)])).reshape(-1)
        return cls(lengths, torch.argsort(to_rows), to_rows, sizes.tolist())

    @property
    def ends(self) -> torch.Tensor:
        """`(batch,)` the last frame of each utterance."""
        return torch.cumsum(self.lengths, 0) - 1

    def to(self, device: torch.device) -> PackedIndex:
        moved = {name: getattr(self, name).to(device) for name in ("lengths", "to_steps", "to_rows")}
        return replace(self, **moved)


class _Recurrence(torch.autograd.Function):
    """The recurrence of both directions.

    gates `(2 * total frames, 3 * units)` are the input projections by frame, in the order reset, update, candidate,
    with every bias but the one that the reset gate scales; weight `(2, 3 * units, units)` is the recurrent kernel and
    bias `(2, units)` that remaining bias. Returns the states `(total frames, 2, units)`.
    """

    @staticmethod
    def forward(
        ctx: Any, gates: torch.Tensor, index: PackedIndex, weight: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        units = weight.shape[2]
        by_step = gates.index_select(0, index.to_steps).view(2, -1, 3 * units)
        candidates, states = _run_forward(by_step, index.sizes, weight, bias)
        ctx.save_for_backward(weight, by_step, candidates, states)
        ctx.index = index
        return states.view(-1, units).index_select(0, index.to_rows).view(-1, 2, units)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        weight, gates, candidates, states = ctx.saved_tensors
        index, units = ctx.index, weight.shape[2]
        d_states = gradient.reshape(-1, units).index_select(0, index.to_steps).view_as(states)
        d_gates, d_candidates = _run_back(gates, candidates, states, d_states, index.sizes, weight)
        steps = states.split(index.sizes, dim=1)
        kept = [step[:, :size] for step, size in zip(steps, index.sizes[1:], strict=False)]
        before = torch.cat([torch.zeros_like(steps[0]), *kept], dim=1)
        d_weight = torch.bmm(d_gates.transpose(1, 2), before)
        d_bias = d_gates[..., 2 * units :].sum(dim=1)
        d_gates[..., 2 * units :] = d_candidates
        return d_gates.view(-1, 3 * units).index_select(0, index.to_rows), None, d_weight, d_bias


def _run_forward(
    gates: torch.Tensor, sizes: list[int], weight: torch.Tensor, bias: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Candidates and states `(2, total frames, units)`, by step.

    In place, the input projections in `gates`, `(2, total frames, 3 * units)` by step, become the reset gate, the
    update gate and the recurrent product that the reset gate scales.
    """
    units = weight.shape[2]
    candidates = gates[..., 2 * units :].clone()
    gates[..., 2 * units :] = bias[:, None]
    states, kernel = torch.empty_like(candidates), weight.transpose(1, 2).contiguous()
    before = states.new_zeros(2, sizes[0], units)
    views = (gates, gates[..., : 2 * units], *gates.split(units, dim=2), candidates, states)
    for product, both, reset, update, recurrent, candidate, state in zip(
        *(view.split(sizes, dim=1) for view in views), strict=True
    ):
        before = before[:, : state.shape[1]]
        product.baddbmm_(before, kernel)
        both.sigmoid_()
        candidate.addcmul_(reset, recurrent).tanh_()
        torch.lerp(candidate, before, update, out=state)
        before = state
    return candidates, states


def _run_back(
    gates: torch.Tensor, candidates: torch.Tensor, states: torch.Tensor, d_states: torch.Tensor,
    sizes: list[int], weight: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Gradients of what `_run_forward` left in `gates`, before the sigmoids, and of the candidates before the tanh.

    `d_states`, the gradient of the states, gets what comes from later steps added.
    """
    units = weight.shape[2]
    reset, update, recurrent = gates.split(units, dim=2)
    # First the factors that no later step changes, all steps at once; the loop multiplies them by the gradient.
    d_gates, keep = torch.empty_like(gates), 1 - update
    d_candidates = (1 - candidates.square()).mul_(keep)
    to_reset, to_update, to_recurrent = d_gates.split(units, dim=2)
    torch.mul(d_candidates, reset, out=to_recurrent)
    torch.mul(to_recurrent * recurrent, 1 - reset, out=to_reset)
    torch.mul(states - candidates, keep, out=to_update)
    views = (d_states, update, d_gates, d_gates.unflatten(2, (3, units)))
    steps = list(zip(*(view.split(sizes, dim=1) for view in views), strict=True))
    for number in reversed(range(len(steps))):
        d_state, kept, d_gate, d_three = steps[number]
        d_three.mul_(d_state.unsqueeze(2))
        if number:
            before = steps[number - 1][0][:, : d_state.shape[1]]
            before.addcmul_(d_state, kept).baddbmm_(d_gate, weight)
    return d_gates, d_candidates.mul_(d_states)


class BiGRULayer(nn.Module):
    """One bidirectional layer; index 0 of each weight is the forward direction, gates in the order reset, update,
    candidate.

    Initial weights are Keras': Glorot uniform for the input kernels, orthogonal for the recurrent ones, zero biases.
    """

    def __init__(self, dim: int, units: int) -> None:
        super().__init__()
        self.units = units
        self.weight_ih = nn.Parameter(torch.empty(2, 3 * units, dim))
        self.weight_hh = nn.Parameter(torch.empty(2, 3 * units, units))
        self.bias_ih = nn.Parameter(torch.zeros(2, 3 * units))
        self.bias_hh = nn.Parameter(torch.zeros(2, 3 * units))
        for direction in range(2):
            nn.init.xavier_uniform_(self.weight_ih[direction])
            nn.init.orthogonal_(self.weight_hh[direction])

    def forward(self, frames: torch.Tensor, index: PackedIndex, norm: nn.LayerNorm | None = None) -> torch.Tensor:
        """States at every frame, forward and backward: `(total frames, 2 * units)`.

        Args:
            frames: `(total frames, dim)`, the utterances of the batch one after the other.
            index: of the batch.
            norm: its scale and bias are folded into the input kernel: normalised frames that no gradient reaches, like
                those of a frozen encoder, then need none, which saves a third of the large products of a step.
        """
        weight, bias = self.input_kernel(norm)
        if frames.device.type != "cpu":
            return self.by_torch(frames, index, weight, bias)
        bias = bias + functional.pad(self.bias_hh[:, : 2 * self.units], (0, self.units))
        gates = functional.linear(frames, weight.reshape(6 * self.units, -1), bias.reshape(-1))
        gates = gates.view(-1, 3 * self.units)
        states = _Recurrence.apply(gates, index, self.weight_hh, self.bias_hh[:, 2 * self.units :])
        return states.view(-1, 2 * self.units)

    def input_kernel(self, norm: nn.LayerNorm | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight `(2, 3 * units, dim)` and bias `(2, 3 * units)` of the input projection, `norm` folded in."""
        if norm is None:
            return self.weight_ih, self.bias_ih
        return self.weight_ih * norm.weight, self.bias_ih + self.weight_ih @ norm.bias

    def by_torch(
        self, frames: torch.Tensor, index: PackedIndex, weight: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        """The same by torch's own GRU, which is cuDNN's on a GPU."""
        weights = [one for way in zip(weight, self.weight_hh, bias, self.bias_hh, strict=True) for one in way]
        order, places = index.to_steps[: len(frames)] // 2, index.to_rows[::2]
        initial = frames.new_zeros(2, index.sizes[0], self.units)
        with warnings.catch_warnings():  # cuDNN would have the weights in one piece, and copies them
            warnings.filterwarnings("ignore", message="RNN module weights are not part of single contiguous")
            states, _ = torch.gru(
                frames.index_select(0, order), torch.tensor(index.sizes), initial, weights, has_biases=True,
                num_layers=1, dropout=0.0, train=torch.is_grad_enabled(), bidirectional=True,
            )  # fmt: skip
        return states.index_select(0, places)

    def last(self, states: torch.Tensor, index: PackedIndex) -> torch.Tensor:
        """Last forward and first backward state of each utterance, concatenated: `(batch, 2 * units)`."""
        starts = index.ends + 1 - index.lengths
        return torch.cat([states[index.ends, : self.units], states[starts, self.units :]], dim=1)
