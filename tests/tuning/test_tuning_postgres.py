"""One study on a real PostgreSQL, three workers of `ser tune`, one killed: every trial is finished exactly once."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from support import free_port
from test_tuning_command import EPOCH, finish, start, until
from training_support import tune_command, write_tiny_corpus

from ser.tuning.storage import ERROR, RETRY_OF, SURPLUS, open_storage

pytestmark = pytest.mark.slow
TRIALS, WORKERS = 6, 3


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """The address of an empty database of a server that is gone afterwards."""
    tools = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not tools:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("psycopg is not installed (pip install 'psycopg[binary]')")
    bin_folder, folder, port = tools[-1].parent, Path(tempfile.mkdtemp(prefix="ser-postgres-")), free_port()
    as_user: list[str] = []
    if os.geteuid() == 0:  # the server refuses to run as root
        shutil.chown(folder, "postgres", "postgres")
        as_user = ["runuser", "-u", "postgres", "--"]

    def call(*words: object) -> None:
        done = subprocess.run(
            [*as_user, *map(str, words)], cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout

    data, options = folder / "data", f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
    call(bin_folder / "initdb", "-D", data, "-U", "ser", "-A", "trust", "-N")
    call(bin_folder / "pg_ctl", "-D", data, "-o", options, "-l", folder / "log", "-w", "start")
    yield f"postgresql+psycopg://ser@127.0.0.1:{port}/postgres"
    call(bin_folder / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    shutil.rmtree(folder)


def test_three_workers_and_one_killed_finish_every_trial_once(database, tiny_encoder, tmp_path):
    corpus = write_tiny_corpus(tmp_path / "corpus")
    extract = tune_command(corpus, tiny_encoder, tmp_path, "warm", "--trials", 1, "--no-final")
    finish(start(extract))  # so that the three read the same cached features
    long = ("--max-epochs", 80, "--patience", 0)  # so that one is killed in the middle
    command = tune_command(
        corpus, tiny_encoder, tmp_path, "many", *long, "--trials", TRIALS, "--storage", database, "--no-final"
    )
    workers = [start(command) for _ in range(WORKERS)]
    victim = workers.pop()
    until(victim, EPOCH)
    os.killpg(victim.pid, signal.SIGKILL)
    victim.communicate()
    outputs = [finish(worker) for worker in workers]

    study = optuna.load_study(study_name="many", storage=open_storage(database))
    done = [trial for trial in study.trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    assert len(done) == TRIALS
    assert not [trial for trial in study.trials if not trial.state.is_finished()]
    assert sum(output.count("  complete ") + output.count("  pruned ") for output in outputs) == TRIALS
    assert sum("  complete " in output or "  pruned " in output for output in outputs) > 1
    run = [trial for trial in study.trials if trial.user_attrs.get(ERROR) != SURPLUS]
    (killed,) = [trial for trial in run if trial.state == TrialState.FAIL]
    (retry,) = [trial for trial in study.trials if RETRY_OF in trial.system_attrs]
    assert retry.system_attrs[RETRY_OF] == killed.number
    assert retry.params == killed.params
    fresh = [tuple(sorted(trial.params.items())) for trial in done]
    assert len(fresh) == len(set(fresh))  # no two workers tried the same
    scored = finish(start(command[:-1]))
    assert f"Best of study many: trial {study.best_trial.number}" in scored
