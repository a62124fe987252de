"""A bidirectional GRU layer over utterances of unequal length, without padding in the large products.

The frames of a batch lie one utterance after the other, `(total frames, dim)`. The input projection of all steps
and both directions is one product over real frames only; the recurrence then runs over `(steps, 2, batch, units)`
with a hand-written gradient: what depends on the step before stays in the loop, everything else is done at once.
Equal to `torch.nn.GRU` on packed sequences (Cho et al. 2014, in the form with the reset gate after the product);
the tests compare both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional


@dataclass(frozen=True)
class PackedIndex:
    """Where each frame of a packed batch stands in the two directions' time-major layout.

    Attributes:
        lengths: `(batch,)` frames of each utterance.
        padded: `(steps * 2 * batch,)` for each cell of the layout, its row in `(2 * total frames)`; 0 where none.
        packed: `(2 * total frames,)` for each row, its cell: the way back.
    """

    lengths: torch.Tensor
    padded: torch.Tensor
    packed: torch.Tensor

    @classmethod
    def of(cls, lengths: torch.Tensor) -> PackedIndex:
        """From the lengths `(batch,)`, each at least 1."""
        batch, steps, total = len(lengths), int(lengths.max()), int(lengths.sum())
        utterance = torch.repeat_interleave(torch.arange(batch), lengths)
        starts = torch.cumsum(lengths, 0) - lengths
        time = torch.arange(total) - starts[utterance]
        forward = (time * 2) * batch + utterance
        backward = ((lengths[utterance] - 1 - time) * 2 + 1) * batch + utterance
        packed = torch.stack([forward, backward], dim=1).reshape(-1)
        padded = torch.zeros(steps * 2 * batch, dtype=torch.long)
        padded[packed] = torch.arange(2 * total)
        return cls(lengths, padded, packed)

    def to(self, device: torch.device) -> PackedIndex:
        return PackedIndex(self.lengths.to(device), self.padded.to(device), self.packed.to(device))


class _Rows(torch.autograd.Function):
    """`x[index]` where each row of x that matters stands once: the gradient is a gather too, not a scatter."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, index: torch.Tensor, inverse: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(inverse)
        return x.index_select(0, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return gradient.index_select(0, inverse), None, None


class _UnRows(torch.autograd.Function):
    """The way back: padded cells to packed rows; cells without a frame get no gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(index)
        ctx.n_rows = x.shape[0]
        return x.index_select(0, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (index,) = ctx.saved_tensors
        full = gradient.new_zeros(ctx.n_rows, gradient.shape[1])
        full[index] = gradient
        return full, None


class _Recurrence(torch.autograd.Function):
    """The recurrence of G independent GRUs in step.

    gates `(steps, G, batch, 3 * units)` are the input projections in the order reset, update, new; weight
    `(G, 3 * units, units)`, bias `(G, 3 * units)`. Returns the states `(steps, G, batch, units)`.
    """

    @staticmethod
    def forward(ctx: Any, gates: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        steps, groups, batch, width = gates.shape
        units = width // 3
        transposed = weight.transpose(1, 2).contiguous()
        offset = bias[:, None].expand(groups, batch, width)
        states = gates.new_zeros(steps + 1, groups, batch, units)
        reset_update = torch.empty(steps, groups, batch, 2 * units, dtype=gates.dtype, device=gates.device)
        new = torch.empty_like(states[1:])
        candidate = torch.empty_like(new)
        for step in range(steps):
            before = states[step]
            hidden = torch.baddbmm(offset, before, transposed)
            both = torch.add(
                gates[step, :, :, : 2 * units], hidden[:, :, : 2 * units], out=reset_update[step]
            )
            both.sigmoid_()
            candidate[step] = hidden[:, :, 2 * units :]
            fresh = torch.addcmul(
                gates[step, :, :, 2 * units :], both[:, :, :units], candidate[step], out=new[step]
            ).tanh_()
            torch.lerp(fresh, before, both[:, :, units:], out=states[step + 1])
        ctx.save_for_backward(weight, states, reset_update, new, candidate)
        return states[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        weight, states, reset_update, new, candidate = ctx.saved_tensors
        steps, groups, batch, units = new.shape
        reset, update = reset_update[..., :units], reset_update[..., units:]
        # The factors that do not depend on later steps, for all steps at once.
        to_new = (1 - update) * (1 - new * new)
        to_update = (states[:-1] - new) * update * (1 - update)
        to_reset = candidate * reset * (1 - reset)
        d_gates = torch.empty(steps, groups, batch, 3 * units, dtype=gradient.dtype, device=gradient.device)
        d_hidden = torch.empty_like(d_gates)
        carried = torch.zeros_like(new[0])
        for step in range(steps - 1, -1, -1):
            d_state = gradient[step] + carried
            d_new = torch.mul(d_state, to_new[step], out=d_gates[step, :, :, 2 * units :])
            torch.mul(d_new, to_reset[step], out=d_gates[step, :, :, :units])
            torch.mul(d_state, to_update[step], out=d_gates[step, :, :, units : 2 * units])
            d_hidden[step, :, :, : 2 * units] = d_gates[step, :, :, : 2 * units]
            torch.mul(d_new, reset[step], out=d_hidden[step, :, :, 2 * units :])
            carried = torch.baddbmm(d_state * update[step], d_hidden[step], weight)
        flat = d_hidden.transpose(0, 1).reshape(groups, steps * batch, 3 * units)
        before = states[:-1].transpose(0, 1).reshape(groups, steps * batch, units)
        return d_gates, torch.bmm(flat.transpose(1, 2), before), flat.sum(dim=1)


class BiGRULayer(nn.Module):
    """One bidirectional layer; index 0 of each weight is the forward direction, gates in the order reset, update, new.

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

    def states(
        self, frames: torch.Tensor, index: PackedIndex, weight: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """All states in step order, `(steps, 2, batch, units)`; direction 1 starts at each utterance's last frame.

        Args:
            frames: `(total frames, dim)`, the utterances of the batch one after the other.
            index: of the batch.
            weight, bias: in place of `weight_ih` and `bias_ih`, where a caller has folded a scale into them.
        """
        weight = self.weight_ih if weight is None else weight
        bias = self.bias_ih if bias is None else bias
        width = 3 * self.units
        gates = functional.linear(frames, weight.reshape(2 * width, -1), bias.reshape(-1))
        cells = _Rows.apply(gates.reshape(-1, width), index.padded, index.packed)
        batch = len(index.lengths)
        states: torch.Tensor = _Recurrence.apply(
            cells.reshape(-1, 2, batch, width), self.weight_hh, self.bias_hh
        )
        return states

    def packed(self, states: torch.Tensor, index: PackedIndex) -> torch.Tensor:
        """The states as frames for the next layer: `(total frames, 2 * units)`."""
        rows: torch.Tensor = _UnRows.apply(states.reshape(-1, self.units), index.packed)
        return rows.reshape(-1, 2 * self.units)

    def last(self, states: torch.Tensor, index: PackedIndex) -> torch.Tensor:
        """Last forward and first backward state of each utterance, concatenated: `(batch, 2 * units)`."""
        batch = torch.arange(len(index.lengths), device=states.device)
        return states[index.lengths - 1, :, batch].reshape(len(batch), 2 * self.units)
