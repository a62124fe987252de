"""The tab Cross-validate: start a run, watch it live, stop it, go on with it, let its model answer.

A run is a process of its own (`ser.ui.jobs`) in a folder below the data folder; everything shown is read from
there, by a timer that ticks only while the tab is open. So a page that is loaded again, a second browser and
a server that was started again all show the same. What changes something is for the owner (`owner.py`).
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from ser.errors import JobError
from ser.ui import jobs
from ser.ui.context import Context, translated
from ser.ui.corpora import DEMO, Corpora, Encoders
from ser.ui.crossvalidate_texts import TEXTS as TEXTS
from ser.ui.crossvalidate_texts import say
from ser.ui.owner import Owner
from ser.ui.polling import while_shown
from ser.ui.presses import PRIVATE, Outcome, Presses
from ser.ui.run_settings import NUMBERS, OPTIMIZERS, PAPER, QUICK, command, preset
from ser.ui.run_view import (
    curves_figure,
    empty_box,
    fold_table,
    links,
    matrices_figure,
    matrices_of,
    state_box,
)
from ser.ui.runs import CHECKPOINT, DOWNLOADS, LATEST, Run, Runs

TICK_S = 1.0
N_OUTPUTS = 11
COLUMNS_JS = "() => (innerWidth < 640 ? 1 : innerWidth < 1000 ? 2 : 3)"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class View:
    """The components that show a run, and the hidden ones that say which and how."""

    seen: gr.Textbox
    columns: gr.Number
    run: gr.Dropdown
    state: gr.HTML
    stop: gr.Button
    go_on: gr.Button
    use: gr.Button
    files: gr.HTML
    curves: gr.Plot
    table: gr.HTML
    about: gr.Markdown
    matrices: gr.Plot

    def inputs(self, context: Context) -> list[Any]:
        return [self.seen, self.run, self.columns, context.language]

    @property
    def outputs(self) -> list[Any]:
        return [
            self.seen, self.run, self.state, self.stop, self.go_on, self.use, self.files, self.curves,
            self.table, self.about, self.matrices,
        ]  # fmt: skip


def build(context: Context) -> None:
    """Fill the tab."""
    desk = RunDesk(context)
    gr.Markdown(translated("ser_cv_intro"), elem_classes="quiet")
    with gr.Row(equal_height=False):
        with gr.Column(min_width=320):
            choices = _settings(desk)
            password = gr.Textbox(
                label=translated("ser_owner_password"), type="password", visible=desk.owner.has_password,
                elem_id="cv-password",
            )  # fmt: skip
            start = gr.Button(translated("ser_cv_start"), variant="primary", elem_id="cv-start")
            message = gr.HTML(elem_id="cv-message")
        with gr.Column(min_width=320):
            of_run = _run_places()
    seen = gr.Textbox("", visible="hidden", label="seen")
    columns = gr.Number(3, visible="hidden", label="columns")
    view = View(seen, columns, *of_run, *_chart_places())
    presses = Presses(context, desk, view, password, message, say)
    presses.wire(start, desk.start, choices, waiting="starting")
    for button, action in ((view.stop, desk.stop), (view.go_on, desk.go_on), (view.use, desk.use)):
        presses.wire(button, action, [view.run])
    timer = gr.Timer(TICK_S, active=False)
    tab = while_shown(timer)
    timer.tick(desk.news, view.inputs(context), view.outputs, queue=False, trigger_mode="once", **PRIVATE)
    opened = tab.select(None, None, view.columns, js=COLUMNS_JS, **PRIVATE)
    opened.then(desk.news, view.inputs(context), view.outputs, queue=False, **PRIVATE)
    context.routes.append(Route("/runs/{run}/{name}", desk.download))
    context.on_close.append(desk.close)


class RunDesk:
    """Starts, stops and shows runs."""

    def __init__(self, context: Context) -> None:
        self.context, self.data = context, context.settings.data.resolve()
        self.runs = Runs(self.data / "runs")
        self.corpora, self.encoders = Corpora(context.settings), Encoders(context.settings)
        self.owner = Owner(context.settings)

    def start(self, corpus: str, encoder: str, *values: Any) -> Outcome:
        """Start a run.

        Raises:
            SerError: a choice makes no sense, or another run is in work.
        """
        run = self.runs.new(corpus)
        source = self.encoders.source(encoder)
        command(Path(), source, values, run.folder, Path())  # refuse before anything is written
        if jobs.is_running(self.data):
            raise JobError(jobs.BUSY)
        words = command(self.corpora.folder(corpus), source, values, run.folder, self.data / "features")
        jobs.start(words, run.folder, one_at_a_time=self.data)
        log.info("event=run_started run=%s", run.name)
        return Outcome("started")

    def stop(self, name: str) -> Outcome:
        """Stop a run."""
        run = self.runs.find(name)
        if run is None or not jobs.is_running(run.folder):
            return Outcome("not_running", is_problem=True)
        jobs.stop(run.folder)
        log.info("event=run_stopped run=%s", run.name)
        return Outcome("stop_done")

    def go_on(self, name: str) -> Outcome:
        """Go on with a run that was stopped or failed, where it was."""
        run = self.runs.find(name)
        status = run.status() if run else None
        if run is None or status is None or status.state not in ("stopped", "failed") or not status.command:
            return Outcome("not_continued", is_problem=True)
        jobs.start(status.command, run.folder, one_at_a_time=self.data)
        log.info("event=run_continued run=%s", run.name)
        return Outcome("continued")

    def use(self, name: str) -> Outcome:
        """Let the model of a run answer on the page.

        Raises:
            SerError: it cannot be loaded.
        """
        run = self.runs.find(name)
        if run is None or "checkpoint.zip" not in run.downloads():
            return Outcome("no_model", is_problem=True)
        self.context.model.replace(run.folder / CHECKPOINT)
        log.info("event=model_replaced run=%s", run.name)
        return Outcome("in_use", title=run.title)

    def news(self, seen: str, name: str, columns: float, language: str) -> tuple[Any, ...]:
        """What has changed since the page last asked: nothing, or everything that it shows."""
        names = self.runs.names()
        run = self.runs.find(name) or self.runs.find(LATEST)
        columns = int(columns) if columns in (1, 2, 3) else 3
        now = f"{len(names)} {run.stamp() if run else ''} {columns} {language}"
        if now == seen:
            return tuple(gr.skip() for _ in range(N_OUTPUTS))
        chosen = name if name in names else LATEST
        titles = [(say("latest", language), LATEST), *((Run(Path(known)).title, known) for known in names)]
        dropdown = gr.Dropdown(choices=titles, value=chosen)
        if run is None:
            return now, dropdown, empty_box(language), *_buttons(), "", *_no_charts()
        return now, dropdown, *self._shown(run, language, columns)

    def _shown(self, run: Run, language: str, columns: int) -> tuple[Any, ...]:
        status, progress, result = run.status(), run.progress(), run.result()
        can_go_on = status.state in ("stopped", "failed")
        buttons = _buttons(status.state == "running", can_go_on, "checkpoint.zip" in run.downloads())
        box = state_box(run, status, progress, result, language)
        files = links(run, language) + self._notes(run, language)
        return box, *buttons, files, *self._charts(progress, result, language, columns)

    def _charts(self, progress: Any, result: Any, language: str, columns: int) -> tuple[Any, ...]:
        if progress is None or not progress["epoch"]:
            return _no_charts()
        matrices = matrices_figure(matrices_of(progress, result), progress["labels"], language, columns)
        return (
            gr.Plot(curves_figure(progress, language), visible=True),
            fold_table(progress, language),
            say("matrices_now" if result is None else "matrices_test", language),
            gr.Plot(matrices, visible=True),
        )

    def _notes(self, run: Run, language: str) -> str:
        keys = ["demo_note"] if run.name.endswith(f"-{DEMO}") else []
        keys += ["temporary"] if self.context.settings.data_is_temporary else []
        return "".join(f'<p class="quiet">{say(key, language)}</p>' for key in keys)

    def download(self, request: Request) -> Response:
        """One of a run's files, by names from the lists of runs and of files."""
        run, name = self.runs.find(request.path_params["run"]), request.path_params["name"]
        content = run.read(name) if run and run.name == request.path_params["run"] else None
        if run is None or content is None:
            return PlainTextResponse("There is no such file.", 404)
        shown = f"{run.name}-{name}".encode("ascii", "replace").decode().replace("?", "_")
        headers = {
            "content-disposition": f'attachment; filename="{shown}"',
            "x-content-type-options": "nosniff",
        }
        return Response(content, media_type=DOWNLOADS[name], headers=headers)

    def close(self) -> None:
        """The server ends: a run in work ends after its epoch and can go on."""
        run = self.runs.running()
        if run is not None:
            with contextlib.suppress(JobError):
                jobs.ask_to_stop(run.folder)


