"""The tab Recognise, and the API endpoint of the same name: a recording in, its emotion out.

Microphone, upload or example -> the emotion and how sure the model is, all probabilities, a timeline. The
endpoint `/recognise` takes an audio file and returns `Prediction.to_dict()`. Both take the same road,
`Desk.predict`, and both have the recording deleted soon after.
"""

from __future__ import annotations

import html
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.processing_utils import save_file_to_cache

from ser.audio.load import SAMPLE_RATE_HZ, Samples, load_audio
from ser.errors import AudioError, SerError
from ser.files import DEMO_CORPUS
from ser.ui.card import card
from ser.ui.context import Context, translated
from ser.ui.texts import TEXTS, emotion_name, say

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from ser.inference.torch_engine import Prediction
    from ser.scoring.calibration import Calibration

# Clips of the demonstration corpus, by the emotion that the speaker was asked for: English and Polish.
EXAMPLES = {
    "anger": "ravdess_03-01-05-02-01-01-11.ogg",
    "fear": "nemo_MK0_fear_1.ogg",
    "happiness": "ravdess_03-01-03-01-01-01-12.ogg",
    "neutral": "nemo_MP0_neutral_12.ogg",
    "sadness": "ravdess_03-01-04-01-01-01-14.ogg",
    "surprise": "ravdess_03-01-08-01-02-02-15.ogg",
}
MODEL_TIMEOUT_S = 300
AT_ONCE = 2  # recordings in work together, over page and API

log = logging.getLogger(__name__)

# The time that counts for the visitor: from the click until the answer is back in the browser.
ASKED_JS = "(...values) => { window.serAsked = performance.now(); return values; }"
ANSWERED_JS = """(answer) => {
  if (!String(answer).includes("data-answered")) return "";
  const seconds = (performance.now() - window.serAsked) / 1000;
  const language = document.documentElement.lang;
  const shown = seconds.toLocaleString(language, { minimumFractionDigits: 2, maximumFractionDigits: 2 });
  return (language === "fa" ? "FA" : "EN").replace("{seconds}", shown);
}""".replace("FA", TEXTS["elapsed"].fa).replace("EN", TEXTS["elapsed"].en)


class Refusal(Exception):
    """A recording is not answered; the message is for the visitor."""


@dataclass(frozen=True)
class Answer:
    """A prediction, the samples `(samples,)` at 16 kHz that it was made from, and the model's calibration."""

    prediction: Prediction
    samples: Samples
    calibration: Calibration


def build(context: Context) -> None:
    """Fill the tab."""
    with gr.Row(equal_height=False):
        with gr.Column(min_width=320):
            recording = gr.Audio(
                sources=["microphone", "upload"],
                type="filepath",
                label=translated("ser_recording"),
                elem_id="recording",
            )
            _fetch_nothing(recording)
            ask = gr.Button(translated("ser_recognise"), variant="primary", elem_id="recognise")
            examples = _example_buttons(context)
            gr.Markdown(translated("ser_privacy"), elem_id="privacy")
        with gr.Column(min_width=320):
            shown = gr.HTML(_box("waiting", str(translated("ser_answer_here"))), elem_id="answer")
            elapsed = gr.HTML(elem_id="elapsed")
            title = translated("ser_probabilities")
            label = gr.Label(label=title, show_heading=False, visible=False, elem_id="label")
    timeline = gr.Plot(label=translated("ser_timeline"), visible=False, elem_id="timeline")
    note = gr.Markdown(translated("ser_model_loading"), elem_id="model-note")
    with gr.Accordion(translated("ser_card"), open=False) as fold:
        described = gr.Markdown(translated("ser_model_loading"), elem_id="card")

    desk = Desk(context)
    asking: dict[str, Any] = {
        "inputs": [recording, context.language], "outputs": [shown, label, timeline, note], "js": ASKED_JS,
        "show_progress_on": shown, "api_visibility": "private", "concurrency_id": "recognise",
        "concurrency_limit": AT_ONCE,
    }  # fmt: skip
    asked = [ask.click(desk.answer, **asking)]
    for button, path in examples:
        chosen = button.click(_example(context, path), None, recording, api_visibility="private", queue=False)
        asked.append(chosen.then(desk.answer, **asking))
    for event in asked:
        event.then(None, shown, elapsed, js=ANSWERED_JS)
    fold.expand(desk.card, context.language, described, api_visibility="private")
    context.on_load(desk.note_once_loaded, note)
    _endpoint(desk)


