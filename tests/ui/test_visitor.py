"""An anonymous visitor of a public page, who calls every endpoint directly with whatever comes to mind."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from starlette.datastructures import Headers
from support import free_port
from ui_support import recording, tiny_model

from ser.ui import jobs
from ser.ui.context import Context
from ser.ui.settings import AppSettings

MARK = "only-the-operator-may-read-this"
PASSWORD = "the owner's"
RUN, STUDY = "crossval-20261120-101112-demonstration", "tune-20261120-101112-demonstration"


@dataclass
class Site:
    """A running page, and what it must not give away.

    Attributes:
        url: of the page.
        config: what the browser is told of it.
        context: of the server.
        secret: a file outside the page's folders.
        done: what was done that only the owner may do.
    """

    url: str
    config: dict[str, Any]
    context: Context
    secret: Path
    done: list[str]

    @property
    def endpoints(self) -> list[dict[str, Any]]:
        """All that call the server, the hidden ones of the page's own buttons too."""
        return [one for one in self.config["dependencies"] if one["backend_fn"]]

    def values(self, endpoint: dict[str, Any], session: Any, name: str) -> list[Any]:
        """What the page itself would send: the values of its components, with a session and the name of a run."""
        sent = {"session": session, "shown": name, "offered": f"delete {name}"}
        shown = {one["id"]: one["props"] for one in self.config["components"]}
        props = [shown[place] for place in endpoint["inputs"]]
        return [sent.get(str(one.get("label")), one.get("value")) for one in props]

    def call(self, endpoint: dict[str, Any], data: list[Any]) -> str:
        """What an endpoint answers: by the queue where it has one, else at once."""
        body = {"fn_index": endpoint["id"], "data": data, "session_hash": "visitor"}
        if endpoint["queue"] is False:
            return httpx.post(f"{self.url}gradio_api/run/predict", json=body, timeout=60).text
        joined = httpx.post(f"{self.url}gradio_api/queue/join", json=body, timeout=60)
        if joined.status_code != 200:
            return joined.text
        heard = ""
        url = f"{self.url}gradio_api/queue/data?session_hash=visitor"
        with httpx.stream("GET", url, timeout=60) as stream:
            for line in stream.iter_lines():
                heard += line
                if '"process_completed"' in line or '"close_stream"' in line:
                    break
        return heard


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    from ser.ui.page import build_page, launch

    folder = tmp_path_factory.mktemp("site")
    secret = folder / "private" / "secret.txt"
    corpus = folder / "private" / "corpus"
    corpus.mkdir(parents=True)
    secret.write_text(MARK)
    (corpus / "metadata.csv").write_text(f"path,speaker,emotion\n{MARK},a,anger\n")
    for name in (f"runs/{RUN}", f"studies/{STUDY}"):
        (folder / "data" / name / "checkpoint").mkdir(parents=True)
        (folder / "data" / name / "checkpoint" / "model.json").write_text("{}")
        (folder / "data" / name / "job.json").write_text(json.dumps({"command": ["sleep"], "exit_code": 1}))
        (folder / "data" / name / "log.txt").write_text(f"{MARK}\nser: it ended\n")
    settings = AppSettings(
        checkpoint=tiny_model(folder), data=folder / "data", data_is_temporary=False, corpora=(corpus,),
        password=PASSWORD, on_space=True, port=free_port(), requests_per_minute=100_000,
        trusted_proxies=1,
    )  # fmt: skip
    context = Context.of(settings)
    done: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs, "start", lambda *_, **__: done.append("start"))
        patch.setattr(jobs, "stop", lambda *_, **__: done.append("stop"))
        patch.setattr(jobs, "remove", lambda *_, **__: done.append("remove"))
        patch.setattr(context.model, "replace", lambda *_, **__: done.append("replace"))
        page = build_page(settings, context)
        launch(page, replace(context))
        context.model.get(120)
        config = httpx.get(f"{page.local_url}config").json()
        yield Site(page.local_url, config, context, secret, done)
        page.close(verbose=False)


def buttons(site: Site) -> list[dict[str, Any]]:
    """The endpoints that take the owner's session, but for the one that looks whether it is still good."""
    (session,) = [one["id"] for one in site.config["components"] if one["props"].get("label") == "session"]
    return [one for one in site.endpoints if session in one["inputs"] and session not in one["outputs"]]


