"""Time and memory as a corpus grows: extraction, an epoch of training, and the prediction of a folder.

In: a corpus, and how often it is to be repeated. Out: a `Measured` for each scale and kind of work, and the line from
them to 1,000 hours. Every copy of a clip gets a level and a shift of its own: another file to the cache of features.
Each work runs in a process of its own, so that its peak memory is its own. Copies, features and answers lie in a
temporary folder (TMPDIR says where), and only those of one scale at a time.

    python -m ser.bench_scale '{"work": "extraction", "corpus": ...}'      # one `Job`; prints its figures
"""

from __future__ import annotations

import contextlib
import csv
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ser.bench import BenchError
from ser.bench_memory import peak_bytes
from ser.checkpoint import SHIPPED, read_description
from ser.errors import AudioError, SettingsError
from ser.framing import FRAME_RATE_HZ

if TYPE_CHECKING:
    from ser.corpora import Corpus, Utterance
    from ser.features import FeatureSet

EXTRAPOLATED_H = 1_000.0
SEED = 40
PEAKS = (0.5, 1.0)  # of full scale, the level of a copy
SHIFT_S = 0.1  # at most; what leaves at the end comes back at the beginning, so that a copy lasts as long
MARGIN = 1.05  # of the disk that recordings and features take by calculation
BLOCK_BYTES = 4096  # a file takes whole blocks
FEWEST = 5  # utterances: one to validate on, four to train on


@dataclass(frozen=True)
class Job:
    """One work of one scale, as a process gets it.

    Attributes:
        work: a key of `WORKS`.
        corpus: folder of the copies, with their metadata.csv.
        kept: folder for features and answers.
        checkpoint: whose encoder extracts, and which predicts.
        threads: of torch; None leaves its own choice.
    """

    work: str
    corpus: str
    kept: str
    checkpoint: str
    threads: int | None = None


@dataclass(frozen=True)
class Measured:
    """One work at one scale.

    Attributes:
        work: a key of `WORKS`.
        times: how often the corpus is repeated.
        utterances, hours: of the repeated corpus.
        seconds, cpu_s: of the work by the clock and in CPU time of all threads, without the start of the process.
        peak_mib: largest resident memory of the process, libraries included.
    """

    work: str
    times: int
    utterances: int
    hours: float
    seconds: float
    cpu_s: float
    peak_mib: float

    @property
    def seconds_per_hour(self) -> float:
        return self.seconds / self.hours

    def to_dict(self) -> dict[str, Any]:
        figures = asdict(self) | {"seconds_per_hour": self.seconds_per_hour}
        return {key: round(value, 4) if isinstance(value, float) else value for key, value in figures.items()}


@dataclass(frozen=True)
class Source:
    """A recording of the corpus that can be used: `samples` at `rate_hz`."""

    utterance: Utterance
    samples: int
    rate_hz: int


class Clock:
    """Seconds and CPU seconds of a `with` block."""

    def __enter__(self) -> Clock:
        self._begun = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._begun[0]
        self.cpu_s = time.process_time() - self._begun[1]


