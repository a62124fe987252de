"""Background runs of the page: processes of their own that outlive the server, started and stopped by folder.

In: the words of a `python -m ser` command and a folder. Out, in that folder: `job.json` (process id, command,
start, at the end the exit code), `log.txt` (what the command printed) and `job.lock`.

A running job holds a lock on `job.lock`, taken by its starter and inherited. So the kernel itself keeps two
starters from starting twice, gives the lock back in whatever way the process dies, and is never misled by a
process id that was given to another process. Linux and macOS; among the processes of one machine.
"""

from __future__ import annotations

import fcntl
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ser.errors import JobError
from ser.files import PACKAGE_PARENT, write_atomically

JOB, LOG, LOCK, STOP = "job.json", "log.txt", "job.lock", "job.stop"
LOG_TAIL_BYTES, REASON_CHARACTERS = 8_192, 600
POLL_S, START_S, KILL_S = 0.02, 10.0, 10.0
NICENESS = 5  # the page answers before a training does
BUSY = "Another training is running, and there is one at a time. Wait until it ends, or stop it."

State = Literal["never", "running", "finished", "stopped", "failed"]


@dataclass(frozen=True)
class JobStatus:
    """How a job stands.

    Attributes:
        state: "never" (nothing was ever started here), "running", "finished" (exit code 0), "stopped" (ended
            after it was asked to) or "failed".
        exit_code: of a job that came to its own end; None while it runs and where it was killed.
        reason: the last line of its log; for a job that was killed, that it was.
        pid: of its process, which leads a process group; None before it has said so.
        command: the words after `python -m ser`.
        started: date and time.
    """

    state: State
    exit_code: int | None = None
    reason: str = ""
    pid: int | None = None
    command: tuple[str, ...] = ()
    started: str = ""


def start(command: Sequence[str], folder: str | Path, one_at_a_time: str | Path | None = None) -> int:
    """Run `python -m ser COMMAND` in the background; returns its process id.

    A folder whose job has ended can be started again, so that a run goes on where it was; so does the log.

    Args:
        command: the words after `python -m ser`.
        folder: made where it is missing; one job at a time runs in it.
        one_at_a_time: a folder; of all jobs that were started with the same one, only one runs at a time.

    Raises:
        JobError: a job is already running there, or it cannot be started.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _held(folder, "This run is already running. Stop it before it is started again.") as locks:
            if one_at_a_time is not None:
                busy = (
                    "Another training is running, and there is one at a time. Wait until it ends, or stop it."
                )
                with _held(Path(one_at_a_time), busy) as others:
                    return _launch(command, folder, (locks, others))
            return _launch(command, folder, (locks,))
    except OSError as error:
        raise JobError(f"The run cannot be started in {folder} ({error.strerror}).") from error


def look(folder: str | Path) -> JobStatus:
    """How the job of a folder stands, whoever started it."""
    folder = Path(folder)
    running = is_running(folder)
    job = _read_job(folder)
    if not running and not job and not (folder / STOP).exists():
        return JobStatus("never")
    code = job.get("exit_code")
    state: State = "running" if running else "finished" if code == 0 else "failed"
    if state == "failed" and (folder / STOP).exists():
        state = "stopped"
    reason = last_line(folder / LOG)
    if state == "failed" and code is None:
        reason = f"The process was killed, or the machine went down. Its last words: {reason or 'none'}"
    return JobStatus(
        state, code, reason, job.get("pid"), tuple(job.get("command", ())), job.get("started", "")
    )


def is_running(folder: str | Path) -> bool:
    """Whether a job runs in a folder (or, for the folder given as `one_at_a_time`, any of those jobs)."""
    path = Path(folder) / LOCK
    if not path.exists():
        return False
    with path.open("rb") as lock:
        return not _try_lock(lock.fileno(), fcntl.LOCK_SH)


def ask_to_stop(folder: str | Path) -> bool:
    """Send SIGTERM to a running job and return at once; False where none runs."""
    folder = Path(folder)
    # The process writes its id as its first act; until then there is none to send a signal to.
    if not _wait_until(lambda: "pid" in _read_job(folder) or not is_running(folder), START_S):
        raise JobError("The run does not answer. Try again, or look for its process on the machine.")
    if not is_running(folder):
        return False
    (folder / STOP).touch()
    return _signal(folder, signal.SIGTERM)


def stop(folder: str | Path, grace_s: float = 20.0) -> JobStatus:
    """Ask a job to stop, give it `grace_s` seconds to put its things in order, then kill its process group.

    Raises:
        JobError: it does not even end when killed.
    """
    folder = Path(folder)
    if ask_to_stop(folder) and not _wait_until(lambda: not is_running(folder), grace_s):
        _signal(folder, signal.SIGKILL)
        if not _wait_until(lambda: not is_running(folder), KILL_S):
            raise JobError("The run could not be stopped. Look for its process on the machine.")
    return look(folder)


def last_line(log: Path) -> str:
    """The last line of a log that is not blank, without control characters and cut to a readable length."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").replace("\r", "\n").splitlines()
    except OSError:
        return ""
    line = next((line.strip() for line in reversed(lines) if line.strip()), "")
    line = "".join(character for character in line if character.isprintable())
    return line.removeprefix("ser: ")[:REASON_CHARACTERS]


def _launch(command: Sequence[str], folder: Path, locks: tuple[int, ...]) -> int:
    for name in (JOB, STOP):
        (folder / name).unlink(missing_ok=True)
    path = os.pathsep.join(filter(None, (str(PACKAGE_PARENT), os.environ.get("PYTHONPATH"))))
    with (folder / LOG).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ser.ui.jobs", str(folder), *command], stdin=subprocess.DEVNULL, stdout=log,
            stderr=subprocess.STDOUT, start_new_session=True, pass_fds=locks,
            env=os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
    # Waiting for it takes it out of the process table when it ends: no zombie.
    threading.Thread(target=process.wait, name=f"job {process.pid}", daemon=True).start()
    return process.pid


@contextmanager
def _held(folder: Path, busy: str) -> Iterator[int]:
    """The lock of a folder, as a file descriptor that a child process can inherit."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("ab") as lock:
        while not _try_lock(lock.fileno(), fcntl.LOCK_EX):
            # Somebody who only looks holds it shared, for microseconds; a job holds it exclusively.
            if is_running(folder):
                raise JobError(busy)
            time.sleep(POLL_S)
        yield lock.fileno()


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_job(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / JOB).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _signal(folder: Path, number: int) -> bool:
    """To the whole process group of a job that holds its lock; False where it has just ended."""
    try:
        os.killpg(int(_read_job(folder)["pid"]), number)
    except (ProcessLookupError, PermissionError, KeyError):  # macOS refuses to signal what has just ended
        return False
    return True


def _wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)
    return True


def _run(folder: Path, command: Sequence[str]) -> int:
    """The job's own process: say who we are, run the command, say how it ended."""
    started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    job = {"pid": os.getpid(), "command": list(command), "started": started}
    _write_job(folder, job)
    os.nice(NICENESS)
    sys.argv[1:] = command
    code = 0
    try:
        runpy.run_module("ser", run_name="__main__")
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    _write_job(folder, job | {"exit_code": code})
    return code


def _write_job(folder: Path, job: dict[str, Any]) -> None:
    write_atomically(folder / JOB, (json.dumps(job, indent=2) + "\n").encode())


if __name__ == "__main__":
    sys.exit(_run(Path(sys.argv[1]), sys.argv[2:]))
