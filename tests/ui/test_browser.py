"""The page in a real browser: a headless Chromium with a fake microphone against `python app.py`."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser_support import BROWSER, CHROMIUM, TOKENS, Server, chromium, opened
from support import encode
from ui_support import recording, tiny_model

from ser.ui.texts import EMOTION_TEXTS, TEXTS
from ser.ui.training_texts import TEXTS as TRAINING_TEXTS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = BROWSER
UPLOADED = "#recording [data-testid=download-link][href*='gradio_api/file']"
ANSWERED = "#answer [data-answered]"
PHONE = {"viewport": {"width": 390, "height": 844}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The page, started as a user starts it; it must end on SIGTERM, and nothing that it was used for be refused."""
    folder = tmp_path_factory.mktemp("server")
    server = Server(folder, tiny_model(folder, threshold=0.5), SER_REQUESTS_PER_MINUTE="1000")
    try:
        yield server
    finally:
        server.end()
    log = server.log.read_text()
    assert server.process.returncode == 0
    assert "Traceback" not in log
    refused = set(re.findall(r"event=request_refused path='(.+?)'", log))
    assert refused <= {"/monitoring/summary", "/gradio_api/mcp/schema"}  # the API panel looks whether they are there
    assert not list(folder.glob("ser-uploads-*"))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    speech = recording(tmp_path_factory.mktemp("microphone") / "speech.wav", seconds=6, rate_hz=48_000)
    fake = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    with chromium(*fake, f"--use-file-for-fake-audio-capture={speech}") as browser:
        yield browser


@pytest.fixture
def errors() -> Iterator[list[str]]:
    complaints: list[str] = []
    yield complaints
    assert complaints == []


@pytest.fixture
def page(browser: Browser, server: Server, errors: list[str]) -> Iterator[Page]:
    page = opened(browser, "about:blank", errors, is_owner=False, permissions=["microphone"])
    elsewhere: list[str] = []
    local = (server.address.rstrip("/"), "data:", "blob:")
    page.on("request", lambda sent: None if sent.url.startswith(local) else elsewhere.append(sent.url))
    page.goto(server.address)
    page.wait_for_selector("#recognise")
    yield page
    page.context.close()
    assert elsewhere == []


def upload(page: Page, path: Path) -> None:
    page.click("#recording .source-selection button:first-of-type")
    page.set_input_files("#recording input[type=file]", path)
    page.wait_for_selector(UPLOADED)


def emotion_of(page: Page) -> str:
    return str(page.locator(ANSWERED).get_attribute("data-answered"))


def test_a_recording_is_stopped_and_answered_with_one_press(page: Page) -> None:
    page.get_by_role("button", name="Record", exact=True).click()
    page.wait_for_timeout(3000)
    page.click("#recognise")
    page.wait_for_selector(ANSWERED)
    assert EMOTION_TEXTS[emotion_of(page)].en in page.inner_text("#answer h2").lower()
    assert "Your recording" in page.inner_text("#answer")
    page.wait_for_selector("#timeline .js-plotly-plot .main-svg")
    assert page.locator("#answer .bars tr").count() == 6
    page.get_by_text("answered in").wait_for()


def test_a_calm_voice_is_remembered_used_for_the_visitor_alone_and_forgotten(page: Page, tmp_path: Path) -> None:
    used = TEXTS["voice_used"].en

    def answer(press: str) -> str:
        page.click(press)
        page.wait_for_function("document.querySelector('#answer [data-answered]') === null")
        page.wait_for_selector(ANSWERED)
        return page.inner_text("#answer")

    upload(page, recording(tmp_path / "calm.wav", seconds=3))
    page.get_by_text(TEXTS["ser_voice"].en).click()
    for number in (1, 2):
        page.click("#voice-add")
        page.get_by_text(f"calm recordings: {number}").wait_for()
    assert used in answer("#recognise")
    assert used not in answer("#examples button >> nth=0")  # somebody else speaks there
    upload(page, recording(tmp_path / "mine.wav", seconds=2))
    page.uncheck("#voice-use input")
    assert used not in answer("#recognise")
    page.check("#voice-use input")
    page.click("#voice-forget")
    page.get_by_text(TEXTS["voice_forgotten"].en).wait_for()
    assert used not in answer("#recognise")


