"""What may come in: what the page uses, sent from its own pages, in bounded amounts.

Gradio brings about ninety routes, among them ones that fetch addresses, run ffmpeg on uploads or edit the page.
`Gate` stands before all of them: what is not in `USED`, and no route of ours, is not there. A test fails where a new
Gradio has a route that is neither in `USED` nor known to be unused.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.routing import Match, compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ser.ui.context import Context
from ser.ui.gradio_private import API, FILE, UPLOAD
from ser.ui.limits import RateLimit, client_name
from ser.ui.owner import is_cross_site
from ser.ui.replies import DISK_FULL, NOT_THERE, Refused

READING = ("GET", "HEAD")
# Gradio's routes that the page, its API panel and gradio_client use, as Gradio writes them.
USED: Mapping[str, tuple[str, ...]] = {
    "GET": (
        "/", "/config", "/theme.css", "/favicon.ico", "/robots.txt", "/static/{path:path}", "/assets/{path:path}",
        f"{API}/info", f"{API}/openapi.json", f"{API}/theme.css", f"{API}/startup-events", f"{API}/upload_progress",
        f"{API}/queue/data", f"{API}/heartbeat/{{session_hash}}", f"{API}/call/{{api_name}}/{{event_id}}",
        f"{FILE}{{path_or_url:path}}",
    ),
    "POST": (
        UPLOAD, f"{API}/queue/join", f"{API}/run/{{api_name}}", f"{API}/call/{{api_name}}",
        f"{API}/call/v2/{{api_name}}", f"{API}/cancel", f"{API}/reset",
    ),
}  # fmt: skip
SIGN_IN = ("/login/huggingface", "/login/callback", "/logout")  # on a Space whose author may sign in with the hub
PATTERNS = {method: [compile_path(template)[0] for template in templates] for method, templates in USED.items()}
POSTS_PER_RECORDING = 20  # requests that one client may send for each recording that it may send
MAX_FILES = 100  # in one upload
STORED_UPLOADS = 32  # largest uploads that may lie on the server at once
STALL_S = 30.0  # after which a request that sends nothing is given up
SPARE_BYTES = 64 << 20  # of the disk, left to others


class Gate:
    """ASGI middleware before everything that the server does."""

    def __init__(self, app: ASGIApp, context: Context) -> None:
        self.app, self.context, self.settings = app, context, context.settings
        self._posts = RateLimit(POSTS_PER_RECORDING * self.settings.requests_per_minute)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if not self._is_used(scope):
            raise Refused(404, NOT_THERE)
        if scope["method"] not in READING:
            await self._check(scope)
            receive = _bounded(receive)
        await self.app(scope, receive, self._with_headers(send))

    def _is_used(self, scope: Scope) -> bool:
        if scope["path"] in SIGN_IN:
            return self.context.owner.has_hub
        if any(route.matches(scope)[0] is not Match.NONE for route in self.context.routes):
            return True
        path, method = scope["path"], "GET" if scope["method"] in READING else scope["method"]
        if path.startswith(FILE):  # nothing but uploads; addresses are not fetched for strangers
            return method == "GET" and path.startswith(f"{FILE}{self.context.uploads}/")
        return any(pattern.match(path.rstrip("/") or "/") for pattern in PATTERNS.get(method, ()))

    async def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if not self.settings.on_space and is_cross_site(headers):  # a Space is there to be embedded
            raise Refused(403, "This request came from another site's page, so it was refused.")
        peer = scope["client"][0] if scope["client"] else ""
        client = client_name(peer, headers.getlist("x-forwarded-for"), self.settings.trusted_proxies)
        wait_s = self._posts.wait_s(client)
        if wait_s > 0:
            raise Refused(429, f"These were too many requests. Wait {round(wait_s) + 1} s and try again.")
        if scope["path"] == UPLOAD:
            await self._check_upload(headers)

    async def _check_upload(self, headers: Headers) -> None:
        length = headers.get("content-length", "")
        if not length.isdecimal():
            raise Refused(411, "An upload must state its length.")
        free = shutil.disk_usage(self.context.uploads).free
        if free < int(length) + SPARE_BYTES:
            raise Refused(507, DISK_FULL)
        stored = await run_in_threadpool(self.context.recordings.stored_bytes)
        if stored + int(length) > STORED_UPLOADS * self.settings.max_upload_mb << 20:
            raise Refused(503, "The server holds too many recordings now. Try again in some minutes.")

    def _with_headers(self, send: Send) -> Send:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["x-content-type-options"] = "nosniff"
                headers["referrer-policy"] = "same-origin"  # the address may hold the owner's token
                if not self.settings.on_space:
                    headers.append("content-security-policy", "frame-ancestors 'self'")  # beside a route's own
            await send(message)

        return send_with_headers


def _bounded(receive: Receive) -> Receive:
    """The body of a request, given up where it stalls or holds too many files."""
    n_files, is_whole = 0, False

    async def receive_bounded() -> Any:
        nonlocal n_files, is_whole
        if is_whole:
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), STALL_S)
        except TimeoutError as error:
            raise Refused(408, f"Nothing came for {STALL_S:g} s, so the request was given up.") from error
        n_files += message.get("body", b"").count(b"filename=")
        if n_files > MAX_FILES:
            raise Refused(413, f"At most {MAX_FILES} files can be uploaded at once.")
        is_whole = not message.get("more_body", False)
        return message

    return receive_bounded
