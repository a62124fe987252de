"""Probabilities that mean something: a temperature for the logits and a threshold for "unsure".

Both are fitted on validation speakers; what they are worth is measured on speakers that neither saw.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ser.errors import SettingsError

TEMPERATURES = (0.05, 20.0)
TARGET_PRECISION = 0.75  # of the answers that are not "unsure", on validation speakers
LEAST_COVERAGE = 0.1  # a threshold that leaves fewer answers than this is no use


@dataclass(frozen=True)
class Calibration:
    """What turns logits into probabilities that mean something.

    Attributes:
        temperature: logits are divided by it (Guo et al. 2017), fitted on validation speakers.
        threshold: below this top probability the answer is "unsure".
        precision: share of right answers at or above the threshold, on speakers not used to choose it.
        coverage: share of utterances at or above the threshold, on the same speakers.
    """

    temperature: float = 1.0
    threshold: float = 0.0
    precision: float | None = None
    coverage: float | None = None

    def __post_init__(self) -> None:
        # Beyond these bounds the division overflows, or leaves nothing of the logits.
        if not 1e-6 <= self.temperature <= 1e6 or not 0 <= self.threshold <= 1:
            raise SettingsError(
                f"temperature must be positive (1e-6 to 1e6) and threshold between 0 and 1, "
                f"got {self.temperature} and {self.threshold}."
            )


def softmax(logits: NDArray[np.floating], temperature: float = 1.0) -> NDArray[np.float64]:
    """Rows of probabilities from rows of logits."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    exponentials = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def fit_temperature(logits: NDArray[np.floating], true: NDArray[np.int64]) -> float:
    """The temperature with the least negative log likelihood (Guo et al. 2017).

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
    """The least top probability at which `TARGET_PRECISION` of the answers are right.

    Where that is out of reach, the threshold with the best precision that still answers `LEAST_COVERAGE`.
    """
    top, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == true
    order = np.argsort(-top, kind="stable")
    precision = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    useful = np.arange(1, len(order) + 1) >= LEAST_COVERAGE * len(order)
    reached = np.flatnonzero(useful & (precision >= TARGET_PRECISION))
    chosen = reached[-1] if len(reached) else int(np.where(useful, precision, -1).argmax())
    return float(top[order][chosen])


def calibrate(logits: NDArray[np.floating], true: NDArray[np.int64]) -> Calibration:
    """Temperature and threshold from validation logits `(utterances, labels)`."""
    temperature = fit_temperature(logits, true)
    return Calibration(temperature, choose_threshold(softmax(logits, temperature), true))


def measured(
    calibration: Calibration, probabilities: NDArray[np.floating], true: NDArray[np.int64]
) -> Calibration:
    """The same calibration with its precision and coverage on utterances of other speakers."""
    sure = probabilities.max(axis=1) >= calibration.threshold
    right = probabilities.argmax(axis=1) == true
    precision = float(right[sure].mean()) if sure.any() else None
    return replace(calibration, precision=precision, coverage=float(sure.mean()))
