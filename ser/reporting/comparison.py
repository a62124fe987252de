"""Figure 6: methods side by side, as a chart and as `report.html` of `ser baselines`.

In: the content of `baselines.json`. Out: a figure, a page. Published figures are of ShEMO: they are shown where
the corpus that was measured is ShEMO, apart from the measured ones and hatched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ser.experiments.published import ComparisonRow, comparison_rows, published_on
from ser.reporting.render import write_page
from ser.reporting.style import BLUE, ORANGE, styled, whiskers, wrapped

HATCH = {"shape": "/", "fillmode": "overlay", "fgcolor": "#DDDDDD", "size": 8}


def write_comparison_report(content: Mapping[str, Any], path: str | Path) -> Path:
    """Write the page of a comparison: `protocol`, `intervals`, `corpus`, and `rows` with title and scores."""
    published = published_on(content["corpus"])
    figure = comparison_figure([*comparison_rows(content), *published])
    return write_page(path, "comparison.html", content=content, published=published, figure=figure)


def comparison_figure(rows: Sequence[ComparisonRow]) -> go.Figure:
    """Figure 6: accuracies as bars, measured ones with intervals, published ones apart and hatched.

    Rows without a value have no bar.
    """
    known = [row for row in rows if row.value is not None]
    parts = [
        ("measured here", [row for row in known if not row.published]),
        ("published elsewhere, on ShEMO", [row for row in known if row.published]),
    ]
    parts = [(heading, part) for heading, part in parts if part]
    lengths = [len(part) for _, part in parts] or [1]
    headings = [heading for heading, _ in parts]
    figure = make_subplots(
        len(lengths), 1, True, row_heights=lengths, subplot_titles=headings, vertical_spacing=0.9 / (sum(lengths) + 4)
    )
    for index, (_, part) in enumerate(parts, start=1):
        figure.add_trace(_accuracy_bars(part), row=index, col=1)
    figure = styled(figure, height=110 + 44 * sum(lengths) + 30 * len(lengths))
    figure.update_xaxes(range=[0, 1.03], tickformat=".0%")
    figure.update_xaxes(title_text="accuracy", row=len(lengths), col=1)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_annotations(x=0, xanchor="left", font_size=14)
    return figure


def _accuracy_bars(rows: Sequence[ComparisonRow]) -> go.Bar:
    published = rows[0].published
    values = [row.value or 0.0 for row in rows]
    spans = ["" if row.low is None else f" [{row.low:.1%}, {row.high:.1%}]" for row in rows]
    return go.Bar(
        x=values,
        y=[wrapped(row.name) for row in rows],
        orientation="h",
        text=[f"{value:.1%}" for value in values],
        textposition="inside",
        insidetextanchor="start",
        textfont={"color": "black" if published else "white"},
        marker={"color": "#BBBBBB", "pattern": HATCH} if published else {"color": BLUE},
        error_x=None
        if published
        else {**whiskers([vars(row) for row in rows]), "color": ORANGE, "thickness": 2.5, "width": 6},
        hovertext=[
            f"{wrapped(row.name, 60)}<br>{row.value:.1%}{span}<br>{wrapped(row.protocol, 60)}"
            for row, span in zip(rows, spans, strict=True)
        ],
        hoverinfo="text",
        showlegend=False,
    )
