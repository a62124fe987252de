"""Rows of figure 6: what was measured here, and what others published on ShEMO and nobody measured here.

A value that the texts do not state is None, not a reading off a picture. Of the works that the paper cites we had no
text, so what is said of them is what the paper says. Left out are figures whose published code has five emotions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ser.labels import EMOTIONS

NOT_STATED = "ShEMO, split not stated by the paper"
SHARED = "ShEMO, 2,838 utterances; test speakers also in training, by its fold files"
FIGURE_6, EMOBOX = "the paper's figure 6", "EmoBox's leaderboard, emo-box.github.io"


@dataclass(frozen=True)
class ComparisonRow:
    """One bar of figure 6: a measured accuracy with its interval, or a published one with its protocol.

    Attributes:
        value: accuracy, a fraction; None where it is not stated.
        low, high: the interval of a measured one.
        source: where a published one stands.
    """

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    published: bool = False
    protocol: str = ""
    source: str = ""


PUBLISHED: tuple[ComparisonRow, ...] = tuple(
    ComparisonRow(name, value, published=True, protocol=protocol, source=source)
    for name, value, protocol, source in (
        ("DistilHuBERT, Bi-GRU, Optuna (2026)", 0.7877, "ShEMO, speakers apart, mean of five folds", FIGURE_6),
        ("1D-CNN [22]", 0.74, f"{NOT_STATED}; about 74 % by its text", FIGURE_6),
        ("HuBERT-CNN + Conformer [33]", None, NOT_STATED, FIGURE_6),
        ("DistilHuBERT [33]", None, NOT_STATED, FIGURE_6),
        ("HuBERT-base [33]", None, NOT_STATED, FIGURE_6),
        ("HuBERT-large [33]", None, NOT_STATED, FIGURE_6),
        ("DRM, wav2vec 2.0 [26]", None, f"{NOT_STATED}; the text states a UAR of 80.60 %", FIGURE_6),
        ("emotion2vec, frozen, linear", 0.7997, "ShEMO, split not known to us", "Ma et al. 2024"),
        ("HuBERT-base (EmoBox)", 0.8117, SHARED, EMOBOX),
        ("HuBERT-large (EmoBox)", 0.8335, SHARED, EMOBOX),
    )
)


N_UTTERANCES, N_SPEAKERS = 3000, 87  # of ShEMO, with six emotions


def published_on(corpus: Mapping[str, Any]) -> tuple[ComparisonRow, ...]:
    """What may stand beside a measurement on a corpus, `name`, `n_utterances`, `n_speakers` and `emotions`.

    Published figures are of ShEMO with its 87 speakers and six emotions, so nothing stands beside another corpus, of
    whatever name; some of the 3,000 utterances may have been left out as damaged.
    """
    is_whole = corpus["n_speakers"] == N_SPEAKERS and 0.95 * N_UTTERANCES <= corpus["n_utterances"] <= N_UTTERANCES
    is_whole = is_whole and set(corpus["emotions"]) == set(EMOTIONS)  # without its 38 of fear it is another task
    return PUBLISHED if corpus["name"].casefold() == "shemo" and is_whole else ()


def comparison_rows(content: Mapping[str, Any]) -> list[ComparisonRow]:
    """What was measured, best first: the rows of `baselines.json`."""
    best_first = sorted(content["rows"], key=lambda row: -row["wa"]["value"])
    protocol = content["protocol"]
    return [
        ComparisonRow(row["title"], wa["value"], wa["low"], wa["high"], protocol=protocol)
        for row in best_first
        for wa in [row["wa"]]
    ]
