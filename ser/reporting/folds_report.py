"""Folds in numbers and as figure 4: for a terminal, and as a page.

In: folds with the speaker and the emotion of every utterance. Out: rows, text, a page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ser.corpora.folds import PARTS, Fold
from ser.labels import in_order
from ser.reporting.render import aligned, render

Shares = dict[str, dict[str, list[float]]]


def class_shares(folds: Sequence[Mapping[str, Sequence[str | None]]], labels: Sequence[str]) -> Shares:
    """Figure 4 of the paper in numbers: part -> emotion -> its share of the part in each fold, a fraction.

    folds: each with the emotions of the utterances of its parts.
    """
    parts = {part: [fold[part] for fold in folds] for part in PARTS}
    return {
        part: {label: [of_fold.count(label) / max(len(of_fold), 1) for of_fold in found] for label in labels}
        for part, found in parts.items()
    }


def validated_by(validation: Iterable[Iterable[str | None]]) -> str:
    """How the folds share validation speakers; `validation` has the speakers of each fold's part."""
    uses = Counter(name for of_fold in validation for name in set(of_fold))
    most = max(uses.values(), default=0)
    return f"Validated by {len(uses)} speakers, the most used in {most} fold{'s' if most > 1 else ''}."


def folds_text(folds: Sequence[Fold], speakers: Sequence[str], emotions: Sequence[str], promise: str) -> Iterator[str]:
    """The lines of a table for a terminal, and what the folds keep to."""
    yield from aligned(fold_rows(folds, speakers, emotions))
    shares = class_shares(_said(folds, emotions), in_order(emotions))
    for part in ("validation", "test"):
        off, label, fold = worst_share(shares[part], emotions)
        yield f"{part}: class shares are off by at most {off:.2f} percentage points ({label}, fold {fold})"
    yield _validated_by(folds, speakers)
    yield promise


def folds_page(folds: Sequence[Fold], speakers: Sequence[str], emotions: Sequence[str], promise: str) -> str:
    """The page with figure 4."""
    from ser.reporting.score_charts import class_shares_figure

    return render(
        "folds.html",
        promise=promise,
        validated_by=_validated_by(folds, speakers),
        shares=class_shares_figure(class_shares(_said(folds, emotions), in_order(emotions))),
        rows=fold_rows(folds, speakers, emotions),
    )


def fold_rows(folds: Sequence[Fold], speakers: Sequence[str], emotions: Sequence[str]) -> list[list[str]]:
    """A row for each part of each fold, with the number and the share of each emotion; the head first."""
    labels = in_order(emotions)

    def row(name: str, members: Sequence[int]) -> list[str]:
        found = Counter(emotions[index] for index in members)
        n_speakers = len({speakers[index] for index in members})
        size = [f"{len(members)}", f"{100 * len(members) / len(emotions):.2f} %", f"{n_speakers}"]
        shares = (100 * found[label] / max(len(members), 1) for label in labels)
        cells = (f"{found[label]} ({share:.2f} %)" for label, share in zip(labels, shares, strict=True))
        return [name, *size, *cells]

    rows = [["part", "utterances", "share", "speakers", *labels]]
    for number, fold in enumerate(folds, start=1):
        rows += [row(f"fold {number}, {part}", getattr(fold, part)) for part in PARTS]
    return [*rows, row("all", range(len(emotions)))]


def worst_share(shares: Mapping[str, Sequence[float]], emotions: Sequence[str]) -> tuple[float, str, int]:
    """The class share of a part that is farthest from the whole corpus': percentage points, emotion, fold."""
    overall = {label: emotions.count(label) / len(emotions) for label in shares}
    return max(
        (100 * abs(share - overall[label]), label, fold)
        for label, of_folds in shares.items()
        for fold, share in enumerate(of_folds, start=1)
    )


def _said(folds: Sequence[Fold], emotions: Sequence[str]) -> list[dict[str, list[str]]]:
    return [{part: [emotions[i] for i in getattr(fold, part)] for part in PARTS} for fold in folds]


def _validated_by(folds: Sequence[Fold], speakers: Sequence[str]) -> str:
    return validated_by([speakers[index] for index in fold.validation] for fold in folds)
