"""Charts of scores and training: numbers in, a plotly figure out; nothing is read, written or fetched.

Figures 4, 5 and 6 of the paper (DOI 10.32523/2306-6172-2026-14-1-4-16), confusion matrices, the accuracy of
each speaker and calibration. The scale of the matrices is cividis (Nunez, Anderton, Renslow 2018), which
colour-blind readers can order. The charts of one recording are in `recording_charts`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike
from plotly.subplots import make_subplots

from ser.reporting.style import BLUE, GREEN, GREY, INK, ORANGE, plain, styled, wrapped
from ser.scoring.metrics import Reliability

PART_COLOURS: dict[str, str] = {"train": BLUE, "validation": ORANGE, "test": GREEN}
HATCH = {"shape": "/", "fillmode": "overlay", "fgcolor": "#DDDDDD", "size": 8}
MIDDLE_OF_CIVIDIS = 0.46  # where black and white text stand out equally from the scale's colour

Row = Mapping[str, Any]


@dataclass(frozen=True)
class ComparisonRow:
    """One bar of figure 6: a measured accuracy with its interval, or a published one with its protocol."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    published: bool = False
    protocol: str = ""


# What is said where a chart is pointed at; another language gives its own sentences under the same keys.
HOVER: Mapping[str, str] = {
    "hover_cell": "true: {true}<br>answered: {answered}<br>{count} of {total} ({share}%)",
    "hover_fold": "fold {fold}, {part}, epoch %{{x}}: %{{y:.3f}}",
    "hover_mean": "{part}, epoch %{{x}}: %{{y:.3f}}, mean of %{{customdata}} folds",
    "hover_best": "fold %{{customdata[0]}}: best epoch %{{x}}, stopped after %{{customdata[1]}}",
    "hover_train": "train",
    "hover_validation": "validation",
}


def confusion_figure(
    matrix: ArrayLike, labels: Sequence[str], title: str = "", normalise: bool = True
) -> go.Figure:
    """A confusion matrix with counts and shares in its cells.

    matrix: (classes, classes) counts, rows = true class. `normalise` colours by the share of the true class
    rather than by the count.
    """
    figure = styled(go.Figure(_matrix_traces(matrix, labels, normalise)), title, height=430)
    figure.update_xaxes(title_text="answered", showgrid=False, tickangle=-40)
    figure.update_yaxes(title_text="true", showgrid=False, autorange="reversed")
    return figure


