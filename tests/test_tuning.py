"""The search covers the paper's space, never hears a test speaker, prunes as it says, and survives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import asdict, replace

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from sklearn.metrics import f1_score
from tuning_support import BASE, EMOTIONS, ENCODER, SMALL_SPACE, Toy, small_search

import ser.training.lockstep
import ser.tuning.search
from ser.errors import JobError, SettingsError
from ser.scoring.predictions import read_predictions
from ser.training.crossval import Stopped
from ser.training.trainer import Training
from ser.tuning.liveness import BEAT, RETRY_OF, SILENT_S, WORKER, Watch, Worker, alive, give_back
from ser.tuning.search import Search, SeededByTrial, distribution, sampler, score_best, suggest
from ser.tuning.space import PAPER_BEST, SPACE, Range, TuningSettings, trial_settings
from ser.tuning.storage import open_storage, open_study, summary

PAPER_VALUES = {
    "base_units": [128, 160, 192, 224, 256],
    "final_units": [32, 64, 96, 128],
    "gru_layers": [1, 2],
    "learning_rate": [0.001, 0.002, 0.003, 0.004, 0.005, 0.006, 0.007, 0.008, 0.009, 0.01],
    "dropout": [0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5],
    "l2": [0.01, 0.013, 0.016, 0.019, 0.022, 0.025, 0.028],
    "optimizer": ["adam", "sgd", "rmsprop"],
}


@pytest.fixture
def toy(tmp_path) -> Toy:
    return Toy(tmp_path / "corpus")


@pytest.fixture
def storage(tmp_path):
    return open_storage(f"journal:{tmp_path / 'studies.journal'}")


def trials_in(study: optuna.Study, *states: TrialState) -> list:
    return study.get_trials(deepcopy=False, states=states or None)


def dead_worker() -> dict:
    """Attributes of a process of this machine that has ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return asdict(replace(Worker.this(), pid=ended.pid, started="1"))


@pytest.mark.parametrize("name", SPACE)
def test_the_space_is_the_papers(name):
    drawn = distribution(SPACE[name])
    assert all(drawn._contains(drawn.to_internal_repr(value)) for value in PAPER_VALUES[name])
    if isinstance(SPACE[name], Range):
        assert (drawn.low, drawn.high) == pytest.approx((PAPER_VALUES[name][0], PAPER_VALUES[name][-1]))
        assert len(PAPER_VALUES[name]) == round((drawn.high - drawn.low) / drawn.step) + 1
    else:
        assert list(drawn.choices) == PAPER_VALUES[name]


def test_every_draw_makes_settings_that_can_be_trained():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(60):
        trial = study.ask()
        parameters = suggest(trial, SPACE)
        settings = trial_settings(BASE, parameters)
        assert settings.classifier.base_units == parameters["base_units"]
        assert settings.training.l2 == pytest.approx(parameters["l2"])
        assert settings.training.max_epochs == BASE.training.max_epochs
        assert parameters["optimizer"] in PAPER_VALUES["optimizer"]
        for name in set(parameters) - {"optimizer"}:
            assert any(parameters[name] == pytest.approx(value) for value in PAPER_VALUES[name])


def test_tpe_is_set_up_as_in_the_paper_and_lies_about_running_trials_only_beside_other_workers():
    alone, beside = (sampler(TuningSettings(), 40, several) for several in (False, True))
    assert (alone._multivariate, alone._group, alone._n_startup_trials) == (True, True, 5)
    assert (alone._constant_liar, beside._constant_liar) == (False, True)
    defaults = TuningSettings()
    assert (defaults.trials, defaults.timeout_s, defaults.seed) == (10, 32_400, 40)
    assert isinstance(sampler(TuningSettings(sampler="cmaes"), 40, False), optuna.samplers.CmaEsSampler)


def test_no_trial_hears_a_test_speaker(toy, storage, monkeypatch):
    search = small_search(toy, trials=2)
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
    search.run(search.open(storage, "guarded"))
    assert guarded == [0, 1, 2] * 2
    with pytest.raises(AssertionError, match="test utterance"):
        Guard(set(folds[0].test)).gather([folds[0].test[0]], 3)


