"""The tab Cross-validate: start a run, watch it live, stop it, resume it, let its model answer."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ser.ui.context import Context, translated
from ser.ui.corpora import DEMO
from ser.ui.job_tab import AT_ONCE, JobTab, Update
from ser.ui.jobs import JobStatus
from ser.ui.run_settings import CROSSVAL_NUMBERS, OPTIMIZERS
from ser.ui.run_view import curves_figure, difference_box, fold_table, matrices_figure, matrices_of, state_box, title
from ser.ui.runs import Run
from ser.ui.training_texts import TEXTS as TEXTS
from ser.ui.training_texts import say

PAPER, QUICK = "paper", "quick"


def build(context: Context) -> None:
    """Fill the tab."""
    CrossvalidateTab(context).build()


class CrossvalidateTab(JobTab):
    """Cross-validations."""

    kind, numbers = "cv", CROSSVAL_NUMBERS
    chosen = ("optimizer", OPTIMIZERS)

    def __init__(self, context: Context) -> None:
        super().__init__(context, "runs", Run)

    def settings(self, corpus: gr.Dropdown) -> list[Any]:
        names = [(translated(f"ser_cv_{name}"), name) for name in (QUICK, PAPER)]
        presets = gr.Radio(names, value=QUICK, label=translated("ser_cv_preset"), elem_id="cv-preset")
        self.presets.append(presets)
        with gr.Accordion(translated("ser_cv_all_settings"), open=False, elem_id="cv-settings"), gr.Row():
            values = [self.number(number) for number in self.numbers]
            label = translated("ser_job_optimizer")
            values.append(gr.Dropdown(list(OPTIMIZERS), value="adam", label=label, min_width=220))
        self.fill_in(presets, QUICK, self.preset, values)
        both = [presets, *values]
        self.fill_in(corpus, DEMO, lambda is_demo: [QUICK if is_demo else PAPER, *self.preset(is_demo)], both)
        return values

    def preset(self, is_quick: bool) -> list[Any]:
        """The values of a preset: one that learns the demonstration quickly, or the paper's best configuration."""
        return [*super().preset(is_quick), "adam" if is_quick else "sgd"]

    def command(self, run: Run) -> list[str]:
        return ["crossval", "--out", str(run.folder)]

    def state(self, run: Run, status: JobStatus, language: str) -> str:
        return state_box(run, status, language)

    def places(self) -> list[Any]:
        self.curves = gr.Plot(
            label=translated("ser_cv_curves"), visible=False, elem_id="cv-curves", elem_classes="chart"
        )
        self.table = gr.HTML(elem_id="cv-table")
        self.about_matrices = gr.Markdown(elem_id="cv-about-matrices", elem_classes="quiet")
        self.matrices = gr.Plot(
            label=translated("ser_cv_matrices"), visible=False, elem_id="cv-matrices", elem_classes="chart"
        )
        about: dict[str, Any] = {"visible": False, "elem_id": "cv-other", "allow_custom_value": True}
        self.other = gr.Dropdown([], label=translated("ser_cv_compare"), **about)
        self.difference = gr.HTML(elem_id="cv-difference")
        inputs = [self.other, self.run, self.context.language]
        self.other.input(self.compare, inputs, self.difference, **AT_ONCE)
        return [self.curves, self.table, self.about_matrices, self.matrices, self.other, self.difference]

    def compare(self, other: str, chosen: str, language: str) -> str:
        """How much better the run that is chosen is than another."""
        run, reference = self.runs.find(chosen), self.runs.find(other)
        return difference_box(run, reference, language) if run and reference else ""

    def more(self, run: Run | None, language: str, columns: int) -> Update:
        progress = run.read("progress.json") if run else None
        if run is None or progress is None or not progress["epoch"]:
            hidden = gr.Plot(visible=False)
            closed: Update = {self.other: gr.Dropdown(visible=False), self.difference: ""}
            return {self.curves: hidden, self.table: "", self.about_matrices: "", self.matrices: hidden} | closed
        result = run.result
        tested = [one for one in self.runs.all() if one != run and "result.json" in one.downloads()] if result else []
        others = [(title(one, language), one.name) for one in tested]
        matrices = matrices_figure(matrices_of(progress, result), progress["labels"], language, columns)
        return {
            self.curves: gr.Plot(curves_figure(progress, language), visible=True),
            self.table: fold_table(progress, result, language),
            self.about_matrices: say("matrices_now" if result is None else "matrices_test", language),
            self.matrices: gr.Plot(matrices, visible=True),
            self.other: gr.Dropdown(others, value=None, visible=bool(others)),
            self.difference: "",
        }
