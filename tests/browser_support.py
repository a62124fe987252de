"""What the tests in a browser share: a server on a data folder, and a browser that notes every complaint."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import ROOT, free_port

from ser.ui import jobs

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
BROWSER = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not on the PATH (Debian: apt install chromium)"),
]
APP = ROOT / "app.py"
PATIENCE_S = 240  # for a machine that does much else
PATIENCE_MS = 1000 * PATIENCE_S
TOKENS: dict[str, str] = {}  # of the owner, by the address of a server


class Server:
    """`python app.py` on a data folder, with a tiny model of random weights."""

    def __init__(self, folder: Path, checkpoint: Path, **environment: str) -> None:
        self.port = free_port()
        self.address, self.log = f"http://127.0.0.1:{self.port}/", folder / "server.log"
        own = {"GRADIO_SERVER_PORT": str(self.port), "SER_DATA": str(folder / "data")}
        own |= {"SER_CHECKPOINT": str(checkpoint), "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}
        n_before = len(self._tokens()) if self.log.exists() else 0
        with self.log.open("ab") as log:
            command = [sys.executable, str(APP)]
            self.process = subprocess.Popen(command, env=os.environ | own | environment, stdout=log, stderr=log)
        self._wait(n_before)

    def _tokens(self) -> list[str]:
        """Of the servers of this folder that have printed theirs."""
        return re.findall(r"\?token=(\S+)", self.log.read_text())

    def _wait(self, n_before: int) -> None:
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until and self.process.poll() is None:
            try:
                is_ready = b'"ready"' in urllib.request.urlopen(self.address + "healthz", timeout=5).read()
                if is_ready and len(self._tokens()) > n_before:  # the model may be there before the line is printed
                    TOKENS[self.address] = self._tokens()[-1]
                    return
            except OSError:
                pass
            time.sleep(0.2)
        self.end(signal.SIGKILL)
        pytest.fail(f"The server did not start: {self.log.read_text()}")

    def end(self, number: int = signal.SIGTERM) -> None:
        """End the server; what it trains is asked to stop, too, unless it is killed."""
        if self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(60)


@contextmanager
def chromium(*arguments: str) -> Iterator[Browser]:
    """A headless browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=CHROMIUM, args=list(arguments))
        yield browser
        browser.close()


def opened(browser: Browser, address: str, errors: list[str], is_owner: bool = True, **context: object) -> Page:
    """A visitor of its own, by default the owner; errors of the page, its frames and their consoles are collected."""
    options = {"locale": "en-US", "viewport": {"width": 1280, "height": 1000}, **context}
    page = browser.new_context(**options).new_page()  # type: ignore[arg-type]
    page.set_default_timeout(PATIENCE_MS)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    tokens = [token for server, token in TOKENS.items() if address.startswith(server)]
    if is_owner and tokens:
        keep = f"localStorage.setItem('ser-session', '{tokens[0]}')"
        page.add_init_script(f"if (location.protocol !== 'about:') {keep}")  # about:blank has no storage
    page.goto(address)
    return page


def stop_all(folder: Path) -> None:
    """No job of a test outlives it."""
    for lock in folder.glob("data/*/*/job.lock"):
        jobs.stop(lock.parent, grace_s=0)


@contextmanager
def prefix_proxy(prefix: str, server: str) -> Iterator[str]:
    """A reverse proxy as in the README: takes `prefix` off, and passes the dashboard's paths on as they are."""
    import httpx
    import uvicorn
    from starlette.applications import Starlette
    from starlette.background import BackgroundTask
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse, Response, StreamingResponse
    from starlette.routing import Route

    client = httpx.AsyncClient(base_url=server, timeout=None)

    async def pass_on(request: Request) -> Response:
        path = request.url.path.removeprefix(prefix) if request.url.path.startswith(f"{prefix}/") else request.url.path
        if path == request.url.path and not re.match(r"/(dashboard|api|csv)(/|$)|/static/bundle\.js$", path):
            if path == "/favicon.ico":
                return Response(status_code=204)
            return PlainTextResponse("another application's", 404)
        headers = {**request.headers, "x-forwarded-for": "203.0.113.7", "x-forwarded-proto": "http"}
        asked = client.build_request(
            request.method, path, params=request.query_params, headers=headers, content=await request.body()
        )
        answer = await client.send(asked, stream=True)
        return StreamingResponse(
            answer.aiter_raw(), answer.status_code, answer.headers, background=BackgroundTask(answer.aclose)
        )

    port = free_port()
    methods = ["GET", "HEAD", "POST", "PUT", "DELETE"]
    app = Starlette(routes=[Route("/{path:path}", pass_on, methods=methods)])
    proxy = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    thread = threading.Thread(target=proxy.run, daemon=True)
    thread.start()
    while not proxy.started:
        assert thread.is_alive()
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    proxy.should_exit = proxy.force_exit = True
    thread.join(10)
