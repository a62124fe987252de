"""Extraction of a corpus beside eager transformers called clip by clip, and its memory as a corpus grows tenfold.

In: noise as long as ShEMO's recordings (median 3.1 s, mean 4.2 s, longest 33 s) and an encoder of DistilHuBERT's size
with random weights. Out: seconds, ratio and megabytes on standard output. Both ways decode, encode and keep half
precision, in turns, so that whatever else the machine does slows both; on a busy machine the ratio says little, as
half of what is gained comes from a second core. Memory is read as Linux tells it.

    python tests/benchmarks/bench_extraction.py [--clips 40] [--rounds 3]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ser.runtime import import_torchaudio, let_threads_sleep

let_threads_sleep()
import_torchaudio()

import numpy as np  # noqa: E402
import soundfile  # noqa: E402
import torch  # noqa: E402
from transformers import HubertConfig, HubertModel  # noqa: E402

from ser.audio.load import SAMPLE_RATE_HZ  # noqa: E402
from ser.audio.speech import speech_spans  # noqa: E402
from ser.encoders.encoder import Encoder  # noqa: E402
from ser.features.extract import FeatureCache, extract  # noqa: E402

DISTILHUBERT = HubertConfig(num_hidden_layers=2, feat_extract_norm="group", conv_bias=False)


class Steady:
    """An encoder that takes no time: 50 frames of 768 numbers a second."""

    fingerprint, layer, name = "steady", 2, "steady"

    def __call__(self, utterances: list[np.ndarray]) -> list[np.ndarray]:
        return [np.ones((one.size // 320, 768), np.float32) for one in utterances]


def write_clips(folder: Path, n: int) -> list[Path]:
    rng = np.random.default_rng(40)
    paths = [folder / f"{number:05d}.wav" for number in range(n)]
    for path in paths:
        seconds = np.clip(rng.lognormal(np.log(3.13), 0.76), 0.35, 33.0)
        soundfile.write(path, rng.uniform(-0.3, 0.3, int(seconds * SAMPLE_RATE_HZ)), SAMPLE_RATE_HZ)
    return paths


def one_by_one(model: HubertModel, paths: list[Path]) -> float:
    start = time.perf_counter()
    kept = []
    with torch.inference_mode():
        for path in paths:
            samples = soundfile.read(path, dtype="float32")[0]
            kept.append(model(torch.from_numpy(samples)[None]).last_hidden_state[0].half().numpy())
    return time.perf_counter() - start


def ours(encoder: Encoder, paths: list[Path]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        features = extract(paths, encoder, FeatureCache(folder))
        seconds = time.perf_counter() - start
        assert features.usable.all()
        return seconds


def memory(n: int) -> None:
    """Extract and read a corpus; prints the peak in MB. A process of its own calls this."""
    with tempfile.TemporaryDirectory() as folder:
        features = extract(write_clips(Path(folder), n), Steady(), FeatureCache(Path(folder) / "cache"))
        for start in range(0, n, 16):
            features.gather(range(start, min(start + 16, n)), 300)
        size_mb = features.lengths.sum() * 768 * 2 / 1e6
    status = Path("/proc/self/status").read_text()  # not getrusage: that counts the parent before the child began
    peak_mb = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024
    print(f"{n} clips, {size_mb:.0f} MB of frames: peak {peak_mb:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=40, help="recordings of the smaller corpus")
    parser.add_argument("--rounds", type=int, default=3, help="timings of each")
    parser.add_argument("--memory", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory:
        return memory(args.memory)
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(40)
        model = HubertModel(DISTILHUBERT).eval()
        model.save_pretrained(Path(folder) / "encoder")
        encoder, paths = (Encoder.load(Path(folder) / "encoder", device="cpu"), write_clips(Path(folder), args.clips))
        one_by_one(model, paths[:2])
        ours(encoder, paths[:4])
        pairs = [(one_by_one(model, paths), ours(encoder, paths)) for _ in range(args.rounds)]
    eager_s, ours_s = np.median(pairs, axis=0)
    ratio = np.median([eager / own for eager, own in pairs])
    print(f"{args.clips} clips, {torch.get_num_threads()} threads: eager one by one {eager_s:.2f} s, "
          f"ours ({encoder.engine}) {ours_s:.2f} s, {ratio:.2f} times as fast")  # fmt: skip
    sound, spans_s = np.random.default_rng(0).standard_normal(4 * SAMPLE_RATE_HZ).astype(np.float32), []
    for _ in range(20):
        start = time.thread_time()
        speech_spans(sound)
        spans_s.append(time.thread_time() - start)
    print(f"speech of 4 s: {1000 * np.median(spans_s):.1f} ms of processor time")
    for n in (args.clips, 10 * args.clips):
        subprocess.run([sys.executable, __file__, "--memory", str(n)], check=True)
    return None


if __name__ == "__main__":
    main()
