"""The tab Cross-validate without a browser: what it starts, what it shows, what it refuses."""

from __future__ import annotations

import io
import json
import re
import string
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient
from ui_tab_support import built, buttons, pressed, progress, result, write_run, write_table

from ser.cli import _parser
from ser.corpora.corpus import read_corpus
from ser.errors import CorpusError, SettingsError
from ser.files import DEMO_CORPUS
from ser.labels import EMOTIONS
from ser.ui import jobs
from ser.ui.corpora import DEMO, Corpora, Encoders
from ser.ui.crossvalidate import PAPER, QUICK, CrossvalidateTab
from ser.ui.jobs import JobStatus
from ser.ui.run_settings import CROSSVAL_NUMBERS
from ser.ui.run_view import (
    accuracy_and_uar,
    bar,
    fold_table,
    matrices_figure,
    matrices_of,
    state_box,
    time_left,
)
from ser.ui.runs import LATEST, Run, Runs
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
    return [DEMO, tab.context.encoders.names[0], "", *tab.values_of(QUICK)]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Sequence[str], Path]]:
    """What would have been started."""
    calls: list[tuple[Sequence[str], Path]] = []
    monkeypatch.setattr(jobs, "start", lambda words, folder, one_at_a_time: calls.append((words, folder)))
    return calls


# Choices


def test_a_corpus_is_chosen_by_name_from_those_that_the_owner_allowed(tmp_path: Path) -> None:
    folders = tuple(tmp_path / part for part in ("a/shemo", "b/shemo", "emodb", DEMO))
    for folder in folders:
        folder.mkdir(parents=True)
    corpora = Corpora(AppSettings(data=tmp_path / "data", corpora=folders))
    assert corpora.names == [DEMO, "shemo", "shemo (2)", "emodb", f"{DEMO} (2)"]
    assert [corpora.folder(name) for name in corpora.names] == [DEMO_CORPUS, *folders]


@pytest.mark.parametrize("name", ["/etc", "..", "../data", "", None, ["shemo"], "shemo (3)", "/"])
def test_a_corpus_that_is_not_on_the_list_is_refused(tmp_path: Path, name: Any) -> None:
    with pytest.raises(SettingsError, match="choose one of: demonstration"):
        Corpora(AppSettings(data=tmp_path)).folder(name)


def test_the_demonstration_corpus_is_real_speech_that_can_be_split(tmp_path: Path) -> None:
    corpus = read_corpus(Corpora(AppSettings(data=tmp_path)).folder(DEMO))
    assert len(corpus.utterances) >= 200
    assert len(corpus.speakers) >= 10
    assert {one.emotion for one in corpus.utterances} == set(EMOTIONS)


def test_the_encoders_are_the_one_that_answers_and_the_one_of_the_hub(tmp_path: Path) -> None:
    folder = tmp_path / "secret" / "tiny"
    folder.mkdir(parents=True)
    encoders = Encoders(AppSettings(encoder=str(folder), hub_encoder="ntu-spml/distilhubert"))
    assert encoders.names == ["tiny", "ntu-spml/distilhubert"]
    assert encoders.source("tiny") == str(folder)
    with pytest.raises(SettingsError, match="No encoder"):
        encoders.source(str(folder))


def test_without_any_model_the_shipped_encoder_is_offered(tmp_path: Path) -> None:
    assert Encoders(AppSettings(checkpoint=tmp_path)).names == ["shipped"]


@pytest.mark.parametrize("name", [PAPER, QUICK])
def test_a_preset_makes_a_command_that_the_command_line_understands(tab: Any, name: str) -> None:
    words = ["crossval", "--corpus", "corpus", *tab.words(tab.values_of(name))]
    args = _parser(words).parse_args(words)
    for number, value in zip(CROSSVAL_NUMBERS, tab.values_of(name), strict=False):
        assert getattr(args, number.name) == value


