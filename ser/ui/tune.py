"""The tab Tune: start a search, watch it, stop it, go on with it, let the best model answer.

A search is a process of its own (`ser.ui.jobs` running `ser tune`) in a folder below the data folder; what is shown is
read from there, and from Optuna's dashboard in a frame. So a page that is loaded again, a second browser and a server
that was started again all show the same. What changes something is for the owner (`owner.py`).
"""

from __future__ import annotations

import contextlib
import logging
import math
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from ser.errors import JobError, SerError, SettingsError
from ser.ui import jobs
from ser.ui.context import Context, translated
from ser.ui.corpora import DEMO, Corpora, Encoders
from ser.ui.dashboard import Dashboard
from ser.ui.owner import Owner
from ser.ui.polling import while_shown
from ser.ui.presses import PRIVATE, Outcome, Presses
from ser.ui.runs import CHECKPOINT, LATEST, Run, Runs, read_json
from ser.ui.tune_texts import TEXTS as TEXTS
from ser.ui.tune_texts import say
from ser.ui.tune_view import dashboard_frame, empty_box, study_box

PREFIX, STATUS, DATABASE_NAME = "tune-", "tune.json", "studies.db"
TICK_S, CLOCK_S, WATCH_S = 1.0, 30.0, 0.5
N_OUTPUTS = 8
SAMPLERS = ("tpe", "cmaes")
# Name, least, most, and the values for a real corpus (the paper's) and for the demonstration.
NUMBERS = (
    ("trials", 1, 1000, 10, 10),
    ("minutes", 1, 10_080, 540, 20),
    ("max_epochs", 1, 300, 150, 8),
    ("patience", 0, 50, 3, 3),
)

log = logging.getLogger(__name__)


class Study(Run):
    """The folder of one study."""

    def told(self) -> dict[str, Any] | None:
        """What the search says of itself."""
        return read_json(self.folder / STATUS)

    def stamp(self) -> str:
        """Changes whenever there is something new to show; while it runs also as time goes by."""
        status, path = self.status(), self.folder / STATUS
        clock = int(time.time() / CLOCK_S) if status.state == "running" else ""
        changed = path.stat().st_mtime_ns if path.exists() else 0
        return f"{self.name} {status.state} {status.reason} {changed} {clock}"

    def best_model(self) -> Path | None:
        """The model of the best trial, if it is trained."""
        told = self.told() or {}
        best, scored = told.get("best"), told.get("scored")
        if not best or not scored or scored["trial"] != best["number"]:
            return None
        folder = self.folder / str(scored["run"]) / CHECKPOINT
        return folder if (folder / "model.json").exists() else None


@dataclass(frozen=True)
class View:
    """The components that show a study, and the hidden ones that say which and what of it is on the page."""

    seen: gr.Textbox
    run: gr.Dropdown
    state: gr.HTML
    stop: gr.Button
    go_on: gr.Button
    use: gr.Button
    notes: gr.HTML
    frame: gr.HTML

    def inputs(self, context: Context) -> list[Any]:
        return [self.seen, self.run, context.language]

    @property
    def outputs(self) -> list[Any]:
        return [self.seen, self.run, self.state, self.stop, self.go_on, self.use, self.notes, self.frame]


def build(context: Context) -> None:
    """Fill the tab."""
    desk = TuneDesk(context)
    gr.Markdown(translated("ser_tune_intro"), elem_classes="quiet")
    with gr.Row(equal_height=False):
        with gr.Column(min_width=320):
            choices = _settings(desk)
            password = gr.Textbox(
                label=translated("ser_owner_password"), type="password", visible=desk.owner.has_password,
                elem_id="tune-password",
            )  # fmt: skip
            start = gr.Button(translated("ser_tune_start"), variant="primary", elem_id="tune-start")
            message = gr.HTML(elem_id="tune-message")
        with gr.Column(min_width=320):
            of_study = _study_places()
    seen = gr.Textbox("", visible="hidden", label="seen")
    view = View(seen, *of_study, *_dashboard_place())
    presses = Presses(context, desk, view, password, message, say)
    presses.wire(start, desk.start, choices, waiting="starting")
    for button, action in ((view.stop, desk.stop), (view.go_on, desk.go_on), (view.use, desk.use)):
        presses.wire(button, action, [view.run])
    timer = gr.Timer(TICK_S, active=False)
    tab = while_shown(timer)
    timer.tick(desk.news, view.inputs(context), view.outputs, queue=False, trigger_mode="once", **PRIVATE)
    tab.select(desk.news, view.inputs(context), view.outputs, queue=False, **PRIVATE)
    context.routes.extend(desk.dashboard.routes())
    context.on_close.append(desk.close)


