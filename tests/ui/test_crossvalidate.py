"""The tab Cross-validate without a browser: what it starts, what it shows, what it refuses."""

from __future__ import annotations

import io
import itertools
import json
import re
import shutil
import string
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import gradio as gr
import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient
from ui_tab_support import built, buttons, pressed, progress, result, write_run, write_table

from ser.cli import _parser
from ser.errors import CorpusError, SettingsError
from ser.files import ASSETS, DEMO_CORPUS
from ser.labels import EMOTIONS
from ser.ui import jobs
from ser.ui.context import translated
from ser.ui.corpora import DEMO, Corpora, Encoders
from ser.ui.crossvalidate import CrossvalidateTab
from ser.ui.jobs import JobStatus
from ser.ui.run_settings import CROSSVAL_NUMBERS
from ser.ui.run_view import (
    bar,
    curves_figure,
    fold_table,
    matrices_figure,
    matrices_of,
    state_box,
    time_left,
    training_lines,
)
from ser.ui.runs import EXAMPLES, LATEST, Run, Runs, copy_examples
from ser.ui.settings import AppSettings
from ser.ui.training_texts import TEXTS, Problem, say

SHEMO = "crossval-20261120-101112-shemo"
DEMO_RUN = f"crossval-20261121-101112-{DEMO}"
FAILED = {"pid": 1, "command": ["crossval", "--seed", "7"], "exit_code": 1}


@pytest.fixture
def tab(tmp_path: Path) -> Any:
    return built(CrossvalidateTab, tmp_path / "data")


@pytest.fixture
def quick(tab: Any) -> list[Any]:
    """What Start sends: corpus, encoder, no name, and the values of the quick preset."""
    return [DEMO, tab.context.encoders.names[0], "", *tab.preset(is_quick=True)]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Sequence[str], Path]]:
    """What would have been started."""
    calls: list[tuple[Sequence[str], Path]] = []
    monkeypatch.setattr(jobs, "start", lambda words, folder, one_at_a_time: calls.append((words, folder)))
    return calls


def test_a_corpus_is_chosen_by_name_from_those_that_the_owner_allowed(tmp_path):
    folders = tuple(tmp_path / part for part in ("a/shemo", "b/shemo", "emodb", DEMO))
    for folder in folders:
        folder.mkdir(parents=True)
    corpora = Corpora(AppSettings(data=tmp_path / "data", corpora=folders))
    assert corpora.names == [DEMO, "shemo", "shemo (2)", "emodb", f"{DEMO} (2)"]
    assert [corpora.folder(name) for name in corpora.names] == [DEMO_CORPUS, *folders]
    for name in ("/etc", "..", "../data", "", None, ["shemo"], "shemo (3)", "/"):
        with pytest.raises(SettingsError, match="choose one of: demonstration"):
            corpora.folder(name)


def test_the_encoders_are_the_one_that_answers_and_the_one_of_the_hub(tmp_path):
    folder = tmp_path / "secret" / "tiny"
    folder.mkdir(parents=True)
    encoders = Encoders(AppSettings(encoder=str(folder), hub_encoder="ntu-spml/distilhubert"))
    assert encoders.names == ["tiny", "ntu-spml/distilhubert"]
    assert encoders.source("tiny") == str(folder)
    with pytest.raises(SettingsError, match="No encoder"):
        encoders.source(str(folder))
    assert Encoders(AppSettings(checkpoint=tmp_path)).names == ["shipped"]  # there is no model


def test_a_preset_makes_a_command_and_that_of_the_paper_the_default_one(tab):
    parsed = []
    for words in (tab.words(tab.preset(is_quick=False)), tab.words(tab.preset(is_quick=True)), []):
        args = _parser(["crossval"]).parse_args(["crossval", "--corpus", "x", *words])
        parsed.append([*(getattr(args, number.name) for number in CROSSVAL_NUMBERS), args.optimizer])
    assert parsed == [tab.preset(is_quick=False), tab.preset(is_quick=True), tab.preset(is_quick=False)]
    with pytest.raises(Problem, match="Maximum epochs"):
        tab.words([])


