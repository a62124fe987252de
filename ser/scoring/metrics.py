"""How good a set of answers is, with an interval that respects that clips of one speaker are alike.

In: true classes, probabilities (or predicted classes) and the speaker of every clip. Out: `Scores`, each
number with a 95 % percentile interval from a bootstrap over speakers: whole speakers are drawn with
replacement, every draw takes all their clips. Everything is a sum over clips, so one table of sums per
speaker and one matrix product serve a thousand draws.

Conventions where a score is undefined: UAR averages recall over the classes that occur in `true`; macro F1
averages over the classes that occur in `true` or among the answers (both as scikit-learn does); recall of a
class that does not occur and precision of a class that is never answered are NaN, not zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

CALIBRATION_BINS = 15
CONFIDENCE_LEVEL = 0.95

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
            name: None if np.isnan(number) else float(number)
            for name, number in (("value", self.value), ("low", self.low), ("high", self.high))
        }
        return {**numbers, "note": self.note} if self.note else numbers


@dataclass(frozen=True)
class Scores:
    """Accuracy (`wa`), mean recall (`uar`), macro F1, calibration error (`ece`), and each class by itself."""

    wa: Interval
    uar: Interval
    macro_f1: Interval
    ece: Interval
    recall: dict[str, Interval]
    precision: dict[str, Interval]
    n_utterances: int
    n_speakers: int

    def to_dict(self) -> dict[str, object]:
        """Plain JSON values, in the shape that `result.json` holds."""
        return {
            **{name: getattr(self, name).to_dict() for name in ("wa", "uar", "macro_f1", "ece")},
            "recall": {label: interval.to_dict() for label, interval in self.recall.items()},
            "precision": {label: interval.to_dict() for label, interval in self.precision.items()},
            "n_utterances": self.n_utterances,
            "n_speakers": self.n_speakers,
        }


@dataclass(frozen=True)
class Accuracies:
    """Accuracy and mean recall of one confusion matrix, as fractions; NaN when it is empty."""

    wa: float
    uar: float


@dataclass(frozen=True)
class Difference:
    """What a candidate gains over a reference on the same clips, as fractions with intervals."""

    wa: Interval
    uar: Interval
    n_utterances: int
    n_speakers: int

    def to_dict(self) -> dict[str, object]:
        """Plain JSON values."""
        counts = {"n_utterances": self.n_utterances, "n_speakers": self.n_speakers}
        return {"wa": self.wa.to_dict(), "uar": self.uar.to_dict(), **counts}


@dataclass(frozen=True)
class Reliability:
    """Mean top probability, share of right answers and number of clips in each bin of the top probability."""

    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]
    counts: tuple[int, ...]


def confusion(true: ArrayLike, predicted: ArrayLike, n_classes: int) -> Integers:
    """Count answers: (classes, classes), rows are the true class, columns the answer."""
    pairs = np.asarray(true, dtype=np.int64) * n_classes + np.asarray(predicted, dtype=np.int64)
    return np.bincount(pairs, minlength=n_classes * n_classes).reshape(n_classes, n_classes)


def accuracy_and_uar(matrix: ArrayLike) -> Accuracies:
    """Accuracy and mean recall of one (classes, classes) matrix; cheap enough for every epoch."""
    counts = np.asarray(matrix, dtype=np.float64)
    return Accuracies(wa=float(_accuracy(counts)), uar=float(_mean_recall(counts)))


def macro_f1(matrix: ArrayLike) -> float:
    """Macro F1 of one (classes, classes) matrix over the classes that occur in it."""
    return float(_macro_f1(np.asarray(matrix, dtype=np.float64)))


def score(
    true: ArrayLike,
    probabilities: ArrayLike,
    speakers: Sequence[str],
    labels: Sequence[str],
    n_bootstrap: int = 1000,
    seed: int = 40,
) -> Scores:
    """Score answers, with intervals by bootstrap over speakers.

    true: (clips,) class numbers. probabilities: (clips, classes), or (clips,) predicted class numbers, in
    which case the calibration error is NaN. speakers: (clips,) names. labels: name of each class.
    The order of the clips does not matter.
    Raises ValueError for no clips, unequal lengths or class numbers outside `labels`.
    """
    truth, answers, confidence = _checked(true, probabilities, speakers, len(labels))
    names, speaker_of = np.unique(np.asarray(speakers, dtype=str), return_inverse=True)
    matrices = _confusion_by_speaker(truth, answers, speaker_of, len(names), len(labels))
    gaps = _gaps_by_speaker(truth == answers, confidence, speaker_of, len(names))
    weights = _draws(len(names), n_bootstrap, seed)
    point = _all_scores(matrices.sum(axis=0), gaps.sum(axis=0))
    drawn = _all_scores(np.tensordot(weights, matrices, axes=1), weights @ gaps)
    notes = ["", "", "", "needs probabilities"]
    notes += [f"no clip of {label}" for label in labels] + [f"never answered {label}" for label in labels]
    every = [_interval(float(point[i]), drawn[:, i], len(names), note) for i, note in enumerate(notes)]
    wa, uar, f1, ece, *by_class = every
    recall = dict(zip(labels, by_class[: len(labels)], strict=True))
    precision = dict(zip(labels, by_class[len(labels) :], strict=True))
    return Scores(wa, uar, f1, ece, recall, precision, n_utterances=len(truth), n_speakers=len(names))


def scores_by(
    group: Sequence[str],
    true: ArrayLike,
    probabilities: ArrayLike,
    speakers: Sequence[str],
    labels: Sequence[str],
    n_bootstrap: int = 1000,
    seed: int = 40,
) -> dict[str, Scores]:
    """`score` for each value of `group`, (clips,), in sorted order: by gender, by speaker, by corpus."""
    truth, answers = np.asarray(true), np.asarray(probabilities)
    groups, names = np.asarray(group, dtype=str), np.asarray(speakers, dtype=str)
    scores = {}
    for value in sorted(set(groups.tolist())):
        rows = groups == value
        scores[value] = score(truth[rows], answers[rows], names[rows].tolist(), labels, n_bootstrap, seed)
    return scores


def paired_difference(
    true: ArrayLike,
    candidate: ArrayLike,
    reference: ArrayLike,
    speakers: Sequence[str],
    n_classes: int,
    n_bootstrap: int = 1000,
    seed: int = 40,
) -> Difference:
    """Candidate minus reference in WA and UAR on the same clips, with intervals.

    Both sets of answers see the same draws of speakers, so what is hard for both cancels out.
    candidate, reference: (clips, classes) probabilities or (clips,) class numbers. Raises as `score` does.
    """
    truth, first, _ = _checked(true, candidate, speakers, n_classes)
    _, second, _ = _checked(true, reference, speakers, n_classes)
    names, speaker_of = np.unique(np.asarray(speakers, dtype=str), return_inverse=True)
    weights = _draws(len(names), n_bootstrap, seed)
    pair = [_confusion_by_speaker(truth, each, speaker_of, len(names), n_classes) for each in (first, second)]
    points = [matrices.sum(axis=0) for matrices in pair]
    drawn = [np.tensordot(weights, matrices, axes=1) for matrices in pair]

    def gain(measure: str) -> Interval:
        function = {"wa": _accuracy, "uar": _mean_recall}[measure]
        value = float(function(points[0]) - function(points[1]))
        return _interval(value, function(drawn[0]) - function(drawn[1]), len(names), "")

    return Difference(gain("wa"), gain("uar"), n_utterances=len(truth), n_speakers=len(names))


def reliability(true: ArrayLike, probabilities: ArrayLike, n_bins: int = CALIBRATION_BINS) -> Reliability:
    """What the calibration error sums up, bin by bin, for a chart; an empty bin holds NaN.

    true: (clips,) class numbers. probabilities: (clips, classes).
    """
    values = np.asarray(probabilities, dtype=np.float64)
    top, right = values.max(axis=1), values.argmax(axis=1) == np.asarray(true)
    bins = _bin_of(top, n_bins)
    counts = np.bincount(bins, minlength=n_bins)
    confidence = _ratio(np.bincount(bins, weights=top, minlength=n_bins), counts)
    accuracy = _ratio(np.bincount(bins, weights=right, minlength=n_bins), counts)
    return Reliability(tuple(confidence.tolist()), tuple(accuracy.tolist()), tuple(counts.tolist()))


def _checked(
    true: ArrayLike, probabilities: ArrayLike, speakers: Sequence[str], n_classes: int
) -> tuple[Integers, Integers, Floats | None]:
    """True classes, answers and top probabilities (None when only answers were given), each (clips,)."""
    truth, given = np.asarray(true, dtype=np.int64), np.asarray(probabilities)
    if not len(truth):
        raise ValueError("There is nothing to score: the list of true classes is empty.")
    if not len(truth) == len(given) == len(speakers):
        lengths = f"{len(truth)} true classes, {len(given)} answers and {len(speakers)} speakers"
        raise ValueError(f"Every clip needs one of each, but there are {lengths}.")
    if given.ndim == 2 and given.shape[1] != n_classes:
        raise ValueError(f"There are {n_classes} labels but {given.shape[1]} probabilities a clip.")
    confidence = given.max(axis=1).astype(np.float64) if given.ndim == 2 else None
    if confidence is not None and not np.isfinite(confidence).all():
        raise ValueError("Some probabilities are not finite numbers.")
    answers = (given.argmax(axis=1) if given.ndim == 2 else given).astype(np.int64)
    both = np.concatenate([truth, answers])
    if both.min() < 0 or both.max() >= n_classes:
        raise ValueError(
            f"Class numbers run from {both.min()} to {both.max()}, but there are {n_classes} labels."
        )
    return truth, answers, confidence


def _confusion_by_speaker(
    true: Integers, answers: Integers, speaker_of: Integers, n_speakers: int, n_classes: int
) -> Floats:
    """One confusion matrix a speaker: (speakers, classes, classes)."""
    cells = (speaker_of * n_classes + true) * n_classes + answers
    counts = np.bincount(cells, minlength=n_speakers * n_classes * n_classes)
    return counts.reshape(n_speakers, n_classes, n_classes).astype(np.float64)


def _gaps_by_speaker(
    right: NDArray[np.bool_], confidence: Floats | None, speaker_of: Integers, n_speakers: int
) -> Floats:
    """Top probability minus hits, summed in each bin of each speaker: (speakers, bins).

    The sum of their absolute values over the clips is the expected calibration error (Guo et al. 2017,
    equation 3). NaN without probabilities.
    """
    if confidence is None:
        return np.full((n_speakers, CALIBRATION_BINS), np.nan)
    cells = speaker_of * CALIBRATION_BINS + _bin_of(confidence, CALIBRATION_BINS)
    sums = np.bincount(cells, weights=confidence - right, minlength=n_speakers * CALIBRATION_BINS)
    return sums.astype(np.float64).reshape(n_speakers, CALIBRATION_BINS)


def _bin_of(confidence: Floats, n_bins: int) -> Integers:
    """The bin of each probability: equal widths, closed on the right (Guo et al. 2017, section 2)."""
    bins: Integers = np.clip(np.ceil(confidence * n_bins).astype(np.int64) - 1, 0, n_bins - 1)
    return bins


def _draws(n_speakers: int, n_bootstrap: int, seed: int) -> Floats:
    """How often each speaker is taken in each bootstrap draw: (draws, speakers)."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(n_speakers, np.full(n_speakers, 1 / n_speakers), n_bootstrap).astype(
        np.float64
    )


