"""What knowing a voice is worth: answers with and without, after 1 to 50 recordings of each test speaker.

In: a cross-validation whose classifier was trained with voices, at its end. Out: a row for each kind and number of
recordings that a voice was heard in; these recordings are never scored, and both answers are to the same utterances.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ser.encoders.chunking import FRAME_RATE_HZ
from ser.inference.adaptation import Training as Known
from ser.inference.adaptation import Voice
from ser.scoring.metrics import paired_difference, score
from ser.training.crossval import Crossval
from ser.training.run_folder import Tested
from ser.training.trainer import Move, Training

COUNTS = {"mixed": (1, 3, 5, 10, 20, 50), "neutral": (1, 3, 5), "one emotion": (5, 20)}


@dataclass(frozen=True)
class Row:
    """Utterances of test speakers with enough recordings: index, and logits with the voice."""

    indices: NDArray[np.int64]
    known: NDArray[np.float32]


def voice_curve(crossval: Crossval) -> list[dict[str, Any]]:
    """Scores with and without voices, each with 95 % intervals by bootstrap over speakers.

    "mixed" recordings are drawn from all of a speaker's, "neutral" ones from those with that label, and "one emotion"
    from a single other one, the speaker's most frequent: what a voice must not be known by.
    """
    data, emotions = crossval.data, crossval.corpus.emotions
    unknown, rows = Tested.of(data, crossval.folds, crossval.lockstep.trainings).logits, []
    for kind, counts in COUNTS.items():
        for count in counts:
            row = _row(crossval, kind, count)
            if row is None:
                continue
            true, answers = (data.targets[row.indices], (row.known.argmax(axis=1), unknown[row.indices].argmax(axis=1)))
            speakers = [data.speakers[index] for index in row.indices]
            scores = [score(true, one, speakers, emotions).to_dict() for one in answers]
            gain = paired_difference(true, *answers, speakers, len(emotions))
            rows.append(
                {
                    "recordings": count,
                    "kind": kind,
                    "utterances": len(true),
                    "speakers": len(set(speakers)),
                    "with": {name: scores[0][name] for name in ("wa", "uar")},
                    "without": {name: scores[1][name] for name in ("wa", "uar")},
                    "gain": gain.to_dict(),
                }
            )
    return rows


def _row(crossval: Crossval, kind: str, count: int) -> Row | None:
    indices, known = [], []
    for number, (fold, training) in enumerate(zip(crossval.folds, crossval.lockstep.trainings, strict=True)):
        rng = np.random.default_rng((crossval.settings.seed, number, count))
        for spoken in _by_speaker(crossval, fold.test):
            heard = _heard(crossval, spoken, kind, count, rng)
            scored = [index for index in spoken if index not in set(heard)]
            if not heard or not scored:
                continue
            indices += scored
            known.append(training.logits(scored, move=_move(training, heard, kind == "neutral")))
    return Row(np.array(indices), np.concatenate(known)) if indices else None


def _by_speaker(crossval: Crossval, test: Sequence[int]) -> Iterator[list[int]]:
    data = crossval.data
    names = [(data.corpora[index], data.speakers[index]) for index in test]
    for name in dict.fromkeys(names):
        yield [index for index, other in zip(test, names, strict=True) if other == name]


def _heard(crossval: Crossval, spoken: Sequence[int], kind: str, count: int, rng: np.random.Generator) -> list[int]:
    """Utterances of one speaker to know the voice by; none where there are too few."""
    data = crossval.data
    labels = data.targets[list(spoken)]
    chosen = np.ones(len(spoken), dtype=bool)
    if kind == "neutral":
        chosen = labels == data.neutral
    elif kind == "one emotion":
        counts = np.bincount(labels[labels != data.neutral], minlength=data.n_labels)
        chosen = labels == counts.argmax()
    pool = np.array(spoken)[chosen]
    return rng.choice(pool, count, replace=False).tolist() if len(pool) >= count else []


def _move(training: Training, heard: Sequence[int], neutral: bool) -> Move:
    """How the frames of a speaker are moved, who is known by some utterances."""
    voices, n = training.voices, training.model.settings.averaged_frames
    assert voices is not None
    known = Known("", voices.mean, voices.deviation, voices.from_neutral)
    frames = [training.frames([index])[0] for index in heard]
    return partial(Voice.of(frames, "", neutral, FRAME_RATE_HZ / n), training=known)
