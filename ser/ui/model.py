"""The model that answers on the page: loaded behind the page, replaced while it runs, never missing in
silence.

`ModelHolder.start()` returns at once; a background thread imports torch and loads the model, so that the
page appears before. When the checkpoint or encoder that the operator configured cannot be loaded, the
shipped model answers and `problem` says why. When it must come from the hub first, the shipped one
answers in the meantime.
"""

from __future__ import annotations

import logging
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ser.classifier.checkpoint import read_description
from ser.encoders.hub import Fetching
from ser.errors import CheckpointError, SerError
from ser.files import SHIPPED, SHIPPED_CLASSIFIER
from ser.ui.texts import say

if TYPE_CHECKING:
    from ser.inference.torch_engine import Predictor

FETCH_TIMEOUT_S = 900.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from.

    Attributes:
        checkpoint: folder of the classifier; None is the shipped one.
        encoder: folder or hub id of its encoder; None is the one that the checkpoint names.
    """

    checkpoint: Path | None = None
    encoder: str | None = None

    @property
    def name(self) -> str:
        """What the page calls it: never a server path, only the last part of one, or the name of a run."""
        if self.checkpoint is None:
            return ""
        folder = self.checkpoint.resolve()
        return folder.parent.name if folder.name == "checkpoint" else folder.name

    @property
    def hub_id(self) -> str | None:
        """The encoder where it may have to be fetched from the hub, else None."""
        try:
            encoder = self.encoder or read_description(self.checkpoint or SHIPPED_CLASSIFIER).encoder.source
        except SerError:
            return None
        return None if encoder == SHIPPED or Path(encoder).is_dir() else encoder

    def load(self) -> Predictor:
        """Load it.

        Raises:
            CheckpointError, EncoderError: what is missing or does not fit.
        """
        import numpy as np

        from ser.audio.load import SAMPLE_RATE_HZ
        from ser.inference.torch_engine import load

        predictor = load(self.checkpoint, self.encoder)
        predictor(
            (SAMPLE_RATE_HZ, np.sin(np.arange(SAMPLE_RATE_HZ)))
        )  # the first answer is slow: not a visitor's
        return predictor


class ModelHolder:
    """Holds the model that answers; safe to use from several threads."""

    def __init__(self, configured: ModelSource | None = None) -> None:
        self._configured = configured or ModelSource()
        self._lock = threading.Lock()
        self._answered = threading.Event()  # a model is there, or none can be had
        self._predictor: Predictor | None = None
        self._source = ModelSource()
        self._pending = True
        self._replaced = False
        self._fetching: Fetching | None = None
        self._problem = ""

    def start(self) -> None:
        """Begin to load in the background, and return at once."""
        threading.Thread(target=self._load_configured, name="model", daemon=True).start()

    def get(self, timeout_s: float | None = None) -> Predictor:
        """The model, as soon as there is one.

        Raises:
            CheckpointError: none could be loaded, or not within `timeout_s`.
        """
        if not self._answered.wait(timeout_s):
            raise CheckpointError("The model is still being loaded. Try again in a moment.")
        with self._lock:
            if self._predictor is None:
                raise CheckpointError(self._problem or "No model could be loaded.")
            return self._predictor

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until a model answers or none can be had; False where that takes longer than `timeout_s`."""
        return self._answered.wait(timeout_s)

    def replace(self, checkpoint: str | Path, encoder: str | None = None) -> Predictor:
        """Load another checkpoint and let it answer from now on; the old one answers until then.

        Raises:
            CheckpointError, EncoderError: it cannot be loaded; the old one stays.
        """
        source = ModelSource(Path(checkpoint), encoder)
        predictor = source.load()
        with self._lock:
            self._replaced = True  # a slower load of the configured model must not undo this
            self._set(predictor, source, problem="")
        return predictor

    def description(self, language: str = "en") -> str:
        """What answers, as Markdown; with the reason where it is not what was configured."""
        with self._lock:
            predictor, source, problem, pending = self._predictor, self._source, self._problem, self._pending
        if predictor is None:
            return (
                say("model_none", language, reason=problem) if problem else say("ser_model_loading", language)
            )
        encoder = predictor.encoder
        shown = say("model_shipped", language) if source.checkpoint is None else f"`{source.name}`"
        sentences = [say("model_answers", language, model=shown, encoder=encoder.name, layer=encoder.layer)]
        if problem:
            sentences.append(say("model_fallback", language, reason=problem))
        elif pending:
            sentences.append(
                say("model_pending", language, model=self._configured.name or self._configured.encoder or "")
            )
        return " ".join(sentences)

    @property
    def is_shipped(self) -> bool:
        """True where the model that ships with the project answers."""
        return self._source.checkpoint is None

    @property
    def is_missing(self) -> bool:
        """True where no model answers (yet)."""
        return self._predictor is None

    @property
    def problem(self) -> str:
        """Why the configured model does not answer; empty where it does."""
        return self._problem

    def _load_configured(self) -> None:
        shipped = ModelSource()
        remote = self._configured.hub_id
        if remote:
            self._try(shipped)
        fetched = self._fetch(remote) if remote else True
        if not (fetched and self._try(self._configured)) and self._configured != shipped and self.is_missing:
            self._try(shipped, problem=self._problem)
        with self._lock:
            self._pending = False
        self._answered.set()
        import ser.reporting.recording_charts  # noqa: F401  plotly takes a second to import: not a visitor's

    def close(self) -> None:
        """The server ends: so does a download."""
        with self._lock:
            if self._fetching is not None:
                self._fetching.stop()

    def _fetch(self, encoder: str) -> bool:
        """Have an encoder's files here, in a process of its own: this one cannot be held up by the hub."""
        try:
            with self._lock:
                self._fetching = Fetching(encoder, FETCH_TIMEOUT_S)
            self._fetching.result()
        except (SerError, OSError) as error:
            self._failed(error)
            return False
        return True

    def _failed(self, error: Exception, problem: str = "") -> None:
        log.warning("event=model_failed reason=%r", str(error), exc_info=not isinstance(error, SerError))
        reason = without_folders(str(error)) if isinstance(error, SerError) else type(error).__name__
        with self._lock:
            self._problem = problem or reason

    def _try(self, source: ModelSource, problem: str = "") -> bool:
        """Load and set a model; False where it cannot be loaded, with the reason in `problem`."""
        try:
            predictor = source.load()
        except Exception as error:  # whatever a damaged model leads to, the page must say it and go on
            self._failed(error, problem)
            return False
        with self._lock:
            if not self._replaced:
                self._set(predictor, source, problem)
        return True

    def _set(self, predictor: Predictor, source: ModelSource, problem: str) -> None:
        self._predictor, self._source, self._problem = predictor, source, problem
        self._answered.set()


def without_folders(message: str) -> str:
    """A message with absolute paths cut to their last part: visitors learn nothing of the server."""
    return re.sub(r"(?<![\w/])/(?:[^\s/:,]+/)+", "", message)
