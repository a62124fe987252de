"""`ser crossval`: five-fold speaker-disjoint cross-validation into a run folder."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ser.cli.common import (
    Stage,
    add_check,
    add_corpus_arguments,
    add_encoder_arguments,
    add_settings,
    prepare_features,
    settings_of,
    stop_on_signals,
)

if TYPE_CHECKING:
    from ser.training.trainer import EpochReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from ser.classifier.bigru import ClassifierSettings
    from ser.training.trainer import TrainingSettings

    add_corpus_arguments(parser)
    add_check(parser)
    add_encoder_arguments(parser)
    parser.add_argument(
        "--out", type=Path, help="run folder (default: runs/crossval-DATE); an unfinished run goes on"
    )
    parser.add_argument("--split", choices=("speakers", "loso", "corpora", "random"), default="speakers")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--validation-share", type=float, default=0.10)
    parser.add_argument(
        "--also-random-split", action="store_true",
        help="run the same on a split that ignores speakers, and print both: what a leak is worth",
    )  # fmt: skip
    parser.add_argument("--no-final", action="store_true", help="do not train a checkpoint on all speakers")
    parser.add_argument(
        "--ensemble", action="store_true",
        help="the checkpoint averages the fold models; answers cost as many classifiers as there are folds",
    )  # fmt: skip
    add_settings(parser, ClassifierSettings, TrainingSettings)


def run(args: argparse.Namespace) -> int:
    from ser.classifier.bigru import ClassifierSettings
    from ser.files import write_json
    from ser.training.crossval import Crossval, CrossvalSettings
    from ser.training.trainer import TrainingSettings

    settings = CrossvalSettings(
        settings_of(ClassifierSettings, args), settings_of(TrainingSettings, args), args.split, args.folds,
        args.validation_share, args.seed, args.ensemble,
    )  # fmt: skip
    corpus, features, encoder = prepare_features(args)
    folder = args.out or Path("runs") / time.strftime("crossval-%Y%m%d-%H%M%S")
    should_stop = stop_on_signals()
    crossval = Crossval(corpus, features, encoder, settings, folder)
    print(f"{corpus.name}: {len(corpus.utterances)} utterances, {len(corpus.speakers)} speakers -> {folder}")
    stage, n_folds = Stage("training"), len(crossval.folds)

    def after_epoch(number: int, report: EpochReport) -> None:
        print_epoch(number, report)
        stage((report.epoch - 1) * n_folds + number + 1, settings.training.max_epochs * n_folds)

    result = crossval.run(after_epoch, should_stop, final=not args.no_final)
    print_scores(result)
    if args.also_random_split:
        leaky = replace(settings, split="random")
        beside = Crossval(corpus, features, encoder, leaky, folder / "random_split")
        random_result = beside.run(print_epoch, should_stop, final=False)
        result["random_split"] = {
            key: random_result[key] for key in ("protocol", "pooled", "mean_over_folds")
        }
        write_json(folder / "result.json", result)
        crossval.write_report(result)
        print_scores(random_result)
        premium = 100 * (random_result["pooled"]["wa"]["value"] - result["pooled"]["wa"]["value"])
        print(
            f"Leak premium: {premium:+.2f} points of accuracy come from hearing the test speakers in training."
        )
    print(f"Report: {folder / 'report.html'}")
    return 0


def print_epoch(number: int, report: EpochReport) -> None:
    """One line of the live table."""
    if number == 0:
        print(f"epoch {report.epoch}   fold  train loss  train WA   val loss    val WA   val UAR", flush=True)
    print(
        f"{number + 1:14d}  {report.train_loss:10.4f}  {100 * report.train_wa:7.2f}%  {report.validation_loss:9.4f}"
        f"  {100 * (report.validation_wa or 0):7.2f}%  {100 * (report.validation_uar or 0):7.2f}%",
        flush=True,
    )


def print_scores(result: dict[str, Any]) -> None:
    """The pooled scores with their protocol, and the mean over folds."""
    print(f"\n{result['protocol']}")
    for name, key in (
        ("WA (accuracy)", "wa"),
        ("UAR", "uar"),
        ("macro F1", "macro_f1"),
        ("calibration error", "ece"),
    ):
        print(f"  {name:18s} {interval_text(result['pooled'][key])}")
    for emotion in result["labels"]:
        print(f"  recall {emotion:11s} {interval_text(result['pooled']['recall'][emotion])}")
    mean = result["mean_over_folds"]
    print(f"  mean over folds    WA {100 * mean['wa']:.2f} %, UAR {100 * mean['uar']:.2f} %")
    print(f"  largest class      {100 * result['majority_share']:.2f} %", flush=True)


def interval_text(interval: dict[str, Any]) -> str:
    if interval["value"] is None:
        return f"undefined ({interval.get('note', '')})"
    if interval["low"] is None:
        return f"{100 * interval['value']:.2f} %"
    return f"{100 * interval['value']:.2f} % [{100 * interval['low']:.2f}, {100 * interval['high']:.2f}]"
