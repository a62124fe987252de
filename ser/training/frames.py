"""Frames of utterances as a training takes them: where they come from, their labels and weights, their masking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ser.corpora.corpus import Corpus
from ser.features.reduce import averaged_each

MASKED_STEPS, MASKED_DIMENSIONS = 0.1, 0.1  # widest span that frame masking takes out


class FrameSource(Protocol):
    """Frames of a corpus' utterances, wherever they are stored."""

    def gather(self, indices: Sequence[int], max_frames: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Frames `(total frames, dim)` float32, utterance after utterance, each cut to `max_frames`, and their lengths.

        From an encoder of several layers they are `(total frames, layers, dim)`.
        """
        ...


@dataclass(frozen=True, eq=False)
class LabelledFrames:
    """Frames of utterances, and what is to be learnt from them.

    Attributes:
        features: source of frames; augmented copy k of utterance i is at `i + k * utterances`.
        targets: `(utterances,)` index of each utterance's emotion.
        n_labels: number of emotions.
        dim: feature dimension.
        corpora, speakers: `(utterances,)` names, by which `TrainingSettings.balance` weights.
    """

    features: FrameSource
    targets: NDArray[np.int64]
    n_labels: int
    dim: int
    corpora: Sequence[str] = ()
    speakers: Sequence[str] = ()
    neutral: int = -1  # index of that emotion, where there is one
    sums: dict[Any, Any] = field(default_factory=dict)  # of frames that several folds have in common

    @classmethod
    def of(cls, corpus: Corpus, features: FrameSource, dim: int) -> LabelledFrames:
        """Utterances of a corpus, in its order."""
        corpora = [utterance.corpus for utterance in corpus.utterances]
        speakers = [utterance.speaker for utterance in corpus.utterances]
        emotions = list(corpus.emotions)
        neutral = emotions.index("neutral") if "neutral" in emotions else -1
        return cls(features, corpus.targets, len(emotions), dim, corpora, speakers, neutral)

    def gather(
        self, indices: Sequence[int], max_frames: int, n_averaged: int = 1
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Frames of utterances and their lengths, each the average of `n_averaged`, cut to `max_frames` of them."""
        return averaged_each(*self.features.gather(indices, max_frames * n_averaged), n_averaged)

    def weights(self, indices: NDArray[np.int64], balance: str) -> NDArray[np.float32]:
        """Loss weights `(indices,)` with the mean 1; see `TrainingSettings.balance` for the formula."""
        weights = np.ones(len(indices))
        for names in {"none": [], "corpora": [self.corpora], "speakers": [self.corpora, self.speakers]}[balance]:
            chosen = [names[index] for index in indices]
            _, group, counts = np.unique(chosen, return_inverse=True, return_counts=True)
            weights /= np.sqrt(counts[group])
        return (weights / weights.mean()).astype(np.float32)


def mask_frames(
    frames: NDArray[np.float32], lengths: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.float32]:
    """A copy with a random span of frames, and of dimensions, of each utterance set to zero (Park et al. 2019).

    `frames` are `(total frames, dim)` or `(total frames, layers, dim)`; a span of dimensions is the same in all layers.
    """
    masked = frames.copy()
    dim = frames.shape[-1]
    for end, length in zip(np.cumsum(lengths), lengths, strict=True):
        width = int(rng.integers(0, max(1, int(MASKED_STEPS * length)) + 1))
        start = end - length + int(rng.integers(0, length - width + 1))
        masked[start : start + width] = 0
        width = int(rng.integers(0, int(MASKED_DIMENSIONS * dim) + 1))
        first = int(rng.integers(0, dim - width + 1))
        masked[end - length : end, ..., first : first + width] = 0
    return masked
