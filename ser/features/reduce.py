"""Less of each utterance: averages of neighbouring frames, and principal components or the best of their dimensions.

In: frames `(frames, dim)`. Out: fewer frames, or the axes of fewer dimensions. A classifier must be given when it
answers what it was trained on: averages are part of how frames are gathered, and the axes are stored with its weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ser.errors import SettingsError

AT_ONCE = 32  # utterances in memory
STRENGTH, MAX_ITERATIONS = 0.01, 2_000  # of the linear model that tells useful dimensions: inverse regularisation


def averaged(frames: NDArray[Any], n: int) -> NDArray[Any]:
    """Averages of `n` frames each, `(ceil(frames / n), ...)` of `(frames, ...)`; the last may be of fewer."""
    return averaged_each(frames, np.array([len(frames)]), n)[0]


def averaged_each(frames: NDArray[Any], lengths: NDArray[np.int64], n: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The same for utterances one after the other, `(total frames, ...)`, and their new lengths."""
    if n == 1:
        return frames, lengths
    ends = np.cumsum(lengths)
    starts = np.concatenate([np.arange(end - length, end, n) for end, length in zip(ends, lengths, strict=True)])
    counts = np.diff(starts, append=len(frames)).reshape(-1, *[1] * (frames.ndim - 1))
    averages = np.add.reduceat(frames, starts, axis=0, dtype=np.float32) / counts.astype(np.float32)
    return averages, -(-lengths // n)


def principal_components(
    gather: Callable[[Sequence[int]], NDArray[np.float32]], indices: Sequence[int], n_components: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Principal components of the frames of some utterances: those of training, and no others.

    Args:
        gather: the frames `(total frames, ...)` of some utterances, all numbers of a frame counted as one vector.
        indices: of the utterances.
        n_components: how many.

    Returns:
        the mean `(dim,)` and the axes `(dim, components)`, orthonormal, by falling variance.

    Raises:
        SettingsError: there are not that many.
    """
    n, total, products = 0, np.zeros(1), np.zeros(1)
    for start in range(0, len(indices), AT_ONCE):
        some = gather(indices[start : start + AT_ONCE])
        frames = some.reshape(len(some), -1).astype(np.float64)
        n, total, products = n + len(frames), total + frames.sum(axis=0), products + frames.T @ frames
    if not 1 <= n_components <= min(n, total.size):
        raise SettingsError(f"{n} frames of {total.size} dimensions have no {n_components} principal components.")
    mean = total / n
    _, axes = np.linalg.eigh(products / n - np.outer(mean, mean))
    return mean.astype(np.float32), axes[:, ::-1][:, :n_components].astype(np.float32)


def functionals_of(
    gather: Callable[[Sequence[int]], NDArray[np.float32]], indices: Sequence[int]
) -> NDArray[np.float32]:
    """Mean and standard deviation over time of the frames of each utterance, `(len(indices), 2 * dim)`."""
    each = (gather([one]) for one in indices)
    flat = (frames.reshape(len(frames), -1) for frames in each)
    return np.stack([np.concatenate([frames.mean(axis=0), frames.std(axis=0)]) for frames in flat])


def functionals_scale(
    gather: Callable[[Sequence[int]], NDArray[np.float32]], train: Sequence[int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation, over utterances, of the mean and deviation of their frames.

    Args:
        gather: as for `principal_components`.
        train: indices of utterances.

    Returns:
        `(2 * dim,)` each; a deviation of 0 counts as 1.
    """
    values = functionals_of(gather, train)
    deviation = values.std(axis=0)
    return values.mean(axis=0), np.where(deviation > 0, deviation, 1).astype(np.float32)


def useful_dimensions(
    gather: Callable[[Sequence[int]], NDArray[np.float32]],
    targets: NDArray[np.int64],
    train: Sequence[int],
    held_out: Sequence[int],
    n_kept: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The dimensions without which a linear model of the training speakers would do worst on those held out.

    The model is a logistic regression on the mean frame of each utterance; a dimension is taken from it by setting it
    to its mean, and its use is by how much the cross entropy rises.

    Args:
        gather: as for `principal_components`.
        targets: indices of emotions, of all utterances.
        train, held_out: indices of utterances.
        n_kept: how many.

    Returns:
        a mean `(dim,)` of 0 and axes `(dim, n_kept)` that pick the dimensions, as of `principal_components`.

    Raises:
        SettingsError: there are not that many.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    known, unseen = (np.stack([gather([one]).mean(axis=0).ravel() for one in some]) for some in (train, held_out))
    dim = known.shape[1]
    if n_kept > dim:
        raise SettingsError(f"Frames of {dim} dimensions do not have {n_kept} to keep.")
    scaler = StandardScaler().fit(known)
    model = LogisticRegression(C=STRENGTH, max_iter=MAX_ITERATIONS)
    model.fit(scaler.transform(known), targets[np.asarray(train)])
    weights, bias = model.coef_.T, model.intercept_
    if len(model.classes_) == 2:  # one row for two classes
        weights, bias = np.hstack([0 * weights, weights]), np.array([0.0, bias[0]])
    is_known = np.isin(targets[np.asarray(held_out)], model.classes_)
    inputs = scaler.transform(unseen)[is_known]
    true = np.searchsorted(model.classes_, targets[np.asarray(held_out)[is_known]])
    decisions, uses = inputs @ weights + bias, np.empty(dim)
    for one in range(dim):
        without = decisions - np.outer(inputs[:, one], weights[one])
        right = without[np.arange(len(true)), true]
        uses[one] = np.sum(np.logaddexp.reduce(without, axis=1) - right)
    kept = np.sort(np.argsort(-uses, kind="stable")[:n_kept])
    return np.zeros(dim, dtype=np.float32), np.eye(dim, dtype=np.float32)[:, kept]
