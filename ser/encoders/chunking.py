"""How samples become frames, for every encoder and every engine that runs one: rate, pieces, normalisation.

In: `(samples,)` float32 at 16 kHz. Out: what goes into an encoder, piece by piece. Imports nothing but numpy.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ser.audio.load import SAMPLE_RATE_HZ, Samples

FRAME_RATE_HZ = 50
FRAME_SAMPLES = SAMPLE_RATE_HZ // FRAME_RATE_HZ
CHUNK_S = 30  # a longer recording is encoded piece by piece: attention needs memory with the square of it
VARIANCE_FLOOR = 1e-7  # that of transformers' feature extractors

Frames: TypeAlias = NDArray[np.float32]


def normalised(samples: Samples) -> Samples:
    """Zero mean and unit variance over the whole utterance."""
    return ((samples - samples.mean()) / np.sqrt(samples.var() + VARIANCE_FLOOR)).astype(np.float32)


def chunks(samples: Samples, overlap: int) -> Iterator[Samples]:
    """Pieces of about 30 s at most, whose frames follow each other at the frame rate; none is a mere scrap.

    All but the last reach `overlap` samples into the next: what their last frame still hears.
    """
    n_pieces = max(1, -(-samples.size // (CHUNK_S * SAMPLE_RATE_HZ)))
    step = -(-samples.size // n_pieces // FRAME_SAMPLES) * FRAME_SAMPLES
    for piece in range(n_pieces):
        yield samples[piece * step : (piece + 1) * step + overlap]
