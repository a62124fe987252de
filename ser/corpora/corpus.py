"""Labelled recordings: who speaks, which emotion, where the file is.

In: a folder of ShEMO, EMO-DB, URDU or RAVDESS as it comes, or a table with `path, speaker, emotion`. Out: a `Corpus`.
File names are read by the rows of `ser.corpora.readers`. Nothing is decoded here, see `ser.corpora.inspect`.

    corpus, left_out = keep_emotions(read_corpora(["/data/ShEMO", "/data/emodb"]), EMOTIONS)
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ser.audio.find import SUFFIXES, note_of
from ser.corpora.folder import corpus_contents, find_files, is_file, shown
from ser.corpora.readers import READERS, Reader
from ser.corpora.tables import TABLES, read_labels, read_table
from ser.corpora.words import common_label, first_spellings, folded, look_alikes
from ser.errors import CorpusError
from ser.labels import in_order

LABEL_FILES = {"original": "shemo.json", "corrected": "modified_shemo.json"}  # beside ShEMO's recordings
SHEMO, TABLE_READER = READERS[0].name, "csv"
Labels = Literal["original", "corrected"]


@dataclass(frozen=True)
class Utterance:
    """One labelled recording."""

    path: Path
    speaker: str
    emotion: str
    gender: str | None = None
    corpus: str = ""


@dataclass(frozen=True)
class Skipped:
    """A recording that is in the folder and not in the corpus, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Corpus:
    """Utterances of one or several corpora.

    Attributes:
        name: of the reader or the folder; joined corpora are named with a plus.
        root: its folder; of joined corpora the one that holds them all.
        utterances: sorted by path.
        skipped: recordings of the folder that are not among them.
        others: suffix -> number of files in the folder that are no recordings.
        parts: name and folder of each joined corpus; empty for a single one.
    """

    name: str
    root: Path
    utterances: tuple[Utterance, ...]
    skipped: tuple[Skipped, ...] = ()
    others: Mapping[str, int] = field(default_factory=dict)
    parts: tuple[tuple[str, Path], ...] = ()

    @property
    def emotions(self) -> tuple[str, ...]:
        """Labels that occur: the six in the project's order, then others by name."""
        return in_order(utterance.emotion for utterance in self.utterances)

    @property
    def speakers(self) -> tuple[str, ...]:
        return tuple(sorted({utterance.speaker for utterance in self.utterances}))

    @property
    def named_speakers(self) -> tuple[str, ...]:
        """Speakers with the name of their corpus, as joined corpora have them: `EMO-DB:03`."""
        return tuple(one if ":" in one else f"{self.name}:{one}" for one in self.speakers)

    @property
    def targets(self) -> NDArray[np.int64]:
        """`(utterances,)` index of each utterance's emotion in `emotions`."""
        number = {emotion: index for index, emotion in enumerate(self.emotions)}
        return np.array([number[utterance.emotion] for utterance in self.utterances], dtype=np.int64)

    @property
    def fingerprint(self) -> str:
        """First 16 hex digits of a SHA-256 over names, speakers and labels, wherever the corpus lies."""
        lines = sorted(
            f"{self.file_of(one.path, outside=False)}\0{one.speaker}\0{one.emotion}\n" for one in self.utterances
        )
        return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]

    @property
    def notes(self) -> Iterator[str]:
        """What to know of the reading itself, in sentences."""
        for one, other in look_alikes(self.emotions):
            yield f"The labels {one} and {other} look alike and count as two. Rename one if they are the same."
        if self.others:
            yield note_of(self.others)

    def file_of(self, path: Path, outside: bool = True) -> str:
        """A path as shown: below the corpus' folder (a joined one by its name), or in full, bare if not `outside`."""
        roots = [place for place in self.parts or (("", self.root),) if path.is_relative_to(place[1])]
        if not roots:
            return shown(path if outside else path.name)
        name, root = max(roots, key=lambda place: len(place[1].parts))
        return shown((name / path.relative_to(root)).as_posix())


@dataclass(frozen=True)
class Facts:
    """A corpus in numbers; `hours` are those of the `n_timed` recordings whose header gives a length."""

    n_utterances: int
    n_speakers: int
    emotions: dict[str, int]
    hours: float
    n_timed: int


def facts(corpus: Corpus) -> Facts:
    """What names, labels and headers say of a corpus, nothing decoded: about 1 ms a recording."""
    import soundfile

    lengths_s = []
    for one in corpus.utterances:
        try:
            lengths_s.append(soundfile.info(one.path).duration)
        except (OSError, RuntimeError):  # not there, damaged, or not a format of libsndfile's
            continue
    counts = Counter(one.emotion for one in corpus.utterances)
    emotions, hours = {emotion: counts[emotion] for emotion in corpus.emotions}, sum(lengths_s) / 3600
    return Facts(len(corpus.utterances), len(corpus.speakers), emotions, hours, len(lengths_s))


