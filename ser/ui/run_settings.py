"""The numbers that the training tabs offer, with their ranges and presets, and the options they make.

In: values from a browser, in the order of a table of `Number`s. Out: options of `ser crossval` or `ser tune`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from ser.ui.training_texts import Problem

OPTIMIZERS = ("sgd", "adam", "rmsprop")
SAMPLERS = ("tpe", "cmaes")


class Number(NamedTuple):
    """One option: its range, its value for a real corpus (the paper's) and for the demonstration, its unit."""

    name: str
    least: float
    most: float
    step: float
    paper: float
    quick: float
    unit: int = 1  # 60 where minutes are offered and the option takes seconds

    @property
    def flag(self) -> str:
        return f"--{self.name.replace('_', '-')}"


CROSSVAL_NUMBERS: tuple[Number, ...] = (
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
TUNE_NUMBERS: tuple[Number, ...] = (
    Number("trials", 1, 1000, 1, 10, 10),
    Number("timeout", 1, 10_080, 1, 540, 20, unit=60),
    Number("max_epochs", 1, 300, 1, 150, 8),
    Number("patience", 0, 50, 1, 3, 3),
    Number("folds", 2, 10, 1, 5, 5),
)


def options(numbers: Sequence[Number], values: Sequence[object]) -> list[str]:
    """The options for the values of numbers.

    Raises:
        Problem: a value is missing, is no number or outside its range.
    """
    given = [*values, *([None] * len(numbers))]
    flags = [number.flag for number in numbers]
    words = [_checked(number, value) for number, value in zip(numbers, given, strict=False)]
    return [part for pair in zip(flags, words, strict=True) for part in pair]


def values_of(numbers: Sequence[Number], words: Sequence[str]) -> list[float]:
    """The values of numbers in the options of a command; the paper's where an option is missing or no number."""
    return [_read(number, option(words, number.flag, "")) for number in numbers]


def option(words: Sequence[str], flag: str, otherwise: str) -> str:
    """The word behind a flag of a command, the last one where it stands twice."""
    found = [word for before, word in pairwise(words) if before == flag]
    return found[-1] if found else otherwise


def choice(name: str, value: object, choices: Sequence[str]) -> list[str]:
    """The option for one of several words; raises `Problem` where it is none of them."""
    if value not in choices:
        raise Problem("bad_choice", setting=f"ser_job_{name}", choices=", ".join(choices))
    return [f"--{name}", str(value)]


def _read(number: Number, word: str) -> float:
    try:
        value = float(word) / number.unit
    except ValueError:
        return number.paper
    return int(value) if value.is_integer() else value


def _checked(number: Number, value: object) -> str:
    is_whole = float(number.step).is_integer()
    fits = isinstance(value, int | float) and math.isfinite(value) and number.least <= value <= number.most
    if not isinstance(value, int | float) or not fits or (is_whole and value != int(value)):
        key = "bad_whole_number" if is_whole else "bad_number"
        raise Problem(key, setting=f"ser_job_{number.name}", least=number.least, most=number.most)
    return str(int(value) * number.unit) if is_whole else repr(float(value))
