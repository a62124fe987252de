"""Which files are recordings, and where they lie below a folder: one answer for all commands.

In: a folder. Out: paths of recordings, links that lead nowhere, and how many files are neither. Nothing is opened here.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

SUFFIXES = (
    ".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".au", ".caf", ".w64", ".sph",
    ".m4a", ".mp4", ".mov", ".webm", ".weba", ".mka", ".aac", ".amr", ".3gp", ".wma",
)  # fmt: skip
COMPANIONS = (".csv", ".tsv", ".json", ".txt", ".md")  # tables and texts: nobody takes them for recordings


@dataclass(frozen=True)
class Contents:
    """What a folder holds, links followed.

    Attributes:
        recordings: files that are sound by their suffix, sorted.
        dangling: links that lead nowhere.
        others: suffix -> number of files that are not taken for recordings; tables and texts are not counted.
    """

    recordings: tuple[Path, ...]
    dangling: tuple[Path, ...]
    others: Counter[str]

    @property
    def paths(self) -> list[Path]:
        """What is to be read, sorted: also the links, since what they led to may be recordings that are missing."""
        return sorted([*self.recordings, *self.dangling])


def contents(folder: Path) -> Contents:
    """Look through a folder and all below it, each folder once, however many links lead there.

    Hidden files and macOS' copies of resource forks are passed over.

    Raises:
        OSError: a folder below cannot be read.
    """
    found: list[Path] = []
    dangling: list[Path] = []
    others: Counter[str] = Counter()
    seen: set[tuple[int, int]] = set()
    for parent, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        status = Path(parent).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        for path in (Path(parent, name) for name in names if not _is_hidden(name)):
            if path.is_symlink() and not path.exists():
                dangling.append(path)
            elif path.suffix.lower() in SUFFIXES and path.is_file():
                found.append(path)
            elif path.suffix.lower() not in COMPANIONS:
                others[path.suffix.lower() or "no suffix"] += 1
    return Contents(tuple(sorted(found)), tuple(sorted(dangling)), others)


def find_recordings(folder: str | Path) -> list[Path]:
    """The `paths` below a folder.

    Raises:
        OSError: a folder below cannot be read.
    """
    return contents(Path(folder)).paths


def note_of(others: Mapping[str, int]) -> str:
    """A sentence on files that are not taken for recordings, counted by suffix; empty where there are none."""
    counts = ", ".join(f"{suffix} {n}" for suffix, n in sorted(others.items()))
    return f"{sum(others.values())} files are no recordings by their suffix: {counts}." if others else ""


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))


def _refuse(error: OSError) -> NoReturn:
    raise error
