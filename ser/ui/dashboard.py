"""Optuna's own dashboard on the page's port, so that it can be shown inside the tab Tune.

In: where the studies are: an address, or none and their folder. Out: routes for the server. The dashboard's addresses
are fixed in its script, therefore it has the routes that it wants and cannot be given a prefix. It is read-only: its
interface can delete studies, so only GET and HEAD pass, and the buttons for the rest are not shown. Optuna is imported
when somebody first looks.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import BaseRoute, Route
from starlette.types import Message, Receive, Scope, Send

from ser.errors import SettingsError

PATHS = ("/dashboard", "/dashboard/{path:path}", "/api/{path:path}", "/csv/{path:path}", "/static/bundle.js")
READING = ("GET", "HEAD")
REFUSED = "This dashboard is read-only: studies are changed by the tab Tune or by `ser tune`."
WORKERS = 4
# Buttons that lead to what is refused: delete, rename and create a study; change notes, skip a trial.
STYLE = b"""<style>
[aria-label="delete study"], [aria-label="rename study"], [aria-label="skip trial"],
button:has([data-testid="AddBoxIcon"]), button:has([data-testid="EditIcon"]),
button:has([data-testid="DeleteIcon"]), button:has([data-testid="DriveFileRenameOutlineIcon"]) {
  display: none !important;
}
</style>"""

log = logging.getLogger(__name__)


class Dashboard:
    """The dashboard as an ASGI application."""

    def __init__(self, folder: Path, storage: str | None = None, writable: bool = False) -> None:
        """Args:
        folder: of the studies, where they are kept unless there is a storage.
        storage: address of the studies; opened when somebody first looks.
        writable: let everything through that the dashboard can do, from everybody.
        """
        self.folder, self.storage, self.writable = folder, storage, writable
        self._opening = threading.Lock()
        self._app: Any = None

    def routes(self) -> list[BaseRoute]:
        """Those that the dashboard's script asks for, and no others."""
        return [Route(path, self) for path in PATHS]

    def open_storage(self) -> Any:
        """Optuna's storage of the studies, made where it is missing.

        Raises:
            SettingsError: it cannot be opened.
        """
        from ser.tuning.storage import default_storage, open_storage

        if self.storage is None:
            self.folder.mkdir(parents=True, exist_ok=True)
        return open_storage(self.storage or default_storage(self.folder))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in READING and not self.writable:
            response = JSONResponse({"reason": REFUSED}, 405, {"allow": ", ".join(READING)})
            await response(scope, receive, send)
            return
        try:
            app = self._app or await run_in_threadpool(self._open)
        except SettingsError as error:
            log.warning("event=dashboard_failed reason=%r", str(error))
            await PlainTextResponse("The studies cannot be read now.", 503)(scope, receive, send)
            return
        await app(scope, receive, send if self.writable else _without_buttons(send))

    def _open(self) -> Any:
        with self._opening:
            if self._app is None:
                from a2wsgi import WSGIMiddleware
                from optuna_dashboard import wsgi

                page: Any = wsgi(self.open_storage())
                # The dashboard takes this header for granted.
                self._app = WSGIMiddleware(lambda env, start: page({"HTTP_ACCEPT_ENCODING": "", **env}, start), WORKERS)
            return self._app


def _without_buttons(send: Send) -> Send:
    """Put `STYLE` into HTML pages, which then are not kept by browsers."""
    is_html = False

    async def styled(message: Message) -> None:
        nonlocal is_html
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=list(message["headers"]))
            is_html = headers.get("content-type", "").startswith("text/html")
            if is_html:
                for name in ("content-length", "last-modified", "etag"):
                    del headers[name]
                headers["cache-control"] = "no-cache"
            message = {**message, "headers": headers.raw}
        elif is_html:
            message = {**message, "body": message.get("body", b"").replace(b"</head>", STYLE + b"</head>", 1)}
        await send(message)

    return styled
