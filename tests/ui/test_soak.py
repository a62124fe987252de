"""The page under load and over time: nothing but answers and the stated "busy", and nothing that grows.

`python -m pytest -m slow tests/test_soak.py` takes about a minute; with SER_SOAK=full fifty clients ask for two
minutes, and 2,000 recordings are answered. `-s` shows the figures.
"""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import soundfile
from support import RATE_HZ, ROOT, free_port, voice

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="reads /proc as Linux has it")]
FULL = os.environ.get("SER_SOAK") == "full"
N_CLIENTS, LOAD_S, N_PREDICTIONS = 50, (120 if FULL else 15), (2_000 if FULL else 300)
QUEUE_LENGTH = 30  # fewer than the clients: some are told that the page is busy
BUSY = "Queue is full"
# Gradio keeps about 90 kB of each of the last 64 callers, and the allocator keeps what it once had.
SLACK_BYTES = 64 << 20
GRACE_S = 2  # after which an answered recording is deleted; a minute otherwise

SERVE = """
import sys, threading
from pathlib import Path
from ser.ui.gradio_private import import_gradio
from ser.ui.recordings import private_folder
uploads = private_folder()
import_gradio(uploads)
from ser.ui.context import Context
from ser.ui.page import build_page, launch
from ser.ui.settings import AppSettings
port, queue_length, grace_s, data, checkpoint = sys.argv[1:]
settings = AppSettings(port=int(port), queue_length=int(queue_length), data=Path(data), checkpoint=Path(checkpoint),
                       requests_per_minute=100_000)
context = Context.of(settings, uploads)
context.recordings.grace_s = int(grace_s)
print(context.uploads, flush=True)
launch(build_page(settings, context), context)
threading.Event().wait()
"""


@dataclass(frozen=True)
class Use:
    """What a process holds."""

    memory_bytes: int
    threads: int
    descriptors: int
    files: int


@dataclass(frozen=True)
class Server:
    """The page in a process of its own."""

    process: subprocess.Popen[str]
    url: str
    uploads: Path

    def use(self) -> Use:
        of = Path(f"/proc/{self.process.pid}")
        status = dict(line.split(":", 1) for line in (of / "status").read_text().splitlines())
        descriptors = len(list((of / "fd").iterdir()))
        files = sum(len(names) for _, _, names in os.walk(self.uploads))  # in which folders come and go
        return Use(int(status["VmRSS"].split()[0]) << 10, int(status["Threads"]), descriptors, files)


@pytest.fixture(scope="module")
def server(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(port), str(QUEUE_LENGTH), str(GRACE_S), str(folder),
         str(tiny_checkpoint)],
        stdout=subprocess.PIPE, stderr=(folder / "log.txt").open("w"), text=True, cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        uploads = Path(process.stdout.readline().strip())
        server = Server(process, f"http://127.0.0.1:{port}", uploads)
        until(lambda: is_ready(server.url))
        yield server
        assert "Traceback" not in (folder / "log.txt").read_text()
    finally:
        process.kill()
        process.wait()


def is_ready(url: str) -> bool:
    try:
        return bool(httpx.get(f"{url}/healthz", timeout=60).json()["model"] == "ready")
    except httpx.TransportError:
        return False


def until(condition: Any, timeout_s: float = 300) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)


def clip(number: int) -> bytes:
    """A WAV of a second; every number gives other bytes, so that no two are one file on the server."""
    file = io.BytesIO()
    soundfile.write(file, voice(1.0, seed=number), RATE_HZ, format="WAV")
    return file.getvalue()


async def ask(client: httpx.AsyncClient, sound: bytes) -> str:
    """Upload, ask, wait for the answer: "answered", "busy", or what went wrong."""
    uploaded = await client.post("/gradio_api/upload", files={"files": ("clip.wav", sound)})
    if uploaded.status_code != 200:
        return f"upload: {uploaded.status_code} {uploaded.text[:200]}"
    path = uploaded.json()[0]
    data = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}]}
    joined = await client.post("/gradio_api/call/recognise", json=data)
    if joined.status_code != 200:
        return "busy" if joined.status_code == 503 and BUSY in joined.text else f"call: {joined.text[:200]}"
    answer = await client.get(f"/gradio_api/call/recognise/{joined.json()['event_id']}")
    return "answered" if "event: complete" in answer.text else f"answer: {answer.text[:200]}"


async def keep_asking(url: str, number: int, end: float, outcomes: Counter[str]) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=300) as client:
        sound = clip(number)
        while time.monotonic() < end:
            outcome = await ask(client, sound)
            outcomes[outcome] += 1
            if outcome == "busy":
                await asyncio.sleep(1)


async def keep_looking(url: str, end: float, seconds: list[float]) -> None:
    """Open the page again and again; how long it took."""
    async with httpx.AsyncClient(base_url=url, timeout=300) as client:
        while time.monotonic() < end:
            for path in ("/", "/healthz", "/gradio_api/info"):
                begun = time.monotonic()
                assert (await client.get(path)).status_code == 200
                seconds.append(time.monotonic() - begun)
            await asyncio.sleep(1)


async def load(server: Server, n_clients: int, load_s: float) -> tuple[Counter[str], list[float], list[Use]]:
    outcomes: Counter[str] = Counter()
    seconds: list[float] = []
    uses: list[Use] = []
    end = time.monotonic() + load_s

    async def watch() -> None:
        while time.monotonic() < end:
            uses.append(server.use())
            await asyncio.sleep(1)

    clients = [keep_asking(server.url, number, end, outcomes) for number in range(n_clients)]
    await asyncio.gather(*clients, keep_looking(server.url, end, seconds), watch())
    return outcomes, seconds, uses


def test_fifty_clients_at_once_get_answers_or_the_stated_busy(server):
    asyncio.run(load(server, 4, 3))  # the first answers make caches
    before = server.use()
    outcomes, seconds, uses = asyncio.run(load(server, N_CLIENTS, LOAD_S))
    after = server.use()
    print(f"\n{N_CLIENTS} clients, {LOAD_S} s: {dict(outcomes)}; page {max(seconds):.2f} s at most of {len(seconds)}")
    peak = max(use.memory_bytes for use in uses)
    print(f"before {before}\nafter {after}\npeak {peak >> 20} MiB")
    assert set(outcomes) <= {"answered", "busy"}, outcomes
    assert outcomes["answered"] > N_CLIENTS / 2
    assert peak - before.memory_bytes < 2 * SLACK_BYTES
    # The recordings go; but what was sent with a call that found the page busy stays ten minutes, for another try.
    until(lambda: server.use().files <= before.files + N_CLIENTS, 60)
    # Gradio's pool of 8, and starlette's of 40 for files, which it fills where many clients upload at once.
    assert after.threads <= before.threads + 8 + 40
    assert server.process.poll() is None


def test_thousands_of_answers_leave_nothing_behind(server):
    async def answer(numbers: range) -> None:
        async with httpx.AsyncClient(base_url=server.url, timeout=300) as client:
            for number in numbers:
                assert await ask(client, clip(1_000 + number)) == "answered"

    warm = N_PREDICTIONS // 2
    asyncio.run(answer(range(warm)))
    time.sleep(4 * GRACE_S)
    before = server.use()
    asyncio.run(answer(range(warm, N_PREDICTIONS)))
    until(lambda: server.use().files <= before.files, 60)
    after = server.use()
    print(f"\n{N_PREDICTIONS} predictions\nhalf way {before}\nat the end {after}")
    assert after.memory_bytes - before.memory_bytes < SLACK_BYTES
    assert after.threads <= before.threads + 2
    assert after.descriptors <= before.descriptors + 5
