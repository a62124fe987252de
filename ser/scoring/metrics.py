"""Scores with bootstrap confidence intervals over speakers.

In: true classes, probabilities (or predicted classes) and the speaker of every utterance. Out: `Scores`, each number
with a 95 % percentile interval: whole speakers are drawn with replacement, since utterances of one speaker are alike,
and a replicate takes all utterances of a speaker as often as the speaker was drawn (the condition-aware bootstrap of
Ferrer and Riera's `confidence_intervals`). Every score is a function of sums over utterances, so one table of sums per
speaker and one matrix product serve a thousand replicates.

Conventions where a score is undefined: UAR averages recall over the classes that occur in `true`; macro F1 averages
over the classes that occur in `true` or among the predictions (both as scikit-learn does); recall of a class that does
not occur and precision of a class that is never predicted are NaN, not zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

CALIBRATION_BINS = 15
CONFIDENCE_LEVEL = 0.95
N_BOOTSTRAP, SEED = 1000, 40  # replicates, and of their random numbers
ECE = 3  # its place in `_all_scores`

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Interval:
    """A score and the ends of its 95 % interval; NaN where undefined, and then `note` says why."""

    value: float
    low: float
    high: float
    note: str = ""

    def to_dict(self) -> dict[str, float | str | None]:
        """Plain JSON values: None for NaN, `note` only when there is one."""
        numbers: dict[str, float | str | None] = {
            name: None if np.isnan(getattr(self, name)) else float(getattr(self, name))
            for name in ("value", "low", "high")
        }
        return {**numbers, "note": self.note} if self.note else numbers


class _Result:
    """Intervals, mappings of intervals and counts."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, in the shape that `result.json` holds."""
        return {name: _plain(value) for name, value in vars(self).items()}


@dataclass(frozen=True)
class Scores(_Result):
    """Accuracy (`wa`), mean recall (`uar`), macro F1, calibration error (`ece`), and each class by itself."""

    wa: Interval
    uar: Interval
    macro_f1: Interval
    ece: Interval
    recall: dict[str, Interval]
    precision: dict[str, Interval]
    n_utterances: int
    n_speakers: int


@dataclass(frozen=True)
class Difference(_Result):
    """Gain of a candidate over a reference on the same utterances, as fractions with intervals."""

    wa: Interval
    uar: Interval
    n_utterances: int
    n_speakers: int


@dataclass(frozen=True)
class Accuracies:
    """Accuracy and mean recall of one confusion matrix, as fractions; NaN where it is empty."""

    wa: float
    uar: float


@dataclass(frozen=True)
class Reliability:
    """Mean top probability, share of right predictions and number of utterances in each bin of the top probability."""

    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]
    counts: tuple[int, ...]


def confusion(true: ArrayLike, predicted: ArrayLike, n_classes: int) -> Integers:
    """Confusion matrix `(classes, classes)`: rows are the true class, columns the predicted one."""
    pairs = np.asarray(true, dtype=np.int64) * n_classes + np.asarray(predicted, dtype=np.int64)
    return np.bincount(pairs, minlength=n_classes * n_classes).reshape(n_classes, n_classes)


def accuracy_and_uar(matrix: ArrayLike) -> Accuracies:
    """Accuracy and mean recall of one `(classes, classes)` matrix; cheap enough for every epoch."""
    counts = np.asarray(matrix, dtype=np.float64)
    return Accuracies(wa=float(_accuracy(counts)), uar=float(_mean_recall(counts)))


def score(
    true: ArrayLike,
    probabilities: ArrayLike,
    speakers: Sequence[str],
    labels: Sequence[str],
    n_bootstrap: int = N_BOOTSTRAP,
) -> Scores:
    """Score predictions, with intervals by bootstrap over speakers; the order of the utterances does not matter.

    Args:
        true: `(utterances,)` class numbers.
        probabilities: `(utterances, classes)`, or `(utterances,)` predicted class numbers, whose calibration error is
            NaN.
        speakers: `(utterances,)` names.
        labels: name of each class.
        n_bootstrap: number of replicates; 0 gives no intervals.

    Raises:
        ValueError: no utterances, unequal lengths or class numbers outside `labels`.
    """
    matrices, residuals = _sums_by_speaker(true, probabilities, speakers, len(labels))
    weights = _bootstrap_weights(len(matrices), n_bootstrap)
    point = _all_scores(matrices.sum(axis=0), residuals.sum(axis=0))
    replicates = _all_scores(np.tensordot(weights, matrices, axes=1), weights @ residuals)
    notes = ["", "", "", "needs probabilities"]
    notes += [f"no utterance of {label}" for label in labels] + [f"never predicted {label}" for label in labels]
    wa, uar, f1, ece, *by_class = (
        _interval(float(point[i]), replicates[:, i], len(matrices), note, is_biased=i == ECE)
        for i, note in enumerate(notes)
    )
    recall = dict(zip(labels, by_class[: len(labels)], strict=True))
    precision = dict(zip(labels, by_class[len(labels) :], strict=True))
    return Scores(wa, uar, f1, ece, recall, precision, len(speakers), len(matrices))


