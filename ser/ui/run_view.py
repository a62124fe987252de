"""What the training tabs show of a run: HTML and plotly figures from what its folder says.

In: a run, the status of its job, a language. Out: HTML or a figure.
"""

from __future__ import annotations

import html
import math
import re
import time
from collections.abc import Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from ser.errors import SerError
from ser.scoring.metrics import accuracy_and_uar
from ser.scoring.predictions import contribution
from ser.ui.corpora import DEMO
from ser.ui.html import box, paragraph, percent, quoted
from ser.ui.jobs import STAGE, JobStatus
from ser.ui.model import without_folders
from ser.ui.runs import Run
from ser.ui.texts import emotion_name, localised, localised_shares
from ser.ui.ticks import share_ticks, ticks, ticks_between
from ser.ui.training_texts import TEXTS, lead, say

Content = Mapping[str, Any]
LOSS_STEPS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # between the marks of their axis
BOX_KINDS = {"running": "running", "finished": "sure", "stopped": "unsure", "failed": "problem"}
NOW: tuple[str, ...] = ("epoch", "train_loss", "validation_loss", "validation_wa", "validation_uar", "best_epoch")
TESTED: tuple[str, ...] = ("test_wa", "test_uar", "validation_wa", "validation_uar", "best_epoch")
# For gr.HTML's `css_template`; browsers draw a bare <progress> each in their own way.
BAR_CSS = """
.bar { height: 0.6rem; margin-top: 0.6rem; border-radius: 0.3rem; overflow: hidden; }
.bar { background: var(--border-color-primary); }
.bar > div { height: 100%; border-radius: inherit; background: #0072b2; }
.dark .bar > div { background: #56b4e9; }
.bar.busy > div { width: 30%; animation: busy 1.6s ease-in-out infinite alternate; }
@keyframes busy { from { margin-inline-start: 0; } to { margin-inline-start: 70%; } }
@media (prefers-reduced-motion: reduce) { .bar.busy > div { width: 100%; opacity: 0.5; animation: none; } }
"""


def state_box(run: Run, status: JobStatus, language: str) -> str:
    """How a cross-validation stands: a heading, how far it is, the scores so far."""
    if status.state == "running":
        return run_box(run, "running", *_running(run, language), language)
    is_done = run.result is not None and status.state in ("finished", "never")
    if is_done:
        return run_box(run, "finished", say("finished", language), test_scores(run.result, language), language)
    lines = [*ended(status, language), *_scores_now(run.read("progress.json"), language)]
    return run_box(run, status.state, say(status.state, language), lines, language)


def run_box(run: Run, state: str, heading: str, lines: Sequence[str], language: str) -> str:
    """A box about a run."""
    kind = BOX_KINDS.get(state, "waiting")
    named = f'<p class="facts">{html.escape(title(run, language))}</p>'  # in the page's direction, not its name's
    return box(kind, named, *lines, heading=heading)


def title(run: Run, language: str) -> str:
    """What a run is called in a language."""
    name, started = run.title
    named = "example" if run.is_example else "demo" if name == DEMO else ""
    is_foreign = not named and bool(re.search("[\u0590-\u08ff]", name)) != (language == "fa")
    shown_name = say(named, language) if named else f"\u2068{name}\u2069" if is_foreign else name
    shown = say("title", language, name=shown_name, started=started)
    return localised(shown if started else name, language)


def ended(status: JobStatus, language: str) -> list[str]:
    """What is said of a job that failed or was stopped."""
    if status.state not in ("failed", "stopped"):
        return []
    means = paragraph(say(f"{status.state}_means", language))
    if status.state == "stopped":
        return [means]
    is_killed = status.exit_code is None  # then its last line is no reason
    if is_killed:
        return [paragraph(say("killed", language)), means]
    return [quoted(lead(language), without_folders(status.reason)), means]


def preparing(run: Run, language: str) -> list[str]:
    """How far a job is that reads, checks or encodes recordings."""
    stage = run.news(STAGE)
    key = f"stage_{stage['stage']}" if stage else ""
    if stage is None or key not in TEXTS or stage["done"] >= stage["total"]:
        key = f"{key}_done" if f"{key}_done" in TEXTS else "stage_reading"
        return [bar(None), paragraph(say(key, language))]
    said, left_s = say(key, language, done=stage["done"], total=stage["total"]), time_left(stage)
    if left_s is not None:
        soon = "minutes_left" if left_s > 60 else "moment_left"
        said += " " + say(soon, language, minutes=math.ceil(left_s / 60))
    return [bar(stage["done"] / stage["total"]), paragraph(said)]


def training_lines(progress: Content, language: str) -> list[str]:
    """How far a training is."""
    stopped = [fold["stopped"] and len(fold["epochs"]) < progress["max_epochs"] for fold in progress["folds"]]
    said = say("early", language, stopped=sum(stopped), folds=len(stopped))
    return [bar(progress["epoch"] / progress["max_epochs"]), *([paragraph(said)] if any(stopped) else [])]


def phase(state: str, language: str) -> str:
    """What a job does after its training."""
    return say(state if state in ("testing", "training the final model") else "ending", language)


