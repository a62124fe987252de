"""Where the encoder's frames are cached on disk, and how they are found again.

A folder for each (encoder with its layer and engine, settings), named by their hash, with `encoder.json` for people to
read and any number of safetensors files of some hundred utterances: one tensor each, `(frames, *frame_shape)` float16,
under the SHA-256 of its recording, so that a renamed file keeps its frames and a changed one gets new ones. The files'
headers are the only index. A file is written whole, under a name of its own, and never changed: processes may extract
at once without locks, and an utterance that is found twice is equal twice.

A file's checksum is compared when it is new here or has another size or date; `verified.json` remembers that, so that
a start does not read the whole cache.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import time
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ser.errors import CacheError
from ser.files import CACHE_VARIABLE, cache_folder, write_json

FORMAT = 3  # part of every key: raise it when loading or storing changes what the frames are
FILE_BYTES = 32 << 20
FILE_S = 120.0  # a slow encoder's work is written at least this often
STALE_S = 3600.0  # an unfinished file this old belongs to nobody
DESCRIPTION, VERIFIED, SUFFIX, UNFINISHED = "encoder.json", "verified.json", ".safetensors", ".tmp"
HEADER_SUFFIX, ADDRESSES = ".header", "addresses"  # of files elsewhere, see `ser.features.address`
OWN_FILES = (f"*{SUFFIX}", f"*{HEADER_SUFFIX}", f".*{UNFINISHED}", DESCRIPTION, VERIFIED, "*.shard")  # an older name

HALF = np.dtype("<f2")

log = logging.getLogger(__name__)


class FrameEncoder(Protocol):
    """What the cache asks of an encoder; `ser.encoders.encoder.Encoder` is one."""

    @property
    def fingerprint(self) -> str: ...

    def __call__(self, utterances: list[NDArray[np.float32]], /) -> list[NDArray[np.float32]]: ...


@dataclass(frozen=True)
class Cached:
    """Where the frames of one utterance begin, in bytes, how many they are, and of what shape."""

    file: Path
    key: str
    offset: int
    n_frames: int
    frame_shape: tuple[int, ...]

    def read(self, n_frames: int | None = None) -> NDArray[np.float16]:
        """The first frames, by default all of them, `(frames, *frame_shape)`.

        Raises:
            CacheError: the file is not there any more.
        """
        n = self.n_frames if n_frames is None else min(n_frames, self.n_frames)
        try:  # mapped into memory, pages would count as the process' own
            numbers = np.fromfile(self.file, HALF, n * math.prod(self.frame_shape), offset=self.offset)
            return numbers.reshape(n, *self.frame_shape)
        except (OSError, ValueError) as error:
            raise CacheError(f"Cached features are gone ({error}); was the cache cleared? Run again.") from error


@dataclass(frozen=True)
class CachedEncoder:
    """What is cached of one encoder; what it says of itself is "?" where the description is lost."""

    name: str
    layer: Any
    fingerprint: str
    settings: dict[str, Any]
    n_clips: int
    n_bytes: int


class FeatureCache:
    """The folder of cached frames: `FeatureCache().store(encoder, settings)`.

    Args:
        folder: default is the environment's SER_CACHE, else `~/.cache/persian-ser`.

    Raises:
        CacheError: none is given, and the user has no home.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        try:
            self.folder = Path(folder) if folder else cache_folder()
        except RuntimeError as error:
            raise CacheError(f"This user has no home folder to cache in. Set {CACHE_VARIABLE}.") from error
        self.root = self.folder / "features"

    def __str__(self) -> str:
        return str(self.folder)

    def store(self, encoder: FrameEncoder, settings: Mapping[str, Any]) -> Store:
        """The part of the cache that belongs to one encoder, layer, engine and set of settings."""
        identity = {
            "format": FORMAT,
            "fingerprint": encoder.fingerprint,
            "layer": getattr(encoder, "layer", None),
            "engine": getattr(encoder, "engine", "torch"),
            "settings": dict(settings),
        }
        key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
        return Store(self.root / key, {"encoder": getattr(encoder, "name", "?"), **identity})

    def contents(self) -> list[CachedEncoder]:
        """What is cached, encoder by encoder."""
        found = []
        for folder in self._folders():
            about = {"encoder": "?", "fingerprint": "?", "layer": None} | _read_json(folder / DESCRIPTION)
            settings = about.get("settings")
            n_clips = len({one.key for held in Store(folder, {}).files() for one in held})
            n_bytes = sum(_status(path)[0] for path in _own_files(folder))
            names = (str(about["encoder"]), about["layer"], str(about["fingerprint"]))
            known = settings if isinstance(settings, dict) else {}
            if n_clips:  # else it has headers of files at an address
                found.append(CachedEncoder(*names, known, n_clips, n_bytes))
        return found

    def clear(self) -> int:
        """Delete what is cached, and nothing else; returns the bytes that became free.

        Raises:
            CacheError: a file cannot be deleted.
        """
        freed = 0
        with _explained(self.folder, "cleared"):
            for folder in self._folders():
                for path in _own_files(folder):
                    freed += _status(path)[0]
                    path.unlink(missing_ok=True)
                if not any(folder.iterdir()):
                    folder.rmdir()
        return freed

    def _folders(self) -> list[Path]:
        copies = self.folder.glob(f"{ADDRESSES}/*/*/*")
        return sorted(path for path in (*self.root.glob("*"), *copies) if path.is_dir())


