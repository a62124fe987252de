"""The runs and studies that a page keeps: folders with what `ser crossval`, `ser tune` and `ser.ui.jobs` write there.

In: a folder of runs, and names that come from browsers. Out: what a run has written so far. Nothing is kept in memory,
so two servers, and a server that was started again, see the same.
"""

from __future__ import annotations

import io
import re
import shutil
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ser.files import ASSETS, DEMO_CORPUS
from ser.ui import jobs
from ser.ui.model import without_folders

LATEST = "latest"
EXAMPLES = ASSETS / "examples"
CHECKPOINT, MODEL = "checkpoint", "checkpoint/model.json"
# What can be downloaded, with its type; the archive is made when it is asked for.
DOWNLOADS: dict[str, str] = {
    "result.json": "application/json",
    "predictions.csv": "text/csv",
    "report.html": "text/html",
    "checkpoint.zip": "application/zip",
}
NAME = re.compile(r"[a-z]+-(\d{4})(\d\d)(\d\d)-(\d\d)(\d\d)\d\d-(.+)")


@dataclass(frozen=True)
class Run:
    """The folder of one cross-validation."""

    folder: Path
    prefix: ClassVar[str] = "crossval-"
    odd: ClassVar[str] = r"\W+"  # what a name may not hold
    watched: ClassVar[tuple[str, ...]] = (jobs.STAGE, "progress.json", *DOWNLOADS)

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def title(self) -> tuple[str, str]:
        """Its name or corpus, and when it was started."""
        match = NAME.fullmatch(self.name)
        if match is None:
            return self.name, ""
        year, month, day, hour, minute, name = match.groups()
        return name.replace("-", " "), f"{year}-{month}-{day} {hour}:{minute}"

    @property
    def is_example(self) -> bool:
        """Whether it is the one that ships with the page."""
        return (EXAMPLES / self.folder.parent.name / self.name).exists()

    def status(self) -> jobs.JobStatus:
        return jobs.look(self.folder)

    def read(self, name: str) -> dict[str, Any] | None:
        """The content of one of its JSON files; None where there is none (yet)."""
        return jobs.read_json(self.folder / name)

    def news(self, name: str, since: Run | None = None) -> dict[str, Any] | None:
        """The same where the job that runs now (here, or in `since`) has written it, not one that ran here before."""
        begun_ns = ((since or self).read(jobs.JOB) or {}).get("started_ns")
        return self.read(name) if begun_ns and _changed(self.folder / name) >= begun_ns else None

    @property
    def result(self) -> dict[str, Any] | None:
        return self.read("result.json")

    def model(self) -> Path | None:
        """The folder of its trained model, if it has one."""
        return self.folder / CHECKPOINT if (self.folder / MODEL).exists() else None

    def is_demo(self) -> bool:
        """Whether it learns from the demonstration corpus."""
        return str(DEMO_CORPUS) in self.status().command

    def downloads(self) -> list[str]:
        """Those of `DOWNLOADS` that there are."""
        return [name for name in DOWNLOADS if self._source(name).exists()]

    def download(self, name: str) -> bytes | None:
        """The content of one of `DOWNLOADS`, without folders of this server; None where there is none (yet)."""
        if name not in self.downloads():
            return None
        try:
            if name != "checkpoint.zip":
                return self._cleaned(self._source(name))
            content = io.BytesIO()
            with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
                for path in sorted((self.folder / CHECKPOINT).glob("[!.]*")):
                    if path.is_symlink():  # may lead anywhere
                        continue
                    archive.writestr(f"{CHECKPOINT}/{path.name}", self._cleaned(path))
            return content.getvalue()
        except OSError:
            return None

    def stamp(self) -> str:
        """Changes whenever there is something new to show."""
        status = self.status()
        changes = [_changed(self._source(name)) for name in self.watched]
        return f"{self.name} {status.state} {status.pid} {changes}"

    def _source(self, name: str) -> Path:
        return self.folder / (MODEL if name == "checkpoint.zip" else name)

    def _cleaned(self, file: Path) -> bytes:
        """A file without the folders of this server: they are cut from texts, the encoder's also from the report."""
        content = file.read_bytes()
        if file.suffix in (".json", ".csv"):
            return without_folders(content.decode()).encode()
        source = ((self.read("run.json") or {}).get("encoder") or {}).get("source", "")
        return content.replace(source.encode(), Path(source).name.encode()) if source.startswith("/") else content


class Study(Run):
    """The folder of one search."""

    prefix: ClassVar[str] = "tune-"
    odd: ClassVar[str] = "[^A-Za-z0-9]+"
    watched: ClassVar[tuple[str, ...]] = (jobs.STAGE, "tune.json")

    @property
    def best_run(self) -> Run | None:
        """Where the best trial is trained and tested, or will be."""
        best = (self.read("tune.json") or {}).get("best")
        return Run(self.folder / f"trial_{best['number']:03d}") if best else None

    @property
    def result(self) -> dict[str, Any] | None:
        return self.best_run.result if self.best_run else None

    def model(self) -> Path | None:
        """The best trial's, if that one is trained and tested."""
        told = self.read("tune.json") or {}
        best, scored = told.get("best"), told.get("scored")
        if not best or not scored or scored["trial"] != best["number"]:
            return None
        return Run(self.folder / str(scored["run"])).model()

    def stamp(self) -> str:
        """Also of the best trial's run, and while it searches as time goes by."""
        clock = int(time.time() / 30) if jobs.is_running(self.folder) else ""
        return f"{super().stamp()} {self.best_run.stamp() if self.best_run else ''} {clock}"


class Runs:
    """All runs of a page of one kind, by name."""

    def __init__(self, folder: Path, kind: type[Run] = Run) -> None:
        self.folder, self.kind = folder, kind

    def all(self) -> list[Run]:
        """Newest first; the example, whatever the clock says, last."""
        found = [self.kind(path) for path in self.folder.glob(f"{self.kind.prefix}*") if path.is_dir()]
        return sorted(found, key=lambda run: (not run.is_example, run.name), reverse=True)

    def names(self) -> list[str]:
        """The names of all, in their order."""
        return [run.name for run in self.all()]

    def find(self, name: object) -> Run | None:
        """The run of a name, `LATEST` for the newest; None where there is none. Never a path outside."""
        return next((run for run in self.all() if name in (LATEST, run.name)), None)

    def new(self, label: str) -> Run:
        """A run that does not exist yet, named after the time and its corpus or what its owner calls it."""
        slug = re.sub(self.kind.odd, "-", label).strip("-")[:40] or "corpus"
        name = f"{time.strftime(f'{self.kind.prefix}%Y%m%d-%H%M%S')}-{slug}"
        names = (name, *(f"{name}-{number}" for number in range(2, 100)))  # the clock may go back
        return self.kind(self.folder / next(free for free in names if not (self.folder / free).exists()))

    def running(self) -> list[Run]:
        """Those in progress."""
        return [run for run in self.all() if jobs.is_running(run.folder)]


def copy_examples(data: Path, kinds: Sequence[str]) -> None:
    """Put the finished run and study that ship with the page where nobody has kept any yet.

    Args:
        data: folder of runs and studies.
        kinds: "runs", "studies".
    """
    for kind in kinds:
        files = [] if (data / kind).exists() else [path for path in (EXAMPLES / kind).rglob("*") if path.is_file()]
        for path in files:  # not as a tree, whose folders may be read-only
            copy = data / path.relative_to(EXAMPLES)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def _changed(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
