"""`report.html` of `ser audit`.

In: the content of `audit.json`. Out: a self-contained page.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from ser.reporting.render import write_page
from ser.reporting.style import BLUE, ORANGE, plain, styled, whiskers


def write_audit_report(content: Mapping[str, Any], path: str | Path) -> Path:
    """Write the page to `path`, whole or not at all."""
    figures = {"figure": audit_figure(content), "groups_figure": groups_figure(content)}
    return write_page(path, "audit.html", content=content, **figures)


def audit_figure(content: Mapping[str, Any]) -> go.Figure:
    """Under each condition the UAR that is left, with its interval, and the share of answers that stay."""
    plain = {"scores": content["plain"], "stay": 1.0}
    rows = {"as recorded": plain} | dict(content["conditions"])
    names = list(rows)
    uar = [row["scores"]["uar"] for row in rows.values()]
    values = [one["value"] for one in uar]
    left = go.Bar(
        x=values, y=names, orientation="h", name="UAR", marker={"color": BLUE},
        error_x={**whiskers(uar), "color": ORANGE}, hovertemplate="%{y}: UAR %{x:.1%}<extra></extra>",
    )  # fmt: skip
    stay = go.Scatter(
        x=[row["stay"] for row in rows.values()], y=names, mode="markers", name="answers that stay",
        marker={"color": ORANGE, "symbol": "diamond", "size": 10},
        hovertemplate="%{y}: %{x:.1%} of the answers stay<extra></extra>",
    )  # fmt: skip
    figure = styled(go.Figure([left, stay]), height=120 + 34 * len(names))
    figure.update_xaxes(range=[0, 1.03], tickformat=".0%")
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure


def groups_figure(content: Mapping[str, Any]) -> go.Figure:
    """The UAR of every group with its interval, and as a line that of all."""
    groups = {f"{kind}: {name}": one["uar"] for kind, rows in content["groups"].items() for name, one in rows.items()}
    names, uar = list(map(plain, groups)), list(groups.values())
    points = go.Scatter(
        x=[one["value"] for one in uar], y=names, mode="markers", marker={"color": BLUE, "size": 9},
        error_x={**whiskers(uar), "color": BLUE}, hovertemplate="%{y}: UAR %{x:.1%}<extra></extra>",
    )  # fmt: skip
    figure = styled(go.Figure(points), height=120 + 26 * len(names))
    figure.add_vline(content["plain"]["uar"]["value"], line={"color": ORANGE, "dash": "dash"})
    figure.update_xaxes(range=[0, 1.03], tickformat=".0%")
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure
