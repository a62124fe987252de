"""The search covers the paper's space, begins with its best trial, never hears a test speaker, prunes and resumes."""

from __future__ import annotations

import json
import multiprocessing
import time
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from unittest.mock import Mock

import numpy as np
import optuna
import pytest
from optuna.distributions import IntDistribution
from optuna.trial import TrialState
from sklearn.metrics import accuracy_score, f1_score, recall_score
from training_support import BASE, ENCODER, SMALL_SPACE, Toy, small_search

import ser.training.lockstep
import ser.tuning.search
from ser.classifier.bigru import ClassifierSettings
from ser.classifier.checkpoint import load_checkpoint
from ser.errors import JobError, SettingsError, Stopped
from ser.scoring.predictions import read_predictions
from ser.training.trainer import Diverged, Training
from ser.tuning.nested import outer_searches, score_nested
from ser.tuning.sampler import sampler
from ser.tuning.search import NOT_NESTED, Search
from ser.tuning.space import SPACE, TuningSettings, suggest, trial_settings
from ser.tuning.storage import FINISHED, default_storage, open_storage, seconds_used, summary, without_password

FORK = multiprocessing.get_context("fork")  # a new interpreter would take seconds to import torch
PAPER_BEST = {"base_units": 192, "final_units": 32, "gru_layers": 2, "learning_rate": 0.003, "dropout": 0.2,
              "l2": 0.016, "optimizer": "sgd"}  # fmt: skip
PAPER_VALUES = {
    "base_units": [128, 160, 192, 224, 256], "final_units": [32, 64, 96, 128], "gru_layers": [1, 2],
    "learning_rate": [0.001, 0.002, 0.003, 0.004, 0.005, 0.006, 0.007, 0.008, 0.009, 0.01],
    "dropout": [0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5],
    "l2": [0.01, 0.013, 0.016, 0.019, 0.022, 0.025, 0.028], "optimizer": ["adam", "rmsprop", "sgd"],
}  # fmt: skip


def noisy(root) -> Toy:
    return Toy(root, 96, (3, 6), 0.7)


class Moment:
    """A lockstep of a moment, as long for each worker."""

    done = True
    best_validation_accuracy = staticmethod(lambda: 0.5)

    def __init__(self, *_):
        time.sleep(0.2)


@pytest.fixture
def toy(tmp_path) -> Toy:
    return noisy(tmp_path / "corpus")


@pytest.fixture
def storage():
    return optuna.storages.InMemoryStorage()


