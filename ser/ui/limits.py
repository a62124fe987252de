"""How many recordings one client may send in a minute."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

WINDOW_S = 60.0
MOST_CLIENTS = (
    10_000  # remembered at once; beyond that the ones that have been quiet for a minute are dropped
)


class RateLimit:
    """A sliding window for each client; safe to use from several threads."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute, self.clock = per_minute, clock
        self._times: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def wait_s(self, client: str) -> float:
        """Count a request: 0 where it may go on, else the seconds until the next may."""
        now = self.clock()
        with self._lock:
            if len(self._times) >= MOST_CLIENTS:
                self._times = {
                    name: times for name, times in self._times.items() if now - times[-1] < WINDOW_S
                }
            times = self._times.setdefault(client, deque())
            while times and now - times[0] >= WINDOW_S:
                times.popleft()
            if len(times) >= self.per_minute:
                return WINDOW_S - (now - times[0])
            times.append(now)
            return 0.0
