"""What goes wrong around the program is said in a sentence, and nothing is lost: disks, clocks, kills, bad requests."""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support import ROOT, write_voice
from ui_support import served, started

from ser.cli import main
from ser.errors import CacheError, SettingsError
from ser.features.cache import FeatureCache
from ser.features.extract import extract
from ser.files import DEMO_CORPUS, write_atomically
from ser.ui import jobs
from ser.ui.context import Context
from ser.ui.limits import RateLimit
from ser.ui.recordings import Recordings
from ser.ui.replies import UNUSABLE, Replies
from ser.ui.runs import Runs
from ser.ui.settings import AppSettings
from ser.ui.training_texts import Problem

# ---- disks ------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """`disk(options)`: a disk of its own, mounted with these options; skips where that is not permitted."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options: str) -> Path:
        if not shutil.which("mount"):
            pytest.skip("there is no mount here")
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"a disk cannot be mounted here: {done.stderr.strip()}")
        return place

    yield mount
    subprocess.run(["umount", str(place)], capture_output=True, check=False)


class Frames:
    """An encoder of 3,000 numbers a frame."""

    fingerprint, layer, name = "0123456789abcdef", 2, "frames"

    def __call__(self, utterances: list[Any], /) -> list[Any]:
        import numpy as np

        return [np.ones((1 + one.size // 320, 3_000), dtype=np.float32) for one in utterances]


@pytest.fixture
def clips(tmp_path: Path) -> list[Path]:
    (tmp_path / "clips").mkdir()
    return [write_voice(tmp_path / "clips" / f"{n}.wav", 0.6, seed=n) for n in range(4)]


def test_a_cache_that_cannot_be_written_is_said_and_one_that_holds_everything_is_read(disk, clips):
    place = disk("size=4m")
    extract(clips[:2], Frames(), FeatureCache(place))
    remounted = subprocess.run(["mount", "-o", "remount,ro", str(place)], capture_output=True, check=False)
    if remounted.returncode:
        pytest.skip("the disk cannot be made read-only")
    assert extract(clips[:2], Frames(), FeatureCache(place)).n_computed == 0
    with pytest.raises(CacheError, match="Read-only file system"):
        extract(clips, Frames(), FeatureCache(place))
    with pytest.raises(SettingsError, match="SER_DATA"):
        AppSettings(data=place / "data").make_data_folder()
    with pytest.raises(Problem, match="Read-only file system"):
        jobs.start(["info"], place / "run")


def test_a_file_that_finds_no_room_leaves_the_old_one_and_nothing_else(disk, clips):
    path = disk("size=64k") / "progress.json"
    write_atomically(path, b"old")
    with pytest.raises(OSError, match=r"No space left on device.*progress\.json"):
        write_atomically(path, bytes(100_000))
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(CacheError, match=r"No space left on device\. Free space, or name another folder"):
        extract(clips, Frames(), FeatureCache(path.parent / "cache"))


def test_a_command_says_in_one_line_that_the_disk_is_full(disk, capsys):
    place = disk("size=16k")
    (place / "filler").write_bytes(bytes(12_000))
    assert main(["predict", str(DEMO_CORPUS), "--csv", str(place / "answers.csv")]) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("ser: ")
    assert "unforeseen" not in said


def test_a_run_folder_whose_description_is_damaged_is_refused(tmp_path):
    from training_support import Toy, crossval

    toy = Toy(tmp_path / "corpus")
    crossval(toy, tmp_path / "run")
    for damaged in ("", "[]x", "5", "[" * 100_000):
        (tmp_path / "run" / "run.json").write_text(damaged)
        with pytest.raises(SettingsError, match=r"run\.json is damaged"):
            crossval(toy, tmp_path / "run")


@pytest.mark.parametrize("jump_s", [-86_400 * 365, 86_400 * 365])
def test_a_clock_that_jumps_changes_neither_limits_nor_when_a_recording_goes(tmp_path, monkeypatch, jump_s):
    now, real = time.monotonic(), time.time
    limit, recordings = RateLimit(1), Recordings(tmp_path, grace_s=0.2)
    path = tmp_path / "clip.wav"
    path.write_bytes(b"sound")
    assert limit.wait_s("visitor") == 0
    recordings.forget(path)
    monkeypatch.setattr(time, "time", lambda: real() + jump_s)
    assert 0 < limit.wait_s("visitor") <= 60
    recordings.sweep()
    assert path.exists() or time.monotonic() - now > 0.2
    time.sleep(0.3)
    recordings.sweep()
    assert not path.exists()


def test_a_clock_that_jumps_ahead_costs_no_features(tmp_path, clips, monkeypatch):
    """Another process takes our unfinished file for one that was left behind, and deletes it while we write."""
    ours, theirs = FeatureCache(tmp_path / "cache"), FeatureCache(tmp_path / "cache")
    sync, real, jumped = os.fsync, time.time_ns, []

    def fsync(descriptor: int) -> None:
        if not jumped:
            jumped.append(1)
            monkeypatch.setattr("ser.features.cache.time.time_ns", lambda: real() + 86_400 * 10**9)
            extract(clips[2:], Frames(), theirs)
        sync(descriptor)

    monkeypatch.setattr("ser.features.cache.os.fsync", fsync)
    assert extract(clips[:2], Frames(), ours).n_computed == 2
    monkeypatch.undo()
    assert extract(clips, Frames(), ours).n_computed == 0


def test_a_clock_that_goes_back_gives_no_run_the_folder_of_another(tmp_path, monkeypatch):
    monkeypatch.setattr("ser.ui.runs.time.strftime", lambda form: "crossval-20261101-020000")
    runs, names = Runs(tmp_path), [f"crossval-20261101-020000-emodb{number}" for number in ("", "-2", "-3")]
    for name in names:
        run = runs.new("emodb")
        run.folder.mkdir()
        assert run.name == name
    assert runs.names()[0] == names[-1]


# Imports once, then forks a process for every attempt: ten kills in seconds.
KILL_TEN_TIMES = """
import os, random, signal, sys, time
from dataclasses import replace
from pathlib import Path
import torch
torch.set_num_threads(1)
from training_support import SETTINGS, Toy, crossval
from test_faults import epochs_of
root = Path(sys.argv[1])
toy = Toy(root / "corpus")
settings = replace(SETTINGS, training=replace(SETTINGS.training, max_epochs=20, patience=0))
crossval(toy, root / "imports", settings)  # what is imported late is imported before the forks
chance = random.Random(40)
for out, n_kills in (("whole", 0), ("cut", 10)):
    for kill in range(n_kills + 1):
        process = os.fork()
        if not process:
            crossval(toy, root / out, settings).run()
            os._exit(0)
        if kill < n_kills:
            seen = epochs_of(root / out)
            while epochs_of(root / out) == seen and not (root / out / "result.json").exists():
                time.sleep(0.001)
            time.sleep(chance.uniform(0, 0.03))
            os.kill(process, signal.SIGKILL)
        print(out, kill, epochs_of(root / out), os.waitpid(process, 0)[1], flush=True)
"""


@pytest.mark.slow
def test_a_run_killed_ten_times_ends_like_one_that_was_not(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILL_TEN_TIMES, str(tmp_path)], capture_output=True, text=True, timeout=600, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert [line.split()[3] for line in done.stdout.splitlines()] == ["0", *["9"] * 10, "0"]  # ten by SIGKILL
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for name in ("predictions.csv", "checkpoint/model.safetensors"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()
    results = [json.loads((folder / "result.json").read_text()) for folder in (whole, cut)]
    assert results[0] | {"created": ""} == results[1] | {"created": ""}


def epochs_of(run: Path) -> int:
    """Epochs of all folds that a run has told of."""
    try:
        progress = json.loads((run / "progress.json").read_text())
    except FileNotFoundError:
        return 0
    return sum(len(fold["epochs"]) for fold in progress["folds"]) + (progress["state"] != "training")


@pytest.fixture(scope="module")
def context(tiny_checkpoint: Path) -> Context:
    limits = {"max_upload_mb": 1, "max_audio_s": 5, "requests_per_minute": 10_000, "queue_length": 2}
    return started(AppSettings(checkpoint=tiny_checkpoint, port=0, **limits))


@pytest.fixture(scope="module")
def url(context: Context) -> Iterator[str]:
    with served(context) as address:
        yield address.rstrip("/") + "/gradio_api"


def upload(url: str, content: bytes, name: str = "clip.wav") -> httpx.Response:
    return httpx.post(f"{url}/upload", files={"files": (name, content)}, timeout=60)


def call(url: str, path: str) -> httpx.Response:
    data = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}]}
    return httpx.post(f"{url}/call/recognise", json=data, timeout=60)


def answer_of(url: str, called: httpx.Response) -> str:
    return httpx.get(f"{url}/call/recognise/{called.json()['event_id']}", timeout=120).text


def asked(url: str, seconds: float, folder: Path) -> str:
    """The answer to a recording of so many seconds."""
    sound = write_voice(folder / "clip.wav", seconds).read_bytes()
    return answer_of(url, call(url, upload(url, sound).json()[0]))


def test_a_recording_and_a_visitor_over_the_limit_are_refused_with_the_limit(url, context, tmp_path, monkeypatch):
    assert re.search("the limit is 5 s|more than 5 s", asked(url, 6, tmp_path))
    monkeypatch.setattr(context.limit, "per_minute", 1)
    answers = [asked(url, 1, tmp_path) for _ in range(2)]
    assert any("more than 1 recordings per minute. Wait" in answer for answer in answers)


def test_requests_beyond_the_queue_are_told_that_it_is_full(url, context, tmp_path, monkeypatch):
    freed = threading.Event()
    model = context.model.get()
    monkeypatch.setattr(context.model, "get", lambda timeout_s=None: freed.wait(60) and model)
    path = upload(url, write_voice(tmp_path / "clip.wav", 1).read_bytes()).json()[0]
    calls: list[httpx.Response] = []
    try:
        for _ in range(20):  # two in work, two that wait, and what the server has not looked at yet
            calls.append(call(url, path))
            if calls[-1].status_code != 200:
                break
    finally:
        freed.set()
    assert calls[-1].status_code == 503
    assert "Queue is full. Max size is 2" in calls[-1].text
    assert all("event: complete" in answer_of(url, one) for one in calls[:-1])


JSON_BODIES = [
    b"", b"{", b"null", b"[]", b"5", b'"x"', b"{}", b'{"data": null}', b'{"data": 5}', b'{"data": []}',
    b'{"data": [null, null]}', b'{"data": [5]}', b'{"data": [{"path": 5}]}', b'{"data": [{"path": "/etc/passwd"}]}',
    b'{"data": [{"path": "a\\u0000b", "meta": {"_type": "gradio.FileData"}}]}', b'{"data": [NaN]}', b"\xff\xfe",
    b'{"data": [{"path": "%s", "meta": {"_type": "gradio.FileData"}}]}' % (5_000 * b"a"), b"[" * 100_000,
    b'{"recording": 5}', b'{"recording": {"path": 5}}', b'{"recording": null}', b'{"fn_index": 10000, "data": []}',
    b'{"data": [[[[[]]]]], "session_hash": 5}', b'{"data": [' + 5_000 * b"9" + b"]}",
]  # fmt: skip
FORMS: list[dict[str, Any]] = [
    {"data": {"files": "x"}}, {"content": b"x", "headers": {"content-type": "multipart/form-data"}},
    {"content": b"--x\r\n", "headers": {"content-type": "multipart/form-data; boundary=x"}},
    {"files": {"files": ("", b"x")}}, {"files": {"files": ("../../x.wav", b"x")}}, {"files": {"other": ("x", b"x")}},
    {"files": {"files": (400 * "a" + ".wav", b"x")}}, {"files": {"files": ("\0.wav", b"x")}}, {"content": b"x"},
]  # fmt: skip


def is_plain(response: httpx.Response) -> bool:
    """No server error, no trace, no path of the server."""
    hidden = ("Traceback", "site-packages", str(ROOT))
    return response.status_code < 500 and not any(word in response.text for word in hidden)


def test_malformed_requests_to_every_listed_endpoint_are_answered_with_a_sentence(url):
    listed = httpx.get(f"{url}/openapi.json").json()["paths"]
    assert sum(map(len, listed.values())) >= 3
    posts = [path for path, methods in listed.items() if set(methods) - {"get"}]
    posts += [f"/gradio_api/{name}" for name in ("call/nothing", "run/recognise", "queue/join")]
    with httpx.Client(base_url=url.removesuffix("/gradio_api"), timeout=60) as client:
        for path, body in itertools.product(posts, JSON_BODIES):
            sent = client.post(path, content=body, headers={"content-type": "application/json"})
            assert is_plain(sent), (path, body[:60], sent.status_code, sent.text[:200])
            if path in listed and sent.status_code == 200 and "event_id" in sent.text:
                said = client.get(f"/gradio_api/call/recognise/{sent.json()['event_id']}")
                assert "event: error" in said.text, (body[:60], said.text[:200])
                assert '"error": "' in said.text, (body[:60], said.text[:200])
                assert is_plain(said)
        for form in FORMS:
            sent = client.post("/gradio_api/upload", **form)
            assert is_plain(sent), (str(form)[:60], sent.status_code, sent.text[:200])
        assert "There is no such" in client.get("/gradio_api/call/recognise/nobody").text
        assert client.get("/healthz").json()["status"] == "ok"


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 507, "disk is full"),
        (OSError(errno.EIO, "Input/output error"), 500, "in the log under"),
        (TypeError("no recording"), 400, UNUSABLE[:20]),
    ],
)
def test_what_a_request_runs_into_is_told_without_its_details(error, status, words):
    from starlette.testclient import TestClient

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise error

    reply = TestClient(Replies(app)).get("/gradio_api/info")
    assert reply.status_code == status
    assert words in reply.json()["error"]
    assert TestClient(Replies(app)).post("/gradio_api/upload").text[:20] == reply.json()["error"][:20]
    assert str(error.args[-1]) not in reply.text