def test_the_keyboard_stays_in_its_place_after_record_and_stop(page: Page) -> None:
    page.get_by_role("button", name="Record", exact=True).focus()
    page.keyboard.press("Enter")
    page.wait_for_function("document.activeElement.innerText === 'Stop'")
    page.wait_for_timeout(1000)
    page.keyboard.press("Enter")
    page.wait_for_function("document.activeElement.ariaLabel === 'Play'")


@pytest.mark.parametrize("held_back", ["join", "data"])  # not queued yet, or its answer on the way
@pytest.mark.parametrize("how", ["clear", "another file", "record"])
def test_an_answer_goes_with_its_recording_also_while_it_is_computed(
    page: Page, tmp_path: Path, errors: list[str], how: str, held_back: str
) -> None:
    waiting, held = TEXTS["ser_answer_here"].en, []
    upload(page, recording(tmp_path / "short.wav"))
    page.click("#recognise")
    page.wait_for_selector(ANSWERED)

    def change() -> None:
        if how == "another file":
            page.set_input_files("#recording input[type=file]", recording(tmp_path / "other.wav", seconds=3))
        elif how == "record":
            page.click("#recording .source-selection button:last-of-type")
            page.get_by_role("button", name="Record", exact=True).click()

    page.locator("#recording [aria-label=Clear]").click()
    page.get_by_text(waiting).wait_for()
    assert not page.locator("#timeline").is_visible()
    upload(page, recording(tmp_path / "long.wav", seconds=4))
    page.route(f"**/queue/{held_back}*", lambda route: held.append(route))
    with page.expect_request(f"**/queue/{held_back}*"):
        page.click("#recognise")
    page.get_by_text(TEXTS["js_working"].en).wait_for()
    page.locator("#recording [aria-label=Clear]").click()
    change()
    for route in held:
        route.continue_()
    page.wait_for_timeout(3000)
    assert page.inner_text("#answer") == waiting
    if held_back == "join":  # Gradio tries to cancel what has no number yet
        errors[:] = [line for line in errors if "422" not in line]


def test_a_second_press_waits_for_the_answer(page: Page, server: Server, tmp_path: Path) -> None:
    upload(page, recording(tmp_path / "long.wav", seconds=100))
    page.wait_for_timeout(1000)  # for answers that were taken back before
    before = server.log.read_text().count("event=answered")
    page.eval_on_selector("#recognise", "button => { for (let press = 0; press < 3; press++) button.click(); }")
    page.wait_for_selector(ANSWERED)
    page.wait_for_timeout(2000)
    assert server.log.read_text().count("event=answered") == before + 1


def test_a_wrong_file_is_explained(page: Page, tmp_path: Path, errors: list[str]) -> None:
    (tmp_path / "letter.wav").write_text("Dear model, this is not a recording but a letter. " * 20)
    page.click("#recording .source-selection button:first-of-type")
    page.set_input_files("#recording input[type=file]", tmp_path / "letter.wav")
    page.wait_for_timeout(1500)
    page.click("#recognise")
    page.wait_for_selector("#answer [role=alert]")
    assert "letter.wav" in page.inner_text("#answer")
    assert "Traceback" not in page.content()
    errors.clear()  # the player itself cannot decode the letter, and says so