class TuneDesk:
    """Starts, stops and shows studies."""

    def __init__(self, context: Context) -> None:
        settings = context.settings
        self.context, self.data = context, settings.data.resolve()
        self.runs = Runs(self.data / "studies", PREFIX)
        self.corpora, self.encoders = Corpora(settings), Encoders(settings)
        self.owner = Owner(settings)
        self.storage = settings.storage or f"sqlite:///{self.runs.folder / DATABASE_NAME}"
        self.dashboard = Dashboard(self.storage, settings.dashboard_writable)

    def start(self, corpus: str, encoder: str, *values: Any) -> Outcome:
        """Start a search.

        Raises:
            SerError: a choice makes no sense, or something else is being trained.
        """
        study = self.runs.new(re.sub(r"[^A-Za-z0-9]+", "-", str(corpus)))
        words = search_words(values)  # refuse before anything is written
        source = self.encoders.source(encoder)
        if jobs.is_running(self.data):
            raise JobError(jobs.BUSY)
        command = [
            "tune", "--corpus", str(self.corpora.folder(corpus)), "--encoder", source, "--study", study.name,
            "--out", str(self.runs.folder), "--cache", str(self.data / "features"), *words,
        ]  # fmt: skip
        jobs.start(command, study.folder, one_at_a_time=self.data)
        log.info("event=study_started study=%s", study.name)
        return Outcome("started")

    def stop(self, name: str) -> Outcome:
        """Stop a search; the trial that runs is queued again."""
        study = self.find(name)
        if study is None or not jobs.is_running(study.folder):
            return Outcome("not_running", is_problem=True)
        jobs.stop(study.folder)
        log.info("event=study_stopped study=%s", study.name)
        return Outcome("stop_done")

    def go_on(self, name: str) -> Outcome:
        """Go on with a search that was stopped or failed."""
        study = self.find(name)
        status = study.status() if study else None
        if study is None or status is None or status.state not in ("stopped", "failed") or not status.command:
            return Outcome("not_continued", is_problem=True)
        jobs.start(_as_started(status.command), study.folder, one_at_a_time=self.data)
        log.info("event=study_continued study=%s", study.name)
        return Outcome("continued")

    def use(self, name: str) -> Outcome:
        """Let the best trial's model answer on the page; train it first where it is not.

        Raises:
            SerError: it cannot be loaded, or something else is being trained.
        """
        study = self.find(name)
        told = study.told() if study else None
        if study is None or not told or not told["best"]:
            return Outcome("no_model", is_problem=True)
        status = study.status()
        if status.state == "running":
            return Outcome("still_running", is_problem=True)
        model = study.best_model()
        if model is not None:
            self._replace(study, model)
            return Outcome("in_use", title=study.title)
        # As many trials as there are: none is left to run, and the best one is trained and tested.
        finished = told["counts"]["complete"] + told["counts"]["pruned"]
        command = [*_as_started(status.command), "--trials", str(finished)]
        jobs.start(command, study.folder, one_at_a_time=self.data)
        threading.Thread(target=self._use_when_trained, args=(study,), name="use best", daemon=True).start()
        return Outcome("training_best")

    def find(self, name: object) -> Study | None:
        """The study of a name; None where there is none."""
        run = self.runs.find(name)
        return Study(run.folder) if run else None

    def news(self, seen: str, name: str, language: str) -> tuple[Any, ...]:
        """What has changed since the page last asked: nothing, or everything that it shows."""
        names = self.runs.names()
        study = self.find(name) or self.find(LATEST)
        now = f"{len(names)} {study.stamp() if study else ''} {language}".replace("\n", " ")
        known, _, known_frame = seen.partition("\n")
        if now == known:
            return tuple(gr.skip() for _ in range(N_OUTPUTS))
        chosen = name if name in names else LATEST
        titles = [(say("latest", language), LATEST), *((Run(Path(one)).title, one) for one in names)]
        dropdown = gr.Dropdown(choices=titles, value=chosen)
        told = study.told() if study else None
        frame = dashboard_frame(told) if study else ""
        ends = f"{now}\n{frame}", dropdown
        shown = gr.skip() if frame == known_frame else frame
        if study is None:
            return *ends, empty_box(language), *_buttons(), "", shown
        status = study.status()
        running = status.state == "running"
        has_best = bool(told and told["best"])
        buttons = _buttons(running, status.state in ("stopped", "failed"), has_best and not running)
        box = study_box(study.title, status, told, language)
        return *ends, box, *buttons, self._notes(study, language), shown

    def close(self) -> None:
        """The server ends: a search in work ends after the epoch of a fold and can go on."""
        for name in self.runs.names():
            folder = self.runs.folder / name
            if jobs.is_running(folder):
                with contextlib.suppress(JobError):
                    jobs.ask_to_stop(folder)

    def _use_when_trained(self, study: Study) -> None:
        while jobs.is_running(study.folder):
            time.sleep(WATCH_S)
        model = study.best_model()
        if model is None:
            return
        try:
            self._replace(study, model)
        except SerError as error:
            log.warning("event=model_failed reason=%r", str(error))

    def _replace(self, study: Study, model: Path) -> None:
        self.context.model.replace(model)
        log.info("event=model_replaced study=%s", study.name)

    def _notes(self, study: Study, language: str) -> str:
        keys = [] if self.context.settings.dashboard_writable else ["read_only"]
        keys += ["open_alone"]
        keys += ["demo_note"] if study.name.endswith(f"-{DEMO}") else []
        keys += ["temporary"] if self.context.settings.data_is_temporary else []
        return "".join(f'<p class="quiet">{say(key, language)}</p>' for key in keys)


