"""The runs that a page keeps: folders with what `ser crossval` and `ser.ui.jobs` write there.

In: a folder of runs, and names that come from browsers. Out: what the run has written so far. Nothing is kept
in memory, so two servers, and a server that was started again, see the same.
"""

from __future__ import annotations

import io
import json
import re
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ser.ui import jobs

PREFIX = "crossval-"
LATEST = "latest"
CHECKPOINT = "checkpoint"
# What can be downloaded, with its type; the archive is made when it is asked for.
DOWNLOADS: dict[str, str] = {
    "result.json": "application/json",
    "predictions.csv": "text/csv",
    "report.html": "text/html",
    "checkpoint.zip": "application/zip",
}
NAME = re.compile(r"(?:crossval|tune)-(\d{4})(\d\d)(\d\d)-(\d\d)(\d\d)(\d\d)-(.+)")


@dataclass(frozen=True)
class Run:
    """One run folder."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def title(self) -> str:
        """Corpus and start, from the name."""
        match = NAME.fullmatch(self.name)
        if match is None:
            return self.name
        year, month, day, hour, minute, second, corpus = match.groups()
        return f"{corpus}, {year}-{month}-{day} {hour}:{minute}:{second}"

    def status(self) -> jobs.JobStatus:
        return jobs.look(self.folder)

    def progress(self) -> dict[str, Any] | None:
        return read_json(self.folder / "progress.json")

    def result(self) -> dict[str, Any] | None:
        return read_json(self.folder / "result.json")

    def downloads(self) -> list[str]:
        """Those of `DOWNLOADS` that there are."""
        return [name for name in DOWNLOADS if self._source(name).exists()]

    def read(self, download: str) -> bytes | None:
        """The content of one of `DOWNLOADS`; None where there is none (yet)."""
        if download not in DOWNLOADS:
            return None
        try:
            if download == "checkpoint.zip":
                return _zipped(self.folder / CHECKPOINT)
            return self._source(download).read_bytes()
        except OSError:
            return None

    def stamp(self) -> str:
        """Changes whenever there is something new to show."""
        status = self.status()
        files = (self._source(name) for name in ("progress.json", *DOWNLOADS))
        return f"{self.name} {status.state} {status.reason} {[_changed(file) for file in files]}"

    def _source(self, name: str) -> Path:
        return self.folder / (f"{CHECKPOINT}/model.json" if name == "checkpoint.zip" else name)


class Runs:
    """All runs of a page of one kind, by name."""

    def __init__(self, folder: Path, prefix: str = PREFIX) -> None:
        self.folder, self.prefix = folder, prefix

    def names(self) -> list[str]:
        """Newest first."""
        if not self.folder.is_dir():
            return []
        found = [path.name for path in self.folder.glob(f"{self.prefix}*") if path.is_dir()]
        return sorted(found, reverse=True)

    def find(self, name: object) -> Run | None:
        """The run of a name, `LATEST` for the newest; None where there is none. Never a path outside."""
        names = self.names()
        if name == LATEST:
            return Run(self.folder / names[0]) if names else None
        return Run(self.folder / str(name)) if name in names else None

    def new(self, corpus: str) -> Run:
        """A run that does not exist yet, named after the time and its corpus."""
        slug = re.sub(r"\W+", "-", corpus).strip("-")[:40] or "corpus"
        name = f"{time.strftime(f'{self.prefix}%Y%m%d-%H%M%S')}-{slug}"
        names = (name, *(f"{name}-{number}" for number in range(2, 100)))  # the clock may go back
        return Run(self.folder / next(free for free in names if not (self.folder / free).exists()))

    def running(self) -> Run | None:
        """The newest run that is in work."""
        runs = (Run(self.folder / name) for name in self.names())
        return next((run for run in runs if jobs.is_running(run.folder)), None)


def read_json(path: Path) -> dict[str, Any] | None:
    """The content of a JSON file; None where there is none (yet)."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _zipped(folder: Path) -> bytes | None:
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    if not files:
        return None
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files:
            archive.write(path, f"{CHECKPOINT}/{path.name}")
    return content.getvalue()
