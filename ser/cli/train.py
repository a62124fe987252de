"""`ser train`: one command from a folder of labelled recordings to a model that `predict` uses.

Cross-validates first (that is where the number of epochs, the calibration and the honest scores come from), then
trains on all speakers for the median best epoch. A run that was stopped is resumed by the same command.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ser.cli import crossval as crossval_command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    crossval_command.add_shared_arguments(parser)
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder for the checkpoint; the run folder is DIR/run",
    )
    parser.set_defaults(no_final=False)


def run(args: argparse.Namespace) -> int:
    from ser.classifier.checkpoint import DESCRIPTION, WEIGHTS
    from ser.files import write_atomically

    folder = args.out
    args.out = folder / "run"
    status = crossval_command.run(args)
    for name in (WEIGHTS, DESCRIPTION):
        write_atomically(folder / name, (args.out / "checkpoint" / name).read_bytes())
    print(f"Use it with: ser predict FILE --checkpoint {folder}")
    return status
