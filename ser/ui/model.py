"""The model that answers on the page: loaded behind the page, replaced while it runs, never silently missing.

`ModelHolder.start()` returns at once; a background thread loads the model, so that the page appears
before. When the checkpoint or encoder that the owner configured cannot be loaded, the shipped model answers and
`description` says why. When it must come from the hub first, the shipped one answers in the meantime.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ser.classifier.checkpoint import read_description
from ser.encoders.hub import Fetching
from ser.errors import CheckpointError, SerError
from ser.files import SHIPPED, SHIPPED_CLASSIFIER
from ser.ui.texts import localised, say

if TYPE_CHECKING:
    from ser.inference.recogniser import Recogniser

FETCH_TIMEOUT_S = 900.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from.

    Attributes:
        checkpoint: folder of the classifier; None is the shipped one.
        encoder: folder or hub id of its encoder; None is the one that the checkpoint names.
        title: what a person calls it; without it the folder's name.
    """

    checkpoint: Path | None = None
    encoder: str | None = None
    title: str = ""

    @property
    def name(self) -> str:
        """What the page calls it: never a server path, only the last part of one, or the name of a run."""
        if self.title or self.checkpoint is None:
            return self.title
        folder = self.checkpoint.resolve()
        return folder.parent.name if folder.name == "checkpoint" else folder.name

    @property
    def hub_id(self) -> str | None:
        """The encoder where it may have to be downloaded from the hub, else None."""
        try:
            encoder = self.encoder or read_description(self.checkpoint or SHIPPED_CLASSIFIER).encoder.source
        except SerError:
            return None
        return None if encoder == SHIPPED or Path(encoder).is_dir() else encoder

    def load(self) -> Recogniser:
        """Load it.

        Raises:
            CheckpointError, EncoderError: what is missing or does not fit.
        """
        import numpy as np

        from ser.audio.load import prepare
        from ser.audio.speech import speech_of
        from ser.inference.load import load

        predictor = load(self.checkpoint, self.encoder)
        second = prepare(np.sin(np.arange(48_000)), 48_000)  # the first answer is slow
        speech_of(second)
        predictor.classify(*predictor.encoder([second]))
        return predictor


@dataclass(frozen=True)
class State:
    """Which model answers, and why no other.

    Attributes:
        predictor: it; None where there is none (yet).
        source: where it comes from.
        problem: why the configured model does not answer.
        is_pending: the configured model may still come.
        is_chosen: the owner replaced the model; what is still being loaded changes nothing any more.
    """

    predictor: Recogniser | None = None
    source: ModelSource = ModelSource()
    problem: str = ""
    is_pending: bool = True
    is_chosen: bool = False

    @property
    def is_shipped(self) -> bool:
        """True where the model that ships with the project answers."""
        return self.source.checkpoint is None


