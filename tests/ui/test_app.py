"""The page without a browser: its endpoint answers, recordings go, and a bad model is said aloud."""

from __future__ import annotations

import base64
import csv
import json
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from support import ROOT
from ui_support import recording, served, started, tiny_model

from ser.errors import CheckpointError
from ser.labels import EMOTIONS
from ser.scoring.calibration import NEVER, Calibration
from ser.ui.answer_view import answer_html, meaning, row_of, saved, table
from ser.ui.answering import Answer, Answering, Refusal
from ser.ui.card import scores_table, without_front_matter
from ser.ui.context import Context
from ser.ui.limits import RateLimit
from ser.ui.model import ModelHolder, ModelSource, without_folders
from ser.ui.recordings import Recordings
from ser.ui.settings import AppSettings
from ser.ui.texts import EMOTION_TEXTS, TEXTS, say

VISITOR: Any = SimpleNamespace(client=SimpleNamespace(host="192.0.2.1"), headers={})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"), threshold=0.99)


@pytest.fixture(scope="module")
def context(model: Path) -> Context:
    return started(AppSettings(checkpoint=model, port=0, max_audio_s=5))


@pytest.fixture(scope="module")
def client(context: Context) -> Iterator[Client]:
    with served(context) as address:
        yield Client(address, verbose=False)


@pytest.fixture
def upload(context: Context) -> Path:
    """A recording where gradio puts what a visitor uploads."""
    folder = context.uploads / "visitor"
    folder.mkdir(exist_ok=True)
    return recording(folder / "clip.wav")


def test_the_endpoint_answers_with_the_prediction(client: Client, tmp_path: Path) -> None:
    answer = client.predict(handle_file(str(recording(tmp_path / "my clip.wav"))), api_name="/recognise")
    assert answer["emotion"] in EMOTIONS
    assert set(answer["probabilities"]) == set(EMOTIONS)
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    assert answer["duration_s"] == pytest.approx(2)
    assert answer["timeline"][-1]["end_s"] == pytest.approx(2, abs=0.1)
    assert "/" not in answer["file"]  # no path of the server


def test_the_endpoint_says_what_is_wrong_with_a_file(client: Client, tmp_path: Path) -> None:
    (tmp_path / "notes.wav").write_text("this is no recording, it is a text that goes on for a while " * 9)
    with pytest.raises(AppError, match=r"notes\.wav .*WAV, FLAC"):
        client.predict(handle_file(str(tmp_path / "notes.wav")), api_name="/recognise")


def ask(client: Client, path: str) -> str:
    endpoint = f"{client.src}gradio_api/call/recognise"
    payload = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}]}
    event = httpx.post(endpoint, json=payload).json()["event_id"]
    return httpx.get(f"{endpoint}/{event}", timeout=30).text


@pytest.mark.parametrize("path", ["/etc/hostname", "../../etc/hostname"])
def test_the_endpoint_reads_no_file_of_the_server(client: Client, path: str) -> None:
    answer = ask(client, path)
    assert "event: error" in answer
    assert "/etc" not in answer


def test_the_endpoint_answers_to_the_lines_for_curl_that_the_api_panel_shows(client: Client, tmp_path: Path) -> None:
    content = recording(tmp_path / "clip.wav").read_bytes()
    url = f"{client.src}gradio_api"
    (path,) = httpx.post(f"{url}/upload", files={"files": ("clip.wav", content)}).json()
    body = {"recording": {"path": path, "meta": {"_type": "gradio.FileData"}}}
    event = httpx.post(f"{url}/call/v2/recognise", json=body).json()["event_id"]
    assert "probabilities" in httpx.get(f"{url}/call/recognise/{event}", timeout=60).text


def test_only_the_endpoint_is_public_and_its_snippet_names_a_file(client: Client) -> None:
    described = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert list(described) == ["/recognise"]
    assert described["/recognise"]["parameters"][0]["example_input"]["path"] == "clip.wav"


def test_the_page_is_sent_with_its_language_first(client: Client) -> None:
    page = httpx.get(client.src).text
    assert page.index("document.documentElement.dir") < page.index("gradio_config")
    assert httpx.get(client.src + "healthz").json() == {"status": "ok", "model": "ready"}


