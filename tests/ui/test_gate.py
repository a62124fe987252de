"""What comes in: only what the page uses, from its own pages, in bounded amounts."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest.mock import AsyncMock

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from support import free_port
from ui_support import recording

from ser.ui import gate
from ser.ui.context import Context
from ser.ui.gate import MAX_FILES, POSTS_PER_RECORDING, STORED_UPLOADS, USED, Gate
from ser.ui.gradio_private import UPLOAD
from ser.ui.replies import Replies
from ser.ui.settings import AppSettings

# Gradio's routes that the page does without. A route that is in neither list is one that nobody has decided on.
UNUSED = """
GET /openapi.json, POST /login, GET /logout, GET /svelte/{path:path}, GET /gradio_api/deep_link, GET /pwa_icon,
GET /pwa_icon/{size}, GET /manifest.json, GET /monitoring, GET /monitoring/summary, GET /monitoring/{key},
GET /gradio_api/user, GET /gradio_api/login_check, GET /gradio_api/token, GET /gradio_api/app_id, GET /gradio_api/runs,
GET /gradio_api/dev/reload, POST /gradio_api/run-history/connect, GET /gradio_api/run-history/buckets,
GET /gradio_api/run-history/records, GET /gradio_api/run-history/records/{endpoint}/{record_id}/assets/{asset_id},
GET /gradio_api/custom_component/{id}/{environment}/{type}/{file_name}, GET /gradio_api/proxy={url_path:path},
POST /gradio_api/stream/{event_id}, POST /gradio_api/stream/{event_id}/close, GET /gradio_api/file/{path:path},
GET /gradio_api/stream/{session_hash}/{run}/{component_id}/playlist.m3u8,
GET /gradio_api/stream/{session_hash}/{run}/{component_id}/{segment_id}.{ext},
GET /gradio_api/stream/{session_hash}/{run}/{component_id}/playlist-file, POST /gradio_api/api/{api_name},
GET /gradio_api/call/v2/{api_name}/{event_id}, GET /gradio_api/queue/status,
POST /gradio_api/component_server, POST /gradio_api/process_recording, POST /gradio_api/vibe-edit,
POST /gradio_api/undo-vibe-edit, GET /gradio_api/vibe-code, POST /gradio_api/vibe-code,
POST /gradio_api/vibe-starter-queries
"""
UNUSED_ROUTES = sorted(route.strip() for route in UNUSED.split(","))


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Context:
    settings = AppSettings(data=tmp_path_factory.mktemp("data"), port=free_port(), max_upload_mb=1)
    return Context.of(settings)


@pytest.fixture(scope="module")
def page(context: Context) -> Iterator[Any]:
    from ser.ui.page import build_page, launch

    page = build_page(context.settings, context)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(context.model, "start", lambda: None)
        launch(page, context)
    yield page
    page.close(verbose=False)


@pytest.fixture
def url(page: Any) -> str:
    return str(page.local_url).rstrip("/")


def gate_before(context: Context, **settings: Any) -> TestClient:
    """The gate alone, before an application that reads what it is sent."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = await Request(scope, receive).body()
        await PlainTextResponse(f"{len(body)} bytes")(scope, receive, send)

    context = replace(context, settings=replace(context.settings, **settings))
    return TestClient(Replies(Gate(app, context)), raise_server_exceptions=True)


def routes(listed: Any) -> Iterator[str]:
    for route in listed:
        for method in getattr(route, "methods", None) or ():
            if method != "HEAD":
                yield f"{method} {route.path.rstrip('/') or '/'}"
        yield from routes(getattr(getattr(route, "original_router", None), "routes", ()))


def test_every_route_of_gradio_is_used_or_known_to_be_unused(page, context):
    used = {f"{method} {path}" for method, paths in USED.items() for path in paths}
    ours = set(routes(context.routes))
    assert set(routes(page.app.routes)) - ours - used - set(UNUSED_ROUTES) == set()
    assert used - set(routes(page.app.routes)) == set()  # nor is anything let in that is gone
    assert used & set(UNUSED_ROUTES) == set()


@pytest.mark.parametrize("route", UNUSED_ROUTES)
def test_unused_routes_are_not_there(url, route):
    method, path = route.split()
    path = re.sub(r"{.*?}", "x", path)
    files = {"video": ("v.mp4", b"#EXTM3U")} if method == "POST" else None
    for variant in (path, f"{path}/"):
        assert httpx.request(method, url + variant, files=files).status_code == 404