class Store:
    """The files of one encoder and one set of settings, and the utterances that wait to be written."""

    def __init__(self, folder: Path, description: Mapping[str, Any]) -> None:
        self.folder, self.description = folder, dict(description)
        self._waiting: dict[str, NDArray[np.float16]] = {}
        self._waiting_since = time.monotonic()

    def files(self) -> Iterator[list[Cached]]:
        """What each file holds; a damaged one is deleted, so that its utterances are computed again."""
        verified = _read_json(self.folder / VERIFIED)
        found: dict[str, list[int]] = {}
        for path in sorted(self.folder.glob(f"*{SUFFIX}")):
            try:
                status = _status(path)
                held = contents_of(path, verify=verified.get(path.name) != status)
            except Exception as error:  # safetensors has errors of its own, and a header may say anything
                _discard(path, error)
                continue
            found[path.name] = status
            yield held
        if found != verified:
            self._remember(found)

    def find(self, keys: Collection[str]) -> dict[str, Cached]:
        """Where the frames of each key are, for those that are cached."""
        return {one.key: one for held in self.files() for one in held if one.key in keys}

    def add(self, key: str, frames: NDArray[np.float32]) -> None:
        """Keep the frames of an utterance, `(frames, *frame_shape)`; on the disk after `flush` at the latest.

        Raises:
            CacheError: the disk is full or read-only.
            ValueError: no frames, or such as half precision cannot hold.
        """
        if not len(frames):
            raise ValueError("the encoder made no frames of it")
        with np.errstate(over="ignore"):
            half = np.ascontiguousarray(frames, np.float16)
        if not np.isfinite(half).all():
            raise ValueError("the encoder's frames are not finite or too large for half precision")
        if not self._waiting:
            self._waiting_since = time.monotonic()
        self._waiting[key] = half
        n_bytes = sum(one.nbytes for one in self._waiting.values())
        if n_bytes >= FILE_BYTES or time.monotonic() - self._waiting_since >= FILE_S:
            self.flush()

    def flush(self) -> None:
        """Write what waits.

        Raises:
            CacheError: the disk is full or read-only.
        """
        waiting, self._waiting = self._waiting, {}
        if not waiting:
            return
        with _explained(self.folder, "written"):
            try:
                self._write(waiting)
            except FileNotFoundError:  # another process has just cleared the cache
                self._write(waiting)

    def _write(self, waiting: dict[str, NDArray[np.float16]]) -> Path:
        from safetensors.numpy import save

        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.glob(f".*{UNFINISHED}"):
            if time.time_ns() - _status(path)[1] > STALE_S * 1e9:
                path.unlink(missing_ok=True)
        if not (self.folder / DESCRIPTION).exists():
            write_json(self.folder / DESCRIPTION, self.description)
        waiting = dict(sorted(waiting.items()))  # the order of the file
        digest = _listing({key: frames.shape for key, frames in waiting.items()})
        for frames in waiting.values():
            digest.update(frames)
        path = self.folder / f"{uuid.uuid4().hex}{SUFFIX}"
        unfinished = path.with_name(f".{path.stem}{UNFINISHED}")
        try:
            with unfinished.open("xb") as file:
                file.write(save(waiting, {"sha256": digest.hexdigest()}))
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        self._remember(_read_json(self.folder / VERIFIED) | {path.name: _status(path)})
        return path

    def _remember(self, verified: Mapping[str, Any]) -> None:
        with suppress(OSError):  # a cache that can only be read is verified each time
            write_json(self.folder / VERIFIED, verified)


