"""The classifier and its training as the documentation of PyTorch suggests them, for the benchmarks to measure against.

`nn.GRU` over zero-padded batches, masked, fold after fold: the same work as `ser.training`, with the same weights at
the start and the same order of utterances, so that the losses agree.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from ser.classifier.bigru import NORM_EPSILON, BiGRUClassifier
from ser.classifier.settings import ClassifierSettings
from ser.corpora.folds import Fold
from ser.training.frames import LabelledFrames
from ser.training.settings import TrainingSettings


class ReferenceClassifier(nn.Module):
    """Figure 3 of the paper with `nn.GRU` over a padded batch; starts with the weights of a `BiGRUClassifier`."""

    def __init__(self, ours: BiGRUClassifier) -> None:
        super().__init__()
        self.dropout = nn.Dropout(ours.settings.dropout)
        self.norm = nn.LayerNorm(ours.dim, eps=NORM_EPSILON)
        self.gru = nn.ModuleList(
            nn.GRU(layer.weight_ih.shape[2], layer.units, batch_first=True, bidirectional=True) for layer in ours.gru
        )
        self.dense = nn.Linear(2 * ours.gru[-1].units, ours.n_labels)
        self.norm.load_state_dict(ours.norm.state_dict())
        self.dense.load_state_dict(ours.dense.state_dict())
        for theirs, layer in zip(self.gru, ours.gru, strict=True):
            for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                for direction, suffix in enumerate(("_l0", "_l0_reverse")):
                    getattr(theirs, kind + suffix).data.copy_(getattr(layer, kind)[direction].detach())

    def forward(self, padded: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """`(batch, steps, dim)` and `(batch,)` to logits `(batch, n_labels)`."""
        mask = (torch.arange(padded.shape[1]) < lengths[:, None])[:, :, None]
        x = self.norm(self.dropout(padded) * mask) * mask
        for layer in self.gru:
            x = layer(x)[0] * mask
        units = x.shape[2] // 2
        forward = x[torch.arange(len(lengths)), lengths - 1, :units]
        return self.dense(torch.cat([forward, x[:, 0, units:]], dim=1))

    def penalty(self) -> torch.Tensor:
        kernels = [value for name, value in self.named_parameters() if "weight_ih" in name]
        return torch.stack([kernel.square().sum() for kernel in kernels]).sum()


def train_folds(
    data: LabelledFrames, folds: Sequence[Fold], classifier: ClassifierSettings, settings: TrainingSettings
) -> list[float]:
    """Train each fold for `max_epochs` by SGD; returns their last validation losses."""
    losses = []
    for number, fold in enumerate(folds):
        torch.manual_seed(settings.seed * 1_000 + number)
        model = ReferenceClassifier(BiGRUClassifier(data.dim, data.n_labels, classifier))
        optimizer = torch.optim.SGD(model.parameters(), lr=settings.learning_rate)
        for epoch in range(1, settings.max_epochs + 1):
            rng = np.random.default_rng((settings.seed, number, epoch))
            rng.integers(2**62)  # which seeds the dropout of the other
            order = rng.permutation(np.asarray(fold.train))
            model.train()
            for start in range(0, len(order), settings.batch_size):
                logits, target = _predicted(model, data, order[start : start + settings.batch_size], settings)
                optimizer.zero_grad()
                (functional.cross_entropy(logits, target) + settings.l2 * model.penalty()).backward()
                optimizer.step()
            model.eval()
            with torch.inference_mode():
                losses.append(float(functional.cross_entropy(*_predicted(model, data, fold.validation, settings))))
    return losses[settings.max_epochs - 1 :: settings.max_epochs]


def _predicted(
    model: ReferenceClassifier, data: LabelledFrames, indices: Sequence[int], settings: TrainingSettings
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of utterances, padded to `max_frames`, and their targets."""
    frames, lengths = data.features.gather([int(index) for index in indices], settings.max_frames)
    padded = pad_sequence(list(torch.from_numpy(frames).split(lengths.tolist())), batch_first=True)
    padded = functional.pad(padded, (0, 0, 0, settings.max_frames - padded.shape[1]))
    return model(padded, torch.from_numpy(lengths)), torch.from_numpy(data.targets[np.asarray(indices)])
