"""Labelled recordings: who speaks, which emotion, where the file is.

In: a folder of ShEMO, EMO-DB, URDU, RAVDESS or nEMO as it comes, or a CSV with `path, speaker, emotion`. Out: a
`Corpus`. A reader is one row of `READERS`: a name, a pattern for the path below the folder, and what the pattern's
groups mean; adding a corpus takes ten lines. Nothing is decoded here: `ser.corpus_report` looks into the files.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ser.errors import CorpusError
from ser.labels import EMOTIONS

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".m4a", ".webm")
TABLES = ("metadata.csv", "manifest.csv", "labels.csv")
GENDERS = {"f": "female", "female": "female", "m": "male", "male": "male"}
# Other names for the six, as they occur in tables.
SYNONYMS = {
    "angry": "anger",
    "fearful": "fear",
    "happy": "happiness",
    "sad": "sadness",
    "surprised": "surprise",
    "neutrality": "neutral",
}


@dataclass(frozen=True)
class Utterance:
    """One labelled recording."""

    path: Path
    speaker: str
    emotion: str
    gender: str | None = None
    corpus: str = ""


@dataclass(frozen=True)
class Corpus:
    """Utterances of one or several corpora.

    Attributes:
        name: of the reader or the folder; joined corpora are named with a plus.
        root: the folder that paths are told relative to.
        utterances: sorted by path.
    """

    name: str
    root: Path
    utterances: tuple[Utterance, ...]

    @property
    def emotions(self) -> tuple[str, ...]:
        """Labels that occur: the six in the project's order, then others by name."""
        return in_order(utterance.emotion for utterance in self.utterances)

    @property
    def speakers(self) -> tuple[str, ...]:
        return tuple(sorted({utterance.speaker for utterance in self.utterances}))

    @property
    def fingerprint(self) -> str:
        """First 16 hex digits of a SHA-256 over names, speakers and labels; the audio has its own, file by file."""
        digest = hashlib.sha256()
        for one in sorted(self.utterances, key=lambda utterance: str(utterance.path)):
            inside = one.path.is_relative_to(self.root)
            path = one.path.relative_to(self.root).as_posix() if inside else one.path.name
            digest.update(f"{path}\0{one.speaker}\0{one.emotion}\n".encode())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Reader:
    """How one corpus names its files.

    Attributes:
        name: of the corpus.
        pattern: matched against the whole path below the folder, without its suffix.
        fields: the match to `(speaker, emotion, gender)`.
    """

    name: str
    pattern: re.Pattern[str]
    fields: Callable[[re.Match[str]], tuple[str, str, str | None]]


SHEMO_LETTERS = {
    "A": "anger",
    "F": "fear",
    "H": "happiness",
    "N": "neutral",
    "S": "sadness",
    "W": "surprise",
}
EMODB_LETTERS = {
    "W": "anger",
    "L": "boredom",
    "E": "disgust",
    "A": "fear",
    "F": "happiness",
    "T": "sadness",
    "N": "neutral",
}
EMODB_MEN = ("03", "10", "11", "12", "15")
RAVDESS_NUMBERS = {
    "01": "neutral",
    "02": "calm",
    "03": "happiness",
    "04": "sadness",
    "05": "anger",
    "06": "fear",
    "07": "disgust",
    "08": "surprise",
}
READERS: tuple[Reader, ...] = (
    Reader(
        "ShEMO",
        re.compile(r"(?:.*/)?([FM])(\d\d)([AFHNSW])(\d+)"),  # F03S02: female speaker 03, sadness, utterance 02
        lambda m: (m[1] + m[2], SHEMO_LETTERS[m[3]], GENDERS[m[1].lower()]),
    ),
    Reader(
        "EMO-DB",
        re.compile(r"(?:.*/)?(\d\d)[a-z]\d\d([WLEAFTN])[a-z]?"),
        lambda m: (m[1], EMODB_LETTERS[m[2]], "male" if m[1] in EMODB_MEN else "female"),
    ),
    Reader(
        "URDU",
        re.compile(r"(?:.*/)?(Angry|Happy|Neutral|Sad)/S([MF])(\d+)_F\d+_[A-Z]\d+"),
        lambda m: (f"S{m[2]}{m[3]}", SYNONYMS.get(m[1].lower(), m[1].lower()), GENDERS[m[2].lower()]),
    ),
    Reader(
        "RAVDESS",
        re.compile(r"(?:.*/)?03-01-(\d\d)-\d\d-\d\d-\d\d-(\d\d)"),
        lambda m: (m[2], RAVDESS_NUMBERS[m[1]], "male" if int(m[2]) % 2 else "female"),
    ),
)


