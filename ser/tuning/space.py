"""What a search varies (section 4.2 of the paper), and how long and by what rule it searches.

In: nothing. Out: `SPACE`, the paper's best configuration in it, `TuningSettings`, and `trial_settings`, which
turns the parameters of a trial into settings of a cross-validation. Knows nothing of Optuna.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from ser.errors import SettingsError
from ser.training.settings import CrossvalSettings, settings_from, settings_to_dict

STUDY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")  # it is also the name of a folder


@dataclass(frozen=True)
class Range:
    """Numbers from `low` by `step` up to `high`; whole numbers if all three are."""

    low: float
    high: float
    step: float

    @property
    def is_whole(self) -> bool:
        return all(isinstance(number, int) for number in (self.low, self.high, self.step))

    @property
    def last(self) -> float:
        """The highest number that the steps reach: 0.028 of 0.01 to 0.03 by 0.003."""
        if self.is_whole:
            return self.low + (self.high - self.low) // self.step * self.step
        steps = math.floor((self.high - self.low) / self.step + 1e-9)
        return round(self.low + steps * self.step, 9)


@dataclass(frozen=True)
class Choice:
    """One of some words."""

    words: tuple[str, ...]


Space = Mapping[str, Range | Choice]

SPACE: Space = {
    "base_units": Range(128, 256, 32),
    "final_units": Range(32, 128, 32),
    "gru_layers": Range(1, 2, 1),
    "learning_rate": Range(0.001, 0.01, 0.001),
    "dropout": Range(0.0, 0.5, 0.05),
    "l2": Range(0.01, 0.03, 0.003),
    "optimizer": Choice(("adam", "sgd", "rmsprop")),
}

PAPER_BEST: Mapping[str, Any] = {
    "base_units": 192, "final_units": 32, "gru_layers": 2, "learning_rate": 0.003, "dropout": 0.2,
    "l2": 0.016, "optimizer": "sgd",
}  # fmt: skip


@dataclass(frozen=True)
class TuningSettings:
    """How to search; the defaults are the paper's.

    Attributes:
        trials: configurations to try in all, over every worker and every time the search is taken up again.
        timeout_s: no trial starts after so many seconds; the one that runs then is finished.
        sampler: "tpe" (the paper) or "cmaes".
        startup_trials: drawn at random before the sampler learns from them.
        min_resource: epochs before the first decision to prune.
        reduction_factor: one in so many goes on at each decision; they come after 5, 20 and 80 epochs.
        enqueue_paper: try the paper's best configuration first.
        seed: of the sampler.
    """

    trials: int = 10
    timeout_s: float = 32_400
    sampler: Literal["tpe", "cmaes"] = "tpe"
    startup_trials: int = 5
    min_resource: int = 5
    reduction_factor: int = 4
    enqueue_paper: bool = False
    seed: int = 40

    def __post_init__(self) -> None:
        if self.trials < 1 or not self.timeout_s > 0 or not math.isfinite(self.timeout_s):
            raise SettingsError(
                f"trials must be at least 1 and the time limit positive, "
                f"got {self.trials} and {self.timeout_s}."
            )
        if self.sampler not in ("tpe", "cmaes"):
            raise SettingsError(f"sampler must be tpe or cmaes, got {self.sampler!r}.")
        if self.startup_trials < 1 or self.min_resource < 1 or self.reduction_factor < 2:
            raise SettingsError(
                "startup_trials and min_resource must be at least 1 and reduction_factor at least 2, "
                f"got {self.startup_trials}, {self.min_resource} and {self.reduction_factor}."
            )


def check_study_name(name: str) -> str:
    """The name, if it can also name a folder.

    Raises:
        SettingsError: it cannot.
    """
    if not STUDY_NAME.fullmatch(name):
        raise SettingsError(
            f"A study is named with up to 80 letters, digits, dots, dashes and underscores, got {name!r}."
        )
    return name


def trial_settings(base: CrossvalSettings, parameters: Mapping[str, Any]) -> CrossvalSettings:
    """The cross-validation that a trial's parameters describe; what is not searched stays as in `base`."""
    clean = {
        name: round(value, 9) if isinstance(value, float) else value for name, value in parameters.items()
    }
    classifier, training = settings_from({**asdict(base.classifier), **asdict(base.training), **clean})
    return replace(base, classifier=classifier, training=training)


def fixed_part(base: CrossvalSettings, space: Space) -> dict[str, Any]:
    """The settings that every trial shares."""
    everything = {**settings_to_dict(base.classifier), **settings_to_dict(base.training)}
    return {name: value for name, value in everything.items() if name not in space}
