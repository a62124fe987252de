"""Fetching ShEMO: two archives of recordings and the file of labels, taken up again where a connection broke.

In: a folder and, as settings, addresses and checksums. Out: `female/` and `male/` with the recordings and
`shemo.json`, ready for `read_corpus`.

The addresses are those that the readme of github.com/pariajm/sharif-emotional-speech-dataset names for the
archives (on Dropbox), an older pair from the same readme, and the archives in the authors' first repository,
github.com/mansourehk/ShEMO. They were found in copies of those pages and could not be tried where this was
written, so their checksums are not known either: the SHA-256 of what was fetched is reported, and one can be
demanded. Other addresses are settings: `SER_SHEMO_FEMALE_URL`, `SER_SHEMO_MALE_URL`, `SER_SHEMO_LABELS_URL`.

Cite Mohamad Nezami, Jamshid Lou, Karami 2019, doi 10.1007/s10579-018-9427-x.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ser.corpora import AUDIO_SUFFIXES, recordings
from ser.corpus_tables import read_labels
from ser.download import download, forget
from ser.errors import CorpusError

PAGE = "https://github.com/pariajm/sharif-emotional-speech-dataset"
MAX_UNPACKED_BYTES = 8 << 30  # 3 h 25 min of 44.1 kHz stereo are 2.2 GB
MAX_MEMBERS = 20_000
CHUNK_BYTES = 1 << 20

Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class Part:
    """One file to fetch.

    Attributes:
        name: as it is called on the disk while it is fetched.
        variable: the environment variable with another address.
        urls: addresses, tried in turn.
        folder: where an archive's recordings go; empty for a file that is kept as it is.
    """

    name: str
    variable: str
    urls: tuple[str, ...]
    folder: str = ""


PARTS: tuple[Part, ...] = (
    Part(
        "female.zip",
        "SER_SHEMO_FEMALE_URL",
        (
            "https://www.dropbox.com/s/4t6mep8mo4yf81f/female.zip?dl=1",
            "https://www.dropbox.com/s/42okby6c40w3j2x/female.zip?dl=1",
            "https://github.com/mansourehk/ShEMO/raw/master/female.zip",
        ),
        "female",
    ),
    Part(
        "male.zip",
        "SER_SHEMO_MALE_URL",
        (
            "https://www.dropbox.com/s/xfi3hi927yxixa9/male.zip?dl=1",
            "https://www.dropbox.com/s/5ebs8hq1zm0qkp6/male.zip?dl=1",
            "https://github.com/mansourehk/ShEMO/raw/master/male.zip",
        ),
        "male",
    ),
    Part("shemo.json", "SER_SHEMO_LABELS_URL", (f"{PAGE}/raw/master/shemo.json",)),
)


def get_shemo(
    folder: str | Path,
    urls: Mapping[str, str] | None = None,
    sha256: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    pause_s: float = 1.0,
) -> dict[str, str]:
    """Fetch and unpack ShEMO; what is there already is not fetched again.

    Args:
        folder: where `female/`, `male/` and `shemo.json` go.
        urls: other addresses, by the names in `PARTS`; they go before the environment variables.
        sha256: checksums that the files must have, by the same names.
        progress: called with (name, bytes so far, bytes in all or None).
        pause_s: before another attempt after a broken connection.

    Returns:
        SHA-256 of each file that was fetched, by name; empty where all was there.

    Raises:
        CorpusError: no network, a broken archive, another checksum, a full disk; says what to do.
    """
    folder, urls, sha256 = Path(folder), dict(urls or {}), dict(sha256 or {})
    names = [part.name for part in PARTS]
    unknown = sorted({*urls, *sha256} - set(names))
    if unknown:
        raise CorpusError(f"ShEMO has no file {', '.join(unknown)}; its files are {', '.join(names)}.")
    digests = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for part in PARTS:
            if not _is_there(part, folder):
                given = urls.get(part.name) or os.environ.get(part.variable)
                fetch = _Fetch(part, folder, sha256.get(part.name), progress, pause_s)
                digests[part.name] = fetch.from_any((given,) if given else part.urls)
    except OSError as error:
        raise CorpusError(
            f"ShEMO cannot be written to {folder}: {error.strerror or error}. It takes about 2 GB while it "
            "is unpacked. Free some space or choose another folder; the same command goes on where it "
            "stopped."
        ) from error
    return digests


@dataclass(frozen=True)
class _Fetch:
    """One part on its way into the folder."""

    part: Part
    folder: Path
    sha256: str | None
    progress: Progress | None
    pause_s: float

    def from_any(self, urls: Sequence[str]) -> str:
        """Fetch from the first address that has it; its SHA-256."""
        failures = []
        for url in urls:
            try:
                return self._from(url)
            except CorpusError as error:
                failures.append(str(error))
        where = self.folder / self.part.folder
        raise CorpusError(
            f"{self.part.name} of ShEMO could not be fetched. {' '.join(dict.fromkeys(failures))} Run the same command "
            f"again to go on, name another address with {self.part.variable}, or fetch it by hand from "
            f"{PAGE} into {where}."
        )

    def _from(self, url: str) -> str:
        # Named after the address, so that pieces of two different files are never put together.
        partial = self.folder / f".{hashlib.sha256(url.encode()).hexdigest()[:8]}-{self.part.name}.part"
        download(url, partial, self._tell, self.pause_s)
        try:
            with partial.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if self.sha256 and digest != self.sha256.lower():
                raise CorpusError(f"What came from {url} has the SHA-256 {digest}, not {self.sha256}.")
            if self.part.folder:
                unpack(partial, self.folder / self.part.folder)
            else:
                _keep_labels(partial, self.folder / self.part.name)
        except CorpusError:  # another attempt must not go on with this
            forget(partial)
            raise
        forget(partial)
        return digest

    def _tell(self, done: int, total: int | None) -> None:
        if self.progress is not None:
            self.progress(self.part.name, done, total)


def unpack(archive: Path, folder: Path) -> int:
    """Unpack the recordings of a ZIP archive into a folder, without its inner folders; how many there were.

    The folder appears when all of them are there.

    Raises:
        CorpusError: no archive, a damaged one, or one that is not what it should be: paths that lead
            elsewhere, links, too many or too large files.
    """
    temporary = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        with zipfile.ZipFile(archive) as zipped:
            members = _recordings(zipped)
            room = MAX_UNPACKED_BYTES
            for member in members:
                room -= _extract(zipped, member, temporary / _path(member).name, room)
        temporary.replace(folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        with archive.open("rb") as file:
            start = file.read(40)
        raise CorpusError(f"What came is no whole ZIP archive ({error}), it begins {start!r}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return len(members)


def _recordings(zipped: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The members to unpack, after a look at all of them."""
    members = zipped.infolist()
    if len(members) > MAX_MEMBERS:
        raise CorpusError(f"The archive holds {len(members)} files, more than {MAX_MEMBERS}.")
    for member in members:
        path = _path(member)
        is_link = stat.S_ISLNK(member.external_attr >> 16)
        if path.is_absolute() or ".." in path.parts or ":" in member.filename or is_link:
            raise CorpusError(f"The archive holds {member.filename!r}, which leads out of the folder.")
    wanted = [one for one in members if _is_recording(_path(one))]
    names = Counter(_path(one).name for one in wanted)
    if not wanted or max(names.values()) > 1:
        found = "no recording" if not wanted else f"{names.most_common(1)[0][0]} more than once"
        raise CorpusError(f"The archive holds {found}.")
    return wanted


def _path(member: zipfile.ZipInfo) -> PurePosixPath:
    return PurePosixPath(member.filename.replace("\\", "/"))


def _is_recording(path: PurePosixPath) -> bool:
    hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
    return path.suffix.lower() in AUDIO_SUFFIXES and not hidden


def _extract(zipped: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, room: int) -> int:
    """Unpack one member; its size, counted rather than believed."""
    size = 0
    with zipped.open(member) as source, target.open("wb") as file:
        while chunk := source.read(CHUNK_BYTES):
            size += len(chunk)
            if size > room:
                raise CorpusError(f"The archive unpacks to more than {MAX_UNPACKED_BYTES} bytes.")
            file.write(chunk)
    return size


def _keep_labels(partial: Path, target: Path) -> None:
    """Put the labels in their place, if that is what they are."""
    read_labels(partial, corrected=False, is_json=True)
    partial.replace(target)


def _is_there(part: Part, folder: Path) -> bool:
    return bool(recordings(folder / part.folder)) if part.folder else (folder / part.name).exists()