@pytest.mark.parametrize(
    ("place", "value"),
    [(0, 0), (0, 301), (0, 2.5), (0, "3"), (0, None), (0, float("nan")), (2, 0), (2, float("inf")), (3, -1),
     (8, 1), (8, 11), (10, "lion"), (10, None), (10, "--out")],
)  # fmt: skip
def test_a_value_outside_its_range_is_refused_by_the_name_that_the_page_gives_it(tab, started, quick, place, value):
    quick[3 + place] = value
    name = TEXTS[f"ser_job_{[*(number.name for number in CROSSVAL_NUMBERS), 'optimizer'][place]}"]
    for language, expected in (("en", name.en), ("fa", name.fa)):
        said = pressed(tab, "start", *quick, language=language)[tab.message]
        assert "problem" in said
        assert expected in said
    for choice in (0, 1):
        assert "problem" in pressed(tab, "start", *quick[:choice], "/etc", *quick[choice + 1 :])[tab.message]
    assert started == []
    assert not tab.data.exists()


def test_the_page_answers_in_its_own_words_whatever_is_typed_or_chosen(tab):
    typed = [one for one in tab.page.blocks.values() if isinstance(one, gr.Number)]
    assert typed
    assert all(one.minimum is None and one.maximum is None for one in typed)
    refused = [one for one in tab.page.fns.values() if one.trigger_only_on_failure]
    assert len(refused) == len(buttons(tab))  # what gradio refuses all the same has its own sentence
    assert "out of range" in refused[0].fn("en")
    assert tab.facts(DEMO, "en")["info"].startswith("217 recordings by 10 speakers: anger 38")
    assert "۱۰ گوینده" in tab.facts(DEMO, "fa")["info"]
    assert "choose one of" in tab.facts("/etc", "en")["info"]


def test_start_starts_a_run_in_a_folder_of_its_own_one_at_a_time(tab, started, quick, monkeypatch):
    told = pressed(tab, "start", *quick)
    assert "Started" in told[tab.message]
    assert told[tab.run]["value"] == LATEST
    [(words, folder)] = started
    assert (folder.parent, folder.name[-len(DEMO) - 1 :]) == (tab.runs.folder, f"-{DEMO}")
    options = dict(itertools.pairwise(words))
    assert (options["--out"], options["--corpus"]) == (str(folder), str(DEMO_CORPUS))
    quick[2] = "صدای من، 2"  # what its owner calls it
    pressed(tab, "start", *quick)
    assert Run(started[1][1]).title[0] == "صدای من 2"
    monkeypatch.setattr(jobs, "is_running", lambda folder: True)
    assert "only one can run at a time" in pressed(tab, "start", *quick)[tab.message]
    assert len(started) == 2


def test_a_corpus_that_cannot_be_split_is_refused_before_it_is_encoded_with_a_way_out(tmp_path, started):
    corpus = write_table(tmp_path / "tiny", n_speakers=4)
    tab: Any = built(CrossvalidateTab, tmp_path / "data", corpora=(corpus,))
    values = ["tiny", tab.context.encoders.names[0], "", *tab.preset(is_quick=False)]
    told = pressed(tab, "start", *values)
    assert "5 folds of different speakers" in told[tab.message]
    assert started == []
    assert told[tab.offer].value == "Start with 4 folds"
    assert "Started" in pressed(tab, "accept", told[tab.offered], *values)[tab.message]
    assert started[0][0][started[0][0].index("--folds") + 1] == "4"
    assert "problem" in pressed(tab, "accept", "folds 0", *values)[tab.message]
    assert len(started) == 1


@pytest.mark.parametrize("name", [SHEMO, LATEST, "crossval-none", "../..", None])
def test_what_cannot_be_done_is_said(tab, started, name):
    write_run(tab.runs.folder / SHEMO, progress=progress())
    for button, key in (("stop", "not_running"), ("resume", "not_resumed"), ("use", "no_model")):
        assert say(key, "en", "cv") in pressed(tab, button, name)[tab.message]
    assert started == []


