"""Fetching ShEMO goes on where the connection broke, and takes nothing that is not what it should be."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import http.server
import io
import json
import re
import stat
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ser import download as downloading
from ser import shemo as fetching
from ser.cli import main
from ser.corpora import read_corpus
from ser.download import download
from ser.errors import CorpusError
from ser.shemo import PARTS, get_shemo, unpack


def recording(seed: int) -> bytes:
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, 3000)
    file = io.BytesIO()
    soundfile.write(file, samples, 16_000, format="WAV")
    return file.getvalue()


def archive(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in members.items():
            zipped.writestr(name, content)
    return file.getvalue()


SHEMO = {
    "female.zip": archive(
        {f"female/F0{i}A01.wav": recording(i) for i in range(1, 4)} | {"__MACOSX/x.wav": b"-"}
    ),
    "male.zip": archive({f"M0{i}S01.wav": recording(10 + i) for i in range(1, 3)} | {"notes.txt": b"-"}),
    "shemo.json": json.dumps([{"id": "M01S01", "emotion": "angry"}]).encode(),
}


class Server:
    """Files over HTTP with ranges, from a server that can be told to misbehave.

    Attributes:
        files: path -> content.
        drop_after: bytes of each answer after which the connection is dropped, while `drops` lasts.
        status: to answer with instead, path -> status.
        requests: `(path, Range header)` in the order of arrival.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.status: dict[str, int] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.drop_after, self.drops, self.ranges, self.tags = 0, 0, True, True

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        name, wanted = handler.path.strip("/"), handler.headers.get("Range")
        self.requests.append((name, wanted))
        content = self.files.get(name)
        if name in self.status or content is None:
            handler.send_error(self.status.get(name, 404))
            return
        tag = f'"{hashlib.sha256(content).hexdigest()}"'
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and self.ranges else 0
        if start and handler.headers.get("If-Range") not in (None, tag):
            start = 0
        if start >= len(content):
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(content)}")
            handler.end_headers()
            return
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if self.tags:
            handler.send_header("ETag", tag)
        handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        piece = content[start:]
        if self.drops:
            self.drops -= 1
            piece = piece[: self.drop_after]
        handler.wfile.write(piece)
        handler.wfile.flush()


@pytest.fixture
def server() -> Iterator[Server]:
    served = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with contextlib.suppress(ConnectionError):
                served.answer(self)
            self.close_connection = True

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        served.address = f"http://127.0.0.1:{listening.server_port}"  # type: ignore[attr-defined]
        served.files = dict(SHEMO)
        yield served
        listening.shutdown()


def addresses(server: Server) -> dict[str, str]:
    return {name: f"{server.address}/{name}" for name in SHEMO}


def fetch(server: Server, folder: Path, **options) -> dict[str, str]:
    return get_shemo(folder, addresses(server), pause_s=0, **options)