@pytest.fixture
def database(tmp_path):
    return open_storage(default_storage(tmp_path))


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A search of three trials that has been run: itself, its study and its events."""
    search, events = small_search(noisy(tmp_path_factory.mktemp("searched"))), []
    study = search.open(optuna.storages.InMemoryStorage(), "searched")
    assert summary(study)["best"] is None
    with pytest.raises(JobError, match="none to score"):
        search.score_best(study, tmp_path_factory.mktemp("nothing"))
    search.run(study, events.append)
    return search, study, events


def opened(search: Search, storage, name: str = "mine") -> tuple[Search, optuna.Study]:
    return search, search.open(storage, name)


def fail(database, trial) -> None:
    database.set_trial_state_values(trial._trial_id, TrialState.FAIL)


def trials_in(study: optuna.Study, *states: TrialState) -> list:
    return study.get_trials(deepcopy=False, states=states or None)


def states(study: optuna.Study) -> list[str]:
    return [trial.state.name for trial in study.trials]


def test_the_space_is_the_papers_and_every_draw_makes_settings_that_can_be_trained():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    drawn = [suggest(study.ask(), SPACE) for _ in range(300)]
    for name, values in PAPER_VALUES.items():
        assert sorted({trial[name] for trial in drawn}) == pytest.approx(values)
    for parameters in drawn[:60]:
        settings = trial_settings(BASE, parameters)
        assert settings.classifier.base_units == parameters["base_units"]
        assert settings.training.l2 == pytest.approx(parameters["l2"])
        assert settings.training.max_epochs == BASE.training.max_epochs


@pytest.mark.parametrize("kind", ["tpe", "cmaes"])
def test_the_first_draw_of_seed_40_is_the_papers_best_configuration(toy, storage, kind):
    search = Search(toy.corpus, toy, ENCODER, BASE, TuningSettings(sampler=kind))
    parameters = suggest(search.open(storage, "paper").ask(), SPACE)
    assert parameters == pytest.approx(PAPER_BEST)
    best = trial_settings(BASE, parameters)
    assert best.classifier == ClassifierSettings()
    assert best.training == replace(BASE.training, learning_rate=0.003, l2=0.016, optimizer="sgd")


def test_one_worker_draws_what_the_papers_sampler_draws(toy, storage):
    defaults = TuningSettings()
    assert (defaults.trials, defaults.timeout_s, defaults.seed) == (10, 32_400, 40)
    assert sampler(defaults, 40)._group  # which makes no difference to this space
    papers = optuna.samplers.TPESampler(seed=40, multivariate=True, group=True, n_startup_trials=5)
    plain = optuna.create_study(direction="maximize", sampler=papers)
    ours = small_search(toy, trials=10, space=SPACE).open(storage, "ours")
    for number in range(10):
        for study in (plain, ours):
            trial = study.ask()
            suggest(trial, SPACE)
            study.tell(trial, float(np.sin(number)))
    assert [trial.params for trial in ours.trials] == [trial.params for trial in plain.trials]


def test_no_trial_hears_a_test_speaker(toy, storage, monkeypatch):
    search, study = opened(small_search(toy, trials=2), storage)
    folds = BASE.folds(toy.corpus)
    guarded = []

    class Guard:
        def __init__(self, test: set[int]) -> None:
            self.test = test

        def gather(self, indices, max_frames):
            assert not self.test & set(indices), "a test utterance was read"
            return toy.gather(indices, max_frames)

    class GuardedTraining(Training):
        def __init__(self, data, *others, stream=0):
            guarded.append(stream)
            guard = Guard(set(folds[stream].test))
            super().__init__(replace(data, features=guard), *others, stream=stream)

    monkeypatch.setattr(ser.training.lockstep, "Training", GuardedTraining)
    search.run(study)
    assert guarded == [0, 1, 2] * 2


def test_the_value_is_the_mean_of_the_best_epochs_and_each_epoch_is_reported_once(searched):
    _, study, events = searched
    assert states(study) == ["COMPLETE"] * 3
    for trial in study.trials:
        assert list(trial.intermediate_values) == [1, 2, 3]
        assert trial.value >= min(trial.intermediate_values.values())
        own = [event for event in events if event.number == trial.number]
        assert [event.epoch for event in own] == [1, 2, 3, None]
        assert own[-1].kind == "complete"
    content = json.loads(json.dumps(summary(study)))
    assert content["counts"] == {"running": 0, "complete": 3, "pruned": 0, "fail": 0, "waiting": 0}
    assert content["best"]["value"] == study.best_value
    assert [row["epoch"] for row in content["trials"]] == [3, 3, 3]


def test_the_best_trial_scored_anew_has_the_trials_validation_accuracy(searched, tmp_path):
    search, study, _ = searched
    folder, result = search.score_best(study, tmp_path)
    assert folder.name == f"trial_{study.best_trial.number:03d}"
    told = result["study"]
    assert (told["validation_accuracy"], told["name"]) == (study.best_trial.value, "searched")
    assert json.loads((folder / "result.json").read_text())["study"] == told
    assert (folder / "checkpoint" / "model.safetensors").exists()
    conditions = load_checkpoint(folder / "checkpoint")[0].scores["conditions"]
    assert all(NOT_NESTED in words for words in (result["protocol"], conditions))
    written = (folder / "predictions.csv").stat().st_mtime_ns
    assert search.score_best(study, tmp_path)[1] == result
    assert (folder / "predictions.csv").stat().st_mtime_ns == written  # the test speakers are heard once

    rows, figures = read_predictions(folder / "predictions.csv"), study.user_attrs["scored"]
    columns = [[row[name] for row in rows] for name in ("emotion", "predicted")]
    assert figures["wa"] == pytest.approx(accuracy_score(*columns)) == result["pooled"]["wa"]["value"]
    assert figures["uar"] == pytest.approx(recall_score(*columns, average="macro"))
    assert figures["macro_f1"] == pytest.approx(f1_score(*columns, average="macro"))
    utterances = search.corpus.utterances
    assert {(row["speaker"], row["fold"]) for row in rows} == {
        (utterances[index].speaker, str(number))
        for number, fold in enumerate(BASE.folds(search.corpus), start=1)
        for index in fold.test
    }


def decide(values: dict[int, dict[int, float]], order: list[tuple[int, int]]) -> dict[int, int]:
    """Successive halving written anew: trial -> the epoch it is pruned at; `order` is that of the reports."""
    rungs: dict[int, list[float]] = {5: [], 20: [], 80: []}
    pruned = {}
    for trial, epoch in order:
        if epoch in rungs:
            rungs[epoch].append(values[trial][epoch])
            going_on = max(1, len(rungs[epoch]) // 4)
            if values[trial][epoch] < sorted(rungs[epoch], reverse=True)[going_on - 1]:
                pruned[trial] = epoch
    return pruned


def test_the_pruners_decisions_follow_from_the_reports(toy, storage, monkeypatch):
    base = replace(BASE, training=replace(BASE.training, max_epochs=21))
    search, study = opened(small_search(toy, trials=14, base=base), storage)

    class Curve:
        """A lockstep without the work."""

        made = 0
        done = property(lambda self: self.epoch == 21)

        def __init__(self, *_):
            Curve.made += 1
            self.rng, self.epoch, self.best = np.random.default_rng(Curve.made), 0, 0.0

        def run_epoch(self, after_fold):
            self.epoch += 1
            self.now = float(self.rng.random())
            self.best = max(self.best, self.now)
            return self.epoch

        def validation_accuracy(self):
            return self.now

        def best_validation_accuracy(self):
            return self.best

    monkeypatch.setattr(ser.tuning.search, "Lockstep", Curve)
    order = []
    search.run(study, lambda event: event.epoch and order.append((event.number, event.epoch)))
    values = {trial.number: trial.intermediate_values for trial in study.trials}
    pruned = {trial.number: trial.last_step for trial in trials_in(study, TrialState.PRUNED)}
    assert pruned == decide(values, order)
    assert {5, 20} >= set(pruned.values()) >= {5}
    assert len(trials_in(study, TrialState.COMPLETE)) == 14 - len(pruned) > 0


def test_a_resumed_search_finishes_as_many_trials_in_all_and_draws_the_same(toy, database):
    search, whole = opened(small_search(toy, trials=7), database, "whole")  # two after the start-up trials
    search.run(whole)
    first, parts = opened(small_search(toy, trials=2), database, "parts")
    first.run(parts)
    stops = iter([False] * 6)
    with pytest.raises(Stopped):  # in the middle of the third trial
        search.run(search.open(database, "parts"), should_stop=lambda: next(stops, True))
    assert states(parts) == ["COMPLETE", "COMPLETE", "FAIL", "WAITING"]
    again, parts = opened(small_search(toy, trials=7), database, "parts")
    again.run(parts)
    done = trials_in(parts, TrialState.COMPLETE)
    assert [(one.params, one.value) for one in done] == [(one.params, one.value) for one in whole.trials]
    assert summary(parts)["queued_again"] == 1
    search.run(parts)
    assert len(parts.trials) == 8  # nothing is left to do


def test_no_trial_starts_after_the_time_limit_however_often_the_search_is_resumed(toy, database):
    first, study = opened(small_search(toy, trials=1), database)
    first.run(study)
    used_s = seconds_used(study)
    assert 0 < used_s < 60
    search, study = opened(small_search(toy, trials=50, timeout_s=used_s), database)
    search.run(study)
    assert len(study.trials) == 1


def test_seconds_of_trials_side_by_side_count_once():
    study = optuna.create_study()
    for begin, seconds in ((0, 10), (5, 10), (7, 2), (100, 1)):
        trial = optuna.create_trial(value=0.0, user_attrs={"seconds": seconds})
        trial.datetime_start = trial.datetime_complete = datetime(2026, 1, 1) + timedelta(seconds=begin)
        study.add_trial(trial)
    assert seconds_used(study) == 16


@pytest.mark.parametrize("kind", ["tpe", "cmaes"])
def test_workers_never_repeat_each_others_draws_and_start_as_one_would(toy, database, kind):
    """Each joins between two trials, when none runs that could tell of the others."""
    search, together = opened(small_search(toy, space=SPACE, sampler=kind), database, "together")
    plain, drawn, alone = search.open(database, "plain"), [], []
    for number in range(9):
        worker = search.open(database, "together") if number % 3 else together
        for study, parameters in ((worker, drawn), (plain, alone)):
            trial = study.ask()
            parameters.append(suggest(trial, SPACE))
            study.tell(trial, float(np.sin(number)))
    assert drawn[0] == pytest.approx(PAPER_BEST)
    assert all(drawn[one] != drawn[other] for one in range(9) for other in range(one))
    assert kind == "cmaes" or drawn == alone


def work(search: Search, address: str) -> None:
    search.run(search.open(open_storage(address), "raced"))


def test_workers_that_ask_for_the_last_trial_at_once_do_not_overshoot(toy, tmp_path, database, monkeypatch):
    monkeypatch.setattr(ser.tuning.search, "Lockstep", Moment)
    search, study = opened(small_search(toy, trials=5), database, "raced")
    workers = [FORK.Process(target=work, args=(search, default_storage(tmp_path))) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert len(trials_in(study, *FINISHED)) == 5
    counts = {"complete": 5, "pruned": 0, "running": 0, "waiting": 0, "fail": 0}
    assert summary(study)["counts"] == counts


def test_a_trial_being_queued_again_keeps_its_place_and_is_queued_anew_when_it_comes_too_early(
    toy, database, monkeypatch
):
    """One more trial was asked for while a dead worker's was being noticed; it is about to be dropped."""
    monkeypatch.setattr("ser.tuning.storage.QUEUE_S", 1)
    search, study = opened(small_search(toy, trials=1), database)
    killed, other = study.ask(), study.ask()
    suggest(killed, SMALL_SPACE)
    fail(database, killed)  # Optuna does this first, then the other
    assert search.is_surplus(other)
    database.get_heartbeat_stale_trial_callback()(study, study.trials[0])
    assert search.is_surplus(other)
    ser.tuning.search._Objective(search, lambda event: None, lambda: False).optimize(study)
    assert states(study) == ["FAIL", "RUNNING", "FAIL", "WAITING"]
    study.tell(other, state=TrialState.FAIL)
    search.run(study)
    assert states(study) == ["FAIL", "FAIL", "FAIL", "COMPLETE"]
    assert study.trials[3].params == killed.params


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("corpus", lambda old: {"corpus": replace(old, utterances=old.utterances[:72])}),
        ("encoder", lambda _: {"encoder": replace(ENCODER, fingerprint="another")}),
        ("encoder", lambda _: {"encoder": replace(ENCODER, layer=1)}),
        ("space", lambda _: {"space": {**SMALL_SPACE, "base_units": IntDistribution(2, 8, step=2)}}),
        ("folds", lambda _: {"base": replace(BASE, seed=41)}),
        ("settings", lambda _: {"base": replace(BASE, training=replace(BASE.training, max_epochs=9))}),
    ],
)
def test_a_study_about_something_else_is_refused(toy, storage, what, change):
    words = {"corpus": toy.corpus, "features": toy, "encoder": ENCODER, "base": BASE, "space": SMALL_SPACE}
    words["settings"] = TuningSettings()
    Search(**words).open(storage, "mine")
    for same in ({"settings": TuningSettings(20, sampler="cmaes")}, {"encoder": replace(ENCODER, source="/x")}):
        Search(**words | same).open(storage, "mine")
    with pytest.raises(SettingsError, match=f"other.* {what}"):
        Search(**words | change(toy.corpus)).open(storage, "mine")


