"""From an upload to an answer: the checks, the model, the log line, and the deletion. Page and API take this road.

In: the path of an upload, and who sent it. Out: an `Answer`, or a `Refusal` with a sentence for the visitor.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ser.audio.load import SAMPLE_RATE_HZ, Samples, load_audio
from ser.audio.speech import Span
from ser.errors import AudioError, SerError
from ser.ui.card import card
from ser.ui.context import Context
from ser.ui.logs import log_failure
from ser.ui.texts import TEXTS, say

if TYPE_CHECKING:
    import gradio as gr

    from ser.inference.adaptation import Voice
    from ser.inference.recogniser import Prediction
    from ser.scoring.calibration import Calibration

MODEL_TIMEOUT_S = 300
CONCURRENT_RECORDINGS = 2  # in work together, over page and API
MAX_FILES = 50  # answered by one press
Result = TypeVar("Result")

log = logging.getLogger(__name__)


class Refusal(Exception):
    """A recording is not answered; the message is for the visitor."""


@dataclass(frozen=True)
class Answer:
    """A prediction, the samples `(samples,)` at 16 kHz that it was made from, and the model's calibration.

    `voice` is the one that it was made with, if any. `live` is where the samples are in a recording that still goes on:
    start and end in seconds of what its timeline shows.
    """

    prediction: Prediction
    samples: Samples
    calibration: Calibration
    voice: Voice | None = None
    live: Span | None = None


class Answering:
    """Answers the visitors of one page."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def answer(
        self, recording: str | None, language: str, request: gr.Request | None, voice: Voice | None = None
    ) -> Answer:
        """Answer one recording, of a known voice or not, and have it deleted.

        Raises:
            Refusal: the client sends too many, or the recording or the model cannot be used.
        """
        begun = time.perf_counter()
        answer = self._worked(recording, language, request, lambda path: self._predicted(path, voice))
        seconds = time.perf_counter() - begun
        log.info("event=answered length_s=%.1f seconds=%.3f", answer.prediction.duration_s, seconds)
        return answer

    def voice(self, recording: str | None, language: str, request: gr.Request | None) -> Voice:
        """What a recording of a calm sentence tells of its speaker's voice; the recording is deleted.

        Raises:
            Refusal: as `answer`.
        """

        def heard(path: str) -> Voice:
            return self.context.model.get(MODEL_TIMEOUT_S).adapt(neutral=[path])

        voice = self._worked(recording, language, request, heard)
        log.info("event=voice seconds=%.1f", voice.seconds)
        return voice

    def knows_voices(self) -> bool:
        """Whether the model was trained with voices."""
        try:
            return self.context.model.get(MODEL_TIMEOUT_S).training is not None
        except SerError:
            return False

    def _worked(
        self, recording: str | None, language: str, request: gr.Request | None, work: Callable[[str], Result]
    ) -> Result:
        """The result of work on a recording that may be asked for; a `Refusal` for whatever goes wrong."""
        if not recording:
            raise Refusal(say("no_recording", language))
        limit = self.context.limit
        wait_s = limit.wait_s(self.context.client(request))
        if wait_s > 0:
            raise Refusal(say("busy", language, limit=limit.per_minute, seconds=round(wait_s) + 1))
        if not Path(recording).exists():
            raise Refusal(say("deleted", language))
        try:
            return self.told(lambda: work(recording), language)
        finally:
            self.context.recordings.forget(recording)

    def told(self, work: Callable[[], Result], language: str) -> Result:
        """The result of work; a `Refusal` for whatever goes wrong in it."""
        try:
            return work()
        except AudioError as error:
            log.info("event=refused kind=%s", error.kind)
            raise Refusal(self._in_words(error, language)) from error
        except SerError as error:
            log.warning("event=no_model reason=%r", str(error))
            raise Refusal(self.note(language)) from error
        except Exception as error:  # a visitor never sees a trace; the owner does
            raise Refusal(say("failed", language, id=log_failure(error))) from error

    def answers(
        self, recordings: Sequence[str], language: str, request: gr.Request
    ) -> Iterator[tuple[str, Answer | str]]:
        """Answer several, one after the other: each name with its answer, or with the sentence why there is none."""
        if not recordings:
            raise Refusal(say("no_recording", language))
        if len(recordings) > MAX_FILES:
            raise Refusal(say("too_many_files", language, most=MAX_FILES))
        for recording in recordings:
            try:
                found: Answer | str = self.answer(recording, language, request)
            except Refusal as refusal:
                found = str(refusal)
            yield Path(recording).name, found

    def note(self, language: str) -> str:
        """Which model answers."""
        return self.context.model.description(language)

    def labels(self) -> tuple[str, ...]:
        """The emotions that the model tells apart, as soon as there is one; none where none can be had."""
        try:
            return self.context.model.get(MODEL_TIMEOUT_S).labels
        except SerError:
            return ()

    def card(self, language: str) -> str:
        """The model card, as soon as there is a model."""
        try:
            predictor = self.context.model.get(MODEL_TIMEOUT_S)
        except SerError:
            return self.note(language)
        return card(predictor.checkpoint, self.context.model.state.is_shipped, language)

    def _predicted(self, recording: str, voice: Voice | None) -> Answer:
        self.context.model.get(MODEL_TIMEOUT_S)  # waits before the clock runs
        begun = time.perf_counter()
        samples = load_audio(recording, self.context.settings.max_audio_s)
        decoded = time.perf_counter() - begun
        answer = self.of_samples(samples, voice)
        seconds = answer.prediction.seconds | {"decode": decoded + answer.prediction.seconds["decode"]}
        return replace(answer, prediction=replace(answer.prediction, file=Path(recording).name, seconds=seconds))

    def of_samples(self, samples: Samples, voice: Voice | None) -> Answer:
        """What the model makes of `(samples,)` at 16 kHz, with a voice if it is one that this model knows.

        Raises:
            AudioError, CheckpointError: as the model's.
        """
        predictor = self.context.model.get(MODEL_TIMEOUT_S)
        if voice is not None and (predictor.training is None or predictor.training.fingerprint != voice.fingerprint):
            voice = None  # of a model that answered before this one
        prediction = predictor((SAMPLE_RATE_HZ, samples), voice=voice)
        return Answer(prediction, samples, predictor.checkpoint.calibration, voice)

    def _in_words(self, error: AudioError, language: str) -> str:
        """The error in the visitor's language: English says it itself, Persian has a sentence for each kind."""
        key = f"audio_{error.kind}"
        if language != "fa" or key not in TEXTS:
            return str(error)
        return say(key, language, most=round(self.context.settings.max_audio_s))
