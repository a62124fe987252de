"""What every tab is given: the settings, the model that answers, and a place for its own routes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.i18n import I18nData
from starlette.routing import BaseRoute

from ser.ui.corpora import Corpora, Encoders
from ser.ui.hub_encoder import HubEncoder
from ser.ui.limits import RateLimit
from ser.ui.model import ModelHolder, ModelSource
from ser.ui.owner import Owner
from ser.ui.recordings import Recordings, private_folder
from ser.ui.settings import AppSettings

PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
LANGUAGE_JS = "() => document.documentElement.lang"


@dataclass
class Context:
    """Handed to `build(context)` of each tab.

    Attributes:
        settings: what the operator set.
        model: the model that answers; `model.replace(folder)` lets another one answer.
        recordings: deletes what visitors uploaded.
        limit: how many recordings a client may send.
        language: a hidden component that holds "en" or "fa"; give it to an event as an input to answer in it.
        loads: functions of the language whose result is shown in a component when the page is opened.
        routes: further routes of the server, such as a dashboard; a tab appends to it while it is built.
            Gradio's own sign-in does not guard them.
        on_close: called when the server stops.
        hub: the encoder that is fetched behind the page.
        owner: tells the owner from visitors.
        corpora, encoders: what the training tabs offer.
        session: where the owner types the password; give it to `owner.check`.
        tab: the tab that is being built.
        timers: those that tick only while their tab is open.
        model_changes: events after which another model may answer.
    """

    settings: AppSettings
    model: ModelHolder
    recordings: Recordings
    limit: RateLimit
    language: gr.Textbox | None = None
    loads: list[tuple[Callable[[str], Any], Component]] = field(default_factory=list)
    routes: list[BaseRoute] = field(default_factory=list)
    on_close: list[Callable[[], Any]] = field(default_factory=list)
    hub: HubEncoder = field(default_factory=lambda: HubEncoder(None))
    session: gr.Textbox | None = None
    tab: gr.Tab | None = None
    timers: list[tuple[gr.Tab, gr.Timer]] = field(default_factory=list)
    model_changes: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.owner = Owner(self.settings)
        self.corpora, self.encoders = Corpora(self.settings), Encoders(self.settings)

    @classmethod
    def of(cls, settings: AppSettings) -> Context:
        """The parts for one server; makes the private folder for uploads and points gradio to it."""
        uploads = private_folder()
        os.environ["GRADIO_TEMP_DIR"] = str(uploads)
        source = ModelSource(settings.checkpoint, settings.encoder)
        context = cls(
            settings, ModelHolder(source), Recordings(uploads), RateLimit(settings.requests_per_minute)
        )
        context.hub = HubEncoder(settings.hub_encoder)
        context.on_close += [context.hub.close, context.model.close]
        return context

    @property
    def uploads(self) -> Path:
        """Where gradio keeps what visitors upload."""
        return self.recordings.folder

    def on_load(self, function: Callable[[str], Any], output: Component) -> None:
        """Show the result of `function(language)` in `output` whenever a page is opened."""
        self.loads.append((function, output))

    def client(self, request: gr.Request | None) -> str:
        """Who asks. On a Space every request comes through its proxy, which names the visitor in a header."""
        if request is None or request.client is None:
            return ""
        forwarded = request.headers.get("x-forwarded-for", "") if self.settings.on_space else ""
        return forwarded.split(",")[0].strip() or str(request.client.host)


def translated(key: str) -> I18nData:
    """A fixed text of the page, looked up by the browser in the visitor's language."""
    return I18nData(key)
