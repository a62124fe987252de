"""What a cross-validation leaves in its run folder.

`run.json` says which run the folder holds; `progress.json` is rewritten after every epoch of a fold; `result.json`
holds settings, scores with intervals, the members of the folds, versions, seed and fingerprints; `predictions.csv` the
test utterances alone.
"""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ser.classifier.checkpoint import EncoderReference
from ser.corpora.corpus import Corpus
from ser.corpora.folds import Fold
from ser.files import claim_folder, write_atomically, write_json
from ser.runtime import chosen_device, library_versions
from ser.scoring.calibration import fit_temperature, softmax
from ser.scoring.metrics import confusion, score, scores_by
from ser.training.frames import LabelledFrames
from ser.training.lockstep import Lockstep
from ser.training.settings import CrossvalSettings, settings_to_dict
from ser.training.trainer import Training


@dataclass(frozen=True)
class Tested:
    """Predictions of the fold models for the speakers that they were not trained on.

    Attributes:
        logits, probabilities: `(utterances, labels)` of every utterance by the model of the fold that tests it.
        fold_of: `(utterances,)` number of that fold.
        temperatures: of each fold's model, fitted on its validation utterances.
    """

    logits: NDArray[np.float32]
    probabilities: NDArray[np.float64]
    fold_of: NDArray[np.int64]
    temperatures: tuple[float, ...]

    @classmethod
    def of(cls, data: LabelledFrames, folds: Sequence[Fold], trainings: Sequence[Training]) -> Tested:
        """Test each fold's best model on its test speakers, with the temperature of its validation speakers."""
        shape = len(data.targets), data.n_labels
        logits, probabilities = np.zeros(shape, dtype=np.float32), np.zeros(shape)
        fold_of, temperatures = np.zeros(shape[0], dtype=np.int64), []
        for number, (fold, training) in enumerate(zip(folds, trainings, strict=True)):
            test, validation = list(fold.test), list(fold.validation)
            temperatures.append(fit_temperature(training.logits(validation), data.targets[validation]))
            logits[test] = training.logits(test)
            probabilities[test] = softmax(logits[test], temperatures[-1])
            fold_of[test] = number
        return cls(logits, probabilities, fold_of, tuple(temperatures))


