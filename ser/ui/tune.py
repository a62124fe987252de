"""The tab Tune: start a search, watch it, stop it, resume it, train and use the best configuration."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import gradio as gr

from ser.ui import jobs
from ser.ui.context import Context, translated
from ser.ui.corpora import DEMO
from ser.ui.dashboard import Dashboard
from ser.ui.html import paragraph
from ser.ui.job_desk import Outcome
from ser.ui.job_tab import JobTab, Update
from ser.ui.jobs import JobStatus
from ser.ui.run_settings import SAMPLERS, TUNE_NUMBERS
from ser.ui.runs import Run, Study
from ser.ui.training_texts import TEXTS as TEXTS
from ser.ui.training_texts import say
from ser.ui.tune_view import dashboard_frame, history_figure, study_box, trials_table


def build(context: Context) -> None:
    """Fill the tab."""
    TuneTab(context).build()


class TuneTab(JobTab):
    """Searches."""

    kind, numbers = "tune", TUNE_NUMBERS
    chosen = ("sampler", SAMPLERS)

    def __init__(self, context: Context) -> None:
        super().__init__(context, "studies", Study)
        settings = context.settings
        self.dashboard = Dashboard(self.runs.folder, settings.storage, settings.dashboard_writable)
        context.routes.extend(self.dashboard.routes())

    def settings(self, corpus: gr.Dropdown) -> list[Any]:
        with gr.Row():
            numbers = [self.number(number) for number in self.numbers]
        samplers = [(translated(f"ser_tune_{name}"), name) for name in SAMPLERS]
        label = translated("ser_job_sampler")
        sampler = gr.Radio(samplers, value=SAMPLERS[0], label=label, elem_id="tune-sampler")
        self.fill_in(corpus, DEMO, self.preset, numbers)
        return [*numbers, sampler]

    def command(self, run: Run) -> list[str]:
        return ["tune", "--study", run.name, "--out", str(self.runs.folder)]

    def state(self, run: Run, status: JobStatus, language: str) -> str:
        return study_box(Study(run.folder), status, language)

    def tested(self, run: Run) -> Run | None:
        return Study(run.folder).best_run

    def allowed(self, run: Run, status: JobStatus) -> set[str]:
        can_train = status.state != "running" and status.command and Study(run.folder).best_run and not run.model()
        return super().allowed(run, status) | ({"train"} if can_train else set())

    def as_started(self, run: Run) -> list[str]:
        """Without what `train` put behind it."""
        command = super().as_started(run)
        places = [place for place, word in enumerate(command) if word == "--trials"]
        return command[: places[1]] if len(places) > 1 else command

    def train(self, language: str, name: str) -> Outcome:
        run = self.run_of(name, "no_model", "train")
        counts = (run.read("tune.json") or {})["counts"]
        # As many trials as there are: none is left to run, and the best one is trained and tested.
        command = [*self.as_started(run), "--trials", str(counts["complete"] + counts["pruned"])]
        jobs.start(command, run.folder, one_at_a_time=self.data)
        return Outcome(say("best_started", language))

    def remove(self, run: Run) -> None:
        """Also from the storage, so that the dashboard forgets it."""
        super().remove(run)
        with suppress(KeyError):
            storage = self.dashboard.open_storage()
            storage.delete_study(storage.get_study_id_from_name(run.name))

    def places(self) -> list[Any]:
        look: dict[str, Any] = {"elem_id": "tune-history", "elem_classes": "chart"}
        self.history = gr.Plot(label=translated("ser_tune_history"), visible=False, **look)
        self.trials = gr.HTML(elem_id="tune-table")
        self.frame = gr.HTML(elem_id="tune-dashboard")
        return [self.history, self.trials, self.frame]

    def more(self, run: Run | None, language: str, columns: int) -> Update:
        told = run.read("tune.json") if run else None
        figure = history_figure(told, language) if told and told["trials"] else None
        history = gr.Plot(figure, visible=figure is not None)
        frame = dashboard_frame(told) if run else ""
        return {self.history: history, self.trials: trials_table(told, language), self.frame: frame}

    def about(self, run: Run, language: str) -> str:
        link = f'<p class="quiet"><a href="/dashboard" target="_blank">{say("open_alone", language)}</a></p>'
        is_read_only = not self.context.settings.dashboard_writable
        read_only = paragraph(say("read_only", language), "quiet") if is_read_only else ""
        return super().about(run, language) + read_only + link
