"""Background runs of the page: separate processes that outlive the server, started and stopped by folder.

In: the words of a `python -m ser` command and a folder. Out, in that folder: `job.json` (process id, command, start,
at the end the exit code), `log.txt` (what the command printed), `stage.json` (how far it is, see
`ser.cli.prepare.Stage`) and `job.lock`.

A running job holds a lock on `job.lock`, taken by its starter and inherited. So the kernel itself keeps two starters
from starting twice, gives the lock back in whatever way the process dies, and is never misled by a process id that was
given to another process. Linux and macOS; among the processes of one machine.
"""

from __future__ import annotations

import fcntl
import json
import os
import runpy
import shutil
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

from ser.files import PACKAGE_PARENT, write_json
from ser.ui.training_texts import Problem

JOB, LOG, LOCK, STOP, STAGE = "job.json", "log.txt", "job.lock", "job.stop", "stage.json"
LOG_TAIL_BYTES, REASON_CHARACTERS = 8_192, 600
POLL_S, START_S, KILL_S = 0.02, 10.0, 10.0
NICENESS = 5  # the page answers before a training does

State = Literal["never", "running", "finished", "stopped", "failed"]


@dataclass(frozen=True)
class JobStatus:
    """How a job stands.

    Attributes:
        state: "never" started here, "running", "finished" (exit code 0), "stopped" on request or "failed".
        exit_code: None while it runs and where it was killed.
        reason: the last line of its log.
        pid: of its process, which leads a process group; None before it has said so.
        command: the words after `python -m ser`.
    """

    state: State
    exit_code: int | None = None
    reason: str = ""
    pid: int | None = None
    command: tuple[str, ...] = ()


def start(command: Sequence[str], folder: Path, one_at_a_time: Path | None = None) -> int:
    """Run `python -m ser COMMAND` in the background; returns its process id.

    Args:
        command: the words after `python -m ser`.
        folder: made where it is missing. Started again after its job has ended, a run resumes, and so does its log.
        one_at_a_time: a folder; of all jobs that were started with the same one, only one runs at a time.

    Raises:
        Problem: a job is already running there, or it cannot be started.
    """
    try:
        with _held(folder, "already") as lock:
            if one_at_a_time is None:
                return _launch(command, folder, (lock,))
            with _held(one_at_a_time, "busy") as common:
                return _launch(command, folder, (lock, common))
    except OSError as error:
        raise Problem("cannot_start", reason=error.strerror or type(error).__name__) from error


def look(folder: Path) -> JobStatus:
    """How the job of a folder stands, whoever started it."""
    running = is_running(folder)
    job = read_json(folder / JOB) or {}
    code, is_stopped = job.get("exit_code"), (folder / STOP).exists()
    if not (running or job or is_stopped):
        return JobStatus("never")
    ended: State = "finished" if code == 0 else "stopped" if is_stopped else "failed"
    state = "running" if running else ended
    return JobStatus(state, code, last_line(folder / LOG), job.get("pid"), tuple(job.get("command", ())))


def is_running(folder: Path) -> bool:
    """Whether a job runs in a folder (or, for the folder given as `one_at_a_time`, any of those jobs)."""
    if not (folder / LOCK).exists():
        return False
    with (folder / LOCK).open("rb") as lock:
        return not _try_lock(lock.fileno(), fcntl.LOCK_SH)


def ask_to_stop(folder: Path) -> bool:
    """Send SIGTERM to a running job and return at once; False where none runs."""
    # The process writes its id as its first act; until then there is none to send a signal to.
    if not _wait_until(lambda: "pid" in (read_json(folder / JOB) or {}) or not is_running(folder), START_S):
        raise Problem("no_answer")
    if not is_running(folder):
        return False
    (folder / STOP).touch()
    return _signal(folder, signal.SIGTERM)


def stop(folder: Path, grace_s: float = 20.0) -> JobStatus:
    """Ask a job to stop, give it `grace_s` seconds to put its things in order, then kill its process group.

    Raises:
        Problem: it does not even end when killed.
    """
    if ask_to_stop(folder) and not _wait_until(lambda: not is_running(folder), grace_s):
        _signal(folder, signal.SIGKILL)
        if not _wait_until(lambda: not is_running(folder), KILL_S):
            raise Problem("cannot_stop")
    return look(folder)


def remove(folder: Path) -> None:
    """Delete a folder in which no job runs.

    Raises:
        Problem: one does.
        OSError: it cannot be deleted.
    """
    with _held(folder, "still_running"):
        shutil.rmtree(folder)


def read_json(path: Path) -> dict[str, Any] | None:
    """The content of a JSON file; None where there is none (yet)."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


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
    for name in (JOB, STOP, STAGE):
        (folder / name).unlink(missing_ok=True)
    path = os.pathsep.join(filter(None, (str(PACKAGE_PARENT), os.environ.get("PYTHONPATH"))))
    own = {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "SER_PROGRESS": str(folder / STAGE)}
    with (folder / LOG).open("ab") as log:
        words = [sys.executable, "-m", "ser.ui.jobs", str(folder), *command]
        alone: dict[str, Any] = {"start_new_session": True, "pass_fds": locks, "stdin": subprocess.DEVNULL}
        process = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, env=os.environ | own, **alone)
    # Waiting for it takes it out of the process table when it ends: no zombie.
    threading.Thread(target=process.wait, name=f"job {process.pid}", daemon=True).start()
    return process.pid


@contextmanager
def _held(folder: Path, busy: str) -> Iterator[int]:
    """The lock of a folder, as a file descriptor that a child process can inherit; `busy` is said where it is held."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("ab") as lock:
        while not _try_lock(lock.fileno(), fcntl.LOCK_EX):
            # Somebody who only looks holds it shared, for microseconds; a job holds it exclusively.
            if is_running(folder):
                raise Problem(busy)
            time.sleep(POLL_S)
        yield lock.fileno()


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _signal(folder: Path, number: int) -> bool:
    """To the whole process group of a job that holds its lock; False where it has just ended."""
    try:
        os.killpg(int((read_json(folder / JOB) or {})["pid"]), number)
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
    job = {"pid": os.getpid(), "command": list(command), "started_ns": time.time_ns()}
    write_json(folder / JOB, job)
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
    write_json(folder / JOB, job | {"exit_code": code})
    return code


if __name__ == "__main__":
    sys.exit(_run(Path(sys.argv[1]), sys.argv[2:]))