def test_a_study_of_another_program_and_a_name_that_is_a_path_are_refused(toy, storage):
    optuna.create_study(study_name="theirs", storage=storage).add_trial(optuna.create_trial(value=1.0))
    with pytest.raises(SettingsError, match="made with other corpus"):
        small_search(toy).open(storage, "theirs")
    for name in ("", "../up", "a/b", ".hidden", "x" * 81):
        with pytest.raises(SettingsError, match="named with"):
            small_search(toy).open(storage, name)


@pytest.mark.parametrize(
    ("name", "value"),
    [("trials", 0), ("timeout_s", 0), ("timeout_s", float("nan")), ("sampler", "grid"), ("reduction_factor", 1)],
)
def test_settings_that_make_no_sense_are_refused(name, value):
    with pytest.raises(SettingsError, match="got"):
        TuningSettings(**{name: value})


def work_for_ever(search: Search, address: str, parameters: dict) -> None:
    """A worker in the middle of a trial."""
    study = search.open(open_storage(address), "shared")

    def objective(trial: optuna.Trial) -> float:
        parameters.update(suggest(trial, search.space))
        time.sleep(600)
        raise AssertionError

    study.optimize(objective)


@pytest.fixture
def another(toy, tmp_path, monkeypatch):
    """A search, another worker in the middle of its first trial, and the trial's parameters."""
    monkeypatch.setattr("ser.tuning.storage.HEARTBEAT_S", 1)
    monkeypatch.setattr("ser.tuning.storage.GRACE_S", 3)
    search = small_search(toy, trials=2, space=SPACE)
    with FORK.Manager() as manager:
        parameters = manager.dict()
        worker = FORK.Process(target=work_for_ever, args=(search, default_storage(tmp_path), parameters))
        worker.start()
        while len(parameters) < len(SPACE):
            time.sleep(0.01)
        yield search, worker, dict(parameters)
        worker.kill()
        worker.join()


