"""`ser corpus DIR`: what a corpus holds and what is wrong with it; `ser corpus get shemo`: fetch ShEMO."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ser.errors import CorpusError, SettingsError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "ser corpus DIR [DIR ...] [options]\n       ser corpus get shemo --to DIR [options]"
    parser.add_argument("folders", nargs="+", metavar="DIR", help="corpus folders or CSVs; or: get shemo")
    parser.add_argument("--reader", help="ShEMO, EMO-DB, URDU, RAVDESS or csv (default: told by the names)")
    parser.add_argument(
        "--labels", choices=("original", "corrected"), default="original", help="which ShEMO labels"
    )
    parser.add_argument("--metadata", type=Path, metavar="TABLE", help="CSV or JSON with ShEMO's labels")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the report as JSON")
    parser.add_argument(
        "--html", type=Path, metavar="OUT", help="also write the report as a page with charts"
    )
    parser.add_argument("--no-decode", action="store_true", help="look at names and labels, not at the sound")
    get = parser.add_argument_group("ser corpus get shemo")
    get.add_argument("--to", type=Path, metavar="DIR", help="where the recordings go")
    get.add_argument(
        "--url", action="append", default=[], metavar="NAME=URL",
        help="another address of female.zip, male.zip or shemo.json; may be given again",
    )  # fmt: skip
    get.add_argument(
        "--sha256", action="append", default=[], metavar="NAME=DIGEST", help="checksum that a file must have"
    )


def run(args: argparse.Namespace) -> int:
    if args.folders[0] == "get" and not Path("get").exists():
        return _get(args)
    return _inspect(args)


def write_report(path: Path, content: str) -> None:
    """Write a file that the user asked for, and say so on standard error.

    Raises:
        CorpusError: it cannot be written.
    """
    from ser.checkpoint import write_atomically

    try:
        write_atomically(path, content.encode())
    except OSError as error:
        raise CorpusError(f"{path} cannot be written: {error.strerror}. Choose another place.") from error
    print(f"written: {path}", file=sys.stderr)


def _inspect(args: argparse.Namespace) -> int:
    from ser.corpora import read_corpora, read_corpus
    from ser.corpus_report import inspect_corpus
    from ser.features import progress_bar

    if args.reader and len(args.folders) > 1:
        raise SettingsError("--reader is for one folder; several were given.")
    if args.reader:
        corpus = read_corpus(args.folders[0], args.reader, args.labels, args.metadata)
    else:
        corpus = read_corpora(args.folders, args.labels, args.metadata)
    decode = not args.no_decode
    report = inspect_corpus(corpus, decode, progress_bar("clips") if decode else None)
    print(report.to_text(), end="")
    if args.json:
        write_report(args.json, report.to_json())
    if args.html:
        write_report(args.html, report.to_html())
    return 0


def _get(args: argparse.Namespace) -> int:
    from ser.corpora import read_corpus
    from ser.shemo import get_shemo

    if args.folders != ["get", "shemo"] or args.to is None:
        raise SettingsError("Only ShEMO can be fetched, and needs a place: ser corpus get shemo --to DIR.")
    show = _Bars()
    try:
        digests = get_shemo(args.to, _pairs(args.url, "--url"), _pairs(args.sha256, "--sha256"), show)
    finally:
        show.close()
    for name, digest in digests.items():
        print(f"{name}: sha256 {digest}")
    corpus = read_corpus(args.to)
    print(
        f"{len(corpus.utterances)} recordings of {len(corpus.speakers)} speakers are in {args.to} (ShEMO has "
        f"3000 of 87). Look at them with: ser corpus {args.to}"
    )
    return 0


class _Bars:
    """A progress bar for each file, on a terminal."""

    def __init__(self) -> None:
        self.name = ""
        self.bar: Any = None

    def __call__(self, name: str, done: int, total: int | None) -> None:
        from tqdm import tqdm

        if name != self.name:
            self.close()
            self.name, self.bar = (
                name,
                tqdm(total=total, initial=done, desc=name, unit="B", unit_scale=True, disable=None),
            )
        if self.bar is not None and not self.bar.disable:
            self.bar.update(done - self.bar.n)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def _pairs(given: Sequence[str], option: str) -> dict[str, str]:
    pairs = [text.partition("=") for text in given]
    wrong = next((text for text, (_, _, value) in zip(given, pairs, strict=True) if not value), None)
    if wrong:
        raise SettingsError(f"{option} must look like female.zip=VALUE, got {wrong!r}.")
    return {name: value for name, _, value in pairs}
