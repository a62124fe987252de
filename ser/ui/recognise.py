"""The tab Recognise, and the API endpoint of the same name: recordings in, their emotions out.

Microphone, upload or example -> the emotion and how sure the model is, all probabilities, a timeline; several files ->
a table. The endpoint `/recognise` takes an audio file and returns `Prediction.to_dict()`. All take the same road,
`ser.ui.answering`, and have the recordings deleted soon after.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from ser.errors import SerError
from ser.files import DEMO_CORPUS
from ser.inference.adaptation import Voice  # gradio reads the annotations
from ser.ui import live, voice
from ser.ui.answer_view import answer_html, columns, row_name, row_of, saved, side_by_side, table, timeline_chart
from ser.ui.answering import CONCURRENT_RECORDINGS, Answering, Refusal
from ser.ui.context import PRIVATE, Context, translated
from ser.ui.gradio_private import show_example
from ser.ui.html import box, message_box, paragraph
from ser.ui.model import without_folders
from ser.ui.texts import say

log = logging.getLogger(__name__)

# Clips of the demonstration corpus, by the emotion that the speaker was asked for: English and Polish.
EXAMPLES = {
    "anger": "ravdess_03-01-05-02-01-01-11.ogg",
    "fear": "nemo_MK0_fear_1.ogg",
    "happiness": "ravdess_03-01-03-01-01-01-12.ogg",
    "neutral": "ravdess_03-01-01-01-01-02-14.ogg",
    "sadness": "nemo_MP0_sadness_8.ogg",
    "surprise": "ravdess_03-01-08-01-02-02-15.ogg",
}
SOUND_FILES = ["audio", ".webm", ".mp4"]
MAX_ROWS = 200  # of a visitor's table of answers
WORKING_JS = "() => window.ser.waiting('js_working')"
UNANSWERED_JS = "(shown) => window.ser.unanswered(shown)"
CLEARED_JS = "() => window.ser.waiting('ser_answer_here')"
NUMBERED_JS = "(...inputs) => [...inputs.slice(0, -1), window.ser.press()]"
ANSWERED_JS = "(press, answer) => window.ser.answered(press, answer)"
FAILED_JS = "(shown) => window.ser.failed(shown)"
SKIPPED = (gr.skip(),) * 4  # for rows, table and files of the answers so far, and for which can be compared
RECORDINGS: dict[str, Any] = {"concurrency_id": "recognise", "concurrency_limit": CONCURRENT_RECORDINGS}


def build(context: Context) -> None:
    """Fill the tab."""
    answering = Answering(context)
    with gr.Row(equal_height=False):
        with gr.Column(min_width=320):
            recording = gr.Audio(
                sources=["microphone", "upload"], type="filepath", label=translated("ser_recording"),
                elem_id="recording",
            )  # fmt: skip
            gr.HTML(elem_id="hint")
            live.switch()
            recognise = gr.Button(translated("ser_recognise"), variant="primary", elem_id="recognise")
            examples = _example_buttons()
            known = voice.build(context, answering, recording, RECORDINGS)
        with gr.Column(min_width=320):
            # No translated text: Gradio would put it back in place of an answer when the language changes.
            shown = gr.HTML(elem_id="answer")
            context.language.change(None, shown, shown, js=UNANSWERED_JS, **PRIVATE)
            gr.Markdown(translated("ser_privacy"), elem_id="privacy")
    timeline = gr.Plot(label=translated("ser_timeline"), visible=False, elem_id="timeline")
    live.listen(context, live.Listening(context, answering), known, RECORDINGS, shown, timeline)
    # An answer, and the number of the press that it is for: page.js shows it unless that press was taken back.
    arrived = gr.Textbox("", visible="hidden", label="arrived")
    number = gr.Number(0, precision=0, visible="hidden", label="press")
    so_far = _several(context, answering)
    note = _about(context, answering, [button for button, _ in examples], known.box)

    def answer(
        request: gr.Request, path: str | None, language: str, rows: list[dict[str, Any]],
        spoken_by: Voice | None, is_used: bool, press: int,
    ) -> tuple[Any, ...]:  # fmt: skip
        try:
            found = answering.answer(path, language, request, spoken_by if is_used else None)
        except Refusal as refusal:
            said = message_box(str(refusal), is_problem=True)
            return press, said, gr.skip(), answering.note(language), *SKIPPED
        chart = gr.Plot(timeline_chart(found, language), visible=found.prediction.timeline is not None)
        return (
            press,
            answer_html(found, language),
            chart,
            answering.note(language),
            *with_rows(rows, [row_of(found)], language),
        )

    outputs = [number, arrived, timeline, note, *so_far]
    pressed = [recognise.click(None, None, shown, js=WORKING_JS, **PRIVATE)]
    for button, path in examples:
        started = button.click(None, None, shown, js=WORKING_JS, **PRIVATE)
        pressed.append(started.then(_copied(context, path), None, recording, queue=False, **PRIVATE))
    stranger = gr.State(None)  # who speaks in the examples
    answers = [
        press.then(
            answer,
            [recording, context.language, so_far[0], who, known.used, number],
            outputs, js=NUMBERED_JS, **RECORDINGS, **PRIVATE,
        )
        for press, who in zip(pressed, [known.voice, *[stranger] * len(examples)], strict=True)
    ]  # fmt: skip
    for event in answers:
        event.success(None, [number, arrived], shown, js=ANSWERED_JS, **PRIVATE)
        event.failure(None, shown, shown, js=FAILED_JS, **PRIVATE)
    # An answer belongs to the recording that is shown: whatever changes that takes it back, also one in work. Gradio
    # cannot cancel what it has not yet queued; that is computed, and not shown.
    changes = [recording.input, recording.clear, recording.start_recording]
    gr.on(changes, None, None, shown, js=CLEARED_JS, cancels=answers, **PRIVATE)
    _endpoint(answering)


def _several(context: Context, answering: Answering) -> list[Any]:
    """Several files at once, and a visitor's answers so far: their rows, table and files, and a choice of two."""
    with gr.Accordion(translated("ser_several"), open=False, elem_id="several"):
        files = gr.File(file_count="multiple", file_types=SOUND_FILES, label=translated("ser_files"), elem_id="files")
        press = gr.Button(translated("ser_recognise_all"), elem_id="recognise-all")
        progress = gr.HTML(elem_id="progress")
        rows = gr.State([], time_to_live=3600)
        answers = gr.Dataframe(
            interactive=False, datatype="auto", show_search="filter", wrap=True, visible=False, elem_id="answers"
        )
        links = gr.HTML(elem_id="answers-files")
        pair = gr.Dropdown(
            [], multiselect=True, max_choices=2, visible=False, label=translated("ser_pair"), elem_id="pair"
        )
        beside = gr.HTML(elem_id="side-by-side")

    def answer_all(
        request: gr.Request, paths: list[str] | None, language: str, rows: list[dict[str, Any]]
    ) -> Iterator[tuple[Any, ...]]:
        begun, total = time.perf_counter(), len(paths or [])
        found: list[dict[str, Any]] = []
        try:
            for name, one in answering.answers(paths or [], language, request):
                found.append({"file": name, "problem": one} if isinstance(one, str) else row_of(one))
                left_s = (time.perf_counter() - begun) / len(found) * (total - len(found))
                said = say("progress", language, done=len(found), total=total, seconds=round(left_s))
                yield box("waiting", paragraph(said)), *with_rows(rows, found, language)
        except Refusal as refusal:
            yield message_box(str(refusal), is_problem=True), *SKIPPED
            return
        yield "", *with_rows(rows, found, language)

    outputs = [rows, answers, links, pair]

    def in_words(rows: list[dict[str, Any]], language: str) -> tuple[Any, ...]:
        return with_rows(rows, [], language) if rows else SKIPPED

    def compare(chosen: list[int] | None, rows: list[dict[str, Any]], language: str) -> str:
        return side_by_side([rows[number] for number in chosen or []], language)

    compared: dict[str, Any] = {"fn": compare, "inputs": [pair, rows, context.language], "outputs": beside}
    pair.change(**compared, queue=False, **PRIVATE)
    told = context.language.change(in_words, [rows, context.language], outputs, queue=False, **PRIVATE)
    told.then(**compared, queue=False, **PRIVATE)
    event = press.click(
        answer_all, [files, context.language, rows], [progress, *outputs], concurrency_id="several", **PRIVATE
    )
    event.failure(None, None, progress, js="() => window.ser.crowded()", **PRIVATE)
    return outputs


