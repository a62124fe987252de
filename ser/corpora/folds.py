"""Folds that never share a speaker between training, validation and test (section 3.2 of the paper).

In: the speaker and the emotion of every utterance. Out: `Fold`s, indices into those sequences. `make_folds`
is what the project measures with; `leave_one_speaker_out` is for few speakers; `random_folds` ignores
speakers on purpose.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ser.corpora.corpus import in_order
from ser.corpora.fold_search import Counts, make_plan, solve, split_validation
from ser.errors import FoldError, SettingsError

PARTS = ("train", "validation", "test")
HINT_TIME_S = 2.0  # for each question put to the solver to find out what would help
MAX_HINT_SIZE = 2_000  # speakers times folds: beyond it the solver is not asked


@dataclass(frozen=True)
class Fold:
    """Utterances of the three parts of one fold, as ascending indices."""

    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]


@dataclass(frozen=True)
class PartRow:
    """One part of one fold in numbers.

    Attributes:
        fold: counted from 1.
        part: "train", "validation" or "test".
        n_utterances, n_speakers: its size.
        share: of all utterances, a fraction.
        counts, class_shares: emotion -> utterances, and fraction of the part.
        worst_emotion, worst_pp: the class share farthest from the whole corpus', in percentage points.
    """

    fold: int
    part: str
    n_utterances: int
    n_speakers: int
    share: float
    counts: dict[str, int]
    class_shares: dict[str, float]
    worst_emotion: str
    worst_pp: float


def make_folds(
    speakers: Sequence[str],
    emotions: Sequence[str],
    n_folds: int = 5,
    validation_share: float = 0.10,
    seed: int = 40,
) -> tuple[Fold, ...]:
    """Split into folds without a shared speaker, class shares alike, every emotion in every part.

    Args:
        speakers, emotions: of each utterance.
        n_folds: the test parts of the folds hold every speaker once, 1/n_folds of the utterances each.
        validation_share: of all utterances, taken from the training speakers of each fold.
        seed: the same seed and utterances give the same folds, whatever the order of the utterances.

    Raises:
        FoldError: there are too few speakers, of all or of one emotion; says which and what to do.
        SettingsError: fewer than 2 folds, or a validation share that leaves nothing for training.
    """
    _check_settings(speakers, emotions, n_folds, validation_share)
    names, labels, counts = _count(speakers, emotions)
    _refuse_too_few(labels, counts, n_folds)
    try:
        plan = make_plan(counts, n_folds, validation_share, _generator(seed))
    except TimeoutError as error:
        raise FoldError(
            f"No split of {len(names)} speakers into {n_folds} folds with every emotion in every part was "
            f"found in time. {_advice(labels, counts, n_folds, validation_share)}"
        ) from error
    if plan is None:
        raise FoldError(
            f"{len(names)} speakers cannot be split into {n_folds} folds so that training, validation and "
            f"test each hold every emotion. {_advice(labels, counts, n_folds, validation_share)}"
        )
    folds = tuple(
        _fold(speakers, set(names[plan.validation[fold]]), set(names[plan.test == fold]))
        for fold in range(n_folds)
    )
    check_folds(folds, speakers, emotions)
    return folds


def leave_one_speaker_out(
    speakers: Sequence[str], emotions: Sequence[str], validation_share: float = 0.10, seed: int = 40
) -> tuple[Fold, ...]:
    """A fold for each speaker, in the order of their names; validation speakers are taken from the others.

    Training always holds every emotion; validation does where the speakers allow it; the test part holds
    what its speaker said.

    Raises:
        FoldError: fewer than 3 speakers, or an emotion that only one speaker has.
        SettingsError: a validation share that leaves nothing for training.
    """
    _check_settings(speakers, emotions, 2, validation_share)
    names, labels, counts = _count(speakers, emotions)
    _refuse_too_few(labels, counts, 2, loso=True)
    rng = _generator(seed)
    folds = []
    for number, name in enumerate(names):
        tested = np.arange(len(names)) == number
        _, chosen = split_validation(counts, tested, validation_share, rng, None)
        if not chosen.any():
            raise FoldError(
                f"With speaker {name} in the test part, no other speaker can be spared for validation "
                "without training losing an emotion. Drop or merge the emotions that only two speakers have, "
                "or add speakers."
            )
        folds.append(_fold(speakers, set(names[chosen]), {name}))
    check_folds(folds, speakers, emotions, every_emotion_in=("train",))
    return tuple(folds)


def leave_one_corpus_out(
    corpora: Sequence[str], speakers: Sequence[str], emotions: Sequence[str], validation_share: float = 0.10,
    seed: int = 40,
) -> tuple[Fold, ...]:  # fmt: skip
    """A fold for each corpus: what a model is worth on recordings unlike those it was trained on.

    Args:
        corpora, speakers, emotions: of each utterance; no speaker is in two corpora.
        validation_share: of the other corpora, whole speakers.
        seed: of the choice of validation speakers.

    Raises:
        FoldError: fewer than 2 corpora, or the others leave no validation speakers.
    """
    names = sorted(set(corpora))
    if len(names) < 2:
        raise FoldError(
            f"Leaving one corpus out needs at least two; there is {names[0] if names else 'none'}."
        )
    speaker_names, _, counts = _count(speakers, emotions)
    corpus_of = dict(zip(speakers, corpora, strict=True))
    rng = _generator(seed)
    folds = []
    for name in names:
        tested = np.array([corpus_of[speaker] == name for speaker in speaker_names])
        _, chosen = split_validation(counts, tested, validation_share, rng, None)
        if not chosen.any():
            raise FoldError(f"Without {name} no speaker can be spared for validation. Join more corpora.")
        folds.append(_fold(speakers, set(speaker_names[chosen]), set(speaker_names[tested])))
    return tuple(folds)


def random_folds(
    speakers: Sequence[str],
    emotions: Sequence[str],
    n_folds: int = 5,
    validation_share: float = 0.10,
    seed: int = 40,
) -> tuple[Fold, ...]:
    """A split by utterances that IGNORES SPEAKERS: only to measure how much of a figure is leak.

    Test speakers are also in training, so scores on these folds are inflated and must never stand alone.
    Stratified by emotion.

    Raises:
        FoldError: an emotion has fewer utterances than folds (at least 3).
        SettingsError: as in `make_folds`.
    """
    _check_settings(speakers, emotions, n_folds, validation_share)
    rng = _generator(seed)
    labels = np.asarray(emotions)
    if n_folds > len(labels):  # before as many rows are made
        raise FoldError(f"{len(labels)} utterances cannot be dealt to {n_folds} folds. Use fewer folds.")
    test_fold, validates = np.zeros(len(labels), dtype=np.int64), np.zeros((n_folds, len(labels)), dtype=bool)
    dealt = 0
    for label in in_order(emotions):
        members = rng.permutation(np.flatnonzero(labels == label))
        if len(members) < max(n_folds, 3):
            raise FoldError(
                f"{label} has {len(members)} utterances; {n_folds} folds need at least {max(n_folds, 3)}. "
                "Use fewer folds, or merge or drop this emotion."
            )
        test_fold[members] = (np.arange(len(members)) + dealt) % n_folds
        dealt += len(members)
        for fold in range(n_folds):
            rest = rng.permutation(members[test_fold[members] != fold])
            n_validation = min(max(1, round(validation_share * len(members))), len(rest) - 1)
            validates[fold, rest[:n_validation]] = True
    folds = tuple(
        Fold(
            train=_indices((test_fold != fold) & ~validates[fold]),
            validation=_indices(validates[fold]),
            test=_indices(test_fold == fold),
        )
        for fold in range(n_folds)
    )
    check_folds(folds, speakers, emotions, disjoint=False)
    return folds


def check_folds(
    folds: Sequence[Fold],
    speakers: Sequence[str],
    emotions: Sequence[str],
    disjoint: bool = True,
    every_emotion_in: Iterable[str] = PARTS,
) -> None:
    """Make sure of what the folds promise.

    Raises:
        FoldError: an utterance is tested not exactly once over the folds or is missing from a fold, a
            speaker is in two parts of a fold (with `disjoint`), or an emotion is missing from one of the
            parts `every_emotion_in`.
    """
    everyone = list(range(len(speakers)))
    if sorted(index for fold in folds for index in fold.test) != everyone:
        raise FoldError("The test parts of the folds do not hold every utterance exactly once.")
    for number, fold in enumerate(folds, start=1):
        if sorted(fold.train + fold.validation + fold.test) != everyone:
            raise FoldError(f"The parts of fold {number} do not hold every utterance exactly once.")
        heard = {part: {speakers[index] for index in getattr(fold, part)} for part in PARTS}
        for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
            shared = sorted(heard[one] & heard[other])
            if disjoint and shared:
                raise FoldError(f"Speaker {shared[0]} is in both {one} and {other} of fold {number}.")
        for part in every_emotion_in:
            missing = set(emotions) - {emotions[index] for index in getattr(fold, part)}
            if missing:
                raise FoldError(f"The {part} part of fold {number} has no {', '.join(in_order(missing))}.")


def fold_table(
    folds: Sequence[Fold], speakers: Sequence[str], emotions: Sequence[str]
) -> tuple[PartRow, ...]:
    """Sizes and class shares of every part, fold after fold."""
    labels = in_order(emotions)
    overall = {label: emotions.count(label) / len(emotions) for label in labels}
    return tuple(
        _part_row(number, part, getattr(fold, part), speakers, emotions, overall)
        for number, fold in enumerate(folds, start=1)
        for part in PARTS
    )


def class_shares(folds: Sequence[Fold], emotions: Sequence[str]) -> dict[str, dict[str, list[float]]]:
    """Figure 4 of the paper in numbers: part -> emotion -> its share of the part in each fold, a fraction."""
    labels = in_order(emotions)
    shares: dict[str, dict[str, list[float]]] = {part: {label: [] for label in labels} for part in PARTS}
    for fold in folds:
        for part in PARTS:
            members = [emotions[index] for index in getattr(fold, part)]
            for label in labels:
                shares[part][label].append(members.count(label) / max(len(members), 1))
    return shares


def _part_row(
    number: int, part: str, indices: tuple[int, ...], speakers: Sequence[str], emotions: Sequence[str],
    overall: dict[str, float],
) -> PartRow:  # fmt: skip
    members = [emotions[index] for index in indices]
    counts = {label: members.count(label) for label in overall}
    shares = {label: count / max(len(members), 1) for label, count in counts.items()}
    worst = max(overall, key=lambda label: abs(shares[label] - overall[label]))
    return PartRow(
        fold=number,
        part=part,
        n_utterances=len(members),
        n_speakers=len({speakers[index] for index in indices}),
        share=len(members) / len(emotions),
        counts=counts,
        class_shares=shares,
        worst_emotion=worst,
        worst_pp=100 * (shares[worst] - overall[worst]),
    )


def _check_settings(
    speakers: Sequence[str], emotions: Sequence[str], n_folds: int, validation_share: float
) -> None:
    if len(speakers) != len(emotions):
        raise FoldError(
            f"{len(speakers)} speakers were given for {len(emotions)} emotions: one each per utterance."
        )
    if not speakers:
        raise FoldError("There are no utterances to split.")
    if n_folds < 2:
        raise SettingsError(f"At least 2 folds are needed, got {n_folds}.")
    if not 0 < validation_share < 1 - 1 / n_folds:
        raise SettingsError(
            f"With {n_folds} folds the validation share must lie between 0 and {1 - 1 / n_folds:.2f}, got "
            f"{validation_share}."
        )


def _generator(seed: int) -> np.random.Generator:
    if seed < 0:
        raise SettingsError(f"A seed must not be negative, got {seed}.")
    return np.random.default_rng(seed)


def _count(speakers: Sequence[str], emotions: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...], Counts]:
    """Names of the speakers, emotions, and counts `(speakers, emotions)`."""
    names, rows = np.unique(np.asarray(speakers, dtype=object).astype(str), return_inverse=True)
    labels = in_order(emotions)
    columns = np.array([labels.index(emotion) for emotion in emotions])
    counts = np.zeros((len(names), len(labels)))
    np.add.at(counts, (rows, columns), 1)
    return names, labels, counts


def _refuse_too_few(labels: Sequence[str], counts: Counts, n_folds: int, loso: bool = False) -> None:
    """Refuse what can be seen without a search."""
    n_speakers, per_emotion = len(counts), (counts > 0).sum(axis=0)
    needed = 2 if loso else 4 if n_folds == 2 else n_folds  # 2 folds: 2 outside the test part, either way
    what = "leave-one-speaker-out needs" if loso else f"{n_folds} folds need"
    if n_speakers < max(needed, 3):
        raise FoldError(
            f"There are {n_speakers} speakers; {what} at least {max(needed, 3)}. "
            + ("Add speakers." if loso or n_speakers < 3 else f"Use {_fewer(n_speakers)}.")
        )
    scarce = [f"{label} has {n}" for label, n in zip(labels, per_emotion, strict=True) if n < needed]
    if scarce:
        helps = "Merge it with another emotion, drop it, or add speakers."
        if not loso:
            helps = (
                f"Use {_fewer(int(per_emotion.min()))}, or merge the emotion with another one, or drop it."
            )
        raise FoldError(
            f"Too few speakers for some emotions: {', '.join(scarce)}; {what} at least {needed}. {helps}"
        )


def _fewer(n_speakers: int) -> str:
    """What to do with so few speakers."""
    loso = "leave-one-speaker-out"
    if n_speakers >= 4:
        return f"fewer folds (at most {n_speakers}), or {loso}"
    return f"3 folds, or {loso}" if n_speakers == 3 else loso


def _advice(labels: Sequence[str], counts: Counts, n_folds: int, share: float) -> str:
    """What would make a split possible, found by asking the solver."""
    scarcest = int((counts > 0).sum(axis=0).argmin())
    fewest = f"{labels[scarcest]} has the fewest speakers ({int((counts[:, scarcest] > 0).sum())})."
    if len(counts) * n_folds > MAX_HINT_SIZE:
        return f"{fewest} Use fewer folds, merge or drop that emotion, or use leave-one-speaker-out."
    helps = [
        f"drop or merge {label}"
        for i, label in enumerate(labels)
        if _splits(counts, n_folds, share, without=i)
    ]
    folds = next((n for n in range(n_folds - 1, 1, -1) if _splits(counts, n, share)), None)
    options = ([f"use {folds} folds"] if folds else []) + helps[:3] + ["use leave-one-speaker-out"]
    return f"{fewest} What would help: {', or '.join(options)}."


def _splits(counts: Counts, n_folds: int, share: float, without: int | None = None) -> bool:
    kept = counts if without is None else np.delete(counts, without, axis=1)
    kept = kept[kept.sum(axis=1) > 0]
    if not kept.size or len(kept) < max(n_folds, 3) or (kept > 0).sum(axis=0).min() < n_folds:
        return False
    try:
        return solve(kept, n_folds, share, HINT_TIME_S) is not None
    except TimeoutError:
        return False


def _fold(speakers: Sequence[str], validation: set[str], test: set[str]) -> Fold:
    part_of = np.array(
        [2 if speaker in test else 1 if speaker in validation else 0 for speaker in map(str, speakers)]
    )
    return Fold(*(_indices(part_of == part) for part in range(3)))


def _indices(mask: np.ndarray) -> tuple[int, ...]:
    return tuple(int(index) for index in np.flatnonzero(mask))
