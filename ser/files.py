"""Files that readers see whole or not at all, and the folders that ship with the project.

In: content and a path. Out: the file. Every room uses this one; it imports nothing of the project but errors.
"""

from __future__ import annotations

import json
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from ser.errors import SettingsError

PACKAGE = Path(__file__).parent
PACKAGE_PARENT = PACKAGE.parent  # what a process of its own needs on its path


def shipped(name: str) -> Path:
    """The folder `checkpoints/NAME` or `assets/NAME`, inside the package once installed, beside it in a checkout."""
    inside = PACKAGE / name
    return inside if inside.exists() else PACKAGE_PARENT / name


CACHE_VARIABLE = "SER_CACHE"
SHIPPED = "shipped"  # as an encoder's source: SHIPPED_ENCODER
SHIPPED_CLASSIFIER = shipped("checkpoints") / "classifier"
SHIPPED_ENCODER = shipped("checkpoints") / "encoder"
ASSETS = shipped("assets")
DEMO_CORPUS = ASSETS / "demo"


def cache_folder() -> Path:
    """The folder of what can be computed again: SER_CACHE, else `~/.cache/persian-ser`.

    Raises:
        RuntimeError: neither SER_CACHE nor a home folder is set.
        SettingsError: SER_CACHE is an address.
    """
    named = os.environ.get(CACHE_VARIABLE)
    if named and "://" in named:
        raise SettingsError(f"{CACHE_VARIABLE} is a folder of this machine, not {named}: give addresses by --cache.")
    return Path(named or Path.home() / ".cache" / "persian-ser")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new one, never a part.

    Raises:
        OSError: disk full, read-only, ...; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            error.filename = str(path)  # a full disk names no file
        raise


def write_json(path: Path, content: Any) -> None:
    """Write plain values as readable JSON, atomically; a number that JSON does not have is a defect of the caller.

    Raises:
        OSError: as `write_atomically`.
        ValueError: a NaN or an infinity.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(path, (text + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object that a run wrote.

    Raises:
        SettingsError: it is damaged.
        OSError: it cannot be read.
    """
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError) as error:
        raise SettingsError(
            f"{path} is damaged ({error}). Choose another folder for this run, or delete that one."
        ) from error


def claim_folder(folder: Path, identity: dict[str, Any]) -> None:
    """Mark a folder as that of one run, by `run.json`; a folder that this run marked before is fine.

    Raises:
        SettingsError: it holds another run; the message names what differs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, identity = folder / "run.json", json.loads(json.dumps(identity))
    if not path.exists():
        write_json(path, identity)
        return
    found = read_json(path)
    if other := [key for key in {**identity, **found} if found.get(key) != identity.get(key)]:
        raise SettingsError(
            f"{folder} holds a run with other {', '.join(other)}. "
            "Choose another folder for this run, or delete that one."
        )
