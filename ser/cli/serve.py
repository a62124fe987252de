"""`ser serve`: the page, as `python app.py` starts it in a checkout."""

from __future__ import annotations

import argparse
import os
import runpy

from ser.cli.arguments import add_machine_arguments, positive

VARIABLES = {"host": "GRADIO_SERVER_NAME", "port": "GRADIO_SERVER_PORT", "checkpoint": "SER_CHECKPOINT"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", metavar="NAME", help="address to listen at (default 127.0.0.1)")
    parser.add_argument("--port", type=positive, metavar="N", help="port (default: the first free one from 7860)")
    parser.add_argument("--checkpoint", metavar="DIR", help="the model that answers (default: the shipped one)")
    add_machine_arguments(parser)
    parser.epilog = "Further settings are environment variables: see docs/page.md."


def run(args: argparse.Namespace) -> int:
    for name, variable in VARIABLES.items():
        if getattr(args, name) is not None:
            os.environ[variable] = str(getattr(args, name))
    runpy.run_module("ser.ui.start", run_name="__main__")  # by name: the page imports this room, not the other way
    return 0
