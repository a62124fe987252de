"""The log of the page: one line an event, on standard error, in `key=value` pairs, without personal data.

    time=2026-11-23T07:00:00+0000 level=info event=answered length_s=2.0 seconds=0.143

Who sent a request is never logged, nor what a recording is called: a path below the folder of uploads is cut out of
every line, whoever wrote it. An exception is one line too: its kind, its message and where it came from.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import time
import traceback
from pathlib import Path

from ser.ui.recordings import PREFIX

RECORDING = re.compile(rf"[^\s'\"=(]*{PREFIX}[^'\"\n]*")  # up to the next quote: names may hold spaces
CUT = "<recording>"
FRAMES = 6  # of a traceback, the innermost

log = logging.getLogger(__name__)


class OneLine(logging.Formatter):
    """A record as one line."""

    def format(self, record: logging.LogRecord) -> str:
        """A message that does not begin with `event=` is another library's, and is quoted."""
        when = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(record.created))
        said = RECORDING.sub(CUT, record.getMessage())
        if not said.startswith("event="):
            said = f"event=message logger={record.name} text={json.dumps(said)}"
        parts = [f"time={when}", f"level={record.levelname.lower()}", said, *_exception(record)]
        return " ".join(" ".join(parts).split("\n"))


def set_up_logs() -> None:
    """Log to standard error from now on, warnings too, the requests of HTTP clients not."""
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.captureWarnings(True)
    for name in ("httpx", "httpx2"):
        logging.getLogger(name).setLevel(logging.WARNING)


def log_failure(error: BaseException, where: str = "") -> str:
    """Log a defect of ours; returns the number under which it stands in the log."""
    number = secrets.token_hex(4)
    log.error(" ".join(f"event=failed id={number} {where}".split()), exc_info=error)
    return number


def _exception(record: logging.LogRecord) -> list[str]:
    if not record.exc_info or record.exc_info[1] is None:
        return []
    error = record.exc_info[1]
    frames = traceback.extract_tb(error.__traceback__)[-FRAMES:]
    places = ",".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)
    message = json.dumps(RECORDING.sub(CUT, str(error)))
    return [f"error={type(error).__name__}", f"message={message}", f"at={places}"]
