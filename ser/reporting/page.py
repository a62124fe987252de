"""The bricks of a self-contained HTML page: tables, figures, sections; every text is escaped here.

The page holds plotly.js once, asks nothing of the network (a content security policy forbids it), follows the
reader's light or dark setting and is narrow enough for a phone.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import plotly.graph_objects as go

POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 0 auto; padding: 1rem; }
h1 { line-height: 1.2; } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; margin: 1rem 0; }
caption { text-align: start; padding-bottom: .3rem; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: end; vertical-align: top;
  font-variant-numeric: tabular-nums; white-space: nowrap; }
th:first-child, table.words :is(th, td) { text-align: start; }
table.words :is(th, td) { white-space: normal; overflow-wrap: anywhere; min-width: 8rem; }
thead th { background: var(--soft); } figure { margin: 1rem 0; } figcaption { font-size: .95rem; }
svg :is(.xtick, .ytick) text, svg :is(.xtitle, .ytitle, .legendtext) { fill: currentColor !important; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: 0 1rem; }
.grid figure { min-width: 0; } .note { border-inline-start: 4px solid #E69F00; padding-inline-start: .8rem; }
"""


def page(title: str, body: Sequence[str]) -> str:
    """A whole document around the sections."""
    from plotly.offline import get_plotlyjs

    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{_text(title)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{STYLE}</style>\n<script>{get_plotlyjs()}</script>\n</head>\n<body>\n<main>\n"
        f"<h1>{_text(title)}</h1>\n{''.join(body)}</main>\n</body>\n</html>\n"
    )


def section(heading: str, *parts: str) -> str:
    """A heading and what belongs to it; nothing where there is nothing."""
    content = "".join(parts)
    return f"<section>\n<h2>{_text(heading)}</h2>\n{content}</section>\n" if content else ""


def paragraph(text: str, note: bool = False) -> str:
    """A paragraph; `note` sets it apart."""
    return f"<p{' class=note' if note else ''}>{_text(text)}</p>\n"


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[object]], words: bool = False) -> str:
    """A table whose first column heads its rows; numbers to the right, or `words` to the left."""
    heads = "".join(f'<th scope="col">{_text(cell)}</th>' for cell in head)
    lines = "".join(
        f'<tr><th scope="row">{_text(first)}</th>{"".join(f"<td>{_text(cell)}</td>" for cell in rest)}</tr>\n'
        for first, *rest in rows
    )
    look = ' class="words"' if words else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{_text(caption)}">'
        f"<table{look}>\n<caption>{_text(caption)}</caption>\n"
        f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{lines}</tbody>\n</table></div>\n"
    )


def chart(name: str, figure: go.Figure, caption: str, spoken: str = "") -> str:
    """A plotly figure with its caption; `spoken` tells a screen reader what the picture shows."""
    drawing = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=f"chart-{name}",
        default_height=f"{figure.layout.height}px",
        config={"displaylogo": False, "responsive": True},
    )
    label = _text(spoken or caption)
    return (
        f"<figure>\n<figcaption>{_text(caption)}</figcaption>\n"
        f'<div role="img" aria-label="{label}">{drawing}</div>\n</figure>\n'
    )


def grid(charts: Sequence[str]) -> str:
    """Charts side by side, as many as the screen is wide."""
    return f'<div class="grid">\n{"".join(charts)}</div>\n' if charts else ""


def folded(summary: str, content: str) -> str:
    """Content behind a line that opens it."""
    return f"<details>\n<summary>{_text(summary)}</summary>\n{content}</details>\n"


def _text(value: object) -> str:
    return html.escape(str(value))
