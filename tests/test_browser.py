"""The page in a real browser: a headless Chromium with a fake microphone against `python app.py`."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ui_support import recording, tiny_model

from ser.files import SHIPPED_CLASSIFIER
from ser.ui.texts import EMOTION_TEXTS, TEXTS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not on the PATH (Debian: apt install chromium)"),
]
ROOT = Path(__file__).parent.parent
START_S, ANSWER_MS = 300, 120_000


@dataclass
class Visit:
    """A page that was opened, what it asked other servers for, and what its console complained of."""

    page: Page
    outside: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def microphone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recording(tmp_path_factory.mktemp("microphone") / "speech.wav", seconds=6, rate_hz=48_000)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of `python app.py`, started as a user starts it; it must end on SIGTERM."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    folder = tmp_path_factory.mktemp("server")
    environment = os.environ | {"GRADIO_SERVER_PORT": str(port), "SER_DATA": str(folder / "data")}
    environment |= {"TMPDIR": str(folder), "SER_REQUESTS_PER_MINUTE": "1000"}
    if not SHIPPED_CLASSIFIER.exists():
        environment["SER_CHECKPOINT"] = str(tiny_model(folder, threshold=0.5))
    with (folder / "log").open("w+") as log:
        server = subprocess.Popen([sys.executable, ROOT / "app.py"], env=environment, stdout=log, stderr=log)
        try:
            wait_for(f"http://127.0.0.1:{port}/healthz", server, folder / "log")
            yield f"http://127.0.0.1:{port}/"
        finally:
            server.send_signal(signal.SIGTERM)
            assert server.wait(30) == 0
    assert "Traceback" not in (folder / "log").read_text()
    assert not list(folder.glob("ser-uploads-*"))


def wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Until the server answers and its model is loaded."""
    until = time.monotonic() + START_S
    while time.monotonic() < until and server.poll() is None:
        try:
            if b'"ready"' in urllib.request.urlopen(url, timeout=5).read():
                return
        except OSError:
            pass
        time.sleep(0.2)
    pytest.fail(f"The server did not start: {log.read_text()}")


@pytest.fixture(scope="module")
def browser(microphone: Path) -> Iterator[Browser]:
    arguments = [
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={microphone}",
    ]
    with playwright.sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    context = browser.new_context(locale="en-US", permissions=["microphone"])
    visit = Visit(context.new_page())
    local = ("http://127.0.0.1", "data:", "blob:")
    visit.page.on("request", lambda r: None if r.url.startswith(local) else visit.outside.append(r.url))
    visit.page.on("console", lambda m: visit.complaints.append(m.text) if m.type == "error" else None)
    visit.page.on("pageerror", lambda error: visit.complaints.append(str(error)))
    yield visit
    context.close()
    assert visit.outside == []
    assert visit.complaints == []


def opened(visit: Visit, address: str) -> Page:
    visit.page.goto(address)
    visit.page.wait_for_selector("#recognise")
    return visit.page


def upload(page: Page, path: Path) -> None:
    page.click("#recording .source-selection button:first-of-type")
    page.set_input_files("#recording input[type=file]", path)
    page.wait_for_selector("#recording [aria-label='Adjust volume']")


def test_a_recording_from_the_microphone_is_answered_on_the_first_click(visit: Visit, address: str) -> None:
    page = opened(visit, address)
    page.get_by_role("button", name="Record", exact=True).click()
    page.wait_for_timeout(3000)
    page.get_by_role("button", name="Stop", exact=True).click()
    page.get_by_role("button", name="Play", exact=True).wait_for()
    page.click("#recognise")
    heading = page.wait_for_selector("#answer [data-answered]", timeout=ANSWER_MS)
    assert heading is not None
    emotion = heading.get_attribute("data-answered")
    assert EMOTION_TEXTS[str(emotion)].en in heading.inner_text().lower()
    page.wait_for_selector("#timeline .js-plotly-plot .main-svg")
    page.locator("#label .confidence-set").nth(5).wait_for()
    assert page.locator("#label .confidence-set").count() == 6
    page.get_by_text("answered after").wait_for()


