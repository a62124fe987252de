"""The encoder of the hub, against a stand-in for the hub on this machine: it comes, or it is said why not."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hub_server import Hub, running_hub

from ser.encoders import hub
from ser.encoders.encoder import Encoder
from ser.encoders.hub import Fetching, command, fetch
from ser.errors import EncoderError
from ser.ui.model import ModelHolder, ModelSource

NAME = "ntu-spml/distilhubert"
FAULTS = ("error", "truncate")


@pytest.fixture
def server(tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with a tiny encoder, and a fresh place to keep it, for processes that are started here."""
    with running_hub(NAME, tiny_encoder) as server:
        home = str(tmp_path / "hf")
        for name, value in (("ENDPOINT", server.url), ("HOME", home), ("HUB_OFFLINE", "0"), ("HUB_DISABLE_XET", "1")):
            monkeypatch.setenv(f"HF_{name}", value)
        yield server


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_an_encoder_is_fetched_by_a_process_of_its_own_loads_and_is_kept(server, tiny_encoder, monkeypatch):
    folder = Fetching(NAME, 120).result()
    assert Encoder.load(folder).fingerprint == Encoder.load(tiny_encoder).fingerprint
    assert any("/resolve/" in call for call in server.calls)
    server.fault = "error"
    assert Fetching(NAME, 120).result() == folder  # what is here already is used
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder.parents[2]))
    encoder = Encoder.load(NAME)
    assert (encoder.source, encoder.name) == (NAME, NAME)


@pytest.mark.parametrize("listed", [True, False], ids=["with the hub's list of files", "without it"])
def test_an_encoder_is_here_once_its_weights_are(server, tiny_encoder, tmp_path, monkeypatch, listed):
    server.folder = Path(shutil.copytree(tiny_encoder, tmp_path / "served"))
    (server.folder / "README.md").write_text("which nobody fetches")
    folder = Fetching(NAME, 120).result()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder.parents[2]))
    if not listed:  # as older clients left it
        shutil.rmtree(folder.parents[1] / "trees", ignore_errors=True)
    assert hub.is_here(NAME)
    (folder / "model.safetensors").unlink()
    assert (folder / "config.json").exists()
    assert not hub.is_here(NAME)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.slow
def test_a_hub_that_fails_is_named_with_the_command_that_fetches(server, fault):
    server.fault = fault
    with pytest.raises(EncoderError, match=rf"within reach \(\w+\).*hf download {NAME}$"):
        Fetching(NAME, 120).result()


def test_a_hub_that_hangs_is_given_up_and_a_download_can_be_stopped(server):
    server.fault = "hang"
    with pytest.raises(EncoderError, match=r"did not come from the hub within 2 s.*hf download"):
        Fetching(NAME, 2).result()
    fetching = Fetching(NAME, 600)
    threading.Timer(0.2, fetching.stop).start()
    with pytest.raises(EncoderError, match="was stopped"):
        fetching.result()


def test_no_space_is_found_behind_what_the_client_makes_of_it(monkeypatch):
    def full(*_: object, **__: object) -> str:
        try:
            raise OSError(28, "No space left on device")
        except OSError as error:
            raise RuntimeError("the download failed") from error

    monkeypatch.setattr("huggingface_hub.snapshot_download", full)
    with pytest.raises(EncoderError, match=r"There is no room.*\(No space left on device\)"):
        fetch(NAME)


def test_the_command_names_the_revision():
    assert command("a/b@c") == "hf download a/b --revision c"
    assert command("a/b") == "hf download a/b"


def test_the_shipped_model_answers_while_the_configured_encoder_hangs(server, tiny_checkpoint, monkeypatch):
    monkeypatch.setattr("ser.classifier.checkpoint.SHIPPED_CLASSIFIER", tiny_checkpoint)
    monkeypatch.setattr("ser.inference.load.SHIPPED_CLASSIFIER", tiny_checkpoint)
    server.fault = "hang"
    holder = ModelHolder(ModelSource(tiny_checkpoint, NAME))
    holder.start()
    holder.get(120)
    assert holder.state.is_shipped
    assert "being downloaded" in holder.description("en")
    wait_until(lambda: bool(server.calls))
    holder.close()
    wait_until(lambda: bool(holder.state.problem))
    assert "was stopped" in holder.description("en")


def test_the_configured_encoder_takes_over_when_it_is_here(server, tiny_checkpoint):
    loaded: list[ModelSource] = []

    class Source(ModelSource):
        def load(self):  # type: ignore[no-untyped-def]
            loaded.append(self)
            return ModelSource(tiny_checkpoint).load()

    holder = ModelHolder(Source(tiny_checkpoint, NAME))
    holder.start()
    wait_until(lambda: bool(loaded))
    assert any("/resolve/" in call for call in server.calls)
