"""Numbers at the axes of a chart, in the digits of a language: the library that draws it has its own alone.

Out: what an axis or a colour bar of plotly is updated with.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ser.ui.html import percent
from ser.ui.texts import localised, say

MOST_STEPS = 8
SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def ticks(values: Sequence[float], language: str) -> dict[str, Any]:
    """Marks at these values."""
    return {"tickvals": values, "ticktext": [localised(f"{value:g}", language) for value in values]}


def ticks_between(low: float, high: float, steps: Sequence[float], language: str) -> dict[str, Any]:
    """Marks from one value to another, at the smallest of some steps that needs no more than `MOST_STEPS`."""
    step = next((step for step in steps if high - low <= MOST_STEPS * step), steps[-1])
    return ticks([step * number for number in range(math.floor(low / step), math.ceil(high / step) + 1)], language)


def share_ticks(language: str) -> dict[str, Any]:
    """Marks at every fifth of a whole, in percent."""
    return {"tickvals": SHARES, "ticktext": [share(one, 0, language) for one in SHARES]}


def share(value: float, digits: int, language: str) -> str:
    """A share in percent."""
    return say("percent", language, percent=percent(value, digits))
