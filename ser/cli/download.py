"""`ser download shemo`: fetch ShEMO into a folder. The official addresses were never tried from here."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from ser.corpora.download import SHEMO

    names = ", ".join(SHEMO)
    parser.add_argument("corpus", choices=("shemo",), help="what to fetch")
    parser.add_argument(
        "-o", "--out", type=Path, default=Path("ShEMO"), metavar="DIR",
        help="folder for the recordings, about 2 GB; what is there is not fetched again (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--url", type=_pair, action="append", default=[], metavar="NAME=URL",
        help=f"another address of {names}; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--sha256", type=_pair, action="append", default=[], metavar="NAME=DIGEST",
        help="checksum that the file must have; repeatable (none is known beforehand)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    from ser.corpora.download import download_shemo

    print(
        "The official addresses of ShEMO were never tried from where this program was written, and no checksums "
        "are known; --url and --sha256 take others."
    )
    digests = download_shemo(args.out, dict(args.url), dict(args.sha256))
    for name, digest in digests.items():
        print(f"{name}: SHA-256 {digest}")
    print(f"{args.out} holds ShEMO. Look at it: ser corpus {args.out}")
    return 0


def _pair(text: str) -> tuple[str, str]:
    from ser.corpora.download import SHEMO

    name, _, value = text.partition("=")
    if name not in SHEMO or not value:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=... with a NAME of {', '.join(SHEMO)}")
    return name, value
