"""`ser folds`: the folds that `ser crossval` makes of a corpus, or of a table of its files alone."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ser.cli.arguments import add_check, add_corpus_arguments, add_split_arguments
from ser.cli.prepare import leave_out_unusable, read_corpus_arguments, select_emotions
from ser.errors import CorpusError, SettingsError

if TYPE_CHECKING:
    from ser.corpora.corpus import Corpus

PROMISE = "No speaker is in two parts of a fold."
WARNING = "This split IGNORES SPEAKERS: test speakers are also in training, scores on it are inflated."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--csv", type=Path, metavar="TABLE",
        help="table with the columns file, speaker, emotion; with --corpus, rows whose recordings are not in that "
        "folder are left out",
    )  # fmt: skip
    add_corpus_arguments(parser, required=False)
    add_check(parser)
    add_split_arguments(parser, takes_file=False)
    parser.add_argument("--seed", type=int, default=40, help="seed of the split (default %(default)s)")
    parser.add_argument("-o", "--out", type=Path, metavar="FILE", help="write the folds into a file, for --folds-file")
    parser.add_argument("--html", type=Path, metavar="OUT", help="write figure 4: emotions in each part")


def run(args: argparse.Namespace) -> int:
    from ser.cli.corpus import write_report
    from ser.corpora.folds import split_corpus
    from ser.corpora.folds_file import folds_to_json
    from ser.reporting.folds_report import folds_page, folds_text

    if args.csv is None and args.corpus is None:
        raise SettingsError("Give what to split: --csv TABLE, or --corpus DIR.")
    corpus = _listed(args) if args.csv else read_corpus_arguments(args)
    if args.check and not args.csv:
        corpus = leave_out_unusable(corpus)
    folds = split_corpus(corpus, args.split, args.folds, args.validation_share, args.seed)
    speakers = [one.speaker for one in corpus.utterances]
    emotions = [one.emotion for one in corpus.utterances]
    promise = WARNING if args.split == "random" else PROMISE
    print("\n".join(folds_text(folds, speakers, emotions, promise)))
    if args.out:
        write_report(args.out, folds_to_json(folds, corpus))
    if args.html:
        write_report(args.html, folds_page(folds, speakers, emotions, promise))
    return 0


def _listed(args: argparse.Namespace) -> Corpus:
    """The corpus that a table lists, whether its recordings are there or not."""
    from ser.corpora.corpus import Corpus, Utterance
    from ser.corpora.folder import find_files, is_file
    from ser.corpora.tables import read_table

    rows = read_table(args.csv)
    if args.labels == "corrected" and rows[0].corrected is None:
        raise SettingsError(f"{args.csv} has no column emotion_modified for --labels corrected.")
    if args.corpus:
        paths = find_files(rows, args.corpus[0])
        there = [row for row, path in zip(rows, paths, strict=True) if is_file(path)]
        if not there:
            raise CorpusError(f"None of the {len(rows)} files that {args.csv} lists is in {args.corpus[0]}.")
        print(f"{len(there)} of the {len(rows)} files of {args.csv} are in {args.corpus[0]}")
        rows = there
    root, name = args.csv.parent, args.csv.parent.resolve().name
    listed = (
        Utterance(root / row.path, row.speaker, (args.labels == "corrected" and row.corrected) or row.emotion)
        for row in rows
    )
    corpus = Corpus(name, root, tuple(replace(one, corpus=name) for one in listed))
    return select_emotions(corpus, args.emotions)
