"""Files of half-precision frames that check themselves: written once, whole, and read through memory maps.

A shard is one file: magic, length of the header, SHA-256 of the header, header (JSON: shape of a frame,
SHA-256 of the frames, key and number of frames of each clip), zeros up to a multiple of 64 bytes, the frames
of all clips as little-endian float16. It gets its name, a random one, only when it is complete and on the
disk: a reader sees whole shards or none, and two writers never touch the same file.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import struct
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

MAGIC = b"SERFEAT1"
PREFIX = struct.Struct("<8sQ32s")  # magic, bytes of the header, SHA-256 of the header
ALIGNMENT = 64
AROUND = 2 << 20  # bytes: the largest page that a system maps at once
SUFFIX, UNFINISHED = ".shard", ".tmp"
HALF = np.dtype("<f2")

_verified: set[tuple[str, int, int, int]] = set()  # shards whose checksum this process has seen to be right


class DamagedShardError(Exception):
    """A shard does not hold what was written."""


@dataclass(frozen=True)
class Shard:
    """What the header of a shard says.

    Attributes:
        path: the file.
        frame_shape: shape of one frame, `(dim,)` or `(layers, dim)`.
        clips: key of a clip -> (first frame, number of frames).
        offset: where the frames begin, bytes.
        frames_sha256: checksum of the frames, hexadecimal.
    """

    path: Path
    frame_shape: tuple[int, ...]
    clips: dict[str, tuple[int, int]]
    offset: int
    frames_sha256: str

    @classmethod
    def read(cls, path: Path) -> Shard:
        """Read and check the header alone.

        Raises:
            DamagedShardError: it is not a shard, cut short, or its header fails its checksum.
            OSError: the file cannot be read.
        """
        with path.open("rb") as file:
            prefix = file.read(PREFIX.size)
            if len(prefix) < PREFIX.size:
                raise DamagedShardError("shorter than a header")
            magic, n_header, digest = PREFIX.unpack(prefix)
            size = os.fstat(file.fileno()).st_size
            if magic != MAGIC or n_header > size:
                raise DamagedShardError("not a shard")
            header = file.read(n_header)
        if hashlib.sha256(header).digest() != digest:
            raise DamagedShardError("header fails its checksum")
        shard = cls._from_header(path, _parsed(header), _aligned(PREFIX.size + n_header))
        if size != shard.offset + shard.n_bytes:
            raise DamagedShardError(f"{size} bytes instead of {shard.offset + shard.n_bytes}")
        return shard

    @classmethod
    def _from_header(cls, path: Path, header: dict[str, Any], offset: int) -> Shard:
        clips, start = {}, 0
        for key, n_frames in header["clips"]:
            clips[key] = (start, n_frames)
            start += n_frames
        return cls(path, tuple(header["frame_shape"]), clips, offset, header["frames_sha256"])

    @property
    def n_frames(self) -> int:
        return sum(n_frames for _, n_frames in self.clips.values())

    @property
    def n_bytes(self) -> int:
        """Bytes of the frames."""
        return self.n_frames * math.prod(self.frame_shape) * HALF.itemsize

    def verify(self) -> None:
        """Compare the frames with their checksum, once a process unless the file changes.

        Raises:
            DamagedShardError: they differ.
            OSError: the file cannot be read.
        """
        with self.path.open("rb") as file:
            signature = _signature(self.path, file)
            if signature in _verified:
                return
            file.seek(self.offset)
            if hashlib.file_digest(file, "sha256").hexdigest() != self.frames_sha256:
                raise DamagedShardError("frames fail their checksum")
        _verified.add(signature)

    def map(self) -> MappedShard:
        """Map the frames into memory; a map outlives the deletion of its file."""
        return MappedShard(self)


class MappedShard:
    """The frames of a shard, `(frames, *frame_shape)` float16, read only, in memory as far as looked at."""

    def __init__(self, shard: Shard) -> None:
        with shard.path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        flat: NDArray[np.float16] = np.frombuffer(
            self._map, HALF, count=shard.n_bytes // HALF.itemsize, offset=shard.offset
        )
        self.frames = flat.reshape(-1, *shard.frame_shape)
        self._offset = shard.offset

    def release(self, first: int = 0, n_frames: int | None = None) -> None:
        """Give the touched pages of some frames back, by default of all; the next look takes them from the system's
        cache or the disk.

        A look at a page maps those around it too, up to `AROUND`: they are given back with it.
        """
        if not hasattr(mmap, "MADV_DONTNEED"):
            return
        if n_frames is None:
            self._map.madvise(mmap.MADV_DONTNEED)
            return
        frame_bytes = self.frames[0].nbytes
        start = (self._offset + first * frame_bytes) // AROUND * AROUND
        stop = self._offset + (first + n_frames) * frame_bytes
        self._map.madvise(mmap.MADV_DONTNEED, start, min(-(-stop // AROUND) * AROUND, len(self._map)) - start)


def write_shard(folder: Path, clips: Sequence[tuple[str, NDArray[np.float16]]]) -> Shard:
    """Write one shard of `(key, (frames, *frame_shape) float16)` clips; it is on the disk when this returns.

    Raises:
        OSError: disk full, read-only, ...; nothing is left behind.
    """
    name = uuid.uuid4().hex
    path, unfinished = folder / f"{name}{SUFFIX}", folder / f".{name}{UNFINISHED}"
    pieces = [np.ascontiguousarray(frames, HALF) for _, frames in clips]
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece.data)
    header = {
        "frame_shape": list(pieces[0].shape[1:]),
        "frames_sha256": digest.hexdigest(),
        "clips": [[key, len(frames)] for key, frames in clips],
    }
    encoded = json.dumps(header).encode()
    offset = _aligned(PREFIX.size + len(encoded))
    try:
        with unfinished.open("xb") as file:
            file.write(PREFIX.pack(MAGIC, len(encoded), hashlib.sha256(encoded).digest()) + encoded)
            file.write(bytes(offset - file.tell()))
            for piece in pieces:
                file.write(piece.data)
            file.flush()
            os.fsync(file.fileno())
            _verified.add(_signature(path, file))
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    _sync_folder(folder)
    return Shard._from_header(path, header, offset)


def _parsed(header: bytes) -> dict[str, Any]:
    """The entries of a header, each of its own type; a checksum that fits does not promise that."""
    try:
        content: dict[str, Any] = json.loads(header)
        counts = [*content["frame_shape"], *(n_frames for _, n_frames in content["clips"])]
        names = [content["frames_sha256"], *(key for key, _ in content["clips"])]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise DamagedShardError("header is not that of a shard") from error
    if not all(type(n) is int and n > 0 for n in counts) or not all(isinstance(name, str) for name in names):
        raise DamagedShardError("header holds entries that make no sense")
    return content


def _aligned(n_bytes: int) -> int:
    return -(-n_bytes // ALIGNMENT) * ALIGNMENT


def _signature(path: Path, file: IO[bytes]) -> tuple[str, int, int, int]:
    status = os.fstat(file.fileno())
    return str(path), status.st_ino, status.st_size, status.st_mtime_ns


def _sync_folder(folder: Path) -> None:
    """Make the new name survive a power cut, where the system lets folders be synchronised."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
