"""From a file that a person drops to mono float32 samples at 16 kHz.

In: a path to a recording (see `ser.audio.decode` for the formats), or samples with their rate. Out: `(samples,)`
float32, 16 kHz, within [-1, 1]. This is the only road from a file to samples: training, command line and page
all take it.

Every recording that cannot be used raises `AudioError`, whose `kind` is one of "missing", "not_audio",
"unreadable", "empty", "silent", "too_short", "too_long", "nan", "truncated", "no_ffmpeg".
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ser.audio.decode import MAX_CHANNELS, MAX_DURATION_S, Samples, check_rate, read_audio, read_blocks
from ser.audio.resample import resample
from ser.errors import AudioError

SAMPLE_RATE_HZ = 16_000
MIN_DURATION_S = 0.1
SILENCE_PEAK = 1e-4  # -80 dB of full scale
MAX_PEAK = 2.0**31  # float files at the scale of an integer are read; beyond that they are damaged


def load_audio(path: str | Path, max_duration_s: float = MAX_DURATION_S) -> Samples:
    """Read a recording as mono samples at 16 kHz.

    Args:
        path: the file.
        max_duration_s: a longer recording is refused before it is decoded to memory.

    Returns:
        `(samples,)` float32 at 16,000 Hz.

    Raises:
        AudioError: with a sentence that says what was wrong and what to do.
    """
    samples, rate_hz = read_audio(path, max_duration_s)
    return prepare(samples, rate_hz, name=Path(path).name)


def prepare(samples: NDArray[np.generic], rate_hz: int, name: str = "the recording") -> Samples:
    """Check samples and bring them to mono float32 at 16 kHz.

    Args:
        samples: `(samples,)` or `(samples, channels)`, floats within about [-1, 1] or integers of any width.
        rate_hz: their rate.
        name: what to call the recording in a message.

    Returns:
        `(samples,)` float32 at 16,000 Hz, the peak at most 1.

    Raises:
        AudioError: NaN or infinite samples, silence, under 0.1 s, or a rate that no recorder uses.
    """
    check_rate(rate_hz, name)
    mono = _mono_float(np.asarray(samples))
    if mono.size == 0:
        raise AudioError(f"{name} holds no sound at all. Record again, or choose another file.", "empty")
    duration_s = mono.size / rate_hz
    if duration_s < MIN_DURATION_S:
        raise AudioError(
            f"{name} lasts {duration_s:.3f} s; at least {MIN_DURATION_S} s is needed. Record a longer piece.",
            "too_short",
        )
    if not np.isfinite(mono).all():
        raise AudioError(
            f"{name} holds samples that are not numbers (NaN or infinite). Export it again from its source.",
            "nan",
        )
    peak = float(np.abs(mono).max())
    if peak > MAX_PEAK:
        raise AudioError(
            f"{name} is damaged: a sample of {peak:.1e} is no sound. Export it again.", "unreadable"
        )
    swing = float(np.ptp(mono)) / 2  # a constant offset is silence too
    if swing < SILENCE_PEAK:
        raise AudioError(
            f"{name} is silent (peak {swing:.1e} of full scale). Check that the microphone is on, and that "
            "the channels do not cancel each other out.",
            "silent",
        )
    if peak > 1.0:  # float files may exceed full scale
        mono = mono / peak
    return resample(mono, int(rate_hz), SAMPLE_RATE_HZ)


def stream_audio(path: str | Path, block_s: float) -> Iterator[Samples]:
    """Read a recording of any length piece by piece, for memory that does not grow with it.

    Args:
        path: the file.
        block_s: length of a piece at most. Pieces that are silent or under 0.1 s are left out.

    Yields:
        `(samples,)` float32 at 16,000 Hz. Files that need ffmpeg are decoded whole, up to `MAX_DURATION_S`.

    Raises:
        AudioError: the file cannot be opened as audio; damage further on ends the stream instead.
    """
    for block, rate_hz in read_blocks(path, block_s):
        with suppress(AudioError):  # a silent stretch or a scrap at the end
            yield prepare(block, rate_hz, Path(path).name)


def _mono_float(samples: NDArray[np.generic]) -> NDArray[np.float32]:
    if samples.ndim not in (1, 2) or (samples.ndim == 2 and not 1 <= samples.shape[1] <= MAX_CHANNELS):
        raise AudioError(
            f"Samples of shape {samples.shape} are no recording; give (samples,) or (samples, channels)."
        )
    if np.issubdtype(samples.dtype, np.integer):
        limits: Any = np.iinfo(samples.dtype)
        half = (float(limits.max) - float(limits.min) + 1) / 2
        samples = (samples.astype(np.float64) - limits.min) / half - 1
    elif not np.issubdtype(samples.dtype, np.floating):
        raise AudioError(f"Samples of type {samples.dtype} are no recording; give floats or integers.")
    mono = samples if samples.ndim == 1 else samples.mean(axis=1)
    with np.errstate(over="ignore"):
        return mono.astype(np.float32, copy=False)
