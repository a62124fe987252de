"""Other ways from a recording to an emotion, to compare the Bi-GRU with: each is fitted on one fold.

In: what a fold may see (`Task`). Out: calibrated probabilities of its test utterances. Every choice, be it an epoch, a
regularisation or a temperature, is made on the validation speakers. Here is what all are given, and the linear
models; the networks are in `ser.experiments.networks`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ser.audio.load import SAMPLE_RATE_HZ, Samples
from ser.corpora.folds import Fold
from ser.errors import SettingsError
from ser.features.reduce import functionals_of
from ser.runtime import import_torchaudio
from ser.scoring.calibration import fit_temperature, softmax
from ser.training.frames import FrameSource

MFCC_DIM, HOP_SAMPLES, WINDOW_SAMPLES = 40, 320, 512  # 50 frames a second, as the encoders have
STRENGTHS_LR = (0.0001, 0.001, 0.01, 0.1, 1.0)  # inverse regularisation, to choose from
STRENGTHS_SVM = (0.00001, 0.0001, 0.001, 0.01, 0.1)
MAX_ITERATIONS = 2_000
HEADS = 4  # of the Conformer


@dataclass(frozen=True)
class BaselineSettings:
    """How the networks among the baselines are trained: Adam on the cross entropy.

    Attributes:
        width: feature dimension inside the Conformer and the reduction modules; the CNN has twice and four times as
            many filters.
        learning_rate: of Adam.
        batch_size: utterances a step.
        max_epochs: maximum number of epochs.
        patience: epochs without a better validation loss before training stops.
        max_frames: utterances are cut to this many frames; 300 are 6 s.
        seed: of weights and order.
        dropout: in the networks, but inside the Conformer's own layers.
        weight_decay: of Adam, decoupled from the gradient (AdamW).
    """

    width: int = 64
    learning_rate: float = 0.001
    batch_size: int = 16
    max_epochs: int = 60
    patience: int = 6
    max_frames: int = 300
    seed: int = 40
    dropout: float = field(default=0.2, metadata={"may_be_absent": True})
    weight_decay: float = field(default=0.0, metadata={"may_be_absent": True})

    def __post_init__(self) -> None:
        for name in ("width", "learning_rate", "batch_size", "max_epochs", "patience", "max_frames"):
            if not getattr(self, name) > 0:
                raise SettingsError(f"{name} must be positive, got {getattr(self, name)}.")
        if not 0 <= self.dropout < 1 or self.weight_decay < 0:
            raise SettingsError(
                "dropout must be from 0 to less than 1 and weight_decay not negative, "
                f"got {self.dropout} and {self.weight_decay}."
            )
        if self.width % HEADS:
            raise SettingsError(f"width must be a multiple of {HEADS}, got {self.width}.")


@dataclass(frozen=True)
class Task:
    """One fold, for one baseline.

    Attributes:
        source: frames `(total frames, dim)`, or `(total frames, layers, dim)` for `LayerModules`.
        targets: `(utterances,)` indices of emotions.
        n_labels: number of emotions.
        fold: which utterances are for what.
        settings: of the training.
        number: of the fold; gives it weights of its own.
    """

    source: FrameSource
    targets: NDArray[np.int64]
    n_labels: int
    fold: Fold
    settings: BaselineSettings
    number: int = 0

    def true(self, part: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        chosen: NDArray[np.int64] = self.targets[np.asarray(part)]
        return chosen


class ListedFrames:
    """Frames in memory, such as MFCCs: 40 numbers a frame are 30 MB an hour."""

    def __init__(self, frames: Sequence[NDArray[np.float32]]) -> None:
        self.frames = frames
        self.lengths = np.array([len(one) for one in frames], dtype=np.int64)

    def gather(self, indices: Sequence[int], max_frames: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        chosen = [self.frames[index][:max_frames] for index in indices]
        return np.concatenate(chosen), np.array([len(one) for one in chosen])


class FrontEnd:
    """What enters the first layer of an encoder, of frames of all its layers."""

    def __init__(self, layers: FrameSource) -> None:
        self.layers = layers
        self.lengths = getattr(layers, "lengths", None)  # else all layers were read to count the frames

    def gather(self, indices: Sequence[int], max_frames: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        frames, lengths = self.layers.gather(indices, max_frames)
        return np.ascontiguousarray(frames[:, 0]), lengths


def mfccs(samples: Samples) -> NDArray[np.float32]:
    """`(samples,)` at 16 kHz to `(frames, 40)` mel-frequency cepstral coefficients, 50 a second."""
    mels = {"n_fft": WINDOW_SAMPLES, "hop_length": HOP_SAMPLES, "n_mels": 2 * MFCC_DIM, "center": True}
    transform = import_torchaudio().transforms.MFCC(SAMPLE_RATE_HZ, MFCC_DIM, melkwargs=mels)
    return np.ascontiguousarray(transform(torch.from_numpy(samples)).T.numpy(), dtype=np.float32)


def logistic_regression(task: Task, listener: Callable[[int], None]) -> NDArray[np.float64]:
    """Multinomial logistic regression on mean and deviation of the frames; its strength by validation accuracy."""
    from sklearn.linear_model import LogisticRegression

    return _linear(task, [LogisticRegression(C=c, max_iter=MAX_ITERATIONS) for c in STRENGTHS_LR])


def linear_svm(task: Task, listener: Callable[[int], None]) -> NDArray[np.float64]:
    """Linear support vector machine, one against the rest, on mean and deviation of the rows of an utterance.

    Of openSMILE's functionals there is one row, so its deviation is 0. The strength is chosen likewise.
    """
    from sklearn.svm import LinearSVC

    seed = task.settings.seed
    return _linear(task, [LinearSVC(C=c, max_iter=MAX_ITERATIONS, random_state=seed) for c in STRENGTHS_SVM])


def _linear(task: Task, candidates: Sequence[Any]) -> NDArray[np.float64]:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    fold = task.fold
    train, validation, test = (_over_frames(task, part) for part in (fold.train, fold.validation, fold.test))
    true = task.true(fold.validation)
    best: tuple[float, NDArray[np.float32], NDArray[np.float32]] | None = None
    for candidate in candidates:
        model = make_pipeline(StandardScaler(), candidate).fit(train, task.true(fold.train))
        held_out = _decisions(model, validation, task.n_labels)
        right = float(np.mean(held_out.argmax(axis=1) == true))
        if best is None or right > best[0]:
            best = right, held_out, _decisions(model, test, task.n_labels)
    assert best is not None
    return softmax(best[2], fit_temperature(best[1], true))


def _over_frames(task: Task, part: Sequence[int]) -> NDArray[np.float32]:
    return functionals_of(lambda indices: task.source.gather(indices, task.settings.max_frames)[0], part)


def _decisions(model: Any, vectors: NDArray[np.float32], n_labels: int) -> NDArray[np.float32]:
    """`(utterances, n_labels)`; an emotion that the training part lacks gets the least."""
    values = np.asarray(model.decision_function(vectors))
    if values.ndim == 1:  # scikit-learn's way with two classes
        values = np.stack([-values / 2, values / 2], axis=1)
    every = np.full((len(values), n_labels), values.min() - 1)
    every[:, model.classes_] = values
    return every.astype(np.float32)
