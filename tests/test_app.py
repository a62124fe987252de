"""The page without a browser: its endpoint answers, recordings go, and a bad model is said aloud."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from ui_support import recording, tiny_model

from ser.errors import CheckpointError
from ser.labels import EMOTIONS
from ser.ui.card import scores_table, without_front_matter
from ser.ui.context import Context
from ser.ui.limits import RateLimit
from ser.ui.model import ModelHolder, ModelSource, without_folders
from ser.ui.recognise import Desk, Refusal
from ser.ui.recordings import Recordings
from ser.ui.settings import AppSettings
from ser.ui.texts import EMOTION_TEXTS, TEXTS, say

ROOT = Path(__file__).parent.parent
VISITOR: Any = SimpleNamespace(client=SimpleNamespace(host="192.0.2.1"), headers={})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"), threshold=0.99)


@pytest.fixture(scope="module")
def context(model: Path) -> Context:
    context = Context.of(AppSettings(checkpoint=model, port=0, max_audio_s=5))
    context.model.start()
    context.model.get(60)
    return context


@pytest.fixture(scope="module")
def client(context: Context) -> Iterator[Client]:
    from ser.ui.page import build_page, launch

    page = build_page(context.settings, context)
    served = replace(context, settings=replace(context.settings, port=free_port()))
    launch(page, served)
    yield Client(page.local_url, verbose=False)
    page.close(verbose=False)


@pytest.fixture
def upload(context: Context) -> Path:
    """A recording where gradio puts what a visitor uploads."""
    folder = context.uploads / "visitor"
    folder.mkdir(exist_ok=True)
    return recording(folder / "clip.wav")


def free_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_the_endpoint_answers_with_the_prediction(client: Client, tmp_path: Path) -> None:
    answer = client.predict(handle_file(str(recording(tmp_path / "my clip.wav"))), api_name="/recognise")
    assert answer["emotion"] in EMOTIONS
    assert set(answer["probabilities"]) == set(EMOTIONS)
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    assert answer["duration_s"] == pytest.approx(2)
    assert answer["timeline"][-1]["end_s"] == pytest.approx(2)
    assert "/" not in answer["file"]  # no path of the server


def test_the_endpoint_says_what_is_wrong_with_a_file(client: Client, tmp_path: Path) -> None:
    (tmp_path / "notes.wav").write_text("this is no recording, it is a text that goes on for a while " * 9)
    with pytest.raises(AppError, match=r"notes\.wav .*WAV, FLAC"):
        client.predict(handle_file(str(tmp_path / "notes.wav")), api_name="/recognise")


@pytest.mark.parametrize("path", ["http://127.0.0.1:9/clip.wav", "/etc/hostname", "../../etc/hostname"])
def test_the_endpoint_fetches_no_addresses_and_reads_no_file_of_the_server(client: Client, path: str) -> None:
    endpoint = f"{client.src}gradio_api/call/recognise"
    payload = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}]}
    event = httpx.post(endpoint, json=payload).json()["event_id"]
    stream = httpx.get(f"{endpoint}/{event}", timeout=30).text
    assert "event: error" in stream
    assert "/etc" not in stream


def test_only_the_endpoint_is_public(client: Client) -> None:
    assert list(client.view_api(return_format="dict", print_info=False)["named_endpoints"]) == ["/recognise"]


def test_the_page_is_sent_with_its_language_and_nothing_from_elsewhere(client: Client) -> None:
    page = httpx.get(client.src).text
    assert page.index("document.documentElement.dir") < page.index("gradio_config")
    assert httpx.get(client.src + "healthz").json() == {"status": "ok", "model": "ready"}


def test_an_unsure_answer_says_so_and_what_it_means(context: Context, upload: Path) -> None:
    shown, label, timeline, note = Desk(context).answer(str(upload), "en", VISITOR)
    assert "Unsure — perhaps" in shown
    assert "below the 99 %" in shown
    assert set(label["value"]) == {EMOTION_TEXTS[emotion].en for emotion in EMOTIONS}
    assert timeline["visible"]
    assert "`classifier`" in note


def test_a_sure_answer_states_the_measured_precision(tmp_path: Path) -> None:
    context = Context.of(AppSettings(checkpoint=tiny_model(tmp_path)))
    context.model.start()
    shown, *_ = Desk(context).answer(str(recording(tmp_path / "clip.wav")), "fa", VISITOR)
    assert "۸۰٪ از پاسخ‌هایی که مدل به آن‌ها مطمئن بود" in shown
    assert any(text.fa in shown for text in EMOTION_TEXTS.values())


def test_a_bad_recording_is_explained_in_the_visitors_language(context: Context, upload: Path) -> None:
    upload.write_bytes(b"")
    assert "is empty (0 bytes)" in Desk(context).answer(str(upload), "en", VISITOR)[0]
    assert TEXTS["audio_empty"].fa in Desk(context).answer(str(upload), "fa", VISITOR)[0]


def test_a_recording_over_the_limit_is_refused(context: Context, upload: Path) -> None:
    recording(upload, seconds=6)
    assert "the limit is 5 s" in Desk(context).answer(str(upload), "en", VISITOR)[0]


def test_asking_without_a_recording_says_what_to_do(context: Context) -> None:
    with pytest.raises(Refusal, match="Record something"):
        Desk(context).predict(None, "en", VISITOR)


def test_a_deleted_recording_is_named_as_such_without_its_path(context: Context) -> None:
    with pytest.raises(Refusal, match="already been deleted") as raised:
        Desk(context).predict(str(context.uploads / "gone" / "clip.wav"), "en", VISITOR)
    assert "/" not in str(raised.value)


def test_a_client_that_asks_too_often_waits_and_keeps_its_recording(context: Context, upload: Path) -> None:
    limited = replace(context, limit=RateLimit(1), recordings=Recordings(context.uploads, grace_s=0))
    Desk(limited).predict(str(upload), "en", VISITOR)
    with pytest.raises(Refusal, match="more than 1 recordings in a minute"):
        Desk(limited).predict(str(upload), "en", VISITOR)
    assert upload.exists()


def test_the_limit_forgets_after_a_minute_and_counts_clients_apart() -> None:
    now = [0.0]
    limit = RateLimit(2, clock=lambda: now[0])
    assert [limit.wait_s("a"), limit.wait_s("a"), limit.wait_s("b")] == [0, 0, 0]
    now[0] = 20
    assert limit.wait_s("a") == 40
    now[0] = 60
    assert limit.wait_s("a") == 0


def test_an_answered_recording_is_deleted_after_its_time(tmp_path: Path) -> None:
    now = [1e10]
    recordings = Recordings(tmp_path, grace_s=60, clock=lambda: now[0])
    folder = tmp_path / "visitor"
    folder.mkdir()
    path = recording(folder / "clip.wav")
    recordings.forget(path)
    recordings.sweep()
    assert path.exists()
    now[0] += 60
    recordings.sweep()
    assert not folder.exists()


def test_a_recording_that_was_uploaded_again_since_its_answer_stays(tmp_path: Path) -> None:
    now = [0.0]
    recordings = Recordings(tmp_path, grace_s=60, clock=lambda: now[0])
    path = recording(tmp_path / "clip.wav")
    recordings.forget(path)
    time.sleep(0.02)  # a file system's clock ticks a hundred times a second
    recording(path)
    now[0] = 60
    recordings.sweep()
    assert path.exists()


def test_examples_and_files_elsewhere_are_never_deleted(tmp_path: Path) -> None:
    (tmp_path / "uploads").mkdir()
    recordings = Recordings(tmp_path / "uploads", grace_s=0, clock=lambda: 1e10)
    example, elsewhere = recording(tmp_path / "uploads" / "example.wav"), recording(tmp_path / "mine.wav")
    recordings.keep(example)
    for path in (example, elsewhere, tmp_path / "uploads" / ".." / "mine.wav"):
        recordings.forget(path)
    recordings.sweep()
    assert example.exists()
    assert elsewhere.exists()


def test_a_model_that_cannot_be_loaded_is_said_on_the_page(tmp_path: Path) -> None:
    holder = ModelHolder(ModelSource(tmp_path / "no" / "model"))
    holder.start()
    assert holder.wait(60)
    assert "There is no checkpoint in model" in holder.problem  # the name, not the path
    assert "There is no checkpoint in model" in holder.description("en")
    assert "There is no checkpoint in model" in holder.description("fa")


def test_another_model_takes_over_and_a_bad_one_does_not(
    context: Context, model: Path, tmp_path: Path
) -> None:
    holder = ModelHolder(ModelSource(model))
    holder.start()
    first = holder.get(60)
    other = tiny_model(tmp_path, threshold=0.5)
    assert holder.replace(other) is holder.get()
    assert holder.get() is not first
    with pytest.raises(CheckpointError):
        holder.replace(tmp_path / "nothing")
    assert holder.get().checkpoint.calibration.threshold == 0.5


def test_messages_lose_the_folders_of_the_server() -> None:
    message = "There is no checkpoint in /data/secret/model: model.json is missing."
    assert without_folders(message) == "There is no checkpoint in model: model.json is missing."
    assert without_folders("fetch ntu-spml/distilhubert") == "fetch ntu-spml/distilhubert"


def test_the_card_shows_scores_with_intervals_and_conditions(context: Context) -> None:
    card = Desk(context).card("en")
    assert "| Accuracy (WA) | 0.610 | 0.550 – 0.670 |" in card
    assert "random weights, for tests only" in card
    assert scores_table({}) == "No scores were measured for this model."
    assert without_front_matter("---\nlicence: x\n---\n# Card") == "# Card"


def test_every_text_has_persian_and_the_same_names_to_fill_in() -> None:
    import string

    for key, text in TEXTS.items():
        assert text.fa, key
        if text.en:
            names = [{name for _, name, _, _ in string.Formatter().parse(part) if name} for part in text]
            assert names[0] == names[1], key
    assert say("elapsed", "fa", seconds=0.5) == "پاسخ پس از ۰٫۵ ثانیه"


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
        from ser.ui.gradio_import import import_gradio
        import_gradio()
        import gradio
        print(inspect.getfile is before and callable(gradio.Audio().stop_recording))
    """)
    assert printed == "True\n"


def test_the_page_is_built_before_torch_is_imported() -> None:
    code = """
import sys
from ser.ui.gradio_import import import_gradio
from ser.ui.settings import AppSettings
import_gradio()
from ser.ui.page import build_page
build_page(AppSettings.from_environment({}))
assert not {"torch", "transformers", "optuna", "sklearn"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)


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
