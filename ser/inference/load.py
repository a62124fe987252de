"""A model, ready to answer: `predictor = ser.load(); result = predictor("clip.wav")`.

In: the folder of a checkpoint, or a file of `ser export`. Out: a `Recogniser`, see `ser.inference.recogniser`. It runs
on ONNX Runtime; torch is imported only where the graph of the checkpoint's encoder is not at hand, which is then traced
and cached, or where SER_DEVICE names a GPU.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ser.classifier.checkpoint import Checkpoint, State, check_encoder, read_state
from ser.classifier.settings import VOICE_BUFFERS
from ser.encoders.graph import GraphEncoder
from ser.errors import SettingsError
from ser.files import SHIPPED_CLASSIFIER
from ser.inference.adaptation import Training
from ser.inference.graph_nodes import classifier_session
from ser.inference.model_file import is_model_file, open_model_file
from ser.inference.recogniser import Recogniser
from ser.runtime import on_processor

if TYPE_CHECKING:
    from ser.encoders.encoder import Encoder


def load(checkpoint: str | Path | None = None, encoder: str | Path | Encoder | None = None) -> Recogniser:
    """Load a model, by default the one that ships with the project.

    Args:
        checkpoint: a folder that `ser train` or `ser crossval` wrote, or an ONNX file that `ser export` wrote.
        encoder: a checkpoint's encoder, if not where the checkpoint says: a folder, a hub id or a loaded `Encoder`.

    Raises:
        CheckpointError, EncoderError: what is missing or does not fit, and what to do.
        SettingsError: an encoder for an ONNX file, which holds its own.
    """
    if checkpoint is not None and is_model_file(checkpoint):
        if encoder is not None:
            raise SettingsError(f"{checkpoint} holds its own encoder; leave out the one that was given, {encoder}.")
        return open_model_file(checkpoint)
    described, state = read_state(SHIPPED_CLASSIFIER if checkpoint is None else checkpoint)
    fit = encoder_of(described, encoder)
    return Recogniser(described, fit, classifier_session(described, state), training_of(described, state))


loaded = cache(load)  # in a process that keeps its models


def training_of(checkpoint: Checkpoint, state: State) -> Training | None:
    """What a classifier keeps of its training speakers, of an ensemble the mean over its members."""
    if not checkpoint.classifier.voices:
        return None
    kept = [[state[f"{prefix}{name}"] for prefix in checkpoint.prefixes] for name in VOICE_BUFFERS]
    return Training(checkpoint.frames_fingerprint, *(np.mean(one, axis=0) for one in kept))


def encoder_of(described: Checkpoint, given: str | Path | Encoder | None = None) -> GraphEncoder | Encoder:
    """The encoder that was given, else the one that the checkpoint names, by its graph where that is at hand.

    Raises:
        CheckpointError: the classifier was trained on another encoder.
        EncoderError: it is not here, or cannot be used.
    """
    reference = described.encoder
    if given is None and on_processor():
        found = GraphEncoder.find(reference.fingerprint, reference.source)
        if found is not None:
            return found
    from ser.encoders.encoder import Encoder

    loaded = given if isinstance(given, Encoder) else Encoder.load(given or reference.source, reference.layer)
    stacked = loaded.stacked(described.classifier.stacked_layers)
    check_encoder(described, stacked)
    return stacked