def test_the_value_is_the_mean_of_the_best_epochs_and_each_epoch_is_reported_once(toy, storage):
    search = small_search(toy)
    study = search.open(storage, "values")
    events = []
    search.run(study, events.append)
    for trial in study.trials:
        assert trial.state == TrialState.COMPLETE
        assert list(trial.intermediate_values) == [1, 2, 3]
        assert trial.value >= min(trial.intermediate_values.values())
        assert [event.epoch for event in events if event.number == trial.number] == [1, 2, 3, None]
        assert [event.kind for event in events if event.number == trial.number][-1] == "complete"


def test_the_best_trial_scored_anew_has_the_trials_validation_accuracy(toy, storage, tmp_path):
    search = small_search(toy)
    study = search.open(storage, "scored")
    search.run(study)
    folder, result = score_best(study, toy.corpus, toy, ENCODER, BASE, tmp_path / "runs")
    best = study.best_trial
    assert folder.name == f"trial_{best.number:03d}"
    assert result["study"]["validation_accuracy"] == best.value
    assert result["study"]["name"] == "scored"
    assert json.loads((folder / "result.json").read_text())["study"] == result["study"]
    assert (folder / "checkpoint" / "model.safetensors").exists()
    assert study.user_attrs["scored"]["wa"] == result["pooled"]["wa"]["value"]
    written = (folder / "predictions.csv").stat().st_mtime_ns
    assert score_best(study, toy.corpus, toy, ENCODER, BASE, tmp_path / "runs")[1] == result
    assert (folder / "predictions.csv").stat().st_mtime_ns == written  # the test speakers are heard once


def test_the_figures_of_the_best_trial_follow_from_the_saved_predictions(toy, storage, tmp_path):
    search = small_search(toy)
    study = search.open(storage, "recomputed")
    search.run(study)
    folder, _ = score_best(study, toy.corpus, toy, ENCODER, BASE, tmp_path / "runs")
    rows = read_predictions(folder / "predictions.csv")
    figures = study.user_attrs["scored"]
    right = [row["emotion"] == row["predicted"] for row in rows]
    assert figures["wa"] == pytest.approx(sum(right) / len(rows))
    recalls = [
        np.mean([ok for ok, row in zip(right, rows, strict=True) if row["emotion"] == emotion])
        for emotion in EMOTIONS
    ]
    assert figures["uar"] == pytest.approx(np.mean(recalls))
    columns = [[row[name] for row in rows] for name in ("emotion", "predicted")]
    assert figures["macro_f1"] == pytest.approx(f1_score(*columns, average="macro"))
    tested = {
        (utterance.speaker, str(number))
        for number, fold in enumerate(BASE.folds(toy.corpus), start=1)
        for utterance in (toy.corpus.utterances[index] for index in fold.test)
    }
    assert {(row["speaker"], row["fold"]) for row in rows} == tested


def test_a_study_without_a_completed_trial_has_none_to_score(toy, storage, tmp_path):
    study = small_search(toy).open(storage, "empty")
    with pytest.raises(JobError, match="none to score"):
        score_best(study, toy.corpus, toy, ENCODER, BASE, tmp_path)


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
    search = small_search(toy, trials=14, base=base)
    study = search.open(storage, "pruned")

    class Curve:
        """A lockstep without the work."""

        made = 0

        def __init__(self, *_):
            Curve.made += 1
            self.rng, self.epoch, self.best = np.random.default_rng(Curve.made), 0, 0.0

        done = property(lambda self: self.epoch == 21)

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
    expected = decide(values, order)
    pruned = {trial.number: trial.last_step for trial in trials_in(study, TrialState.PRUNED)}
    assert pruned == expected
    assert {5, 20} >= set(pruned.values()) >= {5}
    assert len(trials_in(study, TrialState.COMPLETE)) == 14 - len(pruned) > 0


