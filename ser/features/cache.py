"""Where the encoder's frames are kept on disk, and how they are found again.

A folder for each (encoder with its layer, settings), named by their hash, with `encoder.json` to be read by
people and any number of shards (`ser.features.shards`). A clip's key is the SHA-256 of its file, so a renamed file
keeps its frames and a changed one gets new ones. There is no index file to be torn: the shards' headers are
the index. Nothing is locked: processes that write at once make shards of their own, and a clip that is found
twice is equal twice.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ser.errors import CacheError
from ser.features.shards import HALF, SUFFIX, UNFINISHED, DamagedShardError, Shard, write_shard

FORMAT = 1  # part of every key: raise it when loading or storing changes what the frames are
SHARD_BYTES = 64 << 20
SHARD_S = 120.0  # a slow encoder's work is written at least this often
STALE_S = 3600.0  # an unfinished file this old belongs to nobody
ENVIRONMENT = "SER_CACHE"
DESCRIPTION = "encoder.json"

log = logging.getLogger(__name__)


class FrameEncoder(Protocol):
    """What the cache asks of an encoder; `ser.encoders.encoder.Encoder` is one."""

    @property
    def fingerprint(self) -> str: ...

    def __call__(self, utterances: list[NDArray[np.float32]], /) -> list[NDArray[np.float32]]: ...


@dataclass(frozen=True)
class CachedEncoder:
    """What is kept of one encoder.

    Attributes:
        name, layer, fingerprint: of the encoder, "?" where the description is lost.
        settings: of the extraction.
        n_clips: different clips.
        n_bytes: on the disk.
    """

    name: str
    layer: Any
    fingerprint: str
    settings: dict[str, Any]
    n_clips: int
    n_bytes: int


class FeatureCache:
    """The folder of kept frames: `FeatureCache().store(encoder, settings)`.

    Args:
        folder: default is the environment's SER_CACHE, else `~/.cache/persian-ser`.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder or os.environ.get(ENVIRONMENT) or Path.home() / ".cache" / "persian-ser")
        self.root = self.folder / "features"

    def store(self, encoder: FrameEncoder, settings: Mapping[str, Any]) -> Store:
        """The part of the cache that belongs to one encoder and layer and one set of settings."""
        identity = {
            "format": FORMAT,
            "fingerprint": encoder.fingerprint,
            "layer": getattr(encoder, "layer", None),
            "settings": dict(settings),
        }
        key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
        return Store(self.root / key, {"encoder": getattr(encoder, "name", "?"), **identity})

    def contents(self) -> list[CachedEncoder]:
        """What is kept, encoder by encoder."""
        found = []
        for folder in self._folders():
            store = Store(folder, {})
            clips = {key for shard in store.shards() for key in shard.clips}
            about = _read_description(folder)
            names = (str(about.get("encoder", "?")), about.get("layer"), str(about.get("fingerprint", "?")))
            n_bytes = sum(_size(path) for path in _own_files(folder))
            settings = about.get("settings")
            known = settings if isinstance(settings, dict) else {}
            found.append(CachedEncoder(*names, known, len(clips), n_bytes))
        return found

    def clear(self) -> int:
        """Delete what is kept, and nothing else; returns the bytes that became free.

        Raises:
            CacheError: a file cannot be deleted.
        """
        freed = 0
        try:
            for folder in self._folders():
                for path in _own_files(folder):
                    n_bytes = _size(path)
                    path.unlink(missing_ok=True)
                    freed += n_bytes
                if not any(folder.iterdir()):
                    folder.rmdir()
        except OSError as error:
            raise _cache_error(self.folder, "cleared", error) from error
        return freed

    def _folders(self) -> list[Path]:
        try:
            return sorted(path for path in self.root.iterdir() if path.is_dir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _cache_error(self.folder, "read", error) from error


class Store:
    """The shards of one encoder and one set of settings, and the clips that wait to be written."""

    def __init__(self, folder: Path, description: Mapping[str, Any]) -> None:
        self.folder = folder
        self.description = dict(description)
        self._waiting: list[tuple[str, NDArray[np.float16]]] = []
        self._waiting_bytes = 0
        self._waiting_since = time.monotonic()
        self._headers: dict[Path, Shard] = {}

    def shards(self) -> Iterator[Shard]:
        """Every shard whose header is right; a damaged one is deleted, so that its clips are computed again.

        Raises:
            CacheError: the folder cannot be read.
        """
        try:
            paths = sorted(self.folder.glob(f"*{SUFFIX}")) if self.folder.exists() else []
        except OSError as error:
            raise _cache_error(self.folder, "read", error) from error
        for path in paths:
            if path not in self._headers:
                try:
                    self._headers[path] = Shard.read(path)
                except (DamagedShardError, OSError) as error:
                    _discard(path, error)
                    continue
            yield self._headers[path]

    def find(self, keys: Collection[str]) -> dict[str, Shard]:
        """The verified shard of each key that is kept."""
        found: dict[str, Shard] = {}
        for shard in self.shards():
            wanted = [key for key in shard.clips if key in keys and key not in found]
            if not wanted:
                continue
            try:
                shard.verify()
            except (DamagedShardError, OSError) as error:
                self._headers.pop(shard.path, None)
                _discard(shard.path, error)
                continue
            found.update(dict.fromkeys(wanted, shard))
        return found

    def add(self, key: str, frames: NDArray[np.float32]) -> None:
        """Keep the frames of a clip, `(frames, *frame_shape)`; on the disk after `flush` at the latest.

        Raises:
            CacheError: the disk is full or read-only.
            ValueError: no frames, or such as half precision cannot hold.
        """
        if not len(frames):
            raise ValueError("the encoder made no frames of it")
        with np.errstate(over="ignore"):
            half = frames.astype(HALF)
        if not np.isfinite(half).all():
            raise ValueError("the encoder's frames are not finite or too large for half precision")
        if not self._waiting:
            self._waiting_since = time.monotonic()
        elif half.shape[1:] != self._waiting[0][1].shape[1:]:
            raise ValueError(f"frames of shape {half.shape[1:]} after {self._waiting[0][1].shape[1:]}")
        self._waiting.append((key, half))
        self._waiting_bytes += half.nbytes
        if self._waiting_bytes >= SHARD_BYTES or time.monotonic() - self._waiting_since >= SHARD_S:
            self.flush()

    def flush(self) -> None:
        """Write what waits.

        Raises:
            CacheError: the disk is full or read-only.
        """
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        if not waiting:
            return
        try:
            self._prepare_folder()
            try:
                shard = write_shard(self.folder, waiting)
            except FileNotFoundError:  # another process has just cleared the cache
                self._prepare_folder()
                shard = write_shard(self.folder, waiting)
        except OSError as error:
            raise _cache_error(self.folder, "written", error) from error
        self._headers[shard.path] = shard

    def _prepare_folder(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.glob(f".*{UNFINISHED}"):
            if time.time() - _modified(path) > STALE_S:
                path.unlink(missing_ok=True)
        about = self.folder / DESCRIPTION
        if not about.exists():
            unfinished = self.folder / f".{DESCRIPTION}.{os.getpid()}{UNFINISHED}"
            unfinished.write_text(json.dumps(self.description, indent=2) + "\n", encoding="utf-8")
            unfinished.replace(about)


def _discard(path: Path, reason: Exception) -> None:
    """A shard that cannot be used: delete it if it is damaged, in any case leave it out."""
    if isinstance(reason, FileNotFoundError):
        return
    log.warning("kept features %s cannot be used (%s): its clips are computed again", path, reason)
    if isinstance(reason, DamagedShardError):
        try:
            path.unlink(missing_ok=True)
        except OSError:
            log.warning("and it cannot be deleted")


def _cache_error(folder: Path, verb: str, error: OSError) -> CacheError:
    return CacheError(
        f"The feature cache {folder} cannot be {verb}: {error.strerror or error}. "
        f"Free space, or name another folder with --cache or {ENVIRONMENT}."
    )


def _own_files(folder: Path) -> Iterator[Path]:
    for pattern in (f"*{SUFFIX}", f".*{UNFINISHED}", DESCRIPTION):
        yield from folder.glob(pattern)


def _read_description(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()
