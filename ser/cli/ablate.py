"""`ser effects`: what each option beyond the paper changes, on the same folds, with intervals."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ser.cli.common import (
    add_check,
    add_corpus_arguments,
    add_encoder_arguments,
    add_settings,
    encode,
    prepare_features,
    settings_of,
    stop_on_signals,
)

if TYPE_CHECKING:
    from ser.classifier.checkpoint import EncoderReference
    from ser.features.extract import FeatureSet
    from ser.training.trainer import EpochReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from ser.classifier.bigru import ClassifierSettings
    from ser.experiments.ablation import OPTIONS
    from ser.training.trainer import TrainingSettings

    add_corpus_arguments(parser)
    add_check(parser)
    add_encoder_arguments(parser)
    parser.add_argument(
        "--out", type=Path, default=Path("runs") / "effects",
        help="folder for effects.json and a run folder an option (default %(default)s); what is finished there is kept",
    )  # fmt: skip
    parser.add_argument(
        "--options", nargs="+", choices=tuple(OPTIONS), default=list(OPTIONS), metavar="OPTION",
        help=f"which ones (default: all: {', '.join(OPTIONS)})",
    )  # fmt: skip
    parser.add_argument("--split", choices=("speakers", "loso", "corpora"), default="speakers")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--validation-share", type=float, default=0.10)
    add_settings(parser, ClassifierSettings, TrainingSettings)


def run(args: argparse.Namespace) -> int:
    from ser.classifier.bigru import ClassifierSettings
    from ser.cli.crossval import draw_report
    from ser.errors import CorpusError
    from ser.experiments.ablation import measure
    from ser.training.crossval import CrossvalSettings
    from ser.training.trainer import TrainingSettings

    base = CrossvalSettings(
        settings_of(ClassifierSettings, args), settings_of(TrainingSettings, args), args.split, args.folds,
        args.validation_share, args.seed,
    )  # fmt: skip
    corpus, features, encoder = prepare_features(args)
    print(
        f"{corpus.name}: {len(corpus.utterances)} utterances, {len(corpus.speakers)} speakers -> {args.out}"
    )

    def source(settings: CrossvalSettings) -> tuple[FeatureSet, EncoderReference]:
        needs = settings.classifier.weighted_layers, settings.training.augmented_copies
        if needs == (base.classifier.weighted_layers, base.training.augmented_copies):
            return features, encoder
        usable, others, other_encoder = encode(corpus, args, *needs)
        if len(usable.utterances) < len(corpus.utterances):
            raise CorpusError(
                "Some recordings cannot be used with this option; leave them out of the corpus."
            )
        return others, other_encoder

    effects = measure(corpus, base, args.options, source, args.out, print_epoch, stop_on_signals())
    for folder in (path.parent for path in args.out.glob("*/progress.json")):
        draw_report(folder)
    print_effects(effects)
    print(f"Written: {args.out / 'effects.json'}")
    return 0


def print_epoch(option: str, fold: int, report: EpochReport) -> None:
    if fold == 0 and report.epoch % 10 == 0:
        print(f"{option}: epoch {report.epoch}", flush=True)


def print_effects(effects: dict[str, Any]) -> None:
    """The table: scores of the base, then what each option adds to them, in points."""
    from ser.cli.crossval import interval_text

    print(f"\n{effects['protocol']}")
    base = effects["base"]
    print(f"base: WA {interval_text(base['wa'])}, UAR {interval_text(base['uar'])}\n")
    print(f"{'option':20s}{'WA':>8s}  {'difference [95 %]':25s}{'UAR':>8s}  difference [95 %]")
    for name, one in effects["options"].items():
        if "refused" in one:
            print(f"{name:20s}  not measured: {one['refused']}")
            continue
        cells = "".join(
            f"{100 * one[key]['value']:8.2f}  {points(one['difference'][key]):25s}" for key in ("wa", "uar")
        )
        print(f"{name:20s}{cells.rstrip()}")
    print(
        f"\nIn percent and points; {effects['intervals']}.\n"
        "An interval that holds 0 shows no effect; of twenty that should hold it, one misses it by chance. "
        "another_seed shows what chance alone changes.",
        flush=True,
    )


def points(interval: dict[str, Any]) -> str:
    """`+1.20 [-0.40, 2.90]`."""
    if interval["low"] is None:
        return f"{100 * interval['value']:+.2f} ({interval.get('note', '')})"
    return f"{100 * interval['value']:+.2f} [{100 * interval['low']:+.2f}, {100 * interval['high']:+.2f}]"
