"""Training one classifier, epoch by epoch, with early stopping; nothing here knows of folds or trials.

In: frames of utterances (a `FrameSource`), labels, the indices to train and to validate on, settings. Out: a report
an epoch, the weights of the best validation epoch. Everything random comes from the seed, the name of the run and
the epoch, so a training that was saved and restored goes on exactly as if it had never stopped.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save
from torch.nn import functional

from ser.classifier.bigru import BiGRUClassifier, ClassifierSettings
from ser.errors import SettingsError
from ser.files import write_atomically
from ser.runtime import chosen_device
from ser.scoring.metrics import accuracy_and_uar, confusion

EVALUATION_BATCH = 64
RMSPROP_ALPHA, KERAS_EPSILON = 0.9, 1e-7  # Keras' defaults; torch has 0.99 and 1e-8
MAX_SEED = 1 << 32  # what every generator of random numbers here takes
MASKED_STEPS, MASKED_DIMENSIONS = 0.1, 0.1  # widest span that frame masking takes out


class FrameSource(Protocol):
    """Frames of a corpus' utterances, wherever they are kept."""

    def gather(
        self, indices: Sequence[int], max_frames: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """`(total frames, dim)` float32, utterance after utterance, each cut to `max_frames`; and their lengths."""
        ...


@dataclass(frozen=True)
class TrainingSettings:
    """How a classifier is trained; the defaults are the best configuration of the paper (section 4.2).

    Attributes:
        learning_rate: of the optimiser.
        l2: coefficient of the sum of squares of the GRU input kernels, added to the loss (Keras' meaning).
        optimizer: "sgd", "adam" or "rmsprop", with Keras' defaults for everything else.
        momentum: of SGD.
        batch_size: utterances a step.
        max_epochs: at most so many.
        patience: epochs without a better validation loss before training stops; 0 never stops early.
        monitor: "loss_with_penalty" watches what Keras would, the cross entropy plus the L2 penalty; "loss" the
            cross entropy alone.
        max_frames: utterances are cut to this many frames; 300 are 6 s.
        class_weights: weigh each utterance with the inverse share of its emotion.
        label_smoothing: share of the target spread evenly over the emotions.
        frame_masking: zero a random span of frames and of dimensions of each training utterance.
        augmented_copies: train on so many copies of each training utterance too, at another speed and with noise. They
            are computed before the encoder, and an epoch has so many times more steps.
        seed: of weights, order, dropout and masking.
    """

    learning_rate: float = 0.003
    l2: float = 0.016
    optimizer: Literal["sgd", "adam", "rmsprop"] = "sgd"
    momentum: float = 0.0
    batch_size: int = 16
    max_epochs: int = 150
    patience: int = 3
    monitor: Literal["loss_with_penalty", "loss"] = "loss_with_penalty"
    max_frames: int = 300
    class_weights: bool = False
    label_smoothing: float = 0.0
    frame_masking: bool = False
    augmented_copies: int = field(default=0, metadata={"may_be_absent": True})  # runs and studies are older
    seed: int = 40

    def __post_init__(self) -> None:
        positive = {"learning_rate": self.learning_rate, "batch_size": self.batch_size,
                    "max_epochs": self.max_epochs, "max_frames": self.max_frames}  # fmt: skip
        for name, value in positive.items():
            if not 0 < value < math.inf:
                raise SettingsError(f"{name} must be positive, got {value}.")
        if self.augmented_copies < 0:
            raise SettingsError(f"augmented_copies must not be negative, got {self.augmented_copies}.")
        if not 0 <= self.l2 < math.inf or self.patience < 0:
            raise SettingsError(f"l2 and patience must not be negative, got {self.l2} and {self.patience}.")
        if not 0 <= self.seed < MAX_SEED:
            raise SettingsError(f"seed must be from 0 to {MAX_SEED - 1}, got {self.seed}.")
        for name, share in (("momentum", self.momentum), ("label_smoothing", self.label_smoothing)):
            if not 0 <= share < 1:
                raise SettingsError(f"{name} must be at least 0 and below 1, got {share}.")
        if self.optimizer not in ("sgd", "adam", "rmsprop"):
            raise SettingsError(f"optimizer must be sgd, adam or rmsprop, got {self.optimizer!r}.")
        if self.monitor not in ("loss_with_penalty", "loss"):
            raise SettingsError(f"monitor must be loss_with_penalty or loss, got {self.monitor!r}.")


@dataclass(frozen=True)
class EpochReport:
    """Figures of one epoch; losses are cross entropies without the penalty.

    Attributes:
        epoch: counted from 1.
        train_loss, train_wa, train_uar: gathered while training, dropout on.
        validation_loss, validation_wa, validation_uar: after the epoch; None without validation utterances.
        validation_confusion: rows are true emotions.
        penalty: the L2 term after the epoch.
    """

    epoch: int
    train_loss: float
    train_wa: float
    train_uar: float
    validation_loss: float | None
    validation_wa: float | None
    validation_uar: float | None
    validation_confusion: list[list[int]] | None
    penalty: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Training:
    """A classifier in training: `run_epoch()` until `stopped`, then `best_model()`."""

    def __init__(
        self, features: FrameSource, targets: NDArray[np.int64], n_labels: int, dim: int, train: Sequence[int],
        validation: Sequence[int], classifier: ClassifierSettings, settings: TrainingSettings, name: int = 0,
    ) -> None:  # fmt: skip
        """Args:
        features: source of frames; copy k of utterance i is at i + k * utterances.
        targets: `(utterances,)` index of each utterance's emotion.
        n_labels, dim: number of emotions; numbers a frame.
        train, validation: indices of utterances; validation may be empty, then nothing stops early.
        classifier, settings: what and how.
        name: keeps the randomness of trainings with one seed apart, for instance the number of a fold.

        It computes where SER_DEVICE says.
        """
        self.device = chosen_device()
        copies = range(1 + settings.augmented_copies)  # of the training utterances alone
        self.features, self.targets, self.n_labels = features, np.tile(targets, len(copies)), n_labels
        self.train = np.concatenate([np.asarray(train) + copy * len(targets) for copy in copies])
        self.validation = np.asarray(validation)
        self.settings, self.name = settings, name
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed * 1_000 + name)
            self.model = BiGRUClassifier(dim, n_labels, classifier).to(self.device)
        self.optimizer = _optimizer(self.model, settings)
        self.class_weights = self._class_weights()
        self.epochs: list[EpochReport] = []
        self.best_epoch, self.best_monitored, self.stopped = 0, math.inf, False
        self.best_state = self._copied_state()

    def run_epoch(self) -> EpochReport:
        """Train for one epoch, validate, and decide whether that was the last."""
        epoch = len(self.epochs) + 1
        train_loss, train_matrix = self._pass_over_training(epoch)
        report = self._report(epoch, train_loss, train_matrix)
        self.epochs.append(report)
        self._watch(report)
        return report

    def logits(self, indices: Sequence[int] | NDArray[np.int64], best: bool = True) -> NDArray[np.float32]:
        """`(utterances, n_labels)` of any utterances, by the best epoch's weights or the current ones."""
        model = self.best_model().to(self.device) if best else self.model
        return predict_logits(model, self.features, indices, self.settings.max_frames)

    def best_model(self) -> BiGRUClassifier:
        """The classifier with the weights of the best epoch, in evaluation mode, on the processor."""
        model = BiGRUClassifier(self.model.dim, self.n_labels, self.model.settings)
        model.load_state_dict(self.best_state)
        return model.eval()

    @property
    def best(self) -> EpochReport:
        """The report of the best epoch so far."""
        return self.epochs[self.best_epoch - 1]

    def _pass_over_training(self, epoch: int) -> tuple[float, NDArray[np.int64]]:
        rng = np.random.default_rng((self.settings.seed, self.name, epoch))
        dropout = torch.Generator(self.device).manual_seed(int(rng.integers(2**62)))
        order = rng.permutation(self.train)
        total, predicted, true = 0.0, [], []
        self.model.train()
        for start in range(0, len(order), self.settings.batch_size):
            batch = order[start : start + self.settings.batch_size]
            frames, lengths = self.features.gather(batch.tolist(), self.settings.max_frames)
            if self.settings.frame_masking:
                frames = mask_frames(frames, lengths, rng)
            target = torch.from_numpy(self.targets[batch]).to(self.device)
            logits = self.model(torch.from_numpy(frames).to(self.device), torch.from_numpy(lengths), dropout)
            loss = functional.cross_entropy(
                logits, target, self.class_weights, label_smoothing=self.settings.label_smoothing
            )
            self.optimizer.zero_grad(set_to_none=True)
            (loss + self.settings.l2 * self.model.penalty()).backward()
            self.optimizer.step()
            total += float(loss.detach()) * len(batch)
            predicted.append(logits.detach().argmax(dim=1).cpu().numpy())
            true.append(self.targets[batch])
        matrix = confusion(np.concatenate(true), np.concatenate(predicted), self.n_labels)
        return total / len(order), matrix

    def _report(self, epoch: int, train_loss: float, train_matrix: NDArray[np.int64]) -> EpochReport:
        train = accuracy_and_uar(train_matrix)
        with torch.no_grad():
            penalty = self.settings.l2 * float(self.model.penalty())
        loss = wa = uar = matrix = None
        if len(self.validation):
            logits = self.logits(self.validation, best=False)
            true = self.targets[self.validation]
            loss = float(functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(true)))
            counts = confusion(true, logits.argmax(axis=1), self.n_labels)
            scores = accuracy_and_uar(counts)
            wa, uar, matrix = float(scores.wa), float(scores.uar), counts.tolist()
        return EpochReport(
            epoch, train_loss, float(train.wa), float(train.uar), loss, wa, uar, matrix, penalty
        )

    def _watch(self, report: EpochReport) -> None:
        monitored = report.train_loss if report.validation_loss is None else report.validation_loss
        if self.settings.monitor == "loss_with_penalty":
            monitored += report.penalty
        if not math.isfinite(monitored):  # diverged: what was best before stays
            self.stopped = True
            return
        without_validation = report.validation_loss is None
        if monitored < self.best_monitored or without_validation:
            self.best_monitored, self.best_epoch = monitored, report.epoch
            self.best_state = self._copied_state()
        patience = self.settings.patience
        waited = report.epoch - self.best_epoch
        self.stopped = report.epoch >= self.settings.max_epochs or (patience > 0 and waited >= patience)

    def _class_weights(self) -> torch.Tensor | None:
        if not self.settings.class_weights:
            return None
        counts = np.bincount(self.targets[self.train], minlength=self.n_labels)
        weights = len(self.train) / (self.n_labels * np.maximum(counts, 1))
        return torch.from_numpy(weights).float().to(self.device)

    def _copied_state(self) -> dict[str, torch.Tensor]:
        return {key: value.detach().clone() for key, value in self.model.state_dict().items()}

    def save(self, path: Path) -> None:
        """Write weights, best weights, optimiser state and reports as one file, atomically."""
        tensors = {f"model.{key}": value for key, value in self._copied_state().items()}
        tensors |= {f"best.{key}": value for key, value in self.best_state.items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            for key, value in state.items():
                if value is not None:
                    tensors[f"optimizer.{index}.{key}"] = torch.as_tensor(value).clone()
        progress = {
            "epochs": [report.to_dict() for report in self.epochs],
            "best_epoch": self.best_epoch,
            "best_monitored": self.best_monitored if math.isfinite(self.best_monitored) else None,
            "stopped": self.stopped,
        }
        write_atomically(path, save(tensors, metadata={"progress": json.dumps(progress)}))

    def restore(self, path: Path) -> None:
        """Go back to what `save` wrote.

        Raises:
            SettingsError: the file is damaged or was written with other settings.
        """
        try:
            with safe_open(path, "pt") as file:
                progress = json.loads(file.metadata()["progress"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            self.model.load_state_dict(_part(tensors, "model."))
            self.best_state = _part(tensors, "best.")
            state = self.optimizer.state_dict()
            for key, value in _part(tensors, "optimizer.").items():
                index, entry = key.split(".", 1)
                state["state"].setdefault(int(index), {})[entry] = value
            self.optimizer.load_state_dict(state)
        except Exception as error:
            raise SettingsError(
                f"The saved state {path} cannot be used ({error}). Delete it to begin anew."
            ) from error
        self.epochs = [EpochReport(**report) for report in progress["epochs"]]
        best = progress["best_monitored"]
        self.best_epoch, self.best_monitored = progress["best_epoch"], math.inf if best is None else best
        self.stopped = progress["stopped"]


def predict_logits(
    model: BiGRUClassifier, features: FrameSource, indices: Sequence[int] | NDArray[np.int64], max_frames: int
) -> NDArray[np.float32]:
    """`(utterances, n_labels)` logits in the order of `indices`."""
    device = model.dense.weight.device
    model.eval()
    rows = []
    with torch.inference_mode():
        for batch in _batches(np.asarray(indices), EVALUATION_BATCH):
            frames, lengths = features.gather(batch.tolist(), max_frames)
            logits = model(torch.from_numpy(frames).to(device), torch.from_numpy(lengths))
            rows.append(logits.cpu().numpy())
    return np.concatenate(rows) if rows else np.zeros((0, model.n_labels), dtype=np.float32)


def mask_frames(
    frames: NDArray[np.float32], lengths: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.float32]:
    """A copy with a random span of frames and of dimensions of each utterance set to zero (Park et al. 2019)."""
    masked = frames.copy()
    dim = frames.shape[1]
    for end, length in zip(np.cumsum(lengths), lengths, strict=True):
        width = int(rng.integers(0, max(1, int(MASKED_STEPS * length)) + 1))
        start = end - length + int(rng.integers(0, length - width + 1))
        masked[start : start + width] = 0
        width = int(rng.integers(0, int(MASKED_DIMENSIONS * dim) + 1))
        first = int(rng.integers(0, dim - width + 1))
        masked[end - length : end, first : first + width] = 0
    return masked


def settings_from(content: Mapping[str, Any]) -> tuple[ClassifierSettings, TrainingSettings]:
    """Both settings from one flat mapping, such as the parameters of a trial; unknown names are refused."""
    classifier_names = ClassifierSettings.__dataclass_fields__.keys()
    training_names = TrainingSettings.__dataclass_fields__.keys()
    unknown = content.keys() - classifier_names - training_names
    if unknown:
        raise SettingsError(
            f"Unknown settings {sorted(unknown)}; known are {sorted(classifier_names | training_names)}."
        )
    return (
        ClassifierSettings(**{key: content[key] for key in classifier_names & content.keys()}),
        TrainingSettings(**{key: content[key] for key in training_names & content.keys()}),
    )


def told(settings: Any) -> dict[str, Any]:
    """Settings as a dictionary; an option that came later is not told while it is off, so older runs can go on."""
    content = {}
    for entry in fields(settings):
        value = getattr(settings, entry.name)
        if not (entry.metadata.get("may_be_absent") and value == entry.default):
            content[entry.name] = told(value) if is_dataclass(value) else value
    return content


def _batches(indices: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    yield from (indices[start : start + size] for start in range(0, len(indices), size))


def _optimizer(model: BiGRUClassifier, settings: TrainingSettings) -> torch.optim.Optimizer:
    parameters, rate = model.parameters(), settings.learning_rate
    if settings.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=rate, eps=KERAS_EPSILON)
    if settings.optimizer == "rmsprop":
        return torch.optim.RMSprop(parameters, lr=rate, alpha=RMSPROP_ALPHA, eps=KERAS_EPSILON)
    return torch.optim.SGD(parameters, lr=rate, momentum=settings.momentum)


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
