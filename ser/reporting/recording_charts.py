"""Charts of one recording: how sure the model is of each emotion, and how that moves along the waveform.

In: samples and probabilities as arrays. Out: plotly figures. `words` translates what is written in them
(labels and axis titles), word by word; what it lacks stays English.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray
from plotly.subplots import make_subplots

from ser.reporting.style import INK, emotion_colours, plain, styled


@dataclass(frozen=True)
class Envelope:
    """The lowest and highest sample of each short stretch of a waveform: all (stretches,)."""

    times_s: NDArray[np.float64]
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    duration_s: float


def waveform_envelope(waveform: ArrayLike, rate_hz: int, stretches: int = 600) -> Envelope:
    """Reduce (samples,) to what a screen can show, so that a long recording stays a small figure."""
    samples = np.asarray(waveform, dtype=np.float32)
    starts = np.unique(np.linspace(0, len(samples), stretches, endpoint=False).astype(np.int64))
    if not len(samples):
        return Envelope(np.zeros(0), samples, samples, 0.0)
    low, high = np.minimum.reduceat(samples, starts), np.maximum.reduceat(samples, starts)
    return Envelope(starts / rate_hz, low, high, len(samples) / rate_hz)


def spectrogram(waveform: ArrayLike, rate_hz: int, columns: int = 400, bands: int = 64) -> NDArray[np.float32]:
    """Level in dB below the loudest, (bands, columns), of equal bands of frequency up to half the rate.

    Windows of 25 ms, no more of them than a screen can show, so that a long recording stays a small figure.
    """
    samples, width = np.asarray(waveform, dtype=np.float32), round(0.025 * rate_hz)
    starts = np.linspace(0, max(0, len(samples) - width), columns).astype(np.int64)
    padded = np.pad(samples, (0, max(0, width - len(samples))))
    power = np.abs(np.fft.rfft(padded[starts[:, None] + np.arange(width)] * np.hanning(width))) ** 2
    edges = np.linspace(0, power.shape[1], bands, endpoint=False).astype(np.int64)
    level_db = 10 * np.log10(np.maximum(np.add.reduceat(power, edges, axis=1), 1e-12))
    return np.maximum(level_db - level_db.max(), -70).T.astype(np.float32)


def with_spectrogram(figure: go.Figure, waveform: ArrayLike, rate_hz: int, words: Mapping[str, str]) -> go.Figure:
    """A timeline with two buttons that show either the waveform or a spectrogram in its place.

    words: of "waveform" and "spectrogram".
    """
    samples = np.asarray(waveform, dtype=np.float32)
    level_db = np.round(spectrogram(samples, rate_hz)).astype(np.int8)
    peak = float(np.abs(samples).max(initial=1e-6))
    x, y = (np.linspace(0, len(samples) / rate_hz, level_db.shape[1]), np.linspace(-peak, peak, len(level_db)))
    figure.add_trace(
        go.Heatmap(x=x, y=y, z=level_db, colorscale="Cividis", showscale=False, visible=False, hoverinfo="skip"), 1, 1
    )
    others = len(figure.data) - 3  # the first two traces are the waveform
    buttons = [
        {"label": words[name], "method": "restyle", "args": ["visible", [not on, not on, *[True] * others, on]]}
        for name, on in (("waveform", False), ("spectrogram", True))
    ]
    below = {"x": 0, "xanchor": "left", "y": -0.16, "yanchor": "top"}
    look = {"type": "buttons", "direction": "right", "bgcolor": "white", "font": {"color": "#333"}}
    return figure.update_layout(updatemenus=[{"buttons": buttons, **look, **below}], margin_b=84, height=466)


def timeline_figure(
    envelope: Envelope,
    start_s: NDArray[np.float64],
    end_s: NDArray[np.float64],
    probabilities: ArrayLike,
    labels: Sequence[str],
    words: Mapping[str, str] | None = None,
    number_text: Callable[[str], str] = str,
) -> go.Figure:
    """The waveform above the probabilities of the emotions, stacked to 100 %, on one axis of seconds.

    start_s, end_s: (windows,) of the windows. probabilities: (windows, classes). A window counts at its centre, the
    first and last ones of a stretch hold to its ends; where no window is, nothing is drawn. words: labels, "seconds"
    and "probability" in another language, whose digits `number_text` puts into a text.
    """
    said = words or {}
    times, values, heard = _stretches(start_s, end_s, np.asarray(probabilities, dtype=np.float64))
    figure = make_subplots(2, 1, shared_xaxes=True, row_heights=[0.25, 0.75], vertical_spacing=0.04)
    figure.add_traces(_waveform(envelope), rows=[1, 1], cols=[1, 1])
    seconds = [number_text(f"{time:.1f}") for time in times]
    name = said.get("seconds", "seconds")
    look: dict[str, Any] = {"mode": "lines", "line": {"width": 0}, "showlegend": False, "hovertemplate": "%{text}"}
    figure.add_trace(go.Scatter(x=times, y=[0] * len(times), name=name, text=seconds, **look), row=2, col=1)
    for index, (label, colour) in enumerate(emotion_colours(labels).items()):
        area = _area(times, values[:, index], plain(said.get(label, label)), colour)
        area.text = [number_text(f"{share:.0%}") for share in heard[:, index]]
        figure.add_trace(area, row=2, col=1)
    figure = styled(figure, height=430)
    figure.update_layout(hovermode="x unified", hoverdistance=-1, legend_traceorder="normal")
    figure.update_xaxes(range=[0, envelope.duration_s], showgrid=False, unifiedhovertitle_text=" ")
    figure.update_xaxes(title_text=said.get("seconds", "seconds"), row=2, col=1)
    figure.update_yaxes(showticklabels=False, showgrid=False, row=1, col=1)
    probability = said.get("probability", "probability")
    figure.update_yaxes(title_text=probability, range=[0, 1], tickformat=".0%", row=2, col=1)
    return figure


def _stretches(
    start_s: NDArray[np.float64], end_s: NDArray[np.float64], probabilities: NDArray[np.float64]
) -> tuple[list[float], NDArray[np.float64], NDArray[np.float64]]:
    """Points in time and their probabilities `(points, classes)`; zero at both ends of a gap between windows.

    And the same without these zeros, which are drawn and never said.
    """
    times: list[float] = []
    values, heard, nothing = [], [], np.zeros(probabilities.shape[1])
    for number, (start, end) in enumerate(zip(start_s.tolist(), end_s.tolist(), strict=True)):
        row = probabilities[number]
        opens = number == 0 or bool(start > end_s[number - 1])
        closes = number == len(start_s) - 1 or bool(start_s[number + 1] > end)
        times += [start, start] * opens + [(start + end) / 2] + [end, end] * closes
        values += [nothing, row] * opens + [row] + [row, nothing] * closes
        heard += [row] * (1 + 2 * opens + 2 * closes)
    return times, np.array(values), np.array(heard)


def _waveform(envelope: Envelope) -> list[go.Scatter]:
    """Two invisible lines with the space between them filled."""
    look = {"mode": "lines", "line": {"width": 0.5, "color": INK}, "showlegend": False, "hoverinfo": "skip"}
    low = go.Scatter(x=envelope.times_s, y=envelope.low, **look)
    return [low, go.Scatter(x=envelope.times_s, y=envelope.high, fill="tonexty", fillcolor=INK, **look)]


def _area(times: Sequence[float], values: NDArray[np.float64], name: str, colour: str) -> go.Scatter:
    return go.Scatter(
        x=times,
        y=values,
        name=name,
        mode="lines",
        stackgroup="emotions",
        line={"width": 1, "color": "white"},
        fillcolor=colour,
        hovertemplate="%{text}",
    )
