"""What several commands print: a score with its interval, and a table of scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SCORES = (("WA (accuracy)", "wa"), ("UAR", "uar"), ("macro F1", "macro_f1"), ("calibration error", "ece"))


def interval_text(interval: Mapping[str, Any]) -> str:
    """A score in percent with its 95 % interval: `54.93 % [47.96, 62.97]`."""
    if interval["value"] is None:
        return f"undefined ({interval.get('note', '')})"
    if interval["low"] is None:
        return f"{100 * interval['value']:.2f} %"
    return f"{100 * interval['value']:.2f} % [{100 * interval['low']:.2f}, {100 * interval['high']:.2f}]"


def print_scores(scores: Mapping[str, Any], labels: Sequence[str], largest_class: float) -> None:
    """Accuracy, UAR, macro F1, calibration error, recall by emotion, and the share of the largest class."""
    for name, key in SCORES:
        print(f"  {name:18s} {interval_text(scores[key])}")
    for emotion in labels:
        print(f"  recall {emotion:11s} {interval_text(scores['recall'][emotion])}")
    print(f"  largest class      {100 * largest_class:.2f} %", flush=True)


def print_groups(groups: Mapping[str, Mapping[str, Any]], what: str) -> None:
    """Accuracy and UAR of each corpus, speaker or gender; nothing where there is only one."""
    if len(groups) > 1:
        print(f"  {what:18s} {'WA':26s}UAR")
        for name, one in groups.items():
            print(f"  {name:18s} {interval_text(one['wa']):26s}{interval_text(one['uar'])}")
