"""The search space (section 4.2 of the paper), and how to search it.

In: nothing. Out: `SPACE`, `TuningSettings`; `suggest` draws the parameters of a trial, `trial_settings` turns them into
settings of a cross-validation.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from ser.errors import SettingsError
from ser.training.settings import CrossvalSettings, settings_from

STUDY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")  # it is also the name of a folder

Space = Mapping[str, BaseDistribution]

# The order of the parameters and of the optimizers matters: in this one, the first draw of seed 40 is the paper's best
# configuration, all seven values (tests/tuning/test_tuning.py).
SPACE: Space = {
    "base_units": IntDistribution(128, 256, step=32),
    "final_units": IntDistribution(32, 128, step=32),
    "gru_layers": IntDistribution(1, 2),
    "learning_rate": FloatDistribution(0.001, 0.01, step=0.001),
    "dropout": FloatDistribution(0.0, 0.5, step=0.05),
    "l2": FloatDistribution(0.01, 0.028, step=0.003),  # up to 0.03 in the paper, which the steps do not reach
    "optimizer": CategoricalDistribution(("adam", "rmsprop", "sgd")),
}


@dataclass(frozen=True)
class TuningSettings:
    """How to search; the defaults are the paper's.

    Attributes:
        trials: number of trials to finish, over all workers and however often the search is resumed.
        timeout_s: no trial starts once trials have run for this long, those before the search was resumed counted.
        sampler: "tpe" (the paper) or "cmaes".
        startup_trials: drawn at random before the sampler learns from them.
        min_resource: epochs before the first decision to prune.
        reduction_factor: one trial in this many continues at each decision; by default they come after 5, 20 and
            80 epochs.
        seed: of the sampler.
    """

    trials: int = 10
    timeout_s: float = 32_400
    sampler: Literal["tpe", "cmaes"] = "tpe"
    startup_trials: int = 5
    min_resource: int = 5
    reduction_factor: int = 4
    seed: int = 40

    def __post_init__(self) -> None:
        if self.trials < 1 or not 0 < self.timeout_s < math.inf:
            raise SettingsError(
                f"trials must be at least 1 and the time limit positive, got {self.trials} and {self.timeout_s}."
            )
        if self.sampler not in ("tpe", "cmaes"):
            raise SettingsError(f"sampler must be tpe or cmaes, got {self.sampler!r}.")
        if self.startup_trials < 1 or self.min_resource < 1 or self.reduction_factor < 2:
            raise SettingsError(
                "startup_trials and min_resource must be at least 1 and reduction_factor at least 2, "
                f"got {self.startup_trials}, {self.min_resource} and {self.reduction_factor}."
            )


def check_study_name(name: str) -> str:
    """Return the name, if it can also name a folder.

    Raises:
        SettingsError: it cannot.
    """
    if not STUDY_NAME.fullmatch(name):
        raise SettingsError(
            f"A study is named with up to 80 letters, digits, dots, dashes and underscores, got {name!r}."
        )
    return name


def suggest(trial: optuna.Trial, space: Space) -> dict[str, Any]:
    """The parameters of a trial, drawn by its sampler in the order of the space."""
    chosen: dict[str, Any] = {}
    for name, part in space.items():
        if isinstance(part, IntDistribution):
            chosen[name] = trial.suggest_int(name, part.low, part.high, step=part.step)
        elif isinstance(part, FloatDistribution):
            chosen[name] = trial.suggest_float(name, part.low, part.high, step=part.step, log=part.log)
        elif isinstance(part, CategoricalDistribution):
            chosen[name] = trial.suggest_categorical(name, part.choices)
    return chosen


def trial_settings(base: CrossvalSettings, parameters: Mapping[str, Any]) -> CrossvalSettings:
    """Settings that a trial's parameters describe, 0.009 for 0.009000000000000001; the rest stays as in `base`."""
    clean = {name: round(value, 9) if isinstance(value, float) else value for name, value in parameters.items()}
    classifier, training = settings_from({**asdict(base.classifier), **asdict(base.training), **clean})
    return replace(base, classifier=classifier, training=training)
