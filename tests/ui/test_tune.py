"""The tab Tune makes the commands it says, shows a study as it stands, and lets only the owner change something."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import gradio as gr
import optuna
import pytest
from ui_tab_support import built, pressed, progress, result, write_run, write_table

from ser.cli import _parser
from ser.tuning.search import NOT_NESTED
from ser.tuning.storage import default_storage, open_storage
from ser.ui import jobs
from ser.ui.context import Context
from ser.ui.corpora import DEMO
from ser.ui.jobs import JobStatus
from ser.ui.runs import LATEST, Study, copy_examples
from ser.ui.settings import AppSettings
from ser.ui.tune import TuneTab
from ser.ui.tune_view import dashboard_frame, history_figure, study_box, trials_table

STUDY = "tune-20261123-101112-shemo"
COMMAND = ["tune", "--study", STUDY, "--trials", "10", "--timeout", "60"]
JOB = {"pid": 1, "command": COMMAND, "exit_code": 1, "started_ns": 1}
ROW = {"state": "complete", "epoch": 9, "validation_accuracy": 0.61, "error": None}
BEST = {**ROW, "number": 2, "value": 0.654321, "parameters": {"l2": 0.016000000001, "optimizer": "sgd"}}
RUNNING = {**ROW, "number": 5, "state": "running", "value": None, "epoch": 3, "parameters": {}}
TOLD = {
    "state": "searching", "n_trials": 10, "started": 1000.0, "timeout_s": 600, "study_id": 4, "best": BEST,
    "trials": [BEST, RUNNING], "scored": None, "queued_again": 2,
    "counts": {"complete": 3, "pruned": 1, "running": 1, "waiting": 0, "fail": 2},
}  # fmt: skip
SCORED = {"trial": 2, "run": "trial_002", "wa": 0.5, "uar": 0.4}
VALUES = [10, 540, 150, 3, 5, "cmaes"]


@pytest.fixture
def tab(tmp_path: Path) -> Any:
    return built(TuneTab, tmp_path / "data")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Commands of jobs, which are not run."""
    commands: list[list[str]] = []
    monkeypatch.setattr(jobs, "start", lambda words, *_, **__: commands.append(list(words)))
    return commands


def study(tab: Any, told: Any = TOLD, **more: Any) -> Study:
    return Study(write_run(tab.runs.folder / STUDY, **{"job": JOB, "tune": told, **more}).folder)


def test_the_papers_values_are_offered_and_become_options_of_the_command_line(tab):
    assert tab.preset(is_quick=False) == [10, 540, 150, 3, 5]
    assert tab.preset(is_quick=True)[2] < 150
    words = ["tune", "--study", "x", "--corpus", "y", *tab.words(VALUES)]
    args = _parser(words).parse_args(words)
    found = (args.trials, args.timeout_s, args.max_epochs, args.patience, args.folds, args.sampler)
    assert found == (10, 32_400, 150, 3, 5, "cmaes")


@pytest.mark.parametrize(
    ("place", "value"), [(0, 0), (3, 0.5), (1, float("nan")), (1, None), (0, "10"), (5, "--storage")]
)
def test_values_that_make_no_sense_are_refused(tab, started, place, value):
    encoder = tab.context.encoders.names[0]
    for values in ([*VALUES[:place], value, *VALUES[place + 1 :]], []):
        assert "problem" in pressed(tab, "start", DEMO, encoder, "", *values)[tab.message]
    assert started == []


def test_start_makes_a_study_of_its_own_name(tab, started):
    pressed(tab, "start", DEMO, tab.context.encoders.names[0], "My best / صدا", *VALUES)
    (words,) = started
    assert words[words.index("--study") + 1].endswith("-My-best")
    assert words[words.index("--out") + 1] == str(tab.runs.folder)


def test_the_settings_of_a_study_are_taken_over_into_the_form(tab):
    study(
        tab, job={**JOB, "command": ["tune", *tab.words(VALUES), "--trials", "4"]}
    )  # its best trial was trained since
    told = pressed(tab, "adopt", STUDY)
    assert [told[one] for one in tab.values] == VALUES


def test_a_corpus_that_cannot_be_split_is_offered_with_fewer_folds(tmp_path, started):
    tab: Any = built(TuneTab, tmp_path / "data", corpora=(write_table(tmp_path / "tiny", n_speakers=4),))
    values = ["tiny", tab.context.encoders.names[0], "", *VALUES]
    told = pressed(tab, "start", *values)
    assert started == []
    pressed(tab, "accept", told[tab.offered], *values)
    assert started[0][started[0].index("--folds") + 1] == "4"


def test_only_a_study_that_ended_early_is_resumed_and_as_it_was_started(tab, started):
    for name in (LATEST, "../..", "tune-none", None, 3):
        assert "problem" in pressed(tab, "resume", name)[tab.message]
    study(tab)
    assert "Resumed" in pressed(tab, "resume", STUDY)[tab.message]
    write_run(tab.runs.folder / STUDY, job={**JOB, "command": [*COMMAND, "--trials", "4"]})
    pressed(tab, "resume", STUDY)
    assert started == [COMMAND] * 2


def test_the_best_trial_is_trained_then_used(tab, started, monkeypatch):
    replaced: list[tuple[Path, str]] = []
    monkeypatch.setattr(tab.context.model, "replace", lambda *given, title: replaced.append((*given, title)))
    folder = study(tab).folder
    assert "no trained model yet" in pressed(tab, "use", STUDY)[tab.message]
    assert "being trained and tested" in pressed(tab, "train", STUDY)[tab.message]
    assert started == [[*COMMAND, "--trials", "4"]]  # as many as were completed or pruned
    model = write_run(folder / "trial_002" / "checkpoint", model={}).folder
    study(tab, {**TOLD, "scored": {**SCORED, "trial": 1}})
    assert "no trained model yet" in pressed(tab, "use", STUDY)[tab.message]
    study(tab, {**TOLD, "scored": SCORED})
    assert "now answers with the model of shemo" in pressed(tab, "use", STUDY)[tab.message]
    assert [used for used, _ in replaced] == [model]
    assert replaced[0][1].startswith("shemo, 20")  # what its owner called it, not the folder
    assert "problem" in pressed(tab, "train", STUDY)[tab.message]  # it is trained already


def test_what_makes_sense_is_offered(tab):
    for told, state, expected in (
        (TOLD | {"best": None}, "running", {"stop", "adopt"}),
        (TOLD | {"best": None}, "stopped", {"resume", "adopt", "delete"}),
        (TOLD, "stopped", {"resume", "train", "adopt", "delete"}),
        (TOLD, "running", {"stop", "adopt"}),
        (TOLD, "never", {"delete"}),
    ):
        status = JobStatus(state, command=() if state == "never" else ("tune",))
        assert set(tab.allowed(study(tab, told), status)) == expected


def test_the_dashboard_shows_the_studies_where_the_owner_keeps_them(tmp_path):
    address = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    tab = built(TuneTab, tmp_path / "data", storage=address)
    optuna.create_study(storage=open_storage(address), study_name=STUDY)
    assert [one.study_name for one in tab.dashboard.open_storage().get_all_studies()] == [STUDY]


def test_a_deleted_study_is_deleted_from_the_dashboard_too(tab):
    tab.runs.folder.mkdir(parents=True)
    storage = open_storage(default_storage(tab.runs.folder))
    for name in (STUDY, "other"):
        optuna.create_study(storage=storage, study_name=name)
    for _ in range(2):  # the second time there is nothing of it in the storage
        study(tab)
        assert "Deleted" in pressed(tab, "accept", f"delete {STUDY}", DEMO, "", "")[tab.message]
        assert tab.runs.names() == []
    names = [one.study_name for one in open_storage(default_storage(tab.runs.folder)).get_all_studies()]
    assert names == ["other"]


@pytest.mark.parametrize(
    "files",
    [
        {"job": {"command": 5}},
        {"tune": {"best": 5}},
        {"tune": {"best": {"number": "x"}}},
        {"tune": TOLD | {"scored": 5}},
    ],
)
def test_a_study_whose_files_make_no_sense_is_said_to_be_damaged_once_and_can_be_deleted(
    tab: Any, files: dict[str, Any]
) -> None:
    run = write_run(tab.runs.folder / STUDY, **files)
    shown = tab.news("", STUDY, "en", 3)
    assert "damaged" in shown[tab.box]
    assert tab.news(shown[tab.seen], STUDY, "en", 3) == gr.skip()
    told = pressed(tab, "delete", STUDY)
    pressed(tab, "accept", told[tab.offered], DEMO, "", "")
    assert not run.folder.exists()


@pytest.mark.parametrize("secret", ["", "wrong", None])
def test_no_button_does_anything_for_somebody_else(tmp_path, started, monkeypatch, secret):
    tab: Any = built(TuneTab, tmp_path / "data", password="right")
    removed: list[str] = []
    monkeypatch.setattr(tab, "remove", lambda run: removed.append(run.name))
    study(tab)
    start = [DEMO, tab.context.encoders.names[0], "", *VALUES]
    presses = {"start": start, "resume": [STUDY], "train": [STUDY], "accept": [f"delete {STUDY}", *start]}
    for given, done in ((secret, 0), (tab.context.owner.token, 1)):
        for button, values in presses.items():
            told = pressed(tab, button, *values, secret=given)[tab.message]
            assert ("problem" in told) == (given == secret)
        assert (len(started), removed) == (3 * done, done * [STUDY])


def test_news_are_told_once(tab):
    first = tab.news("", LATEST, "en", 3)
    assert "No study yet" in first[tab.box]
    assert tab.news(first[tab.seen], LATEST, "en", 3) == gr.skip()
    study(tab)
    second = tab.news(first[tab.seen], LATEST, "en", 3)
    assert second[tab.frame] == dashboard_frame(TOLD)
    assert 'src="/dashboard/studies/4"' in dashboard_frame(TOLD)
    assert 'src="/dashboard"' in dashboard_frame(None)
    write_run(tab.runs.folder / STUDY, tune=TOLD | {"n_trials": 12})
    assert set(tab.news(second[tab.seen], LATEST, "en", 3)) >= {tab.box, tab.trials}
    assert json.loads(json.dumps(tab.news("", STUDY, "en", 3)[tab.shown])) == STUDY


@pytest.mark.parametrize("language", ["en", "fa"])
@pytest.mark.parametrize("state", ["never", "running", "finished", "stopped", "failed"])
@pytest.mark.parametrize("told", [None, TOLD, {**TOLD, "best": None, "state": "testing"}])
def test_every_state_is_shown_in_both_languages(tab, told, state, language):
    status = JobStatus(state, 1, reason="The cache /srv/secret/cache is full.")
    shown = study_box(study(tab, told), status, language, now_s=1300.0)
    assert "shemo" in shown
    assert not re.search("/srv|{", shown)


def test_a_running_study_tells_best_trial_counts_and_time_left(tab):
    shown = study_box(study(tab), JobStatus("running"), "en", now_s=1300.0)
    for words in (
        "4 of 10 trials are finished", "trial 2, 65.43 % of the validation clips right",
        "L2 penalty on input kernels: 0.016; Optimizer: sgd", "Trial 5: epoch 3, 61.0 %",
        "complete 3, pruned 1, failed 0",  # two were queued again
        "New trials start for another 5 min",
    ):  # fmt: skip
        assert words in shown
    assert "Time is up" in study_box(study(tab), JobStatus("running"), "en", now_s=1700.0)
    evil = study(tab, {**TOLD, "best": {**BEST, "parameters": {"<b>": 1}}})
    assert "&lt;b&gt;" in study_box(evil, JobStatus("finished", 0), "en")


def test_nothing_false_is_said_before_the_first_epoch_or_of_an_earlier_job(tab):
    one = study(tab, {**TOLD, "trials": [BEST], "counts": {**TOLD["counts"], "running": 0}})  # type: ignore[dict-item]
    shown = study_box(one, JobStatus("running"), "en", now_s=1300.0)
    assert "The next trial is in its first epoch" in shown
    assert "running 0" not in shown
    write_run(one.folder, job={"started_ns": time.time_ns() + 10**9})  # resumed since
    shown = study_box(one, JobStatus("running"), "en", now_s=9999.0)
    assert "Preparing" in shown
    assert "Time is up" not in shown
    assert "trial 2, 65.43 %" in shown


