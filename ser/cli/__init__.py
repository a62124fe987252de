"""The command line: `ser COMMAND`, or `python -m ser COMMAND`.

Each command is a module of this folder with `add_arguments(parser)` and `run(args) -> int`; only the module of the
requested command is imported. Exit status: 0 done, 1 bad input, 2 bad usage, 130 interrupted, 141 the reader of a pipe
has gone. Errors are one line on standard error; `--debug` adds the traceback.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence

from ser.cli.config import apply_config
from ser.errors import SerError, SettingsError, Stopped

# Commands by what they are for, each with one line of help; its module in this folder has the same name.
GROUPS: dict[str, dict[str, str]] = {
    "use": {
        "predict": "recognise the emotion of recordings",
        "serve": "show the page in a browser",
        "info": "show versions, device, encoder, model and its scores",
        "export": "write a model as one ONNX file, for machines without torch",
    },
    "data": {
        "download": "fetch ShEMO (official addresses, untried)",
        "corpus": "inspect a corpus: counts, labels, faulty recordings",
        "folds": "split a corpus into speaker-disjoint folds",
        "extract": "compute and cache the encoder's features of a corpus",
        "cache": "show or clear the cached features",
    },
    "train": {
        "train": "train a model for use on all speakers",
        "crossval": "five-fold speaker-disjoint cross-validation",
        "tune": "search the hyper-parameters with Optuna",
    },
    "study": {
        "evaluate": "score a trained model on labelled recordings",
        "audit": "noise, rooms, telephones: what they do to answers; differences between groups",
        "ablate": "ablation: effect of each option beyond the paper, on the same folds",
        "baselines": "compare the Bi-GRU with baselines on the same folds",
    },
    "encoders": {
        "probe": "leave-one-speaker-out accuracy of an encoder's averaged frames",
        "distill": "train a small encoder from unlabelled recordings and a teacher",
        "espeak": "generate unlabelled speech with espeak-ng, for distillation",
    },
}
COMMANDS = {name: line for group in GROUPS.values() for name, line in group.items()}


def console() -> int:
    """Entry point of the installed command `ser`."""
    from ser.runtime import let_threads_sleep

    let_threads_sleep()
    return main()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        parser = _parser(words)
    except SettingsError as error:
        print(f"ser: {error}", file=sys.stderr)
        return 2
    args = parser.parse_args(words)
    args.words = words  # for commands that start themselves again
    if args.command is None:
        parser.print_help(sys.stderr)
        return 2
    try:
        _use_machine(args)
        _set_verbosity(args)
        return int(importlib.import_module(f"ser.cli.{args.command}").run(args))
    except KeyboardInterrupt:
        print("ser: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe has gone, for instance `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if args.debug:
            raise
        print(f"ser: {_sentence(error)}", file=sys.stderr)
        return 130 if isinstance(error, Stopped) else 2 if isinstance(error, SettingsError) else 1


def _use_machine(args: argparse.Namespace) -> None:
    """Apply `--device` and `--threads`, where a command has them."""
    if getattr(args, "device", None):
        os.environ["SER_DEVICE"] = args.device
    if getattr(args, "threads", None):
        from ser.runtime import set_n_threads

        set_n_threads(args.threads)


def _set_verbosity(args: argparse.Namespace) -> None:
    """Apply `-v` and `-q`: what is logged, and whether bars show progress."""
    if args.verbose or args.quiet:
        logging.basicConfig(format="ser: %(message)s")
        logging.getLogger("ser").setLevel(logging.INFO if args.verbose else logging.ERROR)
    if args.quiet:
        os.environ["TQDM_DISABLE"] = "1"


def _sentence(error: Exception) -> str:
    """What to tell the user of an error."""
    if isinstance(error, SerError):
        return str(error)
    if isinstance(error, OSError):  # disk full, read-only, no permission
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}. Fix this, then run the command again."
    return f"unexpected {type(error).__name__}: {error}. Run it again with --debug."  # a defect of ours


def _parser(words: list[str]) -> argparse.ArgumentParser:
    from ser import __version__

    groups = [f"{group:9s} {', '.join(commands)}" for group, commands in GROUPS.items()]
    parser = argparse.ArgumentParser(
        prog="ser",
        description="Speech emotion recognition for Persian.",
        epilog="By purpose:\n  " + "\n  ".join(groups),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ser {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    loudness = parser.add_mutually_exclusive_group()
    loudness.add_argument("-v", "--verbose", action="store_true", help="also say what goes on")
    loudness.add_argument("-q", "--quiet", action="store_true", help="no progress bars, no warnings; results stay")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    requested = next((word for word in words if word in COMMANDS), None)
    for name, line in COMMANDS.items():
        command = commands.add_parser(name, help=line, description=line[0].upper() + line[1:] + ".")
        for flags in (["--debug"], ["-v", "--verbose"], ["-q", "--quiet"]):  # before the command or behind it
            command.add_argument(*flags, action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        if name == requested:
            importlib.import_module(f"ser.cli.{name}").add_arguments(command)
            apply_config(command, words)
    return parser
