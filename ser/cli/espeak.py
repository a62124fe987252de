"""`ser espeak`: speech without labels for a distillation, by espeak-ng."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="folder to write to")
    parser.add_argument("--count", type=int, default=1500, metavar="N", help="clips (default %(default)s)")
    parser.add_argument("--seed", type=int, default=40, help="(default %(default)s)")


def run(args: argparse.Namespace) -> int:
    from ser.encoders.distillation.espeak import SENTENCES, speak

    written = sum(1 for _ in speak(args.to, args.count, args.seed))
    print(f"{args.to}: {written} clips in {len(SENTENCES)} languages.")
    return 0