def test_a_failed_run_is_resumed_as_it_was_started_and_its_model_put_to_use(tab, started, monkeypatch):
    folder = write_run(tab.runs.folder / SHEMO, job=FAILED).folder
    assert "Resumed" in pressed(tab, "resume", SHEMO)[tab.message]
    assert started == [(["crossval", "--seed", "7"], folder)]
    write_run(folder / "checkpoint", model={})
    used: list[Any] = []
    monkeypatch.setattr(tab.context.model, "replace", lambda *given, title: used.append((*given, title)))
    assert "model of shemo, 2026-11-20 10:11," in pressed(tab, "use", SHEMO)[tab.message]
    assert used == [(folder / "checkpoint", "shemo, 2026-11-20 10:11")]


def test_the_settings_of_a_run_are_taken_over_into_the_form(tab):
    write_run(tab.runs.folder / SHEMO, job={**FAILED, "command": ["crossval"]})  # the command's own defaults
    paper = pressed(tab, "adopt", SHEMO)
    assert [paper[one] for one in tab.values] == tab.preset(is_quick=False)
    assert "form above" in paper[tab.message]
    values = [33, 2, 0.02, 0.05, 128, 16, 3, 0.35, 7, 1234, "rmsprop"]
    command = ["crossval", "--corpus", str(DEMO_CORPUS), *tab.words(values)]
    write_run(tab.runs.folder / SHEMO, job={**FAILED, "command": command})
    told = pressed(tab, "adopt", SHEMO)
    assert [told[one] for one in tab.values] == values
    assert told[tab.corpus]["value"] == DEMO
    assert told[tab.corpus]["info"].startswith("217 recordings")
    write_run(tab.runs.folder / SHEMO, job={**FAILED, "command": ["crossval", "--corpus", "/gone", "--folds", "many"]})
    told = pressed(tab, "adopt", SHEMO)
    assert (told[tab.corpus], told[tab.values[8]]) == (gr.skip(), 5)


def write_predictions(folder: Path, n_right: int, labels: Sequence[str] = EMOTIONS[:2], n: int = 12) -> None:
    """A tested run of six speakers with the first answers right and the others wrong."""
    shares = [1.0, *[0.0] * (len(labels) - 1)]
    rows = ["file,speaker,fold,emotion,predicted," + ",".join(labels)]
    for number in range(n):
        said = labels[0] if number < n_right else labels[1]
        rows.append(f"{number}.wav,{number % 6},{number % 2},{labels[0]},{said}," + ",".join(map(str, shares)))
    write_run(folder, progress=progress(), result=result() | {"labels": labels, "pooled_confusion": [[n]]})
    (folder / "predictions.csv").write_text("\n".join(rows))


def test_a_run_is_compared_with_another_that_tested_the_same(tab):
    write_predictions(tab.runs.folder / DEMO_RUN, n_right=9)
    write_predictions(tab.runs.folder / SHEMO, n_right=6)
    for language, points, other in (("en", "+25.0", "shemo, 2026-11-20 10:11"), ("fa", "\u200e+۲۵٫۰ واحد", "shemo")):
        said = tab.compare(SHEMO, LATEST, language)
        assert all(part in said for part in (points, other, "box sure"))
    assert "-25.0 points [-41.7\u00a0–\u00a0-8.3]" in tab.compare(DEMO_RUN, SHEMO, "en")
    write_predictions(tab.runs.folder / SHEMO, n_right=6, n=11)
    assert "did not test the same" in tab.compare(SHEMO, LATEST, "en")
    assert tab.compare("../..", LATEST, "en") == tab.compare("", LATEST, "en") == ""


def test_only_tested_runs_are_offered_for_a_comparison(tab):
    write_predictions(tab.runs.folder / DEMO_RUN, n_right=9)
    assert tab.news("", LATEST, "en", 3)[tab.other].visible is False
    write_run(tab.runs.folder / "crossval-20261119-101112-x", progress=progress())
    write_predictions(tab.runs.folder / SHEMO, n_right=6)
    offered = tab.news("", LATEST, "en", 3)[tab.other]
    assert (offered.visible, offered.choices) == (True, [("shemo, 2026-11-20 10:11", SHEMO)])


