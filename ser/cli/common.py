"""Arguments that several commands share, and what becomes of them."""

from __future__ import annotations

import argparse
import signal
import sys
import types
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from ser.classifier.checkpoint import EncoderReference
    from ser.corpora.corpus import Corpus
    from ser.encoders.encoder import Encoder
    from ser.features.extract import FeatureSet

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


def add_check(parser: argparse.ArgumentParser) -> None:
    """`--no-check`."""
    parser.add_argument(
        "--check", action=argparse.BooleanOptionalAction, default=True,
        help="listen to every recording first and leave out what `ser corpus` would (silent, cut, twice the same)",
    )  # fmt: skip


def read_corpus_arguments(args: argparse.Namespace) -> Corpus:
    """The corpus that the arguments name, unusable labels left out as asked; what was left out is in `skipped`."""
    from ser.corpora.corpus import Skipped, keep_emotions, read_corpora, read_corpus
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
        every = corpus.utterances
        corpus, dropped = keep_emotions(corpus, wanted)
        others = [Skipped(one.path, f"{one.emotion} was not asked for") for one in every
                  if one.emotion not in wanted]  # fmt: skip
        corpus = replace(corpus, skipped=(*corpus.skipped, *others))
        for emotion, count in dropped.items():
            print(f"left out {count} utterances of {emotion}, which was not asked for", file=sys.stderr)
    return corpus


def load_encoder(source: str, layer: int | None, n_layers: int = 0) -> tuple[Encoder, EncoderReference]:
    """An encoder, of `n_layers` layers if not 0, and the reference that a checkpoint keeps of it."""
    from ser.classifier.checkpoint import SHIPPED_SOURCE, EncoderReference
    from ser.encoders.encoder import Encoder
    from ser.files import SHIPPED_ENCODER

    encoder = Encoder.load(SHIPPED_ENCODER if source == SHIPPED_SOURCE else source, layer).stacked(n_layers)
    engine = getattr(encoder, "engine", "")
    return encoder, EncoderReference(source, encoder.layer, encoder.fingerprint, encoder.dim, engine)


def prepare_features(args: argparse.Namespace) -> tuple[Corpus, FeatureSet, EncoderReference]:
    """Corpus, features and encoder of a command; what cannot be used is reported, left out, and kept in `skipped`."""
    if args.threads:
        import torch

        torch.set_num_threads(args.threads)
    corpus = read_corpus_arguments(args)
    if getattr(args, "check", False):
        corpus = leave_out_unusable(corpus)
    layers, copies = getattr(args, "weighted_layers", 0), getattr(args, "augmented_copies", 0)
    return encode(corpus, args, layers, copies)


def encode(
    corpus: Corpus, args: argparse.Namespace, n_layers: int, n_copies: int
) -> tuple[Corpus, FeatureSet, EncoderReference]:
    """A corpus through the encoder that the arguments name, so many layers of it, and so many augmented copies."""
    from ser.corpora.corpus import Skipped
    from ser.features.extract import usable_features, with_copies

    encoder, reference = load_encoder(args.encoder, args.layer, n_layers)
    corpus, features, left_out = usable_features(corpus, encoder, args.cache)
    for path, message in left_out:
        print(f"left out {path}: {message}", file=sys.stderr)
    corpus = replace(corpus, skipped=(*corpus.skipped, *(Skipped(*one) for one in left_out)))
    return corpus, with_copies(corpus, features, encoder, n_copies, args.cache), reference


def leave_out_unusable(corpus: Corpus) -> Corpus:
    """The corpus without the recordings that the rules of `ser corpus` drop; prints which, and what is kept."""
    from ser.corpora.corpus import Skipped
    from ser.corpora.inspect import inspect_corpus, usable
    from ser.features.extract import progress_bar

    report = inspect_corpus(corpus, progress=progress_bar("listening"))
    kept = usable(corpus, report)
    path_of = {corpus.file_of(one.path): one.path for one in corpus.utterances}
    problems = [one for one in report.problems if one.file in path_of]
    dropped = [Skipped(path_of[one.file], f"{one.kind}: {one.reason}") for one in problems if one.dropped]
    for skipped in dropped:
        print(f"left out {skipped.path}: {skipped.reason}", file=sys.stderr)
    for kind, count in Counter(one.kind for one in problems if not one.dropped).items():
        print(f"kept {count} recordings in spite of: {kind}", file=sys.stderr)
    return replace(kept, skipped=(*corpus.skipped, *dropped))


def stop_on_signals() -> Callable[[], bool]:
    """A function that says whether to stop: after the first Ctrl-C or SIGTERM; a second Ctrl-C stops at once."""
    asked: list[int] = []

    def note(number: int, frame: types.FrameType | None) -> None:
        asked.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, note)
    signal.signal(signal.SIGTERM, note)
    return lambda: bool(asked)
