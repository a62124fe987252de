"""The yardstick for an encoder: leave-one-speaker-out logistic regression on time-averaged frames.

In: a corpus and an encoder. Out: accuracy, UAR with intervals by speakers, and accuracy a speaker. The
regularisation is fixed before looking; each fold standardises with its training speakers alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ser.errors import CorpusError

C = 0.01  # inverse strength of the L2 regularisation, fixed for every corpus and encoder
MAX_ITERATIONS = 2_000


@dataclass(frozen=True)
class Probe:
    """What the probe predicted for every utterance, each by a model that never heard its speaker.

    Attributes:
        labels: the emotions, in the order of the columns.
        true: `(utterances,)` indices into labels.
        probabilities: `(utterances, labels)`.
        speakers: `(utterances,)`.
    """

    labels: tuple[str, ...]
    true: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    speakers: tuple[str, ...]


def probe(
    features: NDArray[np.floating], emotions: Sequence[str], speakers: Sequence[str], c: float = C
) -> Probe:
    """Leave one speaker out, for each speaker.

    Args:
        features: `(utterances, dim)`, for instance frames averaged over time.
        emotions: of each utterance.
        speakers: of each utterance.
        c: inverse regularisation strength.

    Raises:
        CorpusError: fewer than two speakers or emotions, or an emotion that only one speaker has.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    labels = tuple(sorted(set(emotions)))
    names = sorted(set(speakers))
    if len(names) < 2 or len(labels) < 2:
        raise CorpusError(
            f"The probe needs two speakers and two emotions; the corpus has {len(names)} and {len(labels)}."
        )
    true = np.array([labels.index(emotion) for emotion in emotions])
    who = np.array(speakers)
    probabilities = np.zeros((len(true), len(labels)))
    for name in names:
        train, test = who != name, who == name
        model = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=MAX_ITERATIONS))
        model.fit(features[train], true[train])
        probabilities[np.ix_(test, model.classes_)] = model.predict_proba(features[test])
    return Probe(labels, true, probabilities, tuple(speakers))