def test_the_preset_of_the_paper_is_the_default_of_the_command_line(tab: Any) -> None:
    words = ["crossval", "--corpus", "x"]
    defaults = _parser(words).parse_args(words)
    found = [getattr(defaults, number.name) for number in CROSSVAL_NUMBERS]
    assert [*found, defaults.optimizer] == tab.values_of(PAPER)


@pytest.mark.parametrize(
    ("place", "value"),
    [(0, 0), (0, 301), (0, 2.5), (0, "3"), (0, None), (0, float("nan")), (2, 0), (2, float("inf")), (3, -1),
     (8, 1), (8, 11), (10, "lion"), (10, None), (10, "--out")],
)  # fmt: skip
def test_a_value_outside_its_range_is_refused_by_the_name_that_the_page_gives_it(
    tab: Any, started: list[Any], quick: list[Any], place: int, value: Any
) -> None:
    quick[3 + place] = value
    name = TEXTS[f"ser_job_{[*(number.name for number in CROSSVAL_NUMBERS), 'optimizer'][place]}"]
    for language, expected in (("en", name.en), ("fa", name.fa)):
        said = pressed(tab, "start", *quick, language=language)[tab.message]
        assert "problem" in said
        assert expected in said
    assert started == []


def test_no_typed_number_has_a_range_that_gradio_would_refuse_in_its_own_words(tab: Any) -> None:
    typed = [one for one in tab.page.blocks.values() if isinstance(one, gr.Number)]
    assert typed
    assert all(one.minimum is None and one.maximum is None for one in typed)
    refused = [one for one in tab.page.fns.values() if one.trigger_only_on_failure]
    assert len(refused) == len(buttons(tab))  # what gradio refuses all the same has its own sentence
    assert "out of range" in refused[0].fn("en")


def test_too_few_values_are_refused(tab: Any) -> None:
    with pytest.raises(Problem, match="Maximum epochs"):
        tab.words([])


# Presses


def test_start_starts_a_run_in_a_folder_of_its_own(tab: Any, started: list[Any], quick: list[Any]) -> None:
    told = pressed(tab, "start", *quick)
    assert "Started" in told[tab.message]
    assert told[tab.run]["value"] == LATEST
    [(words, folder)] = started
    assert folder.parent == tab.runs.folder
    assert folder.name.endswith(f"-{DEMO}")
    assert words[words.index("--out") + 1] == str(folder)
    assert words[words.index("--corpus") + 1] == str(DEMO_CORPUS)


def test_a_run_is_called_what_its_owner_calls_it(tab: Any, started: list[Any], quick: list[Any]) -> None:
    quick[2] = "صدای من، 2"
    pressed(tab, "start", *quick)
    assert Run(started[0][1]).title[0] == "صدای من 2"


def test_nothing_is_started_or_written_with_a_wrong_choice(
    tab: Any, started: list[Any], quick: list[Any]
) -> None:
    for place, value in ((0, "/etc"), (1, "/etc"), (-1, "lion")):
        values = [*quick]
        values[place] = value
        assert "problem" in pressed(tab, "start", *values)[tab.message]
    assert started == []
    assert not tab.data.exists()


def test_while_one_run_is_in_progress_no_other_is_started(
    tab: Any, started: list[Any], quick: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "is_running", lambda folder: True)
    assert "only one can run at a time" in pressed(tab, "start", *quick)[tab.message]
    assert started == []


def test_a_corpus_that_cannot_be_split_is_refused_before_it_is_encoded_with_a_way_out(
    tmp_path: Path, started: list[Any]
) -> None:
    corpus = write_table(tmp_path / "tiny", n_speakers=4)
    tab: Any = built(CrossvalidateTab, tmp_path / "data", corpora=(corpus,))
    values = ["tiny", tab.context.encoders.names[0], "", *tab.values_of(PAPER)]
    told = pressed(tab, "start", *values)
    assert "5 folds of different speakers" in told[tab.message]
    assert started == []
    assert told[tab.offer].value == "Start with 4 folds"
    assert "Started" in pressed(tab, "accept", told[tab.offered], *values)[tab.message]
    assert started[0][0][started[0][0].index("--folds") + 1] == "4"
    assert "problem" in pressed(tab, "accept", "folds 0", *values)[tab.message]
    assert len(started) == 1