def _settings(desk: RunDesk) -> list[Any]:
    """The choices for a new run: corpus, encoder, and the values in the order of `preset`."""
    names = desk.encoders.names
    demo, *allowed = desk.corpora.choices("en")
    corpora = [(translated("ser_cv_demo"), demo[1]), *allowed]
    with gr.Group():
        corpus = gr.Dropdown(corpora, value=DEMO, label=translated("ser_cv_corpus"), elem_id="cv-corpus")
        encoder = gr.Dropdown(
            names, value=names[0], label=translated("ser_cv_encoder"), visible=len(names) > 1
        )
        presets = gr.Radio(_presets(), value=QUICK, label=translated("ser_cv_preset"), elem_id="cv-preset")
    with gr.Accordion(translated("ser_cv_all_settings"), open=False, elem_id="cv-settings"):
        values = _values()
    presets.input(preset, presets, values, queue=False, **PRIVATE)
    corpus.input(_preset_of, corpus, [presets, *values], queue=False, **PRIVATE)
    return [corpus, encoder, *values]


def _preset_of(corpus: str) -> list[float | str]:
    """The preset that suits a corpus, and its values: in one answer, so that what is typed next is not written over."""
    name = QUICK if corpus == DEMO else PAPER
    return [name, *preset(name)]


