"""Other ways from a recording to an emotion, to measure the Bi-GRU against: each is fitted on one fold.

In: what a fold may see (`Task`). Out: calibrated probabilities of its test utterances. Every choice, be it an epoch, a
regularisation or a temperature, is made on the validation speakers. The networks take batches of utterances of like
length, cut to the shortest, so there is no padding that could matter; in use, only equal lengths share a batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from ser.audio.load import SAMPLE_RATE_HZ, Samples
from ser.corpora.folds import Fold
from ser.errors import SettingsError
from ser.runtime import import_torchaudio
from ser.scoring.calibration import fit_temperature, softmax
from ser.training.frames import FrameSource

CEPSTRA, HOP_SAMPLES, WINDOW_SAMPLES = 40, 320, 512  # 50 frames a second, as the encoders have
STRENGTHS_LR = (
    0.0001,
    0.001,
    0.01,
    0.1,
    1.0,
)  # inverse regularisation of the logistic regression, to choose from
STRENGTHS_SVM = (0.00001, 0.0001, 0.001, 0.01, 0.1)
MAX_ITERATIONS = 2_000


@dataclass(frozen=True)
class BaselineSettings:
    """How the networks among the baselines are trained: Adam on the cross entropy.

    Attributes:
        width: numbers a frame inside the Conformer and the reduction modules.
        learning_rate: of Adam.
        batch_size: utterances a step.
        max_epochs: at most so many.
        patience: epochs without a better validation loss before training stops.
        max_frames: utterances are cut to this many frames; 300 are 6 s.
        seed: of weights and order.
    """

    width: int = 64
    learning_rate: float = 0.001
    batch_size: int = 16
    max_epochs: int = 60
    patience: int = 6
    max_frames: int = 300
    seed: int = 40

    def __post_init__(self) -> None:
        for name in ("width", "learning_rate", "batch_size", "max_epochs", "patience", "max_frames"):
            if not getattr(self, name) > 0:
                raise SettingsError(f"{name} must be positive, got {getattr(self, name)}.")
        if self.width % HEADS:
            raise SettingsError(f"width must be a multiple of {HEADS}, got {self.width}.")


@dataclass(frozen=True)
class Task:
    """One fold, for one baseline.

    Attributes:
        source: frames `(total frames, ...)`, or for the linear models one row an utterance.
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
    """Frames that are kept in memory, such as cepstra: 40 numbers a frame are 30 MB an hour."""

    def __init__(self, frames: Sequence[NDArray[np.float32]]) -> None:
        self.frames = frames

    def gather(
        self, indices: Sequence[int], max_frames: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        chosen = [self.frames[index][:max_frames] for index in indices]
        return np.concatenate(chosen), np.array([len(one) for one in chosen])


def cepstra(samples: Samples) -> NDArray[np.float32]:
    """`(samples,)` at 16 kHz to `(frames, 40)` mel-frequency cepstral coefficients, 50 a second."""
    transform = import_torchaudio().transforms.MFCC(
        SAMPLE_RATE_HZ, CEPSTRA,
        melkwargs={"n_fft": WINDOW_SAMPLES, "hop_length": HOP_SAMPLES, "n_mels": 2 * CEPSTRA, "center": True},
    )  # fmt: skip
    return np.ascontiguousarray(transform(torch.from_numpy(samples)).T.numpy(), dtype=np.float32)


def averages(source: FrameSource, n: int, max_frames: int) -> NDArray[np.float32]:
    """Frames averaged over time, `(n, dim)`."""
    return np.stack([source.gather([index], max_frames)[0].mean(axis=0) for index in range(n)])


# ---- linear models ----------------------------------------------------------------------------------------


def logistic_regression(vectors: NDArray[np.float32], task: Task) -> NDArray[np.float64]:
    """Standardised multinomial logistic regression; its strength by the accuracy on validation speakers."""
    from sklearn.linear_model import LogisticRegression

    return _linear(vectors, task, [LogisticRegression(C=c, max_iter=MAX_ITERATIONS) for c in STRENGTHS_LR])


def linear_svm(vectors: NDArray[np.float32], task: Task) -> NDArray[np.float64]:
    """Standardised linear support vector machine, one against the rest; its strength likewise."""
    from sklearn.svm import LinearSVC

    machines = [
        LinearSVC(C=c, max_iter=MAX_ITERATIONS, random_state=task.settings.seed) for c in STRENGTHS_SVM
    ]
    return _linear(vectors, task, machines)


def _linear(vectors: NDArray[np.float32], task: Task, candidates: Sequence[Any]) -> NDArray[np.float64]:
    from sklearn.preprocessing import StandardScaler

    train, validation, test = (list(part) for part in (task.fold.train, task.fold.validation, task.fold.test))
    scaler = StandardScaler().fit(vectors[train])
    best: tuple[float, NDArray[np.float32], NDArray[np.float32]] | None = None
    for model in candidates:
        model.fit(scaler.transform(vectors[train]), task.targets[train])
        held_out = _decisions(model, scaler.transform(vectors[validation]), task.n_labels)
        right = float(np.mean(held_out.argmax(axis=1) == task.targets[validation]))
        if best is None or right > best[0]:
            best = right, held_out, _decisions(model, scaler.transform(vectors[test]), task.n_labels)
    assert best is not None
    return softmax(best[2], fit_temperature(best[1], task.true(task.fold.validation)))


def _decisions(model: Any, vectors: NDArray[np.float32], n_labels: int) -> NDArray[np.float32]:
    """`(utterances, n_labels)`; an emotion that the training part lacks gets the least."""
    values = np.asarray(model.decision_function(vectors))
    if values.ndim == 1:  # scikit-learn's way with two classes
        values = np.stack([-values / 2, values / 2], axis=1)
    every = np.full((len(values), n_labels), values.min() - 1)
    every[:, model.classes_] = values
    return every.astype(np.float32)


# ---- networks ---------------------------------------------------------------------------------------------

HEADS, LAYERS, KERNEL = 4, 2, 15  # of the Conformer


class CepstralCNN(nn.Module):
    """One-dimensional convolutions over cepstra, their average over time, dense."""

    def __init__(self, dim: int, n_labels: int, settings: BaselineSettings) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm1d(dim),
            nn.Conv1d(dim, 128, 5, padding=2), nn.BatchNorm1d(128), nn.ReLU(), nn.MaxPool1d(2, ceil_mode=True),
            nn.Dropout(0.2),
            nn.Conv1d(128, 128, 5, padding=2), nn.BatchNorm1d(128), nn.ReLU(), nn.MaxPool1d(2, ceil_mode=True),
            nn.Dropout(0.2),
            nn.Conv1d(128, 256, 5, padding=2), nn.ReLU(),
        )  # fmt: skip
        self.dense = nn.Linear(256, n_labels)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """`(batch, steps, dim)` to `(batch, n_labels)`."""
        return self.dense(self.layers(frames.transpose(1, 2)).mean(dim=2))


class ConformerHead(nn.Module):
    """Frames through torchaudio's Conformer (Gulati et al. 2020), mean and deviation over time, dense."""

    def __init__(self, dim: int, n_labels: int, settings: BaselineSettings) -> None:
        super().__init__()
        conformer = import_torchaudio().models.Conformer
        self.enter = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, settings.width), nn.Dropout(0.2))
        self.conformer = conformer(settings.width, HEADS, 4 * settings.width, LAYERS, KERNEL, 0.1)
        self.dense = nn.Linear(2 * settings.width, n_labels)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """`(batch, steps, dim)` to `(batch, n_labels)`."""
        lengths = torch.full((len(frames),), frames.shape[1])
        return self.dense(_over_time(self.conformer(self.enter(frames), lengths)[0]))


class ReducedLayers(nn.Module):
    """Each layer of the encoder through a small reduction module of its own, attention over layers, dense.

    After the idea of dimension reduction modules (DRM) for the redundant features of large encoders.
    """

    def __init__(self, dim: int, n_labels: int, settings: BaselineSettings, n_layers: int) -> None:
        super().__init__()
        self.reduce = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(dim), nn.Dropout(0.2), nn.Linear(dim, settings.width), nn.GELU(),
                nn.Linear(settings.width, settings.width),
            )
            for _ in range(n_layers)
        )  # fmt: skip
        self.attention = nn.Linear(2 * settings.width, 1)
        self.dense = nn.Sequential(nn.Dropout(0.2), nn.Linear(2 * settings.width, n_labels))

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """`(batch, steps, layers, dim)` to `(batch, n_labels)`."""
        layers = [_over_time(reduce(frames[:, :, i])) for i, reduce in enumerate(self.reduce)]
        pooled = torch.stack(layers, dim=1)
        weight = self.attention(pooled).softmax(dim=1)
        return self.dense((weight * pooled).sum(dim=1))


