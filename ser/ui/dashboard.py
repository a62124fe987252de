"""Optuna's own dashboard on the page's port, so that it can be shown inside the tab Tune.

In: where the studies are. Out: routes for the server. The dashboard's addresses are fixed in its script,
therefore it has the routes that it wants and cannot be given a prefix. It is read-only: its interface can
delete studies, so only GET and HEAD pass, and the buttons for the rest are not shown. Optuna is imported
when somebody first looks.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from ser.errors import SettingsError

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication

PATHS = ("/dashboard", "/dashboard/{path:path}", "/api/{path:path}", "/csv/{path:path}", "/static/bundle.js")
READING = ("GET", "HEAD")
REFUSED = "This dashboard is read-only: studies are changed by the tab Tune or by `python -m ser tune`."
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

    def __init__(self, storage: str, writable: bool = False) -> None:
        """Args:
        storage: address of the studies; opened when somebody first looks.
        writable: let everything through that the dashboard can do, from everybody.
        """
        self.storage, self.writable = storage, writable
        self._opening = threading.Lock()
        self._app: Any = None

    def routes(self) -> list[BaseRoute]:
        """Those that the dashboard's script asks for, and no others."""
        return [Route(path, self) for path in PATHS]

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
        await app(scope, receive, send)

    def _open(self) -> Any:
        with self._opening:
            if self._app is None:
                from a2wsgi import WSGIMiddleware
                from optuna_dashboard import wsgi

                from ser.tuning.storage import open_storage

                page: Any = wsgi(open_storage(self.storage))
                page = page if self.writable else without_buttons(page)
                self._app = WSGIMiddleware(page, WORKERS)
            return self._app


def without_buttons(page: WSGIApplication) -> Any:
    """The same application with `STYLE` in its HTML pages, which then are not kept by browsers."""

    def styled(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        environ.setdefault("HTTP_ACCEPT_ENCODING", "")  # the dashboard takes it for granted
        started: list[Any] = []

        def remember(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[..., Any]:
            started[:] = [status, headers]
            return lambda data: None

        body = page(environ, remember)
        status, headers = started
        if any(name.lower() == "content-type" and "text/html" in value for name, value in headers):
            content = b"".join(body).replace(b"</head>", STYLE + b"</head>", 1)
            getattr(body, "close", lambda: None)()
            dropped = ("content-length", "last-modified", "etag")
            headers = [pair for pair in headers if pair[0].lower() not in dropped]
            length = [] if environ["REQUEST_METHOD"] == "HEAD" else [("Content-Length", str(len(content)))]
            start_response(status, [*headers, *length, ("Cache-Control", "no-cache")])
            return [content]
        start_response(status, headers)
        return body

    return styled
