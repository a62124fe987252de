"""Visitors' recordings on the server: kept in one private folder, deleted soon after the answer.

The server gives two uploads of the same bytes the same path. So a recording is not unlinked the moment it
is answered, because another visitor may be about to ask about the same path, but `GRACE_S` later, and not
if it was uploaded again in between. Recordings that nobody asks about are deleted by gradio itself after
`UNASKED_S`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

GRACE_S = 60
UNASKED_S = 600
PREFIX = "ser-uploads-"


def private_folder() -> Path:
    """A fresh folder that only this user can read; folders of processes that were killed are removed."""
    for old in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        process = old.name.removeprefix(PREFIX).split("-")[0]
        if process.isdigit() and not _is_alive(int(process)):
            shutil.rmtree(
                old, ignore_errors=True
            )  # of another user: cannot be removed, and is not ours to remove
    return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-")).resolve()


class Recordings:
    """Deletes answered recordings from one folder, and touches nothing outside it.

    Args:
        folder: where gradio keeps uploads.
        grace_s: how long after its answer a recording goes.
        clock: seconds; one that nobody sets, so that a recording goes in time whatever becomes of the date.
    """

    def __init__(
        self, folder: Path, grace_s: float = GRACE_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.folder, self.grace_s, self.clock = folder.resolve(), grace_s, clock
        self._kept: set[Path] = set()
        self._answered: dict[Path, tuple[float, int]] = {}  # when, and the time that its file then bore
        self._lock = threading.Lock()

    def keep(self, copy: str | Path) -> None:
        """Leave a file in the folder alone: the copy of an example."""
        self._kept.add(Path(copy).resolve())

    def forget(self, recording: str | Path) -> None:
        """Have a recording deleted `grace_s` from now."""
        path = Path(recording).resolve()
        if path.is_relative_to(self.folder) and path not in self._kept:
            with self._lock, suppress(FileNotFoundError):
                self._answered[path] = self.clock(), path.stat().st_ctime_ns

    def sweep(self) -> None:
        """Delete what is due, with the folder that gradio made for it."""
        now = self.clock()
        with self._lock:
            due = [path for path, (answered, _) in self._answered.items() if now - answered >= self.grace_s]
            born = {path: self._answered.pop(path)[1] for path in due}
        for path, changed_ns in born.items():
            try:
                if path.stat().st_ctime_ns == changed_ns:  # else it was uploaded again since
                    path.unlink()
                    path.parent.rmdir()
            except OSError:  # already gone, or the folder holds another visitor's file
                continue

    def start(self) -> None:
        """Sweep every few seconds, in the background."""
        threading.Thread(target=self._sweep_forever, name="recordings", daemon=True).start()

    def _sweep_forever(self) -> None:
        while True:
            time.sleep(5)
            self.sweep()


def _is_alive(process: int) -> bool:
    if os.name == "nt":  # there, signal 0 is not a question
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
