"""Trials whose worker has died are failed, and their parameters queued again, exactly once.

A trial says in its attributes which process runs it, and a thread of that process counts up a number there.
Whoever else works on the study looks: a process of the same machine is asked of the kernel; of any other, a
count that stood still for `SILENT_S` by the looker's own clock means death. So it holds for every storage of
Optuna (its own heartbeat knows databases only, and its retry copies the pruner's notes into the new trial)
and for clocks that disagree.
"""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

HEARTBEAT_S, SILENT_S = 15.0, 90.0
WORKER, BEAT, RETRY_OF = "worker", "heartbeat", "retry_of"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Worker:
    """A process that runs trials.

    Attributes:
        machine: a hash, for a dashboard shows it to visitors; differs between machines, their restarts, and
            containers that see other processes.
        pid: its process id there.
        started: when it started, in the kernel's count, so that a process id used again is told apart; ""
            where the kernel does not say.
    """

    machine: str
    pid: int
    started: str

    @classmethod
    def this(cls) -> Worker:
        """The process that asks."""
        return cls(_machine(), os.getpid(), _start_of(os.getpid()) or "")

    def is_gone(self) -> bool | None:
        """Whether it has ended; None where that cannot be seen from here."""
        if self.machine != _machine() or not self.started:
            return None
        return _start_of(self.pid) != self.started


class Watch:
    """Looks after the trials of other workers."""

    def __init__(self, study: optuna.Study, clock: Callable[[], float] = time.monotonic) -> None:
        self.study, self._clock = study, clock
        self._last: dict[int, tuple[Any, float]] = {}

    def reclaim(self) -> list[int]:
        """Fail the trials whose worker has died and queue their parameters again; returns their numbers."""
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return [trial.number for trial in running if self._is_orphan(trial) and give_back(self.study, trial)]

    def _is_orphan(self, trial: FrozenTrial) -> bool:
        worker = trial.user_attrs.get(WORKER)
        gone = Worker(**worker).is_gone() if worker else None
        if gone is not None:
            return gone
        now, beat = self._clock(), trial.user_attrs.get(BEAT)
        known = self._last.get(trial.number)
        if known is None or known[0] != beat:
            self._last[trial.number] = (beat, now)
            return False
        return now - known[1] > SILENT_S


@contextmanager
def alive(trial: optuna.Trial, interval_s: float = HEARTBEAT_S) -> Iterator[None]:
    """Say who runs a trial, and that it lives, for as long as the block runs."""
    trial.set_user_attr(WORKER, asdict(Worker.this()))
    ended = threading.Event()
    thread = threading.Thread(target=_beat, args=(trial, ended, interval_s), name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def give_back(study: optuna.Study, trial: FrozenTrial) -> bool:
    """Fail a running trial and queue its parameters again; False where another process was quicker.

    A process killed between the two leaves a study that lacks these parameters and asks for others in their
    place.
    """
    try:
        study.tell(trial.number, state=TrialState.FAIL)
    except (UpdateFinishedTrialError, StorageInternalError, ValueError):
        return False
    parameters = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
    first = trial.user_attrs.get(RETRY_OF, trial.number)
    study.enqueue_trial(parameters, user_attrs={RETRY_OF: first})
    return True


def _beat(trial: optuna.Trial, ended: threading.Event, interval_s: float) -> None:
    count = 0
    while not ended.wait(interval_s):
        count += 1
        try:
            trial.set_user_attr(BEAT, count)
        except UpdateFinishedTrialError:  # somebody took us for dead; the next report says so
            return
        except Exception as error:  # a database that is away for a moment must not end the heartbeat
            log.warning("event=heartbeat_failed trial=%d reason=%r", trial.number, error)


def _machine() -> str:
    """This machine since its last start, as far as its processes see each other."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        name = f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        name = socket.gethostname()
    return hashlib.sha256(name.encode()).hexdigest()[:12]


def _start_of(pid: int) -> str | None:
    """When a process started, in the kernel's ticks; None where there is none, or a dead one."""
    try:
        fields = (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        )
    except OSError:
        return None
    state, start = fields[0], fields[19]
    return None if state in "ZX" else start