def scores_by(
    group: Sequence[str],
    true: ArrayLike,
    probabilities: ArrayLike,
    speakers: Sequence[str],
    labels: Sequence[str],
    n_bootstrap: int = N_BOOTSTRAP,
) -> dict[str, Scores]:
    """`score` for each value of `group`, `(utterances,)`, in sorted order: by gender, by speaker, by corpus."""
    rows = {str(value): np.flatnonzero(np.asarray(group) == value) for value in np.unique(group)}
    truth, predicted, names = (np.asarray(one) for one in (true, probabilities, speakers))
    return {
        value: score(truth[chosen], predicted[chosen], names[chosen].tolist(), labels, n_bootstrap)
        for value, chosen in rows.items()
    }


def paired_difference(
    true: ArrayLike, candidate: ArrayLike, reference: ArrayLike, speakers: Sequence[str], n_classes: int
) -> Difference:
    """Candidate minus reference in WA and UAR on the same utterances, with intervals.

    Both see the same draws of speakers, so what is hard for both cancels out. `candidate` and `reference` are
    `(utterances, classes)` probabilities or `(utterances,)` class numbers. Raises as `score` does.
    """
    pair = [_sums_by_speaker(true, one, speakers, n_classes)[0] for one in (candidate, reference)]
    weights = _bootstrap_weights(len(pair[0]), N_BOOTSTRAP)
    gains = []
    for measure in (_accuracy, _mean_recall):
        points = [measure(matrices.sum(axis=0)) for matrices in pair]
        replicates = [measure(np.tensordot(weights, matrices, axes=1)) for matrices in pair]
        value = float(points[0] - points[1])
        gains.append(_interval(value, replicates[0] - replicates[1], len(pair[0]), ""))
    wa, uar = gains
    return Difference(wa, uar, len(speakers), len(pair[0]))


def group_difference(
    true: ArrayLike, probabilities: ArrayLike, speakers: Sequence[str], inside: ArrayLike, n_classes: int
) -> Difference:
    """WA and UAR of the utterances inside a group minus those of the others, with intervals.

    `inside` is `(utterances,)` bool; a speaker may have utterances in both. Raises as `score` does.
    """
    truth, predicted, _ = _checked(true, probabilities, speakers, n_classes)
    names, speaker_of = np.unique(np.asarray(speakers, dtype=str), return_inverse=True)
    group_of = np.asarray(inside, dtype=np.int64) * len(names) + speaker_of
    cells = (group_of * n_classes + truth) * n_classes + predicted
    counts = np.bincount(cells, minlength=2 * len(names) * n_classes**2).astype(np.float64)
    outside, within = counts.reshape(2, len(names), n_classes, n_classes)
    weights = _bootstrap_weights(len(names), N_BOOTSTRAP)
    gains = []
    for measure in (_accuracy, _mean_recall):
        value = float(measure(within.sum(axis=0)) - measure(outside.sum(axis=0)))
        pair = [measure(np.tensordot(weights, one, axes=1)) for one in (within, outside)]
        gains.append(_interval(value, pair[0] - pair[1], len(names), "one of the two is empty"))
    return Difference(gains[0], gains[1], len(truth), len(names))


def reliability(true: ArrayLike, probabilities: ArrayLike, n_bins: int = CALIBRATION_BINS) -> Reliability:
    """Bin by bin what the calibration error sums up, for a chart; an empty bin holds NaN.

    `true` are `(utterances,)` class numbers, `probabilities` `(utterances, classes)`.
    """
    values = np.asarray(probabilities, dtype=np.float64)
    top, right = values.max(axis=1), values.argmax(axis=1) == np.asarray(true)
    bins = _bin_of(top, n_bins)
    counts = np.bincount(bins, minlength=n_bins)
    confidence, accuracy = (_ratio(np.bincount(bins, weights=sums, minlength=n_bins), counts) for sums in (top, right))
    return Reliability(tuple(confidence.tolist()), tuple(accuracy.tolist()), tuple(counts.tolist()))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: one.to_dict() for key, one in value.items()}
    return value.to_dict() if isinstance(value, Interval) else value


def _sums_by_speaker(
    true: ArrayLike, probabilities: ArrayLike, speakers: Sequence[str], n_classes: int
) -> tuple[Floats, Floats]:
    """Confusion matrices `(speakers, classes, classes)` and calibration residuals `(speakers, bins)`.

    A residual is top probability minus hit, summed in each bin: the sum of their absolute values over the number of
    utterances is the expected calibration error (Guo et al. 2017, equation 3). NaN without probabilities.
    """
    truth, predicted, confidence = _checked(true, probabilities, speakers, n_classes)
    names, speaker_of = np.unique(np.asarray(speakers, dtype=str), return_inverse=True)
    cells = (speaker_of * n_classes + truth) * n_classes + predicted
    matrices = np.bincount(cells, minlength=len(names) * n_classes * n_classes).astype(np.float64)
    residuals = np.full(len(names) * CALIBRATION_BINS, np.nan)
    if confidence is not None:
        cells = speaker_of * CALIBRATION_BINS + _bin_of(confidence, CALIBRATION_BINS)
        residuals = np.bincount(cells, confidence - (truth == predicted), minlength=len(residuals))
    return matrices.reshape(-1, n_classes, n_classes), residuals.reshape(-1, CALIBRATION_BINS)


