"""The tab Tune in a real browser: a search is started, seen in the embedded dashboard, by a second visitor and
after a reload, stopped, gone on with by another server, and its best model answers; also inside another site."""

from __future__ import annotations

import http.server
import json
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
import pytest
from test_browser_crossvalidate import CHROMIUM, START_S, Server
from tuning_support import write_tiny_corpus
from ui_support import tiny_model

from ser import jobs
from ser.studies import default_storage, open_storage, summary

if TYPE_CHECKING:
    from playwright.sync_api import Browser, FrameLocator, Page

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not on the PATH (Debian: apt install chromium)"),
]
PATIENCE_MS = 1000 * START_S


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_corpus(tmp_path_factory.mktemp("corpora") / "tiny")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with playwright.sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where servers keep their studies; none is left running."""
    yield tmp_path
    for job in tmp_path.glob("data/studies/*/job.json"):
        jobs.stop(job.parent, grace_s=0)


def opened(browser: Browser, address: str, errors: list[str]) -> Page:
    """A browser of its own; errors of the page, its frames and their console are collected."""
    page = browser.new_context(locale="en-US", viewport={"width": 1280, "height": 1000}).new_page()
    page.set_default_timeout(PATIENCE_MS)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    page.goto(address)
    return page


def show_tab(page: Page | FrameLocator) -> None:
    page.get_by_role("tab", name="Tune").click()
    page.locator("#tune-state .box").wait_for(timeout=PATIENCE_MS)


def state(page: Page, words: str) -> None:
    page.locator("#tune-state h2").get_by_text(re.compile(words)).wait_for()


def dashboard_of(page: Page | FrameLocator) -> FrameLocator:
    page.locator("#tune-dashboard iframe").scroll_into_view_if_needed(timeout=PATIENCE_MS)
    return page.frame_locator("#tune-dashboard iframe")


def list_of_trials(page: Page) -> FrameLocator:
    """The dashboard's own list of trials, reached by its own link."""
    frame = dashboard_of(page)
    frame.locator('a[href="/dashboard/studies/0/trials"]').click()
    return frame


def press_start(page: Page, trials: int, epochs: int) -> None:
    page.locator("#tune-corpus input").click()
    page.get_by_role("option", name="tiny").click()
    for name, value in {"trials": trials, "max_epochs": epochs, "patience": 0}.items():
        page.locator(f"#tune-{name} input").fill(str(value))
        page.locator(f"#tune-{name} input").press("Tab")
    page.click("#tune-start")


def test_a_search_is_seen_in_the_dashboard_stopped_gone_on_with_and_used(
    browser: Browser, folder: Path, checkpoint: Path, corpus: Path
) -> None:
    errors: list[str] = []
    server = Server(folder, checkpoint, SER_CORPORA=str(corpus))
    try:
        page = opened(browser, server.address, errors)
        show_tab(page)
        press_start(page, trials=3, epochs=4)
        page.locator("#tune-message").get_by_text("Started").wait_for()
        state(page, r"\d of 3 trials are finished")
        frame = list_of_trials(page)
        frame.get_by_text("Trial 0").first.wait_for()
        frame.get_by_text("Trial 1").first.wait_for()  # appears by itself

        page.reload()
        show_tab(page)
        state(page, r"\d of 3 trials are finished")
        other = opened(browser, server.address, errors)
        show_tab(other)
        state(other, r"\d of 3 trials are finished")
        answer = other.request.delete(f"{server.address}api/studies/0")
        assert answer.status == 405
        other.context.close()

        page.click("#tune-stop")
        state(page, "Stopped")
        server.end(signal.SIGKILL)
        errors_until_then = list(errors)
        server = Server(folder, checkpoint, SER_CORPORA=str(corpus))
        page = opened(browser, server.address, errors := [])
        show_tab(page)
        state(page, "Stopped")
        page.click("#tune-continue")
        state(page, "Finished")
        assert "Test speakers" in page.inner_text("#tune-state")
        study = next((folder / "data" / "studies").glob("tune-*"))
        told = json.loads((study / "tune.json").read_text())
        assert told["counts"]["complete"] + told["counts"]["pruned"] == 3
        page.click("#tune-use")
        page.locator("#tune-message").get_by_text("Recognise now answers").wait_for()
        assert "event=model_replaced" in server.log.read_text()
        assert (errors_until_then, errors) == ([], [])
    finally:
        server.end()


class Elsewhere(http.server.BaseHTTPRequestHandler):
    """Another site, which shows the page in a frame."""

    address = ""

    def do_GET(self) -> None:
        body = f'<!doctype html><title>x</title><iframe id="app" src="{self.address}" width="1200" height="3000">'
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


def write_study(data: Path) -> None:
    """A study with results, as `ser tune` leaves it."""
    study = optuna.create_study(storage=open_storage(default_storage(data / "studies")), study_name="tune-x")
    parameters = {"l2": optuna.distributions.FloatDistribution(0.01, 0.03)}
    for value in (0.4, 0.6, 0.7):
        trial = optuna.create_trial(value=value, params={"l2": value / 40 + 0.005}, distributions=parameters)
        study.add_trial(trial)
    folder = data / "studies" / "tune-20260102-030405-x"
    folder.mkdir()
    about = {"state": "done", "n_trials": 3, "started": 0, "timeout_s": 1}
    (folder / "tune.json").write_text(json.dumps({**about, **summary(study)}))


def test_the_dashboard_works_while_the_page_sits_in_another_site(
    browser: Browser, folder: Path, checkpoint: Path
) -> None:
    errors: list[str] = []
    write_study(folder / "data")
    server = Server(folder, checkpoint)
    Elsewhere.address = server.address
    site = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    threading.Thread(target=site.serve_forever, daemon=True).start()
    try:
        page = opened(browser, f"http://localhost:{site.server_port}/", errors)
        app = page.frame_locator("#app")
        show_tab(app)
        frame = dashboard_of(app)
        frame.get_by_text("Hyperparameter Importance").first.wait_for(timeout=PATIENCE_MS)
        frame.locator('a[href="/dashboard/studies/0/trials"]').click()
        frame.get_by_text("Trial 2").first.wait_for(timeout=PATIENCE_MS)
        frame.locator('a[href="/dashboard"]').first.click()
        frame.get_by_text("tune-x").first.wait_for(timeout=PATIENCE_MS)
        for label in ("delete study", "rename study"):
            assert not frame.locator(f'[aria-label="{label}"]').first.is_visible()
        assert not frame.get_by_role("button", name="Create").is_visible()
        assert errors == []
    finally:
        site.shutdown()
        server.end()


def test_a_phone_shows_the_tab_without_scrolling_sideways(
    browser: Browser, folder: Path, checkpoint: Path
) -> None:
    write_study(folder / "data")
    server = Server(folder, checkpoint)
    try:
        page = browser.new_context(viewport={"width": 390, "height": 844}, locale="fa-IR").new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.goto(server.address)
        page.get_by_role("tab", name="تنظیم خودکار").click()
        page.locator("#tune-state .box").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    finally:
        server.end()
