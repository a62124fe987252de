"""Band-limited change of rate, the one of torchaudio's "kaiser best", in numpy alone.

In: `(samples,)` float32 at one rate. Out: the same sound at another. Every output sample is a windowed sinc over the
input around it; as the rates stand in the ratio of two whole numbers, there are only so many different kernels.
Smith, "Digital audio resampling", https://ccrma.stanford.edu/~jos/resample/
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ser.runtime import one_blas_thread

# The "kaiser best" design of the torchaudio documentation.
LOWPASS_WIDTH = 64
ROLLOFF = 0.9475937167399596
KAISER_BETA = 14.769656459379492
# 44,101 Hz counts as 44,100: off by less than 5e-5 is inaudible, and the exact filter of an odd rate fills memory.
MAX_RATIO_TERM = 1_000
NUMBERS_AT_ONCE = 2**20  # of the input's windows in memory


def resample(samples: NDArray[np.float32], from_hz: int, to_hz: int) -> NDArray[np.float32]:
    """Change the rate of `(samples,)` with a band-limited sinc filter under a Kaiser window."""
    if from_hz == to_hz:
        return samples
    ratio = Fraction(from_hz, to_hz).limit_denominator(MAX_RATIO_TERM // max(1, from_hz // to_hz))
    before, after = ratio.numerator, ratio.denominator
    kernels = _kernels(before, after)
    width = (len(kernels) - before) // 2
    padded = np.pad(samples, (width, width + before))
    windows = np.lib.stride_tricks.sliding_window_view(padded, len(kernels))[::before]
    out = np.empty((len(windows), after), dtype=np.float32)
    rows = max(1, NUMBERS_AT_ONCE // len(kernels))
    with one_blas_thread():
        for start in range(0, len(windows), rows):
            out[start : start + rows] = windows[start : start + rows] @ kernels
    return np.clip(out.reshape(-1)[: math.ceil(after * samples.size / before)], -1.0, 1.0)


@lru_cache(maxsize=16)
def _kernels(before: int, after: int) -> NDArray[np.float32]:
    """`(taps, after)`: what each of `after` outputs takes of the inputs around `before` of them."""
    cutoff = min(before, after) * ROLLOFF
    width = math.ceil(LOWPASS_WIDTH * before / cutoff)
    at = np.arange(-width, width + before)[:, None] / before - np.arange(after) / after
    at = np.clip(at * cutoff, -LOWPASS_WIDTH, LOWPASS_WIDTH)
    window = np.i0(KAISER_BETA * np.sqrt(1 - (at / LOWPASS_WIDTH) ** 2)) / np.i0(KAISER_BETA)
    return (np.sinc(at) * window * cutoff / before).astype(np.float32)
