"""Speed: each kind of work beside the plain way, in the same run, with a check that both give the same.

In: the names of rows. Out: `bench.json`, and its table for the README. Plain and ours take turns, so that whatever
else the machine does slows both; each ratio is of one such pair. CPU time is kept beside the clock: on a busy machine
it is the steadier one.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ser.errors import SerError


class BenchError(SerError):
    """Plain and ours do not give the same, or a row cannot be measured."""


@dataclass(frozen=True)
class Pair:
    """One turn: seconds by the clock and of CPU time of all threads."""

    plain_s: float
    ours_s: float
    plain_cpu_s: float
    ours_cpu_s: float

    @property
    def ratio(self) -> float:
        return self.plain_s / self.ours_s

    @property
    def cpu_ratio(self) -> float:
        return self.plain_cpu_s / self.ours_cpu_s


@dataclass(frozen=True)
class Row:
    """What was measured of one kind of work.

    Attributes:
        name: as in `--only`.
        work, plain: what was done, and the plain way of it.
        target: the least ratio asked for.
        difference: largest difference of the outputs, relative to the largest output; None where the row compares
            no numbers.
        pairs: the turns.
        outcomes: of each turn, what else is worth knowing of both ways.
    """

    name: str
    work: str
    plain: str
    target: str
    difference: float | None
    pairs: tuple[Pair, ...]
    outcomes: tuple[dict[str, Any], ...] = ()

    def spread(self, of: Callable[[Pair], float]) -> tuple[float, float, float]:
        """Least, median, largest."""
        values = [of(pair) for pair in self.pairs]
        return min(values), statistics.median(values), max(values)

    def to_dict(self) -> dict[str, Any]:
        summary = {
            name: dict(zip(("min", "median", "max"), (round(value, 4) for value in self.spread(of)), strict=True))
            for name, of in (
                ("ratio", lambda pair: pair.ratio), ("cpu_ratio", lambda pair: pair.cpu_ratio),
                ("plain_s", lambda pair: pair.plain_s), ("ours_s", lambda pair: pair.ours_s),
            )
        }  # fmt: skip
        return asdict(self) | summary


def take_turns(
    plain: Callable[[], object], ours: Callable[[], object], repeats: int, warm: bool = True
) -> tuple[Pair, ...]:
    """Both `repeats` times, one after the other, the first of a turn changing."""
    if warm:
        plain()
        ours()
    pairs = []
    for turn in range(repeats):
        if turn % 2:
            ours_s = timed(ours)
            plain_s = timed(plain)
        else:
            plain_s = timed(plain)
            ours_s = timed(ours)
        pairs.append(Pair(plain_s[0], ours_s[0], plain_s[1], ours_s[1]))
    return tuple(pairs)


def check_same(name: str, plain: Any, ours: Any, tolerance: float) -> float:
    """Largest difference of two arrays, relative to the largest entry.

    Raises:
        BenchError: it is above `tolerance`, or the shapes differ.
    """
    import numpy as np

    plain, ours = np.asarray(plain, dtype=np.float64), np.asarray(ours, dtype=np.float64)
    if plain.shape != ours.shape:
        raise BenchError(f"{name}: the plain way gives the shape {plain.shape}, ours {ours.shape}.")
    difference = float(np.abs(plain - ours).max() / np.abs(plain).max())
    if not difference <= tolerance:
        raise BenchError(
            f"{name}: plain and ours differ by {difference:.2g} of the size, more than {tolerance}."
        )
    return difference


def conditions() -> dict[str, Any]:
    """Of the machine at this moment: figures are nothing without it."""
    import torch

    from ser.checkpoint import library_versions

    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_name(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "wait_policy": os.environ.get("OMP_WAIT_POLICY"),
        "spin_count": os.environ.get("GOMP_SPINCOUNT"),
        "product_gflops": round(_product_gflops()),
        "load_average": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "versions": library_versions(),
    }


def write_bench(
    path: Path,
    rows: Sequence[Row],
    before: dict[str, Any],
    more: dict[str, Any],
    kept: dict[str, Any] | None = None,
) -> None:
    """`bench.json`: conditions before and after, rows with the date of each; atomically.

    Args:
        kept: the content of an earlier run, whose rows stay where this one has none of that name.
    """
    from ser.checkpoint import write_atomically

    fresh = {row.name: row.to_dict() | {"measured": before["date"]} for row in rows}
    every = {row["name"]: row for row in (kept or {}).get("rows", [])} | fresh
    content = (kept or {}) | {"before": before, "after": conditions(), "rows": list(every.values())} | more
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def table(content: dict[str, Any]) -> str:
    """The Markdown table of the content of a `bench.json`."""
    lines = [
        "| work | plain way | plain | ours | times faster: median [min, max] | target |",
        "|---|---|---|---|---|---|",
    ]
    for row in content["rows"]:
        ratio = row["ratio"]
        lines.append(
            f"| {row['work']} | {row['plain']} | {_seconds(row['plain_s']['median'])} | "
            f"{_seconds(row['ours_s']['median'])} | {ratio['median']:.1f} [{ratio['min']:.1f}, {ratio['max']:.1f}] | "
            f"{row['target']} |"
        )
    return "\n".join(lines)


def memory_table(content: dict[str, Any]) -> str:
    """The Markdown table of peak memory, from a `bench.json` that has it."""
    lines = ["| work | plain, 1x | plain, 10x | ours, 1x | ours, 10x |", "|---|---|---|---|---|"]
    for entry in content["memory"]:
        cells = " | ".join(f"{entry[key]} MB" for key in ("plain_1x", "plain_10x", "ours_1x", "ours_10x"))
        lines.append(f"| {entry['work']} | {cells} |")
    return "\n".join(lines)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock, and of CPU time of all threads."""
    cpu, clock = time.process_time(), time.perf_counter()
    work()
    return time.perf_counter() - clock, time.process_time() - cpu


def _product_gflops() -> float:
    """10^9 operations a second in a float32 product of the size of an encoder's: what no way can go beyond."""
    import torch

    rows, inner, columns = 2048, 512, 512
    one, other = torch.ones(rows, inner), torch.ones(inner, columns)
    fastest = min(timed(lambda: torch.mm(one, other))[0] for _ in range(20))
    return 2 * rows * inner * columns / fastest / 1e9


def _seconds(value: float) -> str:
    return f"{1000 * value:.0f} ms" if value < 1 else f"{value:.1f} s"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "?")
