"""The tab Tune in a real browser: a search is started, seen in the embedded dashboard, by a second visitor and after a
reload, stopped, resumed by another server, and its best model answers; also behind a proxy."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
import pytest
from browser_support import BROWSER, PATIENCE_MS, Server, chromium, opened, prefix_proxy, stop_all
from tuning_support import write_tiny_corpus
from ui_support import recording, tiny_model

from ser.tuning.storage import default_storage, open_storage, summary

if TYPE_CHECKING:
    from playwright.sync_api import Browser, FrameLocator, Page

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = BROWSER


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_corpus(tmp_path_factory.mktemp("corpora") / "tiny")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where servers keep their studies; none is left running."""
    yield tmp_path
    stop_all(tmp_path)


def show_tab(page: Page | FrameLocator) -> None:
    page.get_by_role("tab", name="Tune").click()
    page.locator("#tune-state .box").wait_for(timeout=PATIENCE_MS)


def state(page: Page, words: str) -> str:
    heading = page.locator("#tune-state h2").get_by_text(re.compile(words))
    heading.wait_for()
    return heading.inner_text()


def said(page: Page, words: str) -> None:
    page.locator("#tune-message").get_by_text(words).wait_for()


def finished(page: Page, least: int = 0) -> int:
    """How many trials the page says are finished, once they are so many."""
    page.wait_for_function(
        r"""least => {
          const heading = document.querySelector("#tune-state h2");
          const number = heading && heading.innerText.match(/^(\d+) of 900 trials/);
          return number && Number(number[1]) >= least;
        }""",
        arg=least,
    )
    return int(state(page, "of 900 trials").split()[0])


def dashboard_of(page: Page | FrameLocator) -> FrameLocator:
    page.locator("#tune-dashboard iframe").scroll_into_view_if_needed(timeout=PATIENCE_MS)
    return page.frame_locator("#tune-dashboard iframe")


def list_of_trials(page: Page | FrameLocator) -> FrameLocator:
    """The dashboard's own list of trials, reached by its own link."""
    frame = dashboard_of(page)
    frame.locator('a[href="/dashboard/studies/1/trials"]').click(timeout=PATIENCE_MS)
    return frame


def press_start(page: Page, trials: int, epochs: int) -> None:
    page.locator("#tune-corpus input").click()
    page.get_by_role("option", name="tiny").click()
    page.wait_for_function("() => document.querySelector('#tune-timeout input').value === '540'")
    for name, value in {"trials": trials, "max_epochs": epochs, "patience": 0}.items():
        page.locator(f"#tune-{name} input[type=number]").fill(str(value))
        page.locator(f"#tune-{name} input[type=number]").press("Tab")
    page.click("#tune-start")
    said(page, "Started")


def test_a_search_is_seen_in_the_dashboard_stopped_gone_on_with_and_used(browser, folder, checkpoint, corpus):
    errors: list[str] = []
    server = Server(folder, checkpoint, SER_CORPORA=str(corpus))
    try:
        page = opened(browser, server.address, errors)
        show_tab(page)
        press_start(page, trials=900, epochs=2)
        finished(page)
        frame = list_of_trials(page)
        for number in range(2):  # the second appears by itself
            frame.get_by_text(f"Trial {number}").first.wait_for()

        page.reload()
        show_tab(page)
        finished(page, least=1)
        other = opened(browser, server.address, errors)
        show_tab(other)
        before = finished(other, least=2)
        for method in ("delete", "post", "put"):
            answer = getattr(other.request, method)(f"{server.address}api/studies/1", data={})
            assert answer.status == 405
        other.context.close()

        page.click("#tune-stop")
        state(page, "Stopped")
        study = next((folder / "data" / "studies").glob("tune-*"))
        told = json.loads((study / "tune.json").read_text())
        assert told["state"] == "stopped"
        assert told["counts"]["complete"] >= before
        page.goto("about:blank")
        server.end(signal.SIGKILL)
        server = Server(folder, checkpoint, SER_CORPORA=str(corpus))
        page = opened(browser, server.address, errors)
        show_tab(page)
        state(page, "Stopped")
        page.click("#tune-resume")
        finished(page, least=told["counts"]["complete"] + 1)
        page.click("#tune-stop")
        state(page, "Stopped")

        assert not page.is_visible("#tune-use")
        page.click("#tune-train")
        said(page, "is being trained and tested")
        state(page, "Finished")
        assert "Test speakers" in page.inner_text("#tune-state")
        told = json.loads((study / "tune.json").read_text())
        assert told["scored"]["trial"] == told["best"]["number"]
        page.click("#tune-use")
        said(page, "now answers with the model of tiny")
        page.get_by_role("tab", name="Recognise").click()
        page.locator("#model-note").get_by_text(re.compile("tiny")).first.wait_for()
        page.click("#recording .source-selection button:first-of-type")
        page.set_input_files("#recording input[type=file]", recording(folder / "clip.wav"))
        page.wait_for_selector("#recording [data-testid=download-link][href*='gradio_api/file']")
        page.click("#recognise")
        page.wait_for_selector("#answer [data-answered]")
        assert page.locator("#answer .bars tr").count() == 3  # the emotions of the tiny corpus
        assert errors == []
    finally:
        server.end()
    assert "Traceback" not in server.log.read_text()


def write_study(data: Path) -> None:
    """A study with results, as `ser tune` leaves it."""
    (data / "studies").mkdir(parents=True)
    study = optuna.create_study(storage=open_storage(default_storage(data / "studies")), study_name="tune-x")
    parameters = {"l2": optuna.distributions.FloatDistribution(0.01, 0.03)}
    for value in (0.4, 0.6, 0.7):
        trial = optuna.create_trial(value=value, params={"l2": value / 40 + 0.005}, distributions=parameters)
        study.add_trial(trial)
    folder = data / "studies" / "tune-20260102-030405-x"
    folder.mkdir()
    about = {"state": "done", "n_trials": 3, "started": 0, "timeout_s": 1}
    (folder / "tune.json").write_text(json.dumps({**about, **summary(study)}))


def test_the_page_works_behind_a_proxy_with_a_prefix(browser, folder, checkpoint):
    errors: list[str] = []
    write_study(folder / "data")
    server = Server(folder, checkpoint, GRADIO_ROOT_PATH="/ser", SER_PASSWORD="open sesame")
    try:
        with prefix_proxy("/ser", server.address) as outside:
            page = opened(browser, f"{outside}/ser/", errors)
            show_tab(page)
            page.click("#tune-start")
            said(page, "Only the owner")
            frame = dashboard_of(page)
            frame.get_by_text("Hyperparameter Importance").first.wait_for()
            list_of_trials(page).get_by_text("Trial 2").first.wait_for()
            frame.locator('a[href="/dashboard/"]').first.click()
            frame.get_by_text("tune-x").first.wait_for()
            for label in ("delete study", "rename study"):
                assert not frame.locator(f'[aria-label="{label}"]').first.is_visible()
            assert not frame.get_by_role("button", name="Create").is_visible()

            size = {"width": 390, "height": 844}
            phone = opened(browser, f"{outside}/ser/", errors, viewport=size, locale="fa-IR")
            phone.get_by_role("tab", name="تنظیم خودکار").click()
            phone.locator("#tune-state .box").wait_for()
            phone.locator("#tune-trials td").first.wait_for()  # in place of the dashboard
            assert not phone.locator("#tune-dashboard iframe").is_visible()
            assert phone.evaluate("document.documentElement.scrollWidth <= innerWidth")
            assert errors == []
    finally:
        server.end()
