"""Less of each utterance: averages of neighbouring frames, and principal components of their dimensions.

In: frames `(frames, dim)`. Out: fewer frames, or frames of fewer dimensions. A classifier must be given when it answers
what it was trained on: averages are part of how frames are gathered, and a projection is stored beside the weights.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ser.errors import SettingsError

AT_ONCE = 32  # utterances in memory


class Source(Protocol):
    def gather(self, indices: Sequence[int], max_frames: int | None = None) -> tuple[Any, Any]: ...


def neighbours(reduce: str) -> int:
    """Frames in each average by the setting: 1 for "none", 2 for "mean2".

    Raises:
        SettingsError: the setting is something else.
    """
    found = re.fullmatch(r"none|mean([1-9])", reduce)
    if found is None:
        raise SettingsError(f"reduce is 'none' or 'mean2' to 'mean9', got {reduce!r}.")
    return int(found[1] or 1)


def averaged(frames: NDArray[Any], n: int) -> NDArray[Any]:
    """Averages of `n` frames each, `(ceil(frames / n), ...)` of `(frames, ...)`; the last may be of fewer."""
    return averaged_each(frames, np.array([len(frames)]), n)[0]


def averaged_each(
    frames: NDArray[Any], lengths: NDArray[np.int64], n: int
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The same for utterances one after the other, `(total frames, ...)`, and their new lengths."""
    if n == 1:
        return frames, lengths
    ends = np.cumsum(lengths)
    starts = np.concatenate(
        [np.arange(end - length, end, n) for end, length in zip(ends, lengths, strict=True)]
    )
    counts = np.diff(starts, append=len(frames)).reshape(-1, *[1] * (frames.ndim - 1))
    averages = np.add.reduceat(frames, starts, axis=0, dtype=np.float32) / counts.astype(np.float32)
    return averages, -(-lengths // n)


@dataclass(frozen=True)
class Projection:
    """Principal components of frames.

    Attributes:
        mean: `(dim,)`.
        axes: `(dim, components)`, orthonormal, by falling variance.
        explained: `(components,)` fraction of the variance along each.
    """

    mean: NDArray[np.float32]
    axes: NDArray[np.float32]
    explained: NDArray[np.float32]

    def __call__(self, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        """`(..., components)` of `(..., dim)`."""
        return np.asarray((frames - self.mean) @ self.axes, np.float32)


def fit_projection(
    source: Source, indices: Sequence[int], n_components: int, max_frames: int | None = None
) -> Projection:
    """Principal components of the frames of some utterances, those of training, and of no others.

    Raises:
        SettingsError: there are not that many.
    """
    n, total, products = 0, np.zeros(1), np.zeros(1)
    for start in range(0, len(indices), AT_ONCE):
        frames = source.gather(indices[start : start + AT_ONCE], max_frames)[0].astype(np.float64)
        n, total, products = n + len(frames), total + frames.sum(axis=0), products + frames.T @ frames
    if not 1 <= n_components <= min(n, total.size):
        raise SettingsError(
            f"{n} frames of {total.size} dimensions have no {n_components} principal components."
        )
    mean = total / n
    variances, axes = np.linalg.eigh(products / n - np.outer(mean, mean))
    first = np.argsort(variances)[::-1][:n_components]
    explained = variances[first] / variances.sum()
    return Projection(
        mean.astype(np.float32), axes[:, first].astype(np.float32), explained.astype(np.float32)
    )
