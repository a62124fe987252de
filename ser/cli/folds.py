"""`ser folds`: speaker-disjoint folds of a corpus, from its folder or from a table of its files alone."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ser.errors import CorpusError, SettingsError

if TYPE_CHECKING:
    from ser.corpora.folds import Fold, PartRow

# What is split: file, speaker, emotion of each utterance.
Labelled = tuple[list[str], list[str], list[str]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--csv", type=Path, help="table with the columns file, speaker, emotion")
    parser.add_argument(
        "--corpus", type=Path, nargs="+", metavar="DIR",
        help="corpus folders; with --csv the folder of its recordings: those not there are left out",
    )  # fmt: skip
    parser.add_argument(
        "--labels", choices=("original", "corrected"), default="original", help="which ShEMO labels"
    )
    parser.add_argument("--metadata", type=Path, metavar="TABLE", help="CSV or JSON with ShEMO's labels")
    parser.add_argument(
        "--split", choices=("speakers", "loso", "random"), default="speakers",
        help="loso leaves one speaker out; random ignores speakers, to measure a leak",
    )  # fmt: skip
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--validation-share", type=float, default=0.10, help="of all clips (default 0.10)")
    parser.add_argument("--seed", type=int, default=40)
    parser.add_argument(
        "--json", type=Path, metavar="OUT", help="write the files of train, validation, test of each fold"
    )
    parser.add_argument("--html", type=Path, metavar="OUT", help="write figure 4: emotions in each part")


def run(args: argparse.Namespace) -> int:
    from ser.cli.corpus import write_report
    from ser.corpora.folds import PARTS, fold_table, leave_one_speaker_out, make_folds, random_folds

    if args.csv is None and args.corpus is None:
        raise SettingsError("Give what to split: --csv CSV, or --corpus DIR.")
    files, speakers, emotions = _labelled(args)
    if args.split == "loso":
        folds = leave_one_speaker_out(speakers, emotions, args.validation_share, args.seed)
    else:
        split = make_folds if args.split == "speakers" else random_folds
        folds = split(speakers, emotions, args.folds, args.validation_share, args.seed)
    _print_table(fold_table(folds, speakers, emotions), emotions, args.split)
    if args.json:
        content = [{part: [files[i] for i in getattr(fold, part)] for part in PARTS} for fold in folds]
        write_report(args.json, json.dumps(content, indent=2) + "\n")
    if args.html:
        write_report(args.html, _page(folds, speakers, emotions))
    return 0


def _labelled(args: argparse.Namespace) -> Labelled:
    if args.csv is None:
        from ser.corpora.corpus import read_corpora

        corpus = read_corpora(args.corpus, args.labels, args.metadata)
        files = [corpus.file_of(one.path) for one in corpus.utterances]
        return files, [one.speaker for one in corpus.utterances], [one.emotion for one in corpus.utterances]
    from ser.corpora.corpus import find_files, is_file
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
    labels = [row.corrected or row.emotion if args.labels == "corrected" else row.emotion for row in rows]
    return [row.path for row in rows], [row.speaker for row in rows], labels


def _print_table(rows: Sequence[PartRow], emotions: Sequence[str], split: str) -> None:
    labels = list(rows[0].counts)
    width = max(10, *(len(label) + 1 for label in labels))
    head = f"{'fold  part':16}{'clips':>6}{'share':>9}{'speakers':>10}"
    print(head, *(f"{label:>{width}}" for label in labels))
    for row in rows:
        shares = (f"{100 * row.class_shares[label]:{width - 2}.2f} %" for label in labels)
        size = f"{row.n_utterances:6}{100 * row.share:7.2f} %{row.n_speakers:10}"
        print(f"{row.fold:4}  {row.part:10}{size}", *shares)
    overall = (f"{100 * emotions.count(label) / len(emotions):{width - 2}.2f} %" for label in labels)
    print(f"{'      all':16}{len(emotions):6}{100.0:7.2f} %{'':10}", *overall)
    for part in ("validation", "test"):
        worst = max((row for row in rows if row.part == part), key=lambda row: abs(row.worst_pp))
        print(
            f"{part}: class shares are off by at most {abs(worst.worst_pp):.2f} percentage points "
            f"({worst.worst_emotion}, fold {worst.fold})"
        )
    if split == "random":
        print("This split IGNORES SPEAKERS: test speakers are also in training, scores on it are inflated.")
    else:
        print("No speaker is in two parts of a fold.")


def _page(folds: Sequence[Fold], speakers: Sequence[str], emotions: Sequence[str]) -> str:
    from ser.corpora.folds import class_shares, fold_table
    from ser.reporting.charts import class_shares_figure
    from ser.reporting.page import chart, page, section, table

    caption = (
        "Figure 4: share of each emotion in each part; bars are means over the folds, whiskers the extremes"
    )
    figure = class_shares_figure(class_shares(folds, emotions))
    rows = fold_table(folds, speakers, emotions)
    labels = list(rows[0].counts)
    numbers = [
        [f"fold {row.fold}, {row.part}", row.n_utterances, f"{100 * row.share:.2f} %", row.n_speakers]
        + [f"{row.counts[label]} ({100 * row.class_shares[label]:.2f} %)" for label in labels]
        for row in rows
    ]
    return page(
        "Folds",
        [
            section("Emotions in each part", chart("shares", figure, caption)),
            section("In numbers", table("Parts", ["part", "clips", "share", "speakers", *labels], numbers)),
        ],
    )
