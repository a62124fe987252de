"""`ser tune` as it is typed: stopped, resumed, by several workers of which one is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from support import ROOT
from training_support import tune_command, write_tiny_corpus

from ser.tuning.storage import RETRY_OF, default_storage, open_storage

pytestmark = pytest.mark.slow
EPOCH = "  epoch       "  # a report, not the head of the table
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return write_tiny_corpus(tmp_path_factory.mktemp("tune") / "corpus")


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


def start(command: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        cwd=ROOT, start_new_session=True,
    )  # fmt: skip


def until(process: subprocess.Popen, words: str) -> str:
    """Read on until a line has these words."""
    lines: list[str] = []
    for line in iter(process.stdout.readline, ""):  # type: ignore[union-attr]
        lines.append(line)
        if words in line:
            return line
    raise AssertionError(f"{words!r} was not said:\n{''.join(lines)}")


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return output


def study_of(home: Path, name: str) -> optuna.Study:
    return optuna.load_study(study_name=name, storage=open_storage(default_storage(home / "runs")))


def states(study: optuna.Study) -> list[str]:
    return [trial.state.name for trial in study.trials]


def ended(study: optuna.Study) -> int:
    return sum(trial.state in (TrialState.COMPLETE, TrialState.PRUNED) for trial in study.trials)


def test_a_search_is_stopped_resumed_and_scored(corpus, tiny_encoder, home):
    command, folder = (tune_command(corpus, tiny_encoder, home, "stopped", "--trials", 3), home / "runs" / "stopped")
    first = start(command)
    until(first, "complete")
    until(first, EPOCH)
    first.send_signal(signal.SIGINT)
    output, _ = first.communicate(timeout=120)
    assert first.returncode == 130
    assert "queued again" in output
    assert "Run the same command again" in output
    status = json.loads((folder / "tune.json").read_text())
    assert (status["state"], status["counts"]["waiting"]) == ("stopped", 1)
    assert "1 of 3 trials are finished" in finish(start(command))
    study = study_of(home, "stopped")
    assert (ended(study), states(study).count("FAIL")) == (3, 1)
    status = json.loads((folder / "tune.json").read_text())
    assert status["state"] == "done"
    result = json.loads((folder / status["scored"]["run"] / "result.json").read_text())
    assert result["study"]["validation_accuracy"] == study.best_value
    assert "3 of 3 trials are finished" in finish(start(command))
    assert len(study.trials) == 4


def test_a_second_ctrl_c_stops_at_once_and_loses_nothing(corpus, tiny_encoder, home):
    endless = ("--trials", 1, "--max-epochs", 500, "--patience", 0)
    impatient = start(tune_command(corpus, tiny_encoder, home, "twice", *endless))
    until(impatient, EPOCH)
    impatient.send_signal(signal.SIGINT)
    impatient.send_signal(signal.SIGINT)
    impatient.communicate(timeout=120)
    assert impatient.returncode != 0
    assert states(study_of(home, "twice")) == ["FAIL", "WAITING"]


def test_two_workers_of_one_command_share_the_work_and_one_may_be_killed(corpus, tiny_encoder, home):
    long = ("--trials", 5, "--jobs", 2, "--no-final", "--max-epochs", 60)  # to be killed in the middle
    words = tune_command(corpus, tiny_encoder, home, "shared", *long)[3:]
    parent = start([sys.executable, "-c", f"import sys; from ser.cli import main; sys.exit(main({words}))"])
    seen: set[str] = set()
    while len(seen) < 2:  # until both are in the middle of a trial
        seen.add(until(parent, EPOCH).split()[0])
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    finish(parent)
    study = study_of(home, "shared")
    assert ended(study) == 5
    assert {"FAIL", "COMPLETE"} <= set(states(study)) <= {"FAIL", "COMPLETE", "PRUNED"}
    retried = [trial.system_attrs[RETRY_OF] for trial in study.trials if RETRY_OF in trial.system_attrs]
    assert retried == [trial.number for trial in study.trials if trial.state == TrialState.FAIL]


def test_a_nested_search_by_two_workers_prints_and_writes_what_it_measured(corpus, tiny_encoder, home):
    command = tune_command(corpus, tiny_encoder, home, "nest", "--trials", 2, "--nested", "--jobs", 2)
    output = finish(start(command))
    result = json.loads((home / "runs" / "nest" / "nested.json").read_text())
    assert [ended(study_of(home, f"nest-outer{number}")) for number in (1, 2, 3)] == [2, 2, 2]
    wa = result["pooled"]["wa"]
    assert f"{100 * wa['value']:.2f} % [{100 * wa['low']:.2f}, {100 * wa['high']:.2f}]" in output
    assert all(f"  fold {number} " in output for number in (1, 2, 3))
    assert "Tuned minus nested: WA " in output


def test_the_storage_may_come_from_the_environment(corpus, tiny_encoder, home, monkeypatch):
    monkeypatch.setitem(ENVIRONMENT, "SER_STORAGE", "nonsense")
    process = start(tune_command(corpus, tiny_encoder, home, "mine", "--trials", 1))
    assert "nonsense is no storage" in process.communicate(timeout=300)[0]


def test_a_study_of_another_corpus_is_refused_in_a_sentence(corpus, tiny_encoder, home, tmp_path):
    finish(start(tune_command(corpus, tiny_encoder, home, "mine", "--trials", 1, "--no-final")))
    other = write_tiny_corpus(tmp_path / "other")
    table = other / "metadata.csv"
    table.write_text("\n".join(table.read_text().splitlines()[:-3]) + "\n")
    process = start(tune_command(other, tiny_encoder, home, "mine", "--trials", 1))
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "was made with other corpus" in output
    assert "Traceback" not in output
