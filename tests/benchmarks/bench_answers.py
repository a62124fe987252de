"""Time and memory of answers, beside the import of torch and transformers in the same run.

In: the shipped model and a clip of 4 s. Out: medians on standard output: `ser predict` in a process of its own,
`ser.load()` and warm answers in another, and the page from its start to its first visitor, and what it holds idle.

    python tests/benchmarks/bench_answers.py [--rounds 5]
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import numpy as np
import soundfile

from ser.audio.load import load_audio
from ser.files import DEMO_CORPUS, PACKAGE_PARENT

SECONDS, RATE_HZ = 4, 16_000
IDLE_S = 10
IMPORTS = "import ser.runtime as r; r.import_torchaudio(); import transformers.models.whisper.modeling_whisper"
WARM = """
import sys, time
begun = time.perf_counter()
import ser
predictor = ser.load()
print("load", time.perf_counter() - begun)
for _ in range(21):
    begun = time.perf_counter()
    predictor(sys.argv[1])
    print("warm", time.perf_counter() - begun)
"""


def measured(*command: str) -> tuple[float, float]:
    """Seconds and peak of memory in MB of a process."""
    begun = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(process.stderr.read().decode())
    return time.perf_counter() - begun, usage.ru_maxrss / 1024


def page() -> tuple[float, float]:
    """Seconds from the start of `app.py` until a visitor has the page and a model, and MB that it holds when idle."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    begun = time.perf_counter()
    environment = os.environ | {"GRADIO_SERVER_PORT": str(port), "PYTHONPATH": str(PACKAGE_PARENT)}
    app = [sys.executable, str(PACKAGE_PARENT / "app.py")]
    process = subprocess.Popen(app, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while b'"ready"' not in _get(f"http://127.0.0.1:{port}/healthz"):
            time.sleep(0.02)
        assert b"gradio" in _get(f"http://127.0.0.1:{port}/")
        seconds = time.perf_counter() - begun
        time.sleep(IDLE_S)
        status = Path(f"/proc/{process.pid}/status").read_text()
        return seconds, int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024
    finally:
        process.kill()
        process.wait()


def _get(url: str) -> bytes:
    try:
        return urllib.request.urlopen(url, timeout=10).read()
    except OSError:
        return b""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="processes of each kind")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.wav"
        spoken = np.resize(load_audio(next(DEMO_CORPUS.glob("*.ogg"))), SECONDS * RATE_HZ)
        soundfile.write(clip, spoken, RATE_HZ)
        runs = [(measured("-m", "ser", "predict", str(clip)), measured("-c", IMPORTS), page()) for _ in range(rounds)]
        told = subprocess.check_output([sys.executable, "-c", WARM, str(clip)], text=True)
    (cold_s, cold_mb), (import_s, import_mb), (page_s, page_mb) = np.median(runs, axis=0)
    times = [line.split() for line in told.splitlines()]
    load_s = next(float(value) for name, value in times if name == "load")
    warm_ms = 1000 * np.median([float(value) for name, value in times if name == "warm"])
    print(f"ser predict, cold        {cold_s:6.2f} s  {cold_mb:5.0f} MB  ({import_s / cold_s:.1f} times as fast as)")
    print(f"import torch, transformers {import_s:4.2f} s  {import_mb:5.0f} MB")
    print(f"ser.load()               {load_s:6.2f} s")
    print(f"answer of {SECONDS} s, warm     {warm_ms:6.0f} ms")
    print(f"page and model ready     {page_s:6.2f} s  {page_mb:5.0f} MB when idle")


if __name__ == "__main__":
    main()
