"""What noise, rooms, telephones and more do to a model's answers, and how fair it is to groups of speakers.

In: a `Recogniser`, a `Corpus`, and conditions of `ser.audio.conditions`. Out: plain values: for each
condition the share of answers that stay and the scores that are left; for each group the scores and how far the group
is from the others, with intervals by speakers. A recording in which the model finds no speech counts as wrong.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ser.audio.conditions import CONDITIONS, Condition
from ser.audio.load import SAMPLE_RATE_HZ, load_audio
from ser.corpora.corpus import Corpus, Utterance
from ser.errors import AudioError, CorpusError
from ser.inference.recogniser import Recogniser
from ser.scoring.metrics import group_difference, paired_difference, score, scores_by

SEED = 40
LENGTHS = ("short", "middle", "long")  # thirds of the recordings
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Heard:
    """Recordings that were answered, and the probabilities `(utterances, labels)` of each as it is."""

    utterances: Sequence[Utterance]
    labels: Sequence[str]
    plain: Floats

    @cached_property
    def true(self) -> NDArray[np.int64]:
        return np.array([self.labels.index(one.emotion) for one in self.utterances])

    @cached_property
    def speakers(self) -> list[str]:
        return [one.speaker for one in self.utterances]


def audit(
    recogniser: Recogniser,
    corpus: Corpus,
    conditions: Sequence[str] = tuple(CONDITIONS),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Let a model answer every recording whose emotion it knows, as it is and under each condition.

    Raises:
        CorpusError: no two emotions that the model knows are in the corpus.
    """
    heard, lengths_s, plain, changed = [], [], [], []
    known = [one for one in corpus.utterances if one.emotion in recogniser.labels]
    unusable = 0
    for done, utterance in enumerate(known, start=1):
        try:
            samples = load_audio(utterance.path)
            plain.append(_answer(recogniser, samples))
        except AudioError:
            unusable += 1
        else:
            name = corpus.file_of(utterance.path)
            rows = [_under(recogniser, samples, CONDITIONS[one], f"{name} {one}") for one in conditions]
            heard.append(utterance)
            lengths_s.append(samples.size / SAMPLE_RATE_HZ)
            changed.append(rows)
        progress(done, len(known))
    if len({one.emotion for one in heard}) < 2:
        raise CorpusError(
            f"An audit needs recordings of two emotions that the model knows: {', '.join(recogniser.labels)}."
        )
    answered = _Heard(heard, recogniser.labels, np.array(plain))
    under = dict(zip(conditions, np.array(changed).transpose(1, 0, 2), strict=True))
    return {
        "n_unusable": unusable,
        "labels": list(recogniser.labels),
        "plain": score(answered.true, answered.plain, answered.speakers, answered.labels).to_dict(),
        "conditions": _conditions(answered, recogniser.calibration.threshold, under),
        "groups": _groups(answered, lengths_s),
    }


def _answer(recogniser: Recogniser, samples: NDArray[np.float32]) -> Floats:
    frames = recogniser.frames((SAMPLE_RATE_HZ, samples))
    return recogniser.classify(frames).astype(np.float64)


def _under(recogniser: Recogniser, samples: NDArray[np.float32], condition: Condition, name: str) -> Floats:
    """Probabilities under a condition; zeros where no answer is given."""
    rng = np.random.default_rng((SEED, zlib.crc32(name.encode())))
    try:
        return _answer(recogniser, condition(samples, rng))
    except AudioError:
        return np.zeros(len(recogniser.labels))


def _conditions(heard: _Heard, threshold: float, under: Mapping[str, Floats]) -> dict[str, Any]:
    labels, true, speakers, before = heard.labels, heard.true, heard.speakers, heard.plain.argmax(axis=1)
    rows = {}
    for name, answers in under.items():
        unanswered = answers.max(axis=1) == 0
        given = np.where(unanswered, (true + 1) % len(labels), answers.argmax(axis=1))  # counts as wrong
        rows[name] = {
            "stay": float((~unanswered & (answers.argmax(axis=1) == before)).mean()),
            "unanswered": int(unanswered.sum()),
            "sure": float((~unanswered & (answers.max(axis=1) >= threshold)).mean()),
            "scores": score(true, given, speakers, labels).to_dict(),
            "change": paired_difference(true, given, before, speakers, len(labels)).to_dict(),
        }
    return rows


def _groups(heard: _Heard, lengths_s: Sequence[float]) -> dict[str, Any]:
    """By sex, length, corpus and speaker: scores of each group, and its distance from all others."""
    labels, true, plain, speakers = heard.labels, heard.true, heard.plain, heard.speakers
    thirds = np.searchsorted(np.quantile(lengths_s, [1 / 3, 2 / 3]), lengths_s)
    group_of = {
        "sex": [one.gender or "unknown" for one in heard.utterances],
        "length": [LENGTHS[third] for third in thirds],
        "corpus": [one.corpus or "corpus" for one in heard.utterances],
        "speaker": speakers,
    }
    found: dict[str, Any] = {}
    for kind, names in group_of.items():
        scores = scores_by(names, true, plain, speakers, labels)
        if len(scores) > 1:
            found[kind] = {}
            for name, one in scores.items():
                apart = group_difference(true, plain, speakers, np.array(names) == name, len(labels))
                found[kind][name] = one.to_dict() | {"difference": apart.to_dict()}
    return found
