"""The yardstick for an encoder: leave-one-speaker-out logistic regression on time-averaged frames.

In: a vector for each utterance, emotions, speakers. Out: probabilities for every utterance by a model that never heard
its speaker. The regularisation is fixed before looking; each fold standardises with its training speakers alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ser.errors import CorpusError

C = 0.01  # inverse strength of the L2 regularisation, fixed for every corpus and encoder
MAX_ITERATIONS = 2_000


@dataclass(frozen=True)
class Probe:
    """What the probe predicted for every utterance.

    Attributes:
        labels: the emotions, in the order of the columns.
        true: `(utterances,)` indices into labels.
        probabilities: `(utterances, labels)`.
    """

    labels: tuple[str, ...]
    true: NDArray[np.int64]
    probabilities: NDArray[np.float64]


def probe(features: NDArray[np.floating], emotions: Sequence[str], speakers: Sequence[str], c: float = C) -> Probe:
    """Predict each speaker's emotions by a model of the others; an emotion that the others lack has probability 0.

    Args:
        features: `(utterances, dim)`, for instance frames averaged over time.
        emotions: of each utterance.
        speakers: of each utterance.
        c: inverse regularisation strength.

    Raises:
        CorpusError: fewer than two speakers or emotions.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    labels, n_speakers = tuple(sorted(set(emotions))), len(set(speakers))
    if n_speakers < 2 or len(labels) < 2:
        raise CorpusError(
            f"The probe needs two speakers and two emotions; the corpus has {n_speakers} and {len(labels)}."
        )
    true = np.array([labels.index(emotion) for emotion in emotions])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=MAX_ITERATIONS))
    with warnings.catch_warnings():  # an emotion of one speaker alone is said by a warning a fold
        warnings.filterwarnings("ignore", "Number of classes in training fold", RuntimeWarning)
        probabilities = cross_val_predict(
            model, features, true, groups=speakers, cv=LeaveOneGroupOut(), method="predict_proba"
        )
    return Probe(labels, true, probabilities)
