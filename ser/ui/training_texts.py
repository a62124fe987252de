"""The sentences of the tabs Cross-validate and Tune (training.toml), and errors that speak both languages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ser.errors import CheckpointError, CorpusError, EncoderError, SerError
from ser.ui.texts import Texts

TEXTS = Texts.read(Path(__file__).with_name("training.toml"))


def say(key: str, language: str, kind: str = "", **values: object) -> str:
    """A sentence in a language; `kind` is the tab, "cv" or "tune", whose own sentence is preferred."""
    own = f"{kind}_{key}"
    return TEXTS.say(own if own in TEXTS else key, language, **values)


class Problem(SerError):
    """Why a press led to nothing, to be said in the visitor's language; as a string it is English."""

    def __init__(self, key: str, **values: object) -> None:
        super().__init__(_filled(key, "en", values))
        self.key, self.values = key, values

    def in_words(self, language: str) -> str:
        """The sentence in a language."""
        return _filled(self.key, language, self.values)


def lead(language: str, error: SerError | None = None) -> str:
    """What is said before English words of the program: what could not be used; empty in English."""
    keys = {CorpusError: "refused_corpus", EncoderError: "refused_encoder", CheckpointError: "refused_model"}
    key = next((key for kind, key in keys.items() if isinstance(error, kind)), "refused")
    return say(key, language)


def _filled(key: str, language: str, values: dict[str, Any]) -> str:
    """A sentence with its values; one that is the key of a setting is said by the setting's name."""
    said: dict[str, Any] = {
        name: say(value, language) if isinstance(value, str) and value.startswith("ser_") else value
        for name, value in values.items()
    }
    return say(key, language, **said)
