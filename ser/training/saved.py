"""A training as one file: weights, best weights, optimiser state and reports, whole or not at all.

In: a `Training` and a path. Out: the file, or the training as it was when the file was written, which goes on as if it
had never stopped. How many epochs a file tells of is read from its head alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save as packed

from ser.errors import SettingsError
from ser.files import write_atomically
from ser.states import load_optimizer, optimizer_tensors, part, read_tensors
from ser.training.trainer import EpochReport, Training, copied_state


def save(training: Training, path: Path) -> None:
    """Write a training as one file, atomically."""
    tensors = {f"model.{key}": value for key, value in copied_state(training.model).items()}
    if training.average is not None:
        tensors |= {f"average.{key}": value for key, value in copied_state(training.average).items()}
    tensors |= {f"best.{key}": value for key, value in training.best_state.items()}
    tensors |= {f"optimizer.{key}": value for key, value in optimizer_tensors(training.optimizer).items()}
    progress = {
        "epochs": [report.to_dict() for report in training.epochs],
        "best_epoch": training.best_epoch,
        "best_monitored": training.best_monitored if math.isfinite(training.best_monitored) else None,
        "stopped": training.stopped,
    }
    write_atomically(path, packed(tensors, metadata={"progress": json.dumps(progress)}))


def n_epochs(path: Path) -> int:
    """How many epochs a file tells of; 0 where there is none.

    Raises:
        SettingsError: the file is damaged.
    """
    if not path.exists():
        return 0
    with _usable(path), safe_open(path, "pt") as file:
        return len(json.loads(file.metadata()["progress"])["epochs"])


def found(training: Training, path: Path) -> bool:
    """Take over what `save` wrote, if it did."""
    if path.exists():
        restore(training, path)
    return path.exists()


def restore(training: Training, path: Path) -> None:
    """Take over what `save` wrote.

    Raises:
        SettingsError: the file is damaged or was written with other settings.
    """
    with _usable(path):
        metadata, tensors = read_tensors(path)
        progress = json.loads(metadata["progress"])
        training.model.load_state_dict(part(tensors, "model."))
        training.best_state = part(tensors, "best.")
        if training.average is not None:
            training.average.load_state_dict(part(tensors, "average."))
        load_optimizer(training.optimizer, part(tensors, "optimizer."))
    training.epochs = [EpochReport(**report) for report in progress["epochs"]]
    best = progress["best_monitored"]
    training.best_epoch, training.best_monitored = progress["best_epoch"], math.inf if best is None else best
    training.stopped = progress["stopped"]


@contextmanager
def _usable(path: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise SettingsError(f"The saved state {path} cannot be used ({error}). Delete it to begin anew.") from error