@pytest.mark.parametrize(("name", "codec", "rate_hz"), [("clip.webm", "libopus", 48_000), ("memo.mp4", "aac", 44_100)])
@pytest.mark.parametrize("how", ["choose", "drop"])
def test_what_browsers_call_a_video_is_answered(
    page: Page, tmp_path: Path, name: str, codec: str, rate_hz: int, how: str
) -> None:
    clip = encode(tmp_path / name, codec, rate_hz=rate_hz)
    if how == "choose":
        upload(page, clip)
    else:
        page.click("#recording .source-selection button:first-of-type")
        kind = f"video/{clip.suffix[1:]}"
        transfer = page.evaluate_handle(
            "([bytes, name, type]) => { const data = new DataTransfer();"
            " data.items.add(new File([new Uint8Array(bytes)], name, { type })); return data; }",
            [list(clip.read_bytes()), name, kind],
        )
        page.dispatch_event("#recording .upload-container", "drop", {"dataTransfer": transfer})
        page.wait_for_selector(UPLOADED)
    page.click("#recognise")
    page.wait_for_selector(ANSWERED)
    assert name in page.inner_text("#answer")


def test_the_file_chooser_offers_videos_too(page: Page) -> None:
    page.click("#recording .source-selection button:first-of-type")
    with page.expect_file_chooser() as chooser:
        page.click("#recording .upload-container")
    assert ".webm,.mp4" in str(chooser.value.element.get_attribute("accept"))


@pytest.mark.parametrize(
    ("flags", "words"),
    [((), "js_microphone_missing"), (("--use-fake-device-for-media-stream",), "js_microphone_refused")],
    ids=["none", "refused"],
)
def test_why_there_is_no_microphone_is_said(
    browser: Browser, server: Server, flags: tuple[str, ...], words: str
) -> None:
    other = browser.browser_type.launch(executable_path=CHROMIUM, args=list(flags))
    for language in ("en", "fa"):
        page = opened(other, f"{server.address}?lang={language}", [], is_owner=False)
        page.click("#recording .record-button")
        page.get_by_text(getattr(TEXTS[words], language)).wait_for()
        page.click("#recording .source-selection button:first-of-type")
        page.get_by_text(getattr(TEXTS[words], language)).wait_for(state="detached")
    other.close()


def test_an_answer_and_several_files_can_be_saved(page: Page, tmp_path: Path) -> None:
    bad = tmp_path / "letter.wav"
    bad.write_text("This is no recording. " * 30)
    page.locator("#several > button").click()
    page.set_input_files(
        "#files input[type=file]", [recording(tmp_path / "one.wav"), bad, recording(tmp_path / "two.wav")]
    )
    page.get_by_text("two").wait_for()
    page.click("#recognise-all")
    page.locator("#answers-files a").first.wait_for()
    page.locator("#progress .box").wait_for(state="detached")
    with page.expect_download() as download:
        page.get_by_role("link", name="answers.csv").click()
    rows = list(csv.DictReader(download.value.path().read_text().splitlines()))
    assert [(row["file"], bool(row["emotion"]), bool(row["problem"])) for row in rows] == [
        ("one.wav", True, False), ("letter.wav", False, True), ("two.wav", True, False),
    ]  # fmt: skip
    page.locator("#pair input").click()
    offered = page.locator("#pair").get_by_role("option").all_inner_texts()
    assert [name.split(" · ")[0].strip("✓ \n") for name in offered] == ["1", "3"]  # not the letter
    page.locator("#pair").get_by_role("option", name="two.wav").click()
    page.locator("#pair input").click()
    page.locator("#pair").get_by_role("option", name="one.wav").click()
    page.locator(".pair .box").nth(1).wait_for()
    assert page.locator(".pair .facts bdi").all_inner_texts() == ["two.wav", "one.wav"]
    page.get_by_role("link", name="فارسی").click()
    page.locator(".pair").get_by_text("ثانیه").first.wait_for()
    page.get_by_role("link", name="English").click()
    page.locator("#examples button").first.click()
    page.wait_for_selector(ANSWERED)
    with page.expect_download() as download:
        page.get_by_role("link", name="answer.json").click()
    assert '"timeline"' in download.value.path().read_text()
    with page.expect_download() as download:
        page.get_by_role("link", name="answers.csv").click()
    assert len(download.value.path().read_text().splitlines()) == 1 + 3 + 1  # the answers so far


