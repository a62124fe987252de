"""`ser compare`: baselines beside the Bi-GRU on the same folds, as a table and as figure 6."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ser.cli.common import (
    DEFAULT_ENCODER,
    add_check,
    add_corpus_arguments,
    add_settings,
    encode,
    leave_out_unusable,
    read_corpus_arguments,
    settings_of,
    stop_on_signals,
)

if TYPE_CHECKING:
    from ser.corpora.corpus import Corpus
    from ser.experiments.comparison import Encoded


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from ser.classifier.bigru import ClassifierSettings
    from ser.experiments.baselines import BaselineSettings
    from ser.experiments.comparison import MODELS
    from ser.training.trainer import TrainingSettings

    add_corpus_arguments(parser)
    add_check(parser)
    parser.add_argument(
        "--encoder", nargs="+", default=[DEFAULT_ENCODER], metavar="SRC",
        help="hub ids, folders or 'shipped': the models on frames run with each (default %(default)s)",
    )  # fmt: skip
    parser.add_argument("--layer", type=int, help="hidden layer (default: the last)")
    parser.add_argument("--cache", type=Path, help="folder of kept features (default: SER_CACHE or ~/.cache)")
    parser.add_argument("--threads", type=int, help="threads of torch")
    parser.add_argument(
        "--models", nargs="+", default=list(MODELS), metavar="MODEL",
        help=f"which ones, apart by blanks or commas (default: all that can run: {', '.join(MODELS)})",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=Path("runs") / "compare",
        help="folder for compare.json, report.html and a sub-folder a model (default %(default)s); "
        "what is finished there is kept",
    )  # fmt: skip
    parser.add_argument("--split", choices=("speakers", "loso", "corpora"), default="speakers")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--validation-share", type=float, default=0.10)
    add_settings(
        parser, ClassifierSettings, TrainingSettings, leave_out=("weighted_layers", "augmented_copies")
    )
    for name, default in vars(BaselineSettings()).items():
        if name not in ("max_frames", "seed"):
            parser.add_argument(
                f"--baseline-{name.replace('_', '-')}", type=type(default), default=default,
                help=f"of the other networks (default {default})",
            )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    from ser.classifier.bigru import ClassifierSettings
    from ser.cli.crossval import draw_report
    from ser.errors import SettingsError
    from ser.experiments.baselines import BaselineSettings
    from ser.experiments.comparison import MODELS, CompareSettings, compare, runnable
    from ser.training.crossval import CrossvalSettings
    from ser.training.trainer import TrainingSettings

    asked = [name for word in args.models for name in word.split(",") if name]
    names, reasons = runnable(list(dict.fromkeys(asked)))
    for reason in reasons:
        print(reason, flush=True)
    if not names:
        raise SettingsError(f"None of these models can run here; there are {', '.join(MODELS)}.")
    args.encoder = list(dict.fromkeys(args.encoder))
    crossval = CrossvalSettings(
        settings_of(ClassifierSettings, args), settings_of(TrainingSettings, args), args.split, args.folds,
        args.validation_share, args.seed,
    )  # fmt: skip
    given = {
        name.removeprefix("baseline_"): value
        for name, value in vars(args).items()
        if name.startswith("baseline_")
    }
    baseline = BaselineSettings(**given, max_frames=args.max_frames, seed=args.seed)
    if args.threads:
        import torch

        torch.set_num_threads(args.threads)
    corpus = read_corpus_arguments(args)
    if args.check:
        corpus = leave_out_unusable(corpus)
    corpus, encoded = _encoded(corpus, args, any(MODELS[name].uses_encoder for name in names))
    print(
        f"{corpus.name}: {len(corpus.utterances)} utterances, {len(corpus.speakers)} speakers -> {args.out}"
    )
    content = compare(
        corpus, encoded, names, CompareSettings(crossval, baseline), args.out, print_epoch, stop_on_signals()
    )
    for row in content["rows"]:
        if row["model"] == "bigru":
            draw_report(args.out / row["run"])
    print_comparison(content)
    print(f"Report: {args.out / 'report.html'}")
    return 0


def _encoded(corpus: Corpus, args: argparse.Namespace, needed: bool) -> tuple[Corpus, list[Encoded]]:
    """The corpus through each encoder, without the recordings that one of them cannot use.

    Where no model needs an encoder, the first is named and not loaded.
    """
    from ser.classifier.checkpoint import EncoderReference
    from ser.errors import CorpusError
    from ser.experiments.comparison import Encoded

    def through(source: str, whole: Corpus, n_layers: int = 0) -> tuple[Corpus, Any, EncoderReference]:
        return encode(whole, argparse.Namespace(**(vars(args) | {"encoder": source})), n_layers, 0)

    if not needed:
        unused = EncoderReference(args.encoder[0], 0, "0" * 16, 0)
        return corpus, [Encoded(_none(), _none, unused)]
    for source in args.encoder:  # what one of them leaves out, none gets
        corpus, *_ = through(source, corpus)
    encoded = []
    for source in args.encoder:
        same, frames, reference = through(source, corpus)

        def layers(source: str = source, n_layers: int = reference.layer + 1) -> Any:
            usable, stacked, _ = through(source, corpus, n_layers)
            if len(usable.utterances) < len(corpus.utterances):
                raise CorpusError(
                    "Some recordings cannot be used with all layers; leave them out of the corpus."
                )
            return stacked

        assert len(same.utterances) == len(corpus.utterances)
        encoded.append(Encoded(frames, layers, reference))
    return corpus, encoded


def _none() -> Any:
    from ser.experiments.baselines import ListedFrames

    return ListedFrames([])


def print_epoch(run: str, fold: int, epoch: int) -> None:
    if epoch % 10 == 0:
        print(f"{run}: fold {fold + 1}, epoch {epoch}", flush=True)


def print_comparison(content: dict[str, Any]) -> None:
    """The table, best first; published figures apart."""
    from ser.cli.crossval import interval_text
    from ser.experiments.comparison import PUBLISHED

    print(f"\n{content['protocol']}; {content['intervals']}\n")
    width = max(len(row["title"]) for row in content["rows"]) + 2
    print(f"{'measured here':{width}s}{'WA':26s}{'UAR':26s}{'macro F1':26s}seconds")
    for row in sorted(content["rows"], key=lambda row: -row["wa"]["value"]):
        cells = "".join(f"{interval_text(row[key]):26s}" for key in ("wa", "uar", "macro_f1"))
        print(f"{row['title']:{width}s}{cells}{row['seconds'] or '-'}")
    print("\npublished, on ShEMO, under other protocols: not measured here")
    for one in PUBLISHED:
        print(f"  {one.name}: {100 * one.value:.2f} % ({one.protocol})", flush=True)