def scale(
    corpus: Corpus,
    times: Sequence[int],
    checkpoint: Path | None = None,
    threads: int | None = None,
    run: Callable[[Job], dict[str, Any]] | None = None,
) -> Iterator[dict[str, Any]]:
    """Measure scale after scale; yields all that is known so far, after each work.

    Args:
        corpus: what is repeated.
        times: how often.
        checkpoint: a folder; by default the model that ships.
        threads: of torch.

    Raises:
        SettingsError: not whole numbers from 1 on.
        BenchError: too few clips, too little disk, or a work that failed or did less than all.
    """
    if not times or min(times) < 1:
        raise SettingsError(f"--scale takes whole numbers from 1 on, got {' '.join(map(str, times))}.")
    model = (checkpoint or SHIPPED).resolve()
    sources = _usable(corpus)
    with tempfile.TemporaryDirectory(prefix="ser-scale-") as folder:
        content: dict[str, Any] = {
            "corpus": corpus.name,
            "utterances": len(sources),
            "left_out": len(corpus.utterances) - len(sources),
            "sample_rates_hz": sorted({source.rate_hz for source in sources}),
            "disk": [],
            "rows": [],
        }
        _check_disk(Path(folder), sources, max(times), read_description(model).encoder.dim)
        copies, done, rows = Path(folder) / "copies", 0, []
        for n in sorted(set(times)):
            _write_copies(copies, sources, done + 1, n)
            done, kept = n, Path(folder) / "kept"
            hours = n * sum(source.samples / source.rate_hz for source in sources) / 3600
            for work in WORKS:
                figures = _in_a_process(Job(work, str(copies), str(kept), str(model), threads))
                rows.append(Measured(work, n, n * len(sources), hours, **figures))
                content |= {
                    "rows": [row.to_dict() for row in rows],
                    "extrapolated": [extrapolated(rows, one) for one in _works(rows)],
                }
                yield content
            disk = {
                "times": n,
                "hours": round(hours, 4),
                "recordings_mib": _mib(copies),
                "features_mib": _mib(kept),
            }
            content["disk"] = [*content["disk"], disk]
            shutil.rmtree(kept)
        yield content


def extrapolated(rows: Sequence[Measured], work: str, hours: float = EXTRAPOLATED_H) -> dict[str, Any]:
    """The line to `hours` of audio.

    Time goes on at the rate of the largest scale, memory at the slope between the two largest, where there is a
    smaller one still: buffers that fill up make the first step steep.
    """
    *before, last = sorted((row for row in rows if row.work == work), key=lambda row: row.times)
    peak = None
    if len(before) > 1:
        slope = (last.peak_mib - before[-1].peak_mib) / (last.hours - before[-1].hours)
        peak = round(last.peak_mib + max(0.0, slope) * (hours - last.hours))
    return {
        "work": work,
        "extrapolated": True,
        "from_times": last.times,
        "hours": hours,
        "seconds": round(last.seconds_per_hour * hours),
        "seconds_per_hour": round(last.seconds_per_hour, 4),
        "cpu_s_per_hour": round(last.cpu_s / last.hours, 4),
        "peak_mib": peak,
    }


def scale_table(content: dict[str, Any]) -> str:
    """The Markdown table of a file of `ser bench --scale`, with the conditions it was measured under."""
    measured = content["scale"]
    scales = {row["times"]: row for row in measured["rows"]}
    heads = [
        f"{times}x: {row['utterances']:,} clips, {_hours(row['hours'])}" for times, row in scales.items()
    ]
    lines = [
        f"| work | {' | '.join(heads)} | an hour of audio | *{EXTRAPOLATED_H:,.0f} h, extrapolated* |",
        "|---" * (len(heads) + 3) + "|",
    ]
    for line in measured["extrapolated"]:
        rows = {row["times"]: row for row in measured["rows"] if row["work"] == line["work"]}
        cells = [_cell(rows[times]) if times in rows else "-" for times in scales]
        lines.append(f"| {WORDS[line['work']]} | {' | '.join(cells)} | {_rate(line)} | *{_cell(line)}* |")
    return "\n".join(lines) + "\n\n" + _made(content)


def _made(content: dict[str, Any]) -> str:
    """The conditions in sentences."""
    measured, before = content["scale"], content["before"]
    text = (
        f"1x is {measured['corpus']}; each copy has another level and shift. "
        f"Time and peak memory of a process of its own, libraries included; an hour of audio as at the largest scale. "
        f"{before['cpu']}, {before['cores']} cores, threads of torch: {before['threads']}; load average "
        f"{_load(before)} before and {_load(content['after'])} after."
    )
    if measured["disk"]:
        last = measured["disk"][-1]
        rate = last["features_mib"] / last["hours"]
        text += (
            f" Features take {rate:.0f} MiB of the disk an hour of audio, {rate * EXTRAPOLATED_H / 1024:.0f} GiB for "
            f"{EXTRAPOLATED_H:,.0f} h: where that is more than memory, an epoch reads them from the disk each time, "
            "which the measured ones need not have done."
        )
    return text


