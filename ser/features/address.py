"""A feature cache at an address that fsspec knows, `s3://bucket/cache` or `sftp://host/cache`, for machines that share
no folder.

In: an address. Out: a `FeatureCache` whose files lie there; each is sent under a name of its own and renamed, so that
it is there whole or not at all. Below its own cache folder a machine keeps in `features` what it wrote and of the other
files the headers, which say what they hold, and in `copies` each file that it has read: who only computes fetches
nobody else's frames.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
import time
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ser.errors import CacheError
from ser.features.cache import (
    ADDRESSES,
    DESCRIPTION,
    HEADER_SUFFIX,
    STALE_S,
    SUFFIX,
    UNFINISHED,
    Cached,
    FeatureCache,
    FrameEncoder,
    Store,
    contents_of,
    listed,
)
from ser.files import write_atomically

HEADER_BYTES = 1 << 16  # read of each file at first; headers of some hundred utterances fit
MOST_HEADER_BYTES = 100 << 20
AT_ONCE = 256  # headers asked for together

_fetching = threading.Lock()
log = logging.getLogger(__name__)


def open_cache(place: FeatureCache | str | Path | None = None) -> FeatureCache:
    """The cache in a folder, at an address (anything with `://`), or by default in the user's own folder.

    One that is open already stays as it is.

    Raises:
        CacheError: fsspec does not know the address, or what it needs for it is not installed.
    """
    if isinstance(place, FeatureCache):
        return place
    return AddressCache(place) if isinstance(place, str) and "://" in place else FeatureCache(place)


class AddressCache(FeatureCache):
    """The cache at an address."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self.address = address.rstrip("/")
        if not self.address.partition("://")[2]:
            raise CacheError(f"{address} names no place. Give an address such as s3://bucket/cache.")
        file_system(self.address)  # which raises where it cannot be
        self.folder = folder_of(self.address)
        self.root = self.folder / "features"

    def __str__(self) -> str:
        return _shown(self.address)

    def store(self, encoder: FrameEncoder, settings: Mapping[str, Any]) -> Store:
        store = super().store(encoder, settings)
        return AddressStore(self.address, store.folder, store.description)

    def _folders(self) -> list[Path]:
        raise CacheError(
            f"What lies at {self} is listed and deleted by the tools of that storage. Copies of it on this "
            "machine are in the usual folder: run this without --cache."
        )


class AddressStore(Store):
    """The files of one encoder at an address; `folder` has this machine's copies of them."""

    def __init__(self, address: str, folder: Path, description: Mapping[str, Any]) -> None:
        super().__init__(folder, description)
        self.address, self.place = address, f"features/{folder.name}"
        self.written: set[str] = set()

    def find(self, keys: Collection[str]) -> dict[str, Cached]:
        here = super().find(keys)
        with _explained(self.address, "read"):
            elsewhere = {one.key: one for held in self._listed() for one in held if one.key in keys}
        own = {key: self._at_address(one.file.name, one) for key, one in here.items()}
        return {**elsewhere, **own}

    def flush(self) -> None:
        """Write what waits, and send it, and whatever of this machine is missing at the address after an hour.

        Raises:
            CacheError: either cannot be written.
        """
        super().flush()
        with _explained(self.address, "written"):
            every, latest = sorted(self.folder.glob(f"*{SUFFIX}")), time.time() - STALE_S
            # What is younger and of another process, that one is about to send.
            due = [path for path in every if path.name in self.written or path.stat().st_mtime < latest]
            known = self._names() if due else []
            for path in due:
                if path.name not in known:
                    self._send(path)

    def _write(self, waiting: dict[str, NDArray[np.float16]]) -> Path:
        path = super()._write(waiting)
        self.written.add(path.name)
        return path

    def _at_address(self, name: str, one: Cached) -> AddressedFrames:
        file = Path(self.place) / name
        return AddressedFrames(file, one.key, one.offset, one.n_frames, one.frame_shape, self.address)

    def _names(self) -> list[str]:
        """Names of the files at the address."""
        system, root = file_system(self.address)
        system.invalidate_cache()  # others write there too
        try:
            listed = system.ls(f"{root}/{self.place}", detail=False)
        except FileNotFoundError:
            return []
        return sorted(name for path in listed if (name := path.rsplit("/", 1)[-1]).endswith(SUFFIX))

    def _send(self, path: Path) -> None:
        system, root = file_system(self.address)
        folder = f"{root}/{self.place}"
        system.makedirs(folder, exist_ok=True)
        if not system.exists(f"{folder}/{DESCRIPTION}"):
            system.pipe_file(f"{folder}/{DESCRIPTION}", json.dumps(self.description, indent=2).encode())
        unfinished = f"{folder}/.{uuid.uuid4().hex}{UNFINISHED}"
        system.put_file(str(path), unfinished)
        system.mv(unfinished, f"{folder}/{path.name}")

    def _listed(self) -> Iterator[list[Cached]]:
        """What each file at the address holds, by its header."""
        names = self._names()
        self._fetch_headers(names)
        for name in names:
            try:
                header = (self.folder / f"{name}{HEADER_SUFFIX}").read_bytes()
                yield [self._at_address(name, one) for one in listed(Path(name), header)]
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                log.warning("cached features %s at %s cannot be used (%s): left out", name, _shown(self.address), error)

    def _fetch_headers(self, names: Collection[str]) -> None:
        """Keep the headers of those files of which they are not here."""
        with _fetching:
            self._fetch_missing_headers(names)

    def _fetch_missing_headers(self, names: Collection[str]) -> None:
        system, root = file_system(self.address)
        known = {path.name.removesuffix(HEADER_SUFFIX) for path in self.folder.glob(f"*{HEADER_SUFFIX}")}
        missing = [name for name in names if name not in known]
        self.folder.mkdir(parents=True, exist_ok=True)
        for start in range(0, len(missing), AT_ONCE):
            some = missing[start : start + AT_ONCE]
            paths = [f"{root}/{self.place}/{name}" for name in some]
            begun = system.cat_ranges(paths, [0] * len(some), [HEADER_BYTES] * len(some), on_error="raise")
            for name, path, content in zip(some, paths, begun, strict=True):
                n_bytes = 8 + min(int.from_bytes(content[:8], "little"), MOST_HEADER_BYTES)
                whole = content if len(content) >= n_bytes else system.cat_file(path, 0, n_bytes)
                write_atomically(self.folder / f"{name}{HEADER_SUFFIX}", whole[:n_bytes])