@pytest.mark.slow
def test_a_killed_workers_trial_is_queued_again_exactly_once_and_all_is_as_if_it_had_lived(another, database):
    search, worker, parameters = another
    worker.kill()
    worker.join()
    study = search.open(database, "shared")
    assert states(study) == ["RUNNING"]
    search.run(study)
    assert states(study) == ["FAIL", "COMPLETE", "COMPLETE"]  # it was noticed beside the second
    assert study.trials[2].params == parameters
    assert summary(study)["queued_again"] == 1
    undisturbed = search.open(database, "undisturbed")
    search.run(undisturbed)
    assert [trial.params for trial in undisturbed.trials] == [study.trials[2].params, study.trials[1].params]


@pytest.mark.slow
def test_a_worker_that_joins_another_tries_something_else_and_repeats_its_trial_if_it_dies(another, database):
    search, worker, parameters = another
    study = search.open(database, "shared")
    search.run(study, lambda event: worker.kill() if event.kind == "complete" else None)
    assert states(study) == ["FAIL", "COMPLETE", "COMPLETE"]
    assert study.trials[2].params == parameters
    plain = search.open(optuna.storages.InMemoryStorage(), "plain")
    assert [parameters, study.trials[1].params] == [suggest(plain.ask(), SPACE) for _ in range(2)]