def extraction(job: Job) -> Clock:
    """The corpus read, and frames computed and kept, as `ser extract` does."""
    from ser.audio import load_audio
    from ser.corpora import read_corpus
    from ser.feature_cache import FeatureCache
    from ser.features import extract

    encoder = _encoder(job)
    encoder([load_audio(read_corpus(job.corpus).utterances[0].path)])  # what only the first call costs
    with Clock() as clock:
        corpus = read_corpus(job.corpus)
        features = extract(corpus, encoder, FeatureCache(job.kept))
    _check_all(job, features, computed=len(corpus.utterances))
    return clock


def opening(job: Job) -> Clock:
    """The corpus read and kept frames found again, checksums compared: once before a training."""
    encoder = _encoder(job)
    with Clock() as clock:
        _open(job, encoder)
    return clock


def training(job: Job) -> Clock:
    """One epoch of one model with the settings of the paper: four fifths trained on, one fifth validated."""
    from ser.classifier import ClassifierSettings
    from ser.training import Training, TrainingSettings

    corpus, features = _open(job, _encoder(job))
    labels = corpus.emotions
    targets = np.array([labels.index(one.emotion) for one in corpus.utterances])
    validation, train = np.split(np.random.default_rng(SEED).permutation(len(targets)), [len(targets) // 5])
    model = Training(
        features, targets, len(labels), features.dim, train.tolist(), validation.tolist(), ClassifierSettings(),
        TrainingSettings(),
    )  # fmt: skip
    with Clock() as clock:
        model.run_epoch()
    return clock


def prediction(job: Job) -> Clock:
    """`ser predict FOLDER --json`, its loading of the model included."""
    from ser.cli import main

    clips = sorted(Path(job.corpus).rglob("*.wav"))
    answers = Path(job.kept) / "answers.jsonl"

    def predict(what: Path) -> int:
        with answers.open("w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
            return main(["predict", str(what), "--json", "--checkpoint", job.checkpoint])

    predict(clips[0])  # imports, and what only the first call costs
    with Clock() as clock:
        status = predict(Path(job.corpus))
    with answers.open(encoding="utf-8") as file:
        n = sum(1 for _ in file)
    if status or n != len(clips):
        raise BenchError(f"prediction: {n} answers to {len(clips)} recordings, status {status}.")
    return clock


WORKS: dict[str, Callable[[Job], Clock]] = {
    "extraction": extraction,
    "opening": opening,
    "training": training,
    "prediction": prediction,
}
WORDS = {
    "extraction": "extraction of features",
    "opening": "kept features found again",
    "training": "an epoch of one model",
    "prediction": "`predict FOLDER --json`",
}


def do(job: Job) -> dict[str, Any]:
    """A job in this process: seconds, CPU seconds, and the peak of memory so far."""
    if job.threads:
        import torch

        torch.set_num_threads(job.threads)
    clock = WORKS[job.work](job)
    return {"seconds": clock.seconds, "cpu_s": clock.cpu_s, "peak_mib": peak_bytes() / 2**20}


def main() -> None:
    print(json.dumps(do(Job(**json.loads(sys.argv[1])))))


def _in_a_process(job: Job) -> dict[str, Any]:
    command = [sys.executable, "-m", "ser.bench_scale", json.dumps(asdict(job))]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    if done.returncode:
        raise BenchError(f"{job.work} ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _usable(corpus: Corpus) -> list[Source]:
    """The recordings that the road from a file to samples takes."""
    from ser.audio import prepare
    from ser.decode import read_audio

    sources = []
    for one in corpus.utterances:
        try:
            samples, rate_hz = read_audio(one.path)
            prepare(samples, rate_hz, one.path.name)
        except (AudioError, OSError):
            continue
        sources.append(Source(one, samples.size, rate_hz))
    if len(sources) < FEWEST:
        raise BenchError(
            f"{len(sources)} of the {len(corpus.utterances)} recordings of {corpus.name} can be used; at least "
            f"{FEWEST} are needed. See what is wrong with them: ser corpus {corpus.root}"
        )
    return sources


def _check_disk(folder: Path, sources: Sequence[Source], times: int, dim: int) -> None:
    recordings = sum(2 * source.samples + BLOCK_BYTES for source in sources)
    frames = sum(source.samples / source.rate_hz * FRAME_RATE_HZ for source in sources)
    needed = MARGIN * times * (recordings + 2 * dim * frames)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise BenchError(
            f"{times}x needs about {needed / 2**30:.1f} GiB for recordings and features, and {folder.parent} has "
            f"{free / 2**30:.1f} GiB. Set TMPDIR to a folder on a larger disk, or ask for less with --scale."
        )


def _write_copies(folder: Path, sources: Sequence[Source], first: int, last: int) -> None:
    """Copies `first` to `last` of every recording at its own rate as 16-bit WAV, and the rows of metadata.csv."""
    folder.mkdir(exist_ok=True)
    table = folder / "metadata.csv"
    is_new = not table.exists()
    with table.open("a", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        if is_new:
            rows.writerow(["path", "speaker", "emotion"])
        for copy in range(first, last + 1):
            (folder / str(copy)).mkdir()
            for index, source in enumerate(sources):
                name = f"{copy}/{index:06d}.wav"
                _write_copy(folder / name, source, np.random.default_rng((SEED, copy, index)))
                rows.writerow([name, source.utterance.speaker, source.utterance.emotion])


def _write_copy(path: Path, source: Source, rng: np.random.Generator) -> None:
    import soundfile

    from ser.decode import read_audio

    samples, rate_hz = read_audio(source.utterance.path)
    level = rng.uniform(*PEAKS) / max(float(np.abs(samples).max()), 1e-9)
    shifted = np.roll(samples, int(rng.integers(1, max(2, round(SHIFT_S * rate_hz)))))
    soundfile.write(path, level * shifted, rate_hz, subtype="PCM_16")


def _encoder(job: Job) -> Any:
    from ser.checkpoint import load_checkpoint
    from ser.encoder import Encoder
    from ser.predictor import encoder_source

    described, _ = load_checkpoint(job.checkpoint)
    return Encoder.load(encoder_source(described), described.encoder.layer)


def _open(job: Job, encoder: Any) -> tuple[Corpus, FeatureSet]:
    """What extraction has kept, and not computed again."""
    from ser.corpora import read_corpus
    from ser.feature_cache import FeatureCache
    from ser.features import extract

    corpus = read_corpus(job.corpus)
    features = extract(corpus, encoder, FeatureCache(job.kept))
    _check_all(job, features, computed=0)
    return corpus, features


def _check_all(job: Job, features: FeatureSet, computed: int) -> None:
    """Every recording has features, and so many were computed: a copy that was kept before would flatter."""
    if features.failed:
        raise BenchError(f"{job.work}: {features.failed[0][0]}: {features.failed[0][1]}")
    if features.n_computed != computed:
        raise BenchError(f"{job.work}: {features.n_computed} recordings were computed instead of {computed}.")


def _works(rows: Sequence[Measured]) -> list[str]:
    return list(dict.fromkeys(row.work for row in rows))


def _mib(folder: Path) -> float:
    return round(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20, 2)


def _cell(row: dict[str, Any]) -> str:
    return _long(row["seconds"]) + ("" if row["peak_mib"] is None else f", {row['peak_mib']:,.0f} MiB")


def _rate(line: dict[str, Any]) -> str:
    return f"{_long(line['seconds_per_hour'])}, {_long(line['cpu_s_per_hour'])} of CPU"


def _load(conditions: dict[str, Any]) -> str:
    return "unknown" if conditions["load_average"] is None else f"{conditions['load_average'][0]}"


def _hours(hours: float) -> str:
    return f"{hours:,.0f} h" if hours >= 100 else f"{hours:.3g} h"


def _long(seconds: float) -> str:
    """Seconds up to two minutes, minutes up to two hours, hours up to two days."""
    for size, unit in ((1, "s"), (60, "min"), (3600, "h")):
        if seconds < (2 * 24 if unit == "h" else 120) * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 86_400:.1f} days"


if __name__ == "__main__":
    main()
