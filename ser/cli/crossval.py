"""`ser crossval`: five-fold speaker-disjoint cross-validation into a run folder."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ser.cli.arguments import (
    add_check,
    add_corpus_arguments,
    add_encoder_arguments,
    add_settings,
    add_split_arguments,
    crossval_settings,
)
from ser.cli.config import add_config_arguments
from ser.cli.output import interval_text, print_scores
from ser.cli.prepare import Stage, check_writable, prepare_features, sharing, stop_on_signals

if TYPE_CHECKING:
    from ser.training.crossval import Crossval
    from ser.training.trainer import EpochReport

HEAD = "epoch  fold  train loss  train WA    val loss    val WA   val UAR"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_shared_arguments(parser)
    parser.add_argument(
        "-o", "--out", type=Path, help="run folder (default: runs/crossval-DATE); an unfinished run is resumed"
    )
    parser.add_argument("--no-final", action="store_true", help="do not train a checkpoint on all speakers")


def add_shared_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `ser crossval` that `ser train` has too."""
    from ser.classifier.settings import ClassifierSettings
    from ser.training.settings import TrainingSettings

    add_corpus_arguments(parser)
    add_check(parser)
    add_encoder_arguments(parser)
    add_split_arguments(parser)
    add_config_arguments(parser)
    parser.add_argument(
        "--also-random-split",
        action="store_true",
        help="run the same on a split that ignores speakers, and print both: the gain by a leak",
    )
    parser.add_argument(
        "--ensemble",
        action="store_true",
        help="the checkpoint averages the fold models; answers cost as many classifiers as there are folds",
    )
    add_settings(parser, ClassifierSettings, TrainingSettings)


def run(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from ser.features.extract import progress_bar
    from ser.training.crossval import Crossval

    settings = replace(crossval_settings(args), ensemble=args.ensemble)
    folder = args.out or Path("runs") / time.strftime("crossval-%Y%m%d-%H%M%S")
    check_writable(folder)
    corpus, features, encoder = prepare_features(args)
    should_stop = stop_on_signals()
    crossval = Crossval(corpus, features, encoder, settings, folder)
    print(f"{corpus.name}: {len(corpus.utterances)} utterances, {len(corpus.speakers)} speakers -> {folder}")
    stage, trainings = Stage("training", progress_bar("training", "epoch")), crossval.lockstep.trainings
    n_epochs = settings.training.max_epochs

    def after_epoch(number: int, report: EpochReport) -> None:
        with tqdm.external_write_mode():
            print_epoch(number, report)
        done = [n_epochs if one.stopped else len(one.epochs) for one in trainings]  # wherever they train
        stage(sum(done), n_epochs * len(trainings))

    print(HEAD, flush=True)
    with sharing(args) as executor:
        result = crossval.run(after_epoch, should_stop, not args.no_final, executor)
    print_result(result)
    if settings.classifier.voices:
        _add_voice_curve(crossval, result)
    if args.also_random_split:
        leaky = replace(settings, split="random", ensemble=False, folds_file="", n_folds=len(result["folds"]))
        beside = Crossval(corpus, features, encoder, leaky, folder / "random_split")
        print(HEAD, flush=True)
        compare_splits(folder, result, beside.run(print_epoch, should_stop, final=False))
    print(f"Report: {draw_report(folder)}")
    return 0


def _add_voice_curve(crossval: Crossval, result: dict[str, Any]) -> None:
    """Add what knowing a voice is worth to the result, and print it."""
    from ser.experiments.voice_curve import voice_curve
    from ser.files import write_json

    result["voices"] = voice_curve(crossval)
    write_json(crossval.run_folder.path / "result.json", result)
    print("  a voice is known by  utterances  WA without               WA with")
    for row in result["voices"]:
        known = f"{row['recordings']:2d} {row['kind']}"
        print(
            f"  {known:19s} {row['utterances']:11d}  {interval_text(row['without']['wa']):24s}"
            f" {interval_text(row['with']['wa'])}"
        )


def compare_splits(folder: Path, result: dict[str, Any], leaky: dict[str, Any]) -> None:
    """Add the random split, run in `random_split` below the run folder, to its result, and print what it gains."""
    from ser.files import write_json
    from ser.scoring.predictions import leak_premium, read_predictions

    leaky_rows = read_predictions(folder / "random_split" / "predictions.csv")
    premium = leak_premium(leaky_rows, read_predictions(folder / "predictions.csv"), result["labels"])
    shown = {key: leaky[key] for key in ("protocol", "pooled", "mean_over_folds")}
    result["random_split"] = shown | {"premium": premium}
    write_json(folder / "result.json", result)
    print_result(leaky)
    print(f"Leak premium: {interval_text(premium['wa'])} of accuracy come from hearing the test speakers in training.")


def draw_report(folder: Path) -> Path:
    """Draw `report.html` of a run folder from the result and the predictions that it holds."""
    from ser.files import read_json
    from ser.reporting.crossval_report import read_predictions, write_report

    result, predictions = read_json(folder / "result.json"), read_predictions(folder / "predictions.csv")
    return write_report(result, predictions, folder / "report.html")


def print_epoch(number: int, report: EpochReport) -> None:
    """One line of the live table; empty where a fold has diverged."""

    def cell(value: float | None, kind: str) -> str:
        return f"{'':10s}" if value is None else f"{value:10{kind}}"

    losses = cell(report.train_loss, ".4f"), cell(report.validation_loss, ".4f")
    train, *validation = (
        cell(value, ".2%") for value in (report.train_wa, report.validation_wa, report.validation_uar)
    )
    print(f"{report.epoch:5d}  {number + 1:4d}  {losses[0]}{train}  {losses[1]}{''.join(validation)}", flush=True)


def print_result(result: dict[str, Any]) -> None:
    """Pooled scores with their protocol, and the mean over folds."""
    print(f"\n{result['protocol']}")
    print_scores(result["pooled"], result["labels"], result["majority_share"])
    mean = result["mean_over_folds"]
    print(f"  mean over folds    WA {100 * mean['wa']:.2f} %, UAR {100 * mean['uar']:.2f} %", flush=True)
