"""Five-fold cross-validation (section 4 of the paper) into a run folder that is readable while it grows.

In: a corpus, its features, settings. Out, in the run folder: `progress.json` (rewritten after every epoch of a fold),
`result.json` (settings, scores with intervals, fold membership, versions, seed, fingerprints), `predictions.csv`
(test clips only), `report.html` and `checkpoint/` (trained on all speakers for the median best epoch). A run that was
killed goes on from the last epoch of each fold and ends with the same result as one that was not.
"""

from __future__ import annotations

import csv
import io
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ser.classifier.bigru import ClassifierSettings
from ser.classifier.checkpoint import Checkpoint, EncoderReference, save_checkpoint
from ser.classifier.ensemble import Ensemble
from ser.corpora.corpus import Corpus
from ser.corpora.folds import Fold, leave_one_corpus_out, leave_one_speaker_out, make_folds, random_folds
from ser.errors import SettingsError, Stopped
from ser.files import write_atomically, write_json
from ser.runtime import library_versions
from ser.scoring.calibration import (
    Calibration,
    calibrate,
    choose_threshold,
    fit_temperature,
    measured,
    softmax,
)
from ser.scoring.metrics import confusion, score, scores_by
from ser.training.lockstep import Lockstep
from ser.training.trainer import EpochReport, FrameSource, Training, TrainingSettings, told

PROTOCOLS = {
    "speakers": "speaker-disjoint, label-stratified {n}-fold cross-validation; "
    "model choice on validation speakers only",
    "loso": "leave-one-speaker-out over {n} speakers; model choice on other validation speakers only",
    "corpora": "leave-one-corpus-out over {n} corpora: the test corpus is not in training at all",
    "random": "RANDOM {n}-fold split that ignores speakers: test speakers are also in training, "
    "the scores are inflated",
}
# What the scores of a checkpoint were measured on.
OF_ONE_MODEL = "measured on the fold models, the shipped weights are then trained on all speakers"
OF_ENSEMBLE = (
    "measured on the fold models one by one; what answers is their average, which no speaker here can measure, "
    "since none is new to all of them"
)


@dataclass(frozen=True)
class CrossvalSettings:
    """How to cross-validate.

    Attributes:
        classifier, training: what is trained and how.
        split: "speakers" (the paper), "loso" (leave one speaker out), "corpora" (leave one of several joined corpora
            out) or "random" (to measure what a leak is worth).
        n_folds: number of folds.
        validation_share: share of all utterances kept for early stopping and calibration in each fold.
        seed: of the folds.
        ensemble: the checkpoint for inference averages the fold models' probabilities, in place of one model trained
            on all speakers. Answers cost as many classifiers as there are folds; the encoder runs once.
    """

    classifier: ClassifierSettings = ClassifierSettings()
    training: TrainingSettings = TrainingSettings()
    split: Literal["speakers", "loso", "corpora", "random"] = "speakers"
    n_folds: int = 5
    validation_share: float = 0.10
    seed: int = 40
    ensemble: bool = field(default=False, metadata={"may_be_absent": True})  # runs are older

    def __post_init__(self) -> None:
        if self.split not in PROTOCOLS:
            raise SettingsError(f"split must be one of {', '.join(PROTOCOLS)}, got {self.split!r}.")
        if self.n_folds < 2 or not 0 < self.validation_share < 0.5:
            raise SettingsError(
                f"n_folds must be at least 2 and validation_share between 0 and 0.5, "
                f"got {self.n_folds} and {self.validation_share}."
            )

    def folds(self, corpus: Corpus) -> tuple[Fold, ...]:
        """The folds of a corpus under these settings."""
        speakers = [utterance.speaker for utterance in corpus.utterances]
        emotions = [utterance.emotion for utterance in corpus.utterances]
        if self.split == "loso":
            return leave_one_speaker_out(speakers, emotions, seed=self.seed)
        if self.split == "corpora":
            corpora = [utterance.corpus for utterance in corpus.utterances]
            return leave_one_corpus_out(corpora, speakers, emotions, self.validation_share, self.seed)
        split = make_folds if self.split == "speakers" else random_folds
        return split(speakers, emotions, self.n_folds, self.validation_share, self.seed)

    def protocol(self, n_folds: int) -> str:
        return PROTOCOLS[self.split].format(n=n_folds)