def test_two_recordings_are_answered_at_once(client: Client, context: Context, tmp_path: Path) -> None:
    model, both = context.model.get(), threading.Barrier(2)

    def wait_for_the_other(timeout_s: float | None = None) -> Any:
        both.wait(20)  # broken where only one is in work
        return model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(context.model, "get", wait_for_the_other)
        files = [handle_file(str(recording(tmp_path / f"{number}.wav", 1 + number))) for number in range(2)]
        jobs = [client.submit(file, api_name="/recognise") for file in files]
        assert [job.result(30)["emotion"] in EMOTIONS for job in jobs] == [True, True]


def answered(context: Context, path: Path, language: str = "en") -> str:
    return answer_html(Answering(context).answer(str(path), language, VISITOR), language)


def test_an_unsure_answer_names_its_file_says_so_and_what_it_means(context: Context, upload: Path) -> None:
    shown = answered(context, upload)
    assert "Unsure — perhaps" in shown
    assert "below the 99" in shown
    assert "clip.wav" in shown
    assert all(text.en in shown for text in EMOTION_TEXTS.values())
    assert "`classifier`" in Answering(context).note("en")


def test_an_answer_can_be_saved_as_json_and_csv(context: Context, upload: Path) -> None:
    links = re.findall(r'download="(.+?)" href="data:.+?;base64,(.+?)"', answered(context, upload))
    files = {name: base64.b64decode(content).decode() for name, content in links}
    assert json.loads(files["answer.json"])[0]["timeline"]
    (row,) = csv.DictReader(files["answer.csv"].splitlines())
    assert row["file"] == "clip.wav"
    assert sum(float(row[label]) for label in EMOTIONS) == pytest.approx(1, abs=1e-3)


def test_a_sure_answer_states_the_measured_precision(tmp_path: Path) -> None:
    context = Context.of(AppSettings(checkpoint=tiny_model(tmp_path)))
    context.model.start()
    shown = answered(context, recording(tmp_path / "clip.wav"), "fa")
    assert "۸۰٪ از پاسخ‌هایی که مدل از آن‌ها مطمئن بود" in shown
    assert any(text.fa in shown for text in EMOTION_TEXTS.values())


@pytest.mark.parametrize(
    ("shares", "threshold", "said", "not_said"),
    [
        ((0.66, 0.11, 0.23), 0.73, "Probability 66\u00a0%, below the 73\u00a0%", "about as likely"),
        ((0.34, 0.33, 0.33), 0.73, "is about as likely (33\u00a0%)", "sure:"),
        ((0.7334, 0.2, 0.0666), 0.7337, "Probability 73.3\u00a0%, below the 73.4\u00a0%", "sure:"),
        ((0.9, 0.05, 0.05), NEVER, "too seldom on new speakers", "101"),
        ((0.9, 0.05, 0.05), 0.73, "from 73\u00a0% on were right 80\u00a0% of the time", "guess"),
    ],
    ids=["one far ahead", "a close second", "nearly sure", "never sure", "sure"],
)
def test_the_sentence_of_an_answer_agrees_with_its_numbers(
    shares: tuple[float, ...], threshold: float, said: str, not_said: str
) -> None:
    probabilities = dict(zip(EMOTIONS, shares, strict=False))
    prediction = SimpleNamespace(probabilities=probabilities, confident=shares[0] >= threshold)
    calibration = Calibration(threshold=threshold, precision=0.8)
    sentence = meaning(Answer(prediction, None, calibration), "en")  # type: ignore[arg-type]
    assert said in sentence
    assert not_said not in sentence


def refusal(context: Context, path: Path | None, language: str = "en") -> str:
    with pytest.raises(Refusal) as refused:
        Answering(context).answer(path and str(path), language, VISITOR)
    return str(refused.value)


def test_a_bad_recording_is_explained_in_the_visitors_language(context: Context, upload: Path) -> None:
    upload.write_bytes(b"")
    assert "is empty (0 bytes)" in refusal(context, upload)
    assert refusal(context, upload, "fa") == TEXTS["audio_empty"].fa


