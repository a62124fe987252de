"""What noise, rooms, telephones and more do to a model's answers, and how fair it is to groups of speakers.

In: a `Recogniser`, a `Corpus`, and conditions of `ser.audio.conditions`. Out: an `Audit`, as plain values: for each
condition the share of answers that stay and the scores that are left; for each group the scores and how far the group
is from the others, with intervals by speakers. A recording in which the model finds no speech counts as wrong.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ser.audio.conditions import CONDITIONS, Condition
from ser.audio.load import SAMPLE_RATE_HZ, load_audio
from ser.corpora.corpus import Corpus, Utterance
from ser.errors import AudioError, CorpusError
from ser.inference.recogniser import Recogniser
from ser.scoring.metrics import group_difference, paired_difference, score

SEED = 40
LENGTHS = ("short", "middle", "long")  # thirds of the recordings
Floats = NDArray[np.float64]


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
    answers = np.array(plain)
    under = dict(zip(conditions, np.array(changed).transpose(1, 0, 2), strict=True))
    return {
        "n_unusable": unusable,
        "labels": list(recogniser.labels),
        **_scores(recogniser, heard, answers, under),
        "groups": _groups(recogniser, heard, lengths_s, answers),
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


def _scores(
    recogniser: Recogniser, heard: Sequence[Utterance], plain: Floats, under: dict[str, Floats]
) -> dict[str, Any]:
    labels = recogniser.labels
    true = np.array([labels.index(one.emotion) for one in heard])
    speakers = [one.speaker for one in heard]
    before, threshold = plain.argmax(axis=1), recogniser.calibration.threshold
    rows = {}
    for name, answers in under.items():
        unanswered = answers.max(axis=1) == 0
        given = np.where(unanswered, (true + 1) % len(labels), answers.argmax(axis=1))  # counts as wrong
        loss = paired_difference(true, given, before, speakers, len(labels))
        rows[name] = {
            "stay": float((~unanswered & (answers.argmax(axis=1) == before)).mean()),
            "unanswered": int(unanswered.sum()),
            "sure": float((~unanswered & (answers.max(axis=1) >= threshold)).mean()),
            "scores": score(true, given, speakers, labels).to_dict(),
            "change": loss.to_dict(),
        }
    return {"plain": score(true, plain, speakers, labels).to_dict(), "conditions": rows}


def _groups(
    recogniser: Recogniser, heard: Sequence[Utterance], lengths_s: Sequence[float], plain: Floats
) -> dict[str, Any]:
    """By sex, length, corpus and speaker: scores of each group, and its distance from all others."""
    labels = recogniser.labels
    true = np.array([labels.index(one.emotion) for one in heard])
    speakers = [one.speaker for one in heard]
    thirds = np.searchsorted(np.quantile(lengths_s, [1 / 3, 2 / 3]), lengths_s)
    group_of = {
        "sex": [one.gender or "unknown" for one in heard],
        "length": [LENGTHS[third] for third in thirds],
        "corpus": [one.corpus or "corpus" for one in heard],
        "speaker": speakers,
    }
    found: dict[str, Any] = {}
    for kind, names in group_of.items():
        if len(set(names)) < 2:
            continue
        found[kind] = {}
        for name in sorted(set(names)):
            inside = np.array(names) == name
            of_group = [speaker for speaker, is_in in zip(speakers, inside, strict=True) if is_in]
            scores = score(true[inside], plain[inside], of_group, labels).to_dict()
            apart = group_difference(true, plain, speakers, inside, len(labels)).to_dict()
            found[kind][name] = scores | {"difference": apart}
    return found