def test_a_run_is_deleted_when_that_is_confirmed_and_it_is_not_in_progress(tab):
    run = write_run(tab.runs.folder / SHEMO, job=FAILED)
    told = pressed(tab, "delete", SHEMO)
    assert "cannot be undone" in told[tab.message]
    with jobs._held(run.folder, "already"):
        assert "still running" in pressed(tab, "accept", told[tab.offered], DEMO, "", "")[tab.message]
    assert run.folder.exists()
    assert "Deleted" in pressed(tab, "accept", told[tab.offered], DEMO, "", "")[tab.message]
    assert not run.folder.exists()
    for offer in (told[tab.offered], "delete ..", "delete latest/../..", "", None, "delete"):
        assert "nothing here to delete" in pressed(tab, "accept", offer, DEMO, "", "")[tab.message]
    assert tab.runs.folder.exists()


@pytest.mark.parametrize("language", ["en", "fa"])
@pytest.mark.parametrize("secret", ["", "wrong", None])
def test_no_button_does_anything_for_somebody_else(tmp_path, monkeypatch, secret, language):
    tab: Any = built(CrossvalidateTab, tmp_path / "data", password="right")
    write_run(tab.runs.folder / SHEMO / "checkpoint", model={})
    done: list[str] = []
    for name in ("start", "stop", "remove"):
        monkeypatch.setattr(jobs, name, lambda *_, name=name, **__: done.append(name))
    monkeypatch.setattr(tab.context.model, "replace", lambda *_, **__: done.append("replace"))
    quick = [DEMO, tab.context.encoders.names[0], "", *tab.preset(is_quick=True)]
    presses = {"start": quick, "accept": [f"delete {SHEMO}", *quick]}
    presses |= {name: [SHEMO] for name in ("resume", "use", "stop", "adopt", "delete")}
    for given in (secret, tab.context.owner.token):
        for button, values in presses.items():
            is_running = button == "stop"
            monkeypatch.setattr(jobs, "is_running", lambda folder, is_running=is_running: is_running)
            write_run(tab.runs.folder / SHEMO, job=FAILED | {"exit_code": None if is_running else 1})
            told = pressed(tab, button, *values, secret=given, language=language)
            assert ("problem" in told[tab.message]) == (given == secret), button
            assert bool(told[tab.offered]) == (given != secret and button == "delete")
        assert done == ([] if given == secret else ["start", "remove", "start", "replace", "stop"])


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (CorpusError("/srv/secret/shemo holds no recordings."), "shemo holds no recordings."),
        (OSError(28, "No space left on device", "/srv/secret/x"), "No space left on device"),
        (RuntimeError("/srv/secret"), "RuntimeError"),
    ],
)
def test_whatever_fails_ends_in_a_sentence_without_a_path_of_the_server(tab, monkeypatch, error, expected):
    write_run(tab.runs.folder / SHEMO, job=FAILED)
    monkeypatch.setattr(jobs, "start", Mock(side_effect=error))
    for language in ("en", "fa"):
        said = pressed(tab, "resume", SHEMO, language=language)[tab.message]
        assert expected in said
        assert "/srv" not in said
        quoted = f'<p lang="en" dir="ltr">{expected}</p>'
        assert (quoted in said) == isinstance(error, CorpusError)
        assert ("از این پیکره" in said) == (language == "fa" and isinstance(error, CorpusError))
        assert ("انجام نشد" in said) == (language == "fa" and not isinstance(error, CorpusError))


def test_where_nobody_can_be_the_owner_the_page_says_so_at_once(tmp_path):
    tab: Any = built(CrossvalidateTab, tmp_path, host="0.0.0.0")
    write_run(tab.runs.folder / SHEMO, job=FAILED)
    start = next(one for one in tab.page.blocks.values() if getattr(one, "elem_id", "") == "cv-start")
    assert start.interactive is False
    assert "ser_job_closed" in tab.message.value
    assert not any(tab.news("", LATEST, "en", 3)[button].visible for button in tab.buttons.values())