def test_an_example_answers_with_one_click_each_time(page: Page) -> None:
    for _ in range(2):  # the example is not deleted after its answer
        page.locator("#examples button").first.click()
        page.get_by_text("answered in").wait_for()
        page.locator("#recording [aria-label=Clear]").click()
        page.get_by_text(TEXTS["ser_answer_here"].en).wait_for()


def test_a_press_in_the_chart_plays_from_there_and_a_line_follows(page: Page) -> None:
    page.click("#examples button >> nth=0")
    page.wait_for_selector("#timeline .js-plotly-plot .main-svg")
    page.wait_for_selector("#recording #waveform > div")
    where = """part => {
      const { xaxis, _size } = document.querySelector("#timeline .js-plotly-plot")._fullLayout;
      return [xaxis._offset + part * xaxis._length, _size.t + 0.6 * _size.h, xaxis.range[1] * part];
    }"""
    x, y, seconds = page.evaluate(where, 0.4)
    page.locator("#timeline .js-plotly-plot").click(position={"x": x, "y": y})
    heard = "document.querySelector('#recording #waveform > div').shadowRoot.querySelector('audio').currentTime"
    page.wait_for_function(f"from => {heard} > from + 0.1", arg=seconds)
    line = page.locator("#timeline .play-head")
    line.wait_for()
    left = float(line.evaluate("line => parseFloat(line.style.left)"))
    assert left > x
    assert page.evaluate(heard) < seconds + 3
    page.locator("#timeline .updatemenu-button").last.click()
    page.wait_for_selector("#timeline .heatmaplayer image")
    page.click("#recording [aria-label=Clear]")  # nothing to follow any more
    line.wait_for(state="hidden")


def test_persian_is_written_from_right_to_left_with_its_own_digits(
    browser: Browser, server: Server, errors: list[str], tmp_path: Path
) -> None:
    page = opened(browser, server.address, errors, is_owner=False, locale="fa-IR")
    page.get_by_text(TEXTS["ser_heading"].fa).wait_for()
    assert page.locator("html").get_attribute("dir") == "rtl"
    assert page.locator("html").get_attribute("lang") == "fa"
    upload(page, recording(tmp_path / "clip.wav"))
    page.get_by_role("button", name=TEXTS["ser_recognise"].fa).click()
    page.locator("#answer .elapsed:not(:empty)").wait_for()
    shown = page.inner_text("#answer")
    assert EMOTION_TEXTS[emotion_of(page)].fa in shown
    assert not re.search(r"[0-9]", shown.replace("clip.wav", "").replace("answer.", ""))


ENGLISH_NAMES = """() => [...document.querySelectorAll("*")].filter(element => element.checkVisibility()).flatMap(
  element => ["aria-label", "title", "placeholder", "data-title"].map(place => element.getAttribute(place))
).filter(name => /[a-z]{2}/i.test(name || "") && !/[\u0600-\u06ff]|clip.wav|Optuna Dashboard/.test(name))"""


def all_are_persian(page: Page) -> None:
    page.wait_for_timeout(1000)
    try:
        page.wait_for_function(f"() => ({ENGLISH_NAMES})().length === 0")
    except Exception:
        print(page.evaluate(ENGLISH_NAMES))
        raise


def test_controls_that_are_not_ours_have_persian_names_too(
    browser: Browser, server: Server, errors: list[str], tmp_path: Path
) -> None:
    page = opened(browser, server.address, errors, locale="fa-IR", permissions=["microphone"])
    page.click("#recording .record-button")
    page.locator("#recording .pause-button").wait_for()
    all_are_persian(page)
    page.click("#recognise")
    page.locator("#answer .elapsed:not(:empty)").wait_for()
    page.locator("#several > button").click()
    page.set_input_files("#files input[type=file]", recording(tmp_path / "clip.wav"))
    page.locator("#files .filename").wait_for()
    for tab in (0, 1, 2):
        page.get_by_role("tab").nth(tab).click()
        all_are_persian(page)
    page.get_by_role("link", name="English").click()
    page.get_by_role("tab").nth(0).click()
    page.get_by_label("Skip backwards", exact=True).wait_for()  # Gradio's own name has a number with six digits


