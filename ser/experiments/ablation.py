"""What each option beyond the paper is worth: the same folds with and without it, the answers compared in pairs.

In: a corpus, base settings and names of `OPTIONS`. Out: one run folder an option, and `effects.json` with the
difference of WA and UAR and its 95 % interval by bootstrap over speakers. What is finished is taken as it is, so a
measurement that was stopped or killed goes on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ser.classifier.checkpoint import EncoderReference
from ser.corpora.corpus import Corpus
from ser.errors import FoldError, SettingsError
from ser.experiments.ensemble_gain import cross_validate_ensemble
from ser.files import write_json
from ser.runtime import library_versions
from ser.scoring.metrics import paired_difference
from ser.scoring.predictions import arrays, read_predictions
from ser.training.crossval import Crossval
from ser.training.frames import FrameSource
from ser.training.settings import CrossvalSettings
from ser.training.trainer import EpochReport

BASE = "base"
ANOTHER_SEED = "another_seed"  # no option: the base with the next seed, to see what chance alone changes
# Option -> what it changes in the base settings.
OPTIONS: dict[str, dict[str, Any]] = {
    ANOTHER_SEED: {},
    "class_weights": {"class_weights": True},
    "label_smoothing": {"label_smoothing": 0.1},
    "layer_weights": {"weighted_layers": "all"},
    "attentive_pooling": {"pooling": "attentive"},
    "frame_masking": {"frame_masking": True},
    "augmentation": {"augmented_copies": 2},
    "ensemble": {"ensemble": True},
}
# Features and encoder for the settings of an option.
Source = Callable[[CrossvalSettings], tuple[FrameSource, EncoderReference]]
Listener = Callable[[str, int, EpochReport], None]


def changed(base: CrossvalSettings, option: str, n_layers: int) -> CrossvalSettings:
    """The base settings with one option on; the folds stay the same.

    Args:
        n_layers: hidden layers that the encoder has up to the one in use, the front end counted.

    Raises:
        SettingsError: there is no such option, or it is on in the base already.
    """
    if option not in OPTIONS:
        raise SettingsError(f"There is no option {option!r}; there are {', '.join(OPTIONS)}.")
    changes = {"seed": base.training.seed + 1} if option == ANOTHER_SEED else OPTIONS[option]
    changes = {name: n_layers if value == "all" else value for name, value in changes.items()}
    parts = {part: _replaced(getattr(base, part), changes) for part in ("classifier", "training")}
    settings = replace(base, **parts, ensemble=bool(changes.get("ensemble", base.ensemble)))
    if settings == base:
        raise SettingsError(f"{option} is on in the base settings already; leave it out there or here.")
    return settings


def measure(
    corpus: Corpus, base: CrossvalSettings, options: Sequence[str], source: Source, folder: Path,
    listener: Listener = lambda option, fold, report: None, should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:  # fmt: skip
    """Run the base settings and each option; returns the content of `effects.json`, which grows option by option.

    Args:
        source: gives features and encoder for some settings.
        folder: for `effects.json` and a run folder each.
        listener: called after each epoch of each fold with the option, the fold's number and the report.
        should_stop: asked after each epoch of each fold.

    Raises:
        SettingsError: an unknown option, or a folder that holds another measurement.
        Stopped: `should_stop` said so; the same call goes on.
    """
    n_layers = source(base)[1].layer + 1
    wanted = {option: changed(base, option, n_layers) for option in options}
    reference = _run(BASE, corpus, base, source, folder, listener, should_stop)
    content: dict[str, Any] = {
        "kind": "effects",
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "intervals": "95 %, bootstrap over speakers; differences paired: the same draws for both",
        **{key: reference[key] for key in ("protocol", "settings", "corpus", "encoder", "labels")},
        "versions": library_versions(),
        "base": _summary(reference),
        "options": {},
    }
    write_json(folder / "effects.json", content)
    for option, settings in wanted.items():
        try:
            result = _run(option, corpus, settings, source, folder, listener, should_stop)
        except FoldError as error:  # too few speakers to split the rest once more: the others go on
            content["options"][option] = {"changes": OPTIONS[option], "refused": str(error)}
            continue
        content["options"][option] = {
            "changes": OPTIONS[option],
            **_summary(result),
            "difference": difference(folder / option, folder / BASE, result["labels"]),
        }
        write_json(folder / "effects.json", content)
    return content


def difference(candidate: Path, reference: Path, labels: Sequence[str]) -> dict[str, Any]:
    """Candidate minus reference in WA and UAR, from the `predictions.csv` of two run folders.

    Raises:
        SettingsError: they did not test the same recordings in the same folds.
    """
    pair = [read_predictions(folder / "predictions.csv") for folder in (candidate, reference)]
    tested = [[(row["file"], row["fold"], row["emotion"]) for row in rows] for rows in pair]
    if tested[0] != tested[1]:
        raise SettingsError(
            f"{candidate} and {reference} did not test the same recordings in the same folds. "
            "Delete the older folder and run it again."
        )
    (true, first, _), (_, second, _) = (arrays(rows, labels) for rows in pair)
    speakers = [row["speaker"] for row in pair[0]]
    return paired_difference(true, first, second, speakers, len(labels)).to_dict()


def _run(
    option: str, corpus: Corpus, settings: CrossvalSettings, source: Source, folder: Path,
    listener: Listener, should_stop: Callable[[], bool],
) -> dict[str, Any]:  # fmt: skip
    """The result of one cross-validation: what the folder holds, if that is finished, else computed."""

    def heard(fold: int, report: EpochReport) -> None:
        listener(option, fold, report)

    features, encoder = source(settings)
    if (
        settings.ensemble
    ):  # every speaker of the corpus trains some fold model: speakers new to all are held out
        outer = Crossval(corpus, features, encoder, replace(settings, ensemble=False), folder / BASE)
        return cross_validate_ensemble(outer, folder / option, heard, should_stop)
    crossval = Crossval(corpus, features, encoder, settings, folder / option)
    finished = folder / option / "result.json"
    if crossval.lockstep.done and finished.exists():
        result: dict[str, Any] = json.loads(finished.read_text(encoding="utf-8"))
        return result
    return crossval.run(heard, should_stop, final=False)


def _summary(result: dict[str, Any]) -> dict[str, Any]:
    pooled = result["pooled"]
    epochs = [fold["best_epoch"] for fold in result["folds"]]
    return {"wa": pooled["wa"], "uar": pooled["uar"], "ece": pooled["ece"], "best_epochs": epochs}


def _replaced(settings: Any, changes: dict[str, Any]) -> Any:
    names = {entry.name for entry in fields(settings)}
    return replace(settings, **{name: value for name, value in changes.items() if name in names})
