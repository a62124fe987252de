"""From a file that a person drops to mono float32 samples at 16 kHz.

In: a path to a recording (see `ser.audio.decode` for the formats), or samples with their rate. Out: `(samples,)`
float32, 16 kHz, within [-1, 1]. This is the only road from a file to samples: training, command line and page
all take it.

Every recording that cannot be used raises `AudioError`, whose `kind` is one of "missing", "not_audio",
"unreadable", "empty", "silent", "too_short", "too_long", "nan", "truncated".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ser.audio.decode import (
    BLOCK_SAMPLES,
    MAX_CHANNELS,
    MAX_DURATION_S,
    Samples,
    check_rate,
    mono,
    problem,
    read_blocks,
)
from ser.audio.resample import NOTHING, Resampler
from ser.errors import AudioError

SAMPLE_RATE_HZ = 16_000
MIN_DURATION_S = 0.1
SILENCE_PEAK = 1e-4  # -80 dB of full scale
MAX_PEAK = 2.0**31  # float files at the scale of an integer are read; beyond that they are damaged


def load_audio(path: str | Path, max_duration_s: float = MAX_DURATION_S) -> Samples:
    """Read a recording as mono samples at 16 kHz.

    Args:
        path: the file.
        max_duration_s: a longer recording is refused; what is decoded until then takes 64 kB a second.

    Returns:
        `(samples,)` float32 at 16,000 Hz.

    Raises:
        AudioError: with a sentence that says what was wrong and what to do.
    """
    return _checked(read_blocks(path, max_duration_s), Path(path).name)


def prepare(samples: NDArray[np.generic], rate_hz: float, name: str = "the recording") -> Samples:
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
    given = np.asarray(samples)
    channels = _floats(given[:, None] if given.ndim == 1 else given)
    starts = range(0, len(channels), BLOCK_SAMPLES)
    return _checked(((mono(channels[i : i + BLOCK_SAMPLES]), rate_hz) for i in starts), name)


def _checked(blocks: Iterable[tuple[Samples, float]], name: str) -> Samples:
    """Mono blocks of one rate as one array at 16 kHz, or the reason why they cannot be used."""
    sound = bytearray()  # grows in place: an array would be there twice whenever it is made longer
    low, high, duration_s = np.float32(np.inf), np.float32(-np.inf), 0.0
    change: Resampler | None = None
    for block, rate_hz in blocks:
        change = change or Resampler(rate_hz, SAMPLE_RATE_HZ)
        duration_s += block.size / rate_hz
        low, high = np.minimum(low, block.min()), np.maximum(high, block.max())
        sound += change(block).data
    if change is None:
        raise problem(name, "empty")
    check_sound(duration_s, float(low), float(high), name)
    sound += change(NOTHING, is_last=True).data
    samples = np.frombuffer(sound, np.float32)
    samples /= max(1.0, -float(low), float(high))  # float files may exceed full scale
    return np.clip(samples, -1.0, 1.0, out=samples)


def check_sound(duration_s: float, low: float, high: float, name: str) -> None:
    """Refuse sound that cannot be used, by its length and its extremes.

    Raises:
        AudioError: under 0.1 s, silence, or samples that are no sound.
    """
    peak, swing = max(-low, high), (high - low) / 2  # a constant offset is silence too
    if duration_s < MIN_DURATION_S:
        kind, reason = "too_short", f"lasts {duration_s:.3f} s; at least {MIN_DURATION_S} s is needed"
    elif not np.isfinite([low, high]).all():
        kind, reason = "nan", "holds samples that are not numbers (NaN or infinite)"
    elif peak > MAX_PEAK:
        kind, reason = "unreadable", f"is damaged: a sample of {peak:.1e} is no sound"
    elif swing < SILENCE_PEAK:
        kind, reason = "silent", f"is silent (peak {swing:.1e} of full scale): was the microphone on?"
    else:
        return
    raise AudioError(f"{name} {reason}. Record it again, or export it again from its source.", kind)


def stream_audio(path: str | Path, block_s: float) -> Iterator[Samples]:
    """Read a recording of any length piece by piece, for memory that does not grow with it.

    Args:
        path: the file.
        block_s: length of a piece; the last one is shorter. Pieces that are silent or under 0.1 s are left out.

    Yields:
        `(samples,)` float32 at 16,000 Hz.

    Raises:
        AudioError: the file cannot be opened as audio; damage further on ends the stream instead.
    """
    held, rate_hz = NOTHING, SAMPLE_RATE_HZ
    blocks = _until_damage(read_blocks(path, np.inf))
    for block, rate_hz in blocks:
        held, size = np.concatenate([held, block]), round(block_s * rate_hz)
        for _ in range(held.size // size):
            with suppress(AudioError):  # a silent stretch
                yield prepare(held[:size], rate_hz)
            held = held[size:]
    with suppress(AudioError):  # a scrap at the end
        yield prepare(held, rate_hz)


def _until_damage(blocks: Iterator[tuple[Samples, int]]) -> Iterator[tuple[Samples, int]]:
    yield next(blocks)
    with suppress(AudioError):
        yield from blocks


def _floats(samples: NDArray[np.generic]) -> NDArray[np.float32]:
    """`(samples, channels)` of any type as float32 within about [-1, 1]."""
    if samples.ndim != 2 or not 1 <= samples.shape[1] <= MAX_CHANNELS:
        raise AudioError(f"Samples of shape {samples.shape} are no recording; (samples,) or (samples, channels) are.")
    if np.issubdtype(samples.dtype, np.integer):
        limits: Any = np.iinfo(samples.dtype)
        half = (float(limits.max) - float(limits.min) + 1) / 2
        samples = (samples.astype(np.float64) - limits.min) / half - 1
    elif not np.issubdtype(samples.dtype, np.floating):
        raise AudioError(f"Samples of type {samples.dtype} are no recording; give floats or integers.")
    with np.errstate(over="ignore"):
        return samples.astype(np.float32, copy=False)
