"""What the tabs Cross-validate and Tune look like: settings, buttons, and news of the run that is shown.

Everything shown is read from the run's folder, by a timer that ticks only while the tab is open. So a page that is
loaded again, a second browser and a server that was started again all show the same. News never set which run is
chosen; they carry the name of the run that they show, and the buttons act on that one. A tab is a `JobTab` with
settings, a command and a view of its own.
"""

from __future__ import annotations

import json
import logging
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
from starlette.routing import Route

from ser.errors import SerError
from ser.ui.context import PRIVATE, translated
from ser.ui.corpora import DEMO
from ser.ui.html import box, paragraph, quoted
from ser.ui.job_desk import ACTIONS, JobDesk, Outcome
from ser.ui.jobs import JobStatus
from ser.ui.model import without_folders
from ser.ui.run_settings import Number
from ser.ui.run_view import BAR_CSS, links, title
from ser.ui.runs import LATEST, Run
from ser.ui.texts import emotion_name, localised
from ser.ui.training_texts import lead, say

AT_ONCE: dict[str, Any] = {**PRIVATE, "queue": False}
TICK_S = 1.0
MOST_STEPS = 300  # of a slider; other numbers are typed
VARIANTS = {"stop": "stop", "use": "primary"}
# When the tab opens: the run that the address names, and how many matrices fit side by side.
OPENED_JS = """(chosen) => [
  new URLSearchParams(location.search).get("KIND") || chosen, innerWidth < 640 ? 1 : innerWidth < 1000 ? 2 : 3
]"""
NOTE_JS = "(run) => window.ser.note('KIND', run === 'latest' ? '' : run)"

log = logging.getLogger(__name__)
Update = dict[Any, Any]