def with_rows(
    rows: list[dict[str, Any]], found: list[dict[str, Any]], language: str
) -> tuple[list[dict[str, Any]], Any, str, Any]:
    """A visitor's rows with new ones behind them, as a table, as files, and as a choice."""
    rows = [*rows, *found]
    moved: dict[str, Any] = {"value": []} if len(rows) > MAX_ROWS else {}  # rows are chosen by their place
    rows = rows[-MAX_ROWS:]
    answered = [(place, row) for place, row in enumerate(rows) if "emotion" in row]
    names = [(row_name(place + 1, row, language), place) for place, row in answered]
    shown = table(rows, language)
    widths = [220, *[320] * ("problem" in columns(rows))]
    widths += [100] * (len(shown["headers"]) - len(widths))
    pair = gr.Dropdown(names, visible=len(names) > 1, **moved)
    return rows, gr.Dataframe(shown, column_widths=widths, visible=True), saved(rows, rows, language), pair


def _about(context: Context, answering: Answering, examples: list[gr.Button], voices: gr.Accordion) -> gr.Markdown:
    """Which model answers, its card, and for the owner the way back to the shipped one."""
    note = gr.Markdown(translated("ser_model_loading"), elem_id="model-note")
    back = gr.Button(translated("ser_shipped"), size="sm", visible=False, elem_id="shipped")
    message = gr.HTML(elem_id="shipped-message")
    with gr.Accordion(translated("ser_card"), open=False) as fold:
        described = gr.Markdown(elem_id="card")
    fold.expand(answering.card, context.language, described, api_visibility="private")

    def as_it_stands(language: str) -> tuple[Any, ...]:
        labels = answering.labels()
        fitting = (gr.Button(visible=label in labels) for label in EXAMPLES)
        back = gr.Button(visible=not context.model.state.is_shipped)
        return answering.note(language), back, gr.Accordion(visible=answering.knows_voices()), *fitting

    def use_shipped(request: gr.Request, session: str, language: str) -> str:
        try:
            context.owner.check(session, language, context.client(request), request)
            context.model.replace(None)
        except SerError as error:
            return message_box(without_folders(str(error)), is_problem=True)
        log.info("event=model_replaced shipped=1")
        return ""

    context.on_load(as_it_stands, [note, back, voices, *examples])
    done = back.click(use_shipped, [context.session, context.language], message, **PRIVATE)
    context.model_changes.append(done)
    return note


