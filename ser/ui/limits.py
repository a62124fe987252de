"""Who a client is, and how many requests one may send in a minute."""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

WINDOW_S = 60.0
MOST_CLIENTS = 10_000  # remembered at once; beyond that, those that have been quiet for a minute are dropped


class RateLimit:
    """A sliding window for each client; safe to use from several threads."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute, self.clock = per_minute, clock
        self._times: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def wait_s(self, client: str) -> float:
        """Count a request: 0 where it is within the limit, else the seconds until the next one is."""
        now = self.clock()
        with self._lock:
            if len(self._times) >= MOST_CLIENTS:
                self._times = {name: times for name, times in self._times.items() if now - times[-1] < WINDOW_S}
            times = self._times.setdefault(client, deque())
            while times and now - times[0] >= WINDOW_S:
                times.popleft()
            if len(times) >= self.per_minute:
                return WINDOW_S - (now - times[0])
            times.append(now)
            return 0.0


def client_name(peer: str, forwarded: Sequence[str], n_proxies: int) -> str:
    """Who sent a request: an IPv4 address, or the first 64 bits of an IPv6 one, which are one household's.

    Args:
        peer: the address that the connection comes from.
        forwarded: the values of X-Forwarded-For. Each proxy adds the address that it sees at the end; what is further
            to the left than our own proxies reach was written by the visitor.
        n_proxies: how many proxies stand before the server.
    """
    seen = [address.strip() for value in forwarded for address in value.split(",") if address.strip()]
    name = seen[-min(n_proxies, len(seen))] if n_proxies and seen else peer
    try:
        address = ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return name
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    mapped = address.ipv4_mapped
    return str(mapped or ipaddress.ip_network((int(address), 64), strict=False))
