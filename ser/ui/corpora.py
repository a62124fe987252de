"""The corpora and encoders that the training tabs offer: what the operator allowed, and a demonstration.

In: the settings and a choice that came from a browser. Out: the folder, or `SettingsError`. A path never
comes from a visitor: the choices are names, and a name that is not on the list is refused.
"""

from __future__ import annotations

from pathlib import Path

from ser.classifier.checkpoint import read_description
from ser.errors import SerError, SettingsError
from ser.files import DEMO_CORPUS, SHIPPED_CLASSIFIER
from ser.ui.settings import AppSettings
from ser.ui.texts import Text

DEMO = "demonstration"
DEMO_TEXT = Text("Demonstration (RAVDESS and nEMO)", "نمایشی (RAVDESS و nEMO)")
UNKNOWN = "There is no {what} of the name {name!r}; choose one of: {names}."


class Corpora:
    """The corpora of one page, by name."""

    def __init__(self, settings: AppSettings) -> None:
        self._folders: dict[str, Path] = {}
        for folder in settings.corpora:
            name = folder.resolve().name or "corpus"
            twins = sum(known == name or known.startswith(f"{name} (") for known in (DEMO, *self._folders))
            self._folders[f"{name} ({twins + 1})" if twins else name] = folder.resolve()

    def choices(self, language: str) -> list[tuple[str, str]]:
        """What is shown, and the name it stands for; the demonstration corpus first."""
        return [(DEMO_TEXT.say(language), DEMO), *((name, name) for name in self._folders)]

    def folder(self, name: object) -> Path:
        """The folder of a corpus.

        Raises:
            SettingsError: the name is not on the list.
        """
        if name == DEMO:
            return DEMO_CORPUS
        if not isinstance(name, str) or name not in self._folders:
            raise SettingsError(
                UNKNOWN.format(what="corpus", name=name, names=", ".join((DEMO, *self._folders)))
            )
        return self._folders[name]


class Encoders:
    """The encoders of one page, by name: the one that answers, and on a Space the one of the hub."""

    def __init__(self, settings: AppSettings) -> None:
        sources = [source for source in (_configured(settings), settings.hub_encoder) if source]
        self._sources = {Path(source).name if Path(source).is_dir() else source: source for source in sources}

    @property
    def names(self) -> list[str]:
        """The one that answers first."""
        return list(self._sources)

    def source(self, name: object) -> str:
        """What `--encoder` wants to hear for a name.

        Raises:
            SettingsError: the name is not on the list.
        """
        if not isinstance(name, str) or name not in self._sources:
            raise SettingsError(UNKNOWN.format(what="encoder", name=name, names=", ".join(self._sources)))
        return self._sources[name]


def _configured(settings: AppSettings) -> str:
    """The encoder that the operator set, else the one that the checkpoint was trained on."""
    if settings.encoder:
        return settings.encoder
    try:
        return read_description(settings.checkpoint or SHIPPED_CLASSIFIER).encoder.source
    except SerError:  # the page says elsewhere that no model could be loaded
        return "shipped"
