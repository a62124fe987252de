"""Training of one classifier, epoch by epoch, with early stopping; nothing here knows of folds or trials.

In: `LabelledFrames`, the indices to train and to validate on, settings. Out: a report each epoch, the weights of the
best validation epoch. Everything random comes from the seed, the stream (a number for each fold) and the epoch, so a
training that was saved and restored continues as if it had never stopped. Another number of threads, another processor
or other versions round differently: losses then differ from the sixth digit on, which can end a training one epoch
sooner or later.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from ser.classifier.bigru import BiGRUClassifier, averaged
from ser.classifier.settings import AXES_BUFFERS, FUNCTIONALS_BUFFERS, VOICE_BUFFERS, ClassifierSettings
from ser.errors import JobError
from ser.features.reduce import functionals_scale, principal_components, useful_dimensions
from ser.runtime import chosen_device
from ser.scoring.metrics import accuracy_and_uar, confusion
from ser.training.frames import LabelledFrames, mask_frames
from ser.training.optimizers import optimizer
from ser.training.settings import TrainingSettings
from ser.training.voices import Voices

EVALUATION_BATCH = 64
Figures = tuple[float | None, float | None, float | None]
Move = Callable[[NDArray[np.float32]], NDArray[np.float32]]


class Diverged(JobError):
    """A training whose loss was no finite number in its first epoch: it has no weights to offer."""


@dataclass(frozen=True)
class EpochReport:
    """Figures of one epoch; losses are cross entropies without the penalty. None where the training diverged.

    Attributes:
        epoch: counted from 1.
        train_loss, train_wa, train_uar: gathered while training, dropout on.
        validation_loss, validation_wa, validation_uar: after the epoch; None without validation utterances.
        validation_confusion: rows are true emotions.
        penalty: the L2 term after the epoch.
    """

    epoch: int
    train_loss: float | None
    train_wa: float | None
    train_uar: float | None
    validation_loss: float | None
    validation_wa: float | None
    validation_uar: float | None
    validation_confusion: list[list[int]] | None
    penalty: float | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Training:
    """A classifier in training: `run_epoch()` until `stopped`, then `best_model()`."""

    def __init__(
        self,
        data: LabelledFrames,
        train: Sequence[int],
        validation: Sequence[int],
        classifier: ClassifierSettings,
        settings: TrainingSettings,
        stream: int = 0,
    ) -> None:
        """Prepare a training on the device that SER_DEVICE names.

        Args:
            data: frames and targets.
            train, validation: indices of utterances; validation may be empty, then nothing stops early.
            classifier, settings: what is trained and how.
            stream: keeps the randomness of trainings with one seed apart, for instance the number of a fold.
        """
        self.device = chosen_device()
        n = len(data.targets)
        copies = range(1 + settings.augmented_copies)  # of the training utterances alone
        self.data, self.targets = data, np.tile(data.targets, len(copies))
        self.train = np.concatenate([np.asarray(train) + copy * n for copy in copies])
        self.validation = np.asarray(validation)
        self.settings, self.stream = settings, stream
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed * 1_000 + stream)
            self.model = BiGRUClassifier(data.dim, data.n_labels, classifier).to(self.device)
        self.voices: Voices | None = None
        if classifier.voices:
            self.voices = Voices(data, train, settings.max_frames, classifier.averaged_frames)
            self._fill(VOICE_BUFFERS, [getattr(self.voices, name.removeprefix("voice_")) for name in VOICE_BUFFERS])
        if classifier.components:
            held_out = validation if len(validation) else train
            axes = (
                principal_components(self._unmoved, train, classifier.components)
                if classifier.components_by == "variance"
                else useful_dimensions(self._unmoved, data.targets, train, held_out, classifier.components)
            )
            self._fill(AXES_BUFFERS, axes)
        if classifier.functionals:
            self._fill(FUNCTIONALS_BUFFERS, functionals_scale(self._unmoved, self.train.tolist()))
        self.optimizer = optimizer(self.model, settings)
        self.average = AveragedModel(self.model, avg_fn=self._averaged) if settings.weight_average else None
        self.class_weights = self._class_weights()
        self.weights = np.ones(n * len(copies), dtype=np.float32)
        self.weights[self.train] = np.tile(data.weights(np.asarray(train), settings.balance), len(copies))
        self.epochs: list[EpochReport] = []
        self.best_epoch, self.best_monitored, self.stopped = 0, math.inf, False
        self.best_state = copied_state(self._current)

    def _fill(self, names: Sequence[str], values: Sequence[NDArray[np.float32]]) -> None:
        for name, value in zip(names, values, strict=True):
            getattr(self.model, name).copy_(torch.from_numpy(value))

    def _unmoved(self, indices: Sequence[int]) -> NDArray[np.float32]:
        return self.data.gather(indices, self.settings.max_frames, self.model.settings.averaged_frames)[0]

    def run_epoch(self) -> EpochReport:
        """Train for one epoch, validate, and decide whether that was the last.

        Raises:
            Diverged: the first epoch gave no finite loss.
        """
        epoch = len(self.epochs) + 1
        with flushed_denormals():
            train_loss, train_matrix = self._pass_over_training(epoch)
            report = self._report(epoch, train_loss, train_matrix)
        self.epochs.append(report)
        self._watch(report)
        if not self.best_epoch:
            raise Diverged(
                f"The training diverged: its loss was no finite number in the first epoch. Lower the learning rate "
                f"(now {self.settings.learning_rate:g}), or take another optimizer than {self.settings.optimizer}."
            )
        return report

    def logits(
        self, indices: Sequence[int] | NDArray[np.int64], best: bool = True, move: Move = lambda frames: frames
    ) -> NDArray[np.float32]:
        """Logits `(indices, n_labels)` of any utterances, by the best epoch's weights or the current ones.

        `move` changes their frames first, as a known voice does.
        """
        model = self.best_model().to(self.device) if best else self._current.eval()
        rows = [np.zeros((0, self.data.n_labels), dtype=np.float32)]
        with torch.inference_mode():
            for batch in _batches(np.asarray(indices), EVALUATION_BATCH):
                frames, lengths = self.frames(batch.tolist())
                inputs = torch.from_numpy(move(frames)).to(self.device), torch.from_numpy(lengths)
                rows.append(model(*inputs).cpu().numpy())
        return np.concatenate(rows)

    def best_model(self) -> BiGRUClassifier:
        """The classifier with the weights of the best epoch, in evaluation mode, on the processor."""
        model = BiGRUClassifier(self.model.dim, self.model.n_labels, self.model.settings)
        model.load_state_dict(self.best_state)
        return model.eval()

    @property
    def _current(self) -> nn.Module:
        """The classifier as it stands: the average of its weights where one is kept."""
        return self.model if self.average is None else self.average.module

    def _averaged(self, average: torch.Tensor, weight: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
        """The next average of a weight after `n` steps: at first it follows fast."""
        decay = min(self.settings.weight_average, (1 + int(n)) / (10 + int(n)))
        return average.lerp(weight, 1 - decay)

    @property
    def best(self) -> EpochReport:
        """Report of the best epoch so far."""
        return self.epochs[self.best_epoch - 1]

    def _pass_over_training(self, epoch: int) -> tuple[float, NDArray[np.int64]]:
        rng = np.random.default_rng((self.settings.seed, self.stream, epoch))
        dropout = torch.Generator(self.device).manual_seed(int(rng.integers(2**62)))
        order = rng.permutation(self.train)
        total, predicted = 0.0, []
        self.model.train()
        for batch in _batches(order, self.settings.batch_size):
            each = self.model.each(*self._gathered(batch, rng), dropout)
            losses = torch.stack([self._loss(one, batch) for one in each])
            self.optimizer.zero_grad(set_to_none=True)
            (losses.sum() + self.settings.l2 * self.model.penalty()).backward()
            self.optimizer.step()
            if self.average is not None:
                self.average.update_parameters(self.model)
            total += float(losses.detach().mean()) * len(batch)
            predicted.append(averaged(each).detach().argmax(dim=1).cpu().numpy())
        matrix = confusion(self.targets[order], np.concatenate(predicted), self.data.n_labels)
        return total / len(order), matrix

    def frames(self, indices: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Frames of utterances one after the other, as the classifier takes them, and their lengths."""
        return self.data.gather(indices, self.settings.max_frames, self.model.settings.averaged_frames)

    def _gathered(self, batch: NDArray[np.int64], rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Frames and lengths of utterances to train on, masked and moved as the generator draws."""
        frames, lengths = self.frames(batch.tolist())
        if self.voices is not None:
            frames = self.voices.moved(frames, lengths, batch.tolist(), self.model.settings.voices, rng)
        if self.settings.frame_masking:
            frames = mask_frames(frames, lengths, rng)
        return torch.from_numpy(frames).to(self.device), torch.from_numpy(lengths)

    def _loss(self, logits: torch.Tensor, batch: NDArray[np.int64]) -> torch.Tensor:
        """Weighted mean of the cross entropies of a batch."""
        target = torch.from_numpy(self.targets[batch]).to(self.device)
        smoothing = self.settings.label_smoothing
        each = functional.cross_entropy(logits, target, self.class_weights, reduction="none", label_smoothing=smoothing)
        total = len(batch) if self.class_weights is None else self.class_weights[target].sum()
        return (each * torch.from_numpy(self.weights[batch]).to(self.device)).sum() / total

    def _report(self, epoch: int, train_loss: float, train_matrix: NDArray[np.int64]) -> EpochReport:
        with torch.no_grad():
            penalty = self.settings.l2 * float(self.model.penalty())
        validation: Figures = (None, None, None)
        matrix = None
        if len(self.validation):
            logits, true = self.logits(self.validation, best=False), self.targets[self.validation]
            loss = float(functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(true)))
            counts = confusion(true, logits.argmax(axis=1), self.data.n_labels)
            validation = _figures(loss, counts)
            matrix = counts.tolist() if math.isfinite(loss) else None
        penalty_or_none = penalty if math.isfinite(penalty) else None
        return EpochReport(epoch, *_figures(train_loss, train_matrix), *validation, matrix, penalty_or_none)

    def _watch(self, report: EpochReport) -> None:
        """Keep the weights of the best epoch, and stop where there is nothing to gain."""
        has_validation = len(self.validation) > 0 and self.settings.monitor != "none"
        loss = report.validation_loss if has_validation else report.train_loss
        if loss is None or report.penalty is None:  # diverged: what was best before stays
            self.stopped = True
            return
        monitored = loss + (report.penalty if self.settings.monitor == "loss_with_penalty" else 0)
        if monitored < self.best_monitored or not has_validation:
            self.best_monitored, self.best_epoch = monitored, report.epoch
            self.best_state = copied_state(self._current)
        patience, waited = self.settings.patience, report.epoch - self.best_epoch
        self.stopped = report.epoch >= self.settings.max_epochs or 0 < patience <= waited

    def _class_weights(self) -> torch.Tensor | None:
        if not self.settings.class_weights:
            return None
        counts = np.bincount(self.targets[self.train], minlength=self.data.n_labels)
        weights = len(self.train) / (self.data.n_labels * np.maximum(counts, 1))
        return torch.from_numpy(weights).float().to(self.device)


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Let this thread round numbers below 1e-38 to zero.

    The gradient that reaches an utterance's far end is that small, and processors multiply such numbers slowly: without
    this an epoch of the paper's classifier takes 1.7 times as long.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def _figures(loss: float, matrix: NDArray[np.int64]) -> Figures:
    """Loss, accuracy and UAR, unless the loss is no finite number: the rest is then the accuracy of nothing."""
    if not math.isfinite(loss):
        return None, None, None
    scores = accuracy_and_uar(matrix)
    return loss, scores.wa, scores.uar


def _batches(indices: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    yield from (indices[start : start + size] for start in range(0, len(indices), size))


def copied_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """The weights of a module, which go on changing, as they are now."""
    return {key: value.detach().clone() for key, value in module.state_dict().items()}
