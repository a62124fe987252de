"""A checkpoint and its encoder, ready to answer: `predictor = ser.load(); result = predictor("clip.wav")`.

See `ser.inference.recogniser` for what it answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ser.classifier.bigru import VOICE_BUFFERS
from ser.classifier.checkpoint import Checkpoint, check_encoder, load_checkpoint
from ser.encoders.chunking import Frames
from ser.encoders.encoder import Encoder
from ser.files import SHIPPED_CLASSIFIER
from ser.inference.adaptation import Training
from ser.inference.recogniser import Prediction, Recogniser, Timeline

if TYPE_CHECKING:
    from ser.classifier.bigru import BiGRUClassifier
    from ser.classifier.ensemble import Ensemble

__all__ = ["Prediction", "Predictor", "Timeline", "load"]


class Predictor(Recogniser):
    """An encoder and a classifier on torch."""

    encoder: Encoder

    def __init__(
        self, checkpoint: Checkpoint, classifier: BiGRUClassifier | Ensemble, encoder: Encoder
    ) -> None:
        check_encoder(checkpoint, encoder)
        self.checkpoint, self.classifier, self.encoder = checkpoint, classifier.eval(), encoder
        self.labels, self.max_frames = checkpoint.labels, checkpoint.max_frames
        self.calibration, self.speech_only = checkpoint.calibration, encoder.speech_only
        self.averaged_frames = checkpoint.classifier.averaged_frames
        self.training = _training(classifier, f"{encoder.fingerprint} {self.averaged_frames}")
        self.trained_on = tuple(checkpoint.data.get("speakers", ()))

    def _batch_probabilities(self, pieces: Sequence[Frames]) -> NDArray[np.float32]:
        import torch

        with torch.inference_mode():
            lengths = torch.tensor([len(piece) for piece in pieces])
            logits = self.classifier(torch.from_numpy(np.concatenate(pieces)), lengths)
            probabilities: NDArray[np.float32] = (
                (logits / self.calibration.temperature).softmax(dim=-1).numpy()
            )
        return probabilities


def _training(classifier: BiGRUClassifier | Ensemble, fingerprint: str) -> Training | None:
    """What the classifier keeps of its training speakers, of an ensemble the mean over its members."""
    members = getattr(classifier, "members", [classifier])
    if not members[0].settings.voices:
        return None
    kept = [np.stack([getattr(one, name).numpy() for one in members]).mean(axis=0) for name in VOICE_BUFFERS]
    return Training(fingerprint, *kept)


def load(checkpoint: str | Path | None = None, encoder: str | Path | Encoder | None = None) -> Predictor:
    """Load a model, by default the one that ships with the project.

    Args:
        checkpoint: a folder that `ser train` or `ser crossval` wrote.
        encoder: its encoder, if not where the checkpoint says: a folder, a hub id or a loaded `Encoder`.

    Raises:
        CheckpointError, EncoderError: what is missing or does not fit, and what to do.
    """
    described, classifier = load_checkpoint(SHIPPED_CLASSIFIER if checkpoint is None else checkpoint)
    if not isinstance(encoder, Encoder):
        encoder = Encoder.load(encoder or described.encoder.source, described.encoder.layer)
    return Predictor(described, classifier, encoder.stacked(described.classifier.stacked_layers))
