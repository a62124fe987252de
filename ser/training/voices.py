"""What each speaker's frames are like beside everybody's: so that training hears utterances as a known voice is heard.

In: `LabelledFrames` and the training part. Out: frames of an utterance moved from its speaker's mean and deviation to
those of all, and what `ser.inference.adaptation` needs to do the same with a stranger.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ser.training.frames import LabelledFrames

LEAST_EMOTIONS, LEAST_UTTERANCES = 3, 10  # of a speaker: the mean of one who is always angry is anger


class Voices:
    """Mean and deviation of the frames of training speakers, each `(*frame_shape)` float32.

    Attributes:
        mean, deviation: over all of them.
        from_neutral: mean over speakers of what lies between a speaker's neutral utterances and all of theirs.
    """

    def __init__(self, data: LabelledFrames, train: Sequence[int], max_frames: int, n_averaged: int = 1) -> None:
        self.speakers: dict[tuple[str, str], tuple[NDArray[np.float32], NDArray[np.float32]]] = {}
        by_speaker: dict[tuple[str, str], list[int]] = {}
        for index in train:
            by_speaker.setdefault((data.corpora[index], data.speakers[index]), []).append(int(index))
        total, shifts = _Sums(), []
        for name, indices in by_speaker.items():
            key = (*indices, max_frames, n_averaged)
            if key not in data.sums:
                data.sums[key] = _sums(data, indices, max_frames, n_averaged)
            neutral, others = data.sums[key]
            every = neutral + others
            total += every
            if len({int(data.targets[index]) for index in indices}) < LEAST_EMOTIONS or len(indices) < LEAST_UTTERANCES:
                continue
            self.speakers[name] = every.mean, every.deviation
            if neutral.n:
                shifts.append(every.mean - neutral.mean)
        self.mean, self.deviation = total.mean, total.deviation
        self.from_neutral = np.mean(shifts, axis=0) if shifts else np.zeros_like(self.mean)
        self._of = [self.speakers.get(name) for name in zip(data.corpora, data.speakers, strict=True)]

    def moved(
        self, frames: NDArray[np.float32], lengths: NDArray[np.int64], indices: Sequence[int], share: float,
        rng: np.random.Generator,
    ) -> NDArray[np.float32]:  # fmt: skip
        """The frames of a batch, a share of its utterances moved, those of speakers with one emotion never."""
        moved, ends = frames.copy(), np.cumsum(lengths)
        for index, end, length, drawn in zip(indices, ends, lengths, rng.random(len(ends)) < share, strict=True):
            speaker = self._of[index % len(self._of)]
            if drawn and speaker is not None:
                mean, deviation = speaker
                part = moved[end - length : end]
                part[:] = (part - mean) / deviation * self.deviation + self.mean
        return moved


def _sums(data: LabelledFrames, indices: Sequence[int], max_frames: int, n_averaged: int) -> tuple[_Sums, _Sums]:
    """Of a speaker's neutral frames, and of the others."""
    neutral, others = _Sums(), _Sums()
    for index in indices:
        sums = neutral if data.targets[index] == data.neutral else others
        sums.add(data.gather([index], max_frames, n_averaged)[0])
    return neutral, others


class _Sums:
    """Number, sum and sum of squares of frames."""

    def __init__(self, n: int = 0, total: object = 0.0, squares: object = 0.0) -> None:
        self.n, self.total, self.squares = n, np.asarray(total, np.float64), np.asarray(squares, np.float64)

    def add(self, frames: NDArray[np.float32]) -> None:
        self.n += len(frames)
        self.total = self.total + frames.sum(axis=0, dtype=np.float64)
        self.squares = self.squares + np.einsum("f...,f...->...", frames, frames)

    def __add__(self, other: _Sums) -> _Sums:
        return _Sums(self.n + other.n, self.total + other.total, self.squares + other.squares)

    @property
    def mean(self) -> NDArray[np.float32]:
        return (self.total / self.n).astype(np.float32)

    @property
    def deviation(self) -> NDArray[np.float32]:
        variance = self.squares / self.n - np.square(self.total / self.n)
        return np.sqrt(np.maximum(variance, 1e-6)).astype(np.float32)