def _example_buttons() -> list[tuple[gr.Button, Path]]:
    """A button for each emotion, named by what the speaker was asked for."""
    gr.Markdown(translated("ser_examples"))
    with gr.Row(elem_id="examples"):
        return [
            (gr.Button(translated(f"ser_emotion_{emotion}"), size="sm"), DEMO_CORPUS / name)
            for emotion, name in EXAMPLES.items()
        ]


def _copied(context: Context, clip: Path) -> Callable[[], str]:
    """A copy of an example where gradio serves files from; so visitors do not see where the project lies."""

    def copied() -> str:
        copy = context.recordings.keep(context.uploads / "examples" / clip.name)
        if not copy.exists():
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(clip, copy)
        return str(copy)

    return copied


def _endpoint(answering: Answering) -> None:
    """`/recognise` for gradio_client and curl."""

    def recognise(recording: str | None, request: gr.Request) -> dict[str, Any]:
        try:
            return answering.answer(recording, "en", request).prediction.to_dict()
        except Refusal as refusal:
            raise gr.Error(str(refusal), print_exception=False) from refusal

    upload = gr.Audio(type="filepath", label="recording", visible=False)
    show_example(upload, "clip.wav")
    gr.Button(visible=False).click(
        recognise, upload, gr.JSON(label="answer", visible=False), api_name="recognise",
        api_description="The emotion of a recording, its probabilities, and how they change over time.", **RECORDINGS,
    )  # fmt: skip
