"""`report.html` of `ser evaluate`: scores of a trained model on labelled recordings.

In: the content of `evaluation.json`. Out: a self-contained page.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ser.reporting.charts import confusion_figure
from ser.reporting.render import MEASURES, number, write_page
from ser.reporting.score_charts import reliability_figure, speaker_strip_figure
from ser.scoring.metrics import Reliability


def write_evaluation_report(content: Mapping[str, Any], path: str | Path) -> Path:
    """Write the page to `path`, whole or not at all."""
    speakers = dict(sorted(content["by_speaker"].items(), key=lambda item: number(item[1]["wa"])))
    points = {name: {**row, "wa": number(row["wa"])} for name, row in speakers.items()}
    return write_page(
        path,
        "evaluation.html",
        content=content,
        measures=MEASURES,
        matrix=confusion_figure(content["confusion"], content["labels"]),
        calibration=reliability_figure(Reliability(**content["reliability"])),
        speakers=speakers,
        strip=speaker_strip_figure(points),
    )
