"""Scores of a trained model on labelled recordings, as it answers them: file by file, with its own calibration.

In: a `Recogniser` and a `Corpus`. Out: an `Evaluation`: scores with intervals by speakers, calibration, confusion
matrix, the same by corpus, gender and speaker. Speakers that the model was trained on are refused unless allowed.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ser.corpora.corpus import Corpus, Utterance
from ser.errors import AudioError, CorpusError
from ser.inference.adaptation import Voice
from ser.inference.recogniser import Recogniser
from ser.scoring.metrics import confusion, paired_difference, reliability, score, scores_by

VOICE_SEED = 40
Progress = Callable[[int, int], None]
Rows = tuple[NDArray[np.float32], NDArray[np.float32]]
Asked = Callable[[Iterable["Question"]], Iterable[tuple["Question", Callable[[], Rows]]]]


@dataclass(frozen=True)
class Question:
    """An utterance to be answered, where it is, and the voice that it is known by."""

    utterance: Utterance
    path: Path
    voice: Voice | None

    def put(self, recogniser: Recogniser) -> Rows:
        """Probabilities `(labels,)`, and those of a stranger."""
        frames = recogniser.frames(self.path)
        stranger = recogniser.classify(frames)
        if self.voice is None:
            return stranger, stranger
        return recogniser.classify(self.voice(frames, recogniser.known_training)), stranger


@dataclass(frozen=True)
class Evaluation:
    """What a model answered, and what it is worth.

    Attributes:
        utterances: those that were scored.
        labels: the model's emotions, the order of the columns.
        probabilities: `(utterances, labels)`, calibrated.
        unreadable: file and reason of recordings that could not be answered.
        unknown: emotion -> number of utterances left out, as the model does not know it.
        threshold: from this top probability on, an answer counts as sure.
        strangers: `(utterances, labels)`, the answers without the voices, where voices were known.
    """

    utterances: tuple[Utterance, ...]
    labels: tuple[str, ...]
    probabilities: NDArray[np.float64]
    unreadable: tuple[tuple[str, str], ...]
    unknown: Mapping[str, int]
    threshold: float
    strangers: NDArray[np.float64] | None = None

    @property
    def true(self) -> NDArray[np.int64]:
        """`(utterances,)` index of each label."""
        return np.array([self.labels.index(one.emotion) for one in self.utterances])

    def to_dict(self) -> dict[str, Any]:
        """Every score as plain values, ready for JSON; intervals are 95 %, bootstrap over speakers."""
        true, speakers = self.true, [one.speaker for one in self.utterances]
        predicted, top = self.probabilities.argmax(axis=1), self.probabilities.max(axis=1)
        sure = top >= self.threshold
        bins = reliability(true, self.probabilities)

        def by(names: Sequence[str], n_bootstrap: int) -> dict[str, Any]:
            groups = scores_by(names, true, self.probabilities, speakers, self.labels, n_bootstrap)
            return {name: one.to_dict() for name, one in groups.items()}

        content = {} if self.strangers is None else {"voices": self._gain(true, speakers, self.strangers)}
        return content | {
            "scores": score(true, self.probabilities, speakers, self.labels).to_dict(),
            "confusion": confusion(true, predicted, len(self.labels)).tolist(),
            "largest_class": float(np.bincount(true).max() / len(true)),
            "sure": {
                "threshold": self.threshold,
                "coverage": float(sure.mean()),
                "precision": float((predicted == true)[sure].mean()) if sure.any() else None,
            },
            "reliability": {name: np.nan_to_num(column).tolist() for name, column in vars(bins).items()},
            "by_corpus": by([one.corpus or "corpus" for one in self.utterances], 1000),
            "by_gender": by([one.gender or "unknown" for one in self.utterances], 1000),
            "by_speaker": by(speakers, 0),
            "left_out": {"unknown_emotions": dict(self.unknown), "unreadable": [list(one) for one in self.unreadable]},
        }

    def _gain(self, true: NDArray[np.int64], speakers: Sequence[str], strangers: NDArray[np.float64]) -> dict[str, Any]:
        """What knowing the voices changed."""
        gain = paired_difference(true, self.probabilities, strangers, speakers, len(self.labels))
        return {
            "without": score(true, strangers, speakers, self.labels).to_dict(), "gain": gain.to_dict()
        }  # fmt: skip

    def table(self, file_of: Callable[[Path], str]) -> str:
        """`predictions.csv`: file, speaker, emotion, predicted, and a column for each label."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["file", "speaker", "emotion", "predicted", *self.labels])
        for one, row in zip(self.utterances, self.probabilities, strict=True):
            predicted = self.labels[int(row.argmax())]
            numbers = (f"{value:.6f}" for value in row)
            writer.writerow([file_of(one.path), one.speaker, one.emotion, predicted, *numbers])
        return text.getvalue()


