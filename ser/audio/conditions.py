"""What may happen to a recording on its way to a model, each under a name and of one strength, for an audit.

In and out: `(samples,)` float32 at 16 kHz, and a generator for what is random. After audEERING's ser-tests
(https://github.com/audeering/ser-tests).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np

from ser.audio.augment import coded, in_room
from ser.audio.load import SAMPLE_RATE_HZ, Samples
from ser.audio.resample import resample

Condition: TypeAlias = Callable[[Samples, np.random.Generator], Samples]
TELEPHONE_HZ = 8_000


def _noise(snr_db: float) -> Condition:
    """Pink noise, so many dB below the recording."""

    def add(samples: Samples, rng: np.random.Generator) -> Samples:
        spectrum = np.fft.rfft(rng.standard_normal(samples.size))
        noise = np.fft.irfft(spectrum / np.sqrt(np.arange(1, spectrum.size + 1)), samples.size)
        level = np.sqrt(np.mean(np.square(samples)) / np.mean(np.square(noise)))
        return (samples + level * 10 ** (-snr_db / 20) * noise).astype(np.float32)

    return add


def _room(decay_s: float) -> Condition:
    return lambda samples, rng: in_room(samples, rng, decay_s, 0.7)


def _codec(form: str, subtype: str, rate_hz: int = SAMPLE_RATE_HZ, **options: float) -> Condition:
    return lambda samples, rng: coded(samples, form, subtype, rate_hz, **options)


def _level(gain_db: float) -> Condition:
    """Another level; what does not fit is cut off."""
    return lambda samples, rng: np.clip(samples * np.float32(10 ** (gain_db / 20)), -1, 1)


def _clipped(samples: Samples, rng: np.random.Generator) -> Samples:
    """A quarter of the peak is all that the microphone could take."""
    limit = np.abs(samples).max() / 4
    return np.clip(samples, -limit, limit)


def _speed(factor: float) -> Condition:
    return lambda samples, rng: resample(samples, round(factor * SAMPLE_RATE_HZ), SAMPLE_RATE_HZ)


def _silence(samples: Samples, rng: np.random.Generator) -> Samples:
    return np.pad(samples, SAMPLE_RATE_HZ)


def _late(samples: Samples, rng: np.random.Generator) -> Samples:
    """A press on Record that came 0.3 s late, of short recordings a fifth of them."""
    return samples[min(round(0.3 * SAMPLE_RATE_HZ), samples.size // 5) :]


CONDITIONS: Mapping[str, Condition] = {
    "noise 20 dB below": _noise(20), "noise 10 dB below": _noise(10), "noise 5 dB below": _noise(5),
    "living room": _room(0.3), "hall": _room(1.0),
    "telephone (GSM)": _codec("WAV", "GSM610", TELEPHONE_HZ),
    "telephone (mu-law)": _codec("WAV", "ULAW", TELEPHONE_HZ),
    "Opus": _codec("OGG", "OPUS", compression_level=0.95),
    "MP3": _codec("MP3", "MPEG_LAYER_III", compression_level=0.9),
    "20 dB fainter": _level(-20), "12 dB louder": _level(12), "clipped": _clipped,
    "slower by 10 %": _speed(0.9), "faster by 10 %": _speed(1.1),
    "silence of 1 s around": _silence, "start cut": _late,
}  # fmt: skip
