"""Models under test: a classifier and an encoder put together, answered by torch or as the project answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ser.classifier.checkpoint import Checkpoint, State, load_checkpoint
from ser.encoders.chunking import Frames
from ser.encoders.encoder import Encoder
from ser.inference.export import export_onnx
from ser.inference.graph_nodes import classifier_session
from ser.inference.load import training_of
from ser.inference.recogniser import Recogniser


def state_of(model: nn.Module) -> State:
    return {name: value.numpy() for name, value in model.state_dict().items()}


def recogniser(checkpoint: Checkpoint, model: nn.Module, encoder: Any) -> Recogniser:
    """As `ser.load` would put them together."""
    state = state_of(model)
    return Recogniser(checkpoint, encoder, classifier_session(checkpoint, state), training_of(checkpoint, state))


class TorchRecogniser(Recogniser):
    """The same classified by torch: what others are compared with."""

    def __init__(self, checkpoint: Checkpoint, model: nn.Module, encoder: Any) -> None:
        super().__init__(checkpoint, encoder, None, training_of(checkpoint, state_of(model)))
        self.model = model.eval()

    @classmethod
    def load(cls, folder: Path, encoder: Path | None = None) -> TorchRecogniser:
        checkpoint, model = load_checkpoint(folder)
        source = encoder or checkpoint.encoder.source
        loaded = Encoder.load(source, checkpoint.encoder.layer, engine="torch")
        return cls(checkpoint, model, loaded.stacked(checkpoint.classifier.stacked_layers))

    def _batch_probabilities(self, pieces: Sequence[Frames]) -> np.ndarray:
        lengths = torch.tensor([len(piece) for piece in pieces])
        with torch.inference_mode():
            logits = self.model(torch.from_numpy(np.concatenate(pieces)), lengths)
        return (logits / self.calibration.temperature).softmax(dim=-1).numpy()

    def export(self, path: Path, **options: Any) -> Path:
        return export_onnx(self.checkpoint, state_of(self.model), self.encoder, path, **options)