def test_the_size_of_a_corpus_is_told_when_it_is_chosen(tab: Any) -> None:
    assert tab.facts(DEMO, "en").info.startswith("217 recordings by 10 speakers: anger 38")
    assert "۱۰ گوینده" in tab.facts(DEMO, "fa").info
    assert "choose one of" in tab.facts("/etc", "en").info


@pytest.mark.parametrize("name", [SHEMO, LATEST, "crossval-none", "../..", None])
def test_what_cannot_be_done_is_said(tab: Any, started: list[Any], name: Any) -> None:
    write_run(tab.runs.folder / SHEMO, progress=progress())
    for button, key in (("stop", "not_running"), ("resume", "not_resumed"), ("use", "no_model")):
        assert say(key, "en", "cv") in pressed(tab, button, name)[tab.message]
    assert started == []


def test_a_failed_run_is_resumed_with_the_command_it_was_started_with(tab: Any, started: list[Any]) -> None:
    write_run(tab.runs.folder / SHEMO, job=FAILED)
    assert "Resumed" in pressed(tab, "resume", SHEMO)[tab.message]
    assert started == [(["crossval", "--seed", "7"], tab.runs.folder / SHEMO)]


def test_the_model_of_a_run_is_put_to_use_by_its_folder(tab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_run(tab.runs.folder / SHEMO / "checkpoint", model={}).folder
    used: list[Any] = []
    monkeypatch.setattr(tab.context.model, "replace", lambda *given, title: used.append((*given, title)))
    assert "model of shemo, 2026-11-20 10:11," in pressed(tab, "use", SHEMO)[tab.message]
    assert used == [(folder, "shemo, 2026-11-20 10:11")]


def test_a_run_is_deleted_when_that_is_confirmed(tab: Any) -> None:
    run = write_run(tab.runs.folder / SHEMO, job=FAILED)
    told = pressed(tab, "delete", SHEMO)
    assert "cannot be undone" in told[tab.message]
    assert run.folder.exists()
    assert "Deleted" in pressed(tab, "accept", told[tab.offered], DEMO, "", "")[tab.message]
    assert not run.folder.exists()
    for offer in (told[tab.offered], "delete ..", "delete latest/../..", "", None, "delete"):
        assert "nothing here to delete" in pressed(tab, "accept", offer, DEMO, "", "")[tab.message]
    assert tab.runs.folder.exists()


def test_a_run_in_progress_cannot_be_deleted(tab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tab.runs.folder / SHEMO, job=FAILED)
    with jobs._held(run.folder, "already"):
        assert "still running" in pressed(tab, "accept", f"delete {SHEMO}", DEMO, "", "")[tab.message]
    assert run.folder.exists()


@pytest.mark.parametrize("language", ["en", "fa"])
@pytest.mark.parametrize("secret", ["", "wrong", None])
def test_no_button_does_anything_for_somebody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secret: Any, language: str
) -> None:
    tab: Any = built(CrossvalidateTab, tmp_path / "data", password="right")
    write_run(tab.runs.folder / SHEMO, job=FAILED)
    write_run(tab.runs.folder / SHEMO / "checkpoint", model={})
    done: list[str] = []
    for name in ("start", "stop", "remove"):
        monkeypatch.setattr(jobs, name, lambda *_, name=name, **__: done.append(name))
    monkeypatch.setattr(tab.context.model, "replace", lambda *_, **__: done.append("replace"))
    quick = [DEMO, tab.context.encoders.names[0], "", *tab.values_of(QUICK)]
    presses = {"start": quick, "accept": [f"delete {SHEMO}", *quick], "resume": [SHEMO], "use": [SHEMO]}
    presses |= {"stop": [SHEMO], "delete": [SHEMO]}
    for given in (secret, tab.context.owner.token):
        for button, values in presses.items():
            is_running = button == "stop"
            monkeypatch.setattr(jobs, "is_running", lambda folder, is_running=is_running: is_running)
            write_run(tab.runs.folder / SHEMO, job={**FAILED, "exit_code": None if is_running else 1})
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
def test_whatever_fails_ends_in_a_sentence_without_a_path_of_the_server(
    tab: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, expected: str
) -> None:
    write_run(tab.runs.folder / SHEMO, job=FAILED)

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(jobs, "start", fail)
    for language in ("en", "fa"):
        said = pressed(tab, "resume", SHEMO, language=language)[tab.message]
        assert expected in said
        assert "/srv" not in said
        assert ("انجام نشد" in said) == (language == "fa")


