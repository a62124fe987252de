"""What goes wrong with a request is answered with a sentence, never with a bare 500 or a broken connection.

`Replies` is the last to see a failure: the client is told what was wrong with its request. What is no fault of the
client is a 500 with a number under which the owner finds the failure in the log, as one line.
"""

from __future__ import annotations

import errno
import json
import logging

from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ser.ui.gradio_private import API, UPLOAD, is_unknown_endpoint
from ser.ui.logs import log_failure

log = logging.getLogger(__name__)

UNUSABLE = (
    "This request cannot be used. Upload a recording first, then pass the path that the upload returned; "
    f"{API}/openapi.json describes both."
)
NOT_THERE = "There is no such endpoint or request, or it has been answered already."
DISK_FULL = "The server's disk is full. Try again later."
DEFECT = "Something went wrong on the server. The owner of this page finds the reason in the log under {id}."
CLIENTS_FAULT = (TypeError, ValueError, LookupError, AttributeError, RecursionError)


class Refused(Exception):
    """A request is turned away; the message is for the client."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Replies:
    """ASGI middleware around everything that the server does."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = is_open_stream = False

        async def pass_on(message: Message) -> None:
            nonlocal started, is_open_stream
            if message["type"] == "http.response.start":
                started = True
                kind = dict(message["headers"]).get(b"content-type", b"")
                is_open_stream = kind.startswith(b"text/event-stream")
            elif not message.get("more_body", False):
                is_open_stream = False
            await send(message)

        try:
            await self.app(scope, receive, pass_on)
        except Exception as error:
            status, sentence = _judged(error, scope["path"])
            if not started:
                await _response(scope["path"], status, sentence)(scope, receive, send)
            elif is_open_stream:
                event = f"event: error\ndata: {json.dumps({'error': sentence})}\n\n"
                await send({"type": "http.response.body", "body": event.encode()})


def _judged(error: Exception, path: str) -> tuple[int, str]:
    """Status and sentence for a failure, which is logged."""
    if isinstance(error, Refused):
        status, sentence = error.status, str(error)
    elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        status, sentence = 507, DISK_FULL
    elif is_unknown_endpoint(error) or _status(error) < 500:
        status, sentence = 404, NOT_THERE
    elif path.startswith(API) and (
        isinstance(error, CLIENTS_FAULT) or getattr(error, "errno", 0) == errno.ENAMETOOLONG
    ):
        status, sentence = 400, UNUSABLE
    else:
        return 500, DEFECT.format(id=log_failure(error, f"path={path[:80]!r}"))
    log.info("event=request_refused path=%r status=%d reason=%s", path[:80], status, type(error).__name__)
    return status, sentence


def _status(error: Exception) -> int:
    return min(getattr(one, "status_code", 500) for one in (error, error.__cause__))


def _response(path: str, status: int, sentence: str) -> Response:
    """Gradio shows what an upload is answered with as it is, and takes everything else for JSON."""
    if path == UPLOAD:
        return PlainTextResponse(sentence, status)
    return JSONResponse({"error": sentence}, status)
