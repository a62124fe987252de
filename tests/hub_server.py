"""A stand-in for the Hugging Face hub: the few calls that huggingface_hub makes, over HTTP on this machine.

Downloads (model info, HEAD and GET of a file) come from a folder. `fault` makes it misbehave.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TRUNCATED_BYTES = 1000


class Hub(ThreadingHTTPServer):
    """Serves one model; `calls` holds method and path of every request.

    `fault`: "" works; "hang" takes requests and never answers; "error" answers 500; "truncate" cuts files.
    """

    daemon_threads = True

    def __init__(self, repository: str = "", folder: Path | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repository, self.folder, self.fault = repository, folder, ""
        self.ended = threading.Event()
        self.calls: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news."""


@contextmanager
def running_hub(repository: str = "", folder: Path | None = None) -> Iterator[Hub]:
    """A hub that answers until the block ends."""
    hub = Hub(repository, folder)
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.ended.set()
        hub.shutdown()
        hub.server_close()


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.calls.append(f"{self.command} {path}")
        if self.server.fault == "hang":
            self.server.ended.wait()
            self.close_connection = True
        elif self.server.fault == "error":
            self._send(500, b"{}", {})
        else:
            self._read(path)

    do_HEAD = do_GET

    def _read(self, path: str) -> None:
        model, folder = self.server.repository, self.server.folder
        files = sorted(folder.iterdir()) if folder else []
        if folder and path.startswith(f"/api/models/{model}/tree/"):
            self._json([_entry(file.name, file.read_bytes()) for file in files])
        elif folder and path.startswith(f"/api/models/{model}"):
            siblings = [{"rfilename": file.name} for file in files]
            self._json({"id": model, "modelId": model, "sha": COMMIT, "siblings": siblings, "private": False})
        elif folder and path.startswith(f"/{model}/resolve/") and (folder / Path(path).name).is_file():
            self._file((folder / Path(path).name).read_bytes())
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _file(self, content: bytes) -> None:
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        cut = self.server.fault == "truncate" and self.command == "GET" and len(content) > TRUNCATED_BYTES
        sent = (0 if start else TRUNCATED_BYTES) if cut else None
        self._send(206 if start else 200, content[start:], headers, sent)

    def _json(self, content: Any) -> None:
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str], cut_at: int | None = None) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:cut_at])
        if cut_at is not None:
            self.close_connection = True


def _entry(path: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