def test_a_worker_taken_for_dead_drops_its_trial_and_continues(toy, database, monkeypatch):
    monkeypatch.setattr("ser.tuning.storage.QUEUE_S", 1)
    search, study = opened(small_search(toy, trials=2), database)
    kinds = []

    def listener(event):
        kinds.append(event.kind)
        if len(kinds) == 1:  # while the first trial runs
            fail(database, study.trials[0])

    search.run(study, listener)
    assert "lost" in kinds
    assert states(study) == ["FAIL", "COMPLETE", "COMPLETE"]


def test_a_trial_that_fails_by_itself_says_why_and_does_not_block_the_study(toy, database, monkeypatch):
    class Broken(Moment):
        """The first configuration breaks it, each time."""

        def __init__(self, data, folds, *configuration):
            tried.append(configuration)
            if configuration == tried[0]:
                raise RuntimeError("out of memory")

    tried: list = []
    monkeypatch.setattr(ser.tuning.search, "Lockstep", Broken)
    search, study = opened(small_search(toy, trials=3), database)
    with pytest.raises(RuntimeError):
        search.run(study)
    assert summary(study)["trials"][0]["error"] == "RuntimeError"
    assert states(study) == ["FAIL"]
    search.run(search.open(database, "mine"))
    assert states(study) == ["FAIL", *["COMPLETE"] * 3]


