"""What the tests of the training tabs share: a tab on a page of its own, and what `ser crossval` leaves in a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import gradio as gr
import numpy as np

from ser.labels import EMOTIONS
from ser.scoring.metrics import accuracy_and_uar
from ser.ui.context import Context
from ser.ui.job_tab import JobTab
from ser.ui.runs import Run
from ser.ui.settings import AppSettings

PRESSES = ("start", "accept", "stop", "resume", "use", "train", "adopt", "delete")


def built(kind: type[JobTab], data: Path, **settings: Any) -> JobTab:
    """A tab on a page of its own."""
    context = Context.of(AppSettings(data=data, data_is_temporary=False, **settings))
    no_server = patch("gradio.routes.App.create_app")  # most of the time, for routes that nobody asks here
    with no_server, gr.Blocks() as page:
        context.language, context.session = gr.Textbox(), gr.Textbox()
        with gr.Tabs(), gr.Tab("this one") as context.tab:
            tab = kind(context)  # type: ignore[call-arg]
            tab.build()
    tab.page = page  # type: ignore[attr-defined]
    return tab


def buttons(tab: JobTab) -> dict[str, Callable[..., Any]]:
    """What the page calls for each button of a tab, as it is wired."""
    functions = tab.page.fns.values()  # type: ignore[attr-defined]
    return dict(zip(PRESSES, [one.fn for one in functions if tab.context.session in one.inputs], strict=True))


def pressed(tab: JobTab, button: str, *values: Any, secret: Any = ..., language: str = "en") -> dict[Any, Any]:
    """What the page is told after a press, by default the owner's."""
    request = SimpleNamespace(client=SimpleNamespace(host="127.0.0.1"), headers={"host": "127.0.0.1"})
    session = tab.context.owner.token if secret is ... else secret
    updates: dict[Any, Any] = buttons(tab)[button](request, session, language, *values)
    return updates


def progress(n_epochs: int = 2, state: str = "training") -> dict[str, Any]:
    """What `ser crossval` writes after `n_epochs` epochs of two folds; the diagonal grows."""

    def epoch(number: int, fold: int) -> dict[str, Any]:
        matrix = np.ones((6, 6), int) + number * np.eye(6, dtype=int)
        scored = accuracy_and_uar(matrix)
        losses = {"train_loss": 1.5 / number, "validation_loss": 1.6 / number + fold}
        scores = {"validation_wa": scored.wa, "validation_uar": scored.uar, "validation_confusion": matrix.tolist()}
        return {"epoch": number, **losses, **scores}

    epochs = [[epoch(number, fold) for number in range(1, n_epochs + 1)] for fold in range(2)]
    folds = [{"stopped": False, "best_epoch": n_epochs, "epochs": of_fold} for of_fold in epochs]
    return {"state": state, "epoch": n_epochs, "max_epochs": 9, "labels": EMOTIONS, "folds": folds}


def result() -> dict[str, Any]:
    """What `ser crossval` writes at the end: the test scores of the two folds are 90 % and 70 %."""
    matrices = [np.eye(6, dtype=int) * 3, np.full((6, 6), 2)]
    folds = [
        {"test_confusion": matrix.tolist(), "best_epoch": 1, "epochs": fold["epochs"],
         "test_scores": {"wa": {"value": value}, "uar": {"value": value}}}
        for matrix, fold, value in zip(matrices, progress()["folds"], (0.9, 0.7), strict=True)
    ]  # fmt: skip
    score = {"value": 0.6123, "low": 0.5, "high": 0.7}
    pooled = {"pooled": {"wa": score, "uar": score}, "pooled_confusion": sum(matrices).tolist()}
    return {"labels": EMOTIONS, "protocol": "by <hand>", "folds": folds, **pooled}


def write_run(folder: Path, **files: Any) -> Run:
    """A run folder with JSON files by their stems; `job` first, as the others are written by the job."""
    folder.mkdir(parents=True, exist_ok=True)
    for stem, content in sorted(files.items(), key=lambda pair: pair[0] != "job"):
        (folder / f"{stem}.json").write_text(json.dumps(content))
    return Run(folder)


def write_table(folder: Path, n_speakers: int) -> Path:
    """A corpus whose recordings nobody opens: each of some speakers says three emotions."""
    folder.mkdir(parents=True)
    rows = ["path,speaker,emotion"]
    for number, emotion in enumerate(("anger", "neutral", "sadness") * n_speakers):
        (folder / f"{number}.wav").touch()
        rows.append(f"{number}.wav,S{number // 3},{emotion}")
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder
