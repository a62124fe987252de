"""What every tab is given: the settings, the model that answers, the owner, and a place for its own routes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component
from starlette.routing import BaseRoute

from ser.ui.corpora import Corpora, Encoders
from ser.ui.limits import RateLimit, client_name
from ser.ui.model import ModelHolder, ModelSource
from ser.ui.owner import Owner
from ser.ui.recordings import Recordings, private_folder
from ser.ui.settings import AppSettings

# A fixed text of the page, by its key, looked up by the browser in the visitor's language.
translated = gr.I18n()
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}


@dataclass
class Context:
    """Handed to `build(context)` of each tab.

    Attributes:
        settings: what the owner set.
        model: the model that answers; `model.replace(folder, name=...)` lets another one answer.
        recordings: deletes what visitors uploaded.
        limit: how many recordings a client may send.
        owner: tells the owner from visitors.
        corpora, encoders: what can be trained on.
        language: a hidden component that holds "en" or "fa"; give it to an event as an input to answer in it.
        session: a hidden component that holds the owner's session; give it to `owner.check`.
        tab: the tab that is being built.
        timers: those that tick only while their tab is open.
        loads: functions of the language whose result is shown in components when the page is opened, and again after
            each of `model_changes`.
        model_changes: events after which another model may answer.
        forms: groups of settings by name, which a reload keeps until the browser's tab is closed.
        routes: further routes of the server, such as a dashboard; a tab appends to it while it is built.
        on_close: called when the server stops.
    """

    settings: AppSettings
    model: ModelHolder
    recordings: Recordings
    limit: RateLimit
    owner: Owner
    corpora: Corpora
    encoders: Encoders
    language: Any = None
    session: Any = None
    tab: gr.Tab | None = None
    timers: list[tuple[gr.Tab, gr.Timer]] = field(default_factory=list)
    loads: list[tuple[Callable[[str], Any], Component | list[Component]]] = field(default_factory=list)
    model_changes: list[Any] = field(default_factory=list)
    forms: dict[str, list[Component]] = field(default_factory=dict)
    routes: list[BaseRoute] = field(default_factory=list)
    on_close: list[Callable[[], Any]] = field(default_factory=list)

    @classmethod
    def of(cls, settings: AppSettings, uploads: Path | None = None) -> Context:
        """The parts for one server; `uploads` is a private folder, which gradio is pointed to."""
        uploads = uploads or private_folder()
        os.environ["GRADIO_TEMP_DIR"] = str(uploads)
        model = ModelHolder(ModelSource(settings.checkpoint, settings.encoder))
        limit, owner = RateLimit(settings.requests_per_minute), Owner(settings)
        trained = Corpora(settings), Encoders(settings)
        return cls(settings, model, Recordings(uploads), limit, owner, *trained, on_close=[model.close])

    @property
    def uploads(self) -> Path:
        """Where gradio keeps what visitors upload."""
        return self.recordings.folder

    def on_load(self, function: Callable[[str], Any], output: Component | list[Component]) -> None:
        """Show the result of `function(language)` in `output` whenever a page is opened."""
        self.loads.append((function, output))

    def client(self, request: gr.Request | None) -> str:
        """Who sends a request."""
        if request is None or request.client is None:
            return ""
        forwarded = [value for name, value in request.headers.items() if name == "x-forwarded-for"]
        return client_name(str(request.client.host), forwarded, self.settings.trusted_proxies)
