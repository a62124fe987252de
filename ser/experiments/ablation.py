"""Contribution of each option beyond the paper: the same folds with and without it, predictions compared in pairs.

In: a corpus, base settings and names of `OPTIONS`. Out: a run folder for each option, and `ablation.json` with the
difference of WA and UAR and its 95 % interval by bootstrap over speakers. What is finished is taken as it is, so an
ablation that was stopped or killed resumes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ser.classifier.checkpoint import EncoderReference, weight_shapes
from ser.corpora.corpus import Corpus
from ser.errors import FoldError, SettingsError
from ser.experiments.ensemble_gain import cross_validate_ensemble
from ser.files import write_json
from ser.runtime import library_versions
from ser.scoring.predictions import contribution
from ser.training.crossval import Crossval
from ser.training.frames import FrameSource
from ser.training.settings import CrossvalSettings
from ser.training.trainer import EpochReport

BASE, FILE = "base", "ablation.json"
# Option, named as the flag of `ser crossval` or as a word of its `--reduce` -> what it changes in the base settings.
# "seed" is no option beyond the paper: the base with the next seed shows what chance alone changes.
OPTIONS: dict[str, dict[str, Any]] = {
    "seed": {"seed": "next"},
    "class-weights": {"class_weights": True},
    "label-smoothing": {"label_smoothing": 0.1},
    "weighted-layers": {"weighted_layers": "all"},
    "pooling": {"pooling": "attentive"},
    "functionals": {"functionals": True},
    "frame-masking": {"frame_masking": True},
    "augmented-copies": {"augmented_copies": 2},
    "ensemble": {"ensemble": True},
    "average=2": {"averaged_frames": 2},
    "average=4": {"averaged_frames": 4},
    "pca=128": {"components": 128},
    "pca=32": {"components": 32},
    "prune=128": {"components": 128, "components_by": "validation"},
    "prune=32": {"components": 32, "components_by": "validation"},
}
# Features and encoder for the settings of an option.
Source = Callable[[CrossvalSettings], tuple[FrameSource, EncoderReference]]
Listener = Callable[[str, int, EpochReport], None]


def changed(base: CrossvalSettings, option: str, n_layers: int) -> CrossvalSettings:
    """The base settings with one option on; the folds stay the same.

    Args:
        n_layers: hidden layers of the encoder up to the one in use, the front end counted.

    Raises:
        SettingsError: there is no such option, or it is on in the base already.
    """
    if option not in OPTIONS:
        raise SettingsError(f"There is no option {option!r}; there are {', '.join(OPTIONS)}.")
    words = {"all": n_layers, "next": base.training.seed + 1}
    changes = {name: words.get(value, value) for name, value in OPTIONS[option].items()}
    parts = {part: _replaced(getattr(base, part), changes) for part in ("classifier", "training")}
    settings = replace(base, **parts, ensemble=changes.get("ensemble", base.ensemble))
    if settings == base:
        raise SettingsError(f"{option} is on in the base settings already; leave it out there or here.")
    return settings


@dataclass(frozen=True)
class Ablation:
    """The base settings and options, each cross-validated on the same folds.

    Attributes:
        corpus, base: what to learn from, and how.
        source: gives features and encoder for some settings.
        folder: for `ablation.json` and a run folder each.
        listener: called after each epoch of each fold with the option, the fold's number and the report.
        should_stop: asked after each epoch of each fold.
    """

    corpus: Corpus
    base: CrossvalSettings
    source: Source
    folder: Path
    listener: Listener = lambda option, fold, report: None
    should_stop: Callable[[], bool] = lambda: False

    def run(self, options: Sequence[str]) -> dict[str, Any]:
        """Run the base settings and each option; returns the content of `ablation.json`, written after each.

        Raises:
            SettingsError: an unknown option, or a folder that holds another ablation.
            Stopped: `should_stop` said so; the same call resumes.
        """
        n_layers = self.source(self.base)[1].layer + 1
        settings = {option: changed(self.base, option, n_layers) for option in options}
        reference = self._result(BASE, self.base)
        content: dict[str, Any] = {
            "kind": "ablation",
            "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "intervals": "95 %, bootstrap over speakers; differences paired: the same draws for both",
            **{key: reference[key] for key in ("protocol", "settings", "corpus", "encoder", "labels")},
            "versions": library_versions(),
            "base": _summary(reference) | _size(self.base, reference),
            "options": {},
        }
        write_json(self.folder / FILE, content)
        for option in options:
            row: dict[str, Any] = {"changes": OPTIONS[option]}
            content["options"][option] = row
            try:
                result = self._result(option, settings[option])
                gain = contribution(self.folder / option, self.folder / BASE, result["labels"])
                row |= {**_summary(result), "contribution": gain, **_size(settings[option], result)}
            except FoldError as error:  # too few speakers to split the rest once more: the others are measured
                row["refused"] = str(error)
            write_json(self.folder / FILE, content)
        return content

    def _result(self, option: str, settings: CrossvalSettings) -> dict[str, Any]:
        """The result of one cross-validation, from its folder where that is finished."""

        def listener(fold: int, report: EpochReport) -> None:
            self.listener(option, fold, report)

        features, encoder = self.source(settings)
        if settings.ensemble:  # no speaker is new to all fold models, so further speakers are held out
            plain = replace(settings, ensemble=False)
            outer = Crossval(self.corpus, features, encoder, plain, self.folder / BASE)
            return cross_validate_ensemble(outer, self.folder / option, listener, self.should_stop)
        crossval = Crossval(self.corpus, features, encoder, settings, self.folder / option)
        return crossval.run_once(listener, self.should_stop, final=False)


def _summary(result: dict[str, Any]) -> dict[str, Any]:
    scores = {name: result["pooled"][name] for name in ("wa", "uar", "ece")}
    return scores | {"best_epochs": [fold["best_epoch"] for fold in result["folds"]]}


def _size(settings: CrossvalSettings, result: dict[str, Any]) -> dict[str, int]:
    """Products of a second of speech, see `ClassifierSettings.cost`, and weights, of all members of an ensemble."""
    members, dim = settings.n_folds if settings.ensemble else 1, result["encoder"]["dim"]
    shapes = weight_shapes(settings.classifier, dim, len(result["labels"])).values()
    return {"cost": members * settings.classifier.cost(dim), "weights": members * sum(map(math.prod, shapes))}


def _replaced(settings: Any, changes: dict[str, Any]) -> Any:
    names = {entry.name for entry in fields(settings)}
    return replace(settings, **{name: value for name, value in changes.items() if name in names})