def test_runs_are_listed_newest_first_and_found_by_name_only(tmp_path):
    runs = Runs(tmp_path / "runs")
    assert (runs.names(), runs.find(LATEST)) == ([], None)
    for name in (SHEMO, DEMO_RUN, "another folder"):
        write_run(tmp_path / "runs" / name)
    assert runs.names() == [DEMO_RUN, SHEMO]
    assert runs.find(LATEST) == Run(tmp_path / "runs" / DEMO_RUN)
    assert runs.find(SHEMO) == Run(tmp_path / "runs" / SHEMO)
    for name in ("..", "another folder", f"../runs/{SHEMO}", f"{SHEMO}/", "", None, 3, [SHEMO]):
        assert runs.find(name) is None
    example = next((EXAMPLES / "runs").iterdir()).name
    for name in (example, "crossval-20260101-000000-example"):  # older than the one that ships: the clock was set back
        write_run(tmp_path / "runs" / name)
    assert runs.names() == [DEMO_RUN, SHEMO, "crossval-20260101-000000-example", example]
    named = runs.new("../My corpus: گفتار/1").name  # after its corpus without anything odd
    assert re.fullmatch(r"crossval-[\d-]+-My-corpus-گفتار-1", named)


def test_news_are_what_has_changed_and_never_which_run_is_chosen(tab):
    write_run(tab.runs.folder / SHEMO, progress=progress(1))
    first = tab.news("", SHEMO, "en", 3)
    assert [name for _, name in first[tab.run].choices] == [LATEST, SHEMO]
    assert "value" not in first[tab.run].constructor_args
    assert tab.news(first[tab.seen], SHEMO, "en", 3) == gr.skip()
    (tab.runs.folder / SHEMO / "progress.json").write_text(json.dumps(progress(2)))
    second = tab.news(first[tab.seen], SHEMO, "en", 3)
    assert tab.run not in second
    assert "latest epoch" in second[tab.box]
    write_run(tab.runs.folder / DEMO_RUN)
    third = tab.news(second[tab.seen], SHEMO, "en", 3)
    assert set(third) == {tab.seen, tab.run}
    assert "value" not in third[tab.run].constructor_args


def test_the_buttons_get_the_name_of_the_run_that_is_shown(tab):
    empty = tab.news("", LATEST, "en", 3)
    assert "Press Start" in empty[tab.box]
    assert empty[tab.curves].visible is False
    for name in (SHEMO, DEMO_RUN):
        write_run(tab.runs.folder / name)
    shown = {name: tab.news("", name, "en", 3) for name in (LATEST, SHEMO, "crossval-gone")}
    assert {name: one[tab.shown] for name, one in shown.items()} == {
        LATEST: DEMO_RUN, SHEMO: SHEMO, "crossval-gone": DEMO_RUN
    }  # fmt: skip
    assert shown["crossval-gone"][tab.run].value == LATEST
    for name in ("stop", "resume", "use", "delete"):
        [takes] = [one for one in tab.page.fns.values() if one.fn is buttons(tab)[name]]
        assert takes.inputs[-1] is tab.shown


def test_a_run_whose_files_are_damaged_is_said_to_be_and_can_be_deleted(tab):
    write_run(tab.runs.folder / SHEMO, progress={"epoch": 3})
    shown = tab.news("", SHEMO, "en", 3)
    assert "damaged" in shown[tab.box]
    assert [name for name, button in tab.buttons.items() if shown[button].visible] == ["delete"]


@pytest.mark.parametrize("language", ["en", "fa"])
@pytest.mark.parametrize("columns", [1, 2, 3, 99, None])
def test_matrices_of_every_fold_and_of_all_are_shown(tab, language, columns):
    write_run(tab.runs.folder / SHEMO, progress=progress(4))
    shown = tab.news("", LATEST, language, columns)
    traces = json.loads(shown[tab.matrices].value["plot"])["data"]
    assert sum(trace["type"] == "heatmap" for trace in traces) == 3
    assert json.loads(shown[tab.curves].value["plot"])["data"]
    assert "<table>" in shown[tab.table]
    assert shown[tab.about_matrices] == say("matrices_now", language)


