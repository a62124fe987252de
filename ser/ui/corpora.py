"""The corpora and encoders that the training tabs offer: what the owner allowed, and a demonstration.

In: the settings and a choice that came from a browser. Out: the folder, what is in it, or `SerError`. A path never
comes from a visitor: the choices are names, and a name that is not on the list is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ser.classifier.checkpoint import read_description
from ser.errors import FoldError, SerError, SettingsError
from ser.files import DEMO_CORPUS, SHIPPED_CLASSIFIER
from ser.ui.settings import AppSettings

if TYPE_CHECKING:
    from ser.corpora.corpus import Corpus

DEMO = "demonstration"
UNKNOWN = "No {what} is named {name!r}; choose one of: {names}."


class Corpora:
    """The corpora of one page, by name."""

    def __init__(self, settings: AppSettings) -> None:
        self._folders: dict[str, Path] = {DEMO: DEMO_CORPUS}
        for folder in settings.corpora:
            name = folder.resolve().name or "corpus"
            twins = sum(known == name or known.startswith(f"{name} (") for known in self._folders)
            self._folders[f"{name} ({twins + 1})" if twins else name] = folder.resolve()

    @property
    def names(self) -> list[str]:
        """The demonstration first."""
        return list(self._folders)

    def folder(self, name: object) -> Path:
        """The folder of a corpus.

        Raises:
            SettingsError: the name is not on the list.
        """
        return Path(_known("corpus", name, self._folders))

    def read(self, name: object) -> Corpus:
        """Who says what in a corpus; its recordings are not opened.

        Raises:
            SettingsError, CorpusError: it is not on the list, or cannot be read.
        """
        from ser.corpora.corpus import read_corpus

        return read_corpus(self.folder(name))


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
        """What `--encoder` expects for a name.

        Raises:
            SettingsError: the name is not on the list.
        """
        return str(_known("encoder", name, self._sources))


def has_folds(corpus: Corpus, n_folds: int, seed: int) -> bool:
    """Whether a corpus can be split so; known before anything is encoded."""
    from ser.corpora.folds import make_folds

    speakers = [one.speaker for one in corpus.utterances]
    try:
        return bool(make_folds(speakers, [one.emotion for one in corpus.utterances], n_folds, seed=seed))
    except FoldError:
        return False


def _known(what: str, name: object, table: dict[str, Path] | dict[str, str]) -> Path | str:
    if not isinstance(name, str) or name not in table:
        raise SettingsError(UNKNOWN.format(what=what, name=name, names=", ".join(table)))
    return table[name]


def _configured(settings: AppSettings) -> str:
    """The encoder that the owner set, else the one that the checkpoint was trained on."""
    if settings.encoder:
        return settings.encoder
    try:
        return read_description(settings.checkpoint or SHIPPED_CLASSIFIER).encoder.source
    except SerError:  # the page says elsewhere that no model could be loaded
        return "shipped"