def known_speakers(corpus: Corpus, trained_on: Collection[str]) -> list[str]:
    """The speakers of a corpus that a model's training names."""
    trained = set(trained_on)
    return [name for name in corpus.named_speakers if name in trained]


def evaluate(
    recogniser: Recogniser,
    corpus: Corpus,
    progress: Progress = lambda done, total: None,
    n_heard: int = 0,
    neutral: bool = False,
    ask: Asked | None = None,
) -> Evaluation:
    """Let a model answer every recording whose emotion it knows.

    Args:
        recogniser, corpus: what answers, and what.
        progress: called with (done, in all).
        n_heard: recordings of each speaker by which the voice is known first; they are not scored, nor are speakers who
            have no more than that.
        neutral: these are neutral ones.
        ask: has the questions answered elsewhere, in their order.

    Raises:
        CorpusError: no recording is left, or they have fewer than two emotions or speakers.
    """
    labels = tuple(recogniser.labels)
    known = [one for one in corpus.utterances if one.emotion in labels]
    voices, known = _voices(recogniser, known, n_heard, neutral) if n_heard else ({}, known)
    foreign = [one.emotion for one in corpus.utterances if one.emotion not in labels]
    scored, rows, strangers, unreadable = [], [], [], []
    questions = (Question(one, one.path.resolve() if ask else one.path, voices.get(one.speaker)) for one in known)
    asked = ask(questions) if ask else ((one, partial(one.put, recogniser)) for one in questions)
    for done, (question, answer) in enumerate(asked, start=1):
        try:
            row, stranger = answer()
        except AudioError as error:
            unreadable.append((corpus.file_of(question.utterance.path), str(error)))
        else:
            scored.append(question.utterance)
            rows.append(row)
            strangers.append(stranger)
        progress(done, len(known))
    if len({one.emotion for one in scored}) < 2:
        raise CorpusError(
            f"Of {len(corpus.utterances)} recordings {len(scored)} can be scored, with "
            f"{len({one.emotion for one in scored})} emotions; the model knows {', '.join(labels)}. "
            "Name a corpus with at least two of these."
        )
    return Evaluation(
        tuple(scored),
        labels,
        np.array(rows, dtype=np.float64),
        tuple(unreadable),
        {emotion: foreign.count(emotion) for emotion in sorted(set(foreign))},
        recogniser.calibration.threshold,
        np.array(strangers, dtype=np.float64) if n_heard else None,
    )


def _voices(
    recogniser: Recogniser, utterances: Sequence[Utterance], n_heard: int, neutral: bool
) -> tuple[dict[str, Voice], list[Utterance]]:
    """The voice of each speaker from some of the utterances, and the other utterances of these speakers."""
    rng, voices, others = np.random.default_rng(VOICE_SEED), {}, []
    for speaker in sorted({one.speaker for one in utterances}):
        spoken = [one for one in utterances if one.speaker == speaker]
        fitting = [number for number, one in enumerate(spoken) if one.emotion == "neutral" or not neutral]
        if len(fitting) < n_heard or len(spoken) == n_heard:
            continue
        heard = set(rng.choice(fitting, n_heard, replace=False).tolist())
        paths = [spoken[number].path for number in sorted(heard)]
        voices[speaker] = recogniser.adapt(neutral=paths) if neutral else recogniser.adapt(paths)
        others += [one for number, one in enumerate(spoken) if number not in heard]
    return voices, others
