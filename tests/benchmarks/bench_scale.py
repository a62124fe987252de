"""What grows with a corpus: time and memory a recording, by simulation, and the pace of 1, 2 and 4 workers.

In: a synthetic manifest, nothing decoded. Out: on standard output, for each part, seconds and megabytes at two sizes,
and the line from there to 10,000 hours (nine million recordings of 4 s). `--workers` shares out pieces of arithmetic to
local Dask workers and prints the pace beside one worker's; `--clips 50000` has two of them extract features of that
many recordings of 0.3 s with the shipped encoder, after a tenth of them, and prints the memory of all after each.
Each part runs in a process of its own, whose highest memory is read.

    python tests/benchmarks/bench_scale.py [--rows 1000000] [--workers] [--clips 50000]
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from ser.corpora.folds import make_folds
from ser.corpora.tables import read_table
from ser.features.cache import Cached, Store
from ser.features.extract import FeatureSet
from ser.features.share import Piece, extract_on
from ser.files import SHIPPED_ENCODER
from ser.labels import EMOTIONS
from ser.scoring.metrics import score
from ser.workers import in_order, pool

TARGET = 9_000_000  # recordings of 4 s in 10,000 h
PER_SPEAKER, PER_FILE = 300, 100  # recordings of a speaker; in one file of the cache


def manifest(n: int, folder: Path) -> Callable[[], object]:
    with (folder / "metadata.csv").open("w") as file:
        file.write("path,speaker,emotion\n")
        rows = (f"{i // 1000}/{i:08d}.wav,s{i // PER_SPEAKER:06d},{EMOTIONS[i % len(EMOTIONS)]}\n" for i in range(n))
        file.writelines(rows)
    return lambda: read_table(folder / "metadata.csv")


def folds(n: int, folder: Path) -> Callable[[], object]:
    speakers = [f"s{number // PER_SPEAKER:06d}" for number in range(n)]
    emotions = [EMOTIONS[number % len(EMOTIONS)] for number in range(n)]
    return lambda: make_folds(speakers, emotions)


def bootstrap(n: int, folder: Path) -> Callable[[], object]:
    rng = np.random.default_rng(40)
    probabilities = rng.dirichlet(np.ones(len(EMOTIONS)), n).astype(np.float32)
    speakers = [f"s{number // PER_SPEAKER:06d}" for number in range(n)]
    return lambda: score(np.arange(n) % len(EMOTIONS), probabilities, speakers, EMOTIONS)


def features(n: int, folder: Path) -> Callable[[], object]:
    """Where the frames of every recording are, in the memory of a training."""
    files = [folder / f"{number:032x}.safetensors" for number in range(n // PER_FILE + 1)]
    paths = [folder / f"{number:08d}.wav" for number in range(n)]
    return lambda: FeatureSet(paths, [Cached(files[i // PER_FILE], f"{i:064x}", i, 200, (768,)) for i in range(n)], ())


def index(n: int, folder: Path) -> Callable[[], object]:
    """One look through the headers of the cache, as each piece of an extraction takes."""
    for first in range(0, n, PER_FILE):
        store = Store(folder, {})
        for number in range(first, min(first + PER_FILE, n)):
            store.add(f"{number:064x}", np.ones((1, 4), np.float32))
        store.flush()
    return lambda: store.find({f"{number:064x}" for number in range(64)})


PARTS = {one.__name__: one for one in (manifest, folds, bootstrap, features, index)}
SMALLER = {"index": 50}  # so many times fewer: writing files takes longer than what is measured


def megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(part: str, n: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        work = PARTS[part](n, Path(folder))
        before, begun = megabytes(), time.process_time()  # whatever else the machine does
        kept = work()
        print(time.process_time() - begun, megabytes() - before)
        del kept


def simulate(rows: int) -> None:
    print(f"{'part':10s} {'rows':>9s} {'seconds':>8s} {'MB':>7s}   {'times rows':>10s} {'times s':>8s}   at {TARGET:,}")
    for part in PARTS:
        few, many = (rows // SMALLER.get(part, 1) // share for share in (10, 1))
        found = []
        for n in (few, many):
            words = [sys.executable, __file__, "--measure", part, "--rows", str(n)]
            output = subprocess.run(words, capture_output=True, text=True, check=True).stdout
            found.append([float(word) for word in output.split()])
        (before_s, _), (seconds, mb) = found
        line = f"{seconds * TARGET / many:.0f} s, {mb * TARGET / many / 1024:.1f} GB"
        times = seconds / max(before_s, 1e-3)
        print(f"{part:10s} {many:9d} {seconds:8.2f} {mb:7.0f}   {many / few:10.0f} {times:8.1f}   {line}", flush=True)


def busy(number: int) -> float:
    """About 3 ms of arithmetic."""
    return sum(float(one) ** 0.5 for one in range(30_000 + number % 2))


def scale() -> None:
    from distributed import LocalCluster

    print("workers  items/s  times one")
    pace = {}
    for n in (1, 2, 4):
        with LocalCluster(n, threads_per_worker=1, dashboard_address=None) as cluster:
            with pool(cluster.scheduler_address) as executor:
                begun = time.perf_counter()
                for _, future in in_order(executor, busy, range(1000)):
                    future.result()
                pace[n] = 1000 / (time.perf_counter() - begun)
            print(f"{n:7d} {pace[n]:8.0f} {pace[n] / pace[1]:10.2f}", flush=True)


def memory(n_clips: int) -> None:
    """Of the process that holds scheduler and command, and of two workers, after a tenth of the clips and after all."""
    from distributed import LocalCluster

    rng = np.random.default_rng(40)
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalCluster(2, threads_per_worker=1, dashboard_address=None) as cluster,
    ):
        how = Piece((), str(SHIPPED_ENCODER), None, 0, Path(folder) / "cache")
        paths = [Path(folder) / f"{number:06d}.wav" for number in range(n_clips)]
        for path in paths:
            soundfile.write(path, rng.normal(0, 0.1, 4_800), 16_000)
        for n in (n_clips // 10, n_clips):
            begun = time.perf_counter()
            with pool(cluster.scheduler_address) as executor:
                n_computed = extract_on(executor, paths[:n], how, 0)
            seconds = time.perf_counter() - begun
            workers = [round(one.memory.process / 2**20) for one in cluster.scheduler.workers.values()]
            print(
                f"{n:7d} clips: {n_computed} computed in {seconds:.0f} s; scheduler and command {rss():.0f} MB, "
                f"workers {workers} MB",
                flush=True,
            )


def rss() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--measure", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--workers", action="store_true")
    parser.add_argument("--clips", type=int)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure, args.rows)
    elif args.clips:
        memory(args.clips)
    elif args.workers:
        scale()
    else:
        simulate(args.rows)


if __name__ == "__main__":
    main()
