"""Peak memory of extraction and training at 1x and 10x of a corpus, each in a process of its own.

The plain way keeps all frames in memory and saves them at the end. The encoder is a stand-in, so that minutes are not
spent on what needs the same memory for every clip; clips last 4 s, frames have 768 numbers.

    python -m ser.bench_memory WORK WAY CLIPS FOLDER      # prints the peak in bytes; WORK extraction or training
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from ser.audio import SAMPLE_RATE_HZ
from ser.bench import BenchError

CLIP_S, DIM = 4, 768
FRAMES = CLIP_S * 50
TIMES = (1, 10)
UNIT = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, bytes
STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class MemoryEntry:
    """Peak of a whole process in megabytes, libraries included."""

    work: str
    clips: int
    plain_1x: int
    plain_10x: int
    ours_1x: int
    ours_10x: int

    def to_dict(self) -> dict[str, str | int]:
        return asdict(self)


class StandIn:
    """Samples to frames that depend on nothing else."""

    fingerprint = "stand-in"
    layer = 0
    dim = DIM

    def __call__(self, utterances: list[NDArray[np.float32]], /) -> list[NDArray[np.float32]]:
        rng = np.random.default_rng(int(utterances[0].size and abs(utterances[0][0]) * 2**20))
        return [rng.standard_normal((FRAMES, DIM), dtype=np.float32) for _ in utterances]


def memory(clips: int) -> Iterator[MemoryEntry]:
    """Both kinds of work, both ways, at 1x (`clips`) and 10x."""
    for work in ("extraction", "training"):
        peaks = {way: [_peak(work, way, times * clips) for times in TIMES] for way in ("plain", "ours")}
        yield MemoryEntry(f"{work}, {clips} and {10 * clips} clips", clips, *peaks["plain"], *peaks["ours"])


def peak_bytes() -> int:
    """Largest resident memory of this process so far.

    Linux counts what the starting process had into the `ru_maxrss` of the started one; `VmHWM` begins anew.
    """
    if STATUS.exists():
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT


def _peak(work: str, way: str, clips: int) -> int:
    """Megabytes."""
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder), clips)
        if work == "training":  # what is read exists before the process starts
            _run("extraction", way, clips, folder)
        return round(_run(work, way, clips, folder) / 1e6)


def _run(work: str, way: str, clips: int, folder: str) -> int:
    command = [sys.executable, "-m", "ser.bench_memory", work, way, str(clips), folder]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    if done.returncode:
        raise BenchError(f"memory: {work}, {way} ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    return int(done.stdout.split()[-1])


def _write(folder: Path, clips: int) -> None:
    rng = np.random.default_rng(40)
    for number in range(clips):
        sound = (0.1 * rng.standard_normal(CLIP_S * SAMPLE_RATE_HZ)).astype(np.float32)
        soundfile.write(folder / f"{number:05d}.wav", sound, SAMPLE_RATE_HZ)


def _extraction(way: str, clips: int, folder: Path) -> None:
    paths = [folder / f"{number:05d}.wav" for number in range(clips)]
    if way == "ours":
        from ser.features import FeatureCache, extract

        extract(paths, StandIn(), FeatureCache(folder / "cache"))
        return
    encode = StandIn()
    frames = [encode([soundfile.read(path, dtype="float32")[0]])[0] for path in paths]
    np.save(folder / "plain.npy", np.stack(frames))


def _training(way: str, clips: int, folder: Path) -> None:
    """One epoch of a small classifier: the frames are what takes the memory."""
    from ser.classifier import ClassifierSettings
    from ser.features import FeatureCache, extract
    from ser.plain import PlainClassifier, plain_epoch, plain_optimizer
    from ser.training import FrameSource, Training, TrainingSettings

    classifier, settings = ClassifierSettings(8, 8, 1), TrainingSettings()
    targets = np.arange(clips) % 6
    n_validation = max(1, clips // 5)
    train, validation = range(n_validation, clips), range(n_validation)
    if way == "ours":
        paths = [folder / f"{number:05d}.wav" for number in range(clips)]
        features: FrameSource = extract(paths, StandIn(), FeatureCache(folder / "cache"))
        Training(features, targets, 6, DIM, train, validation, classifier, settings).run_epoch()
        return
    kept = np.load(folder / "plain.npy")

    class InMemory:
        def gather(
            self, indices: list[int], max_frames: int
        ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
            return kept[indices].reshape(-1, DIM), np.full(len(indices), FRAMES)

    model = PlainClassifier(DIM, 6, classifier, packed=False)
    optimizer = plain_optimizer(model, settings)
    plain_epoch(model, optimizer, InMemory(), targets, train, validation, settings)  # type: ignore[arg-type]


def main() -> None:
    work, way, clips, folder = sys.argv[1:]
    {"extraction": _extraction, "training": _training}[work](way, int(clips), Path(folder))
    print(peak_bytes())


if __name__ == "__main__":
    main()
