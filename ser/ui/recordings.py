"""Visitors' recordings on the server: kept in one private folder, deleted soon after the answer.

The server gives two uploads of the same bytes the same path. So a recording is not unlinked the moment it is answered,
because another visitor may be about to ask about the same path, but `GRACE_S` later, and not if it was uploaded again
in between. What nobody asks about goes `UNASKED_S` after it was last written, an upload that broke off `GRACE_S` after.
"""

from __future__ import annotations

import logging
import os
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

GRACE_S = 60
UNASKED_S = 600
SWEEP_S = 5
PREFIX = "ser-uploads-"

log = logging.getLogger(__name__)


def private_folder() -> Path:
    """A fresh folder that only this user can read; folders of processes that were killed are removed."""
    for old in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        process = old.name.removeprefix(PREFIX).split("-")[0]
        if process.isdigit() and not _is_alive(int(process)):
            shutil.rmtree(old, ignore_errors=True)  # another user's cannot be removed, and is not ours
    return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-")).resolve()


def is_private(folder: Path) -> bool:
    """Whether a folder is this user's own, no link, and nobody else may write to it."""
    status = folder.lstat()
    others_write = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not others_write


class Recordings:
    """Deletes recordings from one folder in time, and touches nothing outside it.

    Args:
        folder: where gradio keeps uploads.
        grace_s: how long after its answer a recording goes.
        clock: seconds; one that nobody sets, so that a recording goes in time whatever becomes of the date.
    """

    def __init__(self, folder: Path, grace_s: float = GRACE_S, clock: Callable[[], float] = time.monotonic) -> None:
        self.folder, self.grace_s, self.clock = folder.resolve(), grace_s, clock
        self._kept: set[Path] = set()
        self._due: dict[Path, tuple[float, int]] = {}  # when it goes, and the time that its file then bore
        self._lock = threading.Lock()

    def keep(self, path: Path) -> Path:
        """Leave a file in the folder alone: the copy of an example."""
        self._kept.add(path.resolve())
        return path

    def forget(self, recording: str | Path) -> None:
        """Have a recording deleted `grace_s` from now."""
        path = Path(recording).resolve()
        if path.is_relative_to(self.folder) and path not in self._kept:
            with self._lock, suppress(FileNotFoundError):
                self._due[path] = self.clock() + self.grace_s, path.stat().st_ctime_ns

    def stored_bytes(self) -> int:
        """What lies in the folder."""
        return sum(status.st_size for _, status in self._files())

    def sweep(self) -> None:
        """Delete what is due, with the folder that gradio made for it."""
        now, files = self.clock(), self._files()
        with self._lock:
            known, self._due = self._due, {}
            for path, status in files:
                due_s, changed_ns = known.get(path, (0.0, -1))
                if status.st_ctime_ns != changed_ns:  # new, or uploaded again, or still being written
                    due_s = now + (UNASKED_S if path.parent != self.folder else self.grace_s)
                if now < due_s:
                    self._due[path] = due_s, status.st_ctime_ns
                    continue
                with suppress(OSError):  # already gone, or the folder holds another visitor's file
                    path.unlink()
                    path.parent.rmdir()

    def start(self, then: Callable[[], object] = lambda: None) -> None:
        """Sweep every few seconds, in the background, and each time call `then`."""
        threading.Thread(target=self._sweep_forever, args=(then,), name="recordings", daemon=True).start()

    def _sweep_forever(self, then: Callable[[], object]) -> None:
        while True:
            time.sleep(SWEEP_S)
            try:
                self.sweep()
                then()
            except OSError as error:
                log.warning("event=sweep_failed reason=%r", str(error))

    def _files(self) -> list[tuple[Path, os.stat_result]]:
        """The recordings, with what is known of each; `os.walk` passes over a folder that goes while it looks."""
        found = []
        for folder, _, names in os.walk(self.folder):
            for path in (Path(folder) / name for name in names):
                with suppress(OSError):
                    if path not in self._kept and path.is_file():
                        found.append((path, path.lstat()))
        return found


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
