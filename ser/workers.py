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
from multiprocessing import get_context, parent_process
from typing import Any, TypeVar

from ser.errors import JobError, SettingsError
from ser.runtime import let_threads_sleep, n_threads, set_n_threads

AHEAD = 256  # items that wait for workers or for the items before them
TIMEOUT_S = 30
RETRIES = 3  # of an item that failed
DEATHS = 1000  # of workers, that an item is repeated after; a scheduler's own limit is three
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
        share = max(1, n_threads() // n_processes)
        try:
            with ProcessPoolExecutor(n_processes, get_context("spawn"), _begin, (share,)) as local:
                yield local
        except BrokenProcessPool as error:
            raise JobError(
                f"One of the {n_processes} processes died: it was killed, or memory ran out. What is finished is kept: "
                "run the same command again, with fewer --processes if memory is short."
            ) from error
        return
    with _client(scheduler) as client:
        client.run_on_scheduler(_bear_deaths)
        announce(f"Dask's dashboard, all workers: {client.dashboard_link}")
        yield client.get_executor(pure=False, retries=RETRIES)


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
    """Set up a process of this machine: its threads; Ctrl-C is its parent's affair, without whom it ends."""
    let_threads_sleep()
    set_n_threads(n)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
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