@pytest.mark.parametrize(
    "target", ["https://example.com/", "http://127.0.0.1:1/", "/etc/passwd", "app.py", "UPLOADS/../x"]
)
def test_the_file_route_gives_uploads_and_nothing_else(url, context, target, tmp_path):
    content = recording(tmp_path / "clip.wav").read_bytes()
    (mine,) = httpx.post(url + UPLOAD, files={"files": ("clip.wav", content)}).json()
    assert httpx.get(f"{url}/gradio_api/file={mine}").content == content
    target = target.replace("UPLOADS", str(context.uploads))
    for address in (target, target.replace("/", "%2F")):
        assert httpx.get(f"{url}/gradio_api/file={address}").status_code in (403, 404)


def test_only_a_space_may_be_framed_and_take_what_another_sites_page_sends(url, context):
    foreign, on_space = {"origin": "http://evil.example"}, gate_before(context, on_space=True)
    for path in (UPLOAD, "/gradio_api/queue/join", "/gradio_api/run/predict", "/gradio_api/call/recognise"):
        assert httpx.post(url + path, json={}, headers=foreign).status_code == 403
        assert httpx.post(url + path, json={}, headers={"origin": url}).status_code != 403
    assert on_space.post("/gradio_api/queue/join", headers=foreign).status_code == 200
    headers = httpx.get(url).headers
    assert headers["content-security-policy"] == "frame-ancestors 'self'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert "content-security-policy" not in on_space.get("/").headers


def test_a_client_that_sends_requests_without_end_is_told_to_wait(context):
    client = gate_before(context, requests_per_minute=1, trusted_proxies=1)

    def status(forwarded: str) -> int:
        return client.post("/gradio_api/reset", headers={"x-forwarded-for": forwarded}).status_code

    statuses = [status("spoofed, 192.0.2.1") for _ in range(POSTS_PER_RECORDING + 1)]
    assert statuses == [200] * POSTS_PER_RECORDING + [429]
    assert (status("new, 192.0.2.1"), status("spoofed, 192.0.2.2")) == (429, 200)


def test_an_upload_holds_so_many_files_and_bytes_and_no_more(url):
    many = [("files", (f"{number}.wav", b"x")) for number in range(MAX_FILES + 1)]
    refused = httpx.post(url + UPLOAD, files=many)
    assert (refused.status_code, refused.text) == (413, f"At most {MAX_FILES} files can be uploaded at once.")
    assert httpx.post(url + UPLOAD, files=many[1:]).status_code == 200
    large = [("files", (f"{number}.wav", os.urandom(1 << 20))) for number in range(9)]
    assert httpx.post(url + UPLOAD, files=large).status_code == 413
    form = {"content-type": "multipart/form-data"}
    assert httpx.post(url + UPLOAD, content=iter([b"x"]), headers=form).status_code == 411  # of no stated length


def test_a_full_store_and_a_full_disk_are_told_as_such_before_anything_is_written(context, monkeypatch):
    client, large = gate_before(context), context.uploads / "visitor" / "large.wav"

    def answer() -> tuple[int, str]:
        sent = client.post(UPLOAD, content=b"x")
        return sent.status_code, sent.text

    large.parent.mkdir()
    with large.open("wb") as file:
        file.truncate(STORED_UPLOADS << 20)
    assert answer() == (503, "The server holds too many recordings now. Try again in some minutes.")
    large.unlink()
    assert answer()[0] == 200
    usage = shutil.disk_usage(context.uploads)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=gate.SPARE_BYTES))
    assert answer() == (507, "The server's disk is full. Try again later.")


def test_a_request_that_stalls_is_given_up(context, monkeypatch):
    monkeypatch.setattr(gate, "STALL_S", 0.05)
    send = AsyncMock()
    headers = [(b"host", b"localhost"), (b"content-length", b"9")]
    scope = {"type": "http", "method": "POST", "path": UPLOAD, "headers": headers, "client": ("127.0.0.1", 1)}
    asyncio.run(gate_before(context).app(scope, lambda: asyncio.sleep(60), send))
    assert send.call_args_list[0].args[0]["status"] == 408
