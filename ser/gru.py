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

import numpy as np
import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from ser.compat import one_blas_thread

SMALL = 1 << 20  # multiplications of a step


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
    """The recurrence of both directions in step.

    gates `(2 * total frames, 3 * units)` are the input projections in the order reset, update, new, and padded and
    packed a `PackedIndex`' ways to the time-major layout and back; weight `(2, 3 * units, units)`, bias
    `(2, 3 * units)`. Returns the states `(steps, 2, batch, units)`.
    """

    @staticmethod
    def forward(
        ctx: Any, gates: torch.Tensor, padded: torch.Tensor, packed: torch.Tensor, batch: int,
        weight: torch.Tensor, bias: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        units = weight.shape[2]
        # The buffers are filled with the projections and turned into the gates' values in place, step by step.
        both_inputs = gates.view(-1, 2, 3 * units)[..., : 2 * units] + bias[:, : 2 * units]
        reset_update = _cells(both_inputs.view(-1, 2 * units), padded, batch)
        new = _cells(gates[:, 2 * units :], padded, batch)
        candidate = torch.empty_like(new)
        states = new.new_zeros(len(new) + 1, *new.shape[1:])
        to_both = weight[:, : 2 * units].transpose(1, 2).contiguous()
        to_candidate = weight[:, 2 * units :].transpose(1, 2).contiguous()
        offset = bias[:, None, 2 * units :].expand(new.shape[1:])
        before = states[0]
        steps = zip(reset_update.unbind(), new.unbind(), candidate.unbind(), states[1:].unbind(), strict=True)
        for both, fresh, hidden, after in steps:
            reset, update = both.baddbmm_(before, to_both).sigmoid_().chunk(2, dim=2)
            torch.baddbmm(offset, before, to_candidate, out=hidden)
            fresh.addcmul_(reset, hidden).tanh_()
            before = torch.lerp(fresh, before, update, out=after)
        ctx.save_for_backward(weight, states, reset_update, new, candidate, padded, packed)
        return states[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        weight, states, reset_update, new, candidate, _, packed = ctx.saved_tensors
        steps, groups, batch, units = new.shape
        reset, update = reset_update[..., :units], reset_update[..., units:].contiguous()
        # The factors that do not depend on later steps, for all steps at once: of the reset gate, the update gate
        # and the product with the state before in the new state.
        to_new = (1 - update) * (1 - new * new)
        factors = torch.empty(steps, groups, batch, 3, units, dtype=new.dtype, device=new.device)
        torch.mul(to_new, reset, out=factors[..., 2, :])
        torch.mul(factors[..., 2, :] * candidate, 1 - reset, out=factors[..., 0, :])
        torch.mul((states[:-1] - new) * update, 1 - update, out=factors[..., 1, :])
        d_states = torch.empty_like(new)
        d_hidden = factors  # each step's factors give way to its gradients
        carried = torch.zeros_like(new[0])
        flat = d_hidden.view(steps, groups, batch, 3 * units)
        lists = (gradient, d_states, update, d_hidden, flat)
        for given, d_state, kept, parts, row in zip(*(reversed(one.unbind()) for one in lists), strict=True):
            torch.add(given, carried, out=d_state)
            parts.mul_(d_state.unsqueeze(2))
            carried = torch.mul(d_state, kept).baddbmm_(row, weight)
        grouped = flat.transpose(0, 1).reshape(groups, steps * batch, 3 * units)
        before = states[:-1].transpose(0, 1).reshape(groups, steps * batch, units)
        d_weight, d_bias = torch.bmm(grouped.transpose(1, 2), before), grouped.sum(dim=1)
        torch.mul(d_states, to_new, out=d_hidden[..., 2, :])  # from here on of the gates, not of the products
        d_gates = flat.reshape(-1, 3 * units).index_select(0, packed)
        return d_gates, None, None, None, d_weight, d_bias


def _is_small(batch: int, weight: torch.Tensor) -> bool:
    """Whether a step's product is too small to be worth more than one thread."""
    return weight.device.type == "cpu" and batch * 4 * weight[0].numel() <= SMALL


def _few_states(
    gates: torch.Tensor, index: PackedIndex, weight: torch.Tensor, bias: torch.Tensor
) -> torch.Tensor:
    """What `_Recurrence` returns, without a gradient and for a few utterances, step by step in numpy.

    A call of numpy on so few numbers costs a fraction of one of torch, which also wakes its other threads for them.
    The logistic function is taken as a hyperbolic tangent of half the size.
    """
    units, batch = weight.shape[2], len(index.lengths)
    half = np.float32(0.5)
    # Both directions are one state, `(2 * units, batch)`, so that the numbers of a gate lie side by side; a row of ones
    # under it meets the bias of the product. Gates in the order reset, update, new.
    cells = (
        _cells(gates, index.padded, batch).view(-1, 2, batch, 3, units).permute(0, 3, 1, 4, 2).contiguous()
    )
    recurrent = torch.zeros(3, 2, units, 2 * units + 1)
    for way in range(2):
        recurrent[:, way, :, way * units : (way + 1) * units] = weight[way].view(3, units, units)
    recurrent[..., -1] = bias.view(2, 3, units).transpose(0, 1)
    matrix = recurrent.view(6 * units, -1).numpy()
    both_cells, new_cells = np.split(cells.view(-1, 6 * units, batch).numpy(), [4 * units], axis=1)
    both_cells *= half
    matrix[: 4 * units] *= half
    states = np.zeros((len(cells) + 1, 2 * units + 1, batch), dtype=np.float32)
    states[:, -1] = 1
    product = np.empty((6 * units, batch), dtype=np.float32)
    reset, update, both, new = (
        product[start * units : stop * units] for start, stop in ((0, 2), (2, 4), (0, 4), (4, 6))
    )
    with one_blas_thread():
        for state, before, after, both_cell, new_cell in zip(
            states, states[:, :-1], states[1:, :-1], both_cells, new_cells, strict=False
        ):
            np.matmul(matrix, state, out=product)
            both += both_cell
            np.tanh(both, out=both)
            both *= half
            both += half
            new *= reset
            new += new_cell
            np.tanh(new, out=new)
            np.subtract(before, new, out=after)
            after *= update
            after += new
    return torch.from_numpy(states[1:, :-1]).view(-1, 2, units, batch).transpose(2, 3)


def _cells(rows: torch.Tensor, padded: torch.Tensor, batch: int) -> torch.Tensor:
    """Packed rows `(2 * total frames, width)` in the time-major layout, `(steps, 2, batch, width)`."""
    return rows.index_select(0, padded).view(-1, 2, batch, rows.shape[1])


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
        gates = functional.linear(frames, weight.reshape(2 * width, -1), bias.reshape(-1)).reshape(-1, width)
        if _is_small(len(index.lengths), self.weight_hh) and not torch.is_grad_enabled():
            return _few_states(gates, index, self.weight_hh, self.bias_hh)
        states: torch.Tensor = _Recurrence.apply(
            gates,
            index.padded,
            index.packed,
            len(index.lengths),
            self.weight_hh,
            self.bias_hh,
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
