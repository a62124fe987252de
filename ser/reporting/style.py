"""The look that all charts share: one table of colours, a transparent ground, text shown as it is.

Colours are told apart by colour-blind readers: the palette of Okabe and Ito (2008), one colour an emotion in
every chart. The ink is a grey that reads on white and on black alike.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

INK = "#74787f"  # 4.4 : 1 against white and against the dark page of Gradio
GRID = "rgba(128, 128, 128, 0.25)"
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#999999"
EMOTION_COLOURS: dict[str, str] = {
    "anger": "#D55E00",
    "fear": "#CC79A7",
    "happiness": ORANGE,
    "neutral": GREY,
    "sadness": BLUE,
    "surprise": GREEN,
}
SPARE_COLOURS = ("#56B4E9", "#F0E442", "#8C510A", "#5D3A9B")  # for the labels of other corpora
LINE_LENGTH = 26  # characters of a name before it wraps, for a phone


def emotion_colours(labels: Sequence[str]) -> dict[str, str]:
    """A colour for each label, the same in every chart."""
    unknown = [label for label in labels if label not in EMOTION_COLOURS]
    spare = {label: SPARE_COLOURS[i % len(SPARE_COLOURS)] for i, label in enumerate(unknown)}
    return {label: EMOTION_COLOURS.get(label) or spare[label] for label in labels}


def styled(figure: go.Figure, title: str = "", height: int = 400) -> go.Figure:
    """The look that all charts share."""
    figure.update_layout(
        template="none",
        height=height,
        title={"text": wrapped(title, 44), "x": 0, "xref": "container", "xanchor": "left", "pad": {"l": 8}},
        font={"color": INK, "size": 13, "family": "system-ui, sans-serif"},
        title_font_size=15,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 8, "r": 12, "t": 56 if title else 34, "b": 8},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        hoverlabel={"align": "left"},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": GREY, "orientation": "v"},
    )
    axis = {"automargin": True, "gridcolor": GRID, "zeroline": False, "ticks": "", "title_standoff": 12}
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)
    return figure


def whiskers(scores: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Error bars of scores with `value`, `low` and `high`; none where an end is not known."""
    ends = [[one["value"] if one[end] is None else one[end] for one in scores] for end in ("low", "high")]
    return {
        "array": [high - one["value"] for high, one in zip(ends[1], scores, strict=True)],
        "arrayminus": [one["value"] - low for low, one in zip(ends[0], scores, strict=True)],
    }


def plain(text: object) -> str:
    """Text that plotly shows as it is, not as mark-up."""
    return html.escape(str(text), quote=False)


def wrapped(text: str, length: int = LINE_LENGTH) -> str:
    return "<br>".join(plain(line) for line in textwrap.wrap(text, length))
