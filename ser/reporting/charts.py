"""Charts of training: confusion matrices and learning curves (figure 5 of the paper, DOI
10.32523/2306-6172-2026-14-1-4-16).

In: numbers. Out: plotly figures; nothing is read, written or fetched. The scale of the matrices is cividis
(Nunez, Anderton, Renslow 2018), which colour-blind readers can order. Charts of scores are in `score_charts`,
those of one recording in `recording_charts`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from statistics import fmean
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike
from plotly.subplots import make_subplots

from ser.reporting.style import BLUE, INK, ORANGE, plain, styled

MIDDLE_OF_CIVIDIS = 0.46  # where black and white text stand out equally from the scale's colour
MAX_TICKS = 10

Row = Mapping[str, Any]

# What stands at the axes and where a chart is pointed at; another language gives its own under these keys.
HOVER: Mapping[str, str] = {
    "hover_cell": "true: {true}<br>predicted: {answered}<br>{count} of {total} ({share}%)",
    "hover_true": "true",
    "hover_predicted": "predicted",
    "hover_share": "share of the true class",
    "hover_fold": "fold {fold}, {part}, epoch %{{x}}: %{{y:.3f}}",
    "hover_mean": "{part}, epoch %{{x}}: %{{y:.3f}}, mean of %{{customdata}} folds",
    "hover_best": "fold %{{customdata[0]}}: best epoch %{{x}}, stopped after %{{customdata[1]}}",
    "hover_train": "train",
    "hover_validation": "validation",
}


def confusion_figure(matrix: ArrayLike, labels: Sequence[str], title: str = "", show_scale: bool = True) -> go.Figure:
    """A confusion matrix, `(classes, classes)` counts, rows = true class; see `fold_matrices_figure`."""
    figure = go.Figure(_matrix_traces(matrix, labels, 12 if show_scale else 10, HOVER))
    figure.update_layout(coloraxis_showscale=show_scale)
    return _matrix_axes(styled(figure, title, height=430), HOVER)


def fold_matrices_figure(
    matrices: Sequence[ArrayLike], labels: Sequence[str], columns: int = 3, words: Mapping[str, str] = HOVER
) -> go.Figure:
    """The matrix of every fold and their sum in one grid, counts and shares of the true class in the cells.

    One colour scale serves all: the share of the true class. `columns=1` for a phone; `words` as in `HOVER`.
    """
    words = {**HOVER, **words}
    pooled = np.sum([np.asarray(matrix) for matrix in matrices], axis=0)
    titles = [*(f"fold {number}" for number in range(1, len(matrices) + 1)), "all folds"]
    rows = math.ceil(len(titles) / columns)
    gap = {"vertical_spacing": 0.34 / rows, "horizontal_spacing": 0.1 / columns}
    figure = make_subplots(rows, columns, subplot_titles=titles, **gap)
    for index, matrix in enumerate([*matrices, pooled]):
        for trace in _matrix_traces(matrix, labels, 10, words):
            figure.add_trace(trace, row=index // columns + 1, col=index % columns + 1)
    figure = _matrix_axes(styled(figure, height=390 * rows + 60), words)
    for column in range(2, columns + 1):  # the rows are named once, at the left
        figure.update_yaxes(showticklabels=False, title_text="", col=column)
    return figure


def learning_curves_figure(
    history: Sequence[Row], words: Mapping[str, str] = HOVER, with_penalty: bool = False
) -> go.Figure:
    """Figure 5: training and validation loss against the epoch, each fold faint, their mean strong.

    Where some folds have stopped early, the mean of those still training is drawn dashed.

    Args:
        history: a fold each, with `epochs` (rows of `epoch`, `train_loss`, `validation_loss`, `penalty`) and,
            once known, `best_epoch`, which a diamond marks.
        words: as in `HOVER`.
        with_penalty: draw the cross entropy plus the L2 penalty, which Keras' curves hold and early stopping
            usually watches; otherwise the cross entropy alone.
    """
    figure = styled(go.Figure(), height=420)
    for part, colour in (("train", BLUE), ("validation", ORANGE)):
        curves = [_curve(fold["epochs"], part, with_penalty) for fold in history]
        for number, curve in enumerate(curves, start=1):
            figure.add_trace(_fold_line(curve, part, number, colour, words))
        for line in _mean_lines(curves, part, colour, words):
            figure.add_trace(line)
    figure.add_trace(_best_epochs(history, words, with_penalty))
    last = max((row["epoch"] for fold in history for row in fold["epochs"]), default=0)
    step = math.ceil(last / MAX_TICKS) if last > MAX_TICKS else 1
    figure.update_xaxes(title_text="epoch", tickvals=sorted({1, *range(step, last + 1, step)}))
    figure.update_yaxes(title_text="cross entropy + L2 penalty" if with_penalty else "cross entropy")
    if not last:
        figure.add_annotation(text="no epoch has ended yet", showarrow=False, xref="paper", yref="paper")
        figure.update_xaxes(visible=False).update_yaxes(visible=False)
    return figure


def search_figure(trials: Sequence[Row], names: Mapping[str, str]) -> go.Figure:
    """The value of every trial of a search by its number, and the best so far as steps.

    Args:
        trials: rows of `number`, `state` and `value`, a share; one whose value is None is left out.
        names: of the states that are drawn, "complete" and "pruned", and of the line, "best".
    """
    figure = styled(go.Figure(), height=320)
    complete, pruned = (
        [(one["number"], one["value"]) for one in trials if one["state"] == state and one["value"] is not None]
        for state in ("complete", "pruned")
    )
    values = (one["value"] if one["state"] == "complete" else None for one in trials)
    so_far = accumulate(values, lambda most, value: value if most is None else max(most, value or 0))
    best = [(one["number"], value) for one, value in zip(trials, so_far, strict=True) if value is not None]
    line: dict[str, Any] = {"color": BLUE, "width": 2, "shape": "hv"}
    rows: tuple[tuple[str, Sequence[tuple[int, float]], dict[str, Any]], ...] = (
        ("best", best, {"line": line}),
        ("complete", complete, {"marker": {"color": BLUE, "size": 9}}),
        ("pruned", pruned, {"marker": {"color": ORANGE, "size": 9, "symbol": "x"}}),
    )
    for name, points, look in rows:
        x, y = zip(*points, strict=True) if points else ((), ())
        mode = "lines" if "line" in look else "markers"
        figure.add_trace(go.Scatter(x=x, y=y, mode=mode, name=names[name], **look))
    return figure


def _matrix_axes(figure: go.Figure, words: Mapping[str, str]) -> go.Figure:
    look = {"showgrid": False, "showticklabels": True}
    figure.update_xaxes(title_text=words["hover_predicted"], tickangle=-40, **look)
    figure.update_yaxes(title_text=words["hover_true"], autorange="reversed", **look)
    bar = {"title": {"text": words["hover_share"], "side": "right"}, "tickformat": ".0%", "thickness": 10}
    figure.update_layout(coloraxis={"colorscale": "Cividis", "cmin": 0, "cmax": 1, "colorbar": bar})
    return figure


def _matrix_traces(
    matrix: ArrayLike, labels: Sequence[str], text_size: int, words: Mapping[str, str]
) -> tuple[go.Heatmap, go.Scatter]:
    """The coloured cells and, over them, what is written in them, black or white as the colour asks."""
    counts = np.asarray(matrix, dtype=np.int64)
    totals = counts.sum(axis=1)
    shares = counts / np.maximum(totals, 1)[:, None]
    names = [plain(label) for label in labels]
    cells = list(np.ndindex(counts.shape))
    hover = [
        words["hover_cell"].format(
            true=names[i], answered=names[j], count=counts[i, j], total=totals[i], share=f"{100 * shares[i, j]:.1f}"
        )
        for i, j in cells
    ]
    heatmap = go.Heatmap(
        z=shares.tolist(),
        x=names,
        y=names,
        coloraxis="coloraxis",
        hovertext=np.reshape(hover, counts.shape).tolist(),
        hoverinfo="text",
        xgap=1,
        ygap=1,
    )
    ink = ["black" if shares[cell] > MIDDLE_OF_CIVIDIS else "white" for cell in cells]
    written = go.Scatter(
        x=[names[j] for _, j in cells],
        y=[names[i] for i, _ in cells],
        text=[f"{counts[cell]}<br>{shares[cell]:.0%}" for cell in cells],
        mode="text",
        textfont={"size": text_size, "color": ink},
        hoverinfo="skip",
        showlegend=False,
    )
    return heatmap, written


def _curve(epochs: Sequence[Row], part: str, with_penalty: bool) -> dict[int, float]:
    """Epoch -> loss, without the epochs whose loss is missing."""
    losses = {row["epoch"]: row.get(f"{part}_loss") for row in epochs}
    extra = {row["epoch"]: row.get("penalty") or 0.0 for row in epochs} if with_penalty else {}
    return {
        epoch: loss + extra.get(epoch, 0.0)
        for epoch, loss in losses.items()
        if loss is not None and math.isfinite(loss)
    }


def _fold_line(curve: Mapping[int, float], part: str, number: int, colour: str, words: Mapping[str, str]) -> go.Scatter:
    hover = words["hover_fold"].format(fold=number, part=words[f"hover_{part}"])
    return go.Scatter(
        x=list(curve),
        y=list(curve.values()),
        mode="lines",
        line={"color": colour, "width": 1, "dash": "solid" if part == "train" else "dot"},
        opacity=0.4,
        showlegend=False,
        hovertemplate=f"{hover}<extra></extra>",
    )


def _mean_lines(
    curves: Sequence[Mapping[int, float]], part: str, colour: str, words: Mapping[str, str]
) -> list[go.Scatter]:
    """The mean over all folds, and dashed the mean over those that still train."""
    hover = words["hover_mean"].format(part=words[f"hover_{part}"])
    epochs = sorted(set().union(*curves))
    training = {epoch: [curve[epoch] for curve in curves if epoch in curve] for epoch in epochs}
    whole = [epoch for epoch in epochs if len(training[epoch]) == len(curves)]
    partial = whole[-1:] + [epoch for epoch in epochs if len(training[epoch]) < len(curves)]
    lines = [(whole, "solid", True)] + ([(partial, "dash", False)] if len(partial) > 1 else [])
    return [
        go.Scatter(
            x=chosen,
            y=[fmean(training[epoch]) for epoch in chosen],
            customdata=[len(training[epoch]) for epoch in chosen],
            mode="lines",
            name=f"{part}, mean of the folds",
            showlegend=in_legend,
            line={"color": colour, "width": 3, "dash": dash},
            hovertemplate=f"{hover}<extra></extra>",
        )
        for chosen, dash, in_legend in lines
    ]


def _best_epochs(history: Sequence[Row], words: Mapping[str, str], with_penalty: bool) -> go.Scatter:
    marks = []
    for number, fold in enumerate(history, start=1):
        best, curve = fold.get("best_epoch"), _curve(fold["epochs"], "validation", with_penalty)
        if best in curve:
            marks.append((best, curve[best], number, max(curve)))
    return go.Scatter(
        x=[mark[0] for mark in marks],
        y=[mark[1] for mark in marks],
        customdata=[mark[2:] for mark in marks],
        mode="markers",
        name="best epoch of a fold",
        marker={"symbol": "diamond", "size": 9, "color": ORANGE, "line": {"color": INK, "width": 1.5}},
        opacity=0.8,  # so that those of several folds can be told apart
        hovertemplate=words["hover_best"].format() + "<extra></extra>",
    )
