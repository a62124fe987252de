"""The model card as Markdown: the scores that the checkpoint carries, and the card that ships with it.

In: a `Checkpoint` (or none yet) and a language. Out: Markdown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ser.classifier.checkpoint import Checkpoint
from ser.files import SHIPPED_CLASSIFIER
from ser.ui.texts import localised, say

CARD = SHIPPED_CLASSIFIER.parent / "README.md"
MEASURES = ("wa", "uar", "macro_f1", "ece")


def card(checkpoint: Checkpoint, is_shipped: bool, language: str = "en") -> str:
    """What is known of a model, and the paper it follows, as Markdown; the shipped one has a card of its own."""
    parts = [scores_table(checkpoint.scores, language), say("card_paper", language)]
    if is_shipped and CARD.exists():
        parts.append(without_front_matter(CARD.read_text(encoding="utf-8")))
    return "\n\n".join(parts)


def scores_table(scores: Mapping[str, Any], language: str = "en") -> str:
    """The measures with their intervals and the conditions they were measured under."""
    rows = [_row(name, scores[name], language) for name in MEASURES if _is_measured(scores.get(name))]
    if not rows:
        return say("card_no_scores", language)
    names = (say(key, language) for key in ("card_measure", "card_value", "card_interval"))
    lines = [f"**{say('card_scores', language)}**", "", f"| {' | '.join(names)} |", "|---|---|---|", *rows]
    if "n_utterances" in scores and "n_speakers" in scores:
        people = {name: scores[name] for name in ("n_utterances", "n_speakers")}
        lines += ["", say("card_people", language, **people)]
    if "conditions" in scores:
        lines += ["", str(scores["conditions"])]
    return "\n".join(lines)


def without_front_matter(text: str) -> str:
    """Markdown without the YAML that the Hugging Face hub reads at its top."""
    if text.startswith("---\n") and "\n---\n" in text[4:]:
        return text[4:].split("\n---\n", 1)[1]
    return text


def _is_measured(score: object) -> bool:
    return isinstance(score, Mapping) and isinstance(score.get("value"), int | float)


def _row(name: str, score: Mapping[str, Any], language: str) -> str:
    low, high = score.get("low"), score.get("high")
    interval = f"{low:.3f} – {high:.3f}" if isinstance(low, float) and isinstance(high, float) else ""
    numbers = localised(f"{score['value']:.3f} | {interval}", language)
    return f"| {say(name, language)} | {numbers} |"
