"""The bricks of the page's HTML. Text that a person or a file wrote is escaped here, and nowhere else.

In: text. Out: HTML.
"""

from __future__ import annotations

import base64
from html import escape

KINDS = ("waiting", "running", "sure", "unsure", "problem")  # of boxes: the colour of their edge


def box(kind: str, *content: str, heading: str = "", is_quiet: bool = False) -> str:
    """A framed box of one of `KINDS` around HTML; a problem is read out at once, all else when there is time.

    One that is quiet is read out when asked for.
    """
    role = "group" if is_quiet else "alert" if kind == "problem" else "status"
    head = f"<h2>{escape(heading)}</h2>" if heading else ""
    return f'<div class="box {kind}" role="{role}">{head}{"".join(content)}</div>'


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph that runs in the direction of its own first word."""
    return f'<p class="{kind}" dir="auto">{escape(text)}</p>'


def quoted(lead: str, text: str) -> str:
    """English words of the program behind a sentence in the visitor's language, which is empty in English."""
    return (paragraph(lead) if lead else "") + f'<p lang="en" dir="ltr">{escape(text)}</p>'


def message_box(message: str, is_problem: bool = False) -> str:
    """What a press led to."""
    return box("problem" if is_problem else "sure", paragraph(message))


def percent(share: float | None, digits: int = 1) -> float | int | str:
    """A share in percent, to be filled into a sentence; a dash where there is none."""
    if share is None:
        return "–"
    return round(100 * share, digits) if digits else round(100 * share)


def download(name: str, content: str, kind: str) -> str:
    """A link that saves text under a name; it is in the page itself, so nothing of it stays on the server."""
    data = base64.b64encode(content.encode(errors="replace")).decode()
    return f'<a download="{escape(name)}" href="data:{kind};charset=utf-8;base64,{data}">{escape(name)}</a>'
