"""The six emotions of ShEMO, in the order that every model, table and chart of the project uses."""

from __future__ import annotations

from collections.abc import Iterable

EMOTIONS: tuple[str, ...] = ("anger", "fear", "happiness", "neutral", "sadness", "surprise")


def in_order(emotions: Iterable[str]) -> tuple[str, ...]:
    """The different emotions: the six in the project's order, then others by name."""
    present = set(emotions)
    six = tuple(emotion for emotion in EMOTIONS if emotion in present)
    return six + tuple(sorted(present - set(EMOTIONS)))
