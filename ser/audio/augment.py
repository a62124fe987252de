"""Degrading a waveform as a microphone, a room and a street would: noise, reverberation, spectral tilt; and its speed.

In and out: `(samples,)` float32 at 16 kHz; every random choice comes from the generator that is passed in.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ser.audio.load import MIN_DURATION_S, SAMPLE_RATE_HZ, Samples
from ser.audio.resample import resample

SNR_DB = (5.0, 30.0)
REVERBERATION_S = (0.1, 0.6)  # time to fall by 60 dB
TILT = 0.6
SPEEDS = (0.9, 1.1)  # Ko et al. 2015


@dataclass(frozen=True)
class Augmentation:
    """One copy of every clip at another speed and with noise, always the same for the same clip.

    Attributes:
        copy: number of the copy, from 1.
        seed: of the speeds and the noise.
    """

    copy: int
    seed: int = 40

    @property
    def settings(self) -> dict[str, Any]:
        """All that the copies depend on, for the key of kept features."""
        return {**asdict(self), "speeds": SPEEDS, "snr_db": SNR_DB}

    def __call__(self, samples: Samples, key: str) -> Samples:
        """The copy of a clip whose content has the SHA-256 `key`, in hex."""
        rng = np.random.default_rng((self.seed, self.copy, int(key[:16], 16)))
        return add_noise(change_speed(samples, rng), rng)


def degrade(samples: Samples, rng: np.random.Generator) -> Samples:
    """One or several of noise, a room and a tilt, each with an even chance, at least one of them."""
    steps = [add_noise, add_room, tilt]
    chosen = [step for step in steps if rng.random() < 0.5] or [steps[int(rng.integers(len(steps)))]]
    for step in chosen:
        samples = step(samples, rng)
    return samples


def change_speed(samples: Samples, rng: np.random.Generator) -> Samples:
    """Slower or faster by a tenth, pitch and all; a clip that would become too short stays as it is."""
    speed = SPEEDS[int(rng.integers(len(SPEEDS)))]
    changed = resample(samples, round(speed * SAMPLE_RATE_HZ), SAMPLE_RATE_HZ)
    return changed if changed.size >= MIN_DURATION_S * SAMPLE_RATE_HZ else samples


def add_noise(samples: Samples, rng: np.random.Generator) -> Samples:
    """Noise with a spectrum between white and brown, 5 to 30 dB below the speech."""
    spectrum = np.fft.rfft(rng.standard_normal(samples.size))
    frequency = np.arange(1, spectrum.size + 1)
    noise = np.fft.irfft(spectrum * frequency ** -rng.uniform(0, 1), samples.size)
    gain = np.sqrt(np.mean(samples**2) / (np.mean(noise**2) + 1e-12)) * 10 ** (-rng.uniform(*SNR_DB) / 20)
    return (samples + gain * noise).astype(np.float32)


def add_room(samples: Samples, rng: np.random.Generator) -> Samples:
    """Convolution with an impulse and an exponentially decaying tail of noise."""
    from scipy.signal import fftconvolve

    decay_s = rng.uniform(*REVERBERATION_S)
    time_s = np.arange(int(decay_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    tail = rng.standard_normal(time_s.size) * 10 ** (-3 * time_s / decay_s)
    tail *= rng.uniform(0.2, 0.8) / np.linalg.norm(tail)
    tail[0] = 1.0
    return fftconvolve(samples, tail)[: samples.size].astype(np.float32)


def tilt(samples: Samples, rng: np.random.Generator) -> Samples:
    """A first-order filter that lifts the low or the high end."""
    coefficient = rng.uniform(-TILT, TILT)
    return (samples + coefficient * np.concatenate([[0.0], samples[:-1]])).astype(np.float32)
