"""Every sentence of the page, in English and Persian.

A `Texts` is a table: a key, the English, the Persian; that of the whole page is `texts.toml`. Fixed texts, whose keys
begin with `ser_`, are looked up by the browser (`ser.ui.context.translated`); what is made while a visitor waits is
looked up here with `say`. A tab with sentences of its own has a table that falls back on this one.
"""

from __future__ import annotations

import re
import tomllib
from collections import ChainMap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

LANGUAGES = ("en", "fa")
PERSIAN_DIGITS = str.maketrans("0123456789", "۰۱۲۳۴۵۶۷۸۹")


class Text(NamedTuple):
    """One sentence in both languages; `{names}` in braces are filled in."""

    en: str
    fa: str

    def say(self, language: str, **values: object) -> str:
        """The sentence in a language, its names filled in; Persian sentences get Persian digits."""
        if language != "fa":
            return self.en.format(**values)
        shown = {
            name: localised(str(value), "fa") if isinstance(value, int | float) else value
            for name, value in values.items()
        }
        return self.fa.format(**shown)


class Texts(ChainMap[str, Text]):
    """A table of sentences; what it lacks is looked up in the tables behind it."""

    @classmethod
    def read(cls, path: Path) -> Texts:
        """The table of a TOML file; English that is left out is empty."""
        rows = tomllib.loads(path.read_text(encoding="utf-8"))
        return cls({key: Text(row.get("en", ""), row["fa"]) for key, row in rows.items()})

    def say(self, key: str, language: str, **values: object) -> str:
        """A sentence of the table in a language, its names filled in."""
        return self[key].say(language, **values)


def localised(text: str, language: str) -> str:
    """A text of ours with its numbers in the digits of a language."""
    if language != "fa":
        return text
    return re.sub(r"(?<=\d)\.(?=\d)", "٫", text).translate(PERSIAN_DIGITS)


def localised_shares(text: str, language: str) -> str:
    """The same of a text with shares in percent, "50 %" or "50%", whose sign is the language's too."""
    return re.sub(r" ?%", "٪", localised(text, language)) if language == "fa" else text


TEXTS = Texts.read(Path(__file__).with_name("texts.toml"))
EMOTION = "ser_emotion_"
EMOTION_TEXTS = {key.removeprefix(EMOTION): text for key, text in TEXTS.items() if key.startswith(EMOTION)}
say = TEXTS.say


def emotion_name(label: str, language: str) -> str:
    """The name of an emotion; labels of other corpora stay as they are."""
    return EMOTION_TEXTS[label].say(language) if label in EMOTION_TEXTS else label


def fixed_texts(tables: Iterable[Mapping[str, Text]]) -> dict[str, dict[str, str]]:
    """What the browser looks up of the tables: language -> key -> text."""
    texts = {key: text for table in tables for key, text in table.items() if key.startswith("ser_")}
    return {language: {key: getattr(text, language) for key, text in texts.items()} for language in LANGUAGES}
