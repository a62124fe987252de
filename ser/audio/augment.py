"""Changing a recording as speakers, microphones, rooms, telephones and codecs do, by audiomentations.

In and out: `(samples,)` float32 at 16 kHz; every random choice comes from the generator or the seed that is passed in.
"""

from __future__ import annotations

import io
import random
import threading
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import soundfile

from ser.audio.load import MIN_DURATION_S, SAMPLE_RATE_HZ, Samples
from ser.audio.resample import resample
from ser.errors import SettingsError

SNR_DB = (5.0, 30.0)
NOISE_DECAY_DB = (-6.0, 0.0)  # an octave: from brown to white
REVERBERATION_S = (0.1, 0.6)  # time to fall by 60 dB
TELEPHONE_HZ = (300.0, 3_400.0)
GAIN_DB = (-20.0, 6.0)
SPEEDS = (0.9, 1.0, 1.1)  # Ko et al. 2015
SILENCE_S, CUT_S, LEFT_S = (1.5, 0.3, 0.5)  # at most in front and behind; at most off the start; what a cut leaves
# libsndfile's name of a codec, and how hard it may compress, of 1.
CODECS = (("OGG", "OPUS", 0.8, 0.98), ("OGG", "VORBIS", 0.6, 1.0), ("MP3", "MPEG_LAYER_III", 0.3, 0.9))
VERSION = 2  # of the copies: part of the key of cached features

_global_draws = threading.Lock()  # audiomentations draws from the generators of `random` and numpy


@dataclass(frozen=True)
class Augmentation:
    """One copy of every utterance at another speed and level, with noise, silence and more, always the same one.

    Attributes:
        copy: number of the copy, from 1.
        seed: of all that is drawn.
    """

    copy: int
    seed: int = 40

    @property
    def settings(self) -> dict[str, Any]:
        """All that the copies depend on, for the key of cached features."""
        return {**asdict(self), "version": VERSION}

    def __call__(self, samples: Samples, key: str) -> Samples:
        """The copy of an utterance whose content has the SHA-256 `key`, in hex.

        Raises:
            SettingsError: audiomentations is not installed.
        """
        rng = np.random.default_rng((self.seed, self.copy, int(key[:16], 16)))
        cut = int(rng.uniform(0, min(CUT_S * SAMPLE_RATE_HZ, max(0, samples.size - LEFT_S * SAMPLE_RATE_HZ))))
        changed = resample(samples[cut:], round(rng.choice(SPEEDS) * SAMPLE_RATE_HZ), SAMPLE_RATE_HZ)
        silence = rng.uniform(0, SILENCE_S, 2) * (rng.random(2) < 0.5) * SAMPLE_RATE_HZ
        short = max(0, int(MIN_DURATION_S * SAMPLE_RATE_HZ) - changed.size)
        changed = np.pad(changed, (int(silence[0]), int(silence[1]) + short))
        return _drawn([_library().Gain(*GAIN_DB, p=1.0)], degrade(changed, rng), rng)


def degrade(samples: Samples, rng: np.random.Generator) -> Samples:
    """One or two of noise, a room, a telephone's band and a codec; the length stays.

    Raises:
        SettingsError: audiomentations is not installed.
    """
    library = _library()
    low, high = ((hz, hz) for hz in TELEPHONE_HZ)
    telephone = [library.HighPassFilter(*low, p=1.0), library.LowPassFilter(*high, p=1.0)]
    steps = [
        library.AddColorNoise(*SNR_DB, *NOISE_DECAY_DB, p=1.0),
        library.Compose(telephone),
        library.Lambda(partial(_in_room, rng), p=1.0),
        library.Lambda(partial(_coded, rng), p=1.0),
    ]
    return _drawn([library.SomeOf((1, 2), steps)], samples, rng)


def _drawn(steps: list[Any], samples: Samples, rng: np.random.Generator) -> Samples:
    """The steps of audiomentations, with all that they draw following from the generator."""
    seed = int(rng.integers(2**32))
    with _global_draws:
        states = random.getstate(), np.random.get_state()
        random.seed(seed)
        np.random.seed(seed)
        try:
            changed = _library().Compose(steps)(samples, SAMPLE_RATE_HZ)
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
    return np.clip(changed, -1.0, 1.0).astype(np.float32)


def _in_room(rng: np.random.Generator, samples: Samples, rate_hz: int) -> Samples:
    """Convolution with an impulse and an exponentially decaying tail of noise."""
    return in_room(samples, rng, rng.uniform(*REVERBERATION_S), rng.uniform(0.2, 0.8))


def in_room(samples: Samples, rng: np.random.Generator, decay_s: float, strength: float) -> Samples:
    """A recording in a room whose sound falls by 60 dB in `decay_s`, its energy `strength` of the direct sound's."""
    from scipy.signal import fftconvolve

    time_s = np.arange(int(decay_s * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    tail = rng.standard_normal(time_s.size) * 10 ** (-3 * time_s / decay_s)
    tail *= strength / np.linalg.norm(tail)
    tail[0] = 1.0
    return fftconvolve(samples, tail)[: samples.size].astype(np.float32)


def _coded(rng: np.random.Generator, samples: Samples, rate_hz: int) -> Samples:
    """What is left of the samples behind a codec."""
    form, subtype, least, most = CODECS[int(rng.integers(len(CODECS)))]
    return coded(samples, form, subtype, compression_level=rng.uniform(least, most))


def coded(samples: Samples, form: str, subtype: str, rate_hz: int = SAMPLE_RATE_HZ, **options: Any) -> Samples:
    """What is left of the samples behind a codec of libsndfile at a rate; the length stays."""
    file = io.BytesIO()
    sent = resample(samples, SAMPLE_RATE_HZ, rate_hz)
    soundfile.write(file, sent, rate_hz, format=form, subtype=subtype, **options)
    file.seek(0)
    heard = soundfile.read(file, dtype="float32")[0]
    decoded = resample(heard, rate_hz, SAMPLE_RATE_HZ)[: samples.size]
    return np.pad(decoded, (0, samples.size - decoded.size))


def _library() -> Any:
    try:
        import audiomentations
    except ImportError as error:
        raise SettingsError(
            "Augmentation needs audiomentations, which is not installed: pip install 'persian-ser[augment]'"
        ) from error
    return audiomentations