def read_corpus(
    source: str | Path,
    reader: str | None = None,
    labels: Labels = "original",
    metadata: str | Path | None = None,
    label_map: Mapping[str, str] | None = None,
) -> Corpus:
    """Read a corpus.

    Args:
        source: a folder, or a CSV with the columns `path, speaker, emotion` and, if known, `gender`; paths
            are relative to the CSV, or bare names of files anywhere below its folder.
        reader: name of a reader, or "csv"; by default a table in the folder (one of `TABLES`), else the
            reader whose pattern fits most files.
        labels: "original" or, for ShEMO, "corrected": those of Yazdani and Shekofteh 2022.
        metadata: where the labels are: a CSV with the columns `file` and `emotion` or `emotion_modified`, or
            a JSON of ShEMO. By default one of `LABEL_FILES` in the folder, or an `emotion_modified` column of
            the corpus' own CSV. Without any, the original labels are those of the file names.
        label_map: other names for labels, applied last.

    Raises:
        CorpusError: nothing there that can be read as a corpus; the message says what was looked for.
    """
    source = Path(source)
    if is_file(source):
        corpus = _read_rows(source, labels, own_labels=metadata is None)
    elif os.path.isdir(source):  # noqa: PTH112
        corpus = _read_folder(source, reader, labels, own_labels=metadata is None)
    else:
        raise CorpusError(f"There is no corpus {source}. Give a folder of recordings, or a CSV that lists them.")
    if metadata is not None:
        corpus = _relabelled(corpus, Path(metadata), labels)
    mapped = label_map or {}
    utterances = (replace(one, emotion=mapped.get(one.emotion, one.emotion)) for one in corpus.utterances)
    return replace(corpus, utterances=tuple(sorted(utterances, key=lambda one: str(one.path))))


def read_corpora(
    sources: Sequence[str | Path],
    labels: Labels = "original",
    metadata: str | Path | None = None,
    label_map: Mapping[str, str] | None = None,
) -> Corpus:
    """Read several corpora as one; speakers are named `corpus:speaker`, so that nobody is taken for another.

    `labels` and `metadata` concern ShEMO alone; the others keep their labels.

    Raises:
        CorpusError: one cannot be read, or a recording would be in it twice.
    """
    if not sources:
        raise CorpusError("No corpus was given. Give folders of recordings, or CSVs that list them.")
    if len(sources) == 1:
        return read_corpus(sources[0], None, labels, metadata, label_map)
    corpora = [_read_one_of_several(Path(one).resolve(), labels, metadata, label_map) for one in sources]
    names: list[str] = []
    for corpus in corpora:  # where a name occurs again, it is numbered
        candidates = (corpus.name if n == 1 else f"{corpus.name}{n}" for n in count(1))
        names.append(next(name for name in candidates if name not in names))
    spelled = iter(first_spellings(one.emotion for corpus in corpora for one in corpus.utterances))
    utterances = [
        replace(one, speaker=f"{name}:{one.speaker}", emotion=next(spelled), corpus=name)
        for name, corpus in zip(names, corpora, strict=True)
        for one in corpus.utterances
    ]
    [(path, times)] = Counter(one.path for one in utterances).most_common(1)
    if times > 1:
        raise CorpusError(f"{path} would be in the joined corpus {times} times. Give folders that do not overlap.")
    return Corpus(
        name="+".join(names),
        root=Path(os.path.commonpath([corpus.root for corpus in corpora])),
        utterances=tuple(utterances),
        skipped=tuple(one for corpus in corpora for one in corpus.skipped),
        others=sum((Counter(corpus.others) for corpus in corpora), Counter()),
        parts=tuple((name, corpus.root) for name, corpus in zip(names, corpora, strict=True)),
    )


def keep_emotions(corpus: Corpus, emotions: Sequence[str]) -> tuple[Corpus, dict[str, int]]:
    """The utterances of these emotions, and how many of each other were left out.

    Raises:
        CorpusError: none is left.
    """
    wanted = {folded(common_label(name)) for name in emotions}
    kept = tuple(one for one in corpus.utterances if folded(one.emotion) in wanted)
    if not kept:
        raise CorpusError(f"{corpus.name} has none of {', '.join(emotions)}; it has {', '.join(corpus.emotions)}.")
    dropped = Counter(one.emotion for one in corpus.utterances if folded(one.emotion) not in wanted)
    return replace(corpus, utterances=kept), dict(dropped)


def _read_one_of_several(
    source: Path, labels: Labels, metadata: str | Path | None, label_map: Mapping[str, str] | None
) -> Corpus:
    corpus = read_corpus(source, label_map=label_map)
    if corpus.name != SHEMO or (labels == "original" and metadata is None):
        return corpus
    return read_corpus(source, None, labels, metadata, label_map)


