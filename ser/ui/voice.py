"""Does it know your voice? Calm sentences of a visitor, by which answers to the same visitor become better.

In: recordings that the visitor says are calm. Out: a `Voice` in the visitor's session, in memory alone, an hour long,
that the visitor switches off or forgets with one press. No recording is kept, and no other visitor gets it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from ser.inference.adaptation import Voice  # gradio reads the annotations
from ser.ui.answering import Answering, Refusal
from ser.ui.context import PRIVATE, Context, translated
from ser.ui.html import message_box
from ser.ui.texts import say

KEPT_S = 3600


@dataclass(frozen=True)
class Panel:
    """What the tab needs of it: the visitor's voice, whether to use it, and the box around both."""

    voice: gr.State
    used: gr.Checkbox
    box: gr.Accordion


def build(context: Context, answering: Answering, recording: gr.Audio, limits: dict[str, Any]) -> Panel:
    """Fill the box; `limits` are those of whatever encodes a recording."""
    with gr.Accordion(translated("ser_voice"), open=False, visible=False, elem_id="voice") as around:
        gr.Markdown(translated("ser_voice_how"))
        with gr.Row():
            add = gr.Button(translated("ser_voice_add"), size="sm", elem_id="voice-add")
            forget = gr.Button(translated("ser_voice_forget"), size="sm", elem_id="voice-forget")
        used = gr.Checkbox(True, label=translated("ser_voice_use"), elem_id="voice-use")
        shown = gr.HTML(elem_id="voice-known")
        voice = gr.State(None, time_to_live=KEPT_S)

    def remember(request: gr.Request, path: str | None, language: str, known: Voice | None) -> tuple[Voice | None, str]:
        try:
            heard = answering.voice(path, language, request)
        except Refusal as refusal:
            return known, message_box(str(refusal), is_problem=True)
        known = heard if known is None or known.fingerprint != heard.fingerprint else known + heard
        said = say("voice_known", language, n=known.recordings, seconds=round(known.seconds))
        return known, message_box(said)

    def forgotten(language: str) -> tuple[None, str]:
        return None, message_box(say("voice_forgotten", language))

    add.click(remember, [recording, context.language, voice], [voice, shown], **limits, **PRIVATE)
    forget.click(forgotten, [context.language], [voice, shown], **PRIVATE)
    return Panel(voice, used, around)