def left_over(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def test_shemo_is_fetched_unpacked_and_readable(server: Server, tmp_path: Path):
    digests = fetch(server, tmp_path / "ShEMO")
    assert digests == {name: hashlib.sha256(content).hexdigest() for name, content in SHEMO.items()}
    corpus = read_corpus(tmp_path / "ShEMO")
    assert [corpus.file_of(one.path) for one in corpus.utterances] == [
        "female/F01A01.wav", "female/F02A01.wav", "female/F03A01.wav", "male/M01S01.wav", "male/M02S01.wav",
    ]  # fmt: skip
    assert [one.emotion for one in corpus.utterances] == ["anger"] * 4 + ["sadness"]
    assert (tmp_path / "ShEMO/female/F02A01.wav").read_bytes() == recording(2)
    assert not left_over(tmp_path / "ShEMO")


def test_what_is_there_is_not_fetched_again(server: Server, tmp_path: Path):
    fetch(server, tmp_path)
    server.requests.clear()
    assert fetch(server, tmp_path) == {}
    assert not server.requests


@pytest.mark.parametrize("tags", [True, False])
def test_a_connection_that_drops_half_way_is_taken_up_where_it_broke(
    server: Server, tmp_path: Path, tags: bool
):
    half = len(SHEMO["female.zip"]) // 2
    server.tags, server.drop_after, server.drops = tags, half, 1
    seen: list[tuple[str, int, int | None]] = []
    fetch(server, tmp_path, progress=lambda *told: seen.append(told))
    assert server.requests[:2] == [("female.zip", None), ("female.zip", f"bytes={half}-")]
    assert len(read_corpus(tmp_path / "female").utterances) == 3
    counts = [done for name, done, _ in seen if name == "female.zip"]
    assert counts == sorted(counts)
    assert half in counts
    assert ("female.zip", len(SHEMO["female.zip"]), len(SHEMO["female.zip"])) in seen


def test_a_later_run_goes_on_with_what_an_earlier_one_left(server: Server, tmp_path: Path):
    server.drop_after, server.drops = 1000, 1
    server.status["male.zip"] = 500
    with pytest.raises(CorpusError, match=r"male\.zip of ShEMO could not be fetched"):
        fetch(server, tmp_path)
    del server.status["male.zip"]
    server.drops, server.drop_after = 10**6, 0
    with pytest.raises(CorpusError, match=r"broke 3 times"):
        fetch(server, tmp_path)
    server.drops = 0
    server.requests.clear()
    assert list(fetch(server, tmp_path)) == ["male.zip", "shemo.json"]  # female.zip was complete


def test_many_drops_are_survived_as_long_as_something_comes(server: Server, tmp_path: Path):
    content = bytes(range(256)) * 40
    server.files["x"] = content
    server.drop_after, server.drops = 500, 10**6
    download(f"{server.address}/x", tmp_path / "x", pause_s=0)
    assert (tmp_path / "x").read_bytes() == content
    assert len(server.requests) == 21


def test_a_server_without_ranges_makes_it_start_anew(server: Server, tmp_path: Path):
    server.ranges, server.drop_after, server.drops = False, 500, 1
    fetch(server, tmp_path)
    assert len(read_corpus(tmp_path).utterances) == 5


def test_pieces_of_two_versions_are_never_put_together(server: Server, tmp_path: Path):
    server.files["x"] = b"a" * 1000
    server.drop_after, server.drops = 400, 1
    target = tmp_path / "x"
    with pytest.raises(CorpusError):
        broken_once(server, target)
    assert target.read_bytes() == b"a" * 400
    server.files["x"] = b"b" * 900
    download(f"{server.address}/x", target, pause_s=0)
    assert target.read_bytes() == b"b" * 900


def broken_once(server: Server, target: Path) -> None:
    """One attempt that breaks, as if the process had been killed then."""
    limit = downloading.MAX_FUTILE_ATTEMPTS
    downloading.MAX_FUTILE_ATTEMPTS = 0
    try:
        download(f"{server.address}/x", target, pause_s=0)
    finally:
        downloading.MAX_FUTILE_ATTEMPTS = limit


def test_a_file_that_shrank_on_the_server_is_fetched_anew(server: Server, tmp_path: Path):
    server.tags = False
    server.files["x"] = b"new"
    (tmp_path / "x").write_bytes(b"a longer piece of an old file")
    download(f"{server.address}/x", tmp_path / "x", pause_s=0)
    assert (tmp_path / "x").read_bytes() == b"new"


def test_a_complete_file_is_recognised_as_complete(server: Server, tmp_path: Path):
    (tmp_path / "shemo.json").write_bytes(SHEMO["shemo.json"])
    download(f"{server.address}/shemo.json", tmp_path / "shemo.json", pause_s=0)
    assert (tmp_path / "shemo.json").read_bytes() == SHEMO["shemo.json"]


def test_without_a_network_the_message_says_what_to_do(tmp_path: Path):
    urls = {name: f"http://name.invalid/{name}" for name in SHEMO}
    with pytest.raises(CorpusError) as error:
        get_shemo(tmp_path, urls)
    for words in (
        "name.invalid was not found",
        "no network",
        "SER_SHEMO_FEMALE_URL",
        "by hand",
        "Run the same",
    ):
        assert words in str(error.value)


def test_a_server_that_refuses_is_quoted(server: Server, tmp_path: Path):
    server.status["female.zip"] = 403
    with pytest.raises(CorpusError, match=r"127\.0\.0\.1 answered 403 Forbidden"):
        fetch(server, tmp_path)
    assert len(server.requests) == 1  # refusals are not repeated


def test_a_checksum_that_differs_is_refused_and_the_file_forgotten(server: Server, tmp_path: Path):
    with pytest.raises(CorpusError, match="has the SHA-256"):
        fetch(server, tmp_path, sha256={"female.zip": "0" * 64})
    assert not list(tmp_path.iterdir())
    digest = hashlib.sha256(SHEMO["female.zip"]).hexdigest().upper()
    assert "female.zip" in fetch(server, tmp_path, sha256={"female.zip": digest})


def test_a_web_page_in_place_of_the_archive_is_not_taken(server: Server, tmp_path: Path):
    server.files["female.zip"] = b"<!DOCTYPE html><title>Sign in</title>"
    with pytest.raises(CorpusError, match=r"no whole ZIP archive .* it begins b'<!DOCTYPE"):
        fetch(server, tmp_path)
    server.files["female.zip"], server.files["shemo.json"] = SHEMO["female.zip"], b"<html>"
    with pytest.raises(CorpusError, match="is not a label file of ShEMO"):
        fetch(server, tmp_path)
    assert len(read_corpus(tmp_path).utterances) == 5  # the recordings are there and readable without it
    assert not left_over(tmp_path)


def test_the_next_address_is_tried_where_one_fails(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    parts = [
        dataclasses.replace(part, urls=(f"{server.address}/gone", f"{server.address}/{part.name}"))
        for part in PARTS
    ]
    monkeypatch.setattr(fetching, "PARTS", tuple(parts))
    for part in parts:
        monkeypatch.delenv(part.variable, raising=False)
    assert list(get_shemo(tmp_path)) == list(SHEMO)


def test_addresses_can_be_set_in_the_environment(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for part in PARTS:
        monkeypatch.setenv(part.variable, f"{server.address}/{part.name}")
    assert list(get_shemo(tmp_path)) == list(SHEMO)


@pytest.mark.parametrize("name", ["../1.wav", "/tmp/1.wav", "a/../../1.wav", "..\\1.wav", "C:\\1.wav"])
def test_an_archive_that_leads_elsewhere_is_refused(tmp_path: Path, name: str):
    (tmp_path / "x.zip").write_bytes(archive({"F02A01.wav": b"x", name: b"evil"}))
    with pytest.raises(CorpusError, match="leads out of the folder"):
        unpack(tmp_path / "x.zip", tmp_path / "female")
    assert [path.name for path in tmp_path.iterdir()] == ["x.zip"]


def test_an_archive_with_a_link_is_refused(tmp_path: Path):
    link = zipfile.ZipInfo("F01A01.wav")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as zipped:
        zipped.writestr(link, "/etc/passwd")
    with pytest.raises(CorpusError, match="leads out of the folder"):
        unpack(tmp_path / "x.zip", tmp_path / "female")


def test_an_archive_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "x.zip").write_bytes(archive({"F01A01.wav": b"0" * 5000, "F01A02.wav": b"1" * 5000}))
    monkeypatch.setattr(fetching, "MAX_UNPACKED_BYTES", 9000)
    with pytest.raises(CorpusError, match="unpacks to more than 9000 bytes"):
        unpack(tmp_path / "x.zip", tmp_path / "female")
    monkeypatch.setattr(fetching, "MAX_MEMBERS", 1)
    with pytest.raises(CorpusError, match="holds 2 files, more than 1"):
        unpack(tmp_path / "x.zip", tmp_path / "female")
    assert [path.name for path in tmp_path.iterdir()] == ["x.zip"]


def test_a_download_that_is_too_large_is_refused(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(downloading, "MAX_BYTES", 1000)
    with pytest.raises(CorpusError, match="more than the 1000 that are fetched"):
        fetch(server, tmp_path)


def test_a_damaged_archive_leaves_nothing_half_unpacked(tmp_path: Path):
    content = bytearray(SHEMO["female.zip"])
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(CorpusError, match="no whole ZIP archive"):
        unpack(tmp_path / "x.zip", tmp_path / "female")
    assert [path.name for path in tmp_path.iterdir()] == ["x.zip"]


@pytest.mark.parametrize(
    ("names", "message"),
    [(["notes.txt"], "no recording"), (["a/1.wav", "b/1.wav"], r"1\.wav more than once")],
)
def test_an_archive_without_recordings_or_with_one_twice_is_refused(tmp_path: Path, names, message):
    (tmp_path / "x.zip").write_bytes(archive(dict.fromkeys(names, b"")))
    with pytest.raises(CorpusError, match=message):
        unpack(tmp_path / "x.zip", tmp_path / "female")


def test_a_folder_that_cannot_be_written_is_named(server: Server, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(CorpusError, match="ShEMO cannot be written to"):
        fetch(server, tmp_path / "file" / "ShEMO")


def test_only_http_is_spoken(tmp_path: Path):
    (tmp_path / "local.zip").write_bytes(SHEMO["female.zip"])
    with pytest.raises(CorpusError, match="no http or https address"):
        get_shemo(tmp_path / "x", {"female.zip": (tmp_path / "local.zip").as_uri()})
    with pytest.raises(CorpusError, match=r"ShEMO has no file other\.zip"):
        get_shemo(tmp_path / "x", {"other.zip": "http://127.0.0.1/"})


def test_the_command_fetches_and_says_what_is_there(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    urls = [f"--url={name}={address}" for name, address in addresses(server).items()]
    assert main(["corpus", "get", "shemo", "--to", str(tmp_path / "ShEMO"), *urls]) == 0
    printed = capsys.readouterr().out
    assert f"female.zip: sha256 {hashlib.sha256(SHEMO['female.zip']).hexdigest()}" in printed
    assert "5 recordings of 5 speakers" in printed


def test_the_command_wants_a_place(capsys: pytest.CaptureFixture[str]):
    assert main(["corpus", "get", "shemo"]) == 2
    assert main(["corpus", "get", "shemo", "--to", "x", "--url", "female.zip"]) == 2
    assert "--to DIR" in capsys.readouterr().err