def _read_folder(folder: Path, reader: str | None, labels: Labels, own_labels: bool) -> Corpus:
    table = next((folder / name for name in TABLES if (folder / name).is_file()), None)
    if reader == TABLE_READER and table is None:
        raise CorpusError(f"{folder} has none of {', '.join(TABLES)}.")
    if table is not None and reader in (None, TABLE_READER):
        return _read_rows(table, labels, own_labels)
    corpus = _read_names(folder, reader)
    label_file = folder / LABEL_FILES[labels]
    if own_labels and corpus.name == SHEMO and label_file.is_file():
        return _relabelled(corpus, label_file, labels)
    if own_labels and labels == "corrected":
        raise _no_corrected_labels(folder)
    return corpus


def _read_names(folder: Path, name: str | None) -> Corpus:
    there = corpus_contents(folder)
    files = there.recordings
    if not files:
        raise CorpusError(
            f"There are no recordings below {folder} (looked for {' '.join(SUFFIXES)}), and none of "
            f"the tables {', '.join(TABLES)}."
        )
    known = [reader for reader in READERS if name is None or reader.name.casefold() == name.casefold()]
    if not known:
        raise CorpusError(f"There is no reader {name!r}; there are {', '.join(one.name for one in READERS)} and csv.")
    found = [(reader, _matched(reader, folder, files)) for reader in known]
    reader, utterances = max(found, key=lambda pair: len(pair[1]))
    if name is None and 2 * len(utterances) < len(files):
        looked_for = ", ".join(f"{one.name} ({one.example}: {len(those)})" for one, those in found)
        raise CorpusError(
            f"The {len(files)} recordings below {folder}, {files[0].relative_to(folder)} the first, are not "
            f"those of one known corpus. Looked for names as in {looked_for}, and for the tables "
            f"{', '.join(TABLES)}. Give the folder of each corpus, or put a metadata.csv with the columns "
            "path, speaker, emotion there."
        )
    if not utterances:
        raise CorpusError(f"None of the {len(files)} recordings below {folder} is named as in {reader.name}.")
    read = {one.path for one in utterances}
    reason = f"its name is not like {reader.name}'s ({reader.example})"
    skipped = tuple(Skipped(path, reason) for path in files if path not in read)
    return Corpus(reader.name, folder, tuple(utterances), skipped, there.others)


def _matched(reader: Reader, folder: Path, files: Sequence[Path]) -> list[Utterance]:
    above = Path(folder.resolve().name)  # so that `urdu/Angry` alone can be read
    utterances = []
    for path in files:
        match = reader.pattern.fullmatch((above / path.relative_to(folder)).with_suffix("").as_posix())
        if match:
            speaker, emotion, gender = reader.fields(match)
            utterances.append(Utterance(path, speaker, emotion, gender, reader.name))
    return utterances


def _read_rows(table: Path, labels: Labels, own_labels: bool) -> Corpus:
    rows = read_table(table)
    corrected = labels == "corrected" and own_labels
    if corrected and rows[0].corrected is None:
        raise _no_corrected_labels(table)
    root, name = table.parent, table.parent.resolve().name
    paths = find_files(rows, root)
    if not any(map(is_file, paths)):
        raise CorpusError(
            f"None of the {len(paths)} recordings that {table} lists is there, {rows[0].path} for one. "
            f"Paths are taken relative to {root}, or as names of files below it."
        )
    utterances = tuple(
        Utterance(path, row.speaker, (corrected and row.corrected) or row.emotion, row.gender, name)
        for row, path in zip(rows, paths, strict=True)
    )
    listed, there = {path.absolute() for path in paths}, corpus_contents(root)
    unlisted = (path for path in there.recordings if path.absolute() not in listed)
    skipped = tuple(Skipped(path, f"it is not listed in {table.name}") for path in unlisted)
    return Corpus(name, root, utterances, skipped, there.others)


def _relabelled(corpus: Corpus, table: Path, labels: Labels) -> Corpus:
    """The corpus with the labels of a table; of original ones, files that it lacks keep what they have."""
    by_name = read_labels(table, labels == "corrected")
    missing = [one.path.name for one in corpus.utterances if one.path.stem not in by_name]
    if len(missing) == len(corpus.utterances) or (missing and labels == "corrected"):
        raise CorpusError(f"{table} has no label for {len(missing)} files of {corpus.name}, {missing[0]} the first.")
    labelled = (replace(one, emotion=by_name.get(one.path.stem, one.emotion)) for one in corpus.utterances)
    return replace(corpus, utterances=tuple(labelled))


def _no_corrected_labels(source: Path) -> CorpusError:
    return CorpusError(
        f"{source} comes without corrected labels. Give a CSV with the columns file and emotion_modified, or "
        f"{LABEL_FILES['corrected']}, with --metadata."
    )
