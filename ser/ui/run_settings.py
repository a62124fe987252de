"""The settings that the tab Cross-validate offers: ranges, presets, and the command they make.

In: values from a browser, in the order of `NUMBERS`, then the optimiser. Out: the words of `ser crossval`. A
value outside its range raises `SettingsError`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ser.errors import SettingsError

OPTIMIZERS = ("sgd", "adam", "rmsprop")
PAPER, QUICK = "paper", "quick"


class Number(NamedTuple):
    """One number: its option of `ser crossval`, its range, and its value in each preset."""

    name: str
    least: float
    most: float
    step: float
    paper: float
    quick: float

    @property
    def is_whole(self) -> bool:
        return float(self.step).is_integer()


NUMBERS: tuple[Number, ...] = (
    Number("max_epochs", 1, 300, 1, 150, 20),
    Number("patience", 0, 50, 1, 3, 4),
    Number("learning_rate", 0.0001, 0.1, 0.0001, 0.003, 0.003),
    Number("l2", 0, 0.1, 0.0001, 0.016, 0.0001),
    Number("base_units", 16, 512, 16, 192, 64),
    Number("final_units", 16, 256, 16, 32, 32),
    Number("gru_layers", 1, 3, 1, 2, 1),
    Number("dropout", 0, 0.8, 0.05, 0.2, 0.2),
    Number("folds", 2, 10, 1, 5, 5),
    Number("seed", 0, 9999, 1, 40, 40),
)


def preset(name: str) -> list[float | str]:
    """The values of a preset: the paper's best configuration, or one that learns the demonstration soon."""
    if name == QUICK:
        return [*(number.quick for number in NUMBERS), "adam"]
    return [*(number.paper for number in NUMBERS), "sgd"]


def command(corpus: Path, encoder: str, values: Sequence[object], out: Path, cache: Path) -> list[str]:
    """The words after `python -m ser` for a cross-validation with these values.

    Raises:
        SettingsError: a value is missing, is no number or outside its range.
    """
    if len(values) != len(NUMBERS) + 1:
        raise SettingsError(f"A run needs {len(NUMBERS) + 1} values, got {len(values)}.")
    words = [
        "crossval",
        "--corpus",
        str(corpus),
        "--encoder",
        encoder,
        "--out",
        str(out),
        "--cache",
        str(cache),
    ]
    for number, value in zip(NUMBERS, values, strict=False):
        words += [f"--{number.name.replace('_', '-')}", _checked(number, value)]
    if values[-1] not in OPTIMIZERS:
        raise SettingsError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {values[-1]!r}.")
    return [*words, "--optimizer", str(values[-1])]


def _checked(number: Number, value: object) -> str:
    kind = "whole number" if number.is_whole else "number"
    fits = isinstance(value, int | float) and math.isfinite(value) and number.least <= value <= number.most
    if not fits or (number.is_whole and value != int(value)):  # type: ignore[call-overload]
        raise SettingsError(
            f"{number.name} must be a {kind} from {number.least:g} to {number.most:g}, got {value!r}."
        )
    return str(int(value)) if number.is_whole else repr(float(value))  # type: ignore[call-overload, arg-type]
