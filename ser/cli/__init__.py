"""The command line: `python -m ser COMMAND`.

Each command is a module of this folder with `add_arguments(parser)` and `run(args) -> int`; only the module of the
command that was asked for is imported. Exit status: 0 done, 1 bad input, 2 bad usage, 130
interrupted. Errors are one line on standard error; `--debug` adds the traceback.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from ser.errors import SerError, SettingsError

# Command -> one line of help; its module in this folder has the same name.
COMMANDS: dict[str, str] = {
    "predict": "recognise the emotion of recordings",
    "info": "show versions, device, encoder, model and its scores",
    "corpus": "find the clips of a folder, say what is there, warn about what is wrong",
    "folds": "split a corpus into five speaker-disjoint folds",
    "extract": "compute and keep the encoder's features of a corpus",
    "cache": "show or clear the kept features",
    "crossval": "five-fold speaker-disjoint cross-validation",
    "train": "train a model for use on all speakers",
    "ablate": "ablation: effect of each option beyond the paper, on the same folds",
    "baselines": "compare the Bi-GRU with baselines on the same folds",
    "tune": "search the hyper-parameters with Optuna",
    "probe": "leave-one-speaker-out accuracy of an encoder's averaged frames",
    "distill": "train a small encoder from unlabelled recordings and a teacher",
    "espeak": "speak sentences without labels for a distillation (espeak-ng)",
    "export": "write a model as one ONNX file, for machines without torch",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser(words)
    args = parser.parse_args(words)
    if args.command is None:
        parser.print_help(sys.stderr)
        return 2
    try:
        return int(importlib.import_module(f"ser.cli.{args.command}").run(args))
    except SerError as error:
        if args.debug:
            raise
        print(f"ser: {error}", file=sys.stderr)
        return 2 if isinstance(error, SettingsError) else 1
    except KeyboardInterrupt:
        print("ser: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe has gone, for instance `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:  # disk full, read-only, no permission
        if args.debug:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(
            f"ser: {where}{error.strerror or error}. Remedy that and run the same command again.",
            file=sys.stderr,
        )
        return 1
    except Exception as error:  # a defect of ours: one line for the user, the rest with --debug
        if args.debug:
            raise
        print(f"ser: unforeseen {type(error).__name__}: {error}. Run it again with --debug.", file=sys.stderr)
        return 1


def console() -> int:
    """Entry point of the installed command `ser`."""
    from ser.runtime import let_threads_sleep

    let_threads_sleep()
    return main()


def _parser(words: list[str]) -> argparse.ArgumentParser:
    from ser import __version__

    parser = argparse.ArgumentParser(prog="ser", description="Speech emotion recognition for Persian.")
    parser.add_argument("--version", action="version", version=f"ser {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    asked = next((word for word in words if word in COMMANDS), None)
    for name, help_line in COMMANDS.items():
        command = commands.add_parser(
            name, help=help_line, description=help_line[0].upper() + help_line[1:] + "."
        )
        command.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )
        if name == asked:
            importlib.import_module(f"ser.cli.{name}").add_arguments(command)
    return parser
