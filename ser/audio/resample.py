"""Band-limited change of rate by torchaudio, also for a recording that arrives in pieces.

In: `(samples,)` float32 at one rate. Out: the same sound at another. Torch is imported when a rate changes, not before.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The "kaiser best" design of the torchaudio documentation.
LOWPASS_WIDTH = 64
ROLLOFF = 0.9475937167399596
KAISER_BETA = 14.769656459379492
# 44,101 Hz counts as 44,100: off by less than 5e-5 is inaudible, and the exact filter of an odd rate fills memory.
MAX_RATIO_TERM = 1_000

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
        convert = _transform(self.before, self.after)
        reach = -(-convert.width // self.before) * self.before
        self._held = np.concatenate([self._held, piece])
        n_ready = max(0, self._held.size - self._n_past - reach) // self.before * self.before
        if not (n_ready or is_last):
            return NOTHING
        start, length = (n // self.before * self.after for n in (self._n_past, n_ready))
        converted = _converted(self._held, convert)[start : None if is_last else start + length]
        n_done = self._n_past + n_ready
        self._n_past = min(n_done, reach)
        self._held = self._held[n_done - self._n_past :]
        return converted


def resample(samples: Samples, from_hz: float, to_hz: int) -> Samples:
    """Change the rate of `(samples,)` with a sinc filter under a Kaiser window; the result lies within [-1, 1]."""
    converted = Resampler(from_hz, to_hz)(samples, is_last=True)
    return converted if from_hz == to_hz else np.clip(converted, -1.0, 1.0)


def _converted(samples: Samples, convert: Any) -> Samples:
    import torch

    with torch.inference_mode():
        changed: Samples = convert(torch.from_numpy(samples)).numpy()
    return changed


@lru_cache(maxsize=16)
def _transform(before: int, after: int) -> Any:
    from ser.runtime import import_torchaudio

    kind = import_torchaudio().transforms.Resample
    return kind(before, after, "sinc_interp_kaiser", LOWPASS_WIDTH, ROLLOFF, KAISER_BETA)
