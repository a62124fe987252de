"""Live in a real browser: the page follows a fake microphone while it records, and stops with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile
from browser_support import BROWSER, Server, chromium, opened
from support import voice
from ui_support import tiny_model

from ser.ui.texts import TEXTS

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = BROWSER
ANSWERED = "#answer [data-answered]"
SILENCE_S = 3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    server = Server(folder, tiny_model(folder))
    yield server
    server.end()
    assert server.process.returncode == 0
    assert "event=failed" not in server.log.read_text()
    assert "event=request_refused" not in server.log.read_text()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Its microphone is silent for a while, then two people speak."""
    path = tmp_path_factory.mktemp("microphone") / "speech.wav"
    sounds = [np.zeros(SILENCE_S * 48_000), voice(6, 48_000, seed=1), voice(20, 48_000, seed=150)]
    soundfile.write(path, np.concatenate(sounds), 48_000, subtype="PCM_16")
    fake = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    with chromium(*fake, f"--use-file-for-fake-audio-capture={path}") as browser:
        yield browser


def test_the_answer_follows_who_speaks_and_stops_with_the_recording(browser: Browser, server: Server) -> None:
    errors: list[str] = []
    phone = {"viewport": {"width": 390, "height": 844}, "permissions": ["microphone"]}
    page = opened(browser, f"{server.address}?lang=fa", errors, is_owner=False, **phone)
    asked: list[str] = []
    page.on("request", lambda sent: asked.append(sent.url) if sent.method == "POST" else None)
    page.get_by_label(TEXTS["ser_live"].fa).check()
    page.locator("#recording .record-button").click()
    page.get_by_text(TEXTS["live_listening"].fa).wait_for()
    page.wait_for_selector(ANSWERED)
    before = page.inner_text("#answer .bars")
    page.wait_for_selector("#timeline .js-plotly-plot .main-svg")
    page.wait_for_function("before => document.querySelector('#answer .bars')?.innerText !== before", arg=before)
    assert page.inner_text(".announced") == page.inner_text("#answer h2")
    assert page.locator("#recording .stop-button").is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert files_of(server) == []  # nothing of it is on disk
    page.locator("#recording .stop-button").click()
    page.wait_for_selector("#recording [data-testid=download-link]")
    page.wait_for_timeout(1500)
    asked.clear()
    page.wait_for_timeout(1500)
    assert asked == []
    assert page.locator(ANSWERED).is_visible()
    page.click("#recognise")
    page.locator("#answer .elapsed:not(:empty)").wait_for()
    assert TEXTS["microphone"].fa in page.inner_text("#answer")
    page.locator("#recording .top-panel > button").last.click()
    page.get_by_text(TEXTS["ser_answer_here"].fa).wait_for()
    page.context.close()
    assert errors == []


def files_of(server: Server) -> list[Path]:
    """What visitors have on disk."""
    return [path for folder in server.log.parent.glob("ser-uploads-*") for path in folder.rglob("*") if path.is_file()]
