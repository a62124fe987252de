"""`ser extract`: compute and keep the encoder's frames of a corpus, so that training finds them ready."""

from __future__ import annotations

import argparse
import sys

from ser.cli.common import add_corpus_arguments, add_encoder_arguments, load_encoder, read_corpus_arguments
from ser.errors import SettingsError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_corpus_arguments(parser)
    add_encoder_arguments(parser)
    parser.add_argument(
        "--shard",
        default="1/1",
        metavar="I/N",
        help="every N-th clip from the I-th on: for N processes at once",
    )


def run(args: argparse.Namespace) -> int:
    from ser.features.extract import FeatureCache, extract, progress_bar, shard

    i, n = _shard_numbers(args.shard)
    utterances = shard(read_corpus_arguments(args).utterances, i, n)
    if args.threads:
        import torch

        torch.set_num_threads(args.threads)
    encoder, _ = load_encoder(args.encoder, args.layer)
    cache = FeatureCache(args.cache)
    features = extract(utterances, encoder, cache, progress_bar())
    print(
        f"{len(features)} clips: {features.n_computed} computed, {len(features.failed)} failed, the others "
        f"kept before; {features.lengths.sum()} frames of {encoder.dim} dimensions in {cache.folder}"
    )
    for path, message in features.failed:
        print(f"ser: {path}: {message}", file=sys.stderr)
    return 1 if features.failed else 0


def _shard_numbers(text: str) -> tuple[int, int]:
    try:
        i, n = (int(part) for part in text.split("/"))
    except ValueError as error:
        raise SettingsError(f"--shard must look like 2/4, got {text!r}.") from error
    return i, n