def test_a_search_taken_up_again_goes_on_to_as_many_trials_in_all_and_draws_the_same(toy, storage):
    search = small_search(toy, trials=7)
    whole = search.open(storage, "whole")
    search.run(whole)
    small_search(toy, trials=2).run(small_search(toy).open(storage, "parts"))
    parts = search.open(storage, "parts")
    stops = iter([False] * 4)
    with pytest.raises(Stopped):
        search.run(parts, should_stop=lambda: next(stops, True))  # in the middle of the third trial
    assert [trial.state.name for trial in parts.trials] == ["COMPLETE", "COMPLETE", "FAIL", "WAITING"]
    search.run(parts)
    done = trials_in(parts, TrialState.COMPLETE)
    assert len(done) == 7
    assert [(trial.params, trial.value) for trial in done] == [
        (trial.params, trial.value) for trial in whole.trials
    ]
    search.run(parts)
    assert len(parts.trials) == 8  # nothing is left to do


def test_no_trial_starts_after_the_time_limit(toy, storage):
    search = small_search(toy, trials=50, timeout_s=1e-12)
    study = search.open(storage, "late")
    search.run(study)
    assert not study.trials


def test_the_papers_configuration_comes_first_when_asked_for(toy, storage):
    search = Search(toy.corpus, toy, ENCODER, BASE, TuningSettings(1, enqueue_paper=True))
    study = search.open(storage, "paper")
    search.open(storage, "paper")
    (queued,) = study.trials
    assert queued.state == TrialState.WAITING
    assert suggest(study.ask(), SPACE) == PAPER_BEST
    default = Search(toy.corpus, toy, ENCODER, BASE, TuningSettings(1)).open(storage, "default")
    assert not default.trials


def test_workers_with_one_seed_do_not_try_the_same(toy, storage):
    search = small_search(toy, space=SPACE)
    studies = [search.open(storage, "together") for _ in range(3)]
    drawn = [suggest(study.ask(), SPACE) for study in studies]
    assert all(drawn[one] != drawn[other] for one in range(3) for other in range(one))
    assert all(isinstance(study.sampler, SeededByTrial) for study in studies)


def other_corpus(toy: Toy) -> dict:
    return {"corpus": replace(toy.corpus, utterances=toy.corpus.utterances[:72])}


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("corpus", other_corpus),
        ("encoder", lambda toy: {"encoder": replace(ENCODER, fingerprint="another")}),
        ("encoder", lambda toy: {"encoder": replace(ENCODER, layer=1)}),
        ("space", lambda toy: {"space": {**SMALL_SPACE, "base_units": Range(2, 8, 2)}}),
        ("folds", lambda toy: {"base": replace(BASE, seed=41)}),
        ("settings", lambda toy: {"base": replace(BASE, training=replace(BASE.training, max_epochs=9))}),
    ],
)
def test_a_study_about_something_else_is_refused(toy, storage, what, change):
    words = {
        "corpus": toy.corpus, "features": toy, "encoder": ENCODER, "base": BASE, "settings": TuningSettings(),
        "space": SMALL_SPACE,
    }  # fmt: skip
    Search(**words).open(storage, "mine")
    Search(**{**words, "settings": TuningSettings(20, sampler="cmaes")}).open(storage, "mine")
    elsewhere = replace(ENCODER, source="/other/path")
    Search(**{**words, "encoder": elsewhere}).open(storage, "mine")
    with pytest.raises(SettingsError, match=f"other.* {what}"):
        Search(**{**words, **change(toy)}).open(storage, "mine")


def test_a_study_of_another_program_and_a_name_that_is_a_path_are_refused(toy, storage):
    optuna.create_study(study_name="theirs", storage=storage).add_trial(optuna.create_trial(value=1.0))
    with pytest.raises(SettingsError, match="not made by this program"):
        small_search(toy).open(storage, "theirs")
    for name in ("", "../up", "a/b", ".hidden", "x" * 81):
        with pytest.raises(SettingsError, match="named with"):
            open_study(storage, name, {})