def _interval(value: float, replicates: Floats, n_speakers: int, absent: str) -> Interval:
    """Percentile interval over the draws in which the score exists, none for a single speaker."""
    if np.isnan(value):
        return Interval(value, np.nan, np.nan, absent)
    if n_speakers < 2:
        return Interval(value, np.nan, np.nan, "one speaker gives no interval")
    kept = replicates[~np.isnan(replicates)]
    if not len(kept):
        return Interval(value, np.nan, np.nan, "no draw gives this score")
    tail = (1 - CONFIDENCE_LEVEL) / 2
    low, high = np.quantile(kept, [tail, 1 - tail])
    missing = len(replicates) - len(kept)
    note = f"undefined in {missing} of {len(replicates)} draws of speakers" if missing else ""
    return Interval(value, float(low), float(high), note)


def _ratio(above: ArrayLike, below: ArrayLike) -> Floats:
    """Division with NaN, and no warning, where the divisor is zero."""
    top, bottom = np.broadcast_arrays(np.asarray(above, np.float64), np.asarray(below, np.float64))
    return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom != 0)


def _all_scores(matrices: Floats, gaps: Floats) -> Floats:
    """WA, UAR, macro F1, ECE, recalls and precisions of (..., classes, classes) and (..., bins) sums."""
    ece = _ratio(np.abs(gaps).sum(axis=-1), matrices.sum(axis=(-2, -1)))
    summary = np.stack([_accuracy(matrices), _mean_recall(matrices), _macro_f1(matrices), ece], axis=-1)
    return np.concatenate([summary, _recall(matrices), _precision(matrices)], axis=-1)


def _hits(matrices: Floats) -> Floats:
    return np.diagonal(matrices, axis1=-2, axis2=-1)


def _accuracy(matrices: Floats) -> Floats:
    return _ratio(_hits(matrices).sum(axis=-1), matrices.sum(axis=(-2, -1)))


def _recall(matrices: Floats) -> Floats:
    return _ratio(_hits(matrices), matrices.sum(axis=-1))


def _precision(matrices: Floats) -> Floats:
    return _ratio(_hits(matrices), matrices.sum(axis=-2))


def _mean_recall(matrices: Floats) -> Floats:
    return _mean_of_defined(_recall(matrices))


def _macro_f1(matrices: Floats) -> Floats:
    return _mean_of_defined(_ratio(2 * _hits(matrices), matrices.sum(axis=-1) + matrices.sum(axis=-2)))


def _mean_of_defined(values: Floats) -> Floats:
    """Mean over the last axis without the NaN entries."""
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0).sum(axis=-1), defined.sum(axis=-1))
