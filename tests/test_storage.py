"""A storage is opened or refused with a sentence, and a journal outlives writers that are killed."""

from __future__ import annotations

import json
import multiprocessing
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from ser.errors import SettingsError
from ser.tuning.storage import KernelLock, default_storage, open_storage, without_password

FORK = multiprocessing.get_context("fork")  # a new interpreter would take seconds to import torch


def write(address: str, trials: int, told: Path) -> None:
    """Run trials of ten reports, and tell each in a file when it is in the storage."""
    study = optuna.load_study(study_name="s", storage=open_storage(address))
    for _ in range(trials):
        trial = study.ask()
        value = trial.suggest_float("x", 0, 1)
        for epoch in range(1, 11):
            trial.report(value, epoch)
        study.tell(trial, value)
        with told.open("a") as file:
            file.write(f"{trial.number}\n")


def addresses(tmp_path) -> dict[str, str]:
    return {"journal": default_storage(tmp_path), "sqlite": f"sqlite:///{tmp_path / 'studies.db'}"}


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_what_one_opening_writes_another_reads(tmp_path, kind):
    address = addresses(tmp_path)[kind]
    optuna.create_study(study_name="s", storage=open_storage(address)).set_user_attr("a", 1)
    assert optuna.load_study(study_name="s", storage=open_storage(address)).user_attrs == {"a": 1}


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("nonsense", "is no storage"),
        ("grpc://nowhere", "is no storage"),
        ("oracle+nothing://u:secret@h/d", "cannot be opened|is no storage"),
        ("sqlite:////nowhere/at/all.db", "cannot be opened"),
        ("postgresql://me:secret@127.0.0.1:1/none", "cannot be opened|not installed"),
    ],
)
def test_a_storage_that_is_not_there_is_refused_without_showing_a_password(monkeypatch, address, message):
    monkeypatch.setattr("ser.tuning.storage.CREATE_PAUSE_S", 0.0)
    with pytest.raises(SettingsError, match=message) as refusal:
        open_storage(address)
    assert "secret" not in str(refusal.value)


def test_an_address_is_shown_without_its_password():
    assert without_password("postgresql://me:secret@host/db") == "postgresql://me:***@host/db"
    assert without_password("journal:/a/b") == "journal:/a/b"


def test_a_line_that_was_cut_off_does_not_spoil_the_next(tmp_path):
    address = default_storage(tmp_path)
    optuna.create_study(study_name="s", storage=open_storage(address))
    path = tmp_path / "studies.journal"
    with path.open("ab") as file:
        file.write(b'{"op_code":2,"worker')
    study = optuna.load_study(study_name="s", storage=open_storage(address))
    study.set_user_attr("a", 1)
    assert [json.loads(line)["op_code"] for line in path.read_text().splitlines()] == [0, 2]


def hold(path: Path, told: Path) -> None:
    """Take a lock and keep it."""
    KernelLock(path).acquire()
    told.touch()
    time.sleep(600)


def test_the_lock_of_a_killed_process_is_free_at_once(tmp_path):
    told = tmp_path / "told"
    holder = FORK.Process(target=hold, args=(tmp_path / "lock", told))
    holder.start()
    while not told.exists():
        time.sleep(0.001)
    holder.kill()
    holder.join()
    lock = KernelLock(tmp_path / "lock")
    assert lock.acquire()
    lock.release()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_two_processes_write_at_once_and_nothing_is_lost(tmp_path, kind):
    address, each, told = addresses(tmp_path)[kind], 40, tmp_path / "told"
    optuna.create_study(study_name="s", storage=open_storage(address))
    started = time.monotonic()
    writers = [FORK.Process(target=write, args=(address, each, told)) for _ in range(2)]
    for one in writers:
        one.start()
    for one in writers:
        one.join()
    print(f"{kind}: {time.monotonic() - started:.1f} s for {2 * each} trials from two processes")
    assert [one.exitcode for one in writers] == [0, 0]
    assert sorted(map(int, told.read_text().split())) == list(range(2 * each))
    for trial in optuna.load_study(study_name="s", storage=open_storage(address)).trials:
        assert trial.state == TrialState.COMPLETE
        assert trial.intermediate_values == dict.fromkeys(range(1, 11), trial.value)


@pytest.mark.slow
def test_a_journal_outlives_two_dozen_killed_writers(tmp_path):
    address, told = default_storage(tmp_path), tmp_path / "told"
    optuna.create_study(study_name="s", storage=open_storage(address))
    told.touch()
    for kill in range(24):
        before = told.stat().st_size
        one = FORK.Process(target=write, args=(address, 10_000, told))
        one.start()
        while told.stat().st_size == before:
            time.sleep(0.001)
        time.sleep(0.002 * kill)
        one.kill()
        one.join()
    study = optuna.load_study(study_name="s", storage=open_storage(address))
    study.set_user_attr("alive", True)
    complete = {trial.number for trial in study.trials if trial.state == TrialState.COMPLETE}
    assert {int(number) for number in told.read_text().split()} <= complete
    assert sum(trial.state == TrialState.RUNNING for trial in study.trials) <= 24