class ModelHolder:
    """Holds the model that answers; safe to use from several threads.

    Attributes:
        state: how it stands, as one value that is replaced as a whole.
    """

    def __init__(self, configured: ModelSource | None = None) -> None:
        self._configured = configured or ModelSource()
        self._lock = threading.Lock()
        self._answered = threading.Event()  # a model is there, or none can be had
        self.state = State()
        self._fetching: Fetching | None = None

    def start(self) -> None:
        """Begin to load in the background, and return at once."""
        threading.Thread(target=self._load_configured, name="model", daemon=True).start()

    def get(self, timeout_s: float | None = None) -> Recogniser:
        """The model, as soon as there is one.

        Raises:
            CheckpointError: none could be loaded, or not within `timeout_s`.
        """
        if not self.wait(timeout_s):
            raise CheckpointError("The model is still being loaded. Try again in a moment.")
        state = self.state
        if state.predictor is None:
            raise CheckpointError(state.problem or "No model could be loaded.")
        return state.predictor

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until a model answers or none can be had; False where that takes longer than `timeout_s`."""
        return self._answered.wait(timeout_s)

    def replace(self, checkpoint: str | Path | None, encoder: str | None = None, title: str = "") -> Recogniser:
        """Load another checkpoint and let it answer from now on; the old one answers until then.

        Args:
            checkpoint: its folder; None is the shipped one.
            encoder: as for `ModelSource`.
            title: what a person calls it.

        Raises:
            CheckpointError, EncoderError: it cannot be loaded; the old one stays.
        """
        source = ModelSource(None if checkpoint is None else Path(checkpoint), encoder, title)
        predictor = source.load()
        self._change(lambda _: State(predictor, source, is_pending=False, is_chosen=True))
        self._answered.set()
        return predictor

    def description(self, language: str = "en") -> str:
        """What answers, as Markdown; with the reason where it is not what was configured."""
        state = self.state
        if state.predictor is None:
            key = "model_none" if state.problem else "ser_model_loading"
            return say(key, language, reason=state.problem)
        sentences = [_named(state.predictor, state.source, language)]
        if state.problem:
            sentences.append(say("model_fallback", language, reason=state.problem))
        elif state.is_pending and state.source != self._configured:
            coming = self._configured.name or self._configured.encoder or ""
            sentences.append(say("model_pending", language, model=_code(coming)))
        return " ".join(sentences)

    def close(self) -> None:
        """The server ends: so does a download."""
        with self._lock:
            if self._fetching is not None:
                self._fetching.stop()

    def _load_configured(self) -> None:
        shipped = ModelSource()
        remote = self._configured.hub_id
        if remote:
            self._try(shipped)
        if not (self._fetch(remote) and self._try(self._configured)) and self.state.predictor is None:
            self._try(shipped)
        self._change(lambda state: replace(state, is_pending=False))
        self._answered.set()
        import ser.reporting.recording_charts  # noqa: F401  plotly takes a second to import: not a visitor's

    def _fetch(self, encoder: str | None) -> bool:
        """Have an encoder's files here, in a process of its own: this one cannot be held up by the hub."""
        if encoder is None:
            return True
        try:
            with self._lock:
                self._fetching = Fetching(encoder, FETCH_TIMEOUT_S)
            self._fetching.result()
        except (SerError, OSError) as error:
            self._failed(error)
            return False
        return True

    def _try(self, source: ModelSource) -> bool:
        """Load a model and let it answer, unless the owner has chosen one; False where it cannot be loaded."""
        try:
            predictor = source.load()
        except Exception as error:  # whatever a damaged model leads to, the page says it and goes on
            self._failed(error)
            return False
        self._change(lambda state: state if state.is_chosen else replace(state, predictor=predictor, source=source))
        self._answered.set()
        return True

    def _failed(self, error: Exception) -> None:
        """Remember the first reason: what follows is about the stand-in."""
        log.warning("event=model_failed reason=%r", str(error), exc_info=not isinstance(error, SerError))
        reason = without_folders(str(error)) if isinstance(error, SerError) else type(error).__name__
        self._change(lambda state: state if state.is_chosen or state.problem else replace(state, problem=reason))

    def _change(self, change: Callable[[State], State]) -> None:
        with self._lock:
            self.state = change(self.state)


def without_folders(message: str) -> str:
    """A message with absolute paths cut to their last part: visitors learn nothing of the server.

    A folder's name may hold blanks: a path goes on after one where a later word of it has a slash.
    """
    return re.sub(r"(?<![\w/.])/(?:[^\s/:,'\"]+(?:(?<![.;)]) +[^\s/:,'\"]+)*/)+", "", message)


def _named(predictor: Recogniser, source: ModelSource, language: str) -> str:
    name = localised(source.title.replace(", ", "، ") if language == "fa" else source.title, language) or source.name
    model = _code(name) if name else say("model_shipped", language)
    reference = predictor.checkpoint.encoder
    if reference.source == SHIPPED and source.encoder is None:
        kind = say("encoder_shipped", language)
    else:
        encoder = source.encoder or reference.source
        name = Path(encoder).name if Path(encoder).is_absolute() else encoder
        kind = say("encoder_other", language, encoder=_code(name))
    return say("model_answers", language, model=model, encoder=kind, layer=reference.layer)


def _code(name: str) -> str:
    return f"`{name.replace('`', '')}`"
