"""Tables of labels: a CSV that lists recordings, ShEMO's label files in JSON.

In: a CSV with the columns path, speaker, emotion (or a name that is as good) and any others, separated by
commas, semicolons or tabs; or a JSON as ShEMO and Modified ShEMO ship it. Out: rows whose cells are all
filled, with one spelling for each speaker and emotion, or a `CorpusError` with the line.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ser.corpora.words import EMPTY, GENDERS, cleaned, common_label, first_spellings
from ser.errors import CorpusError

TABLES = ("metadata.csv", "manifest.csv", "labels.csv", "data.tsv")
# Column -> names that it goes by; the first is ours.
COLUMNS: dict[str, tuple[str, ...]] = {
    "path": ("path", "file", "filename", "file_name", "file_id"),
    "speaker": ("speaker", "speaker_id"),
    "emotion": ("emotion", "label"),
    "corrected": ("emotion_modified", "emotion_corrected"),
    "gender": ("gender", "sex"),
}


@dataclass(frozen=True)
class Row:
    """One recording of a table.

    Attributes:
        line: in the file, counted from 1.
        path: as written.
        speaker: in the first of its spellings.
        emotion: under its common name.
        corrected: the corrected label, or None where the table has no such column.
        gender: "female", "male", what else is written, or None.
    """

    line: int
    path: str
    speaker: str
    emotion: str
    corrected: str | None = None
    gender: str | None = None


def read_table(path: Path) -> list[Row]:
    """The recordings that a CSV lists.

    Raises:
        CorpusError: not a CSV in UTF-8, a column or a cell is missing, or a recording is listed twice.
    """
    table = _cells(path, ("path", "speaker", "emotion"))
    speakers = first_spellings(cells["speaker"] for _, cells in table)
    emotions = first_spellings(common_label(cells["emotion"]) for _, cells in table)
    corrected = first_spellings(common_label(cells.get("corrected", "")) for _, cells in table)
    rows = [
        Row(
            line=line,
            path=cells["path"],
            speaker=speaker,
            emotion=emotion,
            corrected=label or None,
            gender=_gender(cells.get("gender", "")),
        )
        for (line, cells), speaker, emotion, label in zip(table, speakers, emotions, corrected, strict=True)
    ]
    lines: dict[str, int] = {}
    for row in rows:
        if row.path in lines:
            raise CorpusError(
                f"{path}, line {row.line}: {row.path} is listed already in line {lines[row.path]}. Delete one of them."
            )
        lines[row.path] = row.line
    return rows


def _gender(cell: str) -> str | None:
    word = cleaned(cell).casefold()
    return None if word in EMPTY else GENDERS.get(word, word)


def read_labels(path: Path, corrected: bool, is_json: bool = False) -> dict[str, str]:
    """File name without its suffix -> label, from a CSV or a JSON of ShEMO.

    Args:
        path: a CSV with `file` and `emotion` (`emotion_modified` for corrected labels), or a JSON: a list of
            `{"id": ..., "emotion": ...}`, or an object `{"F01A01.wav": {"emotion": ...}}`.
        corrected: take the corrected column of a CSV; a JSON has one label only.
        is_json: the file is a JSON whatever its name.

    Raises:
        CorpusError: the file cannot be read as such a table.
    """
    if is_json or path.suffix.lower() == ".json":
        pairs = _json_labels(path)
    else:
        column = "corrected" if corrected else "emotion"
        pairs = [(cells["path"], cells[column]) for _, cells in _cells(path, ("path", column))]
    empty = next((name for name, label in pairs if label.strip().casefold() in EMPTY), None)
    if empty is not None:
        raise CorpusError(f"{path}: the emotion of {empty} is empty. Fill it in or delete the entry.")
    labels = first_spellings(common_label(label) for _, label in pairs)
    return {Path(name).stem: label for (name, _), label in zip(pairs, labels, strict=True)}


def _json_labels(path: Path) -> list[tuple[str, str]]:
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8-sig"))
        if isinstance(content, dict):
            return [(str(name), str(entry["emotion"] or "")) for name, entry in content.items()]
        return [(str(entry["id"]), str(entry["emotion"] or "")) for entry in content]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorpusError(
            f"{path} is not a label file of ShEMO ({type(error).__name__}: {error}). Expected a list of "
            "objects with id and emotion, or an object of file names."
        ) from error


def _cells(path: Path, required: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """`(line, column -> cell)` of every line that is not blank."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=_delimiter(file.readline()), skipinitialspace=True)
            file.seek(0)
            table = [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CorpusError(f"{path} cannot be read as a CSV in UTF-8 ({error}).") from error
    if not table:
        raise CorpusError(f"{path} is empty. Expected a header with the columns {', '.join(required)}.")
    (_, header), *lines = table
    places = _places([name.strip() for name in header])
    missing = [" or ".join(COLUMNS[column]) for column in required if column not in places]
    if missing:
        raise CorpusError(
            f"{path} has no column {', nor '.join(missing)}; its columns are {', '.join(header)}. "
            "The first line must name the columns."
        )
    if not lines:
        raise CorpusError(f"{path} has no line below its header.")
    return [(line, _row(path, line, cells, places, required)) for line, cells in lines]


def _row(
    path: Path, line: int, cells: Sequence[str], places: dict[str, int], required: Sequence[str]
) -> dict[str, str]:
    row = {column: cells[place].strip() if place < len(cells) else "" for column, place in places.items()}
    empty = [name for name in ("corrected", *required) if cleaned(row.get(name, "-")).casefold() in EMPTY]
    if empty:
        how = f" ({row[empty[0]]}: so programs write an empty cell)" if row[empty[0]] else ""
        raise CorpusError(f"{path}, line {line}: {', '.join(empty)} is empty{how}. Fill it in or delete the line.")
    return row


def _places(header: Sequence[str]) -> dict[str, int]:
    """Our name of a column -> where it stands."""
    lower = [name.casefold() for name in header]
    found = {column: next((name for name in names if name in lower), None) for column, names in COLUMNS.items()}
    return {column: lower.index(name) for column, name in found.items() if name is not None}


def _delimiter(header: str) -> str:
    return max(",;\t", key=header.count)