def in_order(emotions: Iterable[str]) -> tuple[str, ...]:
    """The different emotions: the six in the project's order, then others by name."""
    present = set(emotions)
    return tuple(emotion for emotion in EMOTIONS if emotion in present) + tuple(sorted(present - set(EMOTIONS)))


def read_corpus(
    source: str | Path,
    reader: str | None = None,
    labels: Literal["original", "corrected"] = "original",
    metadata: str | Path | None = None,
    label_map: Mapping[str, str] | None = None,
) -> Corpus:
    """Read a corpus.

    Args:
        source: a folder, or a CSV with the columns `path, speaker, emotion` and, if known, `gender`.
        reader: name of a reader; by default the one whose pattern fits most files, after a table in the folder.
        labels: "corrected" takes ShEMO's labels after Yazdani and Shekofteh 2022 from `metadata`.
        metadata: a CSV with the columns `file` and `emotion_modified`.
        label_map: other names for labels, applied last.

    Raises:
        CorpusError: nothing there that can be read as a corpus; the message says what was looked for.
    """
    source = Path(source)
    if source.is_file():
        corpus = _read_table(source)
    elif source.is_dir():
        table = next((source / name for name in TABLES if (source / name).is_file()), None)
        corpus = _read_table(table) if table is not None and reader is None else _read_names(source, reader)
    else:
        raise CorpusError(f"There is no corpus {source}. Give a folder of recordings, or a CSV that lists them.")
    if labels == "corrected":
        corpus = _corrected(corpus, metadata)
    mapped = dict(label_map or {})
    utterances = sorted(
        (replace(one, emotion=mapped.get(one.emotion, one.emotion)) for one in corpus.utterances),
        key=lambda one: str(one.path),
    )
    return replace(corpus, utterances=tuple(utterances))


def read_corpora(
    sources: Sequence[str | Path],
    labels: Literal["original", "corrected"] = "original",
    metadata: str | Path | None = None,
    label_map: Mapping[str, str] | None = None,
) -> Corpus:
    """Several corpora as one; speakers are named `corpus:speaker`, so that nobody is taken for another."""
    if len(sources) == 1:
        return read_corpus(sources[0], None, labels, metadata, label_map)
    utterances: list[Utterance] = []
    names: list[str] = []
    for source in sources:
        kind = labels if metadata is not None else "original"
        corpus = read_corpus(source, None, kind, metadata if kind == "corrected" else None, label_map)
        name = corpus.name if corpus.name not in names else f"{corpus.name}{names.count(corpus.name) + 1}"
        names.append(name)
        utterances += [replace(one, speaker=f"{name}:{one.speaker}", corpus=name) for one in corpus.utterances]
    common = Path(*_common_parts([Path(source).resolve() for source in sources]))
    return Corpus("+".join(names), common, tuple(utterances))


