"""`ser baselines`: the Bi-GRU and other models on the same folds, as a table and as figure 6."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ser.cli import arguments, prepare
from ser.cli.config import add_config_arguments

if TYPE_CHECKING:
    from ser.corpora.corpus import Corpus
    from ser.experiments.comparison import Chooser, Encoded

NO_LIMIT_S = 1e9  # the budget is a number of trials


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from ser.classifier.settings import ClassifierSettings
    from ser.experiments.baselines import BaselineSettings
    from ser.experiments.models import MODELS
    from ser.training.settings import TrainingSettings

    arguments.add_corpus_arguments(parser)
    arguments.add_check(parser)
    arguments.add_encoder_arguments(parser, several=True)
    parser.add_argument(
        "--models",
        nargs="+",
        default=list(MODELS),
        metavar="MODEL",
        help=f"models, separated by spaces or commas (default: all that can run: {', '.join(MODELS)}); "
        "with bigru, the settings as given, paper always runs too",
    )
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        default=Path("runs") / "baselines",
        help="folder for baselines.json, report.html and a run folder for each model (default %(default)s); "
        "finished ones are kept",
    )
    parser.add_argument(
        "--trials", type=int, default=0, metavar="N",
        help="first search the settings of the Bi-GRU and of every other network by this many trials each, on "
        "validation speakers (default 0: take them as given); studies.db in the folder of --out keeps them",
    )  # fmt: skip
    arguments.add_split_arguments(parser, splits=("speakers", "loso", "corpora"))
    others = ("weighted_layers", "concatenated_layers", "augmented_copies")
    add_config_arguments(parser)
    arguments.add_settings(parser, ClassifierSettings, TrainingSettings, leave_out=others)
    for name, default in vars(BaselineSettings()).items():
        if name not in ("max_frames", "seed"):
            flag, words = f"--baseline-{name.replace('_', '-')}", f"of the other networks (default {default})"
            parser.add_argument(flag, type=type(default), default=default, help=words)


def run(args: argparse.Namespace) -> int:
    from ser.cli.crossval import draw_report
    from ser.errors import SettingsError, Stopped
    from ser.experiments.baselines import BaselineSettings
    from ser.experiments.comparison import FILE, Comparison, ComparisonSettings
    from ser.experiments.models import MODELS, runnable
    from ser.features.extract import progress_bar
    from ser.files import read_json
    from ser.reporting.comparison import write_comparison_report

    requested = [name for word in args.models for name in word.split(",") if name]
    names, reasons = runnable(list(dict.fromkeys(requested)))
    for reason in reasons:
        print(reason, flush=True)
    if not names:
        raise SettingsError(f"None of these models can run here; there are {', '.join(MODELS)}.")
    prefix = "baseline_"
    given = {name[len(prefix) :]: value for name, value in vars(args).items() if name.startswith(prefix)}
    baseline = BaselineSettings(**given, max_frames=args.max_frames, seed=args.seed)
    settings = ComparisonSettings(arguments.crossval_settings(args), baseline)
    corpus = prepare.read_corpus_arguments(args)
    if args.check:
        corpus = prepare.leave_out_unusable(corpus)
    corpus, encoded = _encoded(corpus, args, any(MODELS[name].uses_encoder for name in names))
    print(f"{corpus.name}: {len(corpus.utterances)} utterances, {len(corpus.speakers)} speakers -> {args.out}")
    should_stop = prepare.stop_on_signals()
    chooser = _equal_budgets(args, should_stop) if args.trials else None
    try:
        with prepare.sharing(args) as executor:
            stage = prepare.Stage("models", progress_bar("models", "model"))
            comparison = Comparison(
                corpus, encoded, settings, args.out, print_epoch, should_stop, chooser, executor, stage
            )
            content = comparison.run(names)
    except Stopped:  # what is finished is reported all the same
        if (args.out / FILE).exists():
            write_comparison_report(read_json(args.out / FILE), args.out / "report.html")
        raise
    write_comparison_report(content, args.out / "report.html")
    for row in content["rows"]:
        if MODELS[row["model"]].fit is None:
            draw_report(args.out / row["run"])
    print_comparison(content)
    print(f"Report: {args.out / 'report.html'}")
    return 0


def _equal_budgets(args: argparse.Namespace, should_stop: Callable[[], bool]) -> Chooser:
    from ser.tuning.budget import EqualBudgets
    from ser.tuning.space import TuningSettings
    from ser.tuning.storage import default_storage, open_storage

    def print_trial(run: str, number: int, accuracy: float | None) -> None:
        said = "pruned" if accuracy is None else f"{100 * accuracy:.1f} % on validation speakers"
        print(f"{run}: trial {number}, {said}", flush=True)

    settings = TuningSettings(trials=args.trials, timeout_s=NO_LIMIT_S, seed=args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    return EqualBudgets(open_storage(default_storage(args.out)), settings, print_trial, should_stop)


def _encoded(corpus: Corpus, args: argparse.Namespace, needed: bool) -> tuple[Corpus, list[Encoded]]:
    """The corpus through each encoder, without the recordings that one of them cannot use.

    Where no model needs an encoder, the first is named and not loaded.
    """
    from ser.classifier.checkpoint import EncoderReference
    from ser.errors import CorpusError
    from ser.experiments.baselines import ListedFrames
    from ser.experiments.comparison import Encoded

    def through(source: str, n_layers: int = 0) -> tuple[Corpus, Any, EncoderReference]:
        return prepare.encode(corpus, argparse.Namespace(**(vars(args) | {"encoder": source})), n_layers, 0)

    def with_layers(source: str, n_layers: int) -> Any:
        usable, stacked, _ = through(source, n_layers)
        if len(usable.utterances) < len(corpus.utterances):
            raise CorpusError("Some recordings cannot be used with all layers; leave them out of the corpus.")
        return stacked

    nothing = ListedFrames([])
    if not needed:
        return corpus, [Encoded(nothing, lambda: nothing, EncoderReference(args.encoder[0], 0, "0" * 16, 0))]
    sources = list(dict.fromkeys(args.encoder))
    for source in sources:  # what one of them leaves out, none gets
        corpus, *_ = through(source)
    encoded = []
    for source in sources:
        _, frames, reference = through(source)
        encoded.append(Encoded(frames, partial(with_layers, source, reference.layer + 1), reference))
    return corpus, encoded


def print_epoch(run: str, fold: int, epoch: int) -> None:
    from tqdm import tqdm

    if epoch % 10 == 0:
        with tqdm.external_write_mode():
            print(f"{run}: fold {fold + 1}, epoch {epoch}", flush=True)


def print_comparison(content: dict[str, Any]) -> None:
    """Print what was measured, best first, then figures published on the same corpus."""
    from ser.cli.output import interval_text
    from ser.experiments.published import published_on

    print(f"\n{content['protocol']}; {content['intervals']}\n")
    width = max(len(row["title"]) for row in content["rows"]) + 2
    print(f"{'measured here':{width}s}{'WA':26s}{'UAR':26s}{'macro F1':26s}seconds")
    for row in sorted(content["rows"], key=lambda row: -row["wa"]["value"]):
        cells = "".join(f"{interval_text(row[key]):26s}" for key in ("wa", "uar", "macro_f1"))
        print(f"{row['title']:{width}s}{cells}{row['seconds']}")
    published = published_on(content["corpus"])
    print("\npublished, under other protocols, not measured here" if published else "")
    for one in published:
        value = "value not stated in the text" if one.value is None else f"{100 * one.value:.2f} %"
        print(f"  {one.name}: {value} ({one.protocol})", flush=True)
