"""Folds that somebody else made, or that are to be kept: a JSON list with the files of each part of each fold.

In: what `ser folds --out` writes, `[{"train": [file, ...], "validation": [...], "test": [...]}, ...]`. Out: `Fold`s of
a corpus. Files are named as in a run's `predictions.csv`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ser.corpora.corpus import Corpus
from ser.corpora.folds import PARTS, Fold
from ser.errors import FoldError


def folds_to_json(folds: Sequence[Fold], corpus: Corpus) -> str:
    """The text of such a file."""
    files = [corpus.file_of(one.path) for one in corpus.utterances]
    content = [{part: [files[i] for i in getattr(fold, part)] for part in PARTS} for fold in folds]
    return json.dumps(content, indent=2) + "\n"


def read_folds(path: str | Path, corpus: Corpus) -> tuple[Fold, ...]:
    """The folds that a file lists; files that the corpus lacks are passed over.

    Raises:
        FoldError: it is no such file, shares speakers between parts of a fold, or does not test each utterance once.
    """
    known = {corpus.file_of(one.path): number for number, one in enumerate(corpus.utterances)}
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8-sig"))
        folds = tuple(
            Fold(*(tuple(sorted(known[name] for name in row[part] if name in known)) for part in PARTS)) for row in rows
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise FoldError(
            f"{path} holds no folds ({type(error).__name__}: {error}). Write it with: ser folds --out FILE"
        ) from error
    for number, fold in enumerate(folds, 1):
        parts = [{corpus.utterances[i].speaker for i in getattr(fold, part)} for part in PARTS]
        if not all(parts) or sum(map(len, parts)) > len(set().union(*parts)):
            raise FoldError(f"Fold {number} of {path} has an empty part, or a speaker in two of its parts.")
    tested = sorted(index for fold in folds for index in fold.test)
    if tested != list(range(len(corpus.utterances))):
        missing = len(set(known.values()) - set(tested))
        raise FoldError(
            f"{path} must test each of the corpus' {len(corpus.utterances)} utterances in one fold: {missing} are in "
            f"no test part, {len(tested) - len(set(tested))} in several. Files are named as `ser folds --out` does."
        )
    return folds
