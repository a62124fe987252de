"""The report of a comparison with baselines: figure 6 from the user's own data.

In: the content of `baselines.json`. Out: `report.html`.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ser.experiments.published import ComparisonRow, comparison_rows, published_on
from ser.files import write_atomically
from ser.reporting.crossval_report import comparison_section
from ser.reporting.page import page, paragraph


def write_comparison_report(content: dict[str, Any], path: Path) -> None:
    """Write the page: measured bars with intervals, published ones of the same corpus apart."""
    corpus = content["corpus"]
    rows = [*comparison_rows(content), *published_on(corpus["name"])]
    body = [
        paragraph(f"Protocol of what was measured: {content['protocol']}.", note=True),
        paragraph(
            f"{corpus['n_utterances']} recordings of {corpus['n_speakers']} speakers, the same folds for every model; "
            f"intervals {content['intervals']}. Published figures follow other protocols."
        ),
        comparison_section([_bar(row) for row in rows if row.value is not None]),
    ]
    write_atomically(path, page(f"Methods compared on {corpus['name']}", body).encode())


def _bar(row: ComparisonRow) -> dict[str, Any]:
    return {name: value for name, value in asdict(row).items() if name != "source"}
