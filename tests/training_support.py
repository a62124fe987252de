"""What the tests of trainings and of the search share: a corpus whose frames tell the emotion, small settings."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from support import write_voice

from ser.classifier.bigru import ClassifierSettings
from ser.classifier.checkpoint import EncoderReference
from ser.corpora.corpus import Corpus, Utterance
from ser.training.crossval import Crossval, CrossvalSettings
from ser.training.trainer import TrainingSettings
from ser.tuning.search import Search
from ser.tuning.space import Space, TuningSettings

EMOTIONS = ("anger", "neutral", "sadness")
DIM = 4
ENCODER = EncoderReference("shipped", 2, "0123456789abcdef", DIM)
BASE = CrossvalSettings(
    ClassifierSettings(base_units=4, final_units=4, gru_layers=1, dropout=0.1),
    TrainingSettings(l2=0.0005, optimizer="adam", max_epochs=3, patience=0, batch_size=32),
    n_folds=3,
    validation_share=0.2,
)
SETTINGS = replace(BASE, training=replace(BASE.training, learning_rate=0.02, max_epochs=4, patience=2, batch_size=16))
SMALL_SPACE: Space = {
    "base_units": IntDistribution(2, 6, step=2),
    "learning_rate": FloatDistribution(0.001, 0.05, step=0.001),
    "optimizer": CategoricalDistribution(("adam", "sgd")),
}


class Toy:
    """A corpus of 12 speakers and frames whose mean tells the emotion; gathering is recorded."""

    def __init__(self, root: Path, n: int = 120, lengths: tuple[int, int] = (4, 12), apart: float = 1.5) -> None:
        rng = np.random.default_rng(0)
        utterances, self.frames = [], []
        self.gathered: list[int] = []
        for number in range(n):
            speaker, emotion = f"S{number % 12:02d}", EMOTIONS[(number // 12) % 3]
            gender = "female" if number % 2 else "male"
            utterances.append(Utterance(root / f"{speaker}_{number}.wav", speaker, emotion, gender, "toy"))
            centre = apart * np.eye(3, DIM)[EMOTIONS.index(emotion)]
            self.frames.append((rng.standard_normal((rng.integers(*lengths), DIM)) + centre).astype(np.float32))
        self.corpus = Corpus("toy", root, tuple(utterances))

    def gather(self, indices, max_frames):
        self.gathered += list(indices)
        cut = [self.frames[i][:max_frames] for i in indices]
        return np.concatenate(cut), np.array([len(frames) for frames in cut])


def crossval(toy: Toy, folder: Path, settings: CrossvalSettings = SETTINGS) -> Crossval:
    """A cross-validation of seconds."""
    return Crossval(toy.corpus, toy, ENCODER, settings, folder)


def small_search(
    toy: Toy, trials: int = 3, base: CrossvalSettings = BASE, space: Space = SMALL_SPACE, **more: object
) -> Search:
    """A search of seconds."""
    return Search(toy.corpus, toy, ENCODER, base, TuningSettings(trials, **more), space)  # type: ignore[arg-type]


def write_tiny_corpus(folder: Path) -> Path:
    """72 recordings of 0.4 s by 12 speakers with three emotions, and the table that lists them."""
    folder.mkdir(parents=True)
    rows = ["path,speaker,emotion"]
    for number in range(72):
        write_voice(folder / f"{number}.wav", 0.4, seed=number)
        rows.append(f"{number}.wav,S{number % 12:02d},{EMOTIONS[(number // 12) % 3]}")
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def tune_command(corpus: Path, encoder: Path, home: Path, study: str, *more: object) -> list[str]:
    """`python -m ser tune` with settings of seconds."""
    words = [
        "tune", "--corpus", corpus, "--encoder", encoder, "--cache", home / "cache", "--out", home / "runs",
        "--study", study, "--max-epochs", 3, "--folds", 3, "--validation-share", 0.2, *more,
    ]  # fmt: skip
    return [sys.executable, "-m", "ser", *map(str, words)]