def test_while_the_best_configuration_is_trained_its_own_progress_is_shown(tab):
    one = study(tab, {**TOLD, "state": "testing"})
    assert "Training the best configuration" in study_box(one, JobStatus("running"), "en", now_s=1300.0)
    headings = {"training": "Training the best", "testing": "Testing on", "done": "Finishing"}
    for phase, heading in headings.items():
        write_run(one.folder / "trial_002", progress=progress(3, phase))
        shown = study_box(one, JobStatus("running"), "en", now_s=1300.0)
        assert f"<h2>{heading}" in shown
        assert "New trials start" not in shown
        assert ('aria-valuenow="33"' in shown) == (phase == "training")


def test_a_tested_study_shows_its_scores_with_intervals_and_offers_its_files(tab):
    one = study(tab, {**TOLD, "scored": SCORED})
    write_run(one.folder / "trial_002", progress=progress(3, "done"), result=result())
    write_run(one.folder / "trial_002" / "checkpoint", model={})
    assert "accuracy 61.2\u00a0% [50.0\u00a0–\u00a070.0]" in study_box(one, JobStatus("finished", 0), "en")
    assert f'href="studies/{STUDY}/result.json"' in tab.about(one, "en")
    assert "may be somewhat too good" not in study_box(one, JobStatus("finished", 0), "en")
    tuned = {**result(), "protocol": f"speaker-disjoint; {NOT_NESTED}"}
    write_run(one.folder / "trial_002", progress=progress(3, "done"), result=tuned)
    assert "may be somewhat too good" in study_box(one, JobStatus("finished", 0), "en")


def test_a_narrow_screen_gets_a_chart_and_a_table_of_the_trials(tab):
    more = [{"number": 3, "state": "complete", "value": 0.3}, {"number": 4, "state": "pruned", "value": 0.7}]
    figure = history_figure({**TOLD, "trials": [*TOLD["trials"][:1], *more]}, "fa")
    best, complete, pruned = ([*zip(trace.x, trace.y, strict=True)] for trace in figure.data)
    value = BEST["value"]
    assert complete == [(2, value), (3, 0.3)]
    assert pruned == [(4, 0.7)]
    assert best == [(2, value), (3, value), (4, value)]  # a pruned trial is never the best
    assert figure.data[2].hovertext == ("آزمایش ۴: ۷۰٫۰٪",)
    assert history_figure({**TOLD, "trials": TOLD["trials"][1:]}, "en").data[0].x == ()
    assert not tab.more(None, "en", 3)[tab.history].visible
    table = trials_table(TOLD, "en")
    assert table.index("running") < table.index("complete")
    assert "<td>65.4 %</td>" in table
    assert "<td>۶۵٫۴٪</td>" in trials_table(TOLD, "fa")
    assert trials_table(None, "en") == ""


def test_a_timer_ticks_only_while_its_tab_is_open(tmp_path):
    from ser.ui.page import build_page

    context = Context.of(AppSettings(data=tmp_path))
    page = build_page(context.settings, context)
    timers = [timer for _, timer in context.timers]
    assert len(timers) == 2
    assert not any(timer.active for timer in timers)
    [switch] = [one.fn for one in page.fns.values() if one.outputs == timers]
    for index, expected in enumerate(([False, False], [True, False], [False, True])):
        opened = gr.SelectData(None, {"index": index, "value": ""})
        assert [switch(opened)[timer].active for timer in timers] == expected


def test_the_example_study_is_shown_with_its_dashboard_where_nobody_has_kept_one(tab: Any) -> None:
    copy_examples(tab.data, ["studies"])
    run = tab.runs.find(LATEST)
    shown = tab.news("", LATEST, "en", 3)
    assert "Finished" in shown[tab.box]
    assert "Example" in shown[tab.box]
    rows = re.findall("<tr>.*?</tr>", shown[tab.trials])[1:]
    assert sum("complete" in row or "pruned" in row for row in rows) == 10
    assert "four corpora" in shown[tab.notes]
    assert len(shown[tab.history].value["plot"]) > 100
    assert "ships with the page" in shown[tab.notes]
    told = run.read("tune.json")
    (kept,) = optuna.get_all_study_summaries(tab.dashboard.open_storage())
    assert (kept.study_name, kept.n_trials) == (run.name, 10 + told["counts"]["fail"])
    assert kept.best_trial.value == pytest.approx(told["best"]["value"])
    tab.remove(run)
    assert optuna.get_all_study_summaries(tab.dashboard.open_storage()) == []
