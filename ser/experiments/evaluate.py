"""Scores of a trained model on labelled recordings, as it answers them: file by file, with its own calibration.

In: a `Recogniser` and a `Corpus`. Out: an `Evaluation`: scores with intervals by speakers, calibration, confusion
matrix, the same by corpus, gender and speaker. Speakers that the model was trained on are refused unless allowed.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ser.corpora.corpus import Corpus, Utterance
from ser.errors import AudioError, CorpusError
from ser.inference.recogniser import Recogniser
from ser.scoring.metrics import confusion, reliability, score, scores_by

Progress = Callable[[int, int], None]


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
    """

    utterances: tuple[Utterance, ...]
    labels: tuple[str, ...]
    probabilities: NDArray[np.float64]
    unreadable: tuple[tuple[str, str], ...]
    unknown: Mapping[str, int]
    threshold: float

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

        return {
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
            "left_out": {
                "unknown_emotions": dict(self.unknown),
                "unreadable": [list(one) for one in self.unreadable],
            },
        }

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
    recogniser: Recogniser, corpus: Corpus, progress: Progress = lambda done, total: None
) -> Evaluation:
    """Let a model answer every recording whose emotion it knows.

    Raises:
        CorpusError: no recording is left, or they have fewer than two emotions or speakers.
    """
    labels = tuple(recogniser.labels)
    known = [one for one in corpus.utterances if one.emotion in labels]
    foreign = [one.emotion for one in corpus.utterances if one.emotion not in labels]
    scored, rows, unreadable = [], [], []
    for done, utterance in enumerate(known, start=1):
        try:
            answer = recogniser(utterance.path, timeline=False)
        except AudioError as error:
            unreadable.append((corpus.file_of(utterance.path), str(error)))
        else:
            scored.append(utterance)
            rows.append([answer.probabilities[label] for label in labels])
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
    )
