"""A cache at an address: what one machine computed, another finds; only what is read is fetched."""

from __future__ import annotations

import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from feature_support import FakeEncoder, assert_right, write_clips

from ser.cli import main
from ser.errors import CacheError, SettingsError
from ser.features import address
from ser.features.address import file_system, open_cache
from ser.features.cache import FeatureCache
from ser.features.extract import extract


class Machines:
    """Machines that share nothing but an address: each has a cache folder of its own."""

    def __init__(self, folder, monkeypatch, at):
        self.folder, self.monkeypatch, self.address = folder, monkeypatch, at

    def on(self, name):
        """The cache as this machine opens it."""
        self.monkeypatch.setenv("SER_CACHE", str(self.folder / name))
        address.folder_of.cache_clear()
        return open_cache(self.address)

    def copies(self, name):
        return sorted((self.folder / name).rglob("*.safetensors"))

    def files(self):
        system, root = file_system(self.address)
        return sorted(path for path in system.find(root) if path.endswith(".safetensors"))


@pytest.fixture
def machines(tmp_path, monkeypatch):
    monkeypatch.setattr("ser.features.cache.FILE_BYTES", 500)
    yield Machines(tmp_path, monkeypatch, f"file://{tmp_path}/elsewhere")
    address.folder_of.cache_clear()


@pytest.fixture
def clips(tmp_path):
    return write_clips(tmp_path / "clips", 12)


def test_another_machine_finds_what_one_computed_and_fetches_what_it_reads_once(machines, clips):
    assert extract(clips, FakeEncoder(), machines.on("first")).n_computed == 12
    assert len(machines.files()) > 3
    encoder = FakeEncoder()
    features = extract(clips, encoder, machines.on("second"))
    assert encoder.n_encoded == 0
    assert machines.copies("second") == []
    features[0]
    assert len(machines.copies("second")) == 1
    assert_right(features, clips)
    shutil.rmtree(machines.folder / "elsewhere")
    assert_right(features, clips)


def test_each_of_two_machines_computes_what_is_missing(machines, clips):
    extract(clips[:5], FakeEncoder(), machines.on("first"))
    assert extract(clips, FakeEncoder(), machines.on("second")).n_computed == 7
    assert_right(extract(clips, FakeEncoder(), machines.on("first")), clips)


def test_what_could_not_be_sent_is_sent_by_the_next_run(machines, clips, monkeypatch):
    def refuse(self, *words):
        raise ConnectionResetError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(type(file_system(machines.address)[0]), "put_file", refuse)
        with pytest.raises(CacheError, match=r"at file://.* cannot be written: ConnectionResetError: gone"):
            extract(clips, FakeEncoder(), machines.on("first"))
    assert machines.files() == []
    monkeypatch.setattr(address, "STALE_S", 0)
    assert extract(clips, FakeEncoder(), machines.on("first")).n_computed < 12
    assert_right(extract(clips, FakeEncoder(), machines.on("second")), clips)


def test_a_header_longer_than_what_is_read_at_first_is_read_whole(machines, clips, monkeypatch):
    monkeypatch.setattr(address, "HEADER_BYTES", 20)
    extract(clips, FakeEncoder(), machines.on("first"))
    features = extract(clips, FakeEncoder(), machines.on("second"))
    assert features.n_computed == 0
    assert_right(features, clips)


def test_a_damaged_file_is_named_and_one_that_is_no_features_is_left_out(machines, clips, caplog):
    extract(clips, FakeEncoder(), machines.on("first"))
    system, _ = file_system(machines.address)
    path = machines.files()[0]
    content = system.cat_file(path)
    system.pipe_file(path.replace(path[-20:], "x.safetensors"), b"\x05" + bytes(7) + b"other")
    system.pipe_file(path, content[:-1] + bytes([content[-1] ^ 1]))
    features = extract(clips, FakeEncoder(), machines.on("second"))
    assert features.n_computed == 0
    assert "cannot be used" in caplog.text
    with pytest.raises(CacheError, match=r"at file://.* are damaged .*checksum.*delete them there"):
        assert_right(features, clips)
    assert path.rsplit("/", 1)[-1] not in [copy.name for copy in machines.copies("second")]
    system.rm(path)
    assert extract(clips, FakeEncoder(), machines.on("second")).n_computed > 0
    assert_right(extract(clips, FakeEncoder(), machines.on("second")), clips)


