"""The files of a corpus: what its folder holds, and where the files of a table are.

In: a folder, rows of a table. Out: paths. Nothing is opened here.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from ser.audio.find import Contents, contents
from ser.corpora.tables import Row
from ser.errors import CorpusError


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
