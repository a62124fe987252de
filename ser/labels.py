"""The six emotions of ShEMO, in the order that every model, table and chart of the project uses."""

from __future__ import annotations

EMOTIONS: tuple[str, ...] = ("anger", "fear", "happiness", "neutral", "sadness", "surprise")