def time_left(stage: Content | None, now_s: float | None = None) -> float | None:
    """Seconds until a stage of a job ends, at the speed that it had so far; None where that cannot be known."""
    if stage is None or not stage["first"] < stage["done"] < stage["total"]:
        return None
    pace_s = (stage["updated"] - stage["started"]) / (stage["done"] - stage["first"])
    passed_s = (time.time() if now_s is None else now_s) - stage["updated"]
    return max(1.0, float(pace_s * (stage["total"] - stage["done"]) - passed_s))


def bar(share: float | None) -> str:
    """A bar of which a share is filled; one that moves where the share is not known."""
    if share is None:
        return '<div class="bar busy" role="progressbar"><div></div></div>'
    filled = round(100 * min(1.0, max(0.0, share)))
    value = f'aria-valuenow="{filled}" aria-valuemin="0" aria-valuemax="100"'
    return f'<div class="bar" role="progressbar" {value}><div style="width: {filled}%"></div></div>'


def test_scores(result: Content | None, language: str) -> list[str]:
    """What a tested run is worth, with intervals and protocol."""
    if result is None:
        return []
    values: dict[str, Any] = {"clips": int(np.sum(result["pooled_confusion"]))}
    for key in ("wa", "uar"):
        value, low, high = (percent(result["pooled"][key].get(part)) for part in ("value", "low", "high"))
        is_known = result["pooled"][key].get("low") is not None
        values |= {key: value, f"{key}_range": say("range", language, low=low, high=high) if is_known else ""}
    protocols = [result["protocol"]]
    if protocols[0].startswith("speaker-disjoint"):
        from ser.tuning.search import NOT_NESTED

        keys = ["protocol", "not_nested"] if protocols[0].endswith(NOT_NESTED) else ["protocol"]
        protocols = [say(key, language, folds=len(result["folds"])) for key in keys]
    facts = [paragraph(fact, "facts") for fact in (*protocols, say("intervals", language))]
    return [paragraph(say("scores_test", language, **values)), *facts]


def difference_box(run: Run, other: Run, language: str) -> str:
    """What a tested run gains over another that tested the same recordings in the same folds, with intervals."""
    try:
        result = run.result or {}
        found = contribution(run.folder, other.folder, result["labels"])
    except (SerError, KeyError):  # other recordings, other emotions, or nothing that can be read
        return box("problem", paragraph(say("not_comparable", language)))
    values: dict[str, Any] = {"other": title(other, language), "clips": int(np.sum(result["pooled_confusion"]))}
    for key in ("wa", "uar"):
        value, low, high = (_signed(found[key][part], language) for part in ("value", "low", "high"))
        values |= {key: value, f"{key}_range": say("range", language, low=low, high=high)}
    return box("sure", paragraph(say("compared", language, **values)), paragraph(say("intervals", language), "facts"))


def _signed(share: float, language: str) -> str:
    """A difference in percentage points; its sign stays before it in a line from right to left, too."""
    mark = "\u200e" if language == "fa" else ""
    return mark + localised(f"{100 * share:+.1f}", language)


def fold_table(progress: Content, result: Content | None, language: str) -> str:
    """Every fold and the mean over folds: at the latest epoch, or once tested, the test and validation scores."""
    rows = [_latest(fold) for fold in progress["folds"] if fold["epochs"]]
    columns, caption = (NOW, "table_now") if result is None else (TESTED, "table_test")
    if result is not None:
        rows = [_tested(fold) for fold in result["folds"]]
    means = {key: _mean([row.get(key) for row in rows]) for key in columns if not key.endswith("epoch")}
    names = [*(str(number + 1) for number in range(len(rows))), say("mean", language)]
    body = [[name, *(_cell(key, row) for key in columns)] for name, row in zip(names, [*rows, means], strict=True)]
    heads = [say(key, language) for key in ("fold", *columns)]
    return paragraph(say(caption, language), "quiet") + table(heads, body, language)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], language: str) -> str:
    """An HTML table whose first column names its rows."""
    rows = [[localised_shares(cell, language) for cell in row] for row in rows]
    head = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in heads)
    body = ""
    for name, *cells in rows:
        content = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        body += f'<tr><th scope="row">{html.escape(name)}</th>{content}</tr>'
    parts = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="fold-table" tabindex="0"><table>{parts}</table></div>'


def links(run: Run, address: str, language: str) -> str:
    """A link for each file of a run that can be downloaded below an address, and one to its report."""
    names, place = run.downloads(), quote(address)
    files = [f'<a href="{place}/{name}" download>{name}</a>' for name in names]
    if "report.html" in names:
        files.append(f'<a href="{place}/report.html?show" target="_blank">{say("open_report", language)}</a>')
    return f'<p class="downloads">{say("downloads", language)} {" ".join(files)}</p>' if files else ""