@pytest.mark.parametrize(
    "wrong", [{"trials": 0}, {"timeout_s": 0}, {"timeout_s": float("nan")}, {"sampler": "grid"},
              {"reduction_factor": 1}]
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(SettingsError, match="got"):
        TuningSettings(**wrong)


def test_a_killed_workers_trial_is_failed_and_run_again_with_its_parameters(toy, storage):
    search = small_search(toy, trials=2)
    study = search.open(storage, "killed")
    lost = study.ask()
    parameters = suggest(lost, SMALL_SPACE)
    lost.set_user_attr(WORKER, dead_worker())
    events = []
    search.run(study, events.append)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert study.trials[1].params == parameters
    assert study.trials[1].user_attrs[RETRY_OF] == 0
    assert events[0].kind == "queued again"


def test_of_many_that_see_a_dead_worker_one_queues_its_trial(toy, storage, tmp_path):
    study = small_search(toy).open(storage, "raced")
    lost = study.ask()
    suggest(lost, SMALL_SPACE)
    lost.set_user_attr(WORKER, dead_worker())
    address = f"journal:{tmp_path / 'studies.journal'}"
    lookers = [optuna.load_study(study_name="raced", storage=open_storage(address)) for _ in range(8)]
    gate, found = threading.Barrier(8), []

    def look(one: optuna.Study) -> None:
        gate.wait()
        found.extend(Watch(one).reclaim())

    threads = [threading.Thread(target=look, args=(one,)) for one in lookers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [0]
    assert [trial.state.name for trial in study.trials] == ["FAIL", "WAITING"]


def test_a_worker_of_another_machine_is_dead_when_its_heartbeat_stands_still(toy, storage):
    study = small_search(toy).open(storage, "far")
    far = study.ask()
    suggest(far, SMALL_SPACE)
    far.set_user_attr(WORKER, asdict(replace(Worker.this(), machine="elsewhere")))
    now = [0.0]
    watch = Watch(study, clock=lambda: now[0])
    assert watch.reclaim() == []
    for beat in range(4):
        now[0] += SILENT_S - 1
        far.set_user_attr(BEAT, beat)
        assert watch.reclaim() == []
    now[0] += SILENT_S + 1
    assert watch.reclaim() == [far.number]


def test_a_living_worker_of_this_machine_keeps_its_trial_however_silent(toy, storage):
    study = small_search(toy).open(storage, "alive")
    trial = study.ask()
    now = [0.0]
    watch = Watch(study, clock=lambda: now[0])
    with alive(trial, interval_s=0.01):
        while BEAT not in study.trials[0].user_attrs:
            pass
        now[0] += 100 * SILENT_S
        assert watch.reclaim() == []
    assert study.trials[0].user_attrs[WORKER]["pid"] == os.getpid()


def test_a_worker_taken_for_dead_drops_its_trial_and_goes_on(toy, storage):
    search = small_search(toy, trials=2)
    study = search.open(storage, "late")
    events = []

    def listener(event):
        events.append(event.kind)
        if len(events) == 1:  # while the first trial runs
            assert give_back(study, study.trials[0])

    search.run(study, listener)
    assert "lost" in events
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE", "COMPLETE"]


def test_a_trial_that_fails_by_itself_says_why_and_is_not_tried_for_ever(toy, storage, monkeypatch):
    search = small_search(toy)
    study = search.open(storage, "broken")

    def broken(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(ser.tuning.search, "Lockstep", broken)
    with pytest.raises(RuntimeError):
        search.run(study)
    assert summary(study)["trials"][0]["error"] == "RuntimeError"
    assert [trial.state.name for trial in study.trials] == ["FAIL"]


def test_the_summary_is_plain_json(toy, storage):
    search = small_search(toy)
    study = search.open(storage, "told")
    assert summary(study)["best"] is None
    search.run(study)
    told = json.loads(json.dumps(summary(study)))
    assert told["counts"] == {"running": 0, "complete": 3, "pruned": 0, "fail": 0, "waiting": 0}
    assert told["best"]["value"] == study.best_value
    assert [row["epoch"] for row in told["trials"]] == [3, 3, 3]
    assert len(EMOTIONS) == 3


def test_cma_es_searches_too(toy, storage):
    search = small_search(toy, trials=6, sampler="cmaes", startup_trials=2)
    study = search.open(storage, "cmaes")
    search.run(study)
    assert len(trials_in(study, TrialState.COMPLETE)) == 6
