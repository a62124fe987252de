"""Calibration: a temperature for the logits, and a threshold below which the answer is "unsure".

In: logits of speakers whom the model has not heard, and their emotions. Out: a `Calibration`. What it is worth is
measured by the cross-validation on speakers that helped to choose neither number.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ser.errors import SettingsError

TEMPERATURES = (0.05, 20.0)
TARGET_PRECISION = 0.80  # of the answers that are not "unsure", on speakers whom the model has not heard
LEAST_COVERAGE, LEAST_ANSWERS = 0.1, 10  # a precision counted on fewer sure answers is chance
NEVER = 1.01  # a threshold above every probability: no answer is sure


@dataclass(frozen=True)
class Calibration:
    """How logits become probabilities, and which of them count as sure.

    Attributes:
        temperature: logits are divided by it (Guo et al. 2017).
        threshold: below this top probability the answer is "unsure"; `NEVER` where no threshold was precise enough.
        precision: share of right answers among the sure ones, on speakers that helped to choose neither number; None
            where nothing was measured or no answer was sure.
        coverage: share of sure answers, on the same speakers.
    """

    temperature: float = 1.0
    threshold: float = 0.0
    precision: float | None = None
    coverage: float | None = None

    def __post_init__(self) -> None:
        # Beyond these bounds the division overflows, or leaves nothing of the logits.
        if not 1e-6 <= self.temperature <= 1e6 or not 0 <= self.threshold <= NEVER:
            raise SettingsError(
                f"temperature must be positive (1e-6 to 1e6) and threshold between 0 and {NEVER}, "
                f"got {self.temperature} and {self.threshold}."
            )

    @property
    def is_never_sure(self) -> bool:
        """Whether no threshold was precise enough on validation speakers."""
        return self.threshold > 1


def softmax(logits: NDArray[np.floating], temperature: float = 1.0) -> NDArray[np.float64]:
    """Probabilities `(utterances, labels)` from logits."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    exponentials = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def fit_temperature(logits: NDArray[np.floating], true: NDArray[np.int64]) -> float:
    """Temperature with the least negative log likelihood (Guo et al. 2017).

    Args:
        logits: `(utterances, labels)` of utterances that the model was not trained on.
        true: `(utterances,)` indices of their emotions.
    """
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        probabilities = softmax(logits, float(np.exp(log_temperature)))
        return float(-np.log(np.maximum(probabilities[np.arange(len(true)), true], 1e-12)).mean())

    return float(np.exp(minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded").x))


def choose_threshold(probabilities: NDArray[np.floating], true: NDArray[np.int64]) -> float:
    """Least top probability from which on `TARGET_PRECISION` of the answers are right, or `NEVER`.

    A threshold counts only where it leaves `LEAST_COVERAGE` of the answers, and `LEAST_ANSWERS` of them, as sure: so
    a model at chance level is never sure.

    Args:
        probabilities: `(utterances, labels)`.
        true: `(utterances,)` indices of their emotions.
    """
    top = probabilities.max(axis=1)
    order = np.argsort(-top, kind="stable")
    top, right = top[order], (probabilities.argmax(axis=1) == true)[order]
    n_sure = np.arange(1, len(top) + 1)
    whole = np.append(top[1:] < top[:-1], True)[: len(top)]  # a threshold does not split equal probabilities
    useful = whole & (n_sure >= max(LEAST_COVERAGE * len(top), LEAST_ANSWERS))
    reached = np.flatnonzero(useful & (np.cumsum(right) / n_sure >= TARGET_PRECISION))
    return float(top[reached[-1]]) if len(reached) else NEVER


def calibrate(logits: NDArray[np.floating], true: NDArray[np.int64], temperature: float | None = None) -> Calibration:
    """Temperature, if none is given, and threshold from logits `(utterances, labels)` of unheard speakers."""
    temperature = fit_temperature(logits, true) if temperature is None else temperature
    return Calibration(temperature, choose_threshold(softmax(logits, temperature), true))


def measured(calibration: Calibration, sure: NDArray[np.bool_], right: NDArray[np.bool_]) -> Calibration:
    """Calibration with its precision and coverage: which answers `(utterances,)` were sure, and which right."""
    precision = float(right[sure].mean()) if sure.any() else None
    return replace(calibration, precision=precision, coverage=float(sure.mean()))