@dataclass
class RunFolder:
    """The folder of one cross-validation, claimed when this is made.

    Raises:
        SettingsError: it holds a run with another corpus, encoder or settings.
    """

    path: Path
    corpus: Corpus
    encoder: EncoderReference
    settings: CrossvalSettings
    folds: Sequence[Fold]

    def __post_init__(self) -> None:
        self.identity = identity(self.corpus, self.encoder, self.settings)
        claim_folder(self.path, self.identity)
        self.states.mkdir(exist_ok=True)

    @property
    def states(self) -> Path:
        """The folder of what a later process resumes from."""
        return self.path / "state"

    @property
    def protocol(self) -> str:
        return self.settings.protocol(len(self.folds))

    def versions(self) -> dict[str, str]:
        """What the numbers of a run depend on beside its identity."""
        computed = {"threads": str(torch.get_num_threads()), "device": str(chosen_device())}
        engine = {"engine": self.encoder.engine} if self.encoder.engine else {}
        return library_versions() | engine | computed

    def write_progress(self, state: str, lockstep: Lockstep) -> None:
        """What a page needs to show the run as it stands."""
        content = {
            "state": state,
            "epoch": lockstep.epoch,
            "max_epochs": self.settings.training.max_epochs,
            "labels": list(self.corpus.emotions),
            "corpus": self.corpus.name,
            "protocol": self.protocol,
            "updated": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "folds": [
                {
                    "stopped": training.stopped,
                    "best_epoch": training.best_epoch,
                    "epochs": [report.to_dict() for report in training.epochs],
                }
                for training in lockstep.trainings
            ],
        }
        write_json(self.path / "progress.json", content)

    def write_result(self, tested: Tested, lockstep: Lockstep) -> dict[str, Any]:
        """Write `predictions.csv` and `result.json`; returns the content of the latter."""
        result = self._result(tested, lockstep)
        table = predictions_table(self.corpus, tested.probabilities, tested.fold_of)
        write_atomically(self.path / "predictions.csv", table.encode())
        write_json(self.path / "result.json", result)
        return result

    def _result(self, tested: Tested, lockstep: Lockstep) -> dict[str, Any]:
        corpus, labels, targets = self.corpus, self.corpus.emotions, self.corpus.targets
        speakers = [utterance.speaker for utterance in corpus.utterances]
        genders = [utterance.gender or "unknown" for utterance in corpus.utterances]
        predictions = targets, tested.probabilities, speakers, labels
        parts = zip(self.folds, lockstep.trainings, strict=True)
        folds = [self._fold_result(fold, training, tested) for fold, training in parts]
        by_speaker = scores_by(speakers, *predictions, n_bootstrap=0)
        return {
            "kind": "crossval",
            "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "protocol": self.protocol,
            **self.identity,
            "labels": list(labels),
            "left_out": [{"file": corpus.file_of(one.path), "reason": one.reason} for one in corpus.skipped],
            "seed": self.settings.seed,
            "versions": self.versions(),
            "folds": folds,
            "pooled": score(*predictions).to_dict(),
            "mean_over_folds": _mean_scores([fold["test_scores"] for fold in folds]),
            "by_gender": {key: value.to_dict() for key, value in scores_by(genders, *predictions).items()},
            "by_speaker": {
                key: value.to_dict() | {"gender": genders[speakers.index(key)]} for key, value in by_speaker.items()
            },
            "pooled_confusion": confusion(targets, tested.probabilities.argmax(axis=1), len(labels)).tolist(),
            "majority_share": float(np.bincount(targets).max() / len(targets)),
        }

    def _fold_result(self, fold: Fold, training: Training, tested: Tested) -> dict[str, Any]:
        test, labels = list(fold.test), self.corpus.emotions
        true, probabilities = self.corpus.targets[test], tested.probabilities[test]
        speakers = [self.corpus.utterances[index].speaker for index in test]
        return {
            **{
                part: [self.corpus.file_of(self.corpus.utterances[i].path) for i in getattr(fold, part)]
                for part in ("train", "validation", "test")
            },
            "best_epoch": training.best_epoch,
            "epochs": [report.to_dict() for report in training.epochs],
            "test_confusion": confusion(true, probabilities.argmax(axis=1), len(labels)).tolist(),
            "test_scores": score(true, probabilities, speakers, labels).to_dict(),
        }


def identity(corpus: Corpus, encoder: EncoderReference, settings: CrossvalSettings) -> dict[str, Any]:
    """What makes two runs the same: settings, corpus and encoder, as plain JSON values."""
    emotions = [utterance.emotion for utterance in corpus.utterances]
    content = {
        "settings": settings_to_dict(settings),
        "corpus": {
            "name": corpus.name,
            "fingerprint": corpus.fingerprint,
            "n_utterances": len(emotions),
            "n_speakers": len(corpus.speakers),
            "emotions": {emotion: emotions.count(emotion) for emotion in corpus.emotions},
        },
        "encoder": {key: value for key, value in asdict(encoder).items() if key != "engine"},
    }
    plain: dict[str, Any] = json.loads(json.dumps(content))
    return plain


def predictions_table(corpus: Corpus, probabilities: NDArray[np.float64], fold_of: NDArray[np.int64]) -> str:
    """Text of `predictions.csv` from probabilities `(utterances, labels)` and the fold that tested each."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    labels = corpus.emotions
    writer.writerow(["file", "speaker", "fold", "emotion", "predicted", *labels])
    for utterance, row, fold in zip(corpus.utterances, probabilities, fold_of, strict=True):
        known = [corpus.file_of(utterance.path), utterance.speaker, int(fold) + 1, utterance.emotion]
        writer.writerow([*known, labels[int(row.argmax())], *(f"{value:.6f}" for value in row)])
    return text.getvalue()


def _mean_scores(scores: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Mean over folds of each score, folds where it is undefined left out."""
    values = {name: [one[name]["value"] for one in scores] for name in ("wa", "uar", "macro_f1")}
    return {name: float(np.mean([v for v in found if v is not None])) for name, found in values.items()}