def curves_figure(progress: Content, language: str) -> Any:
    """Figure 5: the losses of each fold and their mean."""
    from ser.reporting.charts import learning_curves_figure

    figure = learning_curves_figure(progress["folds"], hover_words(language))
    figure.update_xaxes(title_text=say("chart_epoch", language))
    figure.update_yaxes(title_text=say("loss", language))
    for trace in figure.data:
        if trace.showlegend is not False and trace.name in TEXTS:
            trace.name = say(trace.name, language)
    losses = [value for trace in figure.data for value in trace.y]
    figure.update_xaxes(**ticks(figure.layout.xaxis.tickvals, language))
    if language == "fa" and losses:
        figure.update_yaxes(**ticks_between(min(losses), max(losses), LOSS_STEPS, language))
        for trace in figure.data:
            trace.update(hovertext=_hover_texts(trace), hovertemplate="%{hovertext}<extra></extra>")
    return figure


def _hover_texts(trace: Any) -> list[str]:
    """What is said where one points at a curve, in Persian digits; plotly itself would write Latin ones."""
    texts = []
    for number, (x, y) in enumerate(zip(trace.x, trace.y, strict=True)):
        known = [] if trace.customdata is None else np.atleast_1d(trace.customdata[number]).tolist()
        text = trace.hovertemplate.removesuffix("<extra></extra>")
        values = {"x": x, "y:.3f": f"{y:.3f}", "customdata": next(iter(known), "")}
        values |= {f"customdata[{place}]": value for place, value in enumerate(known)}
        for name, value in values.items():
            text = text.replace(f"%{{{name}}}", str(value))
        texts.append(localised(text, "fa"))
    return texts


def matrices_figure(matrices: Sequence[Any], labels: Sequence[str], language: str, columns: int) -> Any:
    """A confusion matrix for each fold and one of all."""
    from ser.reporting.charts import fold_matrices_figure

    names = [emotion_name(label, language) for label in labels]
    figure = fold_matrices_figure(matrices, names, columns, words=hover_words(language))
    titles = [say("fold_title", language, number=number + 1) for number in range(len(matrices))]
    for annotation, text in zip(figure.layout.annotations, [*titles, say("all_folds", language)], strict=False):
        annotation.text = text
    if language == "fa":
        for trace in figure.data:
            part = "hovertext" if trace.type == "heatmap" else "text"
            written = np.vectorize(partial(localised_shares, language=language))(trace[part])
            trace[part] = written.tolist()
        figure.layout.coloraxis.colorbar.update(**share_ticks(language))
    return figure


def hover_words(language: str) -> dict[str, str]:
    """What the charts say where they are pointed at."""
    from ser.reporting.charts import HOVER

    return {key: getattr(TEXTS[key], language) if key in TEXTS else words for key, words in HOVER.items()}


def matrices_of(progress: Content | None, result: Content | None) -> list[NDArray[np.int64]]:
    """`(labels, labels)` counts of each fold: of the test speakers once tested, else of the latest epoch."""
    if result is not None:
        return [np.array(fold["test_confusion"]) for fold in result["folds"]]
    if progress is None:
        return []
    latest = [_latest(fold).get("validation_confusion") for fold in progress["folds"]]
    n = len(progress["labels"])
    return [np.array(matrix or np.zeros((n, n)), dtype=np.int64) for matrix in latest]


def _running(run: Run, language: str) -> tuple[str, list[str]]:
    """Heading and lines of a cross-validation in progress."""
    progress = run.news("progress.json")
    if progress is None or not progress["epoch"]:
        return say("preparing", language), preparing(run, language)
    scores = _scores_now(progress, language)
    if progress["state"] != "training":
        return phase(progress["state"], language), [bar(None), *scores]
    left_s = time_left(run.news(STAGE))
    left = paragraph(say("at_most_left", language, minutes=math.ceil(left_s / 60))) if left_s else ""
    heading = say("training", language, epoch=progress["epoch"], most=progress["max_epochs"])
    return heading, [*training_lines(progress, language), left, *scores]


def _scores_now(progress: Content | None, language: str) -> list[str]:
    pooled = np.sum(matrices_of(progress, None), axis=0)
    if not np.sum(pooled):
        return []
    now = accuracy_and_uar(pooled)
    said = say("scores_now", language, clips=int(pooled.sum()), wa=percent(now.wa), uar=percent(now.uar))
    return [paragraph(said)]


def _latest(fold: Content) -> dict[str, Any]:
    """The latest epoch of a fold."""
    return {**(fold["epochs"][-1] if fold["epochs"] else {}), "best_epoch": fold["best_epoch"]}


def _tested(fold: Content) -> dict[str, Any]:
    """The test and validation scores of a fold, both of the model of its best epoch."""
    best: Content = next((row for row in fold["epochs"] if row["epoch"] == fold["best_epoch"]), {})
    scores = {f"test_{key}": fold["test_scores"][key]["value"] for key in ("wa", "uar")}
    return {**best, **scores, "best_epoch": fold["best_epoch"]}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _cell(key: str, values: Content) -> str:
    value = values.get(key)
    if value is None or key.endswith("epoch"):
        return "" if value is None else str(value)
    return f"{value:.3f}" if key.endswith("loss") else f"{100 * value:.1f} %"
