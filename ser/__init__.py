"""Speech emotion recognition for Persian: a frozen DistilHuBERT, a bidirectional GRU, Optuna.

    import ser
    predictor = ser.load()
    result = predictor("clip.wav")
    print(result.emotion, result.probabilities)

Implements Ahmadianshalchi, Houshmand, Hosseini 2026, DOI 10.32523/2306-6172-2026-14-1-4-16.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ser.encoders.encoder import Encoder
    from ser.inference.recogniser import Recogniser
    from ser.inference.torch_engine import Predictor as Predictor

__version__ = "0.1.0"
__all__ = ["Predictor", "__version__", "load"]


def load(checkpoint: str | Path | None = None, encoder: str | Path | Encoder | None = None) -> Recogniser:
    """Load a model, by default the one that ships with the project.

    Args:
        checkpoint: a folder that `ser train` or `ser crossval` wrote, or an ONNX file that `ser export` wrote, which
            is run without torch.
        encoder: a checkpoint's encoder, if not where the checkpoint says: a folder, a hub id or a loaded `Encoder`.

    Raises:
        CheckpointError, EncoderError: what is missing or does not fit, and what to do.
        SettingsError: an encoder for an ONNX file, which holds its own.
    """
    from ser.inference.onnx_engine import OnnxPredictor, is_onnx

    if checkpoint is None or not is_onnx(checkpoint):
        from ser.inference import torch_engine  # torch is imported when it is needed, not before

        return torch_engine.load(checkpoint, encoder)
    if encoder is not None:
        from ser.errors import SettingsError

        raise SettingsError(
            f"{checkpoint} holds its own encoder; leave out the one that was given, {encoder}."
        )
    return OnnxPredictor(checkpoint)


def __getattr__(name: str) -> Any:
    if name == "Predictor":
        from ser.inference.torch_engine import Predictor

        return Predictor
    raise AttributeError(f"module 'ser' has no attribute {name!r}")
