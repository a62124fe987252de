"""HTML reports from Jinja templates: one template a report, every value escaped.

A report opens by double click and without a network, in its run folder or downloaded alone, so plotly.js lies
inside it: packed, which makes a page of 2.0 MB in place of 4.8, and unpacked by the browser (any since 2023).
A content security policy forbids the page to ask for anything from elsewhere.
"""

from __future__ import annotations

import base64
import gzip
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ser.corpora.folder import shown
from ser.files import write_atomically

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup
    from plotly.graph_objects import Figure

NOTHING = "–"
MEASURES = {"wa": "accuracy (WA)", "uar": "mean recall (UAR)", "macro_f1": "macro F1", "ece": "calibration error (ECE)"}


def render(template: str, **values: Any) -> str:
    """A page of `ser/reporting/templates`; a value that the template asks for and is not given is an error."""
    return shown(_environment().get_template(template).render(plotly=_packed_plotly(), **values))


def write_page(path: str | Path, template: str, **values: Any) -> Path:
    """Write a page, whole or not at all."""
    write_atomically(Path(path), render(template, **values).encode())
    return Path(path)


def number(entry: Any) -> float:
    """A number given plainly or as an interval; NaN for None."""
    value = entry["value"] if isinstance(entry, Mapping) else entry
    return math.nan if value is None else float(value)


def percent(entry: Any) -> str:
    value = number(entry)
    return NOTHING if math.isnan(value) else f"{value:.1%}"


def interval(entry: Mapping[str, Any]) -> str:
    """The interval in words, or why there is none."""
    if entry.get("low") is None or entry.get("high") is None:
        return entry.get("note") or NOTHING
    return f"{entry['low']:.1%} to {entry['high']:.1%}"


def aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines for a terminal: columns side by side, the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *rest in rows:
        cells = (cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))
        yield "  ".join([first.ljust(widths[0]), *cells])


def flat(content: Any, name: str) -> list[tuple[str, object]]:
    """Nested settings as rows `outer.inner`, value."""
    if isinstance(content, Mapping):
        return [row for key, value in content.items() for row in flat(value, f"{name}.{key}")]
    return [(name, content)]


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("ser.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "interval": interval, "figure": _figure}
    return environment


def _figure(figure: Figure) -> Markup:
    """A plotly figure as JSON that can stand in a script element: plotly escapes what would end the element."""
    from markupsafe import Markup

    return Markup(figure.to_json())


@cache
def _packed_plotly() -> str:
    from plotly.offline import get_plotlyjs

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()