def search_words(values: Sequence[Any]) -> list[str]:
    """The words of `ser tune` for values from a browser, in the order of `NUMBERS`, then the sampler.

    Raises:
        SettingsError: one is missing, is no whole number or outside its range.
    """
    if len(values) != len(NUMBERS) + 1:
        raise SettingsError(f"A search needs {len(NUMBERS) + 1} values, got {len(values)}.")
    *numbers, sampler = values
    if sampler not in SAMPLERS:
        raise SettingsError(f"sampler must be one of {', '.join(SAMPLERS)}, got {sampler!r}.")
    for (name, least, most, *_), value in zip(NUMBERS, numbers, strict=True):
        fits = isinstance(value, int | float) and math.isfinite(value) and least <= value <= most
        if not fits or value != int(value):
            raise SettingsError(f"{name} must be a whole number from {least} to {most}, got {value!r}.")
    trials, minutes, max_epochs, patience = (int(value) for value in numbers)
    words = {"trials": trials, "timeout": 60 * minutes, "max-epochs": max_epochs, "patience": patience}
    flags = [part for name, value in words.items() for part in (f"--{name}", str(value))]
    return [*flags, "--sampler", sampler]


def preset(corpus: str) -> list[int]:
    """The values of `NUMBERS` for a corpus: the paper's, or what suits the demonstration."""
    return [demo if corpus == DEMO else paper for _, _, _, paper, demo in NUMBERS]


def _as_started(command: Sequence[str]) -> list[str]:
    """The command of a study as it was first started, without what `use` put behind it."""
    places = [place for place, word in enumerate(command) if word == "--trials"]
    return list(command[: places[1]] if len(places) > 1 else command)


def _settings(desk: TuneDesk) -> list[Any]:
    names = desk.encoders.names
    demo, *allowed = desk.corpora.choices("en")
    corpora = [(translated("ser_cv_demo"), demo[1]), *allowed]
    with gr.Group():
        corpus = gr.Dropdown(corpora, value=DEMO, label=translated("ser_cv_corpus"), elem_id="tune-corpus")
        encoder = gr.Dropdown(
            names, value=names[0], label=translated("ser_cv_encoder"), visible=len(names) > 1
        )
        with gr.Row():
            numbers = [_number(row) for row in NUMBERS]
        samplers = [(translated(f"ser_tune_{name}"), name) for name in SAMPLERS]
        sampler = gr.Radio(
            samplers, value=SAMPLERS[0], label=translated("ser_tune_sampler"), elem_id="tune-sampler"
        )
    corpus.input(preset, corpus, numbers, queue=False, **PRIVATE)
    return [corpus, encoder, *numbers, sampler]


def _number(row: tuple[str, int, int, int, int]) -> gr.Number:
    name, least, most, _, demo = row
    label = f"ser_tune_{name}" if f"ser_tune_{name}" in TEXTS else f"ser_cv_{name}"
    return gr.Number(
        demo, minimum=least, maximum=most, step=1, precision=0, label=translated(label), min_width=200,
        elem_id=f"tune-{name}",
    )  # fmt: skip


def _study_places() -> tuple[Any, ...]:
    """Which study, how it stands, its buttons, notes."""
    study = gr.Dropdown(
        [("…", LATEST)], value=LATEST, label=translated("ser_tune_study"), elem_id="tune-study",
        # `Runs` checks the name: gradio's own list is lost when the server is started again.
        allow_custom_value=True,
    )  # fmt: skip
    state = gr.HTML(elem_id="tune-state")
    with gr.Row(elem_id="tune-buttons"):
        stop = gr.Button(translated("ser_cv_stop"), variant="stop", visible=False, elem_id="tune-stop")
        go_on = gr.Button(translated("ser_cv_continue"), visible=False, elem_id="tune-continue")
        use = gr.Button(translated("ser_tune_use"), visible=False, elem_id="tune-use")
    return study, state, stop, go_on, use, gr.HTML(elem_id="tune-notes")


def _dashboard_place() -> tuple[Any, ...]:
    return (gr.HTML(elem_id="tune-dashboard"),)


def _buttons(stop: bool = False, go_on: bool = False, use: bool = False) -> tuple[Any, ...]:
    return tuple(gr.Button(visible=visible) for visible in (stop, go_on, use))