def _checked(
    true: ArrayLike, probabilities: ArrayLike, speakers: Sequence[str], n_classes: int
) -> tuple[Integers, Integers, Floats | None]:
    """True and predicted classes and top probabilities (None when only classes were given), each `(utterances,)`."""
    truth, given = np.asarray(true, dtype=np.int64), np.asarray(probabilities)
    if not len(truth):
        raise ValueError("There is nothing to score: the list of true classes is empty.")
    if not len(truth) == len(given) == len(speakers):
        lengths = f"{len(truth)} true classes, {len(given)} predictions and {len(speakers)} speakers"
        raise ValueError(f"Every utterance needs one of each, but there are {lengths}.")
    if given.ndim == 2 and given.shape[1] != n_classes:
        raise ValueError(f"There are {n_classes} labels but {given.shape[1]} probabilities an utterance.")
    confidence = given.max(axis=1).astype(np.float64) if given.ndim == 2 else None
    if confidence is not None and not np.isfinite(confidence).all():
        raise ValueError("Some probabilities are not finite numbers.")
    predicted = (given.argmax(axis=1) if given.ndim == 2 else given).astype(np.int64)
    both = np.concatenate([truth, predicted])
    if both.min() < 0 or both.max() >= n_classes:
        raise ValueError(f"Class numbers run from {both.min()} to {both.max()}, but there are {n_classes} labels.")
    return truth, predicted, confidence


def _bin_of(confidence: Floats, n_bins: int) -> Integers:
    """Bin of each probability: equal widths, closed on the right (Guo et al. 2017, section 2)."""
    bins: Integers = np.clip(np.ceil(confidence * n_bins).astype(np.int64) - 1, 0, n_bins - 1)
    return bins


def _bootstrap_weights(n_speakers: int, n_bootstrap: int) -> Floats:
    """Number of times each speaker is drawn in each replicate: `(replicates, speakers)`."""
    shares = np.full(n_speakers, 1 / n_speakers)
    return np.random.default_rng(SEED).multinomial(n_speakers, shares, n_bootstrap).astype(np.float64)


def _interval(value: float, replicates: Floats, n_speakers: int, absent: str, is_biased: bool = False) -> Interval:
    """Percentile interval over the replicates in which the score exists, none for a single speaker.

    The replicates of a calibration error are biased: speakers drawn twice make the residuals noisier, and noise only
    adds to a sum of absolute values, so that at times all of them lie above the measured value. They are shifted, their
    median to that value, and cut at zero.
    """
    kept = replicates[~np.isnan(replicates)]
    if np.isnan(value) or n_speakers < 2 or not len(kept):
        alone = "one speaker gives no interval" if n_speakers < 2 else "no draw gives this score"
        return Interval(value, np.nan, np.nan, absent if np.isnan(value) else alone)
    if is_biased:
        kept = np.maximum(kept + value - np.median(kept), 0)
    tail = (1 - CONFIDENCE_LEVEL) / 2
    low, high = np.quantile(kept, [tail, 1 - tail])
    missing = len(replicates) - len(kept)
    note = f"undefined in {missing} of {len(replicates)} draws of speakers" if missing else ""
    return Interval(value, float(low), float(high), note)


def _ratio(above: ArrayLike, below: ArrayLike) -> Floats:
    """Division with NaN, and no warning, where the divisor is zero."""
    top, bottom = np.broadcast_arrays(np.asarray(above, np.float64), np.asarray(below, np.float64))
    return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom != 0)


def _all_scores(matrices: Floats, residuals: Floats) -> Floats:
    """WA, UAR, macro F1, ECE, recalls and precisions of `(..., classes, classes)` and `(..., bins)` sums."""
    hits = _hits(matrices)
    f1 = _mean_of_defined(_ratio(2 * hits, matrices.sum(axis=-1) + matrices.sum(axis=-2)))
    ece = _ratio(np.abs(residuals).sum(axis=-1), matrices.sum(axis=(-2, -1)))
    summary = np.stack([_accuracy(matrices), _mean_recall(matrices), f1, ece], axis=-1)
    by_class = [_ratio(hits, matrices.sum(axis=axis)) for axis in (-1, -2)]
    return np.concatenate([summary, *by_class], axis=-1)


def _hits(matrices: Floats) -> Floats:
    return np.diagonal(matrices, axis1=-2, axis2=-1)


def _accuracy(matrices: Floats) -> Floats:
    return _ratio(_hits(matrices).sum(axis=-1), matrices.sum(axis=(-2, -1)))


def _mean_recall(matrices: Floats) -> Floats:
    return _mean_of_defined(_ratio(_hits(matrices), matrices.sum(axis=-1)))


def _mean_of_defined(values: Floats) -> Floats:
    """Mean over the last axis without the NaN entries."""
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0).sum(axis=-1), defined.sum(axis=-1))
