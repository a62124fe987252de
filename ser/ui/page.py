"""The page: its tabs, and the server that shows it.

`build_page` puts the tabs together. Each tab is a module with `build(context) -> None`, called inside its
`gr.Tab`, and if it likes a table `TEXTS` of its fixed texts; add a tab by adding a row to `TABS`. `serve`
runs the page until the process is told to stop.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
import platform
import shutil
import threading
from typing import Any

import gradio as gr
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from ser.errors import SettingsError
from ser.ui.context import LANGUAGE_JS, Context, translated
from ser.ui.look import CSS, LANGUAGE_LINKS, LanguageScript, theme
from ser.ui.recordings import UNASKED_S
from ser.ui.replies import Replies
from ser.ui.settings import AppSettings
from ser.ui.texts import TEXTS, fixed_texts

# The key of a tab's title in TEXTS, and its module.
TABS: tuple[tuple[str, str], ...] = (
    ("ser_tab_recognise", "ser.ui.recognise"),
    ("ser_tab_crossvalidate", "ser.ui.crossvalidate"),
    ("ser_tab_tune", "ser.ui.tune"),
)

log = logging.getLogger(__name__)

# Gradio keeps about 90 kB for every visitor and every API call until this many came after it; this page keeps nothing
# of its own there (no `gr.State`), so few will do.
SESSIONS = 64
# Each of these that ever ran the model keeps its own working memory.
MAX_THREADS = 8
M_ARENA_MAX = -8  # in glibc's malloc.h
TITLE = "Emotion in speech · احساس در گفتار"


def build_page(settings: AppSettings, context: Context | None = None) -> gr.Blocks:
    """The whole page. The model is not loaded here: see `Context.model`.

    Args:
        settings: what the operator set.
        context: the parts that the tabs share, if the caller needs them too.
    """
    context = context or Context.of(settings)
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(60, UNASKED_S)) as page:
        context.language = gr.Textbox("en", visible="hidden", label="language")
        gr.HTML(LANGUAGE_LINKS, elem_id="languages")
        gr.HTML(f"<h1>{translated('ser_heading')}</h1>", elem_id="heading")
        gr.HTML(f"<p>{translated('ser_intro')}</p>", elem_id="intro")
        context.session = gr.Textbox(
            label=translated("ser_job_password"),
            type="password",
            visible=context.owner.has_password,
            elem_id="password",
        )
        with gr.Tabs(overflow_behavior="wrap") as tabs:  # a phone shows every tab, too
            for title, module in TABS:
                with gr.Tab(translated(title)) as context.tab:
                    importlib.import_module(module).build(context)
        _switch_timers(tabs, context)
        for changed in context.model_changes:
            for function, output in context.loads:
                changed = changed.then(
                    function, context.language, output, api_visibility="private", show_progress="hidden"
                )
        opened = page.load(None, None, context.language, js=LANGUAGE_JS)
        for function, output in context.loads:
            opened.then(function, context.language, output, api_visibility="private", show_progress="hidden")
    page.queue(max_size=settings.queue_length, api_open=False)  # nothing goes past the queue and its limits
    return page


def launch(page: gr.Blocks, context: Context, **more: Any) -> gr.Blocks:
    """Start the server, then begin to load the model; returns as soon as the page can be opened.

    Raises:
        SettingsError: the port is taken.
    """
    _share_heaps()
    settings = context.settings
    tables = [TEXTS, *(getattr(importlib.import_module(module), "TEXTS", {}) for _, module in TABS)]
    routes = [_health(context), *context.routes]
    app_kwargs = {"middleware": [Middleware(Replies), Middleware(LanguageScript)], "routes": routes}
    try:
        page.launch(
            server_name=settings.host, server_port=settings.port, prevent_thread_lock=True, share=False,
            quiet=True, ssr_mode=False, pwa=False, mcp_server=False, enable_monitoring=False,
            run_history=False, footer_links=["api"], max_file_size=f"{settings.max_upload_mb}mb",
            max_threads=MAX_THREADS, state_session_capacity=SESSIONS, theme=theme(), css=CSS,
            i18n=gr.I18n(**fixed_texts(tables)), app_kwargs=app_kwargs, **more,
        )  # fmt: skip
    except OSError as error:
        raise SettingsError(
            f"Port {settings.port} on {settings.host} is taken or may not be used. "
            "Set GRADIO_SERVER_PORT to another."
        ) from error
    log.info("event=ready url=%s", page.local_url)
    context.recordings.start()
    context.model.start()
    context.hub.start(context.model.wait)
    return page


def serve(settings: AppSettings) -> None:
    """Show the page until the process is interrupted or terminated."""
    settings.make_data_folder()
    context = Context.of(settings)
    page = build_page(settings, context)
    try:
        launch(page, context)
        threading.Event().wait()
    finally:
        for close in context.on_close:
            close()
        page.close(verbose=False)
        shutil.rmtree(context.uploads, ignore_errors=True)


def _switch_timers(tabs: gr.Tabs, context: Context) -> None:
    """Let each timer tick only while its tab is open."""
    timers = [timer for _, timer in context.timers]

    def switch(opened: gr.SelectData) -> dict[gr.Timer, gr.Timer]:
        open_tab = tabs.children[opened.index]
        return {timer: gr.Timer(active=tab is open_tab) for tab, timer in context.timers}

    tabs.select(switch, None, timers, api_visibility="private", queue=False, show_progress="hidden")


def _share_heaps() -> None:
    """Two heaps for all threads: with glibc's eight a core, each keeps what the answers of its thread once needed."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)


def _health(context: Context) -> Route:
    async def healthz(request: Request) -> JSONResponse:
        model = "loading" if not context.model.wait(0) else "none" if context.model.is_missing else "ready"
        hub = {} if context.hub.state == "off" else {"hub": context.hub.state}
        return JSONResponse({"status": "ok", "model": model} | hub)

    return Route("/healthz", healthz)