def fold_matrices_figure(
    matrices: Sequence[ArrayLike], labels: Sequence[str], columns: int = 3, normalise: bool = True,
    words: Mapping[str, str] = HOVER,
) -> go.Figure:  # fmt: skip
    """The matrix of every fold and their sum in one grid; `columns=1` for a phone; `words` as in `HOVER`."""
    pooled = np.sum([np.asarray(matrix) for matrix in matrices], axis=0)
    titles = [*(f"fold {number}" for number in range(1, len(matrices) + 1)), "all folds"]
    rows = math.ceil(len(titles) / columns)
    gap = {"vertical_spacing": 0.22 / rows, "horizontal_spacing": 0.12 / columns}
    figure = make_subplots(rows, columns, subplot_titles=titles, **gap)
    figure = styled(figure, height=340 * rows + 60)
    figure.update_yaxes(showgrid=False, autorange="reversed", showticklabels=False)
    figure.update_xaxes(showgrid=False, tickangle=-40, showticklabels=False)
    for index, matrix in enumerate([*matrices, pooled]):
        cell = {"row": index // columns + 1, "col": index % columns + 1}
        for trace in _matrix_traces(matrix, labels, normalise, 10, words):
            figure.add_trace(trace, **cell)
        figure.update_yaxes(showticklabels=index % columns == 0, **cell)
        figure.update_xaxes(showticklabels=index + columns >= len(titles), **cell)
    return figure


def learning_curves_figure(history: Sequence[Row], words: Mapping[str, str] = HOVER) -> go.Figure:
    """Figure 5: training and validation loss against the epoch, each fold faint, their mean strong.

    history: a fold each, with `epochs` (rows of `epoch`, `train_loss`, `validation_loss`) and, once known,
    `best_epoch`, which a diamond marks. Where some folds have stopped early, the mean of those still
    training is drawn dashed. words: as in `HOVER`.
    """
    figure = styled(go.Figure(), height=420)
    for part, colour in (("train", BLUE), ("validation", ORANGE)):
        curves = [_curve(fold["epochs"], f"{part}_loss") for fold in history]
        for number, curve in enumerate(curves, start=1):
            figure.add_trace(_fold_line(curve, part, number, colour, words))
        for line in _mean_lines(curves, part, colour, words):
            figure.add_trace(line)
    figure.add_trace(_best_epochs(history, words))
    figure.update_xaxes(title_text="epoch", rangemode="tozero")
    figure.update_yaxes(title_text="loss", rangemode="tozero")
    if not any(fold["epochs"] for fold in history):
        figure.add_annotation(text="no epoch has ended yet", showarrow=False, xref="paper", yref="paper")
        figure.update_xaxes(visible=False).update_yaxes(visible=False)
    return figure


def comparison_figure(rows: Sequence[ComparisonRow]) -> go.Figure:
    """Figure 6: accuracies as bars, measured ones with intervals, published ones apart and hatched."""
    parts = [
        ("measured here", [row for row in rows if not row.published]),
        ("published elsewhere", [row for row in rows if row.published]),
    ]
    parts = [(heading, part) for heading, part in parts if part]
    lengths = [len(part) for _, part in parts] or [1]
    headings = [heading for heading, _ in parts]
    figure = make_subplots(
        len(lengths),
        1,
        True,
        row_heights=lengths,
        subplot_titles=headings,
        vertical_spacing=0.9 / (sum(lengths) + 4),
    )
    for index, (_, part) in enumerate(parts, start=1):
        figure.add_trace(_accuracy_bars(part), row=index, col=1)
    figure = styled(figure, height=110 + 44 * sum(lengths) + 30 * len(lengths))
    figure.update_xaxes(range=[0, 1.03], tickformat=".0%")
    figure.update_xaxes(title_text="accuracy", row=len(lengths), col=1)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_annotations(x=0, xanchor="left", font_size=14)
    return figure


def speaker_strip_figure(by_speaker: Mapping[str, Row]) -> go.Figure:
    """The accuracy of every speaker as a point, a strip for each gender; the bar is the mean of the strip.

    by_speaker: name -> row with `wa` (a fraction), `gender` (or None) and `n_utterances`.
    """
    strips: dict[str, list[tuple[str, Row]]] = {}
    for speaker, row in by_speaker.items():
        strips.setdefault(row.get("gender") or "gender unknown", []).append((speaker, row))
    figure = styled(go.Figure(), height=150 + 110 * max(1, len(strips)))
    most = max((row["n_utterances"] for row in by_speaker.values()), default=1)
    for place, (gender, members) in enumerate(sorted(strips.items())):
        figure.add_trace(_strip(gender, members, place, most))
        mean = fmean(row["wa"] for _, row in members)
        ends = {"x0": mean, "x1": mean, "y0": place - 0.4, "y1": place + 0.4}
        figure.add_shape(type="line", line={"color": INK, "width": 3}, **ends)
    figure.update_xaxes(title_text="accuracy of a speaker", range=[-0.03, 1.03], tickformat=".0%")
    genders = [plain(gender) for gender in sorted(strips)]
    figure.update_yaxes(tickvals=list(range(len(strips))), ticktext=genders, showgrid=False)
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(showlegend=False)
    return figure


def reliability_figure(bins: Reliability) -> go.Figure:
    """Accuracy against stated probability; on the dashed line a stated 70 % is right in 70 % of the cases."""
    rows = [row for row in zip(bins.confidence, bins.accuracy, bins.counts, strict=True) if row[2]]
    most = max((count for *_, count in rows), default=1)
    points = go.Scatter(
        x=[confidence for confidence, _, _ in rows],
        y=[accuracy for _, accuracy, _ in rows],
        customdata=[count for *_, count in rows],
        mode="lines+markers",
        line={"color": BLUE, "width": 1.5},
        marker={
            "size": [7 + 17 * math.sqrt(count / most) for *_, count in rows],
            "color": BLUE,
            "opacity": 0.8,
        },
        hovertemplate="stated %{x:.0%}, right %{y:.0%}<br>%{customdata} clips<extra></extra>",
    )
    figure = styled(go.Figure(points), height=400)
    figure.add_shape(type="line", x0=0, y0=0, x1=1, y1=1, line={"color": INK, "dash": "dash", "width": 1})
    figure.update_xaxes(title_text="stated probability", range=[-0.03, 1.03], tickformat=".0%")
    figure.update_yaxes(title_text="share of right answers", range=[-0.03, 1.03], tickformat=".0%")
    figure.update_layout(showlegend=False)
    return figure


def class_shares_figure(shares: Mapping[str, Mapping[str, Sequence[float]]]) -> go.Figure:
    """Figure 4: the share of each emotion in each part; bars are means over folds, whiskers the extremes.

    shares: part -> emotion -> the share in each fold, a fraction.
    """
    figure = styled(go.Figure(), height=420)
    for part, by_emotion in shares.items():
        means = [fmean(folds) for folds in by_emotion.values()]
        above = [max(folds) - mean for folds, mean in zip(by_emotion.values(), means, strict=True)]
        below = [mean - min(folds) for folds, mean in zip(by_emotion.values(), means, strict=True)]
        figure.add_bar(
            name=plain(part),
            x=[plain(emotion) for emotion in by_emotion],
            y=means,
            marker_color=PART_COLOURS.get(part, GREY),
            error_y={"array": above, "arrayminus": below, "color": INK, "thickness": 1.5, "width": 3},
            hovertemplate="%{x} in " + plain(part) + ": %{y:.1%}<extra></extra>",
        )
    figure.update_yaxes(title_text="share of the clips", tickformat=".0%", rangemode="tozero")
    figure.update_xaxes(showgrid=False)
    return figure


def _matrix_traces(
    matrix: ArrayLike, labels: Sequence[str], normalise: bool, text_size: int = 12,
    words: Mapping[str, str] = HOVER,
) -> tuple[go.Heatmap, go.Scatter]:  # fmt: skip
    """The coloured cells and, over them, what is written in them, black or white as the colour asks."""
    counts = np.asarray(matrix, dtype=np.int64)
    totals = counts.sum(axis=1)
    shares = counts / np.maximum(totals, 1)[:, None]
    shade = shares if normalise else counts / max(1, int(counts.max(initial=0)))
    names = [plain(label) for label in labels]
    cells = list(np.ndindex(counts.shape))
    hover = [
        words["hover_cell"].format(
            true=names[i],
            answered=names[j],
            count=counts[i, j],
            total=totals[i],
            share=f"{100 * shares[i, j]:.1f}",
        )
        for i, j in cells
    ]
    heatmap = go.Heatmap(
        z=shade.tolist(),
        x=names,
        y=names,
        zmin=0,
        zmax=1,
        colorscale="Cividis",
        showscale=False,
        hovertext=np.reshape(hover, counts.shape).tolist(),
        hoverinfo="text",
        xgap=1,
        ygap=1,
    )
    written = go.Scatter(
        x=[names[j] for _, j in cells],
        y=[names[i] for i, _ in cells],
        text=[f"{counts[cell]}<br>{shares[cell]:.0%}" for cell in cells],
        mode="text",
        textfont={
            "size": text_size,
            "color": ["black" if shade[cell] > MIDDLE_OF_CIVIDIS else "white" for cell in cells],
        },
        hoverinfo="skip",
        showlegend=False,
    )
    return heatmap, written


def _curve(epochs: Sequence[Row], column: str) -> dict[int, float]:
    """Epoch -> loss, without the epochs whose loss is missing."""
    return {
        row["epoch"]: row[column]
        for row in epochs
        if row.get(column) is not None and math.isfinite(row[column])
    }


def _fold_line(
    curve: Mapping[int, float], part: str, number: int, colour: str, words: Mapping[str, str]
) -> go.Scatter:
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


def _best_epochs(history: Sequence[Row], words: Mapping[str, str]) -> go.Scatter:
    marks = []
    for number, fold in enumerate(history, start=1):
        best, curve = fold.get("best_epoch"), _curve(fold["epochs"], "validation_loss")
        if best in curve:
            marks.append((best, curve[best], number, max(curve)))
    return go.Scatter(
        x=[mark[0] for mark in marks],
        y=[mark[1] for mark in marks],
        customdata=[mark[2:] for mark in marks],
        mode="markers",
        name="best epoch of a fold",
        marker={"symbol": "diamond", "size": 10, "color": ORANGE, "line": {"color": INK, "width": 1.5}},
        hovertemplate=words["hover_best"].format() + "<extra></extra>",
    )


def _accuracy_bars(rows: Sequence[ComparisonRow]) -> go.Bar:
    published = rows[0].published
    above = [0 if row.high is None else row.high - row.value for row in rows]
    below = [0 if row.low is None else row.value - row.low for row in rows]
    spans = [
        "" if row.low is None or row.high is None else f" [{row.low:.1%}, {row.high:.1%}]" for row in rows
    ]
    return go.Bar(
        x=[row.value for row in rows],
        y=[wrapped(row.name) for row in rows],
        orientation="h",
        text=[f"{row.value:.1%}" for row in rows],
        textposition="inside",
        insidetextanchor="start",
        textfont={"color": "black" if published else "white"},
        marker={"color": "#BBBBBB", "pattern": HATCH} if published else {"color": BLUE},
        error_x=None
        if published
        else {"array": above, "arrayminus": below, "color": ORANGE, "thickness": 2.5, "width": 6},
        hovertext=[
            f"{wrapped(row.name, 60)}<br>{row.value:.1%}{span}<br>{wrapped(row.protocol, 60)}"
            for row, span in zip(rows, spans, strict=True)
        ],
        hoverinfo="text",
        showlegend=False,
    )


def _strip(gender: str, members: Sequence[tuple[str, Row]], place: int, most: int) -> go.Scatter:
    """Points spread over the strip by the golden ratio, so that equal accuracies do not hide each other."""
    offsets = [((index * 0.618034) % 1 - 0.5) * 0.6 for index in range(len(members))]
    return go.Scatter(
        x=[row["wa"] for _, row in members],
        y=[place + offset for offset in offsets],
        customdata=[(plain(speaker), row["n_utterances"]) for speaker, row in members],
        mode="markers",
        marker={
            "color": ORANGE if place % 2 else BLUE,
            "symbol": "diamond" if place % 2 else "circle",
            "size": [6 + 12 * math.sqrt(row["n_utterances"] / most) for _, row in members],
            "opacity": 0.75,
        },
        hovertemplate="%{customdata[0]}, "
        + plain(gender)
        + ": %{x:.1%} of %{customdata[1]} clips<extra></extra>",
    )