def test_where_nobody_can_be_the_owner_the_page_says_so_at_once(tmp_path: Path) -> None:
    tab: Any = built(CrossvalidateTab, tmp_path, host="0.0.0.0")
    write_run(tab.runs.folder / SHEMO, job=FAILED)
    start = next(one for one in tab.page.blocks.values() if getattr(one, "elem_id", "") == "cv-start")
    assert start.interactive is False
    assert "ser_job_closed" in tab.message.value
    assert not any(tab.news("", LATEST, "en", 3)[button].visible for button in tab.buttons.values())


# What is shown


def test_runs_are_listed_newest_first_and_found_by_name_only(tmp_path: Path) -> None:
    runs = Runs(tmp_path / "runs")
    assert runs.names() == []
    assert runs.find(LATEST) is None
    for name in (SHEMO, DEMO_RUN, "another folder"):
        write_run(tmp_path / "runs" / name)
    assert runs.names() == [DEMO_RUN, SHEMO]
    assert runs.find(LATEST) == Run(tmp_path / "runs" / DEMO_RUN)
    assert runs.find(SHEMO) == Run(tmp_path / "runs" / SHEMO)
    for name in ("..", "another folder", f"../runs/{SHEMO}", f"{SHEMO}/", "", None, 3, [SHEMO]):
        assert runs.find(name) is None


def test_a_new_run_is_named_after_its_corpus_without_anything_odd() -> None:
    name = Runs(Path("x")).new("../My corpus: گفتار/1").name
    assert name.startswith("crossval-")
    assert name.endswith("-My-corpus-گفتار-1")


def test_news_are_what_has_changed_and_never_which_run_is_chosen(tab: Any) -> None:
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


def test_the_buttons_get_the_name_of_the_run_that_is_shown(tab: Any) -> None:
    for name in (SHEMO, DEMO_RUN):
        write_run(tab.runs.folder / name)
    assert tab.news("", LATEST, "en", 3)[tab.shown] == DEMO_RUN
    assert tab.news("", SHEMO, "en", 3)[tab.shown] == SHEMO
    for name in ("stop", "resume", "use", "delete"):
        [takes] = [one for one in tab.page.fns.values() if one.fn is buttons(tab)[name]]
        assert takes.inputs[-1] is tab.shown


def test_a_page_without_runs_says_what_to_do(tab: Any) -> None:
    shown = tab.news("", LATEST, "en", 3)
    assert "Press Start" in shown[tab.box]
    assert shown[tab.curves].visible is False


def test_a_run_that_is_gone_is_replaced_by_the_latest(tab: Any) -> None:
    write_run(tab.runs.folder / SHEMO, progress=progress(1))
    shown = tab.news("", "crossval-gone", "en", 3)
    assert shown[tab.run].value == LATEST
    assert shown[tab.shown] == SHEMO


