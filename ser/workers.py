"""Work shared out to processes: of this machine, or to the workers of a Dask scheduler on many.

In: a function, items, and where to work. Out: the results in the order of the items, a bounded number of items ahead.
What a Dask worker that dies was working on is repeated by another; workers may join at any time.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context, parent_process
from typing import Any, TypeVar

from ser.errors import JobError, SettingsError
from ser.runtime import let_threads_sleep, n_threads, set_n_threads

AHEAD = 256  # items that wait for workers or for the items before them
TIMEOUT_S = 30
RETRIES = 3  # of an item that failed
DEATHS = 1000  # of workers, that an item is repeated after; a scheduler's own limit is three
DIED = (
    "One of the processes died: it was killed, or memory ran out. What is finished is kept: run the same command "
    "again, with fewer --processes if memory is short."
)
log = logging.getLogger(__name__)
Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def pool(scheduler: str | None, n_processes: int = 1, announce: Callable[[str], None] = log.info) -> Iterator[Executor]:
    """Processes to work in.

    Args:
        scheduler: address of a Dask scheduler, `tcp://host:8786`, or the file that it wrote it into (`.json`); None
            takes processes of this machine.
        n_processes: so many; they share this machine's threads.
        announce: is told where the scheduler shows its workers.

    Raises:
        SettingsError: Dask is not installed, or nobody answers at the address.
        JobError: one of the processes of this machine died.
    """
    if scheduler is None:
        with _processes(n_processes) as local:
            yield local
        return
    with _client(scheduler) as client:
        client.run_on_scheduler(_bear_deaths)
        if "dashboard" in client.scheduler_info()["services"]:
            announce(f"Dask's dashboard, all workers: {client.dashboard_link}")
        yield client.get_executor(pure=False, retries=RETRIES)


@contextmanager
def _processes(n: int) -> Iterator[Executor]:
    """Processes of this machine; an interruption ends them at once, also in the middle of an item."""
    others = set(active_children())
    local = ProcessPoolExecutor(n, get_context("spawn"), _begin, (max(1, n_threads() // n),))
    try:
        yield local
        local.shutdown()
    except BaseException as error:
        local.shutdown(wait=False, cancel_futures=True)
        for one in set(active_children()) - others:
            one.kill()
        if isinstance(error, BrokenProcessPool):
            raise JobError(DIED) from error
        raise


def result_of(future: Future[Result]) -> Result:
    """What became of an item.

    Raises:
        JobError: a process of this machine died.
    """
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise JobError(DIED) from error


def in_order(
    executor: Executor, function: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[tuple[Item, Future[Result]]]:
    """Each item with what becomes of it, in order."""
    ahead: deque[tuple[Item, Future[Result]]] = deque()
    try:
        for item in items:
            ahead.append((item, executor.submit(function, item)))
            if len(ahead) >= AHEAD:
                yield ahead.popleft()
        while ahead:
            yield ahead.popleft()
    finally:
        for _, future in ahead:
            future.cancel()


def _begin(n: int) -> None:
    """Set up a process of this machine: its threads; signals are its parent's affair, without whom it ends."""
    let_threads_sleep()
    set_n_threads(n)
    for number in (signal.SIGINT, signal.SIGTERM):  # which a terminal or a scheduler sends to all of a group
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _bear_deaths(dask_scheduler: Any) -> None:
    """Let a scheduler, in which this runs, repeat an item although workers die again and again."""
    dask_scheduler.allowed_failures = max(dask_scheduler.allowed_failures, DEATHS)


def _client(scheduler: str) -> Any:
    try:
        from distributed import Client
    except ImportError as error:
        raise SettingsError("--scheduler needs Dask: pip install 'persian-ser[dask]'") from error
    place = {"scheduler_file": scheduler} if scheduler.endswith(".json") else {"address": scheduler}
    try:
        return Client(**place, timeout=TIMEOUT_S, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise SettingsError(
            f"No Dask scheduler answers at {scheduler} ({type(error).__name__}). Start one with: dask scheduler"
        ) from error
