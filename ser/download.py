"""Fetching a file over HTTP that goes on where the connection broke, also in a later process.

In: an address and a path. Out: the file at that path, complete. What was received stays in the file, and the
server's tag of its version beside it, so that pieces of two versions are never put together.
"""

from __future__ import annotations

import http.client
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from ser.errors import CorpusError

CHUNK_BYTES = 1 << 16
TIMEOUT_S = 30.0
MAX_BYTES = 8 << 30
MAX_FUTILE_ATTEMPTS = 3  # in a row that brought no byte
RETRIED_STATUS = (408, 429, 500, 502, 503, 504)

Progress = Callable[[int, int | None], None]  # (bytes so far, bytes in all where the server says)


class _Broken(Exception):
    """The connection broke; another attempt may go on."""


def download(url: str, target: Path, progress: Progress | None = None, pause_s: float = 1.0) -> None:
    """Fetch `url` into `target`, going on with what an earlier attempt left there.

    Args:
        url: http or https.
        target: the file; incomplete until this returns.
        progress: called as bytes come in.
        pause_s: before the second attempt; doubled before each further one that brought nothing.

    Raises:
        CorpusError: the server cannot be reached, refuses, or sends too much; what came is kept.
        OSError: the file cannot be written.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise CorpusError(f"{url} is no http or https address.")
    futile = 0
    while True:
        before = _size(target)
        try:
            return _fetch_rest(url, target, progress)
        except _Broken as error:
            futile = 0 if _size(target) > before else futile + 1
            if futile >= MAX_FUTILE_ATTEMPTS:
                raise CorpusError(
                    f"The connection to {urlsplit(url).hostname} broke {futile} times ({error}); "
                    f"{_size(target)} bytes are kept."
                ) from error
            time.sleep(pause_s * 2**futile)


def forget(target: Path) -> None:
    """Delete what was fetched, complete or not."""
    target.unlink(missing_ok=True)
    _tag_file(target).unlink(missing_ok=True)


def _fetch_rest(url: str, target: Path, progress: Progress | None) -> None:
    done, tag = _size(target), _tag_file(target)
    headers = {"User-Agent": "ser", "Accept-Encoding": "identity"}
    if done:
        headers["Range"] = f"bytes={done}-"
        if tag.exists():
            headers["If-Range"] = tag.read_text(encoding="utf-8")
    with _opened(url, headers) as answer:
        start, total = _extent(answer, done)
        if start is None:  # the server says that nothing is left, or that our piece is not of its file
            if total == done:
                return
            forget(target)
            raise _Broken("the file on the server has changed")
        if not start:
            forget(target)
            version = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
            # A weak tag vouches for no range (RFC 9110, 13.1.5).
            if version and not version.startswith("W/"):
                tag.write_text(version, encoding="utf-8")
        if (total or 0) > MAX_BYTES:
            raise CorpusError(f"{url} holds {total} bytes, more than the {MAX_BYTES} that are fetched.")
        _receive(answer, target, start, total, progress)


def _receive(
    answer: http.client.HTTPResponse, target: Path, start: int, total: int | None, progress: Progress | None
) -> None:
    with target.open("r+b" if start else "wb") as file:
        done = file.seek(start)
        while chunk := _read(answer):
            file.write(chunk)
            done += len(chunk)
            if done > MAX_BYTES:
                raise CorpusError(f"The server sends more than the {MAX_BYTES} bytes that are fetched.")
            if progress is not None:
                progress(done, total)
    if total is not None and done < total:
        raise _Broken(f"{done} of {total} bytes came")


def _opened(url: str, headers: dict[str, str]) -> http.client.HTTPResponse:
    host = urlsplit(url).hostname
    try:
        answer: http.client.HTTPResponse = urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S
        )
        return answer
    except urllib.error.HTTPError as error:
        if error.code == 416:
            return error  # type: ignore[return-value]  # an answer like any other
        if error.code in RETRIED_STATUS:
            raise _Broken(f"status {error.code}") from error
        raise CorpusError(f"{host} answered {error.code} {error.reason}.") from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, socket.gaierror):
            raise CorpusError(
                f"{host} was not found: there is no network, or the address is wrong."
            ) from error
        raise _Broken(str(error.reason)) from error
    except (OSError, http.client.HTTPException) as error:
        raise _Broken(str(error) or type(error).__name__) from error
    except ValueError as error:
        raise CorpusError(f"{url} is no address ({error}).") from error


def _read(answer: http.client.HTTPResponse) -> bytes:
    try:
        return answer.read1(CHUNK_BYTES)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _Broken(str(error) or type(error).__name__) from error


def _extent(answer: http.client.HTTPResponse, done: int) -> tuple[int | None, int | None]:
    """`(first byte of the answer, bytes of the whole file)`; no first byte where none is sent."""
    told = answer.headers.get("Content-Range", "")
    whole = re.search(r"/(\d+)$", told)
    total = int(whole[1]) if whole else None
    if answer.status == 416:
        return None, total
    if answer.status == 206:
        first = re.match(r"bytes (\d+)-", told)
        return (done, total) if first and int(first[1]) == done else (None, None)
    length = answer.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def _tag_file(target: Path) -> Path:
    return target.with_name(f"{target.name}.tag")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
