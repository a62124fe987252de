"""The Bi-GRU and baselines on the same folds: figure 6 of the paper from the user's own data.

In: a corpus, encoders, names of `MODELS`. Out, in a folder: a sub-folder for each model and encoder with `result.json`
and `predictions.csv`, and `baselines.json` over all. What is finished is taken as it is, so a comparison that was
stopped or killed resumes with the next model. Wherever a Bi-GRU with other settings is compared, the one with the
paper's is too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, wait
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ser.classifier.checkpoint import EncoderReference
from ser.corpora.corpus import Corpus
from ser.corpora.folds import Fold
from ser.errors import Stopped
from ser.experiments.baselines import BaselineSettings, FrontEnd, ListedFrames, Task, mfccs
from ser.experiments.models import MODELS, fit_alone, runnable
from ser.files import claim_folder, read_json, write_atomically, write_json
from ser.runtime import library_versions
from ser.scoring.metrics import score
from ser.training.crossval import Crossval
from ser.training.frames import FrameSource
from ser.training.run_folder import identity, predictions_table
from ser.training.settings import CrossvalSettings, settings_to_dict
from ser.training.trainer import EpochReport

FILE = "baselines.json"
PAUSE_S = 1.0  # between looks at whether to stop, while workers fit folds

Listener = Callable[[str, int, int], None]
Source = Callable[[], FrameSource]


@dataclass(frozen=True)
class Encoded:
    """A corpus through one encoder; `layers` computes the frames of all its layers when called."""

    frames: FrameSource
    layers: Callable[[], FrameSource]
    reference: EncoderReference


class Chooser(Protocol):
    """Searches the settings of each model on validation speakers, with the same number of trials for all."""

    note: str  # on what that is worth

    @property
    def n_trials(self) -> int:
        """Of each search."""

    def bigru(self, run: str, corpus: Corpus, one: Encoded, given: CrossvalSettings) -> CrossvalSettings:
        """The best settings found for the Bi-GRU."""

    def network(
        self, run: str, about: dict[str, Any], given: BaselineSettings, accuracy: Callable[[BaselineSettings], float]
    ) -> BaselineSettings:
        """The best settings found for another network, whose accuracy on validation speakers can be asked for."""


@dataclass(frozen=True)
class ComparisonSettings:
    """What is compared.

    Attributes:
        crossval: the folds, and the Bi-GRU "as given".
        baseline: how the other networks are trained.
        paper: classifier and training of the paper's Bi-GRU.
    """

    crossval: CrossvalSettings = CrossvalSettings()
    baseline: BaselineSettings = BaselineSettings()
    paper: CrossvalSettings = CrossvalSettings()

    def of_bigru(self, name: str) -> CrossvalSettings:
        """The settings of the model "bigru" or "paper", on the same folds and with the same seed."""
        given = self.crossval
        if name == "bigru":
            return given
        training = replace(self.paper.training, seed=given.training.seed)
        return replace(given, classifier=self.paper.classifier, training=training)


@dataclass(frozen=True)
class Comparison:
    """Models on the same folds of a corpus.

    Attributes:
        corpus: what to learn from and to test on.
        encoded: the corpus through each encoder.
        settings: folds and trainings.
        folder: for `baselines.json` and a sub-folder for each run.
        listener: called after each epoch with the name of the run, the number of the fold and the epoch.
        should_stop: asked after each fold, and by the Bi-GRU after each epoch.
        chooser: searches the settings of "bigru" and of the other networks; None takes them as given.
        executor: what fits the folds, each by itself; by default they are fitted here, one after the other.
        progress: called with the number of models, each with each encoder, that are done, and of all.
    """

    corpus: Corpus
    encoded: Sequence[Encoded]
    settings: ComparisonSettings
    folder: Path
    listener: Listener = lambda run, fold, epoch: None
    should_stop: Callable[[], bool] = lambda: False
    chooser: Chooser | None = None
    executor: Executor | None = None
    progress: Callable[[int, int], None] = lambda done, total: None

    @cached_property
    def folds(self) -> tuple[Fold, ...]:
        """Searched once, for every model and trial."""
        return self.settings.crossval.folds(self.corpus)

    def run(self, names: Sequence[str]) -> dict[str, Any]:
        """Run every model, those on frames with each encoder; returns the content of `baselines.json`.

        Raises:
            SettingsError: no such model, or the folder holds a comparison on another corpus or other folds.
            Stopped: `should_stop` said so; the same call resumes.
        """
        settings, shared = self.settings.crossval, self._identity(self.encoded[0])
        claim_folder(self.folder, {"settings": shared["settings"], "corpus": shared["corpus"]})
        rows: list[dict[str, Any]] = []
        protocol, chooser = settings.protocol(len(self.folds)), self.chooser
        if chooser:
            protocol += f"; settings of each network by {chooser.n_trials} trials: {chooser.note}"
        content = {
            "kind": "baselines",
            "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "protocol": protocol,
            "settings": settings_to_dict(self.settings),
            "corpus": shared["corpus"],
            "labels": list(self.corpus.emotions),
            "intervals": "95 %, bootstrap over speakers",
            "versions": library_versions(),
            "rows": rows,
        }
        runs = [
            (name, one)
            for name in self._with_paper(runnable(names)[0])
            for one in (self.encoded if MODELS[name].uses_encoder else self.encoded[:1])
        ]
        for name, one in runs:
            self.progress(len(rows), len(runs))
            rows.append(self._row(name, one))
            write_json(self.folder / FILE, content)
        self.progress(len(rows), len(runs))
        return content

    def _with_paper(self, names: Sequence[str]) -> list[str]:
        """The names, the paper's Bi-GRU before any other; where both have the same settings, it alone."""
        settings, among = self.settings, "bigru" in names or "paper" in names
        others = [name for name in names if name != "paper"]
        if settings.of_bigru("bigru") == settings.of_bigru("paper") and not self.chooser:
            others = [name for name in others if name != "bigru"]
        return ["paper", *others] if among else others

    def _row(self, name: str, one: Encoded) -> dict[str, Any]:
        model, source = MODELS[name], one.reference.source
        run = f"{name}-{self._folder_of(one)}" if model.uses_encoder else name
        begun, folder = time.monotonic(), self.folder / run
        result = self._bigru(name, run, one) if model.fit is None else self._baseline(name, run, one)
        if "seconds" not in result:
            result["seconds"] = round(time.monotonic() - begun, 1)
            write_json(folder / "result.json", result)
        return {
            "model": name,
            "title": f"{model.title} ({source})" if model.uses_encoder else model.title,
            "encoder": source if model.uses_encoder else None,
            "run": run,
            **{key: result["pooled"][key] for key in ("wa", "uar", "macro_f1")},
            "seconds": result["seconds"],
        }

    def _folder_of(self, one: Encoded) -> str:
        """An encoder's part of a folder's name; where two have the same, its fingerprint follows."""
        name = slug(one.reference.source)
        same = [other for other in self.encoded if slug(other.reference.source) == name]
        return f"{name}-{one.reference.fingerprint}" if len(same) > 1 else name

    def _bigru(self, name: str, run: str, one: Encoded) -> dict[str, Any]:
        def listener(fold: int, report: EpochReport) -> None:
            self.listener(run, fold, report.epoch)

        settings, folder = self.settings.of_bigru(name), self.folder / run
        if self.chooser and name == "bigru":
            settings = self.chooser.bigru(run, self.corpus, one, settings)
        crossval = Crossval(self.corpus, one.frames, one.reference, settings, folder)
        return crossval.run_once(listener, self.should_stop, final=False, executor=self.executor)

    def _baseline(self, name: str, run: str, one: Encoded) -> dict[str, Any]:
        folder, labels, settings = self.folder / run, self.corpus.emotions, self.settings.baseline
        about = {"model": name, **self._identity(one)}
        if not MODELS[name].uses_encoder:
            del about["encoder"]
        source = cache(lambda: self._source(MODELS[name].needs, one))
        if self.chooser and MODELS[name].is_network:
            accuracy = partial(self._validation_accuracy, name, run, source)
            settings = self.chooser.network(run, about, settings, accuracy)
        about["baseline"] = settings_to_dict(settings)
        claim_folder(folder, about)
        if (folder / "result.json").exists():
            return read_json(folder / "result.json")
        probabilities, fold_of = self._predictions(name, run, source, settings)
        speakers = [utterance.speaker for utterance in self.corpus.utterances]
        scores = score(self.corpus.targets, probabilities, speakers, labels).to_dict()
        table = predictions_table(self.corpus, probabilities, fold_of)
        write_atomically(folder / "predictions.csv", table.encode())
        return {**about, "labels": list(labels), "pooled": scores}

    def _predictions(
        self, name: str, run: str, source: Source, settings: BaselineSettings
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """`(utterances, labels)` probabilities of every utterance by the fold that tests it, and which that is."""
        n = len(self.corpus.utterances)
        probabilities, fold_of = np.zeros((n, len(self.corpus.emotions))), np.zeros(n, dtype=np.int64)
        fitted = self._fitted(name, run, source, settings, self.folds)
        for number, (fold, predicted) in enumerate(zip(self.folds, fitted, strict=True)):
            probabilities[list(fold.test)] = predicted
            fold_of[list(fold.test)] = number
        return probabilities, fold_of

    def _validation_accuracy(self, name: str, run: str, source: Source, settings: BaselineSettings) -> float:
        """Accuracy on the validation speakers, mean of the folds; nobody of a test part is heard."""
        folds = [replace(fold, test=fold.validation) for fold in self.folds]
        fitted = self._fitted(name, run, source, settings, folds)
        right = [
            np.mean(predicted.argmax(axis=1) == self.corpus.targets[list(fold.test)])
            for fold, predicted in zip(folds, fitted, strict=True)
        ]
        return float(np.mean(right))

    def _fitted(
        self, name: str, run: str, source: Source, settings: BaselineSettings, folds: Sequence[Fold]
    ) -> Iterator[NDArray[np.float64]]:
        """`(test utterances, labels)` probabilities of a model that was fitted on each fold, in order."""
        targets, n_labels = self.corpus.targets, len(self.corpus.emotions)
        tasks = [Task(source(), targets, n_labels, fold, settings, number) for number, fold in enumerate(folds)]
        futures = [self.executor.submit(fit_alone, name, task) for task in tasks] if self.executor else []
        try:
            for number, task in enumerate(tasks):
                while futures and not self.should_stop() and not wait(futures[number : number + 1], PAUSE_S).done:
                    pass
                if self.should_stop():
                    raise Stopped(f"Stopped in fold {number + 1} of {run}. Run the same command again to resume.")
                if futures:
                    yield futures[number].result()
                else:
                    yield MODELS[name].fitted(task, partial(self.listener, run, number))
        finally:
            for future in futures:
                future.cancel()

    def _source(self, needs: str, one: Encoded) -> FrameSource:
        """What a model learns from: frames, or one row an utterance of openSMILE's functionals."""
        from ser.audio.load import load_audio
        from ser.features.opensmile import functionals

        if needs == "frames":
            return one.frames
        if needs in ("layers", "front"):
            return one.layers() if needs == "layers" else FrontEnd(one.layers())
        recordings = (load_audio(utterance.path) for utterance in self.corpus.utterances)
        if needs == "mfcc":
            return ListedFrames([mfccs(samples) for samples in recordings])
        return ListedFrames(list(functionals(recordings, needs)[:, None]))

    def _identity(self, one: Encoded) -> dict[str, Any]:
        """Corpus, encoder and folds, whatever the settings of the Bi-GRU."""
        about = identity(self.corpus, one.reference, self.settings.crossval)
        of_folds = {key: about["settings"][key] for key in ("split", "n_folds", "validation_share", "seed")}
        return about | {"settings": of_folds}


def slug(source: str) -> str:
    """An encoder's name as a part of a folder's."""
    return "".join(letter if letter.isalnum() else "_" for letter in source.strip("/").split("/")[-1])