def test_the_pooled_matrix_is_the_sum_of_the_folds_and_its_axes_are_named():
    figure = matrices_figure(matrices_of(progress(3), None), EMOTIONS, "en", 3)
    assert [annotation.text for annotation in figure.layout.annotations] == ["fold 1", "fold 2", "all folds"]
    pooled = [trace for trace in figure.data if trace.type == "heatmap"][2]
    assert "8 of 18" in pooled.hovertext[0][0]
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == ("predicted", "true")
    assert np.sum(matrices_of(progress(1), None)) == 2 * 42
    assert np.sum(matrices_of(progress(1), result())) == 18 + 72  # those of the test take its place
    assert matrices_of(None, None) == []


def test_a_running_box_says_epoch_scores_and_time_left(tmp_path):
    now = time.time()
    stage = {"stage": "training", "first": 0, "done": 6, "total": 18, "started": now - 300, "updated": now}
    run = write_run(tmp_path / SHEMO, job={"started_ns": 1}, progress=progress(3), stage=stage)
    box = state_box(run, JobStatus("running"), "en")
    for words in ("Epoch 3 of at most 9", 'aria-valuenow="33"', "accuracy 44.4", "At most 10 min of training left"):
        assert words in box
    assert "دوره‌ی ۳ از حداکثر ۹" in state_box(run, JobStatus("running"), "fa")
    write_run(run.folder, job={"started_ns": time.time_ns() + 10**9})  # what an earlier job left says nothing
    assert "Preparing" in state_box(run, JobStatus("running"), "en")


def test_a_run_that_prepares_shows_how_far_it_is_and_no_line_of_its_log(tmp_path):
    status, now = JobStatus("running", reason="2 1.1515 50.96%"), time.time()
    stage = {"stage": "features", "first": 52, "done": 152, "total": 252, "started": now - 240, "updated": now}
    run = write_run(tmp_path / SHEMO, job={"started_ns": 1})
    assert 'class="bar busy"' in state_box(run, status, "en")
    box = state_box(write_run(run.folder, stage=stage), status, "en")
    assert "Preparing" in box
    assert "Encoding the recordings: 152 of 252. About 4 min left." in box
    assert "50.96" not in box


def test_time_left_is_what_the_rest_takes_at_the_same_speed():
    stage = {"first": 10, "done": 20, "total": 40, "started": 100.0, "updated": 110.0}
    assert [time_left(stage, now_s=now_s) for now_s in (110.0, 115.0, 999.0)] == [20.0, 15.0, 1.0]
    assert [time_left(one) for one in ({**stage, "first": 20}, {**stage, "done": 40}, None)] == [None] * 3
    assert "width: 100%" in bar(1.7)
    assert "width: 0%" in bar(-1.0)


def test_a_box_gives_the_result_or_the_reason_as_text_without_the_folders_of_the_server(tmp_path):
    run = write_run(tmp_path / SHEMO, progress=progress(3, "done"), result=result())
    box = state_box(run, JobStatus("finished", 0), "en")
    assert "Test speakers, all 90 clips: accuracy 61.2\u00a0% [50.0\u00a0–\u00a070.0]" in box
    assert "by &lt;hand&gt;" in box
    box = state_box(run, JobStatus("failed", 1, "/srv/secret/shemo/x.wav: <b>no</b> speakers"), "en")
    assert "x.wav: &lt;b&gt;no&lt;/b&gt; speakers" in box
    assert "/srv" not in box
    killed = state_box(run, JobStatus("failed", None, "3  1.15  50.96%"), "en")
    assert "killed" in killed
    assert "50.96" not in killed