def keep_emotions(corpus: Corpus, emotions: Sequence[str]) -> tuple[Corpus, dict[str, int]]:
    """The utterances of these emotions, and how many of each other were left out.

    Raises:
        CorpusError: none is left.
    """
    kept = tuple(one for one in corpus.utterances if one.emotion in emotions)
    dropped: dict[str, int] = {}
    for one in corpus.utterances:
        if one.emotion not in emotions:
            dropped[one.emotion] = dropped.get(one.emotion, 0) + 1
    if not kept:
        raise CorpusError(f"{corpus.name} has none of {', '.join(emotions)}; it has {', '.join(corpus.emotions)}.")
    return replace(corpus, utterances=kept), dropped


def _read_names(folder: Path, name: str | None) -> Corpus:
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
    if not files:
        raise CorpusError(f"There are no recordings below {folder} ({' '.join(AUDIO_SUFFIXES)}).")
    known = [reader for reader in READERS if name is None or reader.name.lower() == name.lower()]
    if not known:
        raise CorpusError(f"There is no reader {name!r}; there are {', '.join(one.name for one in READERS)}.")
    found = [(reader, _matched(reader, folder, files)) for reader in known]
    reader, utterances = max(found, key=lambda pair: len(pair[1]))
    if not utterances:
        raise CorpusError(
            f"The {len(files)} recordings below {folder}, {files[0].name} the first, are not named as in "
            f"{', '.join(one.name for one in known)}, and there is none of {', '.join(TABLES)}. "
            "Put a CSV with the columns path, speaker, emotion beside them."
        )
    return Corpus(reader.name, folder, tuple(utterances))


def _matched(reader: Reader, folder: Path, files: Sequence[Path]) -> list[Utterance]:
    utterances = []
    for path in files:
        match = reader.pattern.fullmatch((Path(folder.resolve().name) / path.relative_to(folder)).with_suffix("").as_posix())
        if match:
            speaker, emotion, gender = reader.fields(match)
            utterances.append(Utterance(path, speaker, emotion, gender, reader.name))
    return utterances


def _read_table(table: Path) -> Corpus:
    rows = _rows(table, ("path", "speaker", "emotion"))
    utterances = []
    for number, row in enumerate(rows, start=2):
        values = {key: (row[key] or "").strip() for key in ("path", "speaker", "emotion")}
        empty = [key for key, value in values.items() if not value]
        if empty:
            raise CorpusError(f"{table}, line {number}: {', '.join(empty)} is empty. Fill it in or delete the line.")
        label = values["emotion"].lower()
        gender = GENDERS.get((row.get("gender") or "").strip().lower())
        utterances.append(
            Utterance(
                table.parent / values["path"], values["speaker"], SYNONYMS.get(label, label), gender, table.parent.name
            )
        )
    return Corpus(table.parent.resolve().name, table.parent, tuple(utterances))


def _rows(table: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = [column for column in columns if column not in (reader.fieldnames or [])]
            if missing:
                raise CorpusError(
                    f"{table} lacks the column {', '.join(missing)}; it has {', '.join(reader.fieldnames or ['none'])}."
                )
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CorpusError(f"{table} cannot be read as a CSV in UTF-8 ({error}).") from error
    if not rows:
        raise CorpusError(f"{table} has no line below its header.")
    return rows


def _corrected(corpus: Corpus, metadata: str | Path | None) -> Corpus:
    if metadata is None:
        raise CorpusError("Corrected labels come from a CSV with the columns file and emotion_modified: --metadata CSV.")
    rows = _rows(Path(metadata), ("file", "emotion_modified"))
    by_file = {Path(row["file"]).stem: row["emotion_modified"].strip().lower() for row in rows}
    missing = [one.path.name for one in corpus.utterances if one.path.stem not in by_file]
    if missing:
        raise CorpusError(f"{metadata} has no label for {len(missing)} files, {missing[0]} the first.")
    return replace(
        corpus, utterances=tuple(replace(one, emotion=by_file[one.path.stem]) for one in corpus.utterances)
    )


def _common_parts(paths: Sequence[Path]) -> tuple[str, ...]:
    common: list[str] = []
    for parts in zip(*(path.parts for path in paths), strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return tuple(common)
