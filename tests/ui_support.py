"""What the tests of the page share: a tiny model with random weights, and recordings made on the spot."""

from __future__ import annotations

from pathlib import Path

from support import RATE_HZ, save_classifier, save_encoder, write_voice

from ser.scoring.calibration import Calibration


def tiny_model(folder: Path, threshold: float = 0.0) -> Path:
    """A checkpoint with random weights on a tiny encoder beside it; below `threshold` it answers "unsure"."""
    calibration = Calibration(threshold=threshold, precision=0.8, coverage=0.5)
    wa = {"value": 0.61, "low": 0.55, "high": 0.67}
    encoder = save_encoder(folder / "encoder")
    return save_classifier(folder / "classifier", encoder, calibration, wa, voices=0.5)


def recording(path: Path, seconds: float = 2.0, rate_hz: int = RATE_HZ) -> Path:
    """A WAV file of somebody who speaks, PCM 16 bit."""
    return write_voice(path, seconds, rate_hz, subtype="PCM_16")