@pytest.mark.parametrize("state", ["running", "finished", "failed", "stopped", "never"])
@pytest.mark.parametrize("phase", ["training", "testing", "training the final model", "done", "stopped"])
@pytest.mark.parametrize("language", ["en", "fa"])
def test_every_state_has_words_of_its_own(tmp_path, state, phase, language):
    run = write_run(tmp_path / SHEMO, job={"started_ns": 1}, progress=progress(2, phase))
    [heading] = re.findall("<h2>(.+?)</h2>", state_box(run, JobStatus(state), language))
    key = {"done": "ending", "stopped": "ending"}.get(phase, phase) if state == "running" else state
    assert heading == say(key, language, epoch=2, most=9)


def test_only_a_fold_that_has_not_trained_all_its_epochs_has_stopped_early():
    told = progress(2)
    told["folds"][0]["stopped"] = True
    assert "1 of 2 folds have stopped early" in training_lines(told, "en")[1]
    assert len(training_lines({**told, "max_epochs": 2}, "en")) == 1


def test_a_button_that_appears_speaks_the_language_of_the_page(tab):
    write_run(tab.runs.folder / SHEMO, job=FAILED)
    shown = tab.news("", SHEMO, "fa", 3)
    assert [str(button.value) for button in (shown[one] for one in tab.buttons.values())] == [
        str(translated(f"ser_job_{action}")) for action in tab.buttons
    ]


def test_the_table_has_a_row_for_each_fold_and_the_mean():
    table = fold_table(progress(2), None, "en")
    assert table.count("<tr>") == 1 + 2 + 1
    for words in ("latest epoch", "0.800", "1.300"):  # validation loss of fold 1, and mean
        assert words in table
    assert "۱٫۳" in fold_table(progress(2), None, "fa")
    table = fold_table(progress(2), result(), "en")  # tested: both at the best epoch
    assert re.findall(r'"col">(.+?)<', table)[1:3] == ["Test accuracy", "Test UAR"]
    rows = re.findall(r"<td>(.+?)</td>", table)
    assert rows[:5] == ["90.0 %", "90.0 %", "28.6 %", "28.6 %", "1"]  # of the latest epoch it would be 37.5 %
    assert rows[10:12] == ["80.0 %", "80.0 %"]


def test_texts_have_both_languages_and_the_same_names_and_no_latin_word_turns_a_number_around():
    for key, text in TEXTS.items():
        names = [{name for _, name, _, _ in string.Formatter().parse(words) if name} for words in text]
        assert names[0] == names[1] or key.startswith("refused"), key
        assert text.fa, key
        assert text.en or key.startswith("refused"), key
        if not key.startswith("hover_"):
            without_names = re.sub(r"\{\w+\}", "{}", text.fa)
            assert not re.search("[A-Za-z0-9][^\u0600-\u06ff\u200f{]*\\{", without_names), key


def test_what_is_written_in_persian_charts_has_persian_digits() -> None:
    told, names = progress(3), [chr(0x0627 + number) for number in range(len(EMOTIONS))]
    figures = [curves_figure(told, "fa"), matrices_figure(matrices_of(told, None), names, "fa", 3)]
    for figure in figures:
        axes = [figure.layout[name] for name in figure.layout if re.match("[xy]axis", name)]
        written = [one.text for one in figure.layout.annotations] + [one.ticktext for one in axes]
        written += [trace[part] for trace in figure.data for part in ("text", "hovertext") if trace[part] is not None]
        assert not re.search("[0-9%]", re.sub("<.*?>", "", json.dumps(written, ensure_ascii=False)))
    assert {trace.hovertemplate for trace in figures[0].data} == {"%{hovertext}<extra></extra>"}
    assert "بخش ۱، آموزش، دوره‌ی ۲: ۰٫۷۵۰" in figures[0].data[0].hovertext
    assert "بخش ۱: بهترین دوره ۳، توقف پس از ۳" in figures[0].data[-1].hovertext
    assert len(figures[0].layout.yaxis.ticktext) > 2
    assert figures[1].layout.coloraxis.colorbar.ticktext[1] == "۲۰٪"
    assert curves_figure(told, "en").layout.xaxis.ticktext[0] == "1"


