"""An encoder whose frames are known, recordings for it, and what a cache is compared with."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import soundfile

from ser.audio.load import load_audio
from ser.features.cache import FeatureCache
from ser.features.extract import FeatureSet


class FakeEncoder:
    """Frames that depend on the samples alone, and a count of the clips that it was asked for."""

    name, layer, fingerprint = "fake", 2, "fake-2"

    def __init__(self, dim: int = 8, delay_s: float = 0.0, n_frames: int = 0) -> None:
        self.dim, self.delay_s, self.n_frames, self.n_encoded = dim, delay_s, n_frames, 0

    def __call__(self, utterances):
        self.n_encoded += len(utterances)
        time.sleep(self.delay_s)
        return [self._frames(samples) for samples in utterances]

    def _frames(self, samples):
        n_frames = self.n_frames or len(samples) // 320
        means = np.resize(samples, (n_frames, 16)).mean(axis=1, keepdims=True)
        return (means * np.arange(1, self.dim + 1)).astype(np.float32)


def write_clips(folder: Path, n: int, seconds: float = 0.2) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    paths = []
    for number in range(n):
        paths.append(folder / f"clip{number:03d}.wav")
        samples = rng.uniform(-0.5, 0.5, int(16_000 * (seconds + 0.02 * (number % 5))))
        soundfile.write(paths[-1], samples, 16_000)
    return paths


def files_of(cache: FeatureCache) -> list[Path]:
    return sorted(cache.folder.rglob("*.safetensors"))


def assert_right(features: FeatureSet, paths: list[Path]) -> None:
    assert len(features) == len(paths)
    for index, path in enumerate(paths):
        (expected,) = FakeEncoder()([load_audio(path)])
        assert features.lengths[index] == len(expected)
        np.testing.assert_array_equal(features[index], expected.astype(np.float16))
