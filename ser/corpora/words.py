"""One spelling for what is the same word: labels and names as people type them, in English, codes and Persian.

In: a cell of a table or a word of a file name. Out: the project's name of an emotion, or the cleaned text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from difflib import SequenceMatcher
from itertools import combinations

# Emotion -> other words for it, as they occur in tables, folders and file names.
SPELLINGS: dict[str, str] = {
    "anger": "angry خشم خشمگین عصبانی عصبانیت",
    "fear": "fearful scared afraid ترس ترسیده وحشت هراس",
    "happiness": "happy joyful شادی شاد خوشحالی خوشحال خوشی",
    "neutral": "خنثی عادی معمولی بی‌طرف",
    "sadness": "sad غم غمگین غمگینی ناراحتی ناراحت اندوه",
    "surprise": "surprised تعجب متعجب شگفتی شگفت‌زده حیرت غافلگیری",
    "disgust": "disgusted انزجار چندش",
    "boredom": "bored کسالت ملال بی‌حوصلگی",
    "calm": "آرامش آرام",
}
# What only a cell of a table means; in a file name it may be anything, a speaker's name for one.
CODES: dict[str, str] = {
    "ang": "anger",
    "fea": "fear",
    "hap": "happiness",
    "joy": "happiness",
    "neu": "neutral",
    "sur": "surprise",
    "dis": "disgust",
}
GENDERS: dict[str, str] = {"f": "female", "w": "female", "زن": "female", "m": "male", "مرد": "male"}
EMPTY = ("", "nan", "n/a", "<na>", "null")  # how programs write a cell that holds nothing
# Arabic letters that look like Persian ones, and the digits of both.
PERSIAN = str.maketrans("يىكة٠١٢٣٤٥٦٧٨٩۰۱۲۳۴۵۶۷۸۹", "ییکه01234567890123456789")
INVISIBLE = re.compile("[\u00ad\u0640\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff]")
JOINERS = "\u200c\u200d"  # part of Persian spelling inside a word, nothing at its ends
LATIN = str.maketrans("аеіорсухıϳ", "aeiopcyxij")  # Cyrillic, Turkish and Greek letters that look like these
ALIKE = 0.85  # of difflib: "suprise" is 0.93 of "surprise", "boredom" 0.71 of "freedom"


def cleaned(text: str) -> str:
    """Text in one Unicode form, with Persian letters, without marks that cannot be seen."""
    visible = INVISIBLE.sub("", unicodedata.normalize("NFKC", text).translate(PERSIAN))
    return " ".join(visible.split()).strip(JOINERS)


def skeleton(text: str) -> str:
    """What two spellings of one word have in common: letters and digits, without case, accents and blanks."""
    base = unicodedata.normalize("NFKD", cleaned(text).casefold().translate(LATIN))
    return "".join(letter for letter in base if letter.isalnum()) or base


def common_label(label: str) -> str:
    """A label under its common name; one that is not known, cleaned."""
    word = skeleton(label)
    return WORDS.get(word) or CODES.get(word) or cleaned(label)


def spelled_emotion(path: str) -> str | None:
    """The one emotion whose word stands in the file's name, else in its folder's: `S1_angry_03` is anger."""
    for part in reversed(path.split("/")[-2:]):
        words = map(skeleton, re.split(r"[^\w\u200c]|[\d_]", part))
        found = {WORDS[word] for word in words if word in WORDS}
        if found:
            return found.pop() if len(found) == 1 else None
    return None


def look_alikes(labels: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of labels that are probably one, mistyped."""
    words = {label: skeleton(label) for label in labels}
    return [
        (one, other)
        for one, other in combinations(words, 2)
        if SequenceMatcher(None, words[one], words[other]).ratio() >= ALIKE
    ]


def folded(name: str) -> str:
    """What two spellings of one name have in common: all but case and marks that cannot be seen."""
    return re.sub(f"[{JOINERS}]", "", cleaned(name).casefold())


def first_spellings(names: Iterable[str]) -> list[str]:
    """Names with one spelling each, the first: `Anna`, `anna` and a name with a mark more are one."""
    seen: dict[str, str] = {}
    return [seen.setdefault(folded(name), cleaned(name)) for name in names]


WORDS: dict[str, str] = {
    skeleton(word): emotion for emotion, words in SPELLINGS.items() for word in (emotion, *words.split())
}
