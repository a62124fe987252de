"""Arguments that several commands share, and what becomes of them."""

from __future__ import annotations

import argparse
import signal
import sys
import types
from collections.abc import Callable, Collection
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from ser.checkpoint import EncoderReference
    from ser.corpora import Corpus
    from ser.encoder import Encoder
    from ser.features import FeatureSet

Settings = TypeVar("Settings")
DEFAULT_ENCODER = "ntu-spml/distilhubert"


def add_corpus_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """`--corpus` and how to read it."""
    parser.add_argument(
        "--corpus", nargs="+", type=Path, required=required, metavar="DIR", help="corpus folders or CSV"
    )
    parser.add_argument(
        "--labels", choices=("original", "corrected"), default="original", help="which ShEMO labels"
    )
    parser.add_argument("--metadata", type=Path, metavar="CSV", help="table with the corrected labels")
    parser.add_argument(
        "--emotions", help="keep only these, for instance anger,neutral,sadness; 'six' for ShEMO's six"
    )


def add_encoder_arguments(parser: argparse.ArgumentParser) -> None:
    """`--encoder`, `--layer`, `--cache`."""
    parser.add_argument(
        "--encoder", default=DEFAULT_ENCODER, help="hub id, folder, or 'shipped' (default %(default)s)"
    )
    parser.add_argument("--layer", type=int, help="hidden layer (default: the last)")
    parser.add_argument("--cache", type=Path, help="folder of kept features (default: SER_CACHE or ~/.cache)")
    parser.add_argument("--threads", type=int, help="threads of torch")


def add_settings(parser: argparse.ArgumentParser, *kinds: type, leave_out: Collection[str] = ()) -> None:
    """One option for each field of settings dataclasses, with its default."""
    for kind in kinds:
        hints = get_type_hints(kind)
        for entry in (one for one in fields(kind) if one.name not in leave_out):
            hint, default = hints[entry.name], entry.default
            flag = f"--{entry.name.replace('_', '-')}"
            if hint is bool:
                parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=default)
            elif get_origin(hint) is Literal:
                parser.add_argument(flag, choices=get_args(hint), default=default)
            else:
                parser.add_argument(flag, type=hint, default=default, help=f"(default {default})")


def settings_of(kind: type[Settings], args: argparse.Namespace) -> Settings:
    """The settings dataclass that the arguments describe; a field without an argument keeps its default."""
    names = [entry.name for entry in fields(kind) if hasattr(args, entry.name)]  # type: ignore[arg-type]
    return kind(**{name: getattr(args, name) for name in names})


def read_corpus_arguments(args: argparse.Namespace) -> Corpus:
    """The corpus that the arguments name, unusable labels left out as asked."""
    from ser.corpora import keep_emotions, read_corpora, read_corpus
    from ser.labels import EMOTIONS

    options: dict[str, Any] = {"labels": args.labels, "metadata": args.metadata}
    corpus = (
        read_corpora(args.corpus, **options)
        if len(args.corpus) > 1
        else read_corpus(args.corpus[0], **options)
    )
    for one in corpus.skipped:
        print(f"left out {one.path}: {one.reason}", file=sys.stderr)
    if args.emotions:
        wanted = EMOTIONS if args.emotions == "six" else tuple(args.emotions.split(","))
        corpus, dropped = keep_emotions(corpus, wanted)
        for emotion, count in dropped.items():
            print(f"left out {count} utterances of {emotion}, which was not asked for", file=sys.stderr)
    return corpus


def load_encoder(source: str, layer: int | None) -> tuple[Encoder, EncoderReference]:
    """An encoder and the reference that a checkpoint keeps of it."""
    from ser.checkpoint import SHIPPED_ENCODER, EncoderReference
    from ser.encoder import SHIPPED, Encoder

    encoder = Encoder.load(SHIPPED if source == SHIPPED_ENCODER else source, layer)
    return encoder, EncoderReference(source, encoder.layer, encoder.fingerprint, encoder.dim)


def prepare_features(args: argparse.Namespace) -> tuple[Corpus, FeatureSet, EncoderReference]:
    """Corpus, features and encoder of a command; what cannot be read is reported and left out."""
    from ser.features import usable_features

    if args.threads:
        import torch

        torch.set_num_threads(args.threads)
    corpus = read_corpus_arguments(args)
    encoder, reference = load_encoder(args.encoder, args.layer)
    corpus, features, left_out = usable_features(corpus, encoder, args.cache)
    for path, message in left_out:
        print(f"left out {path}: {message}", file=sys.stderr)
    return corpus, features, reference


def stop_on_signals() -> Callable[[], bool]:
    """A function that says whether to stop: after the first Ctrl-C or SIGTERM; a second Ctrl-C stops at once."""
    asked: list[int] = []

    def note(number: int, frame: types.FrameType | None) -> None:
        asked.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, note)
    signal.signal(signal.SIGTERM, note)
    return lambda: bool(asked)