@dataclass(frozen=True)
class AddressedFrames(Cached):
    """Frames in a file at an address, which is copied to this machine when they are first read.

    Attributes:
        file: below the address.
    """

    address: str

    def read(self, n_frames: int | None = None) -> NDArray[np.float16]:
        folder, name = folder_of(self.address), self.file.relative_to("features")
        own, copy = folder / "features" / name, folder / "copies" / name
        if not own.exists() and not copy.exists():
            with _fetching:
                if not copy.exists():
                    self._fetch(copy)
        place = own if own.exists() else copy
        return Cached(place, self.key, self.offset, self.n_frames, self.frame_shape).read(n_frames)

    def _fetch(self, copy: Path) -> None:
        system, root = file_system(self.address)
        unfinished = copy.with_name(f".{uuid.uuid4().hex}{UNFINISHED}")
        try:
            with _explained(self.address, "read"):
                copy.parent.mkdir(parents=True, exist_ok=True)
                system.get_file(f"{root}/{self.file.as_posix()}", str(unfinished))
                if not (copy.parent / DESCRIPTION).exists():
                    about = system.cat_file(f"{root}/{self.file.with_name(DESCRIPTION).as_posix()}")
                    write_atomically(copy.parent / DESCRIPTION, about)
            try:
                contents_of(unfinished, verify=True)
            except Exception as error:  # safetensors has errors of its own
                raise CacheError(
                    f"Cached features {self.file} at {_shown(self.address)} are damaged ({error}): delete them there, "
                    "then run again, and they are computed anew."
                ) from error
            unfinished.replace(copy)
        finally:
            with suppress(OSError):
                unfinished.unlink()


@cache
def folder_of(address: str) -> Path:
    """The folder of what this machine keeps of an address."""
    return FeatureCache().folder / ADDRESSES / hashlib.sha256(address.encode()).hexdigest()[:16]


@cache
def file_system(address: str) -> tuple[Any, str]:
    """fsspec's file system of an address, and the path in it.

    Raises:
        CacheError: there is none, or a package for it is missing.
    """
    from fsspec.core import url_to_fs

    with _explained(address, "opened"):
        system, root = url_to_fs(address)
    return system, str(root).rstrip("/")


@contextmanager
def _explained(address: str, verb: str) -> Iterator[None]:
    """What a storage refuses, each with errors of its own, becomes a sentence for the user."""
    try:
        yield
    except CacheError:
        raise
    except Exception as error:
        here = str(folder_of(address))
        if isinstance(error, OSError) and str(error.filename).startswith(here):
            raise CacheError(
                f"{here} cannot be written: {error.strerror}. Free space, or name another folder in SER_CACHE."
            ) from error
        reason = str(error).replace(address, _shown(address))
        raise CacheError(
            f"The feature cache at {_shown(address)} cannot be {verb}: {type(error).__name__}: {reason}. "
            "Check the address, the rights and the network."
        ) from error


def _shown(address: str) -> str:
    """The address without a password."""
    return re.sub(r"://[^/]*@", "://...@", address)
