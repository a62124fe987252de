"""Work shared out to processes: of this machine, or to the workers of a Dask scheduler on many.

In: a function, items, and where to work. Out: the results in the order of the items, a bounded number of items ahead.
What a Dask worker that dies was working on is repeated by another; workers may join at any time.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any, TypeVar

from ser.errors import SettingsError

AHEAD = 256  # items that wait for workers or for the items before them
TIMEOUT_S = 30
RETRIES = 3  # of an item that failed
DEATHS = 1000  # of workers, that an item is repeated after; a scheduler's own limit is three
log = logging.getLogger(__name__)
Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def pool(scheduler: str | None, n_processes: int = 1) -> Iterator[Executor]:
    """Processes to work in.

    Args:
        scheduler: address of a Dask scheduler, `tcp://host:8786`, or the file that it wrote it into (`.json`); None
            takes processes of this machine.
        n_processes: so many.

    Raises:
        SettingsError: Dask is not installed, or nobody answers at the address.
    """
    if scheduler is None:
        with ProcessPoolExecutor(n_processes, get_context("spawn")) as local:
            yield local
        return
    with _client(scheduler) as client:
        client.run_on_scheduler(_bear_deaths)
        log.info("Dask's dashboard: %s", client.dashboard_link)
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
