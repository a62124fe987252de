"""How corpora name their files: one row of `READERS` a corpus.

In: the path of a recording below the corpus folder. Out: speaker, emotion and gender. To add a corpus, add a
row: a name, a file name to show in messages, a pattern for the whole path without its suffix, and what its
groups mean.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from ser.corpora.words import GENDERS, common_label
from ser.labels import EMOTIONS

Match = re.Match[str]

SHEMO_LETTERS = dict(zip("AFHNSW", EMOTIONS, strict=True))
EMODB_LETTERS = dict(
    zip("WLEAFTN", ["anger", "boredom", "disgust", "fear", "happiness", "sadness", "neutral"], strict=True)
)
EMODB_MEN = ("03", "10", "11", "12", "15")
URDU_LETTERS = {"A": "anger", "H": "happiness", "N": "neutral", "S": "sadness"}
RAVDESS_EMOTIONS = ("neutral", "calm", "happiness", "sadness", "anger", "fear", "disgust", "surprise")


@dataclass(frozen=True)
class Reader:
    """How one corpus names its files.

    Attributes:
        name: of the corpus.
        example: a file name, for messages.
        pattern: matched against the whole path below the folder, without its suffix.
        fields: the match to `(speaker, emotion, gender)`; the gender may be None.
        named: the match to the emotion that the file's own name tells, where the folder is what counts.
    """

    name: str
    example: str
    pattern: re.Pattern[str]
    fields: Callable[[Match], tuple[str, str, str | None]]
    named: Callable[[Match], str | None] | None = None


def _shemo_gender(match: Match) -> str:
    """That of the folder `female` or `male`, else of the letter."""
    folder = match.string.split("/")[-2:-1]
    return folder[0] if folder and folder[0] in ("female", "male") else GENDERS[match[1].lower()]


READERS: tuple[Reader, ...] = (
    Reader(
        "ShEMO",
        "F03S02.wav",  # female speaker 03 (M03 is somebody else), sadness, utterance 02
        re.compile(r"(?:.*/)?([FM])(\d\d)([AFHNSW])(\d+)"),
        lambda m: (m[1] + m[2], SHEMO_LETTERS[m[3]], _shemo_gender(m)),
    ),
    Reader(
        "EMO-DB",
        "03a01Fa.wav",  # speaker 03, sentence a01, happiness, version a
        re.compile(r"(?:.*/)?(\d\d)[a-z]\d\d([WLEAFTN])[a-z]?"),
        lambda m: (m[1], EMODB_LETTERS[m[2]], "male" if m[1] in EMODB_MEN else "female"),
    ),
    Reader(
        "URDU",
        "Angry/SM1_F1_A01.wav",  # anger, male speaker 1
        re.compile(r"(?:.*/)?(Angry|Happy|Neutral|Sad)/S([MF])(\d+)_F\d+_([A-Z])\d+"),
        lambda m: (f"S{m[2]}{m[3]}", common_label(m[1]), GENDERS[m[2].lower()]),
        named=lambda m: URDU_LETTERS.get(m[4]),
    ),
    Reader(
        "RAVDESS",
        "Actor_01/03-01-05-02-01-01-01.wav",  # third number emotion, last number actor, odd ones men
        re.compile(r"(?:.*/)?03-01-(0[1-8])-\d\d-\d\d-\d\d-(\d\d)"),
        lambda m: (m[2], RAVDESS_EMOTIONS[int(m[1]) - 1], "male" if int(m[2]) % 2 else "female"),
    ),
)


def named_emotion(reader: Reader, path: str) -> str | None:
    """The emotion that a reader finds in the file's own name; None where the name is not the reader's."""
    match = reader.pattern.fullmatch(path)
    if match is None:
        return None
    return reader.named(match) if reader.named else reader.fields(match)[1]
