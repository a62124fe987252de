"""Requests that gradio chokes on are answered with a sentence, never with a bare 500 or a broken connection.

Gradio takes the endpoints' arguments apart before any function of ours sees them, and lets what goes wrong there
through to the server. `Replies` is the last to see it: the client is told what was wrong with its request, the
operator finds one line in the log, and for what is no fault of the client, the traceback.
"""

from __future__ import annotations

import errno
import json
import logging

from gradio.route_utils import FnIndexInferError
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)

UNUSABLE = (
    "This request cannot be used. Upload a recording first, then name it as the upload's answer did; "
    "/gradio_api/openapi.json describes both."
)
NOT_THERE = "There is no such endpoint or request, or it has been answered already."
DISK_FULL = "The server's disk is full. Try again later."
DEFECT = "Something went wrong on the server. The operator finds it in the log."
SILENT = (b'{"error": null}', b'{"error":null}')  # what gradio says where it does not say why
ANSWER = json.dumps({"error": UNUSABLE}).encode()
CLIENTS_FAULT = (TypeError, ValueError, LookupError, AttributeError, RecursionError)


class Replies:
    """ASGI middleware around everything that gradio serves."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        reply = _Reply(send)
        try:
            await self.app(scope, receive, reply.send)
        except Exception as error:
            status, sentence = _judged(error)
            log.warning(
                "event=request_failed path=%r status=%d reason=%s", scope["path"][:80], status, type(error).__name__,
                exc_info=error if status == 500 else None,
            )  # fmt: skip
            if not reply.started:
                await JSONResponse({"error": sentence}, status)(scope, receive, send)
            else:
                await reply.end_stream(sentence)


class _Reply:
    """Passes a response on; a silent failure gets its sentence, and a 500 with a sentence becomes a 400."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._held: Message | None = None
        self.started = self.ended = self.is_stream = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = dict(message["headers"])
            self.is_stream = headers.get(b"content-type", b"").startswith(b"text/event-stream")
            if message["status"] == 500 and headers.get(b"content-type") == b"application/json":
                self._held = message  # until its body is known
                return
            self.started = True
        elif message["type"] == "http.response.body":
            self.ended = not message.get("more_body", False)
            if self.is_stream or self._held is not None:
                body = message.get("body", b"")
                for silent in SILENT:
                    body = body.replace(silent, ANSWER)
                message = {**message, "body": body}
            if self._held is not None:
                await self._send_held(len(message["body"]))
        await self._send(message)

    async def end_stream(self, sentence: str) -> None:
        """Say why a stream ends; any other response can only be cut off."""
        if self.is_stream and not self.ended:
            event = b"event: error\ndata: " + json.dumps({"error": sentence}).encode() + b"\n\n"
            await self._send({"type": "http.response.body", "body": event})

    async def _send_held(self, length: int) -> None:
        start = self._held
        assert start is not None
        headers = [(name, value) for name, value in start["headers"] if name != b"content-length"]
        headers.append((b"content-length", str(length).encode()))
        self._held, self.started = None, True
        await self._send({**start, "status": 400, "headers": headers})


def _judged(error: Exception) -> tuple[int, str]:
    """Status and sentence for what gradio let through."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return 507, DISK_FULL
    if isinstance(error, CLIENTS_FAULT) or (isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG):
        return 400, UNUSABLE
    statuses = (getattr(one, "status_code", 500) for one in (error, error.__cause__))
    if isinstance(error, FnIndexInferError) or min(statuses) < 500:
        return 404, NOT_THERE
    return 500, DEFECT
