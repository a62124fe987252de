"""A bidirectional GRU layer over utterances of unequal length, without padding.

The frames of a batch lie one utterance after the other, `(total frames, dim)`, and so do the states. The input
projection of all steps and both directions is one product. For the recurrence the utterances are sorted by length, so
that a step computes only those that still last, in both directions at once, with a hand-written gradient: what depends
on the step before stays in the loop, everything else is done at once. Equal to `torch.nn.GRU` on packed sequences
(Cho et al. 2014, in the form with the reset gate after the product); the tests compare both.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import groupby
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional


@dataclass(frozen=True)
class StepLayout:
    """The rows of a batch step after step, in a step the forward and then the backward direction, in a direction the
    utterances that still last, longest first.

    Attributes:
        to_steps: `(rows,)` for each place in the layout, its row.
        to_rows: `(rows,)` for each row, its place: the way back.
        runs: successive steps of one size: how many steps, how many utterances in each.
    """

    to_steps: torch.Tensor
    to_rows: torch.Tensor
    runs: tuple[tuple[int, int], ...]

    def split(self, layout: torch.Tensor) -> list[torch.Tensor]:
        """`(rows, width)` in the layout: of each run a view `(steps, 2, utterances, width)`."""
        parts = layout.split([2 * steps * size for steps, size in self.runs])
        return [part.view(steps, 2, size, -1) for part, (steps, size) in zip(parts, self.runs, strict=True)]


@dataclass(frozen=True)
class PackedIndex:
    """Where the utterances of a batch stand.

    A row is one direction of a frame: row 2 i + d of a batch is direction d of its frame i.

    Attributes:
        lengths, starts: `(batch,)` frames of each utterance, and the first one's number.
        order: `(batch,)` the utterances from the longest to the shortest.
    """

    lengths: torch.Tensor
    starts: torch.Tensor
    order: torch.Tensor

    @classmethod
    def of(cls, lengths: torch.Tensor) -> PackedIndex:
        """From the lengths `(batch,)`, each at least 1."""
        starts = torch.cumsum(lengths, 0) - lengths
        return cls(lengths, starts, torch.argsort(lengths, descending=True, stable=True))

    @property
    def ends(self) -> torch.Tensor:
        """`(batch,)` the number of each utterance's last frame."""
        return self.starts + self.lengths - 1

    @cached_property
    def layout(self) -> StepLayout:
        """For a recurrence that goes step by step through all utterances."""
        time, back, rank, sizes = self._steps()
        before = 2 * (torch.cumsum(sizes, 0) - sizes)
        to_rows = torch.stack([before[time] + rank, before[back] + sizes[back] + rank], dim=1).reshape(-1)
        runs = tuple((len(list(same)), size) for size, same in groupby(sizes.tolist()))
        return StepLayout(torch.argsort(to_rows), to_rows, runs)

    @cached_property
    def packed(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """For torch's own GRU, as in a `PackedSequence`: for each place in it the frame, for each frame its place, and
        how many utterances each step has, the last on the processor."""
        time, _, rank, sizes = self._steps()
        places = (torch.cumsum(sizes, 0) - sizes)[time] + rank
        return torch.argsort(places), places, sizes.cpu()

    def _steps(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of each frame its step forward and backward and its utterance's place in `order`; how many each step has."""
        utterance = torch.repeat_interleave(self.lengths)
        time = torch.arange(len(utterance), device=self.lengths.device) - self.starts[utterance]
        rank = torch.argsort(self.order)[utterance]
        return time, self.lengths[utterance] - 1 - time, rank, torch.bincount(time)

    def to(self, device: torch.device) -> PackedIndex:
        return PackedIndex(self.lengths.to(device), self.starts.to(device), self.order.to(device))


@cache
def _scripted(function: Callable[..., None]) -> Callable[..., None]:
    """The same as TorchScript, which runs without Python's lock.

    Folds that train on a thread each would wait for it at every one of thousands of small products, a sixth of the
    time. torch calls its scripts deprecated and has no successor that does without a compiler; should a version have
    none, Python runs the function.
    """
    script = getattr(torch.jit, "script", lambda same: same)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted: Callable[..., None] = script(function)
    return scripted


def _run_forward(
    products: list[torch.Tensor], new: list[torch.Tensor], states: list[torch.Tensor], weight: torch.Tensor,
    bias: torch.Tensor,
) -> None:  # fmt: skip
    """The recurrence in place: projections, in `products`, become gates and states, run after run."""
    units = weight.size(2)
    to_products = weight.transpose(1, 2).contiguous()
    before = torch.zeros_like(states[0][0])
    for run, run_states in enumerate(states):
        reset, update, hidden = products[run].split(units, 3)
        new[run].copy_(hidden)
        hidden.copy_(bias.unsqueeze(1))
        both, steps = products[run][:, :, :, : 2 * units].unbind(), products[run].unbind()
        resets, updates, hiddens = reset.unbind(), update.unbind(), hidden.unbind()
        fresh = new[run].unbind()
        before = before[:, : run_states.size(2)]
        for step, state in enumerate(run_states.unbind()):
            steps[step].baddbmm_(before, to_products)
            both[step].sigmoid_()
            fresh[step].addcmul_(resets[step], hiddens[step]).tanh_()
            torch.lerp(fresh[step], before, updates[step], out=state)
            before = state


def _run_back(
    products: list[torch.Tensor], new: list[torch.Tensor], states: list[torch.Tensor], d_states: list[torch.Tensor],
    d_products: list[torch.Tensor], d_new: list[torch.Tensor], weight: torch.Tensor,
) -> None:  # fmt: skip
    """Its gradient, run after run from the last: `d_states` gets what comes from later steps, the others are filled."""
    units = weight.size(2)
    for back in range(len(products)):
        run = len(products) - 1 - back
        reset, update, hidden = products[run].split(units, 3)
        to_reset, to_update, to_hidden = d_products[run].split(units, 3)
        # The factors that do not depend on later steps: of the reset gate, the update gate and the product that is
        # reset. Each step's give way to its gradients.
        keep = 1 - update
        to_new = (1 - new[run] * new[run]).mul_(keep)
        torch.mul(to_new, reset, out=to_hidden)
        torch.mul(to_hidden * hidden, 1 - reset, out=to_reset)
        torch.mul(states[run] - new[run], keep, out=to_update)
        steps, factors, updates = d_states[run].unbind(), d_products[run].unbind(), update.unbind()
        gates = d_products[run].unflatten(3, [3, units]).unbind()
        for step_back in range(len(steps)):
            step = len(steps) - 1 - step_back
            d_state = steps[step]
            gates[step].mul_(d_state.unsqueeze(2))
            if step > 0 or run > 0:
                before = steps[step - 1] if step > 0 else d_states[run - 1][-1][:, : d_state.size(1)]
                before.addcmul_(d_state, updates[step]).baddbmm_(factors[step], weight)
        torch.mul(to_new, d_states[run], out=d_new[run])


class _Recurrence(torch.autograd.Function):
    """The recurrence of both directions.

    gates `(rows, 3 * units)` are the input projections in the order reset, update, new, the biases of the products but
    the last included; weight `(2, 3 * units, units)`, and bias `(2, units)` of the product that is reset. Returns the
    states `(total frames, 2, units)`.
    """

    @staticmethod
    def forward(
        ctx: Any, gates: torch.Tensor, index: PackedIndex, weight: torch.Tensor, bias: torch.Tensor
    ) -> torch.Tensor:
        layout, units = index.layout, weight.shape[2]
        products = gates.index_select(0, layout.to_steps)
        new, by_step = products.new_empty(2, len(products), units)
        _scripted(_run_forward)(*(layout.split(one) for one in (products, new, by_step)), weight, bias)
        states = by_step.index_select(0, layout.to_rows).view(-1, 2, units)
        ctx.save_for_backward(weight, products, new, by_step, states)
        ctx.index = index
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        weight, products, new, by_step, states = ctx.saved_tensors
        index, layout, units = ctx.index, ctx.index.layout, weight.shape[2]
        d_by_step = gradient.reshape(-1, units).index_select(0, layout.to_steps)
        d_products, d_new = torch.empty_like(products), torch.empty_like(new)
        layouts = (products, new, by_step, d_by_step, d_products, d_new)
        _scripted(_run_back)(*(layout.split(one) for one in layouts), weight)
        d_gates = d_products.index_select(0, layout.to_rows)
        d_hidden = d_gates[:, 2 * units :].clone()
        d_gates[:, 2 * units :] = d_new.index_select(0, layout.to_rows)  # of the gate, not of its product
        before = torch.zeros_like(states)
        before[1:, 0], before[:-1, 1] = states[:-1, 0], states[1:, 1]
        before[index.starts, 0] = before[index.ends, 1] = 0
        return d_gates, None, *_of_weights(d_gates, d_hidden, before.view(-1, units))


def _of_weights(
    d_gates: torch.Tensor, d_hidden: torch.Tensor, before: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient of a recurrence's weight and bias.

    From those of the gates `(rows, 3 * units)` and of the product that is reset `(rows, units)`, and from the states
    before.
    """
    units = before.shape[1]
    both, hidden, states = (
        one.view(-1, 2, one.shape[1]).transpose(0, 1) for one in (d_gates, d_hidden, before)
    )
    parts = [torch.bmm(one.transpose(1, 2), states) for one in (both[..., : 2 * units], hidden)]
    return torch.cat(parts, dim=1), hidden.sum(dim=1)


def _is_elsewhere(tensor: torch.Tensor) -> bool:
    return tensor.device.type != "cpu"


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

    def forward(
        self, frames: torch.Tensor, index: PackedIndex, weight: torch.Tensor | None = None,
        bias: torch.Tensor | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """The states at every frame, forward and backward: `(total frames, 2 * units)`.

        Args:
            frames: `(total frames, dim)`, the utterances of the batch one after the other.
            index: of the batch.
            weight, bias: in place of `weight_ih` and `bias_ih`, where a caller has folded a scale into them.
        """
        if _is_elsewhere(frames):
            return self._of_torch(frames, index, weight, bias)
        gates = functional.linear(frames, *self.projection(weight, bias)).reshape(-1, 3 * self.units)
        states = _Recurrence.apply(gates, index, self.weight_hh, self.bias_hh[:, 2 * self.units :])
        return states.reshape(-1, 2 * self.units)

    def _of_torch(
        self, frames: torch.Tensor, index: PackedIndex, weight: torch.Tensor | None, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """As `forward`, by torch's own GRU: on a GPU that of cuDNN, where a step is not worth a call."""
        weight = self.weight_ih if weight is None else weight
        bias = self.bias_ih if bias is None else bias
        weights = [one for way in zip(weight, self.weight_hh, bias, self.bias_hh, strict=True) for one in way]
        to_steps, to_frames, sizes = index.packed
        initial = frames.new_zeros(2, len(index.lengths), self.units)
        with warnings.catch_warnings():  # cuDNN would have the weights in one piece, and copies them
            warnings.filterwarnings(
                "ignore", message="RNN module weights are not part of single contiguous chunk"
            )
            states, _ = torch.gru(
                frames.index_select(0, to_steps), sizes, initial, weights, has_biases=True, num_layers=1, dropout=0.0,
                train=torch.is_grad_enabled(), bidirectional=True,
            )  # fmt: skip
        return states.index_select(0, to_frames)

    def projection(
        self, weight: torch.Tensor | None = None, bias: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight `(6 * units, dim)` and bias `(6 * units,)` of the input projection of both directions.

        The biases of the products of a step are in it, but for the last gate's. The arguments are those of `forward`.
        """
        weight = self.weight_ih if weight is None else weight
        bias = self.bias_ih if bias is None else bias
        bias = bias + functional.pad(self.bias_hh[:, : 2 * self.units], (0, self.units))
        return weight.reshape(6 * self.units, -1), bias.reshape(-1)

    def last(self, states: torch.Tensor, index: PackedIndex) -> torch.Tensor:
        """Last forward and first backward state of each utterance, concatenated: `(batch, 2 * units)`."""
        return torch.cat([states[index.ends, : self.units], states[index.starts, self.units :]], dim=1)
