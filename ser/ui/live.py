"""The switch "live": the emotion of a recording while it goes on.

In: what page.js hears at the recorder's microphone, in pieces of a quarter second, one request at a time; what is said
meanwhile comes with the next. Out: an answer over the last `KEPT_S`, which are kept in the visitor's session, in memory
alone. Gradio's own streaming would write a file for each 0.1 s, and lose what is said while a piece is in work.
"""

from __future__ import annotations

import base64
import logging
from dataclasses import replace
from typing import Any

import gradio as gr
import numpy as np

from ser.audio.load import SAMPLE_RATE_HZ, Samples
from ser.audio.resample import NOTHING, Resampler
from ser.errors import AudioError
from ser.inference.adaptation import Voice  # gradio reads the annotations
from ser.ui import voice
from ser.ui.answer_view import answer_html, timeline_chart
from ser.ui.answering import Answer, Answering, Refusal
from ser.ui.context import PRIVATE, Context, translated
from ser.ui.html import box, message_box, paragraph
from ser.ui.limits import RateLimit
from ser.ui.texts import say

KEPT_S = 6.0  # as long as what the model was trained on
RATES_HZ = range(8_000, 192_001)  # of microphones
FORGOTTEN_S = 60  # after the last piece
PIECES_PER_RECORDING = 5  # that one client may have answered for each recording that it may send
PIECE_JS = "(...inputs) => [window.ser.piece(), ...inputs.slice(1)]"
HEARD_JS = "(answer) => window.ser.heard(answer)"
UNHEARD_JS = "() => window.ser.heard(window.ser.crowded())"

log = logging.getLogger(__name__)


class Heard:
    """The last `KEPT_S` of a microphone, whose sound arrives in pieces.

    Attributes:
        samples: `(samples,)` at 16 kHz.
        end: samples of the microphone from the beginning of the recording until now.
    """

    def __init__(self, rate_hz: int, start: int) -> None:
        self.rate_hz, self.end, self.samples = rate_hz, start, NOTHING
        self._resample = Resampler(rate_hz, SAMPLE_RATE_HZ)

    def add(self, piece: Samples) -> None:
        """Hear what follows, `(samples,)` at the microphone's rate."""
        self.end += piece.size
        kept = np.concatenate([self.samples, self._resample(piece)])
        self.samples = kept[-round(KEPT_S * SAMPLE_RATE_HZ) :]

    @property
    def begin_s(self) -> float:
        """Where in the recording the samples begin."""
        return max(0.0, self.end / self.rate_hz - self.samples.size / SAMPLE_RATE_HZ)


def heard_with(heard: Heard | None, text: str) -> Heard:
    """What was heard with a further piece, or that alone where it does not follow.

    Args:
        text: the microphone's rate in Hz, the number of the first sample, and 16-bit samples in base64, with commas.

    Raises:
        ValueError: it is none of page.js.
    """
    rate_hz, start, data = text.split(",")
    rate, first = int(rate_hz), int(start)
    piece = np.frombuffer(base64.b64decode(data, validate=True), "<i2")
    if rate not in RATES_HZ or first < 0 or not 0 < piece.size <= KEPT_S * rate:
        raise ValueError(f"{piece.size} samples from {first} on at {rate} Hz are no piece of a recording.")
    if heard is None or (heard.rate_hz, heard.end) != (rate, first):
        heard = Heard(rate, first)
    heard.add(piece.astype(np.float32) / np.float32(2**15))
    return heard


class Listening:
    """Answers the pieces of all visitors of a page."""

    def __init__(self, context: Context, answering: Answering) -> None:
        self.context, self.answering = context, answering
        self._limit = RateLimit(PIECES_PER_RECORDING * context.settings.requests_per_minute)

    def hear(
        self, request: gr.Request, text: str, language: str, heard: Heard | None,
        spoken_by: Voice | None, is_used: bool,
    ) -> tuple[Any, ...]:  # fmt: skip
        """What was heard with a further piece, and HTML and a chart for it."""
        try:
            before, heard = heard, heard_with(heard, text)
            if heard is not before:
                log.info("event=live rate_hz=%d", heard.rate_hz)
            wait_s = self._limit.wait_s(self.context.client(request))
            if wait_s > 0:
                raise Refusal(say("live_busy", language, seconds=round(wait_s) + 1))
            answer = self.answered(heard, spoken_by if is_used else None, language)
        except (Refusal, ValueError) as refusal:
            return heard, message_box(str(refusal), is_problem=True), gr.skip()
        if answer is None:
            return heard, box("waiting", paragraph(say("live_listening", language)), is_quiet=True), gr.skip()
        return heard, answer_html(answer, language), gr.Plot(timeline_chart(answer, language), visible=True)

    def answered(self, heard: Heard, spoken_by: Voice | None, language: str) -> Answer | None:
        """The answer over what was heard last; None where nobody speaks in it.

        Raises:
            Refusal: no model can be had.
        """

        def work() -> Answer | None:
            try:
                answer = self.answering.of_samples(heard.samples, spoken_by)
            except AudioError:  # silence, or no speech (yet)
                return None
            return replace(answer, live=(heard.begin_s, heard.begin_s + KEPT_S))

        return self.answering.told(work, language)


def switch() -> gr.Checkbox:
    """What turns it on; page.js looks at it."""
    return gr.Checkbox(
        False, label=translated("ser_live"), info=translated("ser_live_how"), elem_id="live", container=False
    )


def listen(
    context: Context, listening: Listening, known: voice.Panel, limits: dict[str, Any],
    shown: gr.HTML, timeline: gr.Plot,
) -> None:  # fmt: skip
    """Answer pieces in the place of the answer; `limits` are those of whatever encodes a recording."""
    send = gr.Button(visible="hidden", elem_id="live-send")  # page.js presses it
    piece = gr.Textbox("", visible="hidden", label="piece")
    arrived = gr.Textbox("", visible="hidden", label="heard")
    so_far = gr.State(None, time_to_live=FORGOTTEN_S)
    inputs = [piece, context.language, so_far, known.voice, known.used]
    event = send.click(listening.hear, inputs, [so_far, arrived, timeline], js=PIECE_JS, **limits, **PRIVATE)
    event.success(None, arrived, shown, js=HEARD_JS, **PRIVATE)
    event.failure(None, None, shown, js=UNHEARD_JS, **PRIVATE)