def test_a_recording_over_the_limit_is_refused_with_the_limit(context: Context, upload: Path) -> None:
    recording(upload, seconds=6)
    assert "the limit is 5 s" in refusal(context, upload)
    assert "حداکثر ۵ ثانیه" in refusal(context, upload, "fa")


def test_a_failure_of_ours_is_told_as_ours_with_the_number_in_the_log(
    context: Context, upload: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ser.ui.answering.load_audio", lambda *_: 1 / 0)
    said = refusal(context, upload)
    assert "not with what you sent" in said
    number = said.split()[-1].rstrip(".")
    assert f"event=failed id={number}" in caplog.text


def test_several_files_become_rows_and_a_bad_one_is_named_in_its_row(context: Context, upload: Path) -> None:
    bad = upload.with_name("letter.wav")
    bad.write_text("This is no recording, it is a letter. " * 20)
    found = list(Answering(context).answers([str(upload), str(bad)], "en", VISITOR))
    rows = [row_of(one) if isinstance(one, Answer) else {"file": name, "problem": one} for name, one in found]
    shown = table(rows, "fa")
    assert shown["headers"][:3] == ["فایل", "مشکل", "احساس"]
    assert [row[0] for row in shown["data"]] == ["clip.wav", "letter.wav"]
    assert "letter.wav" in shown["data"][1][1]
    assert shown["data"][0][1] == ""
    numbers = [(cell, word) for cell, word in zip(shown["data"][0], shown["metadata"]["display_value"][0], strict=True)]
    numbers = [(cell, word) for cell, word in numbers if isinstance(cell, float)]  # these the table is sorted by
    assert len(numbers) == 1 + len(EMOTIONS)
    assert not any(re.search("[0-9.]", word) for _, word in numbers)
    assert len(csv_of(rows)) == 2


def csv_of(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    _, content = re.findall(r"base64,(.+?)\"", saved(rows, rows, "en"))
    return list(csv.DictReader(base64.b64decode(content).decode().splitlines()))


def test_a_calm_voice_changes_the_answers_that_it_is_used_for_and_a_foreign_one_none(
    context: Context, upload: Path
) -> None:
    answering = Answering(context)
    assert answering.knows_voices()
    first = answering.voice(str(upload), "en", VISITOR)
    voice = first + answering.voice(str(upload), "en", VISITOR)
    assert (voice.recordings, voice.neutral) == (2, True)
    np.testing.assert_allclose(voice.mean, first.mean, atol=1e-5)
    np.testing.assert_allclose(voice.deviation, first.deviation, atol=1e-4)
    alone, known = (answering.answer(str(upload), "en", VISITOR, one) for one in (None, voice))
    assert known.prediction.probabilities != pytest.approx(alone.prediction.probabilities, abs=1e-4)
    assert "with your voice in mind" in answer_html(known, "en")
    foreign = answering.answer(str(upload), "en", VISITOR, replace(voice, fingerprint="another"))
    assert foreign.prediction.probabilities == pytest.approx(alone.prediction.probabilities, abs=1e-6)
    for one in (alone, foreign):
        assert "with your voice in mind" not in answer_html(one, "en")


def test_a_voice_without_speech_is_refused_in_the_visitor_s_language(context: Context, upload: Path) -> None:
    soundfile.write(upload, 0.2 * np.sin(np.arange(16_000)), 16_000)
    with pytest.raises(Refusal, match="No speech"):
        Answering(context).voice(str(upload), "en", VISITOR)
    with pytest.raises(Refusal, match="نزدیک میکروفون"):
        Answering(context).voice(str(upload), "fa", VISITOR)


def test_too_many_files_at_once_are_refused_before_any_is_answered(context: Context, upload: Path) -> None:
    with pytest.raises(Refusal, match="At most 50 files"):
        next(Answering(context).answers([str(upload)] * 51, "en", VISITOR))


def test_asking_without_a_recording_says_what_to_do(context: Context) -> None:
    assert "Record something" in refusal(context, None)


def test_a_deleted_recording_is_named_as_such_without_its_path(context: Context) -> None:
    said = refusal(context, context.uploads / "gone" / "clip.wav")
    assert "already been deleted" in said
    assert "/" not in said


def test_a_client_that_asks_too_often_waits_and_keeps_its_recording(context: Context, upload: Path) -> None:
    limited = replace(context, limit=RateLimit(1), recordings=Recordings(context.uploads, grace_s=0))
    answered(limited, upload)
    assert "more than 1 recordings per minute" in refusal(limited, upload)
    assert upload.exists()


def test_the_limit_forgets_after_a_minute_and_counts_clients_apart() -> None:
    now = [0.0]
    limit = RateLimit(2, clock=lambda: now[0])
    assert [limit.wait_s("a"), limit.wait_s("a"), limit.wait_s("b")] == [0, 0, 0]
    now[0] = 20
    assert limit.wait_s("a") == 40
    now[0] = 60
    assert limit.wait_s("a") == 0


@pytest.fixture
def swept(tmp_path: Path) -> tuple[Recordings, Path, Callable[[float], None]]:
    """Recordings with one upload, and a function that sweeps at a time."""
    now = [0.0]
    recordings = Recordings(tmp_path, grace_s=60, clock=lambda: now[0])
    path = tmp_path / "visitor" / "clip.wav"
    path.parent.mkdir()

    def sweep(at_s: float) -> None:
        now[0] = at_s
        recordings.sweep()

    return recordings, recording(path), sweep


def test_an_answered_recording_is_deleted_a_minute_later_with_its_folder(swept: Any) -> None:
    recordings, path, sweep = swept
    recordings.forget(path)
    sweep(59)
    assert path.exists()
    sweep(60)
    assert not path.parent.exists()


def test_a_folder_that_goes_while_it_is_counted_is_no_fault(swept: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    recordings, path, _ = swept
    (path.parent.parent / "other").mkdir()
    other, look = recording(path.parent.parent / "other" / "clip.wav"), os.scandir

    def scandir(folder: Any) -> Any:
        if Path(os.fspath(folder)) == path.parent:
            raise FileNotFoundError(2, "deleted by another thread", str(folder))
        return look(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    assert recordings.stored_bytes() == other.stat().st_size


def test_a_recording_that_was_uploaded_again_since_its_answer_stays(swept: Any) -> None:
    recordings, path, sweep = swept
    recordings.forget(path)
    time.sleep(0.02)  # a file system's clock ticks a hundred times a second
    recording(path)
    sweep(60)
    assert path.exists()


def test_what_nobody_asks_about_is_deleted_after_ten_minutes(swept: Any) -> None:
    _, path, sweep = swept
    sweep(0)
    sweep(599)
    assert path.exists()
    sweep(600)
    assert not path.exists()


def test_an_upload_that_broke_off_is_deleted_once_nothing_more_comes(swept: Any) -> None:
    recordings, _, sweep = swept
    part = recordings.folder / "tmp1234"
    part.write_bytes(b"half")
    sweep(0)
    sweep(59)
    assert part.exists()
    sweep(60)
    assert not part.exists()


def test_examples_and_files_elsewhere_are_never_deleted(swept: Any, tmp_path_factory: Any) -> None:
    recordings, _, sweep = swept
    example = recordings.keep(recording(recordings.folder / "example.wav"))
    elsewhere = recording(tmp_path_factory.mktemp("elsewhere") / "mine.wav")
    for path in (example, elsewhere, recordings.folder / ".." / elsewhere.name):
        recordings.forget(path)
    sweep(0)
    sweep(10_000)
    assert example.exists()
    assert elsewhere.exists()


def test_a_model_that_cannot_be_loaded_is_said_on_the_page(tmp_path: Path) -> None:
    holder = ModelHolder(ModelSource(tmp_path / "no" / "model"))
    holder.start()
    assert holder.wait(60)
    assert "There is no checkpoint in model" in holder.state.problem  # the name, not the path
    assert "There is no checkpoint in model" in holder.description("en")
    assert "There is no checkpoint in model" in holder.description("fa")


def test_another_model_takes_over_and_a_bad_one_does_not(context: Context, model: Path, tmp_path: Path) -> None:
    holder = ModelHolder(ModelSource(model))
    holder.start()
    first = holder.get(60)
    other = tiny_model(tmp_path, threshold=0.5)
    assert holder.replace(other) is holder.get()
    assert holder.get() is not first
    with pytest.raises(CheckpointError):
        holder.replace(tmp_path / "nothing")
    assert holder.get().checkpoint.calibration.threshold == 0.5


class Slow(ModelSource):
    """A model whose loading ends when it is let, with an error."""

    let = threading.Event()

    def load(self) -> Any:
        Slow.let.wait(60)
        raise CheckpointError("it never came")


def test_what_the_owner_chose_stays_and_is_named_while_the_configured_model_fails(model: Path) -> None:
    holder = ModelHolder(Slow(model))
    holder.start()
    holder.replace(model, title="my best run")
    said = holder.description("en")
    assert said.startswith("Model: `my best run` (encoder `encoder`, layer ")
    Slow.let.set()
    while holder.state.is_pending:
        time.sleep(0.01)
    assert holder.description("en") == said


def test_there_is_a_way_back_to_the_shipped_model(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    holder = ModelHolder(ModelSource(model))
    holder.replace(model)
    assert not holder.state.is_shipped
    monkeypatch.setattr("ser.inference.load.SHIPPED_CLASSIFIER", model)
    holder.replace(None)
    assert holder.state.is_shipped
    assert "ships with the project" in holder.description("en")


def test_messages_lose_the_folders_of_the_server() -> None:
    message = "There is no checkpoint in /data/secret/model: model.json is missing."
    assert without_folders(message) == "There is no checkpoint in model: model.json is missing."
    assert without_folders("not in /srv/My Data/secret/model now") == "not in model now"
    assert without_folders("fetch ntu-spml/distilhubert") == "fetch ntu-spml/distilhubert"


def test_the_card_shows_scores_with_intervals_and_conditions(context: Context) -> None:
    card = Answering(context).card("en")
    assert "| Accuracy (WA) | 0.610 | 0.550 – 0.670 |" in card
    assert "random weights, for tests only" in card
    assert "(https://doi.org/10.32523/2306-6172-2026-14-1-4-16)" in card
    assert scores_table({}) == "No scores were measured for this model."
    assert without_front_matter("---\nlicence: x\n---\n# Card") == "# Card"


def test_every_text_has_persian_and_the_same_names_to_fill_in() -> None:
    import string

    for key, text in TEXTS.items():
        assert text.fa, key
        if text.en:
            names = [{name for _, name, _, _ in string.Formatter().parse(part) if name} for part in text]
            assert names[0] == names[1], key
    assert say("length", "fa", seconds=0.5) == "۰٫۵ ثانیه صدا"


def run_python(code: str) -> str:
    """What a fresh interpreter prints."""
    command = [sys.executable, "-c", textwrap.dedent(code)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_gradio_is_imported_whole_and_nothing_stays_patched() -> None:
    printed = run_python("""
        import inspect
        before = inspect.getfile
        from pathlib import Path
        from ser.ui.gradio_private import import_gradio
        import_gradio(Path("."))
        import gradio
        print(inspect.getfile is before and callable(gradio.Audio().stop_recording))
    """)
    assert printed == "True\n"


def test_the_page_is_built_before_torch_is_imported() -> None:
    code = """
import sys
from ser.ui.gradio_private import import_gradio
from ser.ui.recordings import private_folder
from ser.ui.settings import AppSettings
import_gradio(private_folder())
from ser.ui.page import build_page
build_page(AppSettings.from_environment({}))
assert not {"torch", "transformers", "optuna", "sklearn"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_nothing_but_the_page_imports_gradio() -> None:
    printed = run_python("""
        import importlib, pkgutil, sys
        sys.modules["gradio"] = None
        import ser
        names = [module.name for module in pkgutil.walk_packages(ser.__path__, "ser.")]
        names = [name for name in names if not name.startswith("ser.ui") and not name.endswith("__main__")]
        for name in names:
            importlib.import_module(name)
        assert not any(name.startswith("ser.ui.") for name in sys.modules)
        print(len(names))
    """)
    assert int(printed) > 10
