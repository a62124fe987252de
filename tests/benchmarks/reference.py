"""The plain ways that `ser bench` measures against: what the documentation of PyTorch and transformers suggests.

Nothing else uses this file. Each does the whole work of its counterpart and gives the same numbers, so that the bench
can compare both: a classifier of `nn.GRU`, its training fold after fold, and `HubertModel` called clip by clip.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from ser.classifier.bigru import BiGRUClassifier, ClassifierSettings
from ser.corpora.folds import Fold
from ser.runtime import import_torchaudio
from ser.training.trainer import KERAS_EPSILON, FrameSource, TrainingSettings


class PlainClassifier(nn.Module):
    """Figure 3 of the paper with `nn.GRU` over a zero-padded batch, masked.

    Args:
        dim, n_labels, settings: as for `BiGRUClassifier`.
        packed: hand the batch to the GRU with `pack_padded_sequence`, which keeps it out of the padding; otherwise
            every step of the padded batch is computed and the states at each utterance's ends are picked.
    """

    def __init__(self, dim: int, n_labels: int, settings: ClassifierSettings, packed: bool) -> None:
        super().__init__()
        self.packed = packed
        self.dropout = nn.Dropout(settings.dropout)
        self.norm = nn.LayerNorm(dim)
        inputs = [dim] + [2 * units for units in settings.units]
        self.gru = nn.ModuleList(
            nn.GRU(width, units, batch_first=True, bidirectional=True)
            for width, units in zip(inputs, settings.units, strict=False)
        )
        self.attention = nn.Linear(inputs[-1], 1) if settings.pooling == "attentive" else None
        self.dense = nn.Linear(inputs[-1] * (2 if self.attention else 1), n_labels)

    def forward(self, padded: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """`(batch, steps, dim)` and `(batch,)` to logits `(batch, n_labels)`."""
        mask = (torch.arange(padded.shape[1]) < lengths[:, None])[:, :, None]
        x: Any = self.norm(self.dropout(padded) * mask) * mask
        if self.packed:
            x = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        for layer in self.gru:
            x, _ = layer(x)
            x = x if self.packed else x * mask
        if self.packed:
            x, _ = pad_packed_sequence(x, batch_first=True)
        if self.attention is not None:
            weight = self.attention(x).masked_fill(~mask, -torch.inf).softmax(dim=1)
            mean = (weight * x).sum(dim=1)
            variance = (weight * x.square()).sum(dim=1) - mean.square()
            return self.dense(torch.cat([mean, variance.clamp(min=1e-6).sqrt()], dim=1))
        units = x.shape[2] // 2
        forward = x[torch.arange(len(lengths)), lengths - 1, :units]
        return self.dense(torch.cat([forward, x[:, 0, units:]], dim=1))

    def penalty(self) -> torch.Tensor:
        kernels = [value for name, value in self.named_parameters() if "weight_ih" in name]
        return torch.stack([kernel.square().sum() for kernel in kernels]).sum()

    def copy_weights(self, model: BiGRUClassifier) -> None:
        """Take over the weights of ours, so that both can be compared."""
        self.norm.load_state_dict(model.norm.state_dict())
        self.dense.load_state_dict(model.dense.state_dict())
        if self.attention is not None:
            self.attention.load_state_dict(model.attention.state_dict())
        for plain, ours in zip(self.gru, model.gru, strict=True):
            for direction, suffix in enumerate(("", "_reverse")):
                for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                    getattr(plain, f"{kind}_l0{suffix}").data.copy_(getattr(ours, kind)[direction].detach())


def padded_batch(
    features: FrameSource, indices: Sequence[int], max_frames: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """`(batch, max_frames, dim)` float32, zero padded, and `(batch,)` lengths."""
    frames, lengths = features.gather(indices, max_frames)
    rows = torch.from_numpy(frames).split(lengths.tolist())
    padded = pad_sequence(list(rows), batch_first=True)
    return functional.pad(padded, (0, 0, 0, max_frames - padded.shape[1])), torch.from_numpy(lengths)


@dataclass(frozen=True)
class PlainReport:
    """After so many epochs: cross entropy and accuracy on the validation utterances; of the best epoch at the end."""

    epochs: int
    validation_loss: float
    validation_wa: float


def plain_epoch(
    model: PlainClassifier, optimizer: torch.optim.Optimizer, features: FrameSource, targets: NDArray[np.int64],
    train: Sequence[int], validation: Sequence[int], settings: TrainingSettings, epoch: int = 1, name: int = 0,
) -> PlainReport:  # fmt: skip
    """One epoch and a validation. The order is that of `ser.training.trainer`."""
    rng = np.random.default_rng((settings.seed, name, epoch))
    rng.integers(2**62)
    order = rng.permutation(np.asarray(train))
    model.train()
    for start in range(0, len(order), settings.batch_size):
        batch = order[start : start + settings.batch_size]
        padded, lengths = padded_batch(features, batch.tolist(), settings.max_frames)
        loss = functional.cross_entropy(model(padded, lengths), torch.from_numpy(targets[batch]))
        optimizer.zero_grad()
        (loss + settings.l2 * model.penalty()).backward()
        optimizer.step()
    logits = plain_logits(model, features, validation, settings)
    true = torch.from_numpy(targets[np.asarray(validation)])
    accuracy = (logits.argmax(dim=1) == true).float().mean()
    return PlainReport(epoch, float(functional.cross_entropy(logits, true)), float(accuracy))


def plain_optimizer(model: PlainClassifier, settings: TrainingSettings) -> torch.optim.Optimizer:
    """SGD or Adam as Keras has them.

    Raises:
        ValueError: another one is asked for.
    """
    if settings.optimizer == "sgd":
        return torch.optim.SGD(model.parameters(), lr=settings.learning_rate, momentum=settings.momentum)
    if settings.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), lr=settings.learning_rate, eps=KERAS_EPSILON)
    raise ValueError(settings.optimizer)


def plain_trial(
    features: FrameSource, targets: NDArray[np.int64], folds: Sequence[Fold], n_labels: int, dim: int,
    classifier: ClassifierSettings, settings: TrainingSettings,
) -> list[PlainReport]:  # fmt: skip
    """Fold after fold until it stops early; of each the epochs that it took, and the best of them."""
    ends = []
    for name, fold in enumerate(folds):
        model = PlainClassifier(dim, n_labels, classifier, packed=False)
        torch.manual_seed(settings.seed * 1_000 + name)
        model.copy_weights(BiGRUClassifier(dim, n_labels, classifier))
        optimizer = plain_optimizer(model, settings)
        best, best_monitored, waited, epoch = None, math.inf, 0, 0
        while epoch < settings.max_epochs and (settings.patience == 0 or waited < settings.patience):
            epoch += 1
            report = plain_epoch(
                model, optimizer, features, targets, fold.train, fold.validation, settings, epoch, name
            )
            monitored = report.validation_loss
            if settings.monitor == "loss_with_penalty":
                monitored += settings.l2 * float(model.penalty())
            if not math.isfinite(monitored):
                break
            if monitored < best_monitored:
                best, best_monitored, waited = report, monitored, 0
            else:
                waited += 1
        if best is None:
            raise ValueError("the training diverged in its first epoch")
        ends.append(replace(best, epochs=epoch))
    return ends


def plain_logits(
    model: PlainClassifier, features: FrameSource, indices: Sequence[int], settings: TrainingSettings
) -> torch.Tensor:
    """`(utterances, n_labels)`."""
    model.eval()
    rows = []
    with torch.inference_mode():
        for start in range(0, len(indices), settings.batch_size):
            batch = list(indices[start : start + settings.batch_size])
            rows.append(model(*padded_batch(features, batch, settings.max_frames)))
    return torch.cat(rows)


class PlainEncoder:
    """`HubertModel` from a folder, eager, one clip at a time."""

    def __init__(self, folder: Path) -> None:
        import_torchaudio()
        from transformers import AutoFeatureExtractor, AutoModel

        self.extractor: Any = (
            AutoFeatureExtractor.from_pretrained(folder)
            if (folder / "preprocessor_config.json").exists()
            else None
        )
        self.model: Any = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()

    def __call__(self, samples: NDArray[np.float32]) -> torch.Tensor:
        """`(samples,)` at 16 kHz to `(frames, dim)`."""
        values = torch.from_numpy(samples)[None]
        if self.extractor is not None:
            values = self.extractor(samples, sampling_rate=16_000, return_tensors="pt").input_values
        with torch.no_grad():
            hidden: torch.Tensor = self.model(values).last_hidden_state
        return hidden[0]


def plain_extraction(encoder: PlainEncoder, paths: Sequence[Path], folder: Path) -> None:
    """Each recording's frames into a `.npy` of their own."""
    for path in paths:
        samples, _ = soundfile.read(path, dtype="float32")
        np.save(folder / f"{path.stem}.npy", encoder(samples).numpy().astype(np.float16))


def plain_answer(
    encoder: PlainEncoder, head: PlainClassifier, path: Path, max_frames: int, temperature: float
) -> torch.Tensor:
    """A recording to probabilities `(n_labels,)`: feature extractor, model, head."""
    samples, _ = soundfile.read(path, dtype="float32")
    frames = encoder(samples)[None, :max_frames]
    with torch.no_grad():
        logits: torch.Tensor = head(frames, torch.tensor([frames.shape[1]]))
    return (logits / temperature).softmax(dim=-1)[0]