def _values() -> list[Any]:
    """A component for each value of a preset; small numbers are typed, the others have a slider."""
    components: list[Any] = []
    with gr.Row():
        for number in NUMBERS:
            kind = gr.Slider if number.step >= 0.05 and number.name != "seed" else gr.Number
            components.append(
                kind(
                    minimum=number.least, maximum=number.most, step=number.step, value=number.quick,
                    label=translated(f"ser_cv_{number.name}"), min_width=220, elem_id=f"cv-{number.name}",
                )
            )  # fmt: skip
        components.append(
            gr.Dropdown(list(OPTIMIZERS), value="adam", label=translated("ser_cv_optimizer"), min_width=220)
        )
    return components


def _presets() -> list[tuple[Any, str]]:
    return [(translated(f"ser_cv_{name}"), name) for name in (QUICK, PAPER)]


def _run_places() -> tuple[Any, ...]:
    """Which run, how it stands, its buttons and files."""
    run = gr.Dropdown(
        [("…", LATEST)], value=LATEST, label=translated("ser_cv_run"), elem_id="cv-run",
        # `Runs` checks the name: gradio's own list is lost when the server is started again.
        allow_custom_value=True,
    )  # fmt: skip
    state = gr.HTML(elem_id="cv-state")
    with gr.Row(elem_id="cv-buttons"):
        stop = gr.Button(translated("ser_cv_stop"), variant="stop", visible=False, elem_id="cv-stop")
        go_on = gr.Button(translated("ser_cv_continue"), visible=False, elem_id="cv-continue")
        use = gr.Button(translated("ser_cv_use"), visible=False, elem_id="cv-use")
    return run, state, stop, go_on, use, gr.HTML(elem_id="cv-files")


def _chart_places() -> tuple[Any, ...]:
    """Curves, table, what the matrices are of, matrices."""
    return (
        gr.Plot(label=translated("ser_cv_curves"), visible=False, elem_id="cv-curves", elem_classes="chart"),
        gr.HTML(elem_id="cv-table"),
        gr.Markdown(elem_id="cv-about", elem_classes="quiet"),
        gr.Plot(
            label=translated("ser_cv_matrices"), visible=False, elem_id="cv-matrices", elem_classes="chart"
        ),
    )


def _buttons(stop: bool = False, go_on: bool = False, use: bool = False) -> tuple[Any, ...]:
    return tuple(gr.Button(visible=visible) for visible in (stop, go_on, use))


def _no_charts() -> tuple[Any, ...]:
    return gr.Plot(visible=False), "", "", gr.Plot(visible=False)