def test_the_example_is_shown_as_such_where_nobody_has_kept_a_run(tab: Any, tmp_path: Path) -> None:
    copy_examples(tab.data, ["runs"])
    run = tab.runs.find(LATEST)
    assert run.title[0] == "example"
    assert (run.status().state, tab.allowed(run, run.status())) == ("never", {"delete"})
    shown = tab.news("", LATEST, "en", 3)
    assert "Example" in shown[tab.box]
    assert "Finished" in shown[tab.box]
    assert "ships with the page" in shown[tab.notes]
    assert str(Path.home()) not in run.download("result.json").decode()
    shutil.rmtree(run.folder)
    copy_examples(tab.data, ["runs"])
    assert tab.runs.names() == []  # deleted is deleted


def test_examples_of_a_read_only_installation_can_be_written_beside(tmp_path: Path, monkeypatch: Any) -> None:
    shipped = shutil.copytree(ASSETS / "examples", tmp_path / "assets" / "examples")
    for path in (shipped, *shipped.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    monkeypatch.setattr("ser.ui.runs.EXAMPLES", shipped)
    copy_examples(tmp_path / "data", ["runs", "studies"])
    copied = list((tmp_path / "data").rglob("*"))
    assert len(copied) > 6
    assert all(path.stat().st_mode & 0o200 for path in copied)


@pytest.fixture
def server(tab: Any) -> TestClient:
    """The tab's own routes, on a run whose encoder is a folder of the server and whose corpus names one elsewhere."""
    source = {"encoder": {"source": "/srv/My secret/tiny"}}
    told = result() | source | {"left_out": ["/srv/secret/x.wav"]}
    folder = write_run(tab.runs.folder / SHEMO, job={"command": []}, run=source, result=told).folder
    (folder / "report.html").write_text("<script>/a/b/</script> /srv/My secret/tiny")
    (folder / "log.txt").write_text("private")
    write_run(folder / "checkpoint", model=source)
    (folder / "checkpoint" / "model.safetensors").write_bytes(b"weights /srv/")
    (tab.data / "secret.txt").write_text("private")
    (folder / "checkpoint" / "linked.json").symlink_to(tab.data / "secret.txt")
    return TestClient(Starlette(routes=tab.context.routes))


def test_the_files_of_a_run_can_be_downloaded_and_do_not_say_where_the_server_keeps_things(server, tab):
    shown = tab.news("", SHEMO, "en", 3)[tab.notes]
    assert shown.count("<a ") == 3 + 1
    for address in re.findall('href="(.+?)"', shown):
        assert server.get(f"/{address}").status_code == 200
    answer = server.get(f"/runs/{SHEMO}/result.json")
    assert answer.json()["protocol"] == "by <hand>"
    assert answer.json()["encoder"]["source"].endswith("tiny")
    assert "/srv" not in answer.text
    assert answer.headers["content-disposition"] == f'attachment; filename="{SHEMO}-result.json"'
    archive = zipfile.ZipFile(io.BytesIO(server.get(f"/runs/{SHEMO}/checkpoint.zip").content))
    assert archive.namelist() == ["checkpoint/model.json", "checkpoint/model.safetensors"]
    assert archive.read("checkpoint/model.safetensors") == b"weights /srv/"
    assert b"/srv" not in archive.read("checkpoint/model.json")
    report = server.get(f"/runs/{SHEMO}/report.html?show")
    assert report.headers["content-disposition"] == "inline"
    assert report.text == "<script>/a/b/</script> tiny"
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert server.request(method, f"/runs/{SHEMO}/result.json").status_code == 405


@pytest.mark.parametrize(
    "path",
    [
        f"{SHEMO}/log.txt", f"{SHEMO}/job.json", f"{SHEMO}/predictions.csv", f"{SHEMO}/..%2F..%2Fsecret.txt",
        f"{SHEMO}%2F..%2F{SHEMO}/result.json", "latest/result.json", "x/result.json", "../secret.txt",
        "..%2F../secret.txt", "%2e%2e/secret.txt",
    ],
)  # fmt: skip
def test_nothing_else_can_be_downloaded(server, path):
    answer = server.get(f"/runs/{path}")
    assert answer.status_code == 404
    assert "private" not in answer.text
