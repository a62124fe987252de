"""What the tab Tune shows of a study: HTML from what `tune.json`, the run of the best trial and the job say.

In: a study, the status of its job, a language. Out: HTML.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ser.ui.html import paragraph, percent
from ser.ui.jobs import JobStatus
from ser.ui.run_view import bar, ended, phase, preparing, run_box, table, test_scores, training_lines
from ser.ui.runs import Study
from ser.ui.texts import localised
from ser.ui.ticks import share, share_ticks, ticks_between
from ser.ui.training_texts import TEXTS, say

NUMBER_STEPS = (1, 2, 5, 10, 20, 50, 100, 200)  # between the marks of the axis of trials
Content = Mapping[str, Any]


def study_box(study: Study, status: JobStatus, language: str, now_s: float | None = None) -> str:
    """How a study stands: a heading, how far it is, the best trial, counts, time left, the scores once tested."""
    told = study.read("tune.json")
    if status.state == "never" and told and told["state"] in ("done", "searched"):  # by the command line
        status = replace(status, state="finished")
    if status.state == "running":
        heading, lines = _running(study, language, time.time() if now_s is None else now_s)
    else:
        heading, lines = say(status.state, language), ended(status, language)
    best = [] if told is None else _best(told, language)
    scores = [] if study.model() is None else test_scores(study.result, language)
    return run_box(study, status.state, heading, [*lines, *best, *scores], language)


def trials_table(told: Content | None, language: str) -> str:
    """Every trial, the newest first, for screens that are too narrow for Optuna's dashboard."""
    if not told or not told["trials"]:
        return ""
    rows = []
    for one in reversed(told["trials"]):
        value = one["validation_accuracy"] if one["value"] is None else one["value"]
        state, shown = say(f"trial_{one['state']}", language), "" if value is None else f"{100 * value:.1f} %"
        rows.append([str(one["number"]), state, str(one["epoch"] or ""), shown])
    heads = [say(key, language) for key in ("trial", "state", "epoch", "validation_wa")]
    return table(heads, rows, language)


def history_figure(told: Content, language: str) -> Any:
    """Every trial and the best so far, for the same screens."""
    from ser.reporting.charts import search_figure

    trials = told["trials"]
    figure = search_figure(trials, {key: say(f"trial_{key}", language) for key in ("best", "complete", "pruned")})
    numbers = [one["number"] for one in trials]
    title, value = say("trial", language), say("validation_wa", language)
    figure.update_xaxes(title_text=title, **ticks_between(min(numbers), max(numbers), NUMBER_STEPS, language))
    figure.update_yaxes(title_text=value, rangemode="tozero", **share_ticks(language))
    for trace in figure.data:
        pairs = zip(trace.x, trace.y, strict=True)
        shown = [f"{title} {localised(str(x), language)}: {share(y, 1, language)}" for x, y in pairs]
        trace.update(hoverinfo="text", hovertext=shown)
    return figure


def dashboard_frame(told: Content | None) -> str:
    """Optuna's dashboard, at the page of a study; it is at the root of the host, whatever the page's prefix."""
    place = "dashboard" if told is None else f"dashboard/studies/{int(told['study_id'])}"
    return f'<iframe class="dashboard" src="/{place}" title="Optuna Dashboard" loading="lazy"></iframe>'


def _running(study: Study, language: str, now_s: float) -> tuple[str, list[str]]:
    """Heading and lines of a study in progress; nothing of what an earlier job left there."""
    told = study.news("tune.json")
    if told is None:
        return say("preparing", language), preparing(study, language)
    if told["state"] == "searching":
        done, wanted = _finished(told), told["n_trials"]
        heading = say("searching", language, done=done, wanted=wanted)
        return heading, [bar(done / wanted), *_trials(told, language, now_s)]
    # The best trial's configuration is trained again, tested, and trained on all speakers.
    progress = study.best_run.news("progress.json", since=study) if study.best_run else None
    state = told["state"] if told["state"] != "testing" else progress["state"] if progress else "training"
    if state != "training":
        return phase(state, language), [bar(None)]
    lines = training_lines(progress, language) if progress and progress["epoch"] else [bar(None)]
    return say("training_best", language), lines


def _trials(told: Content, language: str, now_s: float) -> list[str]:
    """The trials in progress, and until when new ones start."""
    texts = []
    for one in told["trials"]:
        if one["state"] == "running" and one["epoch"]:
            value = percent(one["validation_accuracy"])
            texts.append(say("now", language, number=one["number"], epoch=one["epoch"], value=value))
    left_s = told["started"] + told["timeout_s"] - now_s
    left = say("time_left" if left_s > 0 else "time_up", language, minutes=max(1, round(left_s / 60)))
    return [paragraph(text) for text in (*(texts or [say("first_epoch", language)]), left)]


def _best(told: Content, language: str) -> list[str]:
    best, counts = told["best"], told["counts"]
    failed = counts["fail"] - told["queued_again"]  # a trial that was stopped or killed is not called failed
    said = say("counts", language, **{**counts, "fail": failed})
    if best is None:
        return [paragraph(say("no_best", language)), paragraph(said, "facts")]
    value = say("best", language, number=best["number"], value=percent(best["value"], 2))
    again = [say("again", language, again=told["queued_again"])] if told["queued_again"] else []
    facts = (_parameters(best["parameters"], language), said, *again)
    return [paragraph(value), *(paragraph(fact, "facts") for fact in facts)]


def _parameters(parameters: Content, language: str) -> str:
    """The chosen settings by the names that the other tab gives them."""
    shown = []
    for name, value in parameters.items():
        key = f"ser_job_{name}"
        text = str(round(value, 6) if isinstance(value, float) else value)
        text = "\u200f" + localised(text, language) if language == "fa" else text
        shown.append(f"{say(key, language) if key in TEXTS else name}: {text}")
    return ("؛ " if language == "fa" else "; ").join(shown)


def _finished(told: Content) -> int:
    return int(told["counts"]["complete"] + told["counts"]["pruned"])
