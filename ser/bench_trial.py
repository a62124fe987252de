"""One whole trial of a search beside the plain way: five folds with early stopping, from kept features to the score.

In: a corpus. Out: a row for `ser bench`, with the epochs and the validation accuracy of both ways, seed by seed: they
begin with the same weights and see the utterances in the same order, but draw their dropout differently, so that the
scores agree within noise only.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace

import numpy as np

from ser import plain
from ser.bench import Row, take_turns
from ser.classifier import ClassifierSettings
from ser.corpora import Corpus
from ser.encoder import SHIPPED as SHIPPED_ENCODER
from ser.encoder import Encoder
from ser.features import usable_features
from ser.folds import make_folds
from ser.lockstep import Lockstep
from ser.training import FrameSource, TrainingSettings

# The paper's best shape. Its SGD, watched with the penalty, trains for 150 epochs: hours of the plain way.
CLASSIFIER = ClassifierSettings()
SETTINGS = TrainingSettings(optimizer="adam", monitor="loss")
SEED = 40


def shipped_trial(corpus: Corpus, utterances: int, turns: int) -> Row:
    """Measure on the frames of the encoder that ships.

    Args:
        corpus: what is trained on.
        utterances: so many of it, drawn at random; 0 takes all.
        turns: each with a seed of its own.

    Raises:
        FoldError: what was drawn cannot be split by speakers.
    """
    with tempfile.TemporaryDirectory() as cache:
        drawn, features, _ = usable_features(_drawn(corpus, utterances), Encoder.load(SHIPPED_ENCODER), cache)
        return trial_row(drawn, features, features.dim, turns)


def trial_row(
    corpus: Corpus, features: FrameSource, dim: int, turns: int, classifier: ClassifierSettings = CLASSIFIER,
    settings: TrainingSettings = SETTINGS,
) -> Row:  # fmt: skip
    """The same for any features, `dim` numbers a frame."""
    labels = corpus.emotions
    emotions = [one.emotion for one in corpus.utterances]
    targets = np.array([labels.index(emotion) for emotion in emotions])
    folds = make_folds([one.speaker for one in corpus.utterances], emotions)
    shape = (features, targets, folds, len(labels), dim, classifier)
    seeded = [replace(settings, seed=settings.seed + turn) for turn in range(turns)]
    plain_turns, our_turns = iter(seeded), iter(seeded)
    plain_trials, our_trials = [], []

    def plain_trial() -> None:
        plain_trials.append(plain.plain_trial(*shape, next(plain_turns)))

    def our_trial() -> None:
        lockstep = Lockstep(*shape, next(our_turns))
        while not lockstep.done:
            lockstep.run_epoch()
        our_trials.append(lockstep)

    pairs = take_turns(plain_trial, our_trial, turns, warm=False)
    outcomes = [
        {
            "seed": one.seed,
            "plain_epochs": [end.epochs for end in ends],
            "plain_validation_wa": float(np.mean([end.validation_wa for end in ends])),
            "ours_epochs": [len(training.epochs) for training in lockstep.trainings],
            "ours_validation_wa": lockstep.best_validation_accuracy(),
        }
        for one, ends, lockstep in zip(seeded, plain_trials, our_trials, strict=True)
    ]
    work = f"a whole trial with early stopping, {len(corpus.utterances)} utterances of {corpus.name}"
    way = f"`nn.GRU` padded to {settings.max_frames} frames, fold after fold"
    return Row("trial", work, way, "5", None, pairs, tuple(outcomes))


def _drawn(corpus: Corpus, n: int) -> Corpus:
    if not 0 < n < len(corpus.utterances):
        return corpus
    chosen = np.random.default_rng(SEED).permutation(len(corpus.utterances))[:n]
    return replace(corpus, utterances=tuple(corpus.utterances[index] for index in sorted(chosen.tolist())))