def test_another_language_or_theme_loses_nothing(
    browser: Browser, server: Server, errors: list[str], tmp_path: Path
) -> None:
    page = opened(browser, server.address, errors, locale="fa-IR", color_scheme="light")
    upload(page, recording(tmp_path / "clip.wav"))
    page.click("#recognise")
    page.locator("#answer .elapsed:not(:empty)").wait_for()
    answer, emotion = page.inner_text("#answer"), emotion_of(page)
    page.get_by_role("tab").nth(1).click()
    page.fill("#cv-name textarea", "mine")
    page.get_by_role("link", name="English").click()
    for words in ("ser_heading", "ser_tab_recognise", "ser_tab_tune", "ser_cv_start"):
        page.get_by_text({**TEXTS, **TRAINING_TEXTS}[words].en, exact=True).first.wait_for()
    page.locator("#cv-corpus").get_by_text("217 recordings").wait_for()
    assert page.locator("html").get_attribute("dir") == "ltr"
    assert page.input_value("#cv-name textarea") == "mine"
    page.get_by_role("tab").nth(0).click()
    assert (page.inner_text("#answer"), emotion_of(page)) == (answer, emotion)
    assert page.locator("#answer .box").get_attribute("dir") == "rtl"
    page.get_by_role("button", name=TEXTS["ser_theme"].en).click()
    page.wait_for_selector("body.dark")
    clipped = "() => [...document.querySelectorAll('#timeline [clip-path]')].map(one => one.getAttribute('clip-path'))"
    parts = page.evaluate(clipped)  # the address, which has changed by now, must not be in them
    assert parts
    assert all(part.startswith(("url('#", "url(#", 'url("#')) for part in parts)
    page.click("#recognise")  # the recording is still there; the next answer speaks English
    page.locator("#answer .box:not([lang]) .elapsed:not(:empty)").wait_for()
    assert emotion in page.inner_text("#answer").lower()
    page.reload()
    page.wait_for_selector("body.dark #answer .box")
    assert page.locator("html").get_attribute("lang") == "en"


def test_a_reload_keeps_what_is_filled_in_and_writes_over_nothing(
    browser: Browser, server: Server, errors: list[str]
) -> None:
    def filled(page: Page) -> list[str]:
        page.get_by_role("tab").nth(1).click()
        if not page.locator("#cv-max_epochs").is_visible():
            page.locator("#cv-settings button").first.click()
        found = [page.input_value(one) for one in ("#cv-name textarea", epochs, optimizer)]
        preset = page.locator("#cv-preset input:checked").input_value()
        page.get_by_role("tab").nth(2).click()
        return [*found, preset, page.input_value("#tune-trials input[type=number]")]

    epochs, optimizer = "#cv-max_epochs input[type=number]", "#cv-settings [role=listbox], #cv-settings [role=combobox]"
    page = opened(browser, server.address, errors)
    assert filled(page) == ["", "20", "adam", "quick", "10"]
    page.fill("#tune-trials input[type=number]", "33")
    page.get_by_role("tab").nth(1).click()
    page.fill("#cv-name textarea", "mine")
    page.locator("#cv-preset input[value=paper]").check()
    page.wait_for_function("place => document.querySelector(place).value === '150'", arg=epochs)
    page.fill(epochs, "7")
    page.press(epochs, "Tab")
    page.reload()
    assert filled(page) == ["mine", "7", "sgd", "paper", "33"]
    page.get_by_role("tab").nth(1).click()
    page.reload()
    page.fill("#cv-name textarea", "other")  # at once
    assert filled(page) == ["other", "7", "sgd", "paper", "33"]
    page.context.close()
    assert filled(opened(browser, server.address, errors))[0] == ""  # another visitor


