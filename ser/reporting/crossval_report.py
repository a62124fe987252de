"""`report.html` of a cross-validation: its figures and tables on one page that needs nothing else.

In: the content of `result.json` and the rows of `predictions.csv` (see `ser.scoring.predictions`). Out: a
self-contained HTML file, only written where the two agree.

`result.json` holds `protocol`, `created`, `labels`, `corpus`, `encoder`, `settings`, `seed`, `versions`;
`folds`, each with its file lists `train`, `validation`, `test`, its `epochs`, `best_epoch`, `test_confusion`
and `test_scores`; `pooled` scores (`Scores.to_dict`), `pooled_confusion`, `mean_over_folds`, `by_gender` and
`by_speaker` (scores, and the `gender` of the speaker); and, where it was made, `random_split` (`protocol`,
`pooled`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from plotly.graph_objects import Figure

from ser.errors import JobError
from ser.reporting.charts import confusion_figure, learning_curves_figure
from ser.reporting.folds_report import PARTS, class_shares, validated_by
from ser.reporting.render import MEASURES, flat, number, percent, write_page
from ser.reporting.score_charts import class_shares_figure, reliability_figure, speaker_strip_figure
from ser.scoring.metrics import reliability
from ser.scoring.predictions import Row, arrays, confusion_of
from ser.scoring.predictions import read_predictions as read_predictions

MAX_FOLD_MATRICES = 10  # beyond it (one fold a speaker) a page of matrices says less than their sum


def write_report(result: Row, predictions: Sequence[Row], path: str | Path) -> Path:
    """Write the page to `path`, whole or not at all.

    Raises:
        JobError: the predictions are not those of the result.
    """
    labels, folds = result["labels"], result["folds"]
    if confusion_of(predictions, labels) != [list(row) for row in result["pooled_confusion"]]:
        raise JobError(
            f"The predictions do not belong to the result: {len(predictions)} rows give another confusion "
            "matrix. Take both from the same run folder."
        )
    emotion = {row["file"]: row["emotion"] for row in predictions}
    speaker = {row["file"]: row["speaker"] for row in predictions}
    heard = [{part: [speaker.get(file) for file in fold[part]] for part in PARTS} for fold in folds]
    said = [{part: [emotion.get(file) for file in fold[part]] for part in PARTS} for fold in folds]
    true, _, probabilities = arrays(predictions, labels)
    speakers = sorted((result.get("by_speaker") or {}).items(), key=lambda item: number(item[1]["wa"]))
    few = len(folds) <= MAX_FOLD_MATRICES
    pooled = confusion_figure(result["pooled_confusion"], labels)
    of_folds = [confusion_figure(fold["test_confusion"], labels, show_scale=False) for fold in folds if few]
    recalls = (f"{label} {percent(result['pooled']['recall'][label])}" for label in labels)
    return write_page(
        path,
        "crossval.html",
        result=result,
        measures=MEASURES,
        matrices=[pooled, *of_folds],
        spoken=f"Shares predicted rightly: {', '.join(recalls)}",
        curves=_curves(result),
        shares=class_shares_figure(class_shares(said, labels)),
        members=[[f"{len(fold[part])} / {len(set(fold[part]))}" for part in PARTS] for fold in heard],
        validated_by=validated_by([fold["validation"] for fold in heard]),
        speakers=dict(speakers),
        strip=speaker_strip_figure({name: {**row, "wa": number(row["wa"])} for name, row in speakers}),
        calibration=reliability_figure(reliability(true, probabilities)),
        settings=[
            row for key in ("settings", "encoder", "corpus", "versions") for row in flat(result.get(key, {}), key)
        ],
    )


def _curves(result: Row) -> list[tuple[Figure, str]]:
    """Figure 5 with its caption, and where there is an L2 penalty, once with it and once without."""
    folds: Any = result["folds"]
    watched = result["settings"].get("training", {}).get("monitor", "loss_with_penalty")
    with_penalty = any(row.get("penalty") for fold in folds for row in fold["epochs"])
    choices = {"loss_with_penalty": True, "loss": False} if with_penalty else {"loss": False}
    captions = {
        "loss_with_penalty": "Figure 5: cross entropy plus the L2 penalty",
        "loss": "Figure 5: cross entropy alone",
    }
    return [
        (
            learning_curves_figure(folds, with_penalty=penalty),
            captions[key] + (", which early stopping watched." if key == watched else "."),
        )
        for key, penalty in sorted(choices.items(), key=lambda choice: choice[0] != watched)
    ]
