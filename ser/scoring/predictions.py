"""`predictions.csv` of a cross-validation: reading it, as rows or as arrays that every score can be computed from.

The file has the columns `file, speaker, fold, emotion, predicted` and, for each label, one with its probability; folds
are counted from 1. It holds test utterances only.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ser.errors import JobError, SettingsError
from ser.scoring.metrics import confusion, paired_difference

COLUMNS = ("file", "speaker", "fold", "emotion", "predicted")

Row = Mapping[str, Any]
Arrays = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]


def read_predictions(path: str | Path) -> list[dict[str, str]]:
    """The rows of `predictions.csv` as text. Raises JobError where it is no table, or columns or rows are missing."""
    try:
        with Path(path).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise JobError(
            f"{path} cannot be read as a table ({error}). Run the cross-validation again to write it anew."
        ) from error
    missing = [column for column in COLUMNS if column not in (rows[0] if rows else COLUMNS)]
    if not rows or missing:
        lack = f"the columns {', '.join(missing)}" if missing else "any row"
        raise JobError(f"{path} lacks {lack}. Run the cross-validation again to write it anew.")
    for number, row in enumerate(rows, start=1):
        if None in row or None in row.values() or not re.fullmatch(r"[0-9]{1,6}", row["fold"]):
            raise JobError(
                f"Row {number} of {path} has cells too many or too few, or no number for its fold. "
                "Run the cross-validation again to write it anew."
            )
    return rows


def leak_premium(leaky: Sequence[Row], apart: Sequence[Row], labels: Sequence[str]) -> dict[str, Any]:
    """Gain of hearing the test speakers in training: predictions of a split that ignores speakers minus those of one
    that keeps them apart, in WA and UAR on the same utterances, with intervals by speakers.

    Raises JobError where the two did not test the same utterances.
    """
    pair = [sorted(rows, key=lambda row: str(row["file"])) for rows in (leaky, apart)]
    if [row["file"] for row in pair[0]] != [row["file"] for row in pair[1]]:
        raise JobError("The two splits did not test the same recordings. Delete both runs and start again.")
    return difference(pair[0], pair[1], labels)


def difference(first: Sequence[Row], second: Sequence[Row], labels: Sequence[str]) -> dict[str, Any]:
    """First minus second in WA and UAR, from rows of the same utterances in the same order; intervals by speakers."""
    (true, ours, _), (_, theirs, _) = (arrays(rows, labels) for rows in (first, second))
    speakers = [row["speaker"] for row in first]
    return paired_difference(true, ours, theirs, speakers, len(labels)).to_dict()


def contribution(candidate: Path, reference: Path, labels: Sequence[str]) -> dict[str, Any]:
    """Candidate minus reference in WA and UAR, from the `predictions.csv` of two run folders.

    Raises:
        SettingsError: they did not test the same recordings in the same folds.
    """
    pair = [read_predictions(folder / "predictions.csv") for folder in (candidate, reference)]
    tested = [[(row["file"], row["fold"], row["emotion"]) for row in rows] for rows in pair]
    if tested[0] != tested[1]:
        raise SettingsError(
            f"{candidate} and {reference} did not test the same recordings in the same folds. "
            "Delete the older folder and run it again."
        )
    return difference(pair[0], pair[1], labels)


def arrays(rows: Sequence[Row], labels: Sequence[str]) -> Arrays:
    """True and predicted classes `(utterances,)` and probabilities `(utterances, classes)` of the rows.

    Raises JobError for labels or columns that do not fit.
    """
    number = {label: index for index, label in enumerate(labels)}
    try:
        true = np.array([number[row["emotion"]] for row in rows])
        predicted = np.array([number[row["predicted"]] for row in rows])
        probabilities = np.array([[float(row[label]) for label in labels] for row in rows])
    except KeyError as missing:
        raise JobError(
            f"The predictions have {missing} where the result has the labels {', '.join(labels)}. "
            "Take both from the same run folder."
        ) from None
    except (TypeError, ValueError):
        probabilities = np.full((1, 1), np.nan)
    if not ((probabilities >= 0) & (probabilities <= 1)).all():
        raise JobError(
            "The predictions have a probability that is no number from 0 to 1. Take them as they were written."
        )
    return true, predicted, probabilities


def confusion_of(rows: Sequence[Row], labels: Sequence[str]) -> list[list[int]]:
    """Confusion matrix of the written predictions, rows = true class."""
    true, predicted, _ = arrays(rows, labels)
    counts: list[list[int]] = confusion(true, predicted, len(labels)).tolist()
    return counts
