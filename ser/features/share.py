"""Frames of a corpus computed by many processes, each into the cache that all of them share.

In: recordings and what encodes them. Out: nothing but files in the cache: whole, or not there. What `extract` finds
there it does not compute again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from ser.audio.augment import Augmentation
from ser.encoders.encoder import Encoder
from ser.features.address import open_cache
from ser.features.extract import extract
from ser.workers import in_order

PIECE = 64  # recordings, at least
N_PIECES = 1000  # at most, as each looks through the whole cache for what is there already


@dataclass(frozen=True)
class Piece:
    """Some recordings, and how to encode them.

    Attributes:
        paths: of the recordings, readable by every worker.
        source, layer, n_layers: of the encoder.
        cache: folder or address; None is each worker's own default.
        copy: number of the augmented copy; 0 for the recordings themselves.
    """

    paths: tuple[Path, ...]
    source: str
    layer: int | None
    n_layers: int
    cache: Path | str | None
    copy: int = 0

    def extract(self) -> int:
        """Put the frames into the cache; returns how many had to be computed."""
        augmentation = Augmentation(self.copy) if self.copy else None
        encoder = _encoder(self.source, self.layer, self.n_layers)
        return extract(self.paths, encoder, open_cache(self.cache), augmentation=augmentation).n_computed


def extract_on(
    executor: Executor,
    paths: Sequence[Path],
    how: Piece,
    n_copies: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Have the frames of recordings, and of their augmented copies, computed; returns how many had to be.

    `how` says how, whatever its own recordings and copy are.
    """
    size = max(PIECE, -(-len(paths) // N_PIECES))
    pieces = [
        replace(how, paths=tuple(path.resolve() for path in paths[start : start + size]), copy=copy)
        for copy in range(n_copies + 1)
        for start in range(0, len(paths), size)
    ]
    n_computed = 0
    for done, (_, future) in enumerate(in_order(executor, Piece.extract, pieces), start=1):
        n_computed += future.result()
        progress(min(done * size, len(paths) * (n_copies + 1)), len(paths) * (n_copies + 1))
    return n_computed


@cache
def _encoder(source: str, layer: int | None, n_layers: int) -> Encoder:
    return Encoder.load(source, layer).stacked(n_layers)
