"""The page: its tabs, and the server that shows it.

`build_page` puts the tabs together. Each tab is a module with `build(context) -> None`, called inside its `gr.Tab`,
and optionally a table `TEXTS` of its sentences; add a tab by adding a row to `TABS`. `serve` runs the page until the
process is told to stop.
"""

from __future__ import annotations

import ctypes
import json
import logging
import platform
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import gradio as gr
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from ser.errors import SettingsError
from ser.ui import crossvalidate, recognise, tune
from ser.ui.context import PRIVATE, Context, translated
from ser.ui.gate import Gate
from ser.ui.gradio_private import fetch_nothing, forget_deleted, put_first, report_failures
from ser.ui.html import message_box
from ser.ui.owner import NotOwner, is_cross_site
from ser.ui.replies import Replies
from ser.ui.runs import copy_examples
from ser.ui.settings import AppSettings
from ser.ui.style import CSS, LANGUAGE_LINKS, script, theme
from ser.ui.texts import TEXTS, fixed_texts, say

# The key of a tab's title, and its module.
TABS: tuple[tuple[str, ModuleType], ...] = (
    ("ser_tab_recognise", recognise),
    ("ser_tab_crossvalidate", crossvalidate),
    ("ser_tab_tune", tune),
)

log = logging.getLogger(__name__)

# Gradio keeps about 90 kB and the table of answers of every visitor and every API call, until this many came after it.
SESSIONS = 64
MAX_THREADS = 8  # each thread that has run the model keeps its own working memory
MAX_BATCH_MB = 8  # an upload may hold several files, together this many times the largest
M_ARENA_MAX = -8  # in glibc's malloc.h
TITLE = "Emotion in speech · احساس در گفتار"
OPENED_JS = "() => window.ser.opened()"
KEEP_JS = "(session) => { if (session) window.ser.keep(session); }"


def build_page(settings: AppSettings, context: Context | None = None) -> gr.Blocks:
    """The whole page. The model is not loaded here: see `Context.model`.

    Args:
        settings: what the owner set.
        context: the parts that the tabs share, if the caller needs them too.
    """
    context = context or Context.of(settings)
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        context.language = gr.Textbox("", visible="hidden", label="language")
        context.session = gr.Textbox("", visible="hidden", label="session")
        gr.HTML(LANGUAGE_LINKS, elem_id="languages")
        switched = gr.Button(visible="hidden", elem_id="language-switched")
        gr.HTML(f"<h1>{translated('ser_heading')}</h1>", elem_id="heading")
        gr.HTML(f"<p>{translated('ser_intro')}</p>", elem_id="intro")
        sign_in = _sign_in(context)
        with gr.Tabs(overflow_behavior="wrap") as tabs:  # a phone shows every tab, too
            for title, tab in TABS:
                name = tab.__name__.rpartition(".")[2]
                with gr.Tab(translated(title), elem_id=f"tab-{name}") as context.tab:
                    tab.build(context)
                context.tab.select(None, None, None, js=f"() => window.ser.note('tab', '{name}')")
        _switch_timers(tabs, context)
        # Gradio translates the title of a tab anew when the server sends it.
        switched.click(
            lambda: [gr.Tab(label=translated(title)) for title, _ in TABS], None, tabs.children, queue=False, **PRIVATE
        )
        for name, form in context.forms.items():  # before a tab is opened
            _keep_filled(page, name, form)
        opened = gr.on([page.load, switched.click], None, None, [context.language, context.session], js=OPENED_JS)
        for event in (opened, *context.model_changes):
            for function, output in context.loads:
                event = event.then(function, context.language, output, **PRIVATE)

        def welcome(session: str) -> tuple[str, gr.Accordion]:
            is_known = context.owner.knows(session)
            is_useful = context.owner.is_possible and not is_known
            return session if is_known else "", gr.Accordion(visible=is_useful)

        opened.then(welcome, context.session, [context.session, sign_in], queue=False, **PRIVATE)
        if context.owner.has_hub:
            _welcome_author(context, opened)
    report_failures(page)
    fetch_nothing(page)
    put_first(script())
    page.queue(max_size=settings.queue_length, api_open=False)  # nothing goes past the queue and its limits
    return page


def _keep_filled(page: gr.Blocks, name: str, form: Sequence[Any]) -> None:
    """Let a reload keep what is filled into a form; both ways without the server, whose answer could come too late."""
    named = json.dumps(name)
    page.load(None, None, form, js=f"() => window.ser.filledBefore({named}, {len(form)})", **PRIVATE)
    changes = [component.change for component in form]
    gr.on(changes, None, form, None, js=f"(...values) => window.ser.fill({named}, values)", **PRIVATE)