def test_a_trial_that_diverges_at_once_is_pruned(toy, database, monkeypatch):
    monkeypatch.setattr(ser.tuning.search, "Lockstep", Mock(side_effect=Diverged("not finite")))
    search, study = opened(small_search(toy, trials=2), database)
    search.run(study)
    assert states(study) == ["PRUNED", "PRUNED"]
    assert summary(study)["best"] is None


def test_a_nested_search_never_hears_the_speakers_it_tests(toy, storage, tmp_path, monkeypatch):
    search, study = opened(small_search(toy, trials=2), storage, "whole")
    search.run(study)
    tuned, _ = search.score_best(study, tmp_path)
    outer = outer_searches(search, storage, "whole")
    gathered: list[int] = []
    gather = toy.gather
    monkeypatch.setattr(toy, "gather", lambda some, most: gathered.extend(some) or gather(some, most))
    speaker_of = np.array([utterance.speaker for utterance in toy.corpus.utterances])
    for (one, inner), fold in zip(outer, BASE.folds(toy.corpus), strict=True):
        gathered.clear()
        one.run(inner)
        assert one.test_fold == fold
        assert gathered
        assert not set(speaker_of[gathered]) & set(speaker_of[list(fold.test)])
    score = partial(score_nested, outer, tmp_path, tuned, *[lambda *_: False] * 2)
    result = score()
    assert json.loads((tmp_path / "nested.json").read_text()) == result
    rows = read_predictions(tmp_path / "nested.csv")
    right = np.array([row["emotion"] == row["predicted"] for row in rows])
    assert result["pooled"]["wa"]["value"] == pytest.approx(right.mean())
    for number, (one, (_, inner)) in enumerate(zip(result["folds"], outer, strict=True), start=1):
        assert (one["study"], one["parameters"]) == (f"whole-outer{number}", inner.best_trial.params)
        mine = right[[row["fold"] == str(number) for row in rows]]
        assert one["wa"]["value"] == pytest.approx(mine.mean())
    before = [row["emotion"] == row["predicted"] for row in read_predictions(tuned / "predictions.csv")]
    gain = np.mean(before) - right.mean()
    assert result["tuned_minus_nested"]["wa"]["value"] == pytest.approx(gain)
    gathered.clear()
    assert score() == result
    assert not gathered  # nothing was tested again
    with pytest.raises(SettingsError, match=r"other.* folds"):
        search.open(storage, "whole-outer1")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("nonsense", "is no storage"), ("grpc://nowhere", "is no storage"),
        ("journal:/runs/studies.journal", "Start a new one with sqlite"),
        ("oracle+nothing://u:secret@h/d", "cannot be opened|is no storage"),
        ("sqlite:////nowhere/at/all.db", "cannot be opened"),
        ("postgresql://me:secret@127.0.0.1:1/none", "cannot be opened|not installed"),
        ("mysql://me:secret@127.0.0.1:1/none", r"cannot be opened|\(.*\): .*mysqlclient for mysql"),
    ],
)  # fmt: skip
def test_a_storage_that_is_not_there_is_refused_without_showing_a_password(monkeypatch, address, message):
    monkeypatch.setattr("ser.tuning.storage.CREATE_PAUSE_S", 0.0)
    with pytest.raises(SettingsError, match=message) as refusal:
        open_storage(address)
    assert "secret" not in str(refusal.value)


def test_the_drivers_that_are_named_are_those_of_the_addresses():
    from sqlalchemy.engine import make_url

    names = {name: make_url(f"{name}://host/db").get_dialect().driver for name in ("postgresql", "mysql")}
    assert names == {"postgresql": "psycopg", "mysql": "mysqldb"}  # the module of the package mysqlclient


def test_an_address_is_shown_without_its_password():
    assert without_password("postgresql://me:secret@host/db") == "postgresql://me:***@host/db"
    assert without_password("postgresql://me:se:cr@t@host/db") == "postgresql://me:***@host/db"
    assert without_password("sqlite:////a/b") == "sqlite:////a/b"
