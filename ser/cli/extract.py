"""`ser extract`: compute and cache the encoder's frames of a corpus, so that training finds them ready."""

from __future__ import annotations

import argparse
import sys

from ser.cli.arguments import add_corpus_arguments, add_encoder_arguments
from ser.cli.prepare import load_encoder, read_corpus_arguments, share_extraction, sharing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_corpus_arguments(parser)
    add_encoder_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from ser.features.address import open_cache
    from ser.features.extract import extract, progress_bar

    utterances = read_corpus_arguments(args).utterances
    with sharing(args) as executor:
        n_shared = share_extraction(executor, [one.path for one in utterances], args) if executor else 0
    encoder, _ = load_encoder(args.encoder, args.layer)
    cache = open_cache(args.cache)
    features = extract(utterances, encoder, cache, progress_bar())
    print(
        f"{len(features)} clips: {n_shared + features.n_computed} computed, {len(features.failed)} failed, the others "
        f"cached before; {features.lengths.sum()} frames of {encoder.dim} dimensions in {cache}"
    )
    for path, message in features.failed:
        print(f"ser: {path}: {message}", file=sys.stderr)
    return 1 if features.failed else 0