class Desk:
    """Answers visitors: checks the request, asks the model, words the answer."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def answer(self, recording: str | None, language: str, request: gr.Request) -> tuple[Any, Any, Any, str]:
        """For the page: what was found, the probabilities, the timeline, and which model answered."""
        try:
            answer = self.predict(recording, language, request)
        except Refusal as refusal:
            shown = _box("problem", f"<p>{html.escape(str(refusal))}</p>", role="alert")
            return shown, gr.skip(), gr.skip(), self.note(language)
        prediction = answer.prediction
        names = {emotion_name(label, language): share for label, share in prediction.probabilities.items()}
        return (
            worded(prediction, answer.calibration, language),
            gr.update(value=names, visible=True),
            gr.update(value=timeline_chart(answer, language), visible=prediction.timeline is not None),
            self.note(language),
        )

    def predict(self, recording: str | None, language: str, request: gr.Request | None) -> Answer:
        """Answer one recording, and have it deleted.

        Raises:
            Refusal: the client asks too often, or the recording or the model cannot be used.
        """
        if not recording:
            raise Refusal(say("no_recording", language))
        wait_s = self.context.limit.wait_s(self.context.client(request))
        if wait_s > 0:
            raise Refusal(
                say("busy", language, limit=self.context.limit.per_minute, seconds=round(wait_s) + 1)
            )
        if not Path(recording).exists():
            raise Refusal(say("deleted", language))
        begun = time.perf_counter()
        try:
            answer = self._predicted(recording)
        except AudioError as error:
            log.info("event=refused kind=%s", error.kind)
            raise Refusal(_in_words(error, language)) from error
        except SerError as error:
            log.warning("event=no_model reason=%r", str(error))
            raise Refusal(self.note(language)) from error
        except Exception as error:  # a visitor never sees a trace; the operator does
            log.exception("event=failed")
            raise Refusal(say("failed", language)) from error
        finally:
            self.context.recordings.forget(recording)
        log.info(
            "event=answered length_s=%.1f seconds=%.3f",
            answer.prediction.duration_s,
            time.perf_counter() - begun,
        )
        return answer

    def _predicted(self, recording: str) -> Answer:
        predictor = self.context.model.get(MODEL_TIMEOUT_S)
        begun = time.perf_counter()
        samples = load_audio(recording, self.context.settings.max_audio_s)
        decoded = time.perf_counter() - begun
        prediction = predictor((SAMPLE_RATE_HZ, samples))
        seconds = prediction.seconds | {"decode": decoded + prediction.seconds["decode"]}
        prediction = replace(prediction, file=Path(recording).name, seconds=seconds)
        return Answer(prediction, samples, predictor.checkpoint.calibration)

    def note(self, language: str) -> str:
        """Which model answers, and how the encoder stands that is fetched from the hub."""
        parts = (self.context.model.description(language), self.context.hub.description(language))
        return "\n\n".join(part for part in parts if part)

    def note_once_loaded(self, language: str) -> str:
        """Which model answers, as soon as one does; the page says until then that it is being loaded."""
        self.context.model.wait(MODEL_TIMEOUT_S)
        return self.note(language)

    def card(self, language: str) -> str:
        """The model card, as soon as there is a model."""
        try:
            predictor = self.context.model.get(MODEL_TIMEOUT_S)
        except SerError:
            return self.note(language)
        return card(predictor.checkpoint, self.context.model.is_shipped, language)


def worded(prediction: Prediction, calibration: Calibration, language: str) -> str:
    """The answer as HTML: the emotion, how sure, and what "unsure" means."""
    emotion = emotion_name(prediction.emotion, language)
    highest = prediction.probabilities[prediction.emotion]
    percent, threshold = round(100 * highest), round(100 * calibration.threshold)
    if prediction.confident:
        kind, heading = "sure", emotion[:1].upper() + emotion[1:]
        if calibration.precision is None:
            meaning = say("uncalibrated", language)
        else:
            meaning = say("sure", language, percent=round(100 * calibration.precision))
    else:
        kind, heading = "unsure", say("unsure", language, emotion=emotion)
        meaning = say("unsure_means", language, percent=percent, threshold=threshold)
    length = say("length", language, seconds=round(prediction.duration_s, 1))
    share = say("percent", language, percent=percent)
    return _box(
        kind,
        f'<h2 data-answered="{html.escape(prediction.emotion)}">{html.escape(heading)}</h2>'
        f'<p class="facts">{share} · {length}</p>'
        f"<p>{html.escape(meaning)}</p>",
        role="status",
    )


def timeline_chart(answer: Answer, language: str) -> Figure | None:
    """The waveform above the probabilities over time; None where the prediction has no timeline."""
    from ser.reporting.recording_charts import timeline_figure, waveform_envelope

    moves = answer.prediction.timeline
    if moves is None:
        return None
    labels = list(answer.prediction.probabilities)
    words = {key: say(key, language) for key in ("seconds", "probability")}
    words |= {label: emotion_name(label, language) for label in labels}
    envelope = waveform_envelope(answer.samples, SAMPLE_RATE_HZ)
    middles = [float(middle) for middle in (moves.start_s + moves.end_s) / 2]
    return timeline_figure(envelope, middles, moves.probabilities, labels, words)


def _fetch_nothing(recording: gr.Audio) -> None:
    """Refuse addresses: gradio would download what a client names as a path, of any size."""
    take = recording.async_move_resource_to_block_cache

    async def take_uploads(path: str | Path | None) -> str | None:
        if path is not None and "://" in str(path):
            raise gr.Error("Upload the recording itself; addresses are not fetched.", print_exception=False)
        return await take(path)

    recording.async_move_resource_to_block_cache = take_uploads


def _example_buttons(context: Context) -> list[tuple[gr.Button, Path]]:
    """A button for each emotion, named by what the speaker was asked for."""
    gr.Markdown(translated("ser_examples"))
    with gr.Row(elem_id="examples"):
        return [
            (gr.Button(translated(f"ser_emotion_{emotion}"), size="sm"), DEMO_CORPUS / name)
            for emotion, name in EXAMPLES.items()
        ]


def _example(context: Context, path: Path) -> Callable[[], str]:
    def chosen() -> str:
        copy = save_file_to_cache(path, str(context.uploads))
        context.recordings.keep(copy)
        return copy

    return chosen


def _endpoint(desk: Desk) -> None:
    """`/recognise` for gradio_client and curl."""

    def recognise(recording: str | None, request: gr.Request) -> dict[str, Any]:
        try:
            return desk.predict(recording, "en", request).prediction.to_dict()
        except Refusal as refusal:
            raise gr.Error(str(refusal), print_exception=False) from refusal

    upload = gr.Audio(type="filepath", label="recording", visible=False)
    _fetch_nothing(upload)
    gr.Button(visible=False).click(
        recognise,
        upload,
        gr.JSON(label="answer", visible=False),
        api_name="recognise",
        api_description="The emotion of a recording, its probabilities, and how they move over time.",
        concurrency_id="recognise",
    )


def _in_words(error: AudioError, language: str) -> str:
    """The error in the visitor's language: English says it itself, Persian has a sentence for each kind."""
    key = f"audio_{error.kind}"
    return say(key, language) if language == "fa" and key in TEXTS else str(error)


def _box(kind: str, content: str, role: str = "note") -> str:
    return f'<div class="box {kind}" role="{role}">{content}</div>'
