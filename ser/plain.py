"""The plain ways that `ser bench` measures against: what the documentation of PyTorch and transformers suggests.

Nothing else uses this file. Each does the whole work of its counterpart and gives the same numbers, so that the bench
can compare both: a classifier of `nn.GRU`, its training fold after fold, and `HubertModel` called clip by clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from ser.classifier import BiGRUClassifier, ClassifierSettings
from ser.compat import import_torchaudio
from ser.training import FrameSource, TrainingSettings


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


def plain_epoch(
    model: PlainClassifier, features: FrameSource, targets: NDArray[np.int64], train: Sequence[int],
    validation: Sequence[int], settings: TrainingSettings, epoch: int = 1, name: int = 0,
) -> float:  # fmt: skip
    """One epoch of SGD and a validation; returns the validation loss. The order is that of `ser.training`."""
    rng = np.random.default_rng((settings.seed, name, epoch))
    rng.integers(2**62)
    order = rng.permutation(np.asarray(train))
    optimizer = torch.optim.SGD(model.parameters(), lr=settings.learning_rate, momentum=settings.momentum)
    model.train()
    for start in range(0, len(order), settings.batch_size):
        batch = order[start : start + settings.batch_size]
        padded, lengths = padded_batch(features, batch.tolist(), settings.max_frames)
        loss = functional.cross_entropy(model(padded, lengths), torch.from_numpy(targets[batch]))
        optimizer.zero_grad()
        (loss + settings.l2 * model.penalty()).backward()
        optimizer.step()
    logits = plain_logits(model, features, validation, settings)
    return float(functional.cross_entropy(logits, torch.from_numpy(targets[np.asarray(validation)])))


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
