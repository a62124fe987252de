"""`ser corpus DIR`: what a corpus holds and what is wrong with it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ser.cli.arguments import add_label_arguments
from ser.corpora.readers import READERS
from ser.errors import CorpusError, SettingsError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folders", nargs="+", metavar="DIR", help="corpus folders or tables")
    names = ", ".join(reader.name for reader in READERS)
    parser.add_argument(
        "--reader", help=f"{names} or csv for a table such as nEMO's (default: by the names of the files)"
    )
    add_label_arguments(parser)
    parser.add_argument("-o", "--out", type=Path, metavar="FILE", help="also write the report to this file, as JSON")
    parser.add_argument("--html", type=Path, metavar="OUT", help="also write the report as a page with charts")
    parser.add_argument("--no-decode", action="store_true", help="look at names and labels, not at the sound")


def run(args: argparse.Namespace) -> int:
    from ser.corpora.corpus import read_corpora, read_corpus
    from ser.corpora.inspect import inspect_corpus
    from ser.features.extract import progress_bar
    from ser.reporting.corpus_report import report_page, report_text

    if args.reader and len(args.folders) > 1:
        raise SettingsError("--reader is for one folder; several were given.")
    if args.reader:
        corpus = read_corpus(args.folders[0], args.reader, args.labels, args.metadata)
    else:
        corpus = read_corpora(args.folders, args.labels, args.metadata)
    decode = not args.no_decode
    report = inspect_corpus(corpus, decode, progress_bar("checking") if decode else None)
    print(report_text(report), end="")
    if args.out:
        write_report(args.out, report.to_json())
    if args.html:
        write_report(args.html, report_page(report))
    return 0


def write_report(path: Path, content: str) -> None:
    """Write a file that the user requested, and say so on standard error.

    Raises:
        CorpusError: it cannot be written.
    """
    from ser.files import write_atomically

    try:
        write_atomically(path, content.encode())
    except OSError as error:
        raise CorpusError(f"{path} cannot be written: {error.strerror}. Choose another place.") from error
    print(f"written: {path}", file=sys.stderr)
