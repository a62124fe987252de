"""The tab Cross-validate: start a run, watch it live, stop it, resume it, let its model answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from ser.ui.context import Context, translated
from ser.ui.corpora import DEMO
from ser.ui.job_tab import JobTab, Update
from ser.ui.jobs import JobStatus
from ser.ui.run_settings import CROSSVAL_NUMBERS, OPTIMIZERS, choice, options
from ser.ui.run_view import curves_figure, fold_table, matrices_figure, matrices_of, state_box
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

    def __init__(self, context: Context) -> None:
        super().__init__(context, "runs", Run)

    def settings(self, corpus: gr.Dropdown) -> list[Any]:
        names = [(translated(f"ser_cv_{name}"), name) for name in (QUICK, PAPER)]
        presets = gr.Radio(names, value=QUICK, label=translated("ser_cv_preset"), elem_id="cv-preset")
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

    def words(self, values: Sequence[Any]) -> list[str]:
        *numbers, optimizer = values or (None,)
        return [*options(self.numbers, numbers), *choice("optimizer", optimizer, OPTIMIZERS)]

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
        return [self.curves, self.table, self.about_matrices, self.matrices]

    def more(self, run: Run | None, language: str, columns: int) -> Update:
        progress = run.read("progress.json") if run else None
        if run is None or progress is None or not progress["epoch"]:
            hidden = gr.Plot(visible=False)
            return {self.curves: hidden, self.table: "", self.about_matrices: "", self.matrices: hidden}
        result = run.result
        matrices = matrices_figure(matrices_of(progress, result), progress["labels"], language, columns)
        return {
            self.curves: gr.Plot(curves_figure(progress, language), visible=True),
            self.table: fold_table(progress, result, language),
            self.about_matrices: say("matrices_now" if result is None else "matrices_test", language),
            self.matrices: gr.Plot(matrices, visible=True),
        }
