"""The compiled recurrence of a bidirectional GRU, `ser/gru.c`: for an answer, and for training with its gradient.

Only to be called where `ser.native.kernels()` is not None. The shapes are those of `ser.gru`: a row is one direction of
a frame, row 2 i + d being direction d of frame i; gates stand in the order reset, update, new.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from ser.native import LANES, kernels, up

COLUMNS, PANEL = 8 * LANES, 3 * LANES  # as in gru.c and floats.h


class Recurrence:
    """A bidirectional GRU without a gradient, utterance by utterance; its weights are laid out once."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        """From `(2, 3 * units, units)` of the products of a step, and `(2, units)` of the last gate's."""
        self.units = units = weight.shape[2]
        self.width = up(3 * units, COLUMNS)
        more = self.width - 3 * units
        self.matrix = functional.pad(weight.detach().transpose(1, 2), (0, more)).contiguous()
        self.biases = functional.pad(bias.detach(), (2 * units, more)).contiguous()

    def __call__(self, gates: torch.Tensor, starts: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """The states `(total frames, 2, units)`.

        Args:
            gates: `(rows, 3 * units)`, as in `ser.gru`.
            starts, lengths: `(batch,)` of the utterances.
        """
        compiled = kernels()
        assert compiled is not None
        batch = len(lengths)
        states, room = gates.new_empty(len(gates) // 2, 2, self.units), gates.new_empty(2 * batch, self.width)
        arrays = (gates.contiguous(), self.matrix, self.biases, states, starts, lengths)
        compiled.ser_gru(
            *(array.data_ptr() for array in arrays), batch, self.units, self.width, room.data_ptr(),
            torch.get_num_threads(),
        )  # fmt: skip
        return states


def gru_forward(
    gates: torch.Tensor, order: torch.Tensor, starts: torch.Tensor, lengths: torch.Tensor, weight: torch.Tensor,
    bias: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """The recurrence of a bidirectional GRU, with what its gradient needs.

    Args:
        gates: `(rows, 3 * units)`, as in `ser.gru`.
        order: `(batch,)` the utterances from the longest to the shortest.
        starts, lengths: `(batch,)` of the utterances.
        weight, bias: as for `Recurrence`.

    Returns:
        `(rows, 3 * units)` the reset gate, the update gate and the product that is reset; `(rows, units)` the new gate;
        `(rows, units)` the states.
    """
    compiled = kernels()
    assert compiled is not None
    units = weight.shape[2]
    panels = weight.view(2, 3, -1, LANES, units).permute(0, 2, 4, 1, 3).contiguous()
    products, (fresh, states) = torch.empty_like(gates), gates.new_empty(2, len(gates), units)
    arrays = (
        gates.contiguous(), products, fresh, states, panels, bias.contiguous(), starts[order], lengths[order]
    )  # fmt: skip
    compiled.ser_gru_forward(
        *(array.data_ptr() for array in arrays), len(order), units, torch.get_num_threads()
    )
    return products, fresh, states


def gru_back(
    d_states: torch.Tensor, products: torch.Tensor, fresh: torch.Tensor, states: torch.Tensor, order: torch.Tensor,
    starts: torch.Tensor, lengths: torch.Tensor, weight: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """The gradient of `gru_forward`.

    Args:
        d_states: `(rows, units)` the gradient of the states, without what later steps add.
        products, fresh, states: what `gru_forward` gave.
        order, starts, lengths, weight: as there.

    Returns:
        `(rows, 3 * units)` of the gates; `(rows, units)` of the product that is reset; `(rows, units)` the state before
        each.
    """
    compiled = kernels()
    assert compiled is not None
    units = weight.shape[2]
    padded = up(units, PANEL)
    columns = functional.pad(weight, (0, padded - units)).view(2, 3, units, -1, PANEL)
    panels, later = columns.transpose(2, 3).contiguous(), weight.new_empty(2, len(order), padded)
    d_gates, (d_hidden, before) = torch.empty_like(products), products.new_empty(2, *states.shape)
    arrays = (
        products, fresh, states, d_states.contiguous(), d_gates, d_hidden, before, panels, later, starts[order],
        lengths[order],
    )  # fmt: skip
    compiled.ser_gru_back(*(array.data_ptr() for array in arrays), len(order), units, torch.get_num_threads())
    return d_gates, d_hidden, before
