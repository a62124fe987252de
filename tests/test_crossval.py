"""Cross-validation keeps test speakers apart, writes what it promises, and can be killed at any time."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, recall_score

from ser.classifier.bigru import ClassifierSettings
from ser.classifier.checkpoint import EncoderReference, load_checkpoint
from ser.corpora.corpus import Corpus, Utterance
from ser.errors import SettingsError
from ser.training.crossval import Crossval, CrossvalSettings, Stopped
from ser.training.lockstep import Lockstep
from ser.training.trainer import TrainingSettings

EMOTIONS = ("anger", "neutral", "sadness")
DIM = 4
ENCODER = EncoderReference("shipped", 2, "0123456789abcdef", DIM)
SETTINGS = CrossvalSettings(
    ClassifierSettings(base_units=4, final_units=4, gru_layers=1, dropout=0.1),
    TrainingSettings(
        learning_rate=0.02, l2=0.0005, optimizer="adam", max_epochs=4, patience=2, batch_size=16
    ),
    n_folds=3,
    validation_share=0.2,
)


class Toy:
    """A corpus of 12 speakers and frames whose mean tells the emotion; gathering is recorded."""

    def __init__(self, root: Path) -> None:
        rng = np.random.default_rng(0)
        utterances, self.frames = [], []
        for number in range(120):
            speaker, emotion = f"S{number % 12:02d}", EMOTIONS[(number // 12) % 3]
            gender = "female" if number % 2 else "male"
            utterances.append(Utterance(root / f"{speaker}_{number}.wav", speaker, emotion, gender, "toy"))
            centre = 1.5 * np.eye(3, DIM)[EMOTIONS.index(emotion)]
            self.frames.append((rng.standard_normal((rng.integers(4, 12), DIM)) + centre).astype(np.float32))
        self.corpus = Corpus("toy", root, tuple(utterances))
        self.gathered: list[int] = []

    def gather(self, indices, max_frames):
        self.gathered += list(indices)
        cut = [self.frames[i][:max_frames] for i in indices]
        return np.concatenate(cut), np.array([len(frames) for frames in cut])


@pytest.fixture
def toy(tmp_path) -> Toy:
    return Toy(tmp_path / "corpus")


def crossval(toy: Toy, folder: Path, settings: CrossvalSettings = SETTINGS) -> Crossval:
    return Crossval(toy.corpus, toy, ENCODER, settings, folder)


def comparable(result: dict) -> dict:
    return {key: value for key, value in result.items() if key != "created"}


def test_the_result_follows_from_the_written_predictions(toy, tmp_path):
    result = crossval(toy, tmp_path / "run").run()
    rows = list(csv.DictReader((tmp_path / "run" / "predictions.csv").open()))
    true, predicted = [row["emotion"] for row in rows], [row["predicted"] for row in rows]
    assert len(rows) == 120
    assert result["pooled"]["wa"]["value"] == pytest.approx(accuracy_score(true, predicted))
    assert result["pooled"]["uar"]["value"] == pytest.approx(recall_score(true, predicted, average="macro"))
    assert result["pooled"]["macro_f1"]["value"] == pytest.approx(f1_score(true, predicted, average="macro"))
    for row in rows:
        probabilities = {emotion: float(row[emotion]) for emotion in EMOTIONS}
        assert max(probabilities, key=probabilities.get) == row["predicted"]
        assert sum(probabilities.values()) == pytest.approx(1, abs=1e-5)


def test_parts_of_a_fold_share_no_speaker_and_every_utterance_is_tested_once(toy, tmp_path):
    result = crossval(toy, tmp_path / "run").run(final=False)
    tested = [file for fold in result["folds"] for file in fold["test"]]
    assert sorted(tested) == sorted(utterance.path.name for utterance in toy.corpus.utterances)
    for fold in result["folds"]:
        speakers = [{file[:3] for file in fold[part]} for part in ("train", "validation", "test")]
        assert not speakers[0] & speakers[1]
        assert not speakers[0] & speakers[2]
        assert not speakers[1] & speakers[2]


def test_a_test_speaker_is_not_looked_at_while_training(toy, tmp_path):
    one = crossval(toy, tmp_path / "run")
    lockstep = Lockstep(
        toy, one.targets, one.folds[:1], 3, DIM, SETTINGS.classifier, SETTINGS.training
    )  # fmt: skip
    toy.gathered.clear()
    while not lockstep.done:
        lockstep.run_epoch()
    assert not set(toy.gathered) & set(one.folds[0].test)


@pytest.mark.parametrize("stop_after", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 5, 7))])
def test_a_run_stopped_anywhere_ends_like_one_that_was_not(toy, tmp_path, stop_after):
    whole = crossval(toy, tmp_path / "whole").run()
    calls = []

    def should_stop() -> bool:
        calls.append(1)
        return len(calls) >= stop_after

    with pytest.raises(Stopped, match="same command"):
        crossval(toy, tmp_path / "cut").run(should_stop=should_stop)
    assert json.loads((tmp_path / "cut" / "progress.json").read_text())["state"] == "stopped"
    taken_up = crossval(toy, tmp_path / "cut")
    assert taken_up.resumed
    assert comparable(taken_up.run()) == comparable(whole)
    for name in ("predictions.csv", "checkpoint/model.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_folder_of_another_run_is_refused_and_left_alone(toy, tmp_path):
    crossval(toy, tmp_path / "run").run(final=False)
    before = (tmp_path / "run" / "result.json").read_bytes()
    other = replace(SETTINGS, training=replace(SETTINGS.training, learning_rate=0.1))
    with pytest.raises(SettingsError, match="other settings"):
        crossval(toy, tmp_path / "run", other)
    assert (tmp_path / "run" / "result.json").read_bytes() == before


def test_the_checkpoint_answers_and_states_its_conditions(toy, tmp_path):
    crossval(toy, tmp_path / "run").run()
    checkpoint, model = load_checkpoint(tmp_path / "run" / "checkpoint")
    assert checkpoint.labels == EMOTIONS
    assert model.n_labels == 3
    assert "speaker-disjoint" in checkpoint.scores["conditions"]
    assert checkpoint.calibration.precision is not None
    assert checkpoint.data["fingerprint"] == toy.corpus.fingerprint


def test_progress_tells_each_fold_after_each_of_its_epochs(toy, tmp_path):
    seen = []

    def listener(number, report):
        progress = json.loads((tmp_path / "run" / "progress.json").read_text())
        assert progress["folds"][number]["epochs"][-1]["epoch"] == report.epoch
        assert np.array(report.validation_confusion).shape == (3, 3)
        seen.append((report.epoch, number))

    crossval(toy, tmp_path / "run").run(listener, final=False)
    assert seen == sorted(seen)  # in lockstep: an epoch of every fold, then the next
    assert json.loads((tmp_path / "run" / "progress.json").read_text())["state"] == "done"


def test_the_random_split_says_loudly_what_it_is(toy, tmp_path):
    result = crossval(toy, tmp_path / "run", replace(SETTINGS, split="random")).run(final=False)
    assert "ignores speakers" in result["protocol"]


def test_lockstep_reports_the_mean_over_folds_and_a_stopped_fold_its_best(toy, tmp_path):
    one = crossval(toy, tmp_path / "run")
    while not one.lockstep.done:
        one.lockstep.run_epoch()
    best = [training.epochs[training.best_epoch - 1].validation_wa for training in one.lockstep.trainings]
    assert one.lockstep.validation_accuracy() == pytest.approx(np.mean(best))
    assert one.lockstep.best_validation_accuracy() == pytest.approx(np.mean(best))


@pytest.mark.parametrize("wrong", [{"split": "both"}, {"n_folds": 1}, {"validation_share": 0.5}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        CrossvalSettings(**wrong)