def _welcome_author(context: Context, opened: Any) -> None:
    """Give the session to whoever Hugging Face says is the Space's author."""

    def author(profile: gr.OAuthProfile | None, request: gr.Request) -> Any:
        is_own = not is_cross_site(request.headers)
        return context.owner.token if is_own and context.owner.is_author(profile) else gr.skip()

    known = opened.then(author, None, context.session, queue=False, **PRIVATE)
    known.then(None, context.session, None, js=KEEP_JS)


def _sign_in(context: Context) -> gr.Accordion:
    """Where the owner signs in; hidden from whoever has, and where nobody can."""
    label = "ser_owner_password" if context.owner.has_password else "ser_owner_token"
    with gr.Accordion(translated("ser_owner"), open=False, visible=False, elem_id="owner") as place:
        with gr.Row(equal_height=True):
            secret = gr.Textbox(label=translated(label), type="password", elem_id="owner-password", scale=3)
            enter = gr.Button(translated("ser_owner_sign_in"), elem_id="owner-sign-in", min_width=120)
        said = gr.HTML(elem_id="owner-message")
        if context.owner.has_hub:
            gr.LoginButton()

    def sign_in(request: gr.Request, secret: str, language: str) -> tuple[Any, Any, Any]:
        try:
            session = context.owner.sign_in(secret, language, context.client(request), request)
        except NotOwner as error:
            return gr.skip(), gr.skip(), message_box(str(error), is_problem=True)
        return session, "", message_box(say("owner_signed_in", language))

    pressed = gr.on(
        [enter.click, secret.submit], sign_in, [secret, context.language], [context.session, secret, said],
        concurrency_limit=4, **PRIVATE,
    )  # fmt: skip
    pressed.then(None, context.session, None, js=KEEP_JS)
    return place


def _switch_timers(tabs: gr.Tabs, context: Context) -> None:
    """Let each timer tick only while its tab is open."""

    def switch(opened: gr.SelectData) -> dict[gr.Timer, gr.Timer]:
        open_tab = tabs.children[opened.index]
        return {timer: gr.Timer(active=tab is open_tab) for tab, timer in context.timers}

    timers = [timer for _, timer in context.timers]
    tabs.select(switch, None, timers, queue=False, **PRIVATE)


def launch(page: gr.Blocks, context: Context, **more: Any) -> gr.Blocks:
    """Start the server, and beside it to load the model; returns as soon as the page can be opened.

    Raises:
        SettingsError: the port is taken, or the address is none of this machine's.
    """
    _share_heaps()
    context.model.start()  # beside the start of the server
    settings = context.settings
    context.routes.insert(0, _health(context))
    tables = [TEXTS, *(getattr(tab, "TEXTS", {}) for _, tab in TABS)]
    app_kwargs = {
        "middleware": [Middleware(Replies), Middleware(Gate, context=context)],
        "routes": context.routes,
        "max_body_size": MAX_BATCH_MB * settings.max_upload_mb << 20,
    }
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
            f"The page cannot listen at {settings.host}, port {settings.port}: the port is taken or may not be used, "
            "or the address is none of this machine's (an IPv6 address cannot be used). Set GRADIO_SERVER_PORT or "
            "GRADIO_SERVER_NAME."
        ) from error
    log.info("event=ready url=%s", page.local_url)
    context.recordings.start(lambda: forget_deleted(page))
    return page


def serve(settings: AppSettings, uploads: Path) -> None:
    """Show the page until the process is interrupted or terminated."""
    context = Context.of(settings, uploads)
    page = build_page(settings, context)
    try:
        data = settings.make_data_folder()
        copy_examples(data, ["runs"] if settings.storage else ["runs", "studies"])
        launch(page, context)
        if context.owner.is_local:
            print(f"Open {page.local_url}?token={context.owner.token}", flush=True)
        threading.Event().wait()
    finally:
        for close in context.on_close:
            close()
        page.close(verbose=False)
        shutil.rmtree(context.uploads, ignore_errors=True)


def _share_heaps() -> None:
    """Two heaps for all threads: with glibc's eight a core, each keeps what the answers of its thread once needed."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)


def _health(context: Context) -> Route:
    async def healthz(request: Request) -> JSONResponse:
        is_there = context.model.state.predictor is not None
        model = "ready" if is_there else "none" if context.model.wait(0) else "loading"
        return JSONResponse({"status": "ok", "model": model})

    return Route("/healthz", healthz)
