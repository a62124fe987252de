"""Fetch ShEMO with pooch: `female/`, `male/` and `shemo.json` in a folder, ready for `read_corpus`.

The addresses are those of `PAGE` and of the authors' first repository. They were copied from those pages and
never tried from where this was written; no checksums are known. DOI 10.1007/s10579-018-9427-x.
"""

from __future__ import annotations

import shutil
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from ser.corpora.tables import read_labels
from ser.errors import CorpusError

PAGE = "https://github.com/pariajm/sharif-emotional-speech-dataset"
DROPBOX, FIRST = "https://www.dropbox.com/s", "https://github.com/mansourehk/ShEMO/raw/master"
SHEMO: dict[str, tuple[str, ...]] = {
    name: (*(f"{DROPBOX}/{key}/{name}?dl=1" for key in keys), f"{FIRST}/{name}")
    for name, *keys in (
        ("female.zip", "4t6mep8mo4yf81f", "42okby6c40w3j2x"),
        ("male.zip", "xfi3hi927yxixa9", "5ebs8hq1zm0qkp6"),
    )
} | {"shemo.json": (f"{PAGE}/raw/master/shemo.json",)}
MAX_BYTES, MAX_MEMBERS = 8 << 30, 20_000  # 3 h 25 min of 44.1 kHz stereo are 2.2 GB


def download_shemo(folder: Path, urls: Mapping[str, str], sha256: Mapping[str, str]) -> dict[str, str]:
    """Fetch what the folder lacks; returns the SHA-256 of each fetched file by name.

    `urls` and `sha256` are other addresses and required checksums, by the names in `SHEMO`.

    Raises:
        CorpusError: no connection, another checksum, or not what it should be; says what to do.
    """
    import pooch

    pooch.get_logger().setLevel("WARNING")
    digests = {}
    for name in (name for name in SHEMO if not (folder / name.removesuffix(".zip")).exists()):
        target, part, failures = folder / name.removesuffix(".zip"), folder / f".{name}.part", []
        for url in [urls[name]] if name in urls else SHEMO[name]:
            try:
                pooch.retrieve(url, sha256.get(name), part.name, folder, progressbar=True)
                digests[name] = pooch.file_hash(str(part))
                if name.endswith(".zip"):
                    _unpack(part, target)
                    part.unlink()
                else:
                    read_labels(part, corrected=False, is_json=True)
                    part.replace(target)
                break
            except (OSError, ValueError, RuntimeError, CorpusError, zipfile.BadZipFile, zlib.error) as error:
                failures.append(f"{url}: {error}")
                part.unlink(missing_ok=True)  # another attempt must not take it for the file
        else:
            raise CorpusError(
                f"{name} could not be fetched ({'; '.join(failures)}). Name another address with --url "
                f"{name}=URL, or fetch it by hand from {PAGE} into {target}."
            )
    return digests


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack an archive; the folder appears when all is there. zipfile itself makes no links of its members."""
    staging = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(staging, ignore_errors=True)
    with zipfile.ZipFile(archive) as zipped:
        members = zipped.infolist()
        if len(members) > MAX_MEMBERS or sum(one.file_size for one in members) > MAX_BYTES:
            raise CorpusError(f"the archive holds more than {MAX_MEMBERS} files or {MAX_BYTES >> 30} GB")
        for path in (PurePosixPath(one.filename.replace("\\", "/")) for one in members):
            if path.is_absolute() or ".." in path.parts:
                raise CorpusError(f"the archive holds {str(path)!r}, which leads out of the folder")
        zipped.extractall(staging)  # no member gets larger than the size that was added up
    staging.replace(folder)
