"""Each of the things that are used of Gradio without being promised by it still does what it is used for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, patch

import gradio as gr
import httpx
import pytest
from starlette.middleware import Middleware
from support import free_port
from ui_support import recording

from ser.ui import gradio_private
from ser.ui.replies import UNUSABLE, Replies


class Site:
    """A page with an endpoint for each way to fail, called as gradio_client calls it."""

    def __init__(self, folder: Path) -> None:
        with gr.Blocks(analytics_enabled=False) as self.page:
            text, number, sound = gr.Textbox(), gr.Number(precision=0), gr.Audio(type="filepath")
            gradio_private.show_example(sound, "clip.wav")
            language = gr.Textbox()
            gr.Button().click(self.fail, language, text, api_name="fail")
            gr.Button().click(self.fail_later, language, text, api_name="fail_later")
            gr.Button().click(lambda _: {"no": "number"}, language, number, api_name="return_nonsense")
            gr.Button().click(self.refuse, language, text, api_name="refuse")
            gr.Button().click(str, number, text, api_name="take_a_number")
            gr.Button().click(self.hear, sound, text, api_name="hear")
            gr.Button().click(self.fail, language, text, api_name="at_once", queue=False)
            gr.Button().click(str, number, text, api_name="a_number_at_once", queue=False)
        gradio_private.report_failures(gr.Blocks())  # another page of the same process changes nothing
        gradio_private.report_failures(self.page)
        gradio_private.fetch_nothing(self.page)
        gradio_private.put_first("<script>first {{ }} {% %}</script>")
        self.page.queue(api_open=True)
        self.page.launch(
            server_port=free_port(), quiet=True, prevent_thread_lock=True, ssr_mode=False,
            app_kwargs={"middleware": [Middleware(Replies)]},
        )  # fmt: skip
        self.url = self.page.local_url

    def fail(self, language: str) -> str:
        raise KeyError("a defect")

    def fail_later(self, language: str) -> Iterator[str]:
        yield "so far so good"
        raise KeyError("a defect")

    def refuse(self, language: str) -> str:
        raise gr.Error("This is not how it is done.", print_exception=False)

    def hear(self, request: gr.Request, sound: str | None) -> str:
        return "heard"

    def call(self, name: str, *data: Any) -> str:
        joined = httpx.post(f"{self.url}gradio_api/call/{name}", json={"data": data})
        stream = httpx.get(f"{self.url}gradio_api/call/{name}/{joined.json()['event_id']}", timeout=30).text
        return json.loads(stream.split("data: ")[-1])["error"] if "event: error" in stream else stream


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site"))
    yield site
    site.page.close(verbose=False)


@pytest.mark.parametrize("name", ["fail", "fail_later", "return_nonsense"])
def test_a_defect_of_ours_is_told_as_ours_and_is_one_line_in_the_log(site, name, caplog, capfd):
    said = site.call(name, "en")
    assert "not with what you sent" in said
    (record,) = [one for one in caplog.records if "event=failed" in one.getMessage()]
    assert record.getMessage().split("id=")[1] in said
    assert record.exc_info is not None
    assert capfd.readouterr().err == ""


def test_a_defect_of_ours_outside_the_queue_is_a_500_with_the_same_sentence(site):
    answer = httpx.post(f"{site.url}gradio_api/run/at_once", json={"data": ["en"]})
    assert answer.status_code == 500
    assert "not with what you sent" in answer.json()["error"]
    assert site.call("refuse", "en") == "This is not how it is done."  # a refusal is passed on as it is
    answer = httpx.post(f"{site.url}gradio_api/call/nothing", json={"data": []})
    assert answer.status_code == 404
    assert "no such endpoint" in answer.text


def test_what_gradio_cannot_take_apart_is_the_clients(site, capfd):
    assert site.call("take_a_number", {"no": "number"}) == UNUSABLE
    answer = httpx.post(f"{site.url}gradio_api/run/a_number_at_once", json={"data": [{"no": "number"}]})
    assert (answer.status_code, answer.json()["error"]) == (400, UNUSABLE)
    assert capfd.readouterr().err == ""


def test_no_address_is_fetched_for_a_client(site):
    address = "http://127.0.0.1:1/clip.wav"
    with patch("gradio.processing_utils.async_ssrf_protected_download", AsyncMock(return_value="")) as fetch:
        for file in ({"path": address}, {"path": "x.wav", "url": address}, {"path": address, "url": address}):
            site.call("hear", file | {"meta": {"_type": "gradio.FileData"}})
    assert fetch.call_args_list == []


def test_the_page_has_a_file_as_example_html_put_first_and_the_charts_script(site):
    described = httpx.get(f"{site.url}gradio_api/info").json()["named_endpoints"]["/hear"]
    assert described["parameters"][0]["example_input"]["path"] == "clip.wav"
    assert "<head><script>first {{ }} {% %}</script>" in httpx.get(site.url).text
    for name in ("PlotlyPlot", "core"):
        address = gradio_private.script_address(name)
        assert httpx.get(f"{site.url}{address.removeprefix('./')}").status_code == 200


def test_gradio_does_not_remember_files_that_are_gone(site, tmp_path):
    content = recording(tmp_path / "clip.wav").read_bytes()
    (path,) = httpx.post(f"{site.url}gradio_api/upload", files={"files": ("clip.wav", content)}).json()

    def is_remembered() -> bool:
        return any(path in names for names in site.page.temp_file_sets)

    gradio_private.forget_deleted(site.page)
    assert is_remembered()
    Path(path).unlink()
    gradio_private.forget_deleted(site.page)
    assert not is_remembered()