class Crossval:
    """One cross-validation in its run folder."""

    def __init__(
        self,
        corpus: Corpus,
        features: FrameSource,
        encoder: EncoderReference,
        settings: CrossvalSettings,
        folder: Path,
    ) -> None:
        """Prepare, or take up what an earlier process left in the folder.

        Raises:
            SettingsError: the folder holds a run with another corpus, encoder or settings.
            FoldError: the corpus cannot be split so.
        """
        self.corpus, self.features, self.encoder, self.settings = corpus, features, encoder, settings
        self.folder, self.states = Path(folder), Path(folder) / "state"
        self.labels = tuple(corpus.emotions)
        self.targets = np.array([self.labels.index(utterance.emotion) for utterance in corpus.utterances])
        self.folds = settings.folds(corpus)
        self.identity = identity(corpus, encoder, settings)
        self._claim_folder()
        self.lockstep = Lockstep(
            features,
            self.targets,
            self.folds,
            len(self.labels),
            encoder.dim,
            settings.classifier,
            settings.training,
        )
        self.resumed = self.lockstep.restore(self.states)
        self.started = time.monotonic()

    def run(
        self, listener: Callable[[int, EpochReport], None] = lambda fold, report: None,
        should_stop: Callable[[], bool] = lambda: False, final: bool = True,
    ) -> dict[str, Any]:  # fmt: skip
        """Train all folds, test each once, write everything; returns the content of `result.json`.

        Args:
            listener: called after each epoch of each fold with the fold's number and the report.
            should_stop: asked after each epoch of each fold.
            final: also train the checkpoint for inference.

        Raises:
            Stopped: `should_stop` said so; the state is kept.
        """

        def after_fold(number: int, report: EpochReport) -> None:
            self.lockstep.save(self.states, number)
            self.write_progress("training")
            listener(number, report)
            if should_stop():
                self.write_progress("stopped")
                raise Stopped(f"Stopped in epoch {report.epoch}. Run the same command again to go on.")

        self.write_progress("training")
        while not self.lockstep.done:
            self.lockstep.run_epoch(after_fold)
        self.write_progress("testing")
        outcome = self._test()
        if final:
            self.write_progress("training the final model")
            self._train_final(outcome)
        result = self._write_result(outcome)
        self.write_progress("done")
        return result

    def run_once(
        self,
        listener: Callable[[int, EpochReport], None],
        should_stop: Callable[[], bool],
        final: bool = True,
    ) -> dict[str, Any]:
        """The content of `result.json`: that of an earlier process that came to the end, else by `run`."""
        progress, result = self.folder / "progress.json", self.folder / "result.json"
        if not result.exists() or json.loads(progress.read_text(encoding="utf-8"))["state"] != "done":
            return self.run(listener, should_stop, final)
        return dict(json.loads(result.read_text(encoding="utf-8")))

    def write_progress(self, state: str) -> None:
        """What a page needs to show the run as it stands."""
        content = {
            "state": state,
            "epoch": self.lockstep.epoch,
            "max_epochs": self.settings.training.max_epochs,
            "labels": self.labels,
            "corpus": self.corpus.name,
            "protocol": self.settings.protocol(len(self.folds)),
            "updated": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "folds": [self._fold_progress(training) for training in self.lockstep.trainings],
        }
        write_json(self.folder / "progress.json", content)

    @staticmethod
    def _fold_progress(training: Training) -> dict[str, Any]:
        return {
            "stopped": training.stopped,
            "best_epoch": training.best_epoch,
            "epochs": [report.to_dict() for report in training.epochs],
        }

    def _claim_folder(self) -> None:
        self.states.mkdir(parents=True, exist_ok=True)
        path = self.folder / "run.json"
        if path.exists():
            try:
                found = dict(json.loads(path.read_text(encoding="utf-8")))
            except (ValueError, TypeError, RecursionError) as error:
                raise SettingsError(
                    f"{path} is damaged ({error}). Choose another folder for this run, or delete that one."
                ) from error
            if found != self.identity:
                other = [key for key in self.identity if found.get(key) != self.identity[key]]
                raise SettingsError(
                    f"{self.folder} holds a run with other {', '.join(other)}. "
                    "Choose another folder for this run, or delete that one."
                )
        else:
            write_json(path, self.identity)

    def _test(self) -> Outcome:
        """Each fold's best model on its test speakers, once, with the temperature of its validation speakers."""
        n = len(self.targets)
        logits = np.zeros((n, len(self.labels)), dtype=np.float32)
        probabilities = np.zeros((n, len(self.labels)))
        fold_of = np.zeros(n, dtype=np.int64)
        validation_logits, validation_true, temperatures = [], [], []
        for number, (fold, training) in enumerate(zip(self.folds, self.lockstep.trainings, strict=True)):
            held_out = training.logits(fold.validation)
            validation_logits.append(held_out)
            validation_true.append(self.targets[list(fold.validation)])
            test = list(fold.test)
            logits[test] = training.logits(fold.test)
            temperatures.append(fit_temperature(held_out, validation_true[-1]))
            probabilities[test] = softmax(logits[test], temperatures[-1])
            fold_of[test] = number
        return Outcome(
            logits, probabilities, fold_of, np.concatenate(validation_logits), np.concatenate(validation_true),
            tuple(temperatures),
        )  # fmt: skip

    def _write_result(self, outcome: Outcome) -> dict[str, Any]:
        result = self._result(outcome)
        write_atomically(
            self.folder / "predictions.csv",
            predictions_table(self.corpus, outcome.probabilities, outcome.fold_of).encode(),
        )
        write_json(self.folder / "result.json", result)
        self.write_report(result)
        return result

    def write_report(self, result: dict[str, Any]) -> None:
        """Draw `report.html` from the result and the predictions as they were written."""
        from ser.reporting.crossval_report import read_predictions, write_report

        write_report(result, read_predictions(self.folder / "predictions.csv"), self.folder / "report.html")

    def _result(self, outcome: Outcome) -> dict[str, Any]:
        speakers = [utterance.speaker for utterance in self.corpus.utterances]
        predicted = outcome.probabilities.argmax(axis=1)
        genders = [utterance.gender or "unknown" for utterance in self.corpus.utterances]
        folds = [self._fold_result(number, outcome, speakers) for number in range(len(self.folds))]
        by_gender = scores_by(genders, self.targets, outcome.probabilities, speakers, self.labels)
        by_speaker = scores_by(
            speakers, self.targets, outcome.probabilities, speakers, self.labels, n_bootstrap=0
        )
        return {
            "kind": "crossval",
            "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "protocol": self.settings.protocol(len(self.folds)),
            **self.identity,
            "labels": list(self.labels),
            "left_out": [
                {"file": self.corpus.file_of(one.path), "reason": one.reason} for one in self.corpus.skipped
            ],
            "seed": self.settings.seed,
            "versions": library_versions(),
            "folds": folds,
            "pooled": score(self.targets, outcome.probabilities, speakers, self.labels).to_dict(),
            "mean_over_folds": _mean_scores([fold["test_scores"] for fold in folds]),
            "by_gender": {key: value.to_dict() for key, value in by_gender.items()},
            "by_speaker": {
                key: value.to_dict() | {"gender": genders[speakers.index(key)]}
                for key, value in by_speaker.items()
            },
            "pooled_confusion": confusion(self.targets, predicted, len(self.labels)).tolist(),
            "majority_share": float(np.bincount(self.targets).max() / len(self.targets)),
        }

    def _fold_result(self, number: int, outcome: Outcome, speakers: Sequence[str]) -> dict[str, Any]:
        fold, training = self.folds[number], self.lockstep.trainings[number]
        test = list(fold.test)
        probabilities = outcome.probabilities[test]
        scores = score(self.targets[test], probabilities, [speakers[i] for i in test], self.labels)
        return {
            **{
                part: [self.corpus.file_of(self.corpus.utterances[i].path) for i in getattr(fold, part)]
                for part in ("train", "validation", "test")
            },
            "best_epoch": training.best_epoch,
            "epochs": [report.to_dict() for report in training.epochs],
            "test_confusion": confusion(
                self.targets[test], probabilities.argmax(axis=1), len(self.labels)
            ).tolist(),
            "test_scores": scores.to_dict(),
        }

    def _train_final(self, outcome: Outcome) -> None:
        epochs = max(1, round(statistics.median(self.lockstep.best_epochs())))
        speakers = [utterance.speaker for utterance in self.corpus.utterances]
        if self.settings.ensemble:
            model, calibration, probabilities = self._ensemble(outcome)
        else:
            model = train_on_all(
                self.features, self.targets, len(self.labels), self.encoder.dim, self.settings, epochs
            )
            calibration = calibrate(outcome.validation_logits, outcome.validation_true)
            probabilities = softmax(outcome.logits, calibration.temperature)
        calibration = measured(calibration, probabilities, self.targets)
        scores = score(self.targets, probabilities, speakers, self.labels).to_dict()
        checkpoint = Checkpoint(
            labels=self.labels,
            encoder=self.encoder,
            classifier=self.settings.classifier,
            max_frames=self.settings.training.max_frames,
            calibration=calibration,
            training=asdict(self.settings.training) | {"epochs": epochs, "utterances": len(self.targets)},
            scores={
                "conditions": f"{self.settings.protocol(len(self.folds))}; "
                + (OF_ENSEMBLE if self.settings.ensemble else OF_ONE_MODEL),
                "intervals": "95 %, bootstrap over speakers",
                **scores,
            },
            data=self.identity["corpus"],
            seed=self.settings.training.seed,
            versions=library_versions(),
            members=len(self.folds) if self.settings.ensemble else 1,
        )
        save_checkpoint(self.folder / "checkpoint", checkpoint, model)

    def _ensemble(self, outcome: Outcome) -> tuple[Any, Calibration, NDArray[np.float64]]:
        """The fold models as one, the threshold from each model's validation speakers, and its test answers.

        No speaker is new to all members, so the average itself cannot be calibrated here: the threshold is a single
        member's, and an average is rarely surer than its members.
        """
        members = [training.best_model() for training in self.lockstep.trainings]
        ends = np.cumsum([len(fold.validation) for fold in self.folds])[:-1]
        parts = zip(np.split(outcome.validation_logits, ends), outcome.temperatures, strict=True)
        held_out = np.concatenate([softmax(logits, temperature) for logits, temperature in parts])
        calibration = Calibration(1.0, choose_threshold(held_out, outcome.validation_true))
        return Ensemble.of(members, outcome.temperatures), calibration, outcome.probabilities


