"""What the tests of the page share: a tiny model with random weights, and recordings made on the spot."""

from __future__ import annotations

from pathlib import Path

from support import RATE_HZ, TINY, write_voice

from ser.labels import EMOTIONS


def tiny_model(folder: Path, threshold: float = 0.0) -> Path:
    """A checkpoint with random weights on a tiny encoder beside it; below `threshold` it answers "unsure"."""
    import torch

    from ser.runtime import import_torchaudio

    import_torchaudio()
    from transformers import HubertConfig, HubertModel

    from ser.classifier.bigru import BiGRUClassifier, ClassifierSettings
    from ser.classifier.checkpoint import Checkpoint, EncoderReference, save_checkpoint
    from ser.encoders.encoder import Encoder
    from ser.scoring.calibration import Calibration

    torch.manual_seed(40)
    HubertModel(HubertConfig(**TINY)).save_pretrained(folder / "encoder")
    encoder = Encoder.load(folder / "encoder")
    settings = ClassifierSettings(base_units=8, final_units=4, voices=0.5)
    checkpoint = Checkpoint(
        labels=EMOTIONS,
        encoder=EncoderReference(str(folder / "encoder"), encoder.layer, encoder.fingerprint, encoder.dim),
        classifier=settings,
        calibration=Calibration(threshold=threshold, precision=0.8, coverage=0.5),
        scores={
            "wa": {"value": 0.61, "low": 0.55, "high": 0.67},
            "conditions": "random weights, for tests only",
        },
    )
    model = BiGRUClassifier(encoder.dim, len(EMOTIONS), settings)
    model.voice_mean.fill_(0.3)
    model.voice_deviation.fill_(0.5)
    return save_checkpoint(folder / "classifier", checkpoint, model)


def recording(path: Path, seconds: float = 2.0, rate_hz: int = RATE_HZ) -> Path:
    """A WAV file of somebody who speaks, PCM 16 bit."""
    return write_voice(path, seconds, rate_hz, subtype="PCM_16")
