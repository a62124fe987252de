"""The tabs Cross-validate and Tune in a real browser: a job is started, watched, seen by a second visitor and after a
reload, stopped, resumed by another server, and its model answers; a search is seen in the embedded dashboard."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
import pytest
from browser_support import BROWSER, PATIENCE_MS, PATIENCE_S, Server, chromium, opened, prefix_proxy, stop_all
from training_support import write_tiny_corpus
from ui_support import recording, tiny_model

from ser.tuning.storage import default_storage, open_storage, summary
from ser.ui import jobs

if TYPE_CHECKING:
    from playwright.sync_api import Browser, FrameLocator, Page

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = BROWSER
TABS = {"cv": "Cross-validate", "tune": "Tune"}
PHONE = {"viewport": {"width": 390, "height": 844}}
MATRICES = """() => {
  const plot = document.querySelector("#cv-matrices .js-plotly-plot");
  return plot && plot.data ? plot.data.filter(trace => trace.type === "heatmap").map(trace => trace.hovertext) : null;
}"""
# The counts of every fold, and of all, are others than they were.
ALL_CHANGED = f"""before => {{
  const now = ({MATRICES})();
  return now && now.every((matrix, i) => JSON.stringify(matrix) !== JSON.stringify(before[i]));
}}"""
FINISHED = r"""least => {
  const heading = document.querySelector("#tune-state h2");
  const number = heading && heading.innerText.match(/^(\d+) of 900 trials/);
  return number && Number(number[1]) >= least;
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
    """Where servers keep their runs and studies; none is left running."""
    yield tmp_path
    stop_all(tmp_path)


def show_tab(page: Page, tab: str) -> Page:
    page.get_by_role("tab", name=TABS[tab]).click()
    page.locator(f"#{tab}-state .box").wait_for()
    return page


def said(page: Page, tab: str, words: str, kind: str = "") -> None:
    page.locator(f"#{tab}-message {kind}").get_by_text(words).wait_for()


def state(page: Page, tab: str, words: str) -> str:
    heading = page.locator(f"#{tab}-state h2").get_by_text(re.compile(words))
    try:
        heading.wait_for()
    except Exception:
        print(f"No {words!r}, but:", page.inner_text(f"#{tab}-state"), page.inner_text(f"#{tab}-message"))
        raise
    return heading.inner_text()


def press(page: Page, tab: str, button: str, words: str) -> None:
    """Press a button and wait for the state that it leads to."""
    page.click(f"#{tab}-{button}")
    state(page, tab, words)


def press_start(page: Page, tab: str, numbers: dict[str, float]) -> None:
    """Start a job on the tiny corpus, once the page shows what suits a real one."""
    page.locator(f"#{tab}-corpus input").click()
    page.get_by_role("option", name="tiny").click()
    if tab == "cv":
        page.locator("#cv-preset input[value=paper]:checked").wait_for()
        if not page.locator("#cv-max_epochs").is_visible():
            page.get_by_role("button", name="Change the settings").click()
    else:
        page.wait_for_function("() => document.querySelector('#tune-timeout input').value === '540'")
    for name, value in numbers.items():
        page.locator(f"#{tab}-{name} input[type=number]").fill(str(value))
        page.locator(f"#{tab}-{name} input[type=number]").press("Tab")
    page.locator(f"#{tab}-corpus input").click()
    page.locator(f"#{tab}-name input, #{tab}-name textarea").first.click()
    for name, value in numbers.items():  # neither an answer that came late nor a list that was left has changed it
        assert float(page.locator(f"#{tab}-{name} input[type=number]").input_value()) == value
    page.click(f"#{tab}-start")
    said(page, tab, "Started")


def use_model(page: Page, tab: str) -> None:
    """Let the job's model answer."""
    page.click(f"#{tab}-use")
    said(page, tab, "now answers with the model of tiny")
    page.get_by_role("tab", name="Recognise").click()
    page.locator("#model-note").get_by_text(re.compile("tiny")).first.wait_for()


def epoch_of(page: Page) -> int:
    return int(re.findall(r"\d+", state(page, "cv", r"Epoch \d+ of at most 300"))[0])


def finished(page: Page, least: int = 0) -> int:
    """How many trials the page says are finished, once they are so many."""
    page.wait_for_function(FINISHED, arg=least)
    return int(state(page, "tune", "of 900 trials").split()[0])


def list_of_trials(page: Page) -> FrameLocator:
    """The dashboard's own list of trials, reached by its own link."""
    page.locator("#tune-dashboard iframe").scroll_into_view_if_needed(timeout=PATIENCE_MS)
    frame = page.frame_locator("#tune-dashboard iframe")
    frame.locator('a[href^="/dashboard/studies/"][href$="/trials"]').click(timeout=PATIENCE_MS)
    return frame


def test_a_run_is_watched_stopped_gone_on_with_and_its_model_answers(browser, folder, checkpoint, corpus):
    errors: list[str] = []
    server = Server(folder, checkpoint, SER_CORPORA=str(corpus))
    try:
        page = show_tab(opened(browser, server.address, errors), "cv")
        state(page, "cv", "Finished")
        assert "ships with the page" in page.inner_text("#cv-files")  # nobody has started a run yet
        page.locator("#cv-corpus").get_by_text("217 recordings by 10 speakers").wait_for()
        old = folder / "data" / "runs" / "crossval-20260102-030405-old"
        old.mkdir(parents=True)
        (old / "job.json").write_text('{"command": ["crossval"], "exit_code": 1}')
        press_start(page, "cv", {"max_epochs": 300, "patience": 0, "base_units": 192, "folds": 3})
        seen = epoch_of(page)
        page.wait_for_function("() => document.title.startsWith('Epoch ')")
        page.wait_for_selector("#cv-matrices .js-plotly-plot .main-svg")
        before = page.evaluate(MATRICES)
        assert len(before) == 4  # three folds and all
        page.wait_for_function(ALL_CHANGED, arg=before)
        page.wait_for_selector("#cv-curves .js-plotly-plot .main-svg")
        assert page.locator("#cv-table tbody tr").count() == 4

        page.reload()
        assert epoch_of(show_tab(page, "cv")) >= seen
        watch_and_delete(show_tab(opened(browser, server.address, errors), "cv"), old, seen)
        press(page, "cv", "stop", "Stopped")
        page.click("#cv-resume")
        assert epoch_of(page) >= seen
        page.goto("about:blank")
        server.end(signal.SIGKILL)  # the run lives on
        assert jobs.is_running(next((folder / "data" / "runs").glob("*-tiny")))
        server = Server(folder, checkpoint, SER_CORPORA=str(corpus))
        page = show_tab(opened(browser, server.address, errors), "cv")
        assert epoch_of(page) >= seen
        press(page, "cv", "stop", "Stopped")
        press_start(page, "cv", {"max_epochs": 2, "patience": 0, "base_units": 16, "folds": 3})
        look_at_the_result(page)
        use_model(page, "cv")
        assert errors == []
    finally:
        server.end()
    assert "Traceback" not in server.log.read_text()


def watch_and_delete(other: Page, old: Path, seen: int) -> None:
    """A second visitor sees the run that trains, chooses an older one, which stays chosen, and deletes it."""
    assert epoch_of(other) >= seen
    other.click("#cv-start")
    said(other, "cv", "only one can run at a time")
    other.locator("#cv-run input").click()
    other.get_by_role("option", name="old, 2026-01-02 03:04").click()
    state(other, "cv", "Failed")
    other.wait_for_timeout(3_000)
    assert state(other, "cv", ".").startswith("Failed")
    assert not other.is_visible("#cv-stop")
    other.click("#cv-delete")
    said(other, "cv", "Delete old, 2026-01-02 03:04")
    other.click("#cv-offer")
    said(other, "cv", "Deleted")
    assert not old.exists()
    assert epoch_of(other) >= seen
    other.context.close()


def look_at_the_result(page: Page) -> None:
    state(page, "cv", "Finished")
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
    page.locator("#cv-other input").click()
    page.get_by_role("option", name="Example").click()
    page.locator("#cv-difference").get_by_text("did not test the same recordings").wait_for()
    page.bring_to_front()
    page.wait_for_function("() => !document.title.startsWith('Finished')", timeout=10_000)
    assert page.locator("#cv-dropout input[type=number]").input_value() == "0.2"
    page.locator("#cv-max_epochs input[type=number]").fill("77")
    page.click("#cv-adopt")
    said(page, "cv", "in the form above")
    page.wait_for_function("() => document.querySelector('#cv-max_epochs input[type=number]').value === '2'")


def test_a_finished_run_is_there_after_a_restart_and_only_the_owner_starts_another(browser, folder, checkpoint, corpus):
    errors: list[str] = []
    runs = folder / "data" / "runs"
    run = runs / "crossval-20260102-030405-tiny"
    finished_run(run, corpus, checkpoint.parent / "encoder")
    server = Server(folder, checkpoint, SER_PASSWORD="open sesame")
    try:
        page = show_tab(opened(browser, f"{server.address}?run={run.name}", errors, is_owner=False), "cv")
        state(page, "cv", "Finished")
        assert page.locator("#cv-run input").input_value() == "tiny, 2026-01-02 03:04"
        page.wait_for_selector("#cv-matrices .js-plotly-plot .main-svg")
        for button in ("start", "use", "delete"):
            page.click(f"#cv-{button}")
            said(page, "cv", "Only the owner", "[role=alert]")
            assert not page.is_visible("#cv-offer")
        assert [path.name for path in runs.iterdir()] == [run.name]
        page.click("#owner > button")
        page.fill("#owner-password input", "open sesame")
        page.click("#owner-sign-in")
        page.locator("#owner-message .sure").wait_for()
        use_model(page, "cv")
        for language, refusal, true in (
            ("en", "give a number from 0.0001 to 0.1", "true: anger"),
            ("fa", "عددی از ۰٫۰۰۰۱ تا ۰٫۱", "درست: خشم"),
        ):
            phone = opened(browser, f"{server.address}?lang={language}", errors, **PHONE)
            phone.get_by_role("tab").nth(1).click()
            phone.wait_for_selector("#cv-matrices .js-plotly-plot .main-svg")
            phone.locator("#cv-settings button").first.click()
            phone.wait_for_selector("#cv-folds", state="visible")
            assert phone.evaluate("document.documentElement.scrollWidth") <= 390
            assert phone.evaluate(MATRICES)[0][0][0].startswith(true)
            phone.locator("#cv-learning_rate input").fill("5")
            phone.click("#cv-start")
            said(phone, "cv", refusal, "[role=alert]")
        assert errors == []
    finally:
        server.end()
    assert "sesame" not in server.log.read_text()


def finished_run(folder: Path, corpus: Path, encoder: Path) -> None:
    """What `ser crossval` leaves, started as the page starts it."""
    words = [
        "crossval", "--corpus", corpus, "--encoder", encoder, "--out", folder, "--cache",
        folder.parent.parent / "features", "--max-epochs", 2, "--patience", 0, "--base-units", 16, "--final-units", 16,
        "--folds", 3,
    ]  # fmt: skip
    jobs.start([str(word) for word in words], folder)
    until = time.monotonic() + PATIENCE_S
    while jobs.is_running(folder):
        assert time.monotonic() < until
        time.sleep(0.1)
    assert jobs.look(folder).state == "finished", (folder / "log.txt").read_text()


def test_a_search_is_seen_in_the_dashboard_stopped_gone_on_with_and_used(browser, folder, checkpoint, corpus):
    errors: list[str] = []
    server = Server(folder, checkpoint, SER_CORPORA=str(corpus))
    try:
        page = show_tab(opened(browser, server.address, errors), "tune")
        press_start(page, "tune", {"trials": 900, "max_epochs": 2, "patience": 0})
        finished(page)
        frame = list_of_trials(page)
        for number in range(2):  # the second appears by itself
            frame.get_by_text(f"Trial {number}").first.wait_for()

        page.reload()
        finished(show_tab(page, "tune"), least=1)
        other = show_tab(opened(browser, server.address, errors), "tune")
        before = finished(other, least=2)
        for method in ("delete", "post", "put"):
            answer = getattr(other.request, method)(f"{server.address}api/studies/2", data={})
            assert answer.status == 405
        other.context.close()

        press(page, "tune", "stop", "Stopped")
        told_in = next((folder / "data" / "studies").glob("tune-*-tiny")) / "tune.json"
        told = json.loads(told_in.read_text())
        assert told["state"] == "stopped"
        assert told["counts"]["complete"] >= before
        page.goto("about:blank")
        server.end(signal.SIGKILL)
        server = Server(folder, checkpoint, SER_CORPORA=str(corpus))
        page = show_tab(opened(browser, server.address, errors), "tune")
        state(page, "tune", "Stopped")
        page.click("#tune-resume")
        finished(page, least=told["counts"]["complete"] + 1)
        press(page, "tune", "stop", "Stopped")
        train_and_ask(page, told_in, recording(folder / "clip.wav"))
        assert errors == []
    finally:
        server.end()
    assert "Traceback" not in server.log.read_text()


def train_and_ask(page: Page, told_in: Path, clip: Path) -> None:
    """The best trial is trained, tested and put to use."""
    assert not page.is_visible("#tune-use")
    page.click("#tune-train")
    said(page, "tune", "is being trained and tested")
    state(page, "tune", "Finished")
    assert "Test speakers" in page.inner_text("#tune-state")
    told = json.loads(told_in.read_text())
    assert told["scored"]["trial"] == told["best"]["number"]
    use_model(page, "tune")
    page.click("#recording .source-selection button:first-of-type")
    page.set_input_files("#recording input[type=file]", clip)
    page.wait_for_selector("#recording [data-testid=download-link][href*='gradio_api/file']")
    page.click("#recognise")
    page.wait_for_selector("#answer [data-answered]")
    assert page.locator("#answer .bars tr").count() == 3  # the emotions of the tiny corpus


def write_study(data: Path) -> None:
    """A study with results, as `ser tune` leaves it."""
    folder = data / "studies" / "tune-20260102-030405-x"
    folder.mkdir(parents=True)
    study = optuna.create_study(storage=open_storage(default_storage(folder.parent)), study_name="tune-x")
    parameters = {"l2": optuna.distributions.FloatDistribution(0.01, 0.03)}
    for value in (0.4, 0.6, 0.7):
        trial = optuna.create_trial(value=value, params={"l2": value / 40 + 0.005}, distributions=parameters)
        study.add_trial(trial)
    about = {"state": "done", "n_trials": 3, "started": 0, "timeout_s": 1}
    (folder / "tune.json").write_text(json.dumps({**about, **summary(study)}))


def test_the_page_works_behind_a_proxy_with_a_prefix(browser, folder, checkpoint):
    errors: list[str] = []
    write_study(folder / "data")
    server = Server(folder, checkpoint, GRADIO_ROOT_PATH="/ser", SER_PASSWORD="open sesame")
    try:
        with prefix_proxy("/ser", server.address) as outside:
            page = show_tab(opened(browser, f"{outside}/ser/", errors), "tune")
            page.click("#tune-start")
            said(page, "tune", "Only the owner")
            page.locator("#tune-dashboard iframe").scroll_into_view_if_needed()
            frame = page.frame_locator("#tune-dashboard iframe")
            frame.get_by_text("Hyperparameter Importance").first.wait_for()
            assert not page.is_visible("#tune-history")
            list_of_trials(page).get_by_text("Trial 2").first.wait_for()
            frame.locator('a[href="/dashboard/"]').first.click()
            frame.get_by_text("tune-x").first.wait_for()
            for label in ("delete study", "rename study"):
                assert not frame.locator(f'[aria-label="{label}"]').first.is_visible()
            assert not frame.get_by_role("button", name="Create").is_visible()

            phone = opened(browser, f"{outside}/ser/", errors, locale="fa-IR", **PHONE)
            phone.get_by_role("tab", name="تنظیم خودکار").click()
            phone.locator("#tune-state .box").wait_for()
            phone.locator("#tune-table td").first.wait_for()  # in place of the dashboard
            phone.locator("#tune-history .js-plotly-plot").wait_for()
            assert not phone.locator("#tune-dashboard iframe").is_visible()
            assert phone.evaluate("document.documentElement.scrollWidth <= innerWidth")
            assert errors == []
    finally:
        server.end()