def test_a_wrong_file_is_explained_and_the_last_answer_stays(
    visit: Visit, address: str, tmp_path: Path
) -> None:
    page = opened(visit, address)
    upload(page, recording(tmp_path / "clip.wav"))
    page.click("#recognise")
    page.wait_for_selector("#answer [data-answered]", timeout=ANSWER_MS)
    (tmp_path / "letter.wav").write_text("Dear model, this is not a recording but a letter. " * 20)
    page.locator("#recording .top-panel > button").last.click()
    page.set_input_files("#recording input[type=file]", tmp_path / "letter.wav")
    page.wait_for_timeout(1500)
    page.click("#recognise")
    page.wait_for_selector("#answer [role=alert]")
    assert "letter.wav" in page.inner_text("#answer")
    assert "Traceback" not in page.content()
    assert page.locator("#label").is_visible()
    visit.complaints.clear()  # the player itself cannot decode the letter, and says so


def test_persian_is_written_from_right_to_left(visit: Visit, address: str, tmp_path: Path) -> None:
    page = opened(visit, address + "?lang=fa")
    assert page.locator("html").get_attribute("dir") == "rtl"
    assert page.locator("html").get_attribute("lang") == "fa"
    page.get_by_text(TEXTS["ser_heading"].fa).wait_for()
    upload(page, recording(tmp_path / "clip.wav"))
    page.get_by_role("button", name=TEXTS["ser_recognise"].fa).click()
    heading = page.wait_for_selector("#answer [data-answered]", timeout=ANSWER_MS)
    assert heading is not None
    assert EMOTION_TEXTS[str(heading.get_attribute("data-answered"))].fa in heading.inner_text()


def test_a_persian_browser_gets_persian_and_can_switch_to_english(browser: Browser, address: str) -> None:
    context = browser.new_context(locale="fa-IR")
    page = context.new_page()
    page.goto(address)
    page.get_by_text(TEXTS["ser_heading"].fa).wait_for()
    page.get_by_role("link", name="English").click()
    page.get_by_text(TEXTS["ser_heading"].en).wait_for()
    assert page.locator("html").get_attribute("dir") == "ltr"
    context.close()


def test_a_german_browser_gets_one_language_throughout(browser: Browser, address: str) -> None:
    context = browser.new_context(locale="de-DE", permissions=["microphone"])
    page = context.new_page()
    page.goto(address)
    page.get_by_role("button", name="Record", exact=True).wait_for()
    assert page.locator("html").get_attribute("lang") == "en"
    context.close()


def test_an_example_answers_with_one_click(visit: Visit, address: str) -> None:
    page = opened(visit, address)
    if page.locator("#examples button").count() == 0:
        pytest.skip("there are no clips in assets/ yet")
    for _ in range(2):  # and again: the example is not deleted after its answer
        page.locator("#examples button").first.click()
        page.wait_for_selector("#answer [data-answered]", timeout=ANSWER_MS)
    page.get_by_text("answered after").wait_for()


@pytest.mark.parametrize("language", ["en", "fa"])
def test_a_narrow_phone_shows_every_tab(browser: Browser, address: str, language: str) -> None:
    context = browser.new_context(viewport={"width": 320, "height": 640})
    page = context.new_page()
    page.goto(f"{address}?lang={language}")
    tabs = page.get_by_role("tab")
    tabs.first.wait_for()
    assert tabs.count() == 3
    assert all(tab.is_visible() for tab in tabs.all())
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    context.close()


def test_a_phone_shows_the_page_without_scrolling_sideways(browser: Browser, address: str) -> None:
    for language in ("en", "fa"):
        context = browser.new_context(viewport={"width": 390, "height": 844})
        page = context.new_page()
        page.goto(f"{address}?lang={language}")
        page.wait_for_selector("#recognise")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        context.close()


def test_the_keyboard_alone_reaches_everything(visit: Visit, address: str) -> None:
    page = opened(visit, address)
    reached = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.innerText"))
    assert {"English", "فارسی", "Record", "recognise"} <= reached


def test_every_control_has_a_name_for_a_screen_reader(visit: Visit, address: str) -> None:
    page = opened(visit, address)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, a, input, select")]
            .filter(e => e.offsetParent && !(e.innerText || e.ariaLabel || e.title || e.labels?.length))
            .map(e => e.outerHTML)"""
    )
    assert nameless == []


def test_the_recording_is_not_offered_to_another_site(visit: Visit, address: str, tmp_path: Path) -> None:
    page = opened(visit, address)
    upload(page, recording(tmp_path / "clip.wav"))
    assert page.get_by_role("button", name="Share").count() == 0
