"""`ser synth`: write the synthetic demonstration corpus, or the page's example clips."""

from __future__ import annotations

import argparse
from pathlib import Path

from ser.errors import SettingsError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="folder to write to")
    parser.add_argument(
        "--per-emotion",
        type=int,
        default=3,
        metavar="N",
        help="clips a voice and emotion (default %(default)s)",
    )
    parser.add_argument("--voices", type=int, metavar="N", help="how many voices (default: all 14)")
    parser.add_argument("--seed", type=int, default=40, help="(default %(default)s)")
    parser.add_argument(
        "--examples", action="store_true", help="write the six example clips of the page instead of a corpus"
    )


def run(args: argparse.Namespace) -> int:
    from ser.synth import write_demo_corpus, write_examples
    from ser.voices import VOICES

    if args.examples:
        for path in write_examples(args.to):
            print(path)
        return 0
    n_voices = len(VOICES) if args.voices is None else args.voices
    if not 1 <= n_voices <= len(VOICES):
        raise SettingsError(f"There are 1 to {len(VOICES)} voices; {n_voices} were asked for.")
    metadata = write_demo_corpus(args.to, args.per_emotion, VOICES[:n_voices], args.seed)
    print(f"{metadata}: {n_voices} voices, 6 emotions, {args.per_emotion} clips of each.")
    print("A figure obtained on this corpus says nothing about human speech.")
    return 0
