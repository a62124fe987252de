"""`report.html` of a cross-validation: its figures and tables on one page that needs nothing else.

In: the content of `result.json` and the rows of `predictions.csv` (see `predictions`). Out: a self-contained
HTML file, only written where the two agree.

`result.json` holds `protocol`, `created`, `labels`, `corpus`, `encoder`, `settings`, `seed`, `versions`;
`folds`, each with its file lists `train`, `validation`, `test`, its `epochs`, `best_epoch`, `test_confusion`
and `test_scores`; `pooled` scores (`Scores.to_dict`), `pooled_confusion`, `mean_over_folds`, `by_gender` and
`by_speaker` (scores, and the `gender` of the speaker); where they were made, `random_split` (`protocol`,
`pooled`) and `comparison` (rows of `ComparisonRow`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ser.errors import JobError
from ser.files import write_atomically
from ser.reporting.page import chart, folded, grid, page, paragraph, section, table
from ser.scoring.metrics import reliability
from ser.scoring.predictions import Row, arrays, confusion_of
from ser.scoring.predictions import read_predictions as read_predictions

MAX_FOLD_MATRICES = 10  # beyond it (one fold a speaker) a page of matrices says less than their sum
MEASURES = {"wa": "accuracy (WA)", "uar": "mean recall (UAR)", "macro_f1": "macro F1"}
PARTS = ("train", "validation", "test")


def write_report(result: Row, predictions: Sequence[Row], path: str | Path) -> Path:
    """Write the page to `path`, whole or not at all.

    Raises:
        JobError: the predictions are not those of the result.
    """
    labels = result["labels"]
    if confusion_of(predictions, labels) != [list(row) for row in result["pooled_confusion"]]:
        raise JobError(
            f"The predictions do not belong to the result: {len(predictions)} rows give another confusion "
            "matrix. Take both from the same run folder."
        )
    title = f"Cross-validation on {result['corpus']['name']}"
    body = [
        _conditions(result),
        _score_section(result),
        _leak_section(result),
        comparison_section(result.get("comparison") or []),
        _matrix_section(result),
        _training_section(result),
        _fold_section(result, predictions),
        _speaker_section(result),
        _calibration_section(result, predictions),
        _settings_section(result),
    ]
    write_atomically(Path(path), page(title, body).encode("utf-8"))
    return Path(path)


def _conditions(result: Row) -> str:
    corpus, encoder = result["corpus"], result["encoder"]
    name = encoder.get("name") or encoder.get("source") or "unknown"
    facts = f"{corpus['n_utterances']} recordings of {corpus['n_speakers']} speakers, encoder {name}"
    return paragraph(f"Protocol: {result['protocol']}.", note=True) + paragraph(
        f"{facts}, seed {result['seed']}, finished {result['created']}."
    )


def _score_section(result: Row) -> str:
    pooled, means = result["pooled"], result["mean_over_folds"]
    rows = [
        [words, _percent(pooled[name]), _span(pooled[name]), _percent(means.get(name))]
        for name, words in MEASURES.items()
    ]
    rows.append(["calibration error (ECE)", _percent(pooled["ece"]), _span(pooled["ece"]), "–"])
    of_class = [
        [label, sum(counts), *_both(pooled["recall"][label]), *_both(pooled["precision"][label])]
        for label, counts in zip(result["labels"], result["pooled_confusion"], strict=True)
    ]
    caption = "Test clips of all folds together; intervals by bootstrap over speakers"
    head = ["class", "clips", "recall", "95 % interval", "precision", "95 % interval"]
    return section(
        "Scores",
        table(caption, ["measure", "value", "95 % interval", "mean over folds"], rows),
        table("Each class by itself", head, of_class),
    )


def _leak_section(result: Row) -> str:
    """The same settings on a split that ignores speakers, where that was run."""
    leaky = result.get("random_split")
    if not leaky:
        return ""
    rows = []
    for name, words in MEASURES.items():
        ours, theirs = _value(result["pooled"][name]), _value(leaky["pooled"][name])
        gain = f"{100 * (theirs - ours):+.1f} points"
        if name in leaky.get("premium", {}):
            gain += f" {_span(leaky['premium'][name])}"
        rows.append([words, _percent(result["pooled"][name]), _percent(leaky["pooled"][name]), gain])
    return section(
        "What a leak of speakers is worth",
        paragraph(f"The second column: {leaky['protocol']}. It is no result, only a measure of the leak."),
        table(
            "Same settings, two splits", ["measure", "speakers apart", "speakers ignored", "premium"], rows
        ),
    )


def comparison_section(comparison: Sequence[Row]) -> str:
    """Figure 6, where baselines were measured: rows as `ComparisonRow` has them."""
    if not comparison:
        return ""
    from ser.reporting.charts import ComparisonRow, comparison_figure

    rows = [ComparisonRow(**row) for row in comparison]
    cells = [
        [row.name, f"{row.value:.1%}", "published" if row.published else "measured here", row.protocol]
        for row in rows
    ]
    caption = "Accuracy beside other methods; published figures follow other protocols."
    return section(
        "Comparison",
        chart("comparison", comparison_figure(rows), caption),
        table("The same in numbers", ["method", "accuracy", "source", "protocol"], cells, words=True),
    )


def _matrix_section(result: Row) -> str:
    from ser.reporting.charts import confusion_figure

    labels, folds = result["labels"], result["folds"]
    pooled = confusion_figure(result["pooled_confusion"], labels)
    right = ", ".join(f"{label} {_percent(result['pooled']['recall'][label])}" for label in labels)
    charts = [
        chart(f"fold-{number}", confusion_figure(fold["test_confusion"], labels), f"Fold {number}")
        for number, fold in enumerate(folds, start=1)
    ]
    few = len(folds) <= MAX_FOLD_MATRICES
    return section(
        "Confusion matrices",
        chart(
            "pooled",
            pooled,
            "All folds: counts and shares of the true class.",
            f"Shares answered rightly: {right}",
        ),
        grid(charts) if few else paragraph(f"The {len(folds)} matrices of single folds are in result.json."),
    )


def _training_section(result: Row) -> str:
    from ser.reporting.charts import learning_curves_figure

    folds = result["folds"]
    rows = [
        [
            number,
            len(fold["epochs"]),
            fold["best_epoch"],
            _percent(fold["test_scores"]["wa"]),
            _percent(fold["test_scores"]["uar"]),
            _percent(fold["test_scores"]["macro_f1"]),
        ]
        for number, fold in enumerate(folds, start=1)
    ]
    caption = "Cross entropy of each fold (faint) and their mean; dashed once some folds have stopped."
    head = ["fold", "epochs", "best epoch", "test WA", "test UAR", "test macro F1"]
    return section(
        "Training",
        chart("curves", learning_curves_figure(folds), caption),
        table("Folds in numbers", head, rows),
    )


def _fold_section(result: Row, predictions: Sequence[Row]) -> str:
    from ser.reporting.charts import class_shares_figure

    emotion = {row["file"]: row["emotion"] for row in predictions}
    speaker = {row["file"]: row["speaker"] for row in predictions}
    shares = class_shares(result["folds"], emotion, result["labels"])
    rows = [
        [number, *(f"{len(fold[part])} / {_speakers(fold[part], speaker)}" for part in PARTS)]
        for number, fold in enumerate(result["folds"], start=1)
    ]
    caption = "Share of each emotion in the three parts: mean over folds, whiskers the extremes."
    return section(
        "Folds",
        chart("shares", class_shares_figure(shares), caption),
        table("Recordings / speakers", ["fold", *PARTS], rows),
    )


def class_shares(
    folds: Iterable[Row], emotion: Mapping[str, str], labels: Sequence[str]
) -> dict[str, dict[str, list[float]]]:
    """Part -> emotion -> its share in each fold, for figure 4; `emotion` maps file names to labels."""
    shares: dict[str, dict[str, list[float]]] = {part: {label: [] for label in labels} for part in PARTS}
    for fold in folds:
        for part in PARTS:
            found = [emotion.get(file) for file in fold[part]]
            for label in labels:
                shares[part][label].append(found.count(label) / max(1, len(found)))
    return shares


def _speaker_section(result: Row) -> str:
    from ser.reporting.charts import speaker_strip_figure

    by_speaker, by_gender = result.get("by_speaker") or {}, result.get("by_gender") or {}
    genders = [
        [gender, row["n_speakers"], row["n_utterances"], *_both(row["wa"]), *_both(row["uar"])]
        for gender, row in by_gender.items()
    ]
    points = {name: {**row, "wa": _value(row["wa"])} for name, row in by_speaker.items()}
    worst_first = sorted(points.items(), key=lambda item: item[1]["wa"])
    rows = [
        [name, row.get("gender") or "–", row["n_utterances"], _percent(row["wa"]), _percent(row["uar"])]
        for name, row in worst_first
    ]
    head = ["gender", "speakers", "clips", "WA", "95 % interval", "UAR", "95 % interval"]
    listed = table("Speakers, lowest accuracy first", ["speaker", "gender", "clips", "WA", "UAR"], rows)
    strip = "Each point a speaker, its size the number of clips; the bar is the mean of the speakers."
    return section(
        "Speakers",
        chart("speakers", speaker_strip_figure(points), strip) if points else "",
        table("By gender", head, genders) if genders else "",
        folded(f"All {len(rows)} speakers", listed) if rows else "",
    )


def _calibration_section(result: Row, predictions: Sequence[Row]) -> str:
    from ser.reporting.charts import reliability_figure

    true, _, probabilities = arrays(predictions, result["labels"])
    figure = reliability_figure(reliability(true, probabilities))
    caption = "Share of right answers against the stated probability; on the line both agree."
    return section("Calibration", chart("reliability", figure, caption))


def _settings_section(result: Row) -> str:
    groups = {key: result[key] for key in ("settings", "encoder", "corpus", "versions") if result.get(key)}
    rows = [row for key, content in groups.items() for row in _flat(content, key)]
    return section("Settings and versions", table("What made this run", ["name", "value"], rows, words=True))


def _flat(content: Any, name: str) -> list[tuple[str, object]]:
    """Nested settings as rows `outer.inner`, value."""
    if isinstance(content, Mapping):
        return [row for key, value in content.items() for row in _flat(value, f"{name}.{key}")]
    return [(name, content)]


def _speakers(files: Iterable[str], speaker: Mapping[str, str]) -> int:
    return len({speaker.get(file) for file in files})


def _value(entry: Any) -> float:
    """A number given plainly or as an interval; NaN for None."""
    number = entry["value"] if isinstance(entry, Mapping) else entry
    return float("nan") if number is None else float(number)


def _percent(entry: Any) -> str:
    number = _value(entry)
    return "–" if np.isnan(number) else f"{number:.1%}"


def _span(entry: Row) -> str:
    """The interval in words, or why there is none."""
    if entry.get("low") is None or entry.get("high") is None:
        return entry.get("note") or "–"
    return f"{entry['low']:.1%} to {entry['high']:.1%}"


def _both(entry: Row) -> tuple[str, str]:
    return _percent(entry), _span(entry)
