"""Folds that never share a speaker between training, validation and test (section 3.2 of the paper).

In: a corpus, or the speaker and the emotion of every utterance. Out: `Fold`s, indices into those sequences.
`split_corpus` is what every command calls; `random_folds` ignores speakers on purpose.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ser.corpora.corpus import Corpus
from ser.corpora.fold_search import Counts, make_plan, split_validation
from ser.errors import FoldError, SettingsError
from ser.labels import in_order

PARTS = ("train", "validation", "test")
Split = Literal["speakers", "loso", "corpora", "random"]


@dataclass(frozen=True)
class Fold:
    """Utterances of the three parts of one fold, as ascending indices."""

    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]


def split_corpus(
    corpus: Corpus, split: Split = "speakers", n_folds: int = 5, validation_share: float = 0.10, seed: int = 40
) -> tuple[Fold, ...]:
    """The folds of a corpus, the same for every command.

    Args:
        split: "speakers" (the paper), "loso" (leave one speaker out), "corpora" (leave one of several joined
            corpora out) or "random" (to measure what a leak is worth).
        n_folds: for "speakers" and "random".
        validation_share: of all utterances.
        seed: the same seed and utterances give the same folds, whatever the order of the utterances.

    Raises:
        FoldError: the corpus cannot be split so; says why and what to do.
        SettingsError: fewer than 2 folds, or a validation share that leaves nothing for training.
    """
    speakers = [one.speaker for one in corpus.utterances]
    emotions = [one.emotion for one in corpus.utterances]
    if split == "loso":
        return leave_one_speaker_out(speakers, emotions, validation_share, seed)
    if split == "corpora":
        corpora = [one.corpus for one in corpus.utterances]
        return leave_one_corpus_out(corpora, speakers, emotions, validation_share, seed)
    make = make_folds if split == "speakers" else random_folds
    return make(speakers, emotions, n_folds, validation_share, seed)


def make_folds(
    speakers: Sequence[str], emotions: Sequence[str], n_folds: int = 5, validation_share: float = 0.10, seed: int = 40
) -> tuple[Fold, ...]:
    """Split into folds without a shared speaker, class shares alike, every emotion in every part.

    The test parts hold every speaker once, 1/n_folds of the utterances each; validation speakers are taken
    from the training speakers, and folds share them as little as the corpus allows.

    Raises:
        FoldError: there are too few speakers, of all or of one emotion; says which and what to do.
        SettingsError: as `split_corpus`.
    """
    _check_settings(speakers, emotions, n_folds, validation_share)
    names, labels, counts = _count(speakers, emotions)
    _refuse_too_few(labels, counts, n_folds)
    try:
        plan, why = make_plan(counts, n_folds, validation_share, _generator(seed)), "there is no such split"
    except TimeoutError:
        plan, why = None, "no such split was found in time"
    if plan is None:
        n, scarcest = min((int(n), label) for n, label in zip((counts > 0).sum(axis=0), labels, strict=True))
        raise FoldError(
            f"{len(names)} speakers cannot be split into {n_folds} folds so that training, validation and "
            f"test each hold every emotion: {why}. {scarcest} has the fewest speakers ({n}). Use fewer folds or "
            "leave-one-speaker-out, or merge or drop that emotion."
        )
    folds = _folds(speakers, names, plan.test, plan.validation)
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
    _, labels, counts = _count(speakers, emotions)
    _refuse_too_few(labels, counts, 2, loso=True)
    return _leave_one_out(speakers, speakers, emotions, validation_share, seed)


def leave_one_corpus_out(
    corpora: Sequence[str],
    speakers: Sequence[str],
    emotions: Sequence[str],
    validation_share: float = 0.10,
    seed: int = 40,
) -> tuple[Fold, ...]:
    """A fold for each corpus: what a model is worth on recordings unlike those it was trained on.

    Raises:
        FoldError: fewer than 2 corpora, an emotion that only one of them has, or no speaker to spare for
            validation.
        SettingsError: a validation share that leaves nothing for training.
    """
    _check_settings(speakers, emotions, 2, validation_share)
    if len(set(corpora)) < 2:
        raise FoldError(f"Leaving one corpus out needs at least two; there is {corpora[0] or 'one'}.")
    labels, pairs = in_order(emotions), set(zip(corpora, emotions, strict=True))
    having = {label: [corpus for corpus, emotion in pairs if emotion == label] for label in labels}
    alone = [f"{label} occurs in {having[label][0]} alone" for label in labels if len(having[label]) < 2]
    if alone:
        shared = ",".join(label for label in labels if len(having[label]) > 1)
        helps = f"Keep those that are shared: --emotions {shared}." if shared else "They share none."
        raise FoldError(f"{', '.join(alone)}: it would be tested without having been trained on. {helps}")
    return _leave_one_out(corpora, speakers, emotions, validation_share, seed)


def random_folds(
    speakers: Sequence[str], emotions: Sequence[str], n_folds: int = 5, validation_share: float = 0.10, seed: int = 40
) -> tuple[Fold, ...]:
    """A split by utterances that IGNORES SPEAKERS: only to measure how much of a figure is leak.

    Test speakers are also in training, so scores on these folds are inflated and must never stand alone.
    Stratified by emotion.

    Raises:
        FoldError: an emotion has fewer utterances than folds (at least 3).
        SettingsError: as `split_corpus`.
    """
    _check_settings(speakers, emotions, n_folds, validation_share)
    rng, labels, needed = _generator(seed), np.asarray(emotions), max(n_folds, 3)
    for label, n in Counter(emotions).items():
        if n < needed:  # before as many folds are made
            raise FoldError(
                f"{label} has {n} utterances; {n_folds} folds need at least {needed}. Use fewer folds, or merge "
                "or drop this emotion."
            )
    test_fold, validates = np.zeros(len(labels), dtype=np.int64), np.zeros((n_folds, len(labels)), dtype=bool)
    dealt = 0
    for label in in_order(emotions):
        members = rng.permutation(np.flatnonzero(labels == label))
        test_fold[members] = (np.arange(len(members)) + dealt) % n_folds
        dealt += len(members)
        for fold in range(n_folds):
            rest = rng.permutation(members[test_fold[members] != fold])
            n_validation = min(max(1, round(validation_share * len(members))), len(rest) - 1)
            validates[fold, rest[:n_validation]] = True
    folds = tuple(_fold(test_fold == fold, validates[fold]) for fold in range(n_folds))
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


def _leave_one_out(
    groups: Sequence[str], speakers: Sequence[str], emotions: Sequence[str], share: float, seed: int
) -> tuple[Fold, ...]:
    """A fold for each group, in the order of their names; no speaker is in two groups."""
    names, _, counts = _count(speakers, emotions)
    group_of = dict(zip(map(str, speakers), groups, strict=True))
    tested = sorted(set(groups))
    tests = np.array([[group_of[name] == group for name in names] for group in tested])
    fair = math.ceil(2 * share * len(tested))  # with many folds, exact class shares need some freedom
    validation = split_validation(counts, tests, share, fair, _generator(seed))
    for group, chosen in zip(tested, validation, strict=True):
        if not chosen.any():
            raise FoldError(
                f"With {group} in the test part, no other speaker can be spared for validation without "
                "training losing an emotion. Drop or merge the emotions that only two speakers have, or add "
                "speakers."
            )
    folds = _folds(speakers, names, tests, validation)
    check_folds(folds, speakers, emotions, every_emotion_in=("train",))
    return folds


def _check_settings(speakers: Sequence[str], emotions: Sequence[str], n_folds: int, validation_share: float) -> None:
    if len(speakers) != len(emotions):
        raise FoldError(f"{len(speakers)} speakers were given for {len(emotions)} emotions: one each per utterance.")
    if not speakers:
        raise FoldError("There are no utterances to split.")
    if len(set(emotions)) < 2:
        raise FoldError(f"All utterances are {emotions[0]}; at least two emotions are needed to tell apart.")
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


def _count(speakers: Sequence[str], emotions: Sequence[str]) -> tuple[NDArray, tuple[str, ...], Counts]:
    """Names of the speakers, emotions, and counts `(speakers, emotions)`."""
    names, rows = np.unique(np.asarray(speakers, dtype=object).astype(str), return_inverse=True)
    labels = in_order(emotions)
    counts = np.zeros((len(names), len(labels)))
    np.add.at(counts, (rows, np.array([labels.index(emotion) for emotion in emotions])), 1)
    return names, labels, counts


def _refuse_too_few(labels: Sequence[str], counts: Counts, n_folds: int, loso: bool = False) -> None:
    """Refuse what can be seen without a search."""
    n_speakers, per_emotion = len(counts), (counts > 0).sum(axis=0)
    needed = 2 if loso else 4 if n_folds == 2 else n_folds  # 2 folds: 2 outside the test part, either way
    what = "leave-one-speaker-out needs" if loso else f"{n_folds} folds need"
    if n_speakers < max(needed, 3):
        helps = "Add speakers." if loso or n_speakers < 3 else f"Use {_fewer(n_speakers)}."
        raise FoldError(f"There are {n_speakers} speakers; {what} at least {max(needed, 3)}. {helps}")
    scarce = [f"{label} has {n}" for label, n in zip(labels, per_emotion, strict=True) if n < needed]
    if scarce:
        fewer = "" if loso else f"Use {_fewer(int(per_emotion.min()))}. Or "
        raise FoldError(
            f"Too few speakers for some emotions: {', '.join(scarce)}; {what} at least {needed}. {fewer}"
            "merge the emotion with another one, drop it, or add speakers."
        )


def _fewer(n_speakers: int) -> str:
    """What to do with so few speakers."""
    if n_speakers < 3:
        return "leave-one-speaker-out"
    folds = "3 folds" if n_speakers == 3 else f"fewer folds (at most {n_speakers})"
    return f"{folds}, or leave-one-speaker-out"


def _folds(
    speakers: Sequence[str], names: NDArray, tests: NDArray[np.bool_], validation: NDArray[np.bool_]
) -> tuple[Fold, ...]:
    """Folds of utterances from `(folds, speakers)` masks."""
    places = np.searchsorted(names, np.asarray(speakers, dtype=object).astype(str))
    return tuple(_fold(test[places], chosen[places]) for test, chosen in zip(tests, validation, strict=True))


def _fold(test: NDArray[np.bool_], validation: NDArray[np.bool_]) -> Fold:
    """A fold from `(utterances,)` masks."""
    masks = (~test & ~validation, validation, test)
    return Fold(*(tuple(np.flatnonzero(mask).tolist()) for mask in masks))
