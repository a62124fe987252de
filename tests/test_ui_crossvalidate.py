"""The tab Cross-validate without a browser: what it starts, what it shows, what it refuses."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

from ser.cli import _parser
from ser.corpora.corpus import read_corpus
from ser.errors import JobError, SettingsError
from ser.files import DEMO_CORPUS
from ser.labels import EMOTIONS
from ser.ui import jobs
from ser.ui.context import Context
from ser.ui.corpora import DEMO, Corpora, Encoders
from ser.ui.crossvalidate import N_OUTPUTS, Outcome, Presses, RunDesk, View
from ser.ui.crossvalidate_texts import TEXTS, say
from ser.ui.jobs import JobStatus
from ser.ui.run_settings import NUMBERS, PAPER, QUICK, command, preset
from ser.ui.run_view import accuracy_and_uar, fold_table, links, matrices_figure, matrices_of, state_box
from ser.ui.runs import LATEST, Run, Runs
from ser.ui.settings import AppSettings

SHEMO = "crossval-20261120-101112-shemo"
DEMO_RUN = f"crossval-20261121-101112-{DEMO}"


def progress(n_epochs: int = 2, state: str = "training") -> dict[str, Any]:
    """What `ser crossval` writes after `n_epochs` epochs of two folds; the diagonal grows."""

    def epoch(number: int, fold: int) -> dict[str, Any]:
        matrix = np.ones((6, 6), int) + number * np.eye(6, dtype=int)
        wa, uar = accuracy_and_uar(matrix)
        losses = {"train_loss": 1.5 / number, "validation_loss": 1.6 / number + fold}
        scores = {"validation_wa": wa, "validation_uar": uar, "validation_confusion": matrix.tolist()}
        return {"epoch": number, **losses, **scores}

    epochs = [[epoch(number, fold) for number in range(1, n_epochs + 1)] for fold in range(2)]
    folds = [{"stopped": False, "best_epoch": n_epochs, "epochs": of_fold} for of_fold in epochs]
    return {"state": state, "epoch": n_epochs, "max_epochs": 9, "labels": EMOTIONS, "folds": folds}


def result() -> dict[str, Any]:
    matrices = [(np.eye(6, dtype=int) * 3).tolist(), np.full((6, 6), 2).tolist()]
    score = {"value": 0.6123, "low": 0.5, "high": 0.7}
    return {
        "labels": EMOTIONS,
        "protocol": "speaker-disjoint <5 folds>",
        "pooled": {"wa": score, "uar": score},
        "pooled_confusion": np.sum(matrices, axis=0).tolist(),
        "folds": [{"test_confusion": matrix} for matrix in matrices],
    }


def write_run(runs: Path, name: str, **files: Any) -> Run:
    folder = runs / name
    folder.mkdir(parents=True)
    for stem, content in files.items():
        (folder / f"{stem}.json").write_text(json.dumps(content))
    return Run(folder)


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return Context.of(AppSettings(data=tmp_path / "data", data_is_temporary=False))


@pytest.fixture
def desk(context: Context) -> RunDesk:
    return RunDesk(context)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Sequence[str], Path, Path]]:
    """What would have been started."""
    calls: list[tuple[Sequence[str], Path, Path]] = []
    monkeypatch.setattr(
        jobs, "start", lambda words, folder, one_at_a_time: calls.append((words, folder, one_at_a_time))
    )
    return calls


# Choices


def test_a_corpus_is_chosen_by_name_from_those_that_the_operator_allowed(tmp_path: Path) -> None:
    folders = tuple(tmp_path / part for part in ("a/shemo", "b/shemo", "emodb", DEMO))
    for folder in folders:
        folder.mkdir(parents=True)
    corpora = Corpora(AppSettings(data=tmp_path / "data", corpora=folders))
    names = [name for _, name in corpora.choices("en")]
    assert names == [DEMO, "shemo", "shemo (2)", "emodb", f"{DEMO} (2)"]
    assert [corpora.folder(name) for name in names[1:]] == list(folders)


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
    with pytest.raises(SettingsError, match="no encoder"):
        encoders.source(str(folder))


def test_without_any_model_the_shipped_encoder_is_offered(tmp_path: Path) -> None:
    assert Encoders(AppSettings(checkpoint=tmp_path)).names == ["shipped"]


@pytest.mark.parametrize("name", [PAPER, QUICK])
def test_a_preset_makes_a_command_that_the_command_line_understands(name: str) -> None:
    words = command(Path("corpus"), "shipped", preset(name), Path("out"), Path("cache"))
    args = _parser(words).parse_args(words)
    assert (args.command, args.out, args.cache, args.encoder) == (
        "crossval",
        Path("out"),
        Path("cache"),
        "shipped",
    )
    assert args.corpus == [Path("corpus")]
    for number, value in zip(NUMBERS, preset(name), strict=False):
        assert getattr(args, number.name) == value


def test_the_preset_of_the_paper_is_the_default_of_the_command_line() -> None:
    words = ["crossval", "--corpus", "x"]
    defaults = _parser(words).parse_args(words)
    found = {number.name: getattr(defaults, number.name) for number in NUMBERS}
    assert found == {number.name: number.paper for number in NUMBERS}
    assert defaults.optimizer == preset(PAPER)[-1]


@pytest.mark.parametrize(
    ("place", "value"),
    [(0, 0), (0, 301), (0, 2.5), (0, "3"), (0, None), (0, float("nan")), (2, 0), (2, float("inf")), (3, -1),
     (8, 1), (8, 11), (10, "lion"), (10, None), (10, "--out")],
)  # fmt: skip
def test_a_value_outside_its_range_is_refused(place: int, value: Any) -> None:
    values: list[Any] = preset(QUICK)
    values[place] = value
    with pytest.raises(SettingsError, match="must be"):
        command(Path("c"), "shipped", values, Path("o"), Path("f"))


def test_too_few_values_are_refused() -> None:
    with pytest.raises(SettingsError, match="needs 11 values"):
        command(Path("c"), "shipped", [], Path("o"), Path("f"))


# Presses


def test_start_starts_a_run_in_a_folder_of_its_own(
    desk: RunDesk, started: list[tuple[Sequence[str], Path, Path]]
) -> None:
    assert desk.start(DEMO, desk.encoders.names[0], *preset(QUICK)).key == "started"
    [(words, folder, limit)] = started
    assert folder.parent == desk.runs.folder
    assert folder.name.endswith(f"-{DEMO}")
    assert limit == desk.data
    assert words[words.index("--out") + 1] == str(folder)
    assert words[words.index("--corpus") + 1] == str(DEMO_CORPUS)


def test_nothing_is_started_or_written_with_a_wrong_choice(desk: RunDesk, started: list[Any]) -> None:
    for corpus, encoder, values in (
        ("/etc", "shipped", preset(QUICK)),
        (DEMO, "/etc", preset(QUICK)),
        (DEMO, desk.encoders.names[0], [*preset(QUICK)[:-1], "lion"]),
    ):
        with pytest.raises(SettingsError):
            desk.start(corpus, encoder, *values)
    assert started == []
    assert not desk.data.exists()


def test_while_one_run_is_in_work_no_other_is_started(
    desk: RunDesk, started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "is_running", lambda folder: True)
    with pytest.raises(JobError, match="one at a time"):
        desk.start(DEMO, desk.encoders.names[0], *preset(QUICK))
    assert started == []


def test_what_cannot_be_stopped_continued_or_used_is_said(desk: RunDesk) -> None:
    write_run(desk.runs.folder, SHEMO, progress=progress())
    for name in (SHEMO, LATEST, "crossval-none", "../..", None):
        assert desk.stop(name).key == "not_running"  # type: ignore[arg-type]
        assert desk.go_on(name).key == "not_continued"  # type: ignore[arg-type]
        assert desk.use(name).key == "no_model"  # type: ignore[arg-type]


def test_a_failed_run_goes_on_with_the_command_it_was_started_with(desk: RunDesk, started: list[Any]) -> None:
    job = {"pid": 1, "command": ["crossval", "--seed", "7"], "exit_code": 1}
    write_run(desk.runs.folder, SHEMO, job=job)
    assert desk.go_on(LATEST) == Outcome("continued")
    assert started == [(("crossval", "--seed", "7"), desk.runs.folder / SHEMO, desk.data)]


def test_the_model_of_a_run_is_put_to_use_by_its_folder(
    desk: RunDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(desk.runs.folder, SHEMO)
    (run.folder / "checkpoint").mkdir()
    (run.folder / "checkpoint" / "model.json").write_text("{}")
    used: list[Path] = []
    monkeypatch.setattr(desk.context.model, "replace", used.append)
    assert desk.use(SHEMO) == Outcome("in_use", title="shemo, 2026-11-20 10:11:12")
    assert used == [run.folder / "checkpoint"]


@pytest.mark.parametrize("language", ["en", "fa"])
def test_a_press_by_somebody_else_does_nothing_and_says_why(context: Context, language: str) -> None:
    context = replace(context, settings=replace(context.settings, password="secret"))
    desk = RunDesk(context)
    with gr.Blocks():
        presses = Presses(context, desk, None, gr.Textbox(), gr.HTML(), say)  # type: ignore[arg-type]
    visitor = SimpleNamespace(client=SimpleNamespace(host="192.0.2.1"), headers={})
    pressed: list[str] = []

    def press() -> Outcome:
        pressed.append("pressed")
        return Outcome("stop_done")

    message, _ = presses.outcome(press, (), "wrong", language, visitor)
    assert "problem" in message
    assert pressed == []
    message, _ = presses.outcome(press, (), "secret", language, visitor)
    assert say("stop_done", language) in message


def test_an_error_is_said_without_a_path_of_the_server(context: Context) -> None:
    def press() -> Outcome:
        raise JobError("The run cannot be started in /srv/secret/runs/x (No space left on device).")

    with gr.Blocks():
        presses = Presses(context, RunDesk(context), None, gr.Textbox(), gr.HTML(), say)  # type: ignore[arg-type]
    message, _ = presses.outcome(press, (), "", "en", None)
    assert "No space left on device" in message
    assert "/srv" not in message


# What is shown


def test_runs_are_listed_newest_first_and_found_by_name_only(tmp_path: Path) -> None:
    runs = Runs(tmp_path / "runs")
    assert runs.names() == []
    assert runs.find(LATEST) is None
    for name in (SHEMO, DEMO_RUN, "another folder"):
        write_run(tmp_path / "runs", name)
    assert runs.names() == [DEMO_RUN, SHEMO]
    assert runs.find(LATEST) == Run(tmp_path / "runs" / DEMO_RUN)
    assert runs.find(SHEMO) == Run(tmp_path / "runs" / SHEMO)
    for name in ("..", "another folder", f"../runs/{SHEMO}", f"{SHEMO}/", "", None, 3, [SHEMO]):
        assert runs.find(name) is None


def test_a_new_run_is_named_after_its_corpus_without_anything_odd() -> None:
    name = Runs(Path("x")).new("../My corpus: گفتار/1").name
    assert name.startswith("crossval-")
    assert name.endswith("-My-corpus-گفتار-1")


def test_nothing_is_sent_while_nothing_has_changed(desk: RunDesk) -> None:
    write_run(desk.runs.folder, SHEMO, progress=progress(1))
    first = desk.news("", LATEST, 3, "en")
    assert len(first) == N_OUTPUTS
    again = desk.news(first[0], LATEST, 3, "en")
    assert len(again) == N_OUTPUTS
    assert all(update == gr.skip() for update in again)
    (desk.runs.folder / SHEMO / "progress.json").write_text(json.dumps(progress(2)))
    assert desk.news(first[0], LATEST, 3, "en")[0] != first[0]


def test_the_outputs_of_the_page_are_as_many_as_the_news() -> None:
    with gr.Blocks():
        parts = [gr.Textbox() for _ in range(N_OUTPUTS + 1)]
        assert len(View(*parts).outputs) == N_OUTPUTS  # type: ignore[arg-type]


def test_a_page_without_runs_says_what_to_do(desk: RunDesk) -> None:
    shown = desk.news("", LATEST, 3, "en")
    assert "Press Start" in shown[2]
    assert [choice for _, choice in shown[1].choices] == [LATEST]


def test_a_run_that_is_gone_is_replaced_by_the_latest(desk: RunDesk) -> None:
    write_run(desk.runs.folder, SHEMO, progress=progress(1))
    shown = desk.news("", "crossval-gone", 3, "en")
    assert shown[1].value == LATEST
    assert "shemo" in shown[2]


@pytest.mark.parametrize("language", ["en", "fa"])
@pytest.mark.parametrize("columns", [1, 2, 3, 99, None])
def test_matrices_of_every_fold_and_of_all_are_shown(desk: RunDesk, language: str, columns: Any) -> None:
    write_run(desk.runs.folder, SHEMO, progress=progress(4))
    shown = desk.news("", LATEST, columns, language)
    curves, table, about, matrices = shown[-4:]
    traces = json.loads(matrices.value["plot"])["data"]
    assert sum(trace["type"] == "heatmap" for trace in traces) == 3
    assert json.loads(curves.value["plot"])["data"]
    assert "<table>" in table
    assert about == say("matrices_now", language)


def test_the_pooled_matrix_is_the_sum_of_the_folds() -> None:
    figure = matrices_figure(matrices_of(progress(3), None), EMOTIONS, "en", 3)
    assert [annotation.text for annotation in figure.layout.annotations] == ["fold 1", "fold 2", "all folds"]
    pooled = [trace for trace in figure.data if trace.type == "heatmap"][2]
    assert "8 of 18" in pooled.hovertext[0][0]


def test_before_the_first_epoch_there_are_no_charts(desk: RunDesk) -> None:
    write_run(desk.runs.folder, SHEMO, progress=progress(0))
    curves, table, about, matrices = desk.news("", LATEST, 3, "en")[-4:]
    assert (curves.visible, table, about, matrices.visible) == (False, "", "", False)


def test_test_matrices_take_the_place_of_validation_when_there_is_a_result() -> None:
    assert np.sum(matrices_of(progress(1), result())) == 18 + 72
    assert np.sum(matrices_of(progress(1), None)) == 2 * 42
    assert matrices_of(None, None) == []


def test_mean_recall_leaves_out_classes_without_clips() -> None:
    matrix = np.array([[3, 1, 0], [0, 0, 0], [1, 0, 1]])
    assert accuracy_and_uar(matrix) == (pytest.approx(4 / 6), pytest.approx((0.75 + 0.5) / 2))


def test_a_running_box_says_epoch_and_scores() -> None:
    box = state_box(Run(Path(SHEMO)), JobStatus("running"), progress(3), None, "en")
    assert "Epoch 3 of at most 9" in box
    assert '<progress value="3" max="9">' in box
    assert "accuracy 44.4" in box
    assert "۳" in state_box(Run(Path(SHEMO)), JobStatus("running"), progress(3), None, "fa")


@pytest.mark.parametrize("earlier", [None, progress(0), progress(3, "stopped")])
def test_a_run_that_prepares_shows_the_last_line_of_its_log(earlier: Any) -> None:
    status = JobStatus("running", reason="features 12 of 252, 20 s left")
    box = state_box(Run(Path(SHEMO)), status, earlier, None, "en")
    assert "Preparing" in box
    assert "12 of 252" in box


def test_a_finished_box_shows_intervals_and_protocol_as_text() -> None:
    box = state_box(Run(Path(SHEMO)), JobStatus("finished", 0), progress(3, "done"), result(), "en")
    assert "61.2" in box
    assert "[50.0 – 70.0]" in box
    assert "speaker-disjoint &lt;5 folds&gt;" in box


def test_a_failed_box_gives_the_reason_without_the_folders_of_the_server() -> None:
    status = JobStatus("failed", 1, "/srv/secret/shemo/x.wav: <b>no</b> speakers")
    box = state_box(Run(Path(SHEMO)), status, None, None, "en")
    assert "x.wav: &lt;b&gt;no&lt;/b&gt; speakers" in box
    assert "/srv" not in box


@pytest.mark.parametrize("state", ["running", "finished", "failed", "stopped", "never"])
@pytest.mark.parametrize("phase", ["training", "testing", "training the final model", "done", "stopped"])
@pytest.mark.parametrize("language", ["en", "fa"])
def test_every_state_has_words(state: Any, phase: str, language: str) -> None:
    assert "<h2>" in state_box(Run(Path(SHEMO)), JobStatus(state), progress(2, phase), None, language)


def test_the_table_has_a_row_for_each_fold_and_the_mean() -> None:
    table = fold_table(progress(2), "en")
    assert table.count("<tr>") == 1 + 2 + 1
    assert "0.800" in table  # validation loss of fold 1
    assert "1.300" in table  # mean validation loss
    assert "۱٫۳" in fold_table(progress(2), "fa")


def test_texts_have_both_languages_and_the_same_names() -> None:
    import string

    for key, text in TEXTS.items():
        names = [{name for _, name, _, _ in string.Formatter().parse(words) if name} for words in text]
        assert names[0] == names[1], key
        assert all(text), key


# Downloads


@pytest.fixture
def server(desk: RunDesk) -> TestClient:
    run = write_run(desk.runs.folder, SHEMO, result=result(), job={"command": []})
    (run.folder / "checkpoint").mkdir()
    (run.folder / "checkpoint" / "model.json").write_text("{}")
    (run.folder / "checkpoint" / "model.safetensors").write_bytes(b"weights")
    (run.folder / "log.txt").write_text("private")
    (desk.data / "secret.txt").write_text("private")
    return TestClient(Starlette(routes=[Route("/runs/{run}/{name}", desk.download)]))


def test_the_files_of_a_run_can_be_downloaded(server: TestClient, desk: RunDesk) -> None:
    shown = links(Run(desk.runs.folder / SHEMO), "en")
    assert shown.count("<a ") == 2
    answer = server.get(f"/runs/{SHEMO}/result.json")
    assert answer.json()["protocol"] == "speaker-disjoint <5 folds>"
    assert answer.headers["content-disposition"] == f'attachment; filename="{SHEMO}-result.json"'
    archive = zipfile.ZipFile(io.BytesIO(server.get(f"/runs/{SHEMO}/checkpoint.zip").content))
    assert archive.namelist() == ["checkpoint/model.json", "checkpoint/model.safetensors"]
    assert archive.read("checkpoint/model.safetensors") == b"weights"


@pytest.mark.parametrize(
    "path",
    [
        f"{SHEMO}/log.txt",
        f"{SHEMO}/job.json",
        f"{SHEMO}/report.html",
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