def contents_of(path: Path, verify: bool) -> list[Cached]:
    """What a file holds by its header, compared with its checksum on demand; raises whatever damage leads to."""
    from safetensors import safe_open

    with safe_open(path, "np", backend="pread") as content:  # which makes sure that frames are one behind the other
        expected = (content.metadata() or {}).get("sha256")
    with path.open("rb") as file:
        n_bytes = file.read(8)
        held = listed(path, n_bytes + file.read(int.from_bytes(n_bytes, "little")))
        digest = _listing({one.key: (one.n_frames, *one.frame_shape) for one in held})
        while verify and (chunk := file.read(1 << 20)):
            digest.update(chunk)
    if verify and digest.hexdigest() != expected:
        raise ValueError("its checksum is another")
    return held


def listed(file: Path, header: bytes) -> list[Cached]:
    """What a file holds, in order, by its beginning: eight bytes of length, then JSON; raises as `contents_of`."""
    entries = {key: entry for key, entry in json.loads(header[8:]).items() if key != "__metadata__"}
    held = []
    for key, entry in sorted(entries.items(), key=lambda row: row[1]["data_offsets"][0]):
        shape = tuple(entry["shape"])
        if entry["dtype"] != "F16" or not shape or not all(shape):
            raise ValueError("it holds something else than frames")
        held.append(Cached(file, key, len(header) + entry["data_offsets"][0], shape[0], shape[1:]))
    return held


def _listing(shapes: Mapping[str, tuple[int, ...]]) -> Any:
    """SHA-256 of keys and shapes in the order of the file, to be updated with the frames."""
    return hashlib.sha256(json.dumps(list(shapes.items())).encode())


def _discard(path: Path, reason: Exception) -> None:
    """A file that cannot be used: delete it if it is damaged, in any case leave it out."""
    if not isinstance(reason, FileNotFoundError):  # else another process has just cleared the cache
        log.warning("cached features %s cannot be used (%s): they are computed again", path, reason)
    if not isinstance(reason, OSError):
        with suppress(OSError):
            path.unlink(missing_ok=True)


@contextmanager
def _explained(folder: Path, verb: str) -> Iterator[None]:
    """What the disk refuses becomes a sentence for the user."""
    try:
        yield
    except OSError as error:
        raise CacheError(
            f"The feature cache {folder} cannot be {verb}: {error.strerror or error}. "
            f"Free space, or name another folder with --cache or {CACHE_VARIABLE}."
        ) from error


def _own_files(folder: Path) -> list[Path]:
    return [path for pattern in OWN_FILES for path in folder.glob(pattern)]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _status(path: Path) -> list[int]:
    """Bytes and date of a file in nanoseconds; 0 and now where it has gone."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return [0, time.time_ns()]
    return [status.st_size, status.st_mtime_ns]
