"""Charts of scores: each speaker's accuracy, calibration, the emotions in the parts of the folds (figure 4).

In: numbers. Out: plotly figures; nothing is read, written or fetched.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import plotly.graph_objects as go

from ser.reporting.style import BLUE, GREEN, GREY, INK, ORANGE, plain, styled
from ser.scoring.metrics import Reliability

PART_COLOURS: dict[str, str] = {"train": BLUE, "validation": ORANGE, "test": GREEN}

Row = Mapping[str, Any]


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
        marker={"size": [7 + 17 * math.sqrt(count / most) for *_, count in rows], "color": BLUE, "opacity": 0.8},
        hovertemplate="stated %{x:.0%}, right %{y:.0%}<br>%{customdata} recordings<extra></extra>",
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
    figure.update_yaxes(title_text="share of the recordings", tickformat=".0%", rangemode="tozero")
    figure.update_xaxes(showgrid=False)
    return figure


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
        hovertemplate="%{customdata[0]}, " + plain(gender) + ": %{x:.1%} of %{customdata[1]} recordings<extra></extra>",
    )
