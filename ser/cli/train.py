"""`ser train`: one command from a folder of labelled recordings to a model that `predict` uses.

Cross-validates first (that is where the number of epochs, the calibration and the honest scores come from), then
trains on all speakers for the median best epoch. With `--run` it takes up the run folder of an earlier `crossval`.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from ser.cli import crossval as crossval_command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    crossval_command.add_arguments(parser)
    parser.add_argument("--to", type=Path, required=True, metavar="DIR", help="folder for the checkpoint")


def run(args: argparse.Namespace) -> int:
    from ser.errors import SettingsError

    if args.no_final:
        raise SettingsError("train is there for the final model; --no-final goes with crossval.")
    args.out = args.out or args.to / "run"
    status = crossval_command.run(args)
    for name in ("model.safetensors", "model.json"):
        shutil.copyfile(args.out / "checkpoint" / name, args.to / name)
    print(f"Use it with: python -m ser predict FILE --checkpoint {args.to}")
    return status