def network(
    build: Callable[[int, int, BaselineSettings], nn.Module], task: Task, listener: Callable[[int], None]
) -> NDArray[np.float64]:
    """Train until the validation loss stops to fall, and answer with the weights that had the least.

    Args:
        build: makes the network of the numbers a frame, the number of emotions and the settings.
        listener: called with the number of each epoch that has ended.
    """
    settings, fold = task.settings, task.fold
    frame_shape = task.source.gather([fold.train[0]], 1)[0].shape[1:]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed * 1_000 + task.number)
        model = build(frame_shape[-1], task.n_labels, settings)
        optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
        least, best, since = np.inf, copy.deepcopy(model.state_dict()), 0
        for epoch in range(1, settings.max_epochs + 1):
            model.train()
            for frames, batch in _training_batches(task, epoch):
                loss = functional.cross_entropy(model(frames), torch.from_numpy(task.true(batch)))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            true = torch.from_numpy(task.true(fold.validation))
            held_out = float(
                functional.cross_entropy(torch.from_numpy(logits(model, task, fold.validation)), true)
            )
            listener(epoch)
            since += 1
            if held_out < least:
                least, best, since = held_out, copy.deepcopy(model.state_dict()), 0
            if since >= settings.patience:
                break
    model.load_state_dict(best)
    temperature = fit_temperature(logits(model, task, fold.validation), task.true(fold.validation))
    return softmax(logits(model, task, fold.test), temperature)


def logits(model: nn.Module, task: Task, indices: Sequence[int]) -> NDArray[np.float32]:
    """`(len(indices), n_labels)`; only utterances of equal length share a batch, so none is cut or padded."""
    model.eval()
    answers = np.zeros((len(indices), task.n_labels), dtype=np.float32)
    lengths = _lengths(task, indices)
    with torch.inference_mode():
        for length in np.unique(lengths):
            places = np.flatnonzero(lengths == length)
            for some in np.split(places, range(64, len(places), 64)):
                frames, _ = task.source.gather([indices[i] for i in some], task.settings.max_frames)
                batch = torch.from_numpy(frames).unflatten(0, (len(some), int(length)))
                answers[some] = model(batch).numpy()
    return answers


def _training_batches(task: Task, epoch: int) -> Iterator[tuple[torch.Tensor, NDArray[np.int64]]]:
    """Neighbours in length, cut to the shortest of them; who neighbours whom, and the order, change by epoch."""
    rng = np.random.default_rng((task.settings.seed, task.number, epoch))
    train, size = np.asarray(task.fold.train), task.settings.batch_size
    lengths = _lengths(task, train.tolist())
    order = train[np.argsort(lengths * rng.uniform(0.9, 1.1, len(train)))]
    batches = np.array_split(order, max(1, round(len(order) / size)))
    for number in rng.permutation(len(batches)):
        batch = batches[number]
        frames, long = task.source.gather(batch.tolist(), task.settings.max_frames)
        rows = torch.from_numpy(frames).split(long.tolist())
        yield torch.stack([row[: int(long.min())] for row in rows]), batch


def _lengths(task: Task, indices: Sequence[int]) -> NDArray[np.int64]:
    known = getattr(task.source, "lengths", None)
    if known is None:
        return np.array([len(task.source.gather([i], task.settings.max_frames)[0]) for i in indices])
    return np.minimum(np.asarray(known)[np.asarray(indices)], task.settings.max_frames)


def _over_time(frames: torch.Tensor) -> torch.Tensor:
    """Mean and standard deviation, `(batch, steps, dim)` to `(batch, 2 * dim)`."""
    deviation = frames.var(dim=1, correction=0).clamp(min=1e-6).sqrt()
    return torch.cat([frames.mean(dim=1), deviation], dim=1)
