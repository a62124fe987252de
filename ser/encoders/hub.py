"""Files of an encoder from the Hugging Face hub, cached on this machine by the hub's client.

In: a hub id, `owner/name` or `owner/name@revision`. Out: the folder of its files. `fetch` downloads in this process;
`Fetching` in another, with a time limit, for a server: a hub that hangs holds none of its threads.
"""

from __future__ import annotations

import errno
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from ser.errors import EncoderError
from ser.files import PACKAGE_PARENT, SHIPPED

WEIGHTS = ("*.safetensors", "pytorch_model.bin")  # the second is for old repositories
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def fetch(source: str) -> Path:
    """The folder with an encoder's files, fetched where they are not on this machine yet.

    Raises:
        EncoderError: the hub cannot be reached or does not have it, or there is no room for it.
    """
    try:
        return _snapshot(source)[0]
    except Exception as error:
        # The hub client raises a dozen unrelated classes (its own, httpx's, OSError, ValueError).
        raise EncoderError(_reason(source, error)) from error


def is_here(source: str | Path) -> bool:
    """Whether an encoder's files, weights among them, are on this machine, so that loading it needs no network."""
    if source == SHIPPED or Path(source).is_dir():
        return True
    try:
        return _snapshot(str(source), local_files_only=True)[1]
    except Exception:  # as in `fetch`
        return False


def _snapshot(source: str, local_files_only: bool = False) -> tuple[Path, bool]:
    """The folder of a hub id's files, and whether its weights are in it."""
    from huggingface_hub import snapshot_download

    repository, _, revision = source.partition("@")
    options: dict[str, Any] = {"revision": revision or None, "local_files_only": local_files_only}
    for weights in WEIGHTS:
        folder = Path(snapshot_download(repository, allow_patterns=["*.json", weights], **options))
        if any(path.exists() for path in folder.glob(weights)):
            return folder, True
    return folder, False


def command(source: str) -> str:
    """What fetches an encoder by hand."""
    repository, _, revision = source.partition("@")
    return f"hf download {repository}" + (f" --revision {revision}" if revision else "")


class Fetching:
    """One download, as by `fetch`, in its own process, which gives up after `timeout_s` seconds."""

    def __init__(self, source: str, timeout_s: float) -> None:
        self.source, self.timeout_s = source, timeout_s
        words = [sys.executable, "-m", "ser.encoders.hub", source, str(max(1, math.ceil(timeout_s)))]
        path = os.pathsep.join(filter(None, (str(PACKAGE_PARENT), os.environ.get("PYTHONPATH"))))
        quiet = {"PYTHONPATH": path, "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        self._process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            errors="replace", env=os.environ | quiet, start_new_session=True,
        )  # fmt: skip

    def result(self) -> Path:
        """Wait for it: the folder.

        Raises:
            EncoderError: it failed, took too long, or was stopped.
        """
        said, complaints = self._process.communicate()
        code = self._process.returncode
        if code == 0:
            return Path(said.strip().splitlines()[-1])
        if code == -signal.SIGALRM:
            raise EncoderError(
                f"The encoder {self.source} did not come from the hub within {self.timeout_s:g} s. "
                f"Fetch it by hand: {command(self.source)}"
            )
        if code < 0:
            raise EncoderError(f"Fetching the encoder {self.source} was stopped.")
        lines = complaints.strip().splitlines()
        raise EncoderError(lines[-1] if lines else f"Fetching the encoder {self.source} failed.")

    def stop(self) -> None:
        """End it now, finished or not."""
        self._process.kill()


def _reason(source: str, error: Exception) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in FULL:
            return (
                f"There is no room for the encoder {source} on this machine's disk ({cause.strerror}). "
                f"Make room, or set HF_HOME to a folder that has some, then: {command(source)}"
            )
        cause = cause.__cause__ or cause.__context__
    return (
        f"The encoder {source} is neither on this machine nor within reach ({type(error).__name__}). "
        f"With a network connection, fetch it once with: {command(source)}"
    )


def _main(source: str, timeout_s: int) -> int:
    """The process of `Fetching`. The alarm ends it even in the middle of a call that never returns."""
    signal.alarm(timeout_s)
    os.nice(10)
    try:
        print(fetch(source))
    except EncoderError as error:
        print(error, file=sys.stderr)
        return 1
    sys.stdout.flush()
    # Threads of the client that still wait for the hub must not hold up the end.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1], int(sys.argv[2])))