def test_a_run_whose_files_are_damaged_is_said_to_be_and_can_be_deleted(tab: Any) -> None:
    write_run(tab.runs.folder / SHEMO, progress={"epoch": 3})
    shown = tab.news("", SHEMO, "en", 3)
    assert "damaged" in shown[tab.box]
    assert [name for name, button in tab.buttons.items() if shown[button].visible] == ["delete"]


@pytest.mark.parametrize("language", ["en", "fa"])
@pytest.mark.parametrize("columns", [1, 2, 3, 99, None])
def test_matrices_of_every_fold_and_of_all_are_shown(tab: Any, language: str, columns: Any) -> None:
    write_run(tab.runs.folder / SHEMO, progress=progress(4))
    shown = tab.news("", LATEST, language, columns)
    traces = json.loads(shown[tab.matrices].value["plot"])["data"]
    assert sum(trace["type"] == "heatmap" for trace in traces) == 3
    assert json.loads(shown[tab.curves].value["plot"])["data"]
    assert "<table>" in shown[tab.table]
    assert shown[tab.about_matrices] == say("matrices_now", language)


def test_the_pooled_matrix_is_the_sum_of_the_folds_and_its_axes_are_named() -> None:
    figure = matrices_figure(matrices_of(progress(3), None), EMOTIONS, "en", 3)
    assert [annotation.text for annotation in figure.layout.annotations] == ["fold 1", "fold 2", "all folds"]
    pooled = [trace for trace in figure.data if trace.type == "heatmap"][2]
    assert "8 of 18" in pooled.hovertext[0][0]
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == ("predicted", "true")


def test_test_matrices_take_the_place_of_validation_when_there_is_a_result() -> None:
    assert np.sum(matrices_of(progress(1), result())) == 18 + 72
    assert np.sum(matrices_of(progress(1), None)) == 2 * 42
    assert matrices_of(None, None) == []


def test_mean_recall_leaves_out_classes_without_clips() -> None:
    matrix = np.array([[3, 1, 0], [0, 0, 0], [1, 0, 1]])
    assert accuracy_and_uar(matrix) == (pytest.approx(4 / 6), pytest.approx((0.75 + 0.5) / 2))


def test_a_running_box_says_epoch_scores_and_time_left(tmp_path: Path) -> None:
    now = time.time()
    stage = {"stage": "training", "first": 0, "done": 6, "total": 18, "started": now - 300, "updated": now}
    run = write_run(tmp_path / SHEMO, job={"started_ns": 1}, progress=progress(3), stage=stage)
    box = state_box(run, JobStatus("running"), "en")
    assert "Epoch 3 of at most 9" in box
    assert 'aria-valuenow="33"' in box
    assert "accuracy 44.4" in box
    assert "At most 10 min of training left" in box
    assert "دوره‌ی ۳ از حداکثر ۹" in state_box(run, JobStatus("running"), "fa")


def test_a_run_that_prepares_shows_how_far_it_is_and_no_line_of_its_log(tmp_path: Path) -> None:
    status = JobStatus("running", reason="2 1.1515 50.96%")
    now = time.time()
    stage = {
        "stage": "features",
        "first": 52,
        "done": 152,
        "total": 252,
        "started": now - 240,
        "updated": now,
    }
    run = write_run(tmp_path / SHEMO, job={"started_ns": 1}, stage=stage)
    box = state_box(run, status, "en")
    assert "Preparing" in box
    assert "Encoding the recordings: 152 of 252. About 4 min left." in box
    assert "50.96" not in box
    assert 'class="bar busy"' in state_box(
        write_run(tmp_path / DEMO_RUN, job={"started_ns": 1}), status, "en"
    )