@pytest.fixture
def in_work(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Let the run and the study be in work, or nothing be."""

    def let(is_running: bool) -> None:
        monkeypatch.setattr(jobs, "is_running", lambda folder: is_running and Path(folder).name in (RUN, STUDY))

    return let


def press_all(site: Site, sessions: Sequence[Any], in_work: Callable[[bool], None]) -> set[str]:
    """Press every button of the owner's as the page itself would, with one session after another; what that did."""
    site.done.clear()
    session = itertools.cycle(sessions)
    for is_running in (False, True):
        in_work(is_running)
        for name, endpoint in itertools.product((RUN, STUDY), buttons(site)):
            site.call(endpoint, site.values(endpoint, next(session), name))
    return set(site.done)


def attacks(site: Site) -> list[Any]:
    path = str(site.secret)
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    return [path, f"../../{site.secret.name}", file, [file], {"url": f"file://{path}"}, RUN, STUDY, "", None, -1]


def test_the_session_is_what_visitors_lack(site: Site, in_work: Callable[[bool], None]) -> None:
    assert len(buttons(site)) == 2 * 8 + 1  # those of both training tabs, and back to the shipped model
    assert press_all(site, [site.context.owner.token], in_work) == {"start", "stop", "remove", "replace"}


def test_no_button_works_without_it(site: Site, in_work: Callable[[bool], None]) -> None:
    assert press_all(site, ["", "guess", {"": ""}, None], in_work) == set()


@pytest.mark.slow
def test_no_endpoint_lets_a_visitor_start_a_job_read_a_file_or_change_a_thing(site: Site) -> None:
    site.done.clear()
    kept = sorted(path for path in site.context.settings.data.rglob("*") if path.is_file())
    assert len(site.endpoints) > 15
    for endpoint in site.endpoints:
        for attack in attacks(site):
            answer = site.call(endpoint, [attack] * len(endpoint["inputs"]))
            assert MARK not in answer, (endpoint["id"], attack)
            assert str(site.context.settings.data) not in answer, (endpoint["id"], attack)
    assert site.done == []
    assert sorted(path for path in site.context.settings.data.rglob("*") if path.is_file()) == kept


def test_no_address_is_fetched_whatever_input_it_is_given_to(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []
    monkeypatch.setattr("gradio.processing_utils.async_ssrf_protected_download", lambda url, **_: fetched.append(url))
    address = {"path": "https://example.org/a.wav", "meta": {"_type": "gradio.FileData"}}
    kinds, tried = {one["id"]: one["type"] for one in site.config["components"]}, set()
    for endpoint in site.endpoints:
        new = {kinds[place] for place in endpoint["inputs"]} - tried
        if new:
            site.call(
                endpoint, list(itertools.islice(itertools.cycle([address, [{"a": address}]]), len(endpoint["inputs"])))
            )
        tried |= new
    assert {"audio", "file", "textbox", "dropdown"} <= tried
    assert fetched == []


def test_nothing_goes_past_the_queue_and_its_limits(site: Site) -> None:
    for endpoint in (one for one in site.endpoints if one["queue"] is not False):
        body = {"fn_index": endpoint["id"], "data": [None] * len(endpoint["inputs"]), "session_hash": "visitor"}
        assert httpx.post(f"{site.url}gradio_api/run/predict", json=body, timeout=60).status_code == 404


@pytest.mark.parametrize(
    "path",
    ["SECRET", "DATA/runs/RUN/log.txt", "DATA/runs/RUN/job.json", "/etc/passwd", "UPLOADS", "UPLOADS/../", "app.py"],
)
def test_no_file_of_the_server_can_be_fetched(site: Site, path: str) -> None:
    for short, full in (("SECRET", site.secret), ("DATA", site.context.settings.data), ("RUN", RUN),
                        ("UPLOADS", site.context.uploads)):  # fmt: skip
        path = path.replace(short, str(full))
    for address in (f"gradio_api/file={path}", f"gradio_api/file/{path}"):
        answer = httpx.get(site.url + address)
        assert answer.status_code >= 400, address
        assert MARK not in answer.text


@pytest.mark.parametrize(
    "name", ["log.txt", "job.json", "..%2F..%2F..%2Fprivate%2Fsecret.txt", "%2Fetc%2Fpasswd", "checkpoint%2Fmodel.json"]
)
def test_of_a_run_only_its_results_can_be_fetched(site: Site, name: str) -> None:
    for run in (RUN, "..%2Fprivate", "latest", STUDY):
        assert httpx.get(f"{site.url}runs/{run}/{name}").status_code == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("path", ["api/studies", "api/studies/0", "api/studies/0/rename", "api/trials/0/note"])
def test_no_study_can_be_made_changed_or_deleted(site: Site, method: str, path: str) -> None:
    assert httpx.request(method, site.url + path, json={}).status_code == 405


def test_a_recording_lies_under_a_digest_of_its_sound_that_nobody_can_guess(site: Site, tmp_path: Path) -> None:
    content = recording(tmp_path / "clip.wav").read_bytes()
    (path,) = httpx.post(f"{site.url}gradio_api/upload", files={"files": ("clip.wav", content)}).json()
    assert re.fullmatch(r"[0-9a-f]{64}", Path(path).parent.name)
    assert Path(path).parent.parent == site.context.uploads
    assert site.context.uploads.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(("forwarded", "client"), [("9.9.9.9, 203.0.113.7", "203.0.113.7"), ("", "testclient")])
def test_on_a_space_a_client_is_who_its_proxy_says(site: Site, forwarded: str, client: str) -> None:
    request: Any = SimpleNamespace(
        client=SimpleNamespace(host="testclient"), headers=Headers({"x-forwarded-for": forwarded})
    )
    assert site.context.client(request) == client
