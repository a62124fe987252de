"""The tab Cross-validate in a real browser: a run is started, watched, seen by a second browser, stopped, resumed by
another server, its model put to use; an older one is chosen and deleted meanwhile."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from browser_support import BROWSER, PATIENCE_S, Server, chromium, opened, stop_all
from tuning_support import write_tiny_corpus
from ui_support import tiny_model

from ser.ui import jobs

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = BROWSER
MATRICES = """() => {
  const plot = document.querySelector("#cv-matrices .js-plotly-plot");
  return plot && plot.data ? plot.data.filter(trace => trace.type === "heatmap").map(trace => trace.hovertext) : null;
}"""


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
    """Where servers keep their runs; none is left running."""
    yield tmp_path
    stop_all(tmp_path)


def show_tab(page: Page) -> None:
    page.get_by_role("tab", name="Cross-validate").click()
    page.wait_for_selector("#cv-state .box")


def set_number(page: Page, name: str, value: float) -> None:
    page.locator(f"#cv-{name} input[type=number]").fill(str(value))
    page.locator(f"#cv-{name} input[type=number]").press("Tab")


def press_start(page: Page, epochs: int, units: int) -> None:
    """Start a run on the tiny corpus that is not stopped early."""
    page.locator("#cv-corpus input").click()
    page.get_by_role("option", name="tiny").click()
    page.locator("#cv-preset input[value=paper]:checked").wait_for()  # what suits a real corpus
    if not page.locator("#cv-max_epochs").is_visible():
        page.get_by_role("button", name="Change the settings").click()
    for name, value in {"max_epochs": epochs, "patience": 0, "base_units": units, "folds": 3}.items():
        set_number(page, name, value)
    page.click("#cv-start")
    said(page, "Started")


def said(page: Page, words: str) -> None:
    page.locator("#cv-message").get_by_text(words).wait_for()


def choose(page: Page, run: str) -> None:
    page.locator("#cv-run input").click()
    page.get_by_role("option", name=run).click()


def state(page: Page, words: str) -> str:
    heading = page.locator("#cv-state h2").get_by_text(re.compile(words))
    heading.wait_for()
    return heading.inner_text()


def epoch_of(page: Page) -> int:
    return int(re.findall(r"\d+", state(page, r"Epoch \d+ of at most 300"))[0])


def every_matrix_changes(page: Page, n_matrices: int) -> None:
    """Until the counts of every fold, and of all, are others than they are now."""
    before = page.evaluate(MATRICES)
    assert len(before) == n_matrices
    page.wait_for_function(
        f"""before => {{
          const now = ({MATRICES})();
          return now && now.every((matrix, i) => JSON.stringify(matrix) !== JSON.stringify(before[i]));
        }}""",
        arg=before,
    )


def test_a_run_is_watched_stopped_gone_on_with_and_its_model_answers(browser, folder, checkpoint, corpus):
    errors: list[str] = []
    server = Server(folder, checkpoint, SER_CORPORA=str(corpus))
    old = folder / "data" / "runs" / "crossval-20260102-030405-old"
    try:
        page = opened(browser, server.address, errors)
        show_tab(page)
        assert "Press Start" in page.inner_text("#cv-state")
        page.locator("#cv-corpus").get_by_text("217 recordings by 10 speakers").wait_for()
        old.mkdir(parents=True)
        (old / "job.json").write_text('{"command": ["crossval"], "exit_code": 1}')
        press_start(page, epochs=300, units=512)
        seen = epoch_of(page)
        page.wait_for_selector("#cv-matrices .js-plotly-plot .main-svg")
        every_matrix_changes(page, 4)  # three folds and all
        page.wait_for_selector("#cv-curves .js-plotly-plot .main-svg")
        assert page.locator("#cv-table tbody tr").count() == 4

        page.reload()
        show_tab(page)
        assert epoch_of(page) >= seen
        other = opened(browser, server.address, errors)
        show_tab(other)
        assert epoch_of(other) >= seen
        other.click("#cv-start")
        said(other, "only one can run at a time")
        choose(other, "old, 2026-01-02 03:04")  # stays chosen while the other run trains
        state(other, "Failed")
        other.wait_for_timeout(3_000)
        assert state(other, ".").startswith("Failed")
        assert not other.is_visible("#cv-stop")
        other.click("#cv-delete")
        said(other, "Delete old, 2026-01-02 03:04")
        other.click("#cv-offer")
        said(other, "Deleted")
        assert not old.exists()
        assert epoch_of(other) >= seen
        other.context.close()

        page.click("#cv-stop")
        state(page, "Stopped")
        page.click("#cv-resume")
        assert epoch_of(page) >= seen
        run = next((folder / "data" / "runs").glob("*-tiny"))
        page.goto("about:blank")
        server.end(signal.SIGKILL)  # the run lives on
        assert jobs.is_running(run)
        server = Server(folder, checkpoint, SER_CORPORA=str(corpus))
        page = opened(browser, server.address, errors)
        show_tab(page)
        assert epoch_of(page) >= seen
        page.click("#cv-stop")
        state(page, "Stopped")

        press_start(page, epochs=2, units=16)
        state(page, "Finished")
        assert "95 % intervals" in page.inner_text("#cv-state")
        links = page.locator("#cv-files a")
        names = ["result.json", "predictions.csv", "report.html", "checkpoint.zip"]
        assert links.all_inner_texts() == [*names, "Open the report"]
        assert "Test accuracy" in page.inner_text("#cv-table")
        for number in range(len(names)):
            with page.expect_download() as download:
                links.nth(number).click()
            assert download.value.path().stat().st_size > 100
        with page.expect_popup() as report:
            links.last.click()
        report.value.get_by_role("heading", name="Cross-validation").first.wait_for()
        page.click("#cv-use")
        said(page, "now answers with the model of tiny")
        page.get_by_role("tab", name="Recognise").click()
        page.locator("#model-note").get_by_text(re.compile("tiny")).first.wait_for()
        assert errors == []
    finally:
        server.end()
    assert "Traceback" not in server.log.read_text()


def test_a_finished_run_is_there_after_a_restart_and_only_the_owner_starts_another(
    browser, folder, checkpoint, corpus
):
    errors: list[str] = []
    folder_of_run = folder / "data" / "runs" / "crossval-20260102-030405-tiny"
    finished_run(folder_of_run, corpus, checkpoint.parent / "encoder")
    server = Server(folder, checkpoint, SER_PASSWORD="open sesame")
    try:
        page = opened(browser, f"{server.address}?run={folder_of_run.name}", errors, is_owner=False)
        show_tab(page)
        state(page, "Finished")
        assert page.locator("#cv-run input").input_value() == "tiny, 2026-01-02 03:04"
        page.wait_for_selector("#cv-matrices .js-plotly-plot .main-svg")
        for button in ("start", "use", "delete"):
            page.click(f"#cv-{button}")
            page.locator("#cv-message [role=alert]").get_by_text("Only the owner").wait_for()
            assert not page.is_visible("#cv-offer")
        assert [path.name for path in (folder / "data" / "runs").iterdir()] == [folder_of_run.name]
        page.click("#owner > button")
        page.fill("#owner-password input", "open sesame")
        page.click("#owner-sign-in")
        page.locator("#owner-message .sure").wait_for()
        page.click("#cv-use")
        said(page, "now answers with the model of tiny")
        for language, refusal in (
            ("en", "give a number from 0.0001 to 0.1"),
            ("fa", "عددی از ۰٫۰۰۰۱ تا ۰٫۱"),
        ):
            size = {"width": 390, "height": 844}
            phone = opened(browser, f"{server.address}?lang={language}", errors, viewport=size)
            phone.get_by_role("tab").nth(1).click()
            phone.wait_for_selector("#cv-matrices .js-plotly-plot .main-svg")
            phone.locator("#cv-settings button").first.click()
            phone.wait_for_selector("#cv-folds", state="visible")
            assert phone.evaluate("document.documentElement.scrollWidth") <= 390
            hover = phone.evaluate(MATRICES)[0][0][0]
            assert hover.startswith("true: anger" if language == "en" else "درست: خشم"), hover
            phone.locator("#cv-learning_rate input").fill("5")
            phone.click("#cv-start")
            phone.locator("#cv-message [role=alert]").get_by_text(refusal).wait_for()
        assert errors == []
    finally:
        server.end()
    assert "sesame" not in server.log.read_text()


def finished_run(folder: Path, corpus: Path, encoder: Path) -> None:
    """What `ser crossval` leaves, started as the page starts it."""
    numbers: dict[str, Any] = {
        "max-epochs": 2,
        "patience": 0,
        "base-units": 16,
        "final-units": 16,
        "folds": 3,
    }
    cache = folder.parent.parent / "features"
    words = [
        "crossval", "--corpus", corpus, "--encoder", encoder, "--out", folder, "--cache", cache,
        *(word for name, value in numbers.items() for word in (f"--{name}", value)),
    ]  # fmt: skip
    jobs.start([str(word) for word in words], folder)
    until = time.monotonic() + PATIENCE_S
    while jobs.is_running(folder):
        assert time.monotonic() < until
        time.sleep(0.1)
    assert jobs.look(folder).state == "finished", (folder / "log.txt").read_text()
