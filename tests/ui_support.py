"""What the tests of the page share: a tiny model with random weights, and recordings made on the spot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from ser.labels import EMOTIONS

RATE_HZ = 16_000


def tiny_encoder(folder: Path) -> Path:
    """A HuBERT of a few thousand random weights, saved as the hub saves one."""
    import torch

    from ser.runtime import import_torchaudio

    import_torchaudio()
    from transformers import HubertConfig, HubertModel

    torch.manual_seed(40)
    config = HubertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, conv_dim=(16,) * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2, feat_proj_dropout=0.0,
    )  # fmt: skip
    HubertModel(config).save_pretrained(folder)
    return folder


def tiny_model(folder: Path, threshold: float = 0.0) -> Path:
    """A checkpoint with random weights on a tiny encoder; below `threshold` it answers "unsure"."""
    import torch

    from ser.classifier.bigru import BiGRUClassifier, ClassifierSettings
    from ser.classifier.checkpoint import Checkpoint, EncoderReference, save_checkpoint
    from ser.encoders.encoder import Encoder
    from ser.scoring.calibration import Calibration

    source = tiny_encoder(folder / "encoder")
    encoder = Encoder.load(source)
    settings = ClassifierSettings(base_units=8, final_units=4)
    torch.manual_seed(40)
    checkpoint = Checkpoint(
        labels=EMOTIONS,
        encoder=EncoderReference(str(source), encoder.layer, encoder.fingerprint, encoder.dim),
        classifier=settings,
        calibration=Calibration(threshold=threshold, precision=0.8, coverage=0.5),
        scores={
            "wa": {"value": 0.61, "low": 0.55, "high": 0.67},
            "conditions": "random weights, for tests only",
        },
    )
    return save_checkpoint(
        folder / "classifier", checkpoint, BiGRUClassifier(encoder.dim, len(EMOTIONS), settings)
    )


def hum(seconds: float = 2.0, rate_hz: int = RATE_HZ) -> NDArray[np.float32]:
    """`(samples,)`: a voice-like tone whose pitch wanders, never silent."""
    time_s = np.arange(int(seconds * rate_hz)) / rate_hz
    pitch_hz = 140 + 30 * np.sin(2 * np.pi * 0.7 * time_s)
    phase = 2 * np.pi * np.cumsum(pitch_hz) / rate_hz
    voice = sum(np.sin(harmonic * phase) / harmonic for harmonic in range(1, 9))
    return (0.15 * voice * (1 + 0.5 * np.sin(2 * np.pi * 3 * time_s))).astype(np.float32)


def recording(path: Path, seconds: float = 2.0, rate_hz: int = RATE_HZ) -> Path:
    """A WAV file of a hum, PCM 16 bit."""
    soundfile.write(path, hum(seconds, rate_hz), rate_hz, subtype="PCM_16")
    return path
