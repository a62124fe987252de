"""What the tab Cross-validate shows of a run: HTML and plotly figures from what the run folder says.

In: what `progress.json` and `result.json` say, the status of the job, a language. Out: HTML or a figure.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from ser.ui.crossvalidate_texts import TEXTS, say
from ser.ui.jobs import JobStatus
from ser.ui.model import without_folders
from ser.ui.texts import PERSIAN_DIGITS, emotion_name

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from ser.ui.runs import Run

Content = Mapping[str, Any]
COLUMNS = ("epoch", "train_loss", "validation_loss", "validation_wa", "validation_uar", "best_epoch")
BOX_KINDS = {"finished": "sure", "stopped": "unsure", "failed": "problem"}


def state_box(
    run: Run, status: JobStatus, progress: Content | None, result: Content | None, language: str
) -> str:
    """How the run stands: a heading, a bar, the scores so far."""
    if status.state == "running":
        return _running_box(run, status, progress, language)
    finished = status.state == "finished" or (status.state == "never" and result is not None)
    state = "finished" if finished else "elsewhere" if status.state == "never" else status.state
    lines = [_title(run)]
    if state == "failed":
        lines.append(_paragraph(without_folders(status.reason)))
    if state in ("failed", "stopped"):
        lines.append(_paragraph(say(f"{state}_means", language)))
    lines += _scores(progress, result if finished else None, language)
    return _box(BOX_KINDS.get(state, "waiting"), say(state, language), lines)


def empty_box(language: str) -> str:
    return f'<div class="box waiting" role="status">{html.escape(say("no_run", language))}</div>'


def message_box(message: str, is_problem: bool) -> str:
    """What a press led to."""
    kind, role = ("problem", "alert") if is_problem else ("sure", "status")
    return f'<div class="box {kind}" role="{role}"><p>{html.escape(message)}</p></div>'


def fold_table(progress: Content | None, language: str) -> str:
    """The latest epoch of every fold, and the mean over folds."""
    rows = [(fold["epochs"][-1], fold) for fold in (progress or {}).get("folds", ()) if fold["epochs"]]
    if not rows:
        return ""
    heads = "".join(f'<th scope="col">{html.escape(say(key, language))}</th>' for key in ("fold", *COLUMNS))
    body = [
        _row(
            str(number),
            [_cell(key, {**epoch, "best_epoch": fold["best_epoch"]}) for key in COLUMNS],
            language,
        )
        for number, (epoch, fold) in enumerate(rows, start=1)
    ]
    means = {key: _mean([epoch.get(key) for epoch, _ in rows]) for key in COLUMNS[1:-1]}
    body.append(_row(say("mean", language), [_cell(key, means) for key in COLUMNS], language))
    table = f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    return f'<div class="fold-table" tabindex="0">{table}</div>'


def links(run: Run, language: str) -> str:
    """A link for each file of the run that can be downloaded."""
    names = run.downloads()
    if not names:
        return ""
    files = "".join(f'<a href="runs/{quote(run.name)}/{name}" download>{name}</a>' for name in names)
    return f'<p class="downloads">{html.escape(say("downloads", language))} {files}</p>'


def curves_figure(progress: Content | None, language: str) -> Figure:
    """Figure 5: the losses of each fold and their mean."""
    from ser.reporting.charts import learning_curves_figure

    figure = learning_curves_figure((progress or {}).get("folds", ()), hover_words(language))
    figure.update_xaxes(title_text=say("chart_epoch", language))
    figure.update_yaxes(title_text=say("loss", language))
    for trace in figure.data:
        if trace.name and trace.showlegend is not False:
            trace.name = say(trace.name, language)
    return figure


def matrices_figure(matrices: Sequence[Any], labels: Sequence[str], language: str, columns: int) -> Figure:
    """A confusion matrix for each fold and one of all."""
    from ser.reporting.charts import fold_matrices_figure

    names = [emotion_name(label, language) for label in labels]
    figure = fold_matrices_figure(matrices, names, columns, words=hover_words(language))
    titles = [say("fold_title", language, number=number + 1) for number in range(len(matrices))]
    for annotation, title in zip(
        figure.layout.annotations, [*titles, say("all_folds", language)], strict=False
    ):
        annotation.text = title
    return figure


def hover_words(language: str) -> dict[str, str]:
    """What the charts say where they are pointed at."""
    sentences = {key: text for key, text in TEXTS.items() if key.startswith("hover_")}
    return {key: text.fa if language == "fa" else text.en for key, text in sentences.items()}


def matrices_of(progress: Content | None, result: Content | None) -> list[NDArray[np.int64]]:
    """`(labels, labels)` counts of each fold: of the test speakers once tested, else of the latest epoch."""
    if result is not None:
        return [np.array(fold["test_confusion"]) for fold in result["folds"]]
    if progress is None:
        return []
    n = len(progress["labels"])
    epochs = (fold["epochs"] for fold in progress["folds"])
    return [
        np.array(
            (of_fold[-1]["validation_confusion"] if of_fold else None) or np.zeros((n, n)), dtype=np.int64
        )
        for of_fold in epochs
    ]


def accuracy_and_uar(matrix: NDArray[np.int64]) -> tuple[float, float]:
    """Of a confusion matrix that is not empty; classes without clips are left out of the mean recall."""
    totals = matrix.sum(axis=1)
    recalls = np.diag(matrix)[totals > 0] / totals[totals > 0]
    return float(np.trace(matrix) / matrix.sum()), float(recalls.mean())


def _running_box(run: Run, status: JobStatus, progress: Content | None, language: str) -> str:
    state = (progress or {}).get("state")
    if progress is None or state in ("stopped", "done") or not progress["epoch"]:
        log = _paragraph(without_folders(status.reason), "facts") if status.reason else ""
        lines = [_title(run), "<progress></progress>", _paragraph(say("preparing_means", language)), log]
        return _box("waiting", say("preparing", language), lines)
    epoch, most = progress["epoch"], progress["max_epochs"]
    heading = (
        say("training", language, epoch=epoch, most=most)
        if state == "training"
        else say(str(state), language)
    )
    stopped = sum(fold["stopped"] for fold in progress["folds"])
    share = f' value="{epoch}" max="{most}"' if state == "training" else ""
    lines = [_title(run), f"<progress{share}></progress>"]
    if stopped:
        lines.append(_paragraph(say("early", language, stopped=stopped, folds=len(progress["folds"]))))
    return _box("running", heading, lines + _scores(progress, None, language))


def _scores(progress: Content | None, result: Content | None, language: str) -> list[str]:
    if result is not None:
        scores = result["pooled"]
        values = {key: _percent(scores[key]["value"]) for key in ("wa", "uar")}
        values |= {f"{key}_range": _range(scores[key], language) for key in ("wa", "uar")}
        clips = int(np.sum(result["pooled_confusion"]))
        lines = [
            _paragraph(say("scores_test", language, clips=clips, **values)),
            _paragraph(result["protocol"], "facts"),
        ]
        return [*lines, _paragraph(say("intervals", language), "facts")]
    matrices = matrices_of(progress, None)
    if not matrices or not np.sum(matrices):
        return []
    pooled = np.sum(matrices, axis=0)
    wa, uar = accuracy_and_uar(pooled)
    values = {"wa": _percent(wa), "uar": _percent(uar)}
    return [_paragraph(say("scores_now", language, clips=int(pooled.sum()), **values))]


def _percent(share: float | None) -> float | str:
    return "–" if share is None else round(100 * share, 1)


def _range(score: Content, language: str) -> str:
    if score.get("low") is None:
        return ""
    return say("range", language, low=_percent(score["low"]), high=_percent(score["high"]))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _cell(key: str, values: Content) -> str:
    value = values.get(key)
    if value is None:
        return ""
    if key.endswith("loss"):
        return f"{value:.3f}"
    return f"{100 * value:.1f} %" if key in ("validation_wa", "validation_uar") else str(value)


def _row(head: str, cells: Sequence[str], language: str) -> str:
    content = f'<th scope="row">{html.escape(head)}</th>' + "".join(f"<td>{cell}</td>" for cell in cells)
    if language == "fa":
        content = content.translate(PERSIAN_DIGITS).replace(".", "٫").replace(" %", "٪")
    return f"<tr>{content}</tr>"


def _title(run: Run) -> str:
    return _paragraph(run.title, "facts")


def _paragraph(text: str, kind: str = "") -> str:
    return f'<p class="{kind}" dir="auto">{html.escape(text)}</p>'


def _box(kind: str, heading: str, lines: Sequence[str]) -> str:
    return f'<div class="box {kind}" role="status"><h2>{html.escape(heading)}</h2>{"".join(lines)}</div>'
