"""Networks to compare the Bi-GRU with, and how they are trained on one fold.

In: a `Task` and what builds the network. Out: calibrated probabilities of the fold's test utterances. The networks take
batches of utterances of like length, cut to the shortest, so there is no padding that could matter; at test time, only
equal lengths share a batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from ser.experiments.baselines import HEADS, BaselineSettings, Task
from ser.runtime import chosen_device, import_torchaudio
from ser.scoring.calibration import fit_temperature, softmax

LAYERS, KERNEL = 1, 15  # of the Conformer: "a simple conformer block" in the abstract of (33); the kernel is ours


class MfccCNN(nn.Module):
    """One-dimensional convolutions over time on MFCCs, their average over time, dense: of our own, after the name."""

    def __init__(self, shape: Sequence[int], n_labels: int, settings: BaselineSettings) -> None:
        super().__init__()
        filters = 2 * settings.width
        self.layers = nn.Sequential(
            nn.BatchNorm1d(shape[-1]),
            *_convolution(shape[-1], filters, settings.dropout),
            *_convolution(filters, filters, settings.dropout),
            nn.Conv1d(filters, 2 * filters, 5, padding=2),
            nn.ReLU(),
        )
        self.dense = nn.Linear(2 * filters, n_labels)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """`(batch, steps, dim)` to `(batch, n_labels)`."""
        return self.dense(self.layers(frames.transpose(1, 2)).mean(dim=2))


def _convolution(dim: int, filters: int, dropout: float) -> tuple[nn.Module, ...]:
    return (
        nn.Conv1d(dim, filters, 5, padding=2),
        nn.BatchNorm1d(filters),
        nn.ReLU(),
        nn.MaxPool1d(2, ceil_mode=True),
        nn.Dropout(dropout),
    )


class ConformerHead(nn.Module):
    """Frames through torchaudio's Conformer (Gulati et al. 2020), mean and deviation over time, dense."""

    def __init__(self, shape: Sequence[int], n_labels: int, settings: BaselineSettings) -> None:
        super().__init__()
        dim, conformer = shape[-1], import_torchaudio().models.Conformer
        self.enter = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, settings.width), nn.Dropout(settings.dropout))
        self.conformer = conformer(settings.width, HEADS, 4 * settings.width, LAYERS, KERNEL, 0.1)
        self.dense = nn.Linear(2 * settings.width, n_labels)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """`(batch, steps, dim)` to `(batch, n_labels)`."""
        lengths = torch.full((len(frames),), frames.shape[1], device=frames.device)
        return self.dense(_over_time(self.conformer(self.enter(frames), lengths)[0]))


class LayerModules(nn.Module):
    """Each layer of the encoder through a small reduction module of its own.

    After the idea of dimension reduction modules (DRM) for the redundant features of large encoders.
    """

    def __init__(self, shape: Sequence[int], settings: BaselineSettings) -> None:
        super().__init__()
        (n_layers, dim), width = shape, settings.width
        self.reduce = nn.ModuleList(_reduction(dim, width, settings.dropout) for _ in range(n_layers))

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """`(batch, steps, layers, dim)` to mean and deviation of each over time, `(batch, layers, 2 * width)`."""
        return torch.stack([_over_time(reduce(frames[:, :, i])) for i, reduce in enumerate(self.reduce)], dim=1)


def _reduction(dim: int, width: int, dropout: float) -> nn.Sequential:
    enter = (nn.LayerNorm(dim), nn.Dropout(dropout), nn.Linear(dim, width))
    return nn.Sequential(*enter, nn.GELU(), nn.Linear(width, width))


class AttendedLayers(nn.Module):
    """Reduced layers, attention over them, dense."""

    def __init__(self, shape: Sequence[int], n_labels: int, settings: BaselineSettings) -> None:
        super().__init__()
        self.layers = LayerModules(shape, settings)
        self.attention = nn.Linear(2 * settings.width, 1)
        self.dense = _classifier(settings, n_labels)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """`(batch, steps, layers, dim)` to `(batch, n_labels)`."""
        pooled = self.layers(frames)
        weight = self.attention(pooled).softmax(dim=1)
        return self.dense((weight * pooled).sum(dim=1))


class CombinedLayers(nn.Module):
    """Reduced layers, each with a classifier of its own, trained together: their log-probabilities are averaged."""

    def __init__(self, shape: Sequence[int], n_labels: int, settings: BaselineSettings) -> None:
        super().__init__()
        self.layers = LayerModules(shape, settings)
        self.dense = nn.ModuleList(_classifier(settings, n_labels) for _ in self.layers.reduce)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """`(batch, steps, layers, dim)` to `(batch, n_labels)`."""
        pooled = self.layers(frames)
        each = [dense(pooled[:, i]).log_softmax(dim=-1) for i, dense in enumerate(self.dense)]
        return torch.stack(each).mean(dim=0)


def _classifier(settings: BaselineSettings, n_labels: int) -> nn.Sequential:
    return nn.Sequential(nn.Dropout(settings.dropout), nn.Linear(2 * settings.width, n_labels))


Build = Callable[[Sequence[int], int, BaselineSettings], nn.Module]


def network(build: Build, task: Task, listener: Callable[[int], None]) -> NDArray[np.float64]:
    """Train while the validation loss falls, and predict with the weights that had the lowest.

    Args:
        build: makes the network for frames of a shape, a number of emotions and the settings.
        listener: called with the number of each epoch that has ended.
    """
    settings, fold, device = task.settings, task.fold, chosen_device()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed * 1_000 + task.number)
        shape = task.source.gather([fold.train[0]], 1)[0].shape[1:]
        model = build(shape, task.n_labels, settings).to(device)
        optimizer = torch.optim.AdamW(model.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
        true = torch.from_numpy(task.true(fold.validation))
        lowest, best, since = np.inf, copy.deepcopy(model.state_dict()), 0
        for epoch in range(1, settings.max_epochs + 1):
            model.train()
            for frames, batch in _training_batches(task, epoch):
                target = torch.from_numpy(task.true(batch)).to(device)
                loss = functional.cross_entropy(model(frames.to(device)), target)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            held_out = torch.from_numpy(logits(model, task, fold.validation))
            validation_loss = float(functional.cross_entropy(held_out, true))
            listener(epoch)
            since += 1
            if validation_loss < lowest:
                lowest, best, since = validation_loss, copy.deepcopy(model.state_dict()), 0
            if since >= settings.patience:
                break
    model.load_state_dict(best)
    temperature = fit_temperature(logits(model, task, fold.validation), true.numpy())
    return softmax(logits(model, task, fold.test), temperature)


def logits(model: nn.Module, task: Task, indices: Sequence[int]) -> NDArray[np.float32]:
    """`(len(indices), n_labels)`; only utterances of equal length share a batch, so none is cut or padded."""
    model.eval()
    device = next(model.parameters()).device
    predicted = np.zeros((len(indices), task.n_labels), dtype=np.float32)
    lengths = _lengths(task, indices)
    with torch.inference_mode():
        for length in np.unique(lengths):
            places = np.flatnonzero(lengths == length)
            for some in np.split(places, range(64, len(places), 64)):
                frames, _ = task.source.gather([indices[i] for i in some], task.settings.max_frames)
                batch = torch.from_numpy(frames).unflatten(0, (len(some), int(length))).to(device)
                predicted[some] = model(batch).cpu().numpy()
    return predicted


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
