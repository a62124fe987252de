"""ShEMO is fetched from a server of the test's own; what is not what it should be leaves nothing behind."""

from __future__ import annotations

import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ser.cli import main
from ser.corpora import download
from ser.corpora.corpus import read_corpus

LABELS = json.dumps([{"id": "F03S02", "emotion": "sadness"}, {"id": "M01A01", "emotion": "anger"}]).encode()


def archive(*members: tuple[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as zipped:
        for name, data in members:
            zipped.writestr(name, data)
    return content.getvalue()


@pytest.fixture
def fetch(tmp_path: Path) -> Iterator[Callable[..., int]]:
    """`fetch(*options, female=..., ...)`: `ser download shemo` from a local server with these files."""
    site = tmp_path / "site"
    site.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    usual = {"female": archive(("ShEMO/female/F03S02.wav", b"F"), ("readme.txt", b"")),
             "male": archive(("M01A01.wav", b"M")), "labels": LABELS}  # fmt: skip
    names = {"female": "female.zip", "male": "male.zip", "labels": "shemo.json"}

    def run(*options: str, **files: bytes) -> int:
        urls = []
        for part, content in (usual | files).items():
            (site / names[part]).write_bytes(content)
            urls += ["--url", f"{names[part]}=http://127.0.0.1:{server.server_port}/{names[part]}"]
        return main(["download", "shemo", "--out", str(tmp_path / "ShEMO"), *urls, *options])

    yield run
    server.shutdown()
    server.server_close()


def there(tmp_path: Path) -> list[str]:
    return sorted(path.relative_to(tmp_path / "ShEMO").as_posix() for path in (tmp_path / "ShEMO").rglob("*"))


def test_archives_and_labels_become_a_corpus(fetch, tmp_path, capsys):
    assert fetch() == 0
    assert [name for name in there(tmp_path) if "." in name] == [
        "female/ShEMO/female/F03S02.wav", "female/readme.txt", "male/M01A01.wav", "shemo.json"
    ]  # fmt: skip
    assert read_corpus(tmp_path / "ShEMO").emotions == ("anger", "sadness")
    told = capsys.readouterr().out
    assert "never tried" in told
    assert f"shemo.json: SHA-256 {hashlib.sha256(LABELS).hexdigest()}" in told
    assert fetch(female=b"no archive any more") == 0  # what is there is not fetched again


def test_another_checksum_than_demanded_is_an_error(fetch, tmp_path, capsys):
    assert fetch("--sha256", f"shemo.json={'0' * 64}") == 1
    assert "shemo.json could not be fetched" in capsys.readouterr().err
    assert not (tmp_path / "ShEMO" / "shemo.json").exists()
    assert fetch("--sha256", f"shemo.json={hashlib.sha256(LABELS).hexdigest()}") == 0


@pytest.mark.parametrize("name", ["../../evil.wav", "/tmp/evil.wav", "..\\evil.wav", "a/../../evil.wav", "large.wav"])
def test_an_archive_that_leads_out_of_the_folder_or_is_too_large_is_refused(fetch, tmp_path, capsys, monkeypatch, name):
    monkeypatch.setattr(download, "MAX_BYTES", 100)
    assert fetch(female=archive(("F03S02.wav", b""), (name, bytes(101 if name == "large.wav" else 4)))) == 1
    said = "more than" if name == "large.wav" else "leads out of the folder"
    assert said in capsys.readouterr().err
    assert not list(tmp_path.rglob(name.split("\\")[-1].split("/")[-1]))
    assert not (tmp_path / "ShEMO" / "female").exists()


@pytest.mark.parametrize("part", ["female", "labels"])
def test_a_page_in_place_of_the_file_is_an_error_with_a_way_out(fetch, tmp_path, capsys, part):
    assert fetch(**{part: b"<html>Sign in</html>"}) == 1
    message = capsys.readouterr().err
    assert "by hand from https://github.com/" in message
    assert "--url" in message
    assert not [name for name in there(tmp_path) if "part" in name]


def test_options_that_name_no_file_of_shemo_are_bad_usage(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["download", "shemo", "--url", "other.zip=http://127.0.0.1/"])
    assert ended.value.code == 2
    assert "female.zip, male.zip, shemo.json" in capsys.readouterr().err