@pytest.mark.parametrize("place", ["nosuch://bucket/cache", "abfs://container/cache"])
def test_an_address_that_cannot_be_opened_is_said(place):
    with pytest.raises(CacheError, match=f"The feature cache at {place} cannot be opened"):
        open_cache(place)


@pytest.mark.parametrize("place", ["s3://", "file://", "sftp:///"])
def test_an_address_of_no_place_is_refused(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CacheError, match="names no place"):
        open_cache(place)
    assert list(tmp_path.iterdir()) == []


def test_a_file_gets_its_name_when_it_is_whole_and_each_is_sent_once(machines, clips, monkeypatch):
    system, _ = file_system(machines.address)
    names, put = [], type(system).put_file

    def watched(self, here, there, **how):
        names.append(there.rsplit("/", 1)[-1])
        return put(self, here, there, **how)

    monkeypatch.setattr(type(system), "put_file", watched)
    extract(clips[:6], FakeEncoder(), machines.on("first"))
    extract(clips, FakeEncoder(), machines.on("first"))
    assert len(names) == len(set(names)) == len(machines.files())
    assert all(name.startswith(".") and name.endswith(".tmp") for name in names)


def test_what_another_process_is_about_to_send_is_not_sent_twice(machines, clips, monkeypatch):
    cache = machines.on("first")
    with monkeypatch.context() as other:
        other.setattr(address.AddressStore, "_send", lambda self, path: None)
        extract(clips[:6], FakeEncoder(), cache)
    n_waiting = len(machines.copies("first"))
    extract(clips, FakeEncoder(), cache)
    assert len(machines.files()) == len(machines.copies("first")) - n_waiting > 0


def test_several_threads_find_the_same(machines, clips, monkeypatch):
    extract(clips, FakeEncoder(), machines.on("first"))
    cache, write, writing = machines.on("second"), address.write_atomically, threading.Lock()

    def watched(path, content):
        assert writing.acquire(blocking=False)  # nobody fetches what another thread is fetching
        time.sleep(0.01)
        write(path, content)
        writing.release()

    monkeypatch.setattr(address, "write_atomically", watched)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: extract(clips, FakeEncoder(), cache).n_computed, range(8)))
    assert found == [0] * 8


def test_an_address_is_shown_without_its_password_and_closing_slash(tmp_path, monkeypatch):
    monkeypatch.setenv("SER_CACHE", str(tmp_path))
    assert str(open_cache("memory://me:secret@host/cache/")) == "memory://...@host/cache"


def test_a_disk_of_this_machine_is_not_blamed_on_the_address(machines, clips):
    extract(clips, FakeEncoder(), machines.on("first"))
    features = extract(clips, FakeEncoder(), machines.on("second"))
    (place,) = (machines.folder / "second" / "addresses").iterdir()
    (place / "copies").write_text("a file in the way")
    with pytest.raises(CacheError, match=r"second/addresses/\w+ cannot be written: "):
        features[0]


def test_the_environment_names_a_folder_and_no_address(monkeypatch):
    monkeypatch.setenv("SER_CACHE", "s3://bucket/cache")
    with pytest.raises(SettingsError, match=r"not s3://bucket/cache: give addresses by --cache"):
        open_cache()


def test_copies_are_listed_and_cleared_with_the_machines_own_cache(machines, clips, capsys):
    assert_right(extract(clips, FakeEncoder(), machines.on("first")), clips)
    assert_right(extract(clips, FakeEncoder(), machines.on("second")), clips)
    assert [one.n_clips for one in FeatureCache().contents()] == [12]
    assert FeatureCache().contents()[0].name == "fake"
    assert FeatureCache().clear() > 0
    assert [path for path in (machines.folder / "second").rglob("*") if path.is_file()] == []
    assert machines.files()
    assert main(["cache", "--cache", machines.address]) == 1
    assert "tools of that storage" in capsys.readouterr().err
    assert_right(extract(clips, FakeEncoder(), machines.on("second")), clips)
