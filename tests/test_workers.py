"""A Dask scheduler's workers share out features, answers and folds; one that is killed loses nothing, one may join."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from support import ROOT, write_corpus

import ser
from ser.cli import _parser, main
from ser.cli.prepare import is_shared, sharing
from ser.encoders.encoder import Encoder
from ser.errors import JobError, SettingsError
from ser.features import share
from ser.features.cache import FeatureCache
from ser.features.extract import extract
from ser.workers import in_order, pool


class Cluster:
    """A scheduler and workers, each a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.file, self.folder = folder / "scheduler.json", folder
        self.processes = [self._start("scheduler", "--port", "0", "--no-dashboard")]
        while not self.file.exists():
            time.sleep(0.05)

    def worker(self) -> subprocess.Popen[bytes]:
        words = ["--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", str(self.folder)]
        self.processes.append(self._start("worker", *words))
        return self.processes[-1]

    def _start(self, kind: str, *words: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", "--scheduler-file", str(self.file)]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen([*command, *words], env=environment, stdout=log, stderr=log, cwd=self.folder)


@pytest.fixture
def cluster(tmp_path):
    (tmp_path / "dask").mkdir()
    cluster = Cluster(tmp_path / "dask")
    yield cluster
    for process in cluster.processes:
        process.kill()
        process.wait()


@contextmanager
def killing(
    victim: subprocess.Popen[bytes], is_time: Callable[[], object], then: Callable[[], object] = lambda: None
) -> Iterator[None]:
    """Kill a worker while the block runs, as soon as it is time; the block must not end before."""

    def meddle() -> None:
        while not is_time():
            time.sleep(0.01)
        victim.kill()
        then()

    meddler = threading.Thread(target=meddle, daemon=True)
    meddler.start()
    yield
    meddler.join(30)
    assert victim.poll() is not None


def die(*words: object) -> None:
    os._exit(1)


@contextmanager
def parent_of_two(folder: Path, then: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A process, leader of a group, that shares work out to two others, and one of those in /proc."""
    script = (
        "import os, time\nfrom ser.workers import in_order, pool\nif __name__ == '__main__':\n"
        f"    with pool(None, 2) as two:\n        print(two.submit(os.getpid).result(), flush=True)\n        {then}\n"
    )
    (folder / "parent.py").write_text(script)
    words, pipe = [sys.executable, str(folder / "parent.py")], subprocess.PIPE
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, stdout=pipe, stderr=pipe, env=environment, start_new_session=True) as parent:
        yield parent, Path("/proc") / parent.stdout.readline().decode().strip()


def wait_for_end(process: Path, patience_s: float = 60) -> None:
    """Wait until a process of /proc is over."""
    deadline = time.monotonic() + patience_s
    with suppress(FileNotFoundError):
        while "State:\tZ" not in (process / "status").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_results_come_in_order_and_no_more_than_a_few_ahead():
    begun = []

    def items():
        for number in range(1000):
            begun.append(number)
            yield number

    with pool(None, 1) as executor:
        results = in_order(executor, abs, items())
        assert [next(results)[1].result() for _ in range(3)] == [0, 1, 2]
        assert len(begun) < 300
        results.close()


def test_a_scheduler_that_is_not_there_is_said(monkeypatch):
    monkeypatch.setattr("ser.workers.TIMEOUT_S", 1)
    with pytest.raises(SettingsError, match="No Dask scheduler answers"):
        pool("tcp://127.0.0.1:9").__enter__()


def test_processes_share_the_threads_of_this_machine(monkeypatch):
    monkeypatch.setattr("ser.workers.n_threads", lambda: 6)
    with pool(None, 2) as executor:
        assert executor.submit(os.getenv, "OMP_NUM_THREADS").result() == "3"


def test_a_process_of_this_machine_that_dies_ends_the_work_with_a_sentence():
    match = r"One of the processes died.*run the same command again"
    with pytest.raises(JobError, match=match), pool(None, 2) as processes:
        processes.submit(os._exit, 1).result()


@pytest.mark.parametrize(("word", "n_processes"), [("1", 0), ("2", 2)])
def test_the_options_say_what_work_is_shared_out_to(word, n_processes):
    words = ["extract", "--corpus", "x", "--processes", word]
    args = _parser(words).parse_args(words)
    with sharing(args) as executor:
        assert is_shared(args) is (executor is not None) is bool(n_processes)
        if executor is not None:
            assert executor.submit(os.getppid).result() == os.getpid()


def test_an_answer_of_a_process_that_died_is_not_blamed_on_the_recording(tiny_checkpoint, tmp_path, capsys):
    words = ["predict", str(write_corpus(tmp_path / "corpus", 1)), "--checkpoint", str(tiny_checkpoint)]
    with patch("ser.cli.predict._asked", die):
        assert main([*words, "--processes", "2"]) == 1
    said = capsys.readouterr().err
    assert "ser: One of the processes died" in said
    assert ".wav" not in said


def test_a_second_interruption_of_the_group_ends_everything(tmp_path):
    with parent_of_two(tmp_path, "for _, one in in_order(two, time.sleep, [600] * 9): one.result()") as (parent, child):
        time.sleep(0.5)
        assert child.exists()
        try:
            for _ in range(2):
                os.killpg(parent.pid, signal.SIGINT)
                time.sleep(0.3)
            assert parent.wait(30) != 0
            wait_for_end(child)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(parent.pid, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_group_is_left_to_the_parent(number):
    with pool(None, 1) as one:
        one.submit(signal.raise_signal, number).result()
        assert one.submit(abs, -1).result() == 1


def test_processes_of_this_machine_end_with_their_parent(tmp_path):
    with parent_of_two(tmp_path, "time.sleep(600)") as (parent, child):
        assert child.exists()
        parent.kill()
    wait_for_end(child)


@pytest.mark.slow
def test_a_piece_is_repeated_however_often_its_worker_dies(cluster, tmp_path):
    def perish(folder: str) -> int:
        deaths = len(list(Path(folder).iterdir()))
        if deaths < 6:  # Dask itself gives up after three
            (Path(folder) / str(deaths)).touch()
            os._exit(1)
        return deaths

    (tmp_path / "deaths").mkdir()
    for _ in range(7):
        cluster.worker()
    with pool(str(cluster.file)) as executor:
        assert executor.submit(perish, str(tmp_path / "deaths")).result(120) == 6


@pytest.mark.slow
def test_a_killed_worker_loses_nothing_and_one_that_joins_helps(
    cluster, tiny_encoder, tiny_checkpoint, tmp_path, monkeypatch, capsys
):
    folder = write_corpus(tmp_path / "corpus", 10, per_emotion=4)
    monkeypatch.setattr(share, "PIECE", 5)
    victims, cache = [cluster.worker() for _ in range(3)], tmp_path / "cache"
    words = ["extract", "--corpus", folder, "--encoder", tiny_encoder, "--cache", cache]
    with killing(victims[0], lambda: list(cache.rglob("*.safetensors")), then=cluster.worker):
        assert main([*map(str, words), "--scheduler", str(cluster.file)]) == 0
    assert "240 clips:" in capsys.readouterr().out
    paths = sorted(folder.glob("*.wav"))
    kept = extract(paths, Encoder.load(tiny_encoder), FeatureCache(cache))
    alone = extract(paths, Encoder.load(tiny_encoder), FeatureCache(tmp_path / "alone"))
    assert kept.n_computed == 0
    for number in range(len(paths)):
        np.testing.assert_allclose(kept[number], alone[number], atol=0.01)
    words = ["predict", folder, "--checkpoint", tiny_checkpoint, "--json"]
    assert main([*map(str, words), "--scheduler", str(cluster.file)]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["file"] for one in answers] == list(map(str, paths))
    predictor = ser.load(tiny_checkpoint)
    for one in answers[::40]:
        expected = predictor(one["file"], timeline=False).probabilities
        assert one["probabilities"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
def test_workers_killed_at_random_lose_nothing(cluster, tiny_encoder, tmp_path, monkeypatch):
    folder, cache = write_corpus(tmp_path / "corpus", 6, per_emotion=4), f"file://{tmp_path}/cache"
    monkeypatch.setattr(share, "PIECE", 5)
    monkeypatch.setenv("SER_CACHE", str(tmp_path / "own"))
    settings = "--folds 3 --base-units 4 --final-units 4 --gru-layers 1 --max-epochs 60 --patience 0 --no-final"
    words = ["crossval", "--corpus", folder, "--encoder", tiny_encoder, "--cache", cache, *settings.split(), "--out"]
    for _ in range(3):
        cluster.worker()
    rng, is_over, n_killed = random.Random(40), threading.Event(), 0

    def kill_now_and_then() -> None:
        nonlocal n_killed
        while not is_over.wait(rng.uniform(2, 6)):
            rng.choice([one for one in cluster.processes[1:] if one.poll() is None]).kill()
            cluster.worker()
            n_killed += 1

    killer = threading.Thread(target=kill_now_and_then, daemon=True)
    killer.start()
    try:
        assert main([*map(str, words), str(tmp_path / "shared"), "--scheduler", str(cluster.file)]) == 0
    finally:
        is_over.set()
        killer.join()
    assert n_killed > 1
    assert main([*map(str, words), str(tmp_path / "alone")]) == 0  # with the features that the workers computed
    shared, alone = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("shared", "alone"))
    assert shared | {"created": ""} == alone | {"created": ""}


@pytest.mark.slow
def test_folds_and_scores_on_workers_are_those_of_one_process_though_a_worker_is_killed(
    cluster, tiny_encoder, tiny_checkpoint, tmp_path, capsys
):
    folder, cache = write_corpus(tmp_path / "corpus", 6, per_emotion=2), tmp_path / "cache"
    settings = "--folds 2 --base-units 4 --final-units 4 --gru-layers 1 --max-epochs 40 --patience 0 --no-final"
    words = ["crossval", "--corpus", folder, "--encoder", tiny_encoder, "--cache", cache, *settings.split(), "--out"]
    assert main([*map(str, words), str(tmp_path / "alone")]) == 0
    assert main([*map(str, words), str(tmp_path / "beside"), "--processes", "2"]) == 0
    victims, states = [cluster.worker() for _ in range(2)], tmp_path / "shared" / "state"
    with killing(victims[0], lambda: len(list(states.glob("fold_*"))) >= 2):
        assert main([*map(str, words), str(tmp_path / "shared"), "--scheduler", str(cluster.file)]) == 0
    names = ("alone", "beside", "shared")
    alone, *others = (json.loads((tmp_path / name / "result.json").read_text()) | {"created": ""} for name in names)
    assert others == [alone, alone]

    words = ["evaluate", "--corpus", folder, "--checkpoint", tiny_checkpoint, "--out"]
    assert main([*map(str, words), str(tmp_path / "here")]) == 0
    assert main([*map(str, words), str(tmp_path / "there"), "--scheduler", str(cluster.file)]) == 0
    here, there = ((tmp_path / name / "predictions.csv").read_text() for name in ("here", "there"))
    assert there == here


@pytest.mark.slow
def test_baselines_on_workers_are_those_of_one_process_though_a_worker_is_killed(cluster, tiny_encoder, tmp_path):
    folder, cache = write_corpus(tmp_path / "corpus", 6, per_emotion=2), tmp_path / "cache"
    models = "--models mean_lr drm mfcc_cnn paper --folds 2 --baseline-width 8 --baseline-max-epochs 30 --max-epochs 4"
    words = ["baselines", "--corpus", folder, "--encoder", tiny_encoder, "--cache", cache, *models.split(), "--out"]
    assert main([*map(str, words), str(tmp_path / "alone")]) == 0
    victims = [cluster.worker() for _ in range(2)]
    with killing(victims[0], lambda: list((tmp_path / "shared").glob("mean_lr*/result.json"))):
        assert main([*map(str, words), str(tmp_path / "shared"), "--scheduler", str(cluster.file)]) == 0
    alone, shared = (json.loads((tmp_path / name / "baselines.json").read_text()) for name in ("alone", "shared"))
    assert [row["model"] for row in shared["rows"]] == [row["model"] for row in alone["rows"]]
    for row, other in zip(alone["rows"], shared["rows"], strict=True):
        assert other["wa"]["value"] == pytest.approx(row["wa"]["value"], abs=0.02)  # threads round differently
