"""Settings of a training and of a cross-validation, and what makes two runs the same. Importing them loads no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal

from ser.classifier.settings import ClassifierSettings
from ser.corpora.corpus import Corpus
from ser.corpora.folds import Fold, split_corpus
from ser.corpora.folds_file import read_folds
from ser.errors import SettingsError

MAX_SEED = 1 << 32  # what every generator of random numbers here takes
PROTOCOLS = {
    "speakers": "speaker-disjoint, label-stratified {n}-fold cross-validation; "
    "model choice on validation speakers only",
    "loso": "leave-one-speaker-out over {n} speakers; model choice on other validation speakers only",
    "corpora": "leave-one-corpus-out over {n} corpora: the test corpus is not in training at all",
    "file": "{n} speaker-disjoint folds of a file; model choice on validation speakers only",
    "random": "RANDOM {n}-fold split that ignores speakers: test speakers are also in training, "
    "the scores are inflated",
}


@dataclass(frozen=True)
class TrainingSettings:
    """How a classifier is trained; the defaults are the best configuration of the paper (section 4.2).

    Attributes:
        learning_rate: of the optimizer.
        l2: coefficient of the sum of squares of the GRU input kernels, added to the loss (Keras' meaning).
        optimizer: "sgd", "adam" or "rmsprop", with Keras' defaults for everything else.
        momentum: of SGD.
        batch_size: utterances a step.
        max_epochs: largest number of epochs.
        patience: epochs without a better validation loss before training stops; 0 never stops early.
        monitor: "loss_with_penalty" watches what Keras would, the cross entropy plus the L2 penalty; "loss" the
            cross entropy alone; "none" trains to the last epoch and keeps that one, which is steadier where few
            speakers validate.
        max_frames: utterances are cut to this many frames; 300 are 6 s.
        class_weights: weight each utterance by the inverse share of its emotion.
        balance: weight each utterance by its corpus, 1 / sqrt(n_corpus), or by corpus and speaker, 1 / sqrt(n_corpus *
            n_speaker), where n counts the training utterances of that corpus or speaker; the mean weight is 1. With
            "speakers" a corpus thus weighs as the square root of its number of (equally talkative) speakers.
        label_smoothing: share of the target spread evenly over the emotions.
        frame_masking: zero a random span of frames and of dimensions of each training utterance.
        weight_average: decay a step of a running average of the weights, which validates and answers in their place;
            0 takes the last weights (the paper).
        augmented_copies: also train on that many copies of each training utterance, at another speed and with noise.
            They are made before the encoder; an epoch has that many times more steps.
        seed: of weights, order, dropout and masking.
    """

    learning_rate: float = 0.003
    l2: float = 0.016
    optimizer: Literal["sgd", "adam", "rmsprop"] = "sgd"
    momentum: float = 0.0
    batch_size: int = 16
    max_epochs: int = 150
    patience: int = 3
    monitor: Literal["loss_with_penalty", "loss", "none"] = "loss_with_penalty"
    max_frames: int = 300
    class_weights: bool = False
    balance: Literal["none", "corpora", "speakers"] = field(default="none", metadata={"may_be_absent": True})
    label_smoothing: float = 0.0
    frame_masking: bool = False
    weight_average: float = field(default=0.0, metadata={"may_be_absent": True})
    augmented_copies: int = field(default=0, metadata={"may_be_absent": True})  # runs and studies are older
    seed: int = 40

    def __post_init__(self) -> None:
        for name in ("learning_rate", "batch_size", "max_epochs", "max_frames"):
            if not 0 < getattr(self, name) < math.inf:
                raise SettingsError(f"{name} must be positive, got {getattr(self, name)}.")
        for name in ("l2", "patience", "augmented_copies"):
            if not 0 <= getattr(self, name) < math.inf:
                raise SettingsError(f"{name} must not be negative, got {getattr(self, name)}.")
        for name in ("momentum", "label_smoothing", "weight_average"):
            if not 0 <= getattr(self, name) < 1:
                raise SettingsError(f"{name} must be at least 0 and below 1, got {getattr(self, name)}.")
        if not 0 <= self.seed < MAX_SEED:
            raise SettingsError(f"seed must be from 0 to {MAX_SEED - 1}, got {self.seed}.")
        for name, words in {
            "optimizer": ("sgd", "adam", "rmsprop"),
            "monitor": ("loss_with_penalty", "loss", "none"),
            "balance": ("none", "corpora", "speakers"),
        }.items():
            if getattr(self, name) not in words:
                raise SettingsError(f"{name} must be one of {', '.join(words)}, got {getattr(self, name)!r}.")


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
        folds_file: a file that lists the folds, see `ser.corpora.folds_file`, in place of a split.
        ensemble: the checkpoint for inference averages the fold models' probabilities, in place of one model trained
            on all speakers. An answer costs as many classifiers as there are folds; the encoder runs once.
    """

    classifier: ClassifierSettings = ClassifierSettings()
    training: TrainingSettings = TrainingSettings()
    split: Literal["speakers", "loso", "corpora", "random"] = "speakers"
    n_folds: int = 5
    validation_share: float = 0.10
    seed: int = 40
    ensemble: bool = field(default=False, metadata={"may_be_absent": True})  # runs are older
    folds_file: str = field(default="", metadata={"may_be_absent": True})

    def __post_init__(self) -> None:
        splits = [split for split in PROTOCOLS if split != "file"]
        if self.split not in splits:
            raise SettingsError(f"split must be one of {', '.join(splits)}, got {self.split!r}.")
        if self.n_folds < 2 or not 0 < self.validation_share < 0.5:
            raise SettingsError(
                f"n_folds must be at least 2 and validation_share between 0 and 0.5, "
                f"got {self.n_folds} and {self.validation_share}."
            )

    def folds(self, corpus: Corpus, outer: Fold | None = None) -> tuple[Fold, ...]:
        """Folds of a corpus under these settings, or of its utterances outside the test part of an outer fold.

        Raises:
            FoldError: the corpus cannot be split so.
        """
        if self.folds_file and outer is None:
            return read_folds(self.folds_file, corpus)
        known = range(len(corpus.utterances)) if outer is None else sorted((*outer.train, *outer.validation))
        part = replace(corpus, utterances=tuple(corpus.utterances[index] for index in known))
        folds = split_corpus(part, self.split, self.n_folds, self.validation_share, self.seed)
        return tuple(
            Fold(*(tuple(known[i] for i in members) for members in (fold.train, fold.validation, fold.test)))
            for fold in folds
        )

    def protocol(self, n_folds: int) -> str:
        """Sentence that says how the speakers were split."""
        return PROTOCOLS["file" if self.folds_file else self.split].format(n=n_folds)


def settings_from(content: Mapping[str, Any]) -> tuple[ClassifierSettings, TrainingSettings]:
    """Both settings from one flat mapping, such as the parameters of a trial.

    Raises:
        SettingsError: an unknown name, or a value that makes no sense.
    """
    kinds = (ClassifierSettings, TrainingSettings)
    names = [{entry.name for entry in fields(kind)} for kind in kinds]
    if unknown := content.keys() - names[0] - names[1]:
        raise SettingsError(f"Unknown settings {sorted(unknown)}; known are {sorted(names[0] | names[1])}.")
    return (
        ClassifierSettings(**{name: content[name] for name in names[0] & content.keys()}),
        TrainingSettings(**{name: content[name] for name in names[1] & content.keys()}),
    )


def settings_to_dict(settings: Any) -> dict[str, Any]:
    """Settings as a dictionary, for the identity of a run.

    An option that was added later (`may_be_absent`) is left out while it has its default, so that runs which are older
    than the option can be resumed.
    """
    content = {}
    for entry in fields(settings):
        value = getattr(settings, entry.name)
        if not (entry.metadata.get("may_be_absent") and value == entry.default):
            content[entry.name] = settings_to_dict(value) if is_dataclass(value) else value
    return content
