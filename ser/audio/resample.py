"""Band-limited change of rate, also for a recording that arrives in pieces, without torch.

In: `(samples,)` float32 at one rate. Out: the same sound at another, equal to torchaudio's `Resample` but for rounding.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

# The "kaiser best" design of the torchaudio documentation.
LOWPASS_WIDTH = 64
ROLLOFF = 0.9475937167399596
KAISER_BETA = 14.769656459379492
# 44,101 Hz counts as 44,100: off by less than 5e-5 is inaudible, and the exact filter of an odd rate fills memory.
MAX_RATIO_TERM = 1_000
BLOCK = 1 << 20  # numbers of a product's left side

Samples = NDArray[np.float32]
NOTHING: Samples = np.zeros(0, np.float32)


class Resampler:
    """Changes the rate of a recording piece by piece; the result is that of the whole at once.

    Args:
        from_hz, to_hz: rates in Hz.
    """

    def __init__(self, from_hz: float, to_hz: int) -> None:
        limit = MAX_RATIO_TERM // max(1, int(from_hz // to_hz))
        self.before, self.after = (Fraction(from_hz) / to_hz).limit_denominator(limit).as_integer_ratio()
        self._held = NOTHING
        self._n_past = 0  # samples at the front of `_held` that were converted and are heard by what follows

    def __call__(self, piece: Samples, is_last: bool = False) -> Samples:
        """The samples that can be told after a piece, `(samples,)`; all that is left after the last one."""
        if self.before == self.after:
            return piece
        reach = -(-_width(self.before, self.after) // self.before) * self.before
        self._held = np.concatenate([self._held, piece])
        n_ready = max(0, self._held.size - self._n_past - reach) // self.before * self.before
        if not (n_ready or is_last):
            return NOTHING
        start, length = (n // self.before * self.after for n in (self._n_past, n_ready))
        converted = _converted(self._held, self.before, self.after)[start : None if is_last else start + length]
        n_done = self._n_past + n_ready
        self._n_past = min(n_done, reach)
        self._held = self._held[n_done - self._n_past :]
        return converted


def resample(samples: Samples, from_hz: float, to_hz: int) -> Samples:
    """Change the rate of `(samples,)` with a sinc filter under a Kaiser window; the result lies within [-1, 1]."""
    converted = Resampler(from_hz, to_hz)(samples, is_last=True)
    return converted if from_hz == to_hz else np.clip(converted, -1.0, 1.0)


def _converted(samples: Samples, before: int, after: int) -> Samples:
    """`(ceil(samples * after / before),)`: each `before` samples, with what is around them, make `after`."""
    kernel, width = _kernel(before, after), _width(before, after)
    n_groups = -(-samples.size // before)
    padded = np.zeros(n_groups * before + 2 * width, np.float32)
    padded[width : width + samples.size] = samples
    heard = sliding_window_view(padded, len(kernel))[::before]
    rows = max(1, BLOCK // len(kernel))
    groups = [heard[first : first + rows] @ kernel for first in range(0, n_groups, rows)]
    return np.concatenate(groups).reshape(-1)[: -(-samples.size * after // before)]


def _width(before: int, after: int) -> int:
    """Samples that the filter hears on either side."""
    return int(np.ceil(LOWPASS_WIDTH * before / (min(before, after) * ROLLOFF)))


@lru_cache(maxsize=16)
def _kernel(before: int, after: int) -> NDArray[np.float32]:
    """Sinc under a Kaiser window, `(width + before + width, after)`, a column for each new sample of a group."""
    rate, width = min(before, after) * ROLLOFF, _width(before, after)
    at = np.arange(-width, width + before)[:, None] / before - np.arange(after) / after
    turns = np.clip(rate * at, -LOWPASS_WIDTH, LOWPASS_WIDTH)
    window = np.i0(KAISER_BETA * np.sqrt(1 - (turns / LOWPASS_WIDTH) ** 2)) / np.i0(KAISER_BETA)
    return (np.sinc(turns) * window * rate / before).astype(np.float32)
