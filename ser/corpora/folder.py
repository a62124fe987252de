"""What lies in a folder: recordings, links that lead nowhere, and how many files are neither.

In: a folder, rows of a table. Out: paths. Nothing is opened here.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from ser.corpora.tables import Row
from ser.errors import CorpusError

AUDIO_SUFFIXES = (
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
            elif path.suffix.lower() in AUDIO_SUFFIXES and path.is_file():
                found.append(path)
            elif path.suffix.lower() not in COMPANIONS:
                others[path.suffix.lower() or "no suffix"] += 1
    return Contents(tuple(sorted(found)), tuple(sorted(dangling)), others)


def corpus_contents(folder: Path) -> Contents:
    """The contents of a corpus' folder.

    Raises:
        CorpusError: links lead nowhere: a part of the corpus would be missing without a word.
    """
    there = contents(folder)
    if there.dangling:
        first = there.dangling[0]
        raise CorpusError(
            f"{len(there.dangling)} links below {folder} lead nowhere, {first.relative_to(folder)} (to "
            f"{first.readlink()}) the first. Fetch what they lead to, or delete them."
        )
    return there


def find_files(rows: Sequence[Row], root: Path) -> list[Path]:
    """Where the files of a table are: relative to the root, or anywhere below it under that name.

    A file that is not there keeps the path relative to the root.

    Raises:
        CorpusError: two files below the root go by the name of one row.
    """
    direct = [root / row.path.replace("\\", "/") for row in rows]
    if all(map(is_file, direct)):
        return direct
    by_name: dict[str, list[Path]] = {}
    for path in corpus_contents(root).recordings:
        for name in {path.name, path.stem}:
            by_name.setdefault(unicodedata.normalize("NFC", name), []).append(path)
    for index, path in enumerate(direct):
        name = unicodedata.normalize("NFC", path.name)  # macOS writes accents apart from their letters
        candidates = by_name.get(name, []) if not is_file(path) else []
        if len(candidates) > 1:
            raise CorpusError(
                f"{path.name} of the table may be {candidates[0]} or {candidates[1]}. Write its path "
                f"relative to {root}."
            )
        direct[index] = candidates[0] if candidates else path
    return direct


def is_file(path: Path) -> bool:
    """Whether there is such a file; a name that no file can have, out of a table, is none."""
    return os.path.isfile(path)  # noqa: PTH113  pathlib raises for a name that is too long


def shown(text: Path | str) -> str:
    """A path, or text with names of files, as UTF-8 can hold it: the file system may have any bytes."""
    return str(text).encode("utf-8", "backslashreplace").decode()


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))


def _refuse(error: OSError) -> NoReturn:
    raise error