def test_a_german_browser_gets_one_language_throughout(browser: Browser, server: Server, errors: list[str]) -> None:
    page = opened(browser, server.address, errors, locale="de-DE", permissions=["microphone"])
    page.get_by_role("button", name="Record", exact=True).wait_for()
    assert page.locator("html").get_attribute("lang") == "en"


def test_who_opens_the_printed_address_is_the_owner_and_the_token_leaves_it(
    browser: Browser, server: Server, errors: list[str]
) -> None:
    page = opened(browser, f"{server.address}?lang=fa&token={TOKENS[server.address]}", errors, is_owner=False)
    page.wait_for_url(f"{server.address}?lang=fa")
    page.get_by_role("tab").nth(1).wait_for()
    page.wait_for_timeout(2000)
    assert not page.locator("#owner").is_visible()
    page.reload()
    page.wait_for_timeout(2000)
    assert not page.locator("#owner").is_visible()


def test_anybody_else_can_sign_in_with_it(page: Page, server: Server) -> None:
    page.locator("#owner > button").click()
    for secret, words in (("guess", "owner_wrong"), (TOKENS[server.address], "owner_signed_in")):
        page.fill("#owner-password input", secret)
        page.click("#owner-sign-in")
        page.get_by_text(TEXTS[words].en).wait_for()


@pytest.mark.parametrize("language", ["en", "fa"])
def test_a_phone_shows_the_answer_without_scrolling_and_nothing_sideways(
    browser: Browser, server: Server, errors: list[str], language: str
) -> None:
    page = opened(browser, f"{server.address}?lang={language}", errors, is_owner=False, **PHONE)
    page.locator("#examples button").first.click()
    page.wait_for_selector(ANSWERED)
    page.wait_for_timeout(1500)
    heading = page.locator("#answer h2").bounding_box()
    assert heading is not None
    assert 0 <= heading["y"] <= 844 - heading["height"]
    for width in (390, 320):
        page.set_viewport_size({"width": width, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert all(tab.is_visible() for tab in page.get_by_role("tab").all())


def test_every_tab_is_as_wide_as_the_others(page: Page) -> None:
    widths = set()
    for tab in page.get_by_role("tab").all():
        tab.click()
        page.wait_for_timeout(500)
        widths.add(page.evaluate("document.querySelector('#heading').getBoundingClientRect().width"))
    assert len(widths) == 1


@pytest.mark.parametrize("language", ["en-US", "fa"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_on_any_tab(
    browser: Browser, server: Server, errors: list[str], scheme: str, language: str
) -> None:
    axe = Path(pytest.importorskip("axe_playwright_python").__file__).with_name("axe.min.js").read_text()
    page = opened(browser, server.address, errors, color_scheme=scheme, locale=language)
    page.locator("#examples button").first.click()
    page.wait_for_selector(ANSWERED)
    tabs = page.get_by_role("tab").all()
    assert len(tabs) == 3
    for tab in tabs:
        tab.click()
        page.wait_for_timeout(1_500)
        page.evaluate(axe)
        found = page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")["violations"]
        serious = [one for one in found if one["impact"] in ("serious", "critical")]
        assert [(one["id"], node["target"]) for one in serious for node in one["nodes"]] == []


def test_the_keyboard_alone_reaches_everything(page: Page) -> None:
    reached = set()
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.innerText"))
    assert {"English", "فارسی", "Record", "recognise"} <= reached


def test_the_recording_is_not_offered_to_another_site(page: Page, tmp_path: Path) -> None:
    upload(page, recording(tmp_path / "clip.wav"))
    assert page.get_by_role("button", name="Share").count() == 0


def test_the_api_panels_lines_for_python_name_a_file(page: Page, errors: list[str]) -> None:
    page.get_by_text("Use via API").click()
    page.get_by_text("handle_file('clip.wav')").first.wait_for()
    errors.clear()  # the panel looks for routes that this page does without