class JobTab(JobDesk):
    """One training tab."""

    @abstractmethod
    def settings(self, corpus: gr.Dropdown) -> list[Any]:
        """Build the components of the settings, in the order that `words` takes them."""

    @abstractmethod
    def places(self) -> list[Any]:
        """Build what is shown below the settings and the box."""

    @abstractmethod
    def state(self, run: Run, status: JobStatus, language: str) -> str:
        """The box that says how a run stands."""

    @abstractmethod
    def more(self, run: Run | None, language: str, columns: int) -> Update:
        """What is shown in `places`."""

    def build(self) -> None:
        """Fill the tab."""
        kind = self.kind
        self.presets: list[Any] = []  # what only fills in other settings
        gr.Markdown(translated(f"ser_{kind}_intro"), elem_classes="quiet")
        with gr.Row(equal_height=False):
            with gr.Column(min_width=320):
                choices = self._choices()
                label, is_on = translated(f"ser_{kind}_start"), self.context.owner.is_possible
                start = gr.Button(label, variant="primary", elem_id=f"{kind}-start", interactive=is_on)
                closed = "" if is_on else box("unsure", paragraph(str(translated("ser_job_closed"))))
                self.message = gr.HTML(closed, elem_id=f"{kind}-message")
                self.offer = gr.Button(visible=False, elem_id=f"{kind}-offer")
            with gr.Column(min_width=320):
                self._run_places()
        below, names = self.places(), ("seen", "shown", "offered")
        self.seen, self.shown, self.offered = (gr.Textbox("", visible="hidden", label=name) for name in names)
        # Where the server offers other corpora or encoders by now, a reload begins anew.
        offered = json.dumps([kind, self.context.corpora.names, self.context.encoders.names])
        self.context.forms[offered] = [*choices, *self.presets]
        self._watch(below)
        self._wire(start, self.start, choices)
        self._wire(self.offer, self.accept, [self.offered, *choices])
        for name, button in self.buttons.items():
            self._wire(button, getattr(self, name), [self.shown])
        self.context.routes.append(Route(f"/{self.runs.folder.name}/{{run}}/{{name}}", self.download))
        self.context.on_close.append(self.close)

    def _choices(self) -> list[Any]:
        kind, encoders = self.kind, self.context.encoders.names
        _, *corpora = self.context.corpora.names
        with gr.Group():
            named = [(translated("ser_job_demo"), DEMO), *((name, name) for name in corpora)]
            label = translated("ser_job_corpus")
            self.corpus = gr.Dropdown(named, value=DEMO, label=label, elem_id=f"{kind}-corpus")
            label = translated("ser_job_encoder")
            encoder = gr.Dropdown(encoders, value=encoders[0], label=label, visible=len(encoders) > 1)
            name = gr.Textbox(label=translated("ser_job_name"), max_length=40, elem_id=f"{kind}-name")
            self.values = values = self.settings(self.corpus)
        self.corpus.input(self.facts, [self.corpus, self.context.language], self.corpus, **AT_ONCE)
        return [self.corpus, encoder, name, *values]

    def number(self, number: Number) -> Any:
        """A component for a number: a slider where there are few steps, else typed, and then checked by `words`."""
        label, place = translated(f"ser_job_{number.name}"), f"{self.kind}-{number.name}"
        about: dict[str, Any] = {"label": label, "elem_id": place, "step": number.step, "min_width": 220}
        if (number.most - number.least) / number.step <= MOST_STEPS:
            return gr.Slider(number.least, number.most, number.quick, **about)
        return gr.Number(number.quick, **about)

    def preset(self, is_quick: bool) -> list[Any]:
        """The values of `numbers`: what suits the demonstration, or the paper's."""
        return [number.quick if is_quick else number.paper for number in self.numbers]

    def fill_in(self, chosen: Any, quick: str, values: Callable[[bool], list[Any]], places: Sequence[Any]) -> None:
        """Let a choice set `places` to `values(chosen == quick)`.

        In the browser: an answer of the server could come after what was typed next, and write over it. When something
        is chosen: Gradio's `input` comes again when a list is left.
        """
        is_quick, *filled = map(json.dumps, (quick, values(True), values(False)))
        js = f"(chosen) => chosen === {is_quick} ? {filled[0]} : {filled[1]}"
        chosen.select(None, chosen, places, js=js, **PRIVATE)

    def _run_places(self) -> None:
        """Which run, how it stands, its buttons and notes."""
        kind, label = self.kind, translated(f"ser_{self.kind}_run")
        # `Runs` checks the name: gradio's own list is lost when the server is started again.
        about: dict[str, Any] = {"elem_id": f"{kind}-run", "allow_custom_value": True}
        self.run = gr.Dropdown([("…", LATEST)], value=LATEST, label=label, **about)
        self.box = gr.HTML(elem_id=f"{kind}-state", css_template=BAR_CSS)
        with gr.Row(elem_id=f"{kind}-buttons"):
            self.buttons = {name: self._button(name) for name in ACTIONS}
        self.notes = gr.HTML(elem_id=f"{kind}-files")

    def _button(self, name: str) -> gr.Button:
        label, variant = translated(f"ser_job_{name}"), VARIANTS.get(name, "secondary")
        return gr.Button(label, variant=variant, visible=False, min_width=140, elem_id=f"{self.kind}-{name}")

    def _watch(self, below: Sequence[Any]) -> None:
        """Ask for news when the tab opens, when a run is chosen, and every second while the tab is open."""
        tab: Any = self.context.tab
        language, columns = self.context.language, gr.Number(3, visible="hidden", label="columns")
        shown = [self.seen, self.shown, self.run, self.box, self.notes, *self.buttons.values(), *below]
        asked = [self.seen, self.run, language, columns]
        self.asking = {"fn": self.news, "inputs": asked, "outputs": shown, **AT_ONCE}
        timer = gr.Timer(TICK_S, active=False)
        self.context.timers.append((tab, timer))
        # One at a time: the answer to a tick never comes after that to a choice.
        gr.on([timer.tick, self.run.input], **self.asking, trigger_mode="always_last")
        word = "run" if self.kind == "cv" else "study"
        self.noting = {"inputs": self.run, "js": NOTE_JS.replace("KIND", word), **PRIVATE}
        self.run.input(None, **self.noting)
        # What was said of one run, in one language, and offered with it.
        gone: dict[str, Any] = {"fn": lambda: ("", gr.Button(visible=False)), "outputs": [self.message, self.offer]}
        if self.context.owner.is_possible:
            gr.on([self.run.input, language.change], **gone, **AT_ONCE)
        opened = tab.select(None, self.run, [self.run, columns], js=OPENED_JS.replace("KIND", word), **PRIVATE)
        opened = opened.then(**self.asking)
        about = {"fn": self.facts, "inputs": [self.corpus, language], "outputs": self.corpus, **AT_ONCE}
        opened.then(**about)
        language.change(**about)

    def _wire(self, button: gr.Button, action: Callable[..., Outcome], inputs: Sequence[Any]) -> None:
        """Let a button call an action: a word at once, the action, what it led to, then news."""
        language = self.context.language

        def wait(language: str) -> Update:
            waiting = box("waiting", paragraph(say("working", language)))
            return {self.message: waiting, self.offer: gr.Button(visible=False)}

        def act(request: gr.Request, secret: str, language: str, *values: Any) -> Update:
            outcome = self.press(action, values, secret, language, request)
            lines = (
                [quoted(outcome.said, outcome.reason)] if outcome.reason else map(paragraph, outcome.said.split("\n"))
            )
            form: Update = {}
            if outcome.settings:
                corpus, filled = outcome.settings
                form = dict(zip(self.values, filled, strict=True))
                form[self.corpus] = self.facts(corpus, language, value=corpus) if corpus else gr.skip()
            return form | {
                self.message: box(outcome.kind, *lines),
                self.offer: gr.Button(outcome.label, visible=bool(outcome.offer)),
                self.offered: outcome.offer,
                self.run: gr.update(value=outcome.show) if outcome.show else gr.skip(),
            }

        def fail(language: str) -> str:
            return box("problem", paragraph(say("not_sent", language)))

        pressed = button.click(wait, language, [self.message, self.offer], **AT_ONCE)
        places = [self.message, self.offer, self.offered, self.run, self.corpus, *self.values]
        done = pressed.then(act, [self.context.session, language, *inputs], places, **PRIVATE)
        done.failure(fail, language, self.message, **AT_ONCE)  # gradio refused a value before `act` saw it
        done = done.then(**self.asking)
        done.then(None, **self.noting)
        if action == self.use:
            self.context.model_changes.append(done)

    def news(self, seen: str, chosen: str, language: str, columns: float) -> Any:
        """What has changed since the page last asked: the list of runs, the run that is shown, both or nothing."""
        runs = self.runs.all()
        names = [one.name for one in runs]
        run = self.runs.find(chosen) or self.runs.find(LATEST)
        try:
            stamp = run.stamp() if run else ""
        except Exception:  # as in `_shown`, which says it
            stamp = "unreadable"
        listed, shown = f"{names} {language}", f"{stamp} {language} {columns}"
        seen_list, _, seen_run = str(seen).partition("\n")
        if (seen_list, seen_run) == (listed, shown):
            return gr.skip()
        update: Update = {self.seen: f"{listed}\n{shown}"}
        if seen_list != listed:
            choices = [(title(one, language), one.name) for one in runs]
            gone = {} if chosen in (LATEST, *names) else {"value": LATEST}  # what is chosen stays
            update[self.run] = gr.Dropdown([(say("latest", language, self.kind), LATEST), *choices], **gone)
        if seen_run != shown:
            update |= self._shown(run, language, int(columns) if columns in (1, 2, 3) else 3)
        return update

    def _shown(self, run: Run | None, language: str, columns: int) -> Update:
        """A run, or what to do where there is none."""
        if run is None:
            state = box("waiting", paragraph(say("no_run", language, self.kind)))
            return self._update("", state, "", set()) | self.more(None, language, columns)
        try:
            status = run.status()
            allowed = self.allowed(run, status) if self.context.owner.is_possible else set()
            state, notes = self.state(run, status, language), self.about(run, language)
            return self._update(run.name, state, notes, allowed) | self.more(run, language, columns)
        except Exception:  # whatever somebody wrote into the folder; said once, until something changes there
            log.exception("event=run_unreadable run=%s", run.name)
            state = box("problem", paragraph(say("unreadable", language)))
            return self._update(run.name, state, "", {"delete"})

    def _update(self, name: str, state: str, notes: str, allowed: set[str]) -> Update:
        # With the label: one that was hidden when the language changed has kept the old one.
        buttons = {
            button: gr.Button(translated(f"ser_job_{action}"), visible=action in allowed)
            for action, button in self.buttons.items()
        }
        return {self.shown: name, self.box: state, self.notes: notes, **buttons}

    def about(self, run: Run, language: str) -> str:
        """What can be downloaded, and what should be known."""
        files = self.tested(run)
        shown = links(files, f"{self.runs.folder.name}/{run.name}", language) if files else ""
        notes = {
            "example_note": run.is_example,
            "demo_note": run.is_demo(),
            "temporary": self.context.settings.data_is_temporary,
        }
        return shown + "".join(paragraph(say(key, language, self.kind), "quiet") for key in notes if notes[key])

    def facts(self, corpus: str, language: str, **more: str) -> Any:
        """How large a corpus is, below its name."""
        try:
            found = self.context.corpora.read(corpus)
        except SerError as error:
            return gr.update(info=f"{lead(language, error)} {without_folders(str(error))}".strip(), **more)
        spoken = [one.emotion for one in found.utterances]
        counts = [f"{emotion_name(label, language)} {spoken.count(label)}" for label in found.emotions]
        emotions = localised(("، " if language == "fa" else ", ").join(counts), language)
        sizes: dict[str, Any] = {"clips": len(spoken), "speakers": len(found.speakers)}
        return gr.update(info=say("corpus_facts", language, emotions=emotions, **sizes), **more)
