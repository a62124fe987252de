"""Predictions in a file, one after the other, that a later run resumes.

In: predictions of one model. Out: a CSV table or JSON lines that name the model by its fingerprint, so that answers
of two models never mix in one file. Each result is written at once; what a killed run left half-written at the end
is cut off when the file is opened again.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from ser.errors import SerError, SettingsError

if TYPE_CHECKING:
    from ser.inference.recogniser import Prediction

TEXT = {"encoding": "utf-8", "errors": "surrogateescape"}  # file names need not be UTF-8


class Form(Protocol):
    """How results become lines."""

    header: str
    start: str  # what every file of this form begins with

    def line(self, prediction: Prediction) -> str: ...

    def read(self, lines: Sequence[str]) -> Iterator[tuple[str | None, int]]:
        """For the header (None) and each whole result, the recording and the number of lines up to its end.

        Raises:
            ValueError: a line is not a result of this form and these labels.
        """


class JsonLines:
    """One JSON object a line: all of `Prediction.to_dict()`, and the model's fingerprint."""

    header, start = "", '{"file": "'

    def __init__(self, labels: Sequence[str], model: str) -> None:
        self.labels, self.model = list(labels), model

    def line(self, prediction: Prediction) -> str:
        return json.dumps(prediction.to_dict() | {"model": self.model}) + "\n"

    def read(self, lines: Sequence[str]) -> Iterator[tuple[str | None, int]]:
        for number, line in enumerate(lines, start=1):
            content = json.loads(line)
            if list(content["probabilities"]) != self.labels:
                raise ValueError(f"line {number} holds other emotions")
            if content["model"] != self.model:
                raise ValueError(f"line {number} is of the model {content['model']}, this one is {self.model}")
            yield content["file"], number


class Table:
    """A CSV table: file, emotion, confident, duration_s, model, and a column for each emotion."""

    def __init__(self, labels: Sequence[str], model: str) -> None:
        self.columns = ["file", "emotion", "confident", "duration_s", "model", *labels]
        self.model = model
        self.header = self.start = self._text(self.columns)

    def line(self, prediction: Prediction) -> str:
        content = prediction.to_dict()
        sure, numbers = str(content["confident"]).lower(), content["probabilities"].values()
        return self._text([content["file"], content["emotion"], sure, content["duration_s"], self.model, *numbers])

    def read(self, lines: Sequence[str]) -> Iterator[tuple[str | None, int]]:
        reader = csv.reader(lines)
        for row in reader:
            if len(row) != len(self.columns):
                if reader.line_num == len(lines):  # cut inside a name that holds a line break
                    return
                raise ValueError(f"line {reader.line_num} has {len(row)} columns")
            if row != self.columns and row[4] != self.model:
                raise ValueError(f"line {reader.line_num} is of the model {row[4]}, this one is {self.model}")
            yield None if row == self.columns else row[0], reader.line_num

    def _text(self, row: Sequence[object]) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(row)
        return text.getvalue()


class ResultFile:
    """A file of results, open for appending; use it in a `with` statement.

    Attributes:
        done: the recordings whose results it holds.
    """

    def __init__(self, path: Path, form: Form) -> None:
        """Open or create it, and cut off a half-written end.

        Raises:
            SettingsError: the file is there and holds something else; it is left alone.
            SerError: it cannot be written, or another run is writing it.
        """
        self.path, self.form = path, form
        self.done: set[str] = set()
        try:
            self._file = path.open("a+b")
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._resume()
        except BlockingIOError as error:
            self._file.close()
            raise SerError(f"{path} is being written by another run. Wait for it, or name another file.") from error
        except BaseException:
            self._file.close()
            raise

    def write(self, prediction: Prediction) -> None:
        """Append a result, unless it is there already.

        Raises:
            SerError: it cannot be written, for instance because the disk is full.
        """
        if prediction.file not in self.done:
            self._append(self.form.line(prediction))
            self.done.add(prediction.file)

    def __enter__(self) -> ResultFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _resume(self) -> None:
        self._file.seek(0)
        content, start = self._file.read(), self.form.start.encode(**TEXT)
        if content[: len(start)] != start[: len(content)]:
            raise self._foreign()
        lines = [line + b"\n" for line in content.split(b"\n")[:-1]]
        n_whole = 0
        try:
            for file, n_lines in self.form.read([line.decode(**TEXT) for line in lines]):
                n_whole = n_lines
                if file is not None:
                    self.done.add(file)
        except (ValueError, KeyError, TypeError, RecursionError, csv.Error) as error:
            raise self._foreign(f" ({error})") from error
        self._file.truncate(sum(map(len, lines[:n_whole])))
        if n_whole == 0:
            self._append(self.form.header)

    def _append(self, text: str) -> None:
        try:
            self._file.write(text.encode(**TEXT))
            self._file.flush()
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> SerError:
        return SerError(f"{self.path} cannot be written: {error.strerror}. Name a file in another folder.")

    def _foreign(self, detail: str = "") -> SettingsError:
        return SettingsError(
            f"{self.path} holds something other than results of this model{detail}. Name another file."
        )
