"""What the tab Tune shows of a study: HTML from what `tune.json` and the job say.

In: the content of `tune.json`, the status of the job, a language. Out: HTML.
"""

from __future__ import annotations

import html
import time
from collections.abc import Mapping
from typing import Any

from ser.ui.jobs import JobStatus
from ser.ui.model import without_folders
from ser.ui.run_view import BOX_KINDS
from ser.ui.tune_texts import TEXTS, say

Content = Mapping[str, Any]


def study_box(
    title: str, status: JobStatus, told: Content | None, language: str, now_s: float | None = None
) -> str:
    """How a study stands: heading, bar, best trial, counts, time left."""
    now_s = time.time() if now_s is None else now_s
    lines = [_paragraph(title, "facts")]
    if told is not None:
        lines += _trials(status, told, language, now_s)
    elif status.state == "running":
        lines += ["<progress></progress>", _paragraph(say("preparing_means", language))]
    if status.state in ("failed", "stopped"):
        reason = without_folders(status.reason) if status.state == "failed" else ""
        lines += [_paragraph(reason), _paragraph(say(f"{status.state}_means", language))]
    kind = "running" if status.state == "running" else BOX_KINDS.get(status.state, "waiting")
    heading = html.escape(_heading(status, told, language))
    return f'<div class="box {kind}" role="status"><h2>{heading}</h2>{"".join(lines)}</div>'


def empty_box(language: str) -> str:
    return f'<div class="box waiting" role="status">{html.escape(say("no_run", language))}</div>'


def dashboard_frame(told: Content | None) -> str:
    """Optuna's dashboard, at the page of a study; it is at the root of the host, whatever the page's prefix."""
    place = "dashboard" if told is None else f"dashboard/studies/{int(told['study_id'])}"
    return f'<iframe class="dashboard" src="/{place}" title="Optuna Dashboard" loading="lazy"></iframe>'


def _heading(status: JobStatus, told: Content | None, language: str) -> str:
    if status.state != "running":
        return say("elsewhere" if status.state == "never" else status.state, language)
    if told is None:
        return say("preparing", language)
    if told["state"] == "testing":
        return say("testing", language)
    return say("searching", language, done=_finished(told), wanted=told["n_trials"])


def _trials(status: JobStatus, told: Content, language: str, now_s: float) -> list[str]:
    counts, best, lines = told["counts"], told["best"], []
    if status.state == "running":
        lines.append(f'<progress max="{told["n_trials"]}" value="{_finished(told)}"></progress>')
    if best is None:
        lines.append(_paragraph(say("no_best", language)))
    else:
        lines.append(_paragraph(say("best", language, number=best["number"], value=_percent(best["value"]))))
        lines.append(_paragraph(_parameters(best["parameters"], language), "facts"))
    failed = counts["fail"] - told["queued_again"]  # a trial that was stopped or killed is not called failed
    lines.append(_paragraph(say("counts", language, **{**counts, "fail": failed})))
    if status.state == "running" and told["state"] == "searching":
        lines += [_paragraph(text) for text in _running(told, language, now_s)]
    if told.get("scored"):
        scores = {name: _percent(told["scored"][name]) for name in ("wa", "uar")}
        lines.append(_paragraph(say("test_scores", language, **scores)))
    return lines


def _running(told: Content, language: str, now_s: float) -> list[str]:
    running = [trial for trial in told["trials"] if trial["state"] == "running" and trial["epoch"]]
    texts = [
        say(
            "now",
            language,
            number=one["number"],
            epoch=one["epoch"],
            value=_percent(one["validation_accuracy"]),
        )
        for one in running
    ]
    left_s = told["started"] + told["timeout_s"] - now_s
    if left_s > 0:
        return [*texts, say("time_left", language, minutes=max(1, round(left_s / 60)))]
    return [*texts, say("time_up", language)]


def _parameters(parameters: Content, language: str) -> str:
    shown = {
        name: round(value, 6) if isinstance(value, float) else value for name, value in parameters.items()
    }
    return ", ".join(
        f"{say(name, language)} {value}" if name in TEXTS else f"{name} {value}"
        for name, value in shown.items()
    )


def _finished(told: Content) -> int:
    return int(told["counts"]["complete"] + told["counts"]["pruned"])


def _percent(share: float) -> float:
    return round(100 * share, 2)


def _paragraph(text: str, kind: str = "") -> str:
    return f'<p class="{kind}">{html.escape(text)}</p>' if text else ""