def test_what_an_earlier_job_left_says_nothing_of_the_one_that_runs_now(tmp_path: Path) -> None:
    run = write_run(tmp_path / SHEMO, job={"started_ns": 1}, progress=progress(3))
    assert "Epoch 3" in state_box(run, JobStatus("running"), "en")
    write_run(run.folder, job={"started_ns": time.time_ns() + 10**9})
    assert "Preparing" in state_box(run, JobStatus("running"), "en")


def test_time_left_is_what_the_rest_takes_at_the_same_speed() -> None:
    stage = {"first": 10, "done": 20, "total": 40, "started": 100.0, "updated": 110.0}
    assert time_left(stage, now_s=110.0) == 20.0
    assert time_left(stage, now_s=115.0) == 15.0
    assert time_left(stage, now_s=999.0) == 1.0
    assert time_left({**stage, "first": 20}) is None
    assert time_left({**stage, "done": 40}) is None
    assert time_left(None) is None


def test_a_bar_stays_within_its_frame() -> None:
    assert "width: 100%" in bar(1.7)
    assert "width: 0%" in bar(-1.0)


def test_a_finished_run_shows_test_scores_with_intervals_and_protocol(tmp_path: Path) -> None:
    run = write_run(tmp_path / SHEMO, progress=progress(3, "done"), result=result())
    box = state_box(run, JobStatus("finished", 0), "en")
    assert "Test speakers, 90 clips: accuracy 61.2\u00a0% [50.0 – 70.0]" in box
    assert "by &lt;hand&gt;" in box


def test_a_failed_box_gives_the_reason_without_the_folders_of_the_server(tmp_path: Path) -> None:
    run = write_run(tmp_path / SHEMO)
    reason = "/srv/secret/shemo/x.wav: <b>no</b> speakers"
    box = state_box(run, JobStatus("failed", 1, reason), "en")
    assert "x.wav: &lt;b&gt;no&lt;/b&gt; speakers" in box
    assert "/srv" not in box
    killed = state_box(run, JobStatus("failed", None, "3  1.15  50.96%"), "en")
    assert "killed" in killed
    assert "50.96" not in killed


@pytest.mark.parametrize("state", ["running", "finished", "failed", "stopped", "never"])
@pytest.mark.parametrize("phase", ["training", "testing", "training the final model", "done", "stopped"])
@pytest.mark.parametrize("language", ["en", "fa"])
def test_every_state_has_words_of_its_own(tmp_path: Path, state: Any, phase: str, language: str) -> None:
    run = write_run(tmp_path / SHEMO, job={"started_ns": 1}, progress=progress(2, phase))
    [heading] = re.findall("<h2>(.+?)</h2>", state_box(run, JobStatus(state), language))
    key = {"done": "ending", "stopped": "ending"}.get(phase, phase) if state == "running" else state
    assert heading == say(key, language, epoch=2, most=9)


def test_the_table_has_a_row_for_each_fold_and_the_mean() -> None:
    table = fold_table(progress(2), None, "en")
    assert "latest epoch" in table
    assert table.count("<tr>") == 1 + 2 + 1
    assert "0.800" in table  # validation loss of fold 1
    assert "1.300" in table  # mean validation loss
    assert "۱٫۳" in fold_table(progress(2), None, "fa")


def test_once_tested_the_table_shows_test_scores_beside_validation_both_at_the_best_epoch() -> None:
    table = fold_table(progress(2), result(), "en")
    assert re.findall(r'"col">(.+?)<', table)[1:3] == ["Test accuracy", "Test UAR"]
    rows = re.findall(r"<td>(.+?)</td>", table)
    assert rows[:5] == ["90.0 %", "90.0 %", "28.6 %", "28.6 %", "1"]  # of the latest epoch it would be 37.5 %
    assert rows[10:12] == ["80.0 %", "80.0 %"]


def test_texts_have_both_languages_and_the_same_names() -> None:
    for key, text in TEXTS.items():
        names = [{name for _, name, _, _ in string.Formatter().parse(words) if name} for words in text]
        assert names[0] == names[1] or key == "refused", key
        assert text.fa, key
        assert text.en or key == "refused", key


def test_in_persian_no_latin_word_turns_the_number_after_it_around() -> None:
    for key, text in TEXTS.items():
        if not key.startswith("hover_"):
            without_names = re.sub(r"\{\w+\}", "{}", text.fa)
            assert not re.search("[A-Za-z0-9][^\u0600-\u06ff\u200f{]*\\{", without_names), key


# Downloads


@pytest.fixture
def server(tab: Any) -> TestClient:
    """The tab's own routes, on a run whose encoder is a folder of the server and whose corpus names one elsewhere."""
    run = write_run(
        tab.runs.folder / SHEMO, job={"command": []}, run={"encoder": {"source": "/srv/My secret/tiny"}}
    )
    source = {"encoder": {"source": "/srv/My secret/tiny"}}
    (run.folder / "result.json").write_text(
        json.dumps(result() | source | {"left_out": ["/srv/secret/x.wav"]})
    )
    (run.folder / "report.html").write_text("<script>/a/b/</script> /srv/My secret/tiny")
    (run.folder / "log.txt").write_text("private")
    write_run(run.folder / "checkpoint", model=source)
    (run.folder / "checkpoint" / "model.safetensors").write_bytes(b"weights /srv/")
    (tab.data / "secret.txt").write_text("private")
    (run.folder / "checkpoint" / "linked.json").symlink_to(tab.data / "secret.txt")
    return TestClient(Starlette(routes=tab.context.routes))


def test_the_files_of_a_run_can_be_downloaded(server: TestClient, tab: Any) -> None:
    shown = tab.news("", SHEMO, "en", 3)[tab.notes]
    assert shown.count("<a ") == 3 + 1
    for address in re.findall('href="(.+?)"', shown):
        assert server.get(f"/{address}").status_code == 200
    answer = server.get(f"/runs/{SHEMO}/result.json")
    assert answer.json()["protocol"] == "by <hand>"
    assert answer.headers["content-disposition"] == f'attachment; filename="{SHEMO}-result.json"'
    archive = zipfile.ZipFile(io.BytesIO(server.get(f"/runs/{SHEMO}/checkpoint.zip").content))
    assert archive.namelist() == ["checkpoint/model.json", "checkpoint/model.safetensors"]
    assert archive.read("checkpoint/model.safetensors") == b"weights /srv/"
    assert server.get(f"/runs/{SHEMO}/report.html?show").headers["content-disposition"] == "inline"


def test_no_download_says_where_the_server_keeps_things(server: TestClient) -> None:
    told = server.get(f"/runs/{SHEMO}/result.json").json()
    assert told["encoder"]["source"].endswith("tiny")
    assert "/srv" not in json.dumps(told)
    assert server.get(f"/runs/{SHEMO}/report.html").text == "<script>/a/b/</script> tiny"
    archive = zipfile.ZipFile(io.BytesIO(server.get(f"/runs/{SHEMO}/checkpoint.zip").content))
    assert b"/srv" not in archive.read("checkpoint/model.json")


@pytest.mark.parametrize(
    "path",
    [
        f"{SHEMO}/log.txt",
        f"{SHEMO}/job.json",
        f"{SHEMO}/predictions.csv",
        f"{SHEMO}/..%2F..%2Fsecret.txt",
        f"{SHEMO}%2F..%2F{SHEMO}/result.json",
        "latest/result.json",
        "x/result.json",
        "../secret.txt",
        "..%2F../secret.txt",
        "%2e%2e/secret.txt",
    ],
)
def test_nothing_else_can_be_downloaded(server: TestClient, path: str) -> None:
    answer = server.get(f"/runs/{path}")
    assert answer.status_code == 404
    assert "private" not in answer.text


def test_only_get_is_answered(server: TestClient) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert server.request(method, f"/runs/{SHEMO}/result.json").status_code == 405