@dataclass(frozen=True)
class Outcome:
    """What the fold models say of the speakers they were not trained on.

    Attributes:
        logits, probabilities: `(utterances, labels)` of every utterance by the fold that tests it.
        fold_of: `(utterances,)` which fold that is.
        validation_logits, validation_true: of all folds' validation utterances, one after the other.
        temperatures: of each fold's model, fitted on its validation utterances.
    """

    logits: NDArray[np.float32]
    probabilities: NDArray[np.float64]
    fold_of: NDArray[np.int64]
    validation_logits: NDArray[np.float32]
    validation_true: NDArray[np.int64]
    temperatures: tuple[float, ...]


def train_on_all(
    features: FrameSource,
    targets: NDArray[np.int64],
    n_labels: int,
    dim: int,
    settings: CrossvalSettings,
    epochs: int,
) -> Any:
    """A classifier trained on every utterance for a fixed number of epochs."""
    schedule = replace(settings.training, max_epochs=epochs, patience=0)
    training = Training(
        features, targets, n_labels, dim, range(len(targets)), [], settings.classifier, schedule, name=999
    )
    while not training.stopped:
        training.run_epoch()
    return training.best_model()


def identity(corpus: Corpus, encoder: EncoderReference, settings: CrossvalSettings) -> dict[str, Any]:
    """What makes two runs the same: settings, corpus and encoder, as plain JSON values."""
    emotions = [utterance.emotion for utterance in corpus.utterances]
    content = {
        "settings": told(settings),
        "corpus": {
            "name": corpus.name,
            "fingerprint": corpus.fingerprint,
            "n_utterances": len(emotions),
            "n_speakers": len(corpus.speakers),
            "emotions": {emotion: emotions.count(emotion) for emotion in corpus.emotions},
        },
        "encoder": asdict(encoder),
    }
    plain: dict[str, Any] = json.loads(json.dumps(content))
    return plain


def predictions_table(corpus: Corpus, probabilities: NDArray[np.float64], fold_of: NDArray[np.int64]) -> str:
    """`predictions.csv` of answers `(utterances, labels)` and the fold that tested each."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    labels = tuple(corpus.emotions)
    writer.writerow(["file", "speaker", "fold", "emotion", "predicted", *labels])
    for utterance, row, fold in zip(corpus.utterances, probabilities, fold_of, strict=True):
        writer.writerow(
            [corpus.file_of(utterance.path), utterance.speaker, int(fold) + 1, utterance.emotion,
             labels[int(row.argmax())], *(f"{value:.6f}" for value in row)]
        )  # fmt: skip
    return text.getvalue()


def _mean_scores(scores: Sequence[dict[str, Any]]) -> dict[str, float]:
    return {
        name: float(
            np.nanmean([np.nan if one[name]["value"] is None else one[name]["value"] for one in scores])
        )
        for name in ("wa", "uar", "macro_f1")
    }
