"""The tab Tune makes the commands it says, shows a study as it stands, and lets only the owner change something."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import gradio as gr
import pytest

from ser.errors import JobError, SettingsError
from ser.ui import jobs
from ser.ui.context import Context
from ser.ui.corpora import DEMO
from ser.ui.jobs import JobStatus
from ser.ui.presses import Outcome, Presses
from ser.ui.runs import LATEST
from ser.ui.settings import AppSettings
from ser.ui.tune import N_OUTPUTS, STATUS, TuneDesk, preset, search_words
from ser.ui.tune_texts import TEXTS, say
from ser.ui.tune_view import dashboard_frame, study_box

STUDY = "tune-20261123-101112-shemo"
COMMAND = ("tune", "--study", STUDY, "--trials", "10", "--timeout", "60")
ROW = {"state": "complete", "epoch": 9, "validation_accuracy": 0.61, "error": None}
BEST = {**ROW, "number": 2, "value": 0.654321, "parameters": {"l2": 0.016000000001, "optimizer": "sgd"}}
RUNNING = {**ROW, "number": 5, "state": "running", "value": None, "epoch": 3, "parameters": {}}
TOLD = {
    "state": "searching", "n_trials": 10, "started": 1000.0, "timeout_s": 600, "study_id": 4, "best": BEST,
    "trials": [BEST, RUNNING], "scored": None, "queued_again": 2,
    "counts": {"complete": 3, "pruned": 1, "running": 1, "waiting": 0, "fail": 2},
}  # fmt: skip


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context.of(AppSettings(data=tmp_path / "data", data_is_temporary=False))


@pytest.fixture
def desk(context: Context) -> TuneDesk:
    return TuneDesk(context)


def write_study(desk: TuneDesk, told: dict | None = TOLD, exit_code: int | None = 1) -> Path:
    folder = desk.runs.folder / STUDY
    folder.mkdir(parents=True)
    job = {"pid": 1, "command": list(COMMAND), "started": "", "exit_code": exit_code}
    (folder / jobs.JOB).write_text(json.dumps(job))
    if told is not None:
        (folder / STATUS).write_text(json.dumps(told))
    return folder


@pytest.fixture
def started(monkeypatch) -> list[list[str]]:
    """Commands of jobs, which are not run."""
    commands: list[list[str]] = []
    monkeypatch.setattr(jobs, "start", lambda words, *_, **__: commands.append(list(words)))
    return commands


def test_the_papers_values_are_offered_for_a_real_corpus():
    assert preset("shemo") == [10, 540, 150, 3]
    assert 60 * preset("shemo")[1] == 32_400
    assert preset(DEMO)[2] < 150


def test_values_become_the_words_of_the_command():
    words = search_words([10, 540, 150, 3, "cmaes"])
    assert words == [
        "--trials", "10", "--timeout", "32400", "--max-epochs", "150", "--patience", "3", "--sampler", "cmaes",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "values",
    [
        [0, 1, 1, 0, "tpe"],
        [1, 1, 1, 0.5, "tpe"],
        [1, float("nan"), 1, 0, "tpe"],
        [1, None, 1, 0, "tpe"],
        ["10", 1, 1, 0, "tpe"],
        [1, 1, 1, 0, "--storage"],
        [1, 1, 1, "tpe"],
    ],
)
def test_values_that_make_no_sense_are_refused(values):
    with pytest.raises(SettingsError, match="got"):
        search_words(values)


def test_start_makes_a_study_of_its_own_name(desk, started, monkeypatch):
    monkeypatch.setattr(desk.corpora, "folder", lambda name: Path("/corpora") / name)
    assert desk.start("demonstration", desk.encoders.names[0], 10, 20, 8, 3, "tpe") == Outcome("started")
    (words,) = started
    assert words[0] == "tune"
    assert words[words.index("--study") + 1].endswith("-demonstration")
    assert words[words.index("--out") + 1] == str(desk.runs.folder)
    with pytest.raises(SettingsError):
        desk.start("../etc", "nothing", 10, 20, 8, 3, "tpe")


def test_nothing_is_started_beside_another_training(desk, started, monkeypatch):
    monkeypatch.setattr(jobs, "is_running", lambda folder: folder == desk.data)
    with pytest.raises(JobError, match="one at a time"):
        desk.start("demonstration", desk.encoders.names[0], 10, 20, 8, 3, "tpe")
    assert started == []


def test_only_a_study_that_ended_early_goes_on_and_as_it_was_started(desk, started):
    assert desk.go_on(LATEST).is_problem
    folder = write_study(desk)
    assert desk.go_on(STUDY) == Outcome("continued")
    job = json.loads((folder / jobs.JOB).read_text())
    (folder / jobs.JOB).write_text(json.dumps(job | {"command": [*COMMAND, "--trials", "4"]}))
    desk.go_on(STUDY)
    assert started == [list(COMMAND)] * 2


def test_the_best_trial_is_trained_before_it_is_used(desk, started, monkeypatch):
    replaced: list[Path] = []
    monkeypatch.setattr(desk.context.model, "replace", replaced.append)
    assert desk.use(LATEST) == Outcome("no_model", is_problem=True)
    folder = write_study(desk)
    assert desk.use(LATEST) == Outcome("training_best")
    assert started == [[*COMMAND, "--trials", "4"]]  # as many as were completed or pruned
    assert replaced == []
    model = folder / "trial_002" / "checkpoint"
    model.mkdir(parents=True)
    (model / "model.json").write_text("{}")
    for trial, outcome in ((1, "training_best"), (2, "in_use")):
        scored = {"trial": trial, "run": f"trial_{trial:03d}", "wa": 0.5, "uar": 0.4}
        (folder / STATUS).write_text(json.dumps({**TOLD, "scored": scored}))
        assert desk.use(LATEST).key == outcome
    assert replaced == [model]


def test_a_running_study_is_neither_used_nor_continued(desk, started, monkeypatch):
    write_study(desk)
    monkeypatch.setattr(jobs, "is_running", lambda folder: True)
    assert desk.use(LATEST) == Outcome("still_running", is_problem=True)
    assert desk.go_on(LATEST) == Outcome("not_continued", is_problem=True)
    assert started == []


@pytest.mark.parametrize("name", ["../..", "/etc", "tune-none", None, 3])
def test_a_name_that_is_not_on_the_list_is_no_study(desk, name):
    write_study(desk)
    assert desk.find(name) is None
    assert desk.stop(name) == Outcome("not_running", is_problem=True)


def test_news_are_told_once(desk):
    first = desk.news("", LATEST, "en")
    assert "No study yet" in first[2]
    assert len(first) == N_OUTPUTS
    assert all(one == gr.skip() for one in desk.news(first[0], LATEST, "en"))
    folder = write_study(desk)
    second = desk.news(first[0], LATEST, "en")
    assert second[-1] == dashboard_frame(TOLD)
    (folder / STATUS).write_text(json.dumps(TOLD | {"n_trials": 12}))
    third = desk.news(second[0], LATEST, "en")
    assert third[2] != gr.skip()
    assert third[-1] == gr.skip()  # the dashboard is not loaded again


@pytest.mark.parametrize("language", ["en", "fa"])
@pytest.mark.parametrize("state", ["never", "running", "finished", "stopped", "failed"])
@pytest.mark.parametrize("told", [None, TOLD, {**TOLD, "best": None, "state": "testing"}])
def test_every_state_is_shown_in_both_languages(told, state, language):
    status = JobStatus(state, reason="The cache /srv/secret/cache is full.")
    shown = study_box("shemo, today", status, told, language, now_s=1300.0)
    assert "shemo, today" in shown
    assert "/srv" not in shown
    assert "{" not in shown


def test_a_running_study_tells_best_trial_counts_and_time_left():
    shown = study_box("shemo", JobStatus("running"), TOLD, "en", now_s=1300.0)
    assert "4 of 10 trials are finished" in shown
    assert "trial 2, 65.43 %" in shown
    assert "L2 0.016, optimizer sgd" in shown
    assert "complete 3, pruned 1, running 1, waiting 0, failed 0" in shown  # two were queued again
    assert "Trial 5: epoch 3, 61.0 %" in shown
    assert "after 5 more minutes" in shown
    assert "Time is up" in study_box("shemo", JobStatus("running"), TOLD, "en", now_s=1700.0)


def test_the_frame_shows_the_studys_own_page():
    assert 'src="/dashboard/studies/4"' in dashboard_frame(TOLD)
    assert 'src="/dashboard"' in dashboard_frame(None)


def test_a_press_by_a_visitor_does_nothing(context):
    context = replace(context, settings=replace(context.settings, password="secret"))
    desk = TuneDesk(context)
    with gr.Blocks():
        presses = Presses(context, desk, None, gr.Textbox(), gr.HTML(), say)  # type: ignore[arg-type]
    message, _ = presses.outcome(lambda: pytest.fail("it was done"), (), "wrong", "en", None)
    assert "password" in message


def test_every_text_is_there_in_both_languages():
    assert all(text.en and text.fa for text in TEXTS.values())
