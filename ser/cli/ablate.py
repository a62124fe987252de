"""`ser ablate`: what each option beyond the paper contributes, on the same folds, with intervals."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ser.cli import arguments, prepare
from ser.cli.config import add_config_arguments

if TYPE_CHECKING:
    from ser.classifier.checkpoint import EncoderReference
    from ser.features.extract import FeatureSet
    from ser.training.settings import CrossvalSettings
    from ser.training.trainer import EpochReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from ser.classifier.settings import ClassifierSettings
    from ser.experiments.ablation import OPTIONS
    from ser.training.settings import TrainingSettings

    arguments.add_corpus_arguments(parser)
    arguments.add_check(parser)
    arguments.add_encoder_arguments(parser)
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        default=Path("runs") / "ablation",
        help="folder for ablation.json, report.html and a run folder for each option (default %(default)s); finished "
        "ones are kept",
    )
    parser.add_argument(
        "--options",
        nargs="+",
        choices=tuple(OPTIONS),
        default=list(OPTIONS),
        metavar="OPTION",
        help=f"options to measure (default: {' '.join(OPTIONS)})",
    )
    arguments.add_split_arguments(parser, splits=("speakers", "loso", "corpora"))
    add_config_arguments(parser)
    arguments.add_settings(parser, ClassifierSettings, TrainingSettings)


def run(args: argparse.Namespace) -> int:
    from ser.cli.crossval import draw_report
    from ser.errors import CorpusError
    from ser.experiments.ablation import FILE, Ablation
    from ser.reporting.ablation_report import write_ablation_report

    base = arguments.crossval_settings(args)
    corpus, features, encoder = prepare.prepare_features(args)
    print(f"{corpus.name}: {len(corpus.utterances)} utterances, {len(corpus.speakers)} speakers -> {args.out}")

    def source(settings: CrossvalSettings) -> tuple[FeatureSet, EncoderReference]:
        needs = settings.classifier.stacked_layers, settings.training.augmented_copies
        if needs == (base.classifier.stacked_layers, base.training.augmented_copies):
            return features, encoder
        usable, others, other_encoder = prepare.encode(corpus, args, *needs)
        if len(usable.utterances) < len(corpus.utterances):
            raise CorpusError("Some recordings cannot be used with this option; leave them out of the corpus.")
        return others, other_encoder

    ablation = Ablation(corpus, base, source, args.out, print_epoch, prepare.stop_on_signals())
    content = ablation.run(args.options)
    for progress in args.out.glob("*/progress.json"):
        draw_report(progress.parent)
    print_contributions(content)
    print(f"Written: {args.out / FILE}, {write_ablation_report(content, args.out / 'report.html')}")
    return 0


def print_epoch(option: str, fold: int, report: EpochReport) -> None:
    if fold == 0 and report.epoch % 10 == 0:
        print(f"{option}: epoch {report.epoch}", flush=True)


def print_contributions(content: dict[str, Any]) -> None:
    """Print the scores of the base, then what each option adds to them, in points."""
    from ser.cli.output import interval_text

    base = content["base"]
    print(f"\n{content['protocol']}")
    print(f"base: WA {interval_text(base['wa'])}, UAR {interval_text(base['uar'])}\n")
    print(
        f"{'option':20s}{'WA':>8s}  {'contribution [95 %]':25s}{'UAR':>8s}  {'contribution [95 %]':25s} cost  weights"
    )
    for name, one in content["options"].items():
        if "refused" in one:
            print(f"{name:20s}  not measured: {one['refused']}")
            continue
        cells = "".join(
            f"{100 * one[key]['value']:8.2f}  {points(one['contribution'][key]):25s}" for key in ("wa", "uar")
        )
        print(f"{name:20s}{cells} {one['cost'] / base['cost']:.2f} {one['weights']:8,d}")
    print(
        f"\nIn percent and points; {content['intervals']}.\n"
        "An interval that includes 0 shows no effect; one in twenty that should include it misses it by chance. "
        "The row seed shows what chance alone changes. Cost: products of the classifier, of those of the base.",
        flush=True,
    )


def points(interval: dict[str, Any]) -> str:
    """`+1.20 [-0.40, +2.90]`."""
    if interval["low"] is None:
        return f"{100 * interval['value']:+.2f} ({interval.get('note', '')})"
    return f"{100 * interval['value']:+.2f} [{100 * interval['low']:+.2f}, {100 * interval['high']:+.2f}]"
