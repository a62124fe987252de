"""What a training has to keep, as named tensors: read from a file, parted by prefix, an optimiser's state to and fro.

In: a file of safetensors, or an optimiser. Out: tensors by name, or the optimiser as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open

Tensors = dict[str, torch.Tensor]


def read_tensors(path: Path) -> tuple[dict[str, str], Tensors]:
    """The metadata and the tensors of a file; whatever safetensors raises where it is damaged."""
    with safe_open(path, "pt") as file:
        return file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def part(tensors: Mapping[str, torch.Tensor], prefix: str) -> Tensors:
    """Those whose names begin with a prefix, without it."""
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> Tensors:
    """The state of an optimiser, named "NUMBER OF THE WEIGHT.ENTRY"."""
    return {
        f"{index}.{entry}": torch.as_tensor(value)
        for index, state in optimizer.state_dict()["state"].items()
        for entry, value in state.items()
        if value is not None
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Give an optimiser the state that `optimizer_tensors` named."""
    state = optimizer.state_dict()
    for key, value in tensors.items():
        index, entry = key.split(".", 1)
        state["state"].setdefault(int(index), {})[entry] = value
    optimizer.load_state_dict(state)
