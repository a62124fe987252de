"""Options beside the base settings: a curve of score against cost, as `report.html` of `ser ablate`.

In: the content of `ablation.json`. Out: a figure, a page.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from ser.reporting.render import write_page
from ser.reporting.style import BLUE, GREY, ORANGE, plain, styled, whiskers


def write_ablation_report(content: Mapping[str, Any], path: str | Path) -> Path:
    """Write the page of an ablation."""
    return write_page(path, "ablation.html", content=content, figure=cost_figure(content))


def cost_figure(content: Mapping[str, Any]) -> go.Figure:
    """Accuracy against cost, a point for the base and for each option measured; the line is the best for its cost."""
    base = content["base"]
    measured = {name: row for name, row in content["options"].items() if "wa" in row}
    points = sorted((row["cost"] / base["cost"], name, row["wa"]) for name, row in {"base": base, **measured}.items())
    figure = styled(go.Figure(), height=460)
    best: list[tuple[float, float]] = []
    for cost, _, wa in points:
        if not best or wa["value"] > best[-1][1]:
            best.append((cost, wa["value"]))
    x, y = zip(*best, strict=True)
    figure.add_scatter(x=x, y=y, mode="lines", line={"color": GREY, "shape": "hv"}, hoverinfo="skip")
    for is_base in (False, True):
        some = [point for point in points if (point[1] == "base") is is_base]
        scores = [wa for *_, wa in some]
        figure.add_scatter(
            x=[cost for cost, *_ in some],
            y=[wa["value"] for wa in scores],
            text=[plain(name) for _, name, _ in some],
            mode="markers+text",
            textposition="top center",
            cliponaxis=False,
            marker={"size": 10, "color": ORANGE if is_base else BLUE},
            error_y={**whiskers(scores), "thickness": 1, "width": 3},
            hovertemplate="%{text}<br>cost %{x:.2f}<br>WA %{y:.1%}<extra></extra>",
        )
    figure.update_xaxes(title_text="cost of the classifier, of the base's", type="log", dtick="D2")
    figure.update_yaxes(title_text="accuracy (WA)", tickformat=".0%")
    return figure.update_layout(showlegend=False)
