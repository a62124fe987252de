"""The encoder that a Space fetches from the hub while the shipped model already answers.

It does not answer by itself: a classifier fits only the encoder that it was trained on. It is fetched so that
the training tabs need not wait for it, and so that a model trained on it can be used. Whatever the hub does,
the page goes on: the download is a process of its own with a time limit, and its state is said on the page.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Literal

from ser.encoders.hub import Fetching
from ser.errors import EncoderError, SerError
from ser.ui.model import without_folders
from ser.ui.texts import say

TIMEOUT_S = 900.0
PAUSES_S = (60.0, 600.0)  # before the second and third try

State = Literal["off", "loading", "ready", "failed"]

log = logging.getLogger(__name__)


class HubEncoder:
    """Fetches one encoder in the background; safe to use from several threads.

    Args:
        source: hub id, or None: nothing is fetched and nothing is said.
        timeout_s: after which a download is given up.
        pauses_s: before each further try.
    """

    def __init__(
        self, source: str | None, timeout_s: float = TIMEOUT_S, pauses_s: tuple[float, ...] = PAUSES_S
    ) -> None:
        self.source, self.timeout_s, self.pauses_s = source, timeout_s, pauses_s
        self.state: State = "loading" if source else "off"
        self._reason = ""
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._fetching: Fetching | None = None

    def start(self, ready: Callable[[], object]) -> None:
        """Begin once `ready()` has returned, and return at once."""
        if self.source is not None:
            threading.Thread(target=self._try_often, args=(ready,), name="hub", daemon=True).start()

    def description(self, language: str) -> str:
        """How it stands, as Markdown; empty where there is nothing to fetch."""
        with self._lock:
            state, reason = self.state, self._reason
        return "" if state == "off" else say(f"hub_{state}", language, encoder=self.source, reason=reason)

    def close(self) -> None:
        """The server ends: so does the download."""
        self._closed.set()
        with self._lock:
            if self._fetching is not None:
                self._fetching.stop()

    def _try_often(self, ready: Callable[[], object]) -> None:
        ready()
        for pause_s in (0.0, *self.pauses_s):
            if self._closed.wait(pause_s):
                return
            if self._try():
                return

    def _try(self) -> bool:
        from ser.encoders.encoder import Encoder

        self._set("loading")
        try:
            with self._lock:
                if self._closed.is_set():
                    return True
                self._fetching = Fetching(str(self.source), self.timeout_s)
            encoder = Encoder.load(self._fetching.result())
        except (SerError, OSError) as error:
            if not self._closed.is_set():
                log.warning("event=hub_failed encoder=%s reason=%r", self.source, str(error))
            shown = str(error) if isinstance(error, EncoderError) else type(error).__name__
            self._set("failed", without_folders(shown))
            return False
        log.info("event=hub_ready encoder=%s dim=%d layers=%d", self.source, encoder.dim, encoder.n_layers)
        self._set("ready")
        return True

    def _set(self, state: State, reason: str = "") -> None:
        with self._lock:
            self.state, self._reason = state, reason
