"""Baselines are measured on the same folds as the Bi-GRU, see no test speaker before the end, and are kept."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, recall_score
from test_crossval import DIM, ENCODER, SETTINGS, Toy
from tuning_support import write_tiny_corpus

from ser.cli import main
from ser.errors import SettingsError
from ser.experiments.baselines import (
    BaselineSettings,
    CepstralCNN,
    ConformerHead,
    ReducedLayers,
    Task,
    averages,
    cepstra,
    linear_svm,
    logistic_regression,
    logits,
    network,
)
from ser.experiments.comparison import (
    MODELS,
    PUBLISHED,
    CompareSettings,
    Encoded,
    compare,
    comparison_rows,
    runnable,
)
from ser.scoring.predictions import read_predictions
from ser.training.crossval import Stopped

N_LAYERS = 3
SMALL = BaselineSettings(width=8, learning_rate=0.01, max_epochs=6, patience=2)
COMPARED = CompareSettings(SETTINGS, SMALL)
ON_FRAMES = ("bigru", "mean_lr", "conformer", "drm")
NETWORKS = {
    "cnn": CepstralCNN, "conformer": ConformerHead, "drm": partial(ReducedLayers, n_layers=N_LAYERS),
}  # fmt: skip


class Layers:
    """The toy's frames as three layers, of which the second tells the emotion."""

    def __init__(self, toy: Toy) -> None:
        self.toy = toy

    def gather(self, indices, max_frames):
        frames, lengths = self.toy.gather(indices, max_frames)
        return np.stack([0 * frames, frames, frames**2], axis=1), lengths


@pytest.fixture
def toy(tmp_path) -> Toy:
    return Toy(tmp_path / "corpus")


def encoded(toy: Toy) -> list[Encoded]:
    return [Encoded(toy, lambda: Layers(toy), ENCODER)]


def targets_of(toy: Toy) -> np.ndarray:
    labels = tuple(toy.corpus.emotions)
    return np.array([labels.index(utterance.emotion) for utterance in toy.corpus.utterances])


def task_of(toy: Toy, name: str = "conformer", targets: np.ndarray | None = None) -> Task:
    source = Layers(toy) if name == "drm" else toy
    fold = SETTINGS.folds(toy.corpus)[0]
    return Task(source, targets_of(toy) if targets is None else targets, 3, fold, SMALL)


def fitted(name: str, task: Task) -> np.ndarray:
    """Answers of a model for the test part."""
    if name in NETWORKS:
        return network(NETWORKS[name], task, lambda epoch: None)
    vectors = averages(task.source, len(task.targets), 300)
    return {"lr": logistic_regression, "svm": linear_svm}[name](vectors, task)


@pytest.mark.parametrize("name", [*NETWORKS, "lr", "svm"])
def test_a_model_learns_and_no_choice_of_it_sees_the_emotions_of_test_speakers(toy, name):
    task = task_of(toy, name)
    answers = fitted(name, task)
    np.testing.assert_allclose(answers.sum(axis=1), 1)
    assert (answers.argmax(axis=1) == task.true(task.fold.test)).mean() > 0.6
    others = task.targets.copy()
    others[list(task.fold.test)] = (others[list(task.fold.test)] + 1) % 3
    np.testing.assert_array_equal(fitted(name, task_of(toy, name, others)), answers)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_an_answer_does_not_depend_on_what_else_is_asked(toy, name):
    task = task_of(toy, name)
    torch.manual_seed(0)
    model = NETWORKS[name](DIM, 3, SMALL)
    every = range(len(task.targets))
    together = logits(model, task, every)
    for index in (0, 1, 50):
        np.testing.assert_allclose(logits(model, task, [index])[0], together[index], atol=1e-5)


@pytest.mark.slow
def test_every_model_is_tested_on_the_same_folds_and_its_scores_follow_from_its_predictions(toy, tmp_path):
    content = compare(toy.corpus, encoded(toy), ON_FRAMES, COMPARED, tmp_path)
    assert [row["model"] for row in content["rows"]] == list(ON_FRAMES)
    fold_of = np.zeros(len(toy.corpus.utterances), dtype=int)
    for number, fold in enumerate(SETTINGS.folds(toy.corpus)):
        fold_of[list(fold.test)] = number + 1
    for row in content["rows"]:
        rows = read_predictions(tmp_path / row["run"] / "predictions.csv")
        assert [int(one["fold"]) for one in rows] == fold_of.tolist()
        true, predicted = [one["emotion"] for one in rows], [one["predicted"] for one in rows]
        assert row["wa"]["value"] == pytest.approx(accuracy_score(true, predicted))
        assert row["uar"]["value"] == pytest.approx(recall_score(true, predicted, average="macro"))
        assert row["macro_f1"]["value"] == pytest.approx(f1_score(true, predicted, average="macro"))
        assert row["wa"]["value"] > 0.6
    assert json.loads((tmp_path / "compare.json").read_text()) == content
    page = (tmp_path / "report.html").read_text()
    for one in (*comparison_rows(content), *PUBLISHED):
        assert one.name in page


@pytest.mark.slow
def test_what_is_finished_is_kept_and_a_comparison_goes_on_where_it_stopped(toy, tmp_path):
    names = ("mean_lr", "conformer", "drm")
    brief = replace(COMPARED, baseline=replace(SMALL, max_epochs=1))
    whole = compare(toy.corpus, encoded(toy), names, brief, tmp_path / "whole")
    heard: list[str] = []

    def note(run: str, fold: int, epoch: int) -> None:
        heard.append(run)

    with pytest.raises(Stopped):
        compare(toy.corpus, encoded(toy), names, brief, tmp_path / "cut", note,
                lambda: "conformer-shipped" in heard)  # fmt: skip
    heard.clear()
    again = compare(toy.corpus, encoded(toy), names, brief, tmp_path / "cut", note)
    assert set(heard) == {"conformer-shipped", "drm-shipped"}
    assert [row | {"seconds": 0} for row in again["rows"]] == [row | {"seconds": 0} for row in whole["rows"]]
    heard.clear()
    compare(toy.corpus, encoded(toy), names, brief, tmp_path / "cut", note)
    assert heard == []


def test_a_folder_of_another_comparison_is_refused(toy, tmp_path):
    compare(toy.corpus, encoded(toy), ["mean_lr"], COMPARED, tmp_path)
    with pytest.raises(SettingsError, match="other baseline"):
        compare(toy.corpus, encoded(toy), ["mean_lr"], replace(COMPARED, baseline=BaselineSettings(width=12)),
                tmp_path)  # fmt: skip
    with pytest.raises(SettingsError, match="other settings"):
        compare(toy.corpus, encoded(toy), ["mean_lr"], replace(COMPARED, crossval=replace(SETTINGS, seed=3)),
                tmp_path)  # fmt: skip


def test_a_folder_of_another_corpus_or_other_folds_is_refused_to_every_model(toy, tmp_path):
    compare(toy.corpus, encoded(toy), ["mean_lr"], COMPARED, tmp_path)
    before = (tmp_path / "compare.json").read_text()
    with pytest.raises(SettingsError, match="other settings"):
        compare(toy.corpus, encoded(toy), ["drm"], replace(COMPARED, crossval=replace(SETTINGS, n_folds=2)),
                tmp_path)  # fmt: skip
    with pytest.raises(SettingsError, match="other corpus"):
        compare(replace(toy.corpus, name="another"), encoded(toy), ["drm"], COMPARED, tmp_path)
    assert (tmp_path / "compare.json").read_text() == before


@pytest.mark.slow
def test_encoders_of_the_same_name_are_kept_apart_and_each_model_tells_its_seconds(toy, tmp_path):
    two = [replace(encoded(toy)[0], reference=replace(ENCODER, source=f"{run}/encoder", fingerprint=run))
           for run in ("first", "second")]  # fmt: skip
    for _ in range(2):
        rows = compare(toy.corpus, two, ["bigru", "mean_lr"], COMPARED, tmp_path)["rows"]
        assert {row["run"] for row in rows} == {
            f"{name}-encoder-{run}" for name in ("bigru", "mean_lr") for run in ("first", "second")
        }
        assert all(row["seconds"] >= 0 for row in rows)


def test_without_opensmile_its_models_are_left_out_with_the_reason(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    names, reasons = runnable(list(MODELS))
    assert names == [name for name in MODELS if not name.endswith("_svm")]
    assert len(reasons) == 2
    assert all("pip install opensmile" in reason for reason in reasons)


@pytest.mark.parametrize("wrong", [{"width": 6}, {"width": 0}, {"max_epochs": 0}, {"learning_rate": -1.0}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(SettingsError, match=str(next(iter(wrong.values())))):
        BaselineSettings(**wrong)


def test_cepstra_have_fifty_frames_a_second():
    assert cepstra(np.zeros(16_000, dtype=np.float32) + 0.01).shape == (51, 40)


def test_the_command_prints_measured_and_published_apart(tmp_path, tiny_encoder, capsys):
    corpus = write_tiny_corpus(tmp_path / "corpus")
    words = ["baselines", "--corpus", corpus, "--encoder", tiny_encoder, "--cache", tmp_path / "cache", "--folds", 3,
             "--validation-share", 0.2, "--baseline-max-epochs", 2, "--out", tmp_path / "out"]  # fmt: skip
    assert main([str(word) for word in [*words, "--models", "mean_lr", "drm", "mfcc_cnn"]]) == 0
    told = capsys.readouterr().out
    assert told.index("MFCC, 1D-CNN") < told.index("published, on ShEMO") < told.index("78.77 %")
    assert (tmp_path / "out" / "mfcc_cnn" / "predictions.csv").exists()
    assert main([str(word) for word in [*words, "--models", "svm"]]) == 2
    assert "there are bigru, mean_lr" in capsys.readouterr().err


def test_models_without_an_encoder_load_none(tmp_path: Path, capsys):
    corpus = write_tiny_corpus(tmp_path / "corpus")
    words = ["baselines", "--corpus", corpus, "--encoder", tmp_path / "nowhere", "--folds", 3, "--no-check",
             "--validation-share", 0.2, "--baseline-max-epochs", 1, "--out", tmp_path / "out"]  # fmt: skip
    assert main([str(word) for word in [*words, "--models", "mfcc_cnn,mfcc_cnn"]]) == 0
    assert capsys.readouterr().out.count("MFCC, 1D-CNN") == 1


def test_a_command_that_nothing_can_answer_says_so(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(
        "ser.experiments.comparison.runnable", lambda names: ([], ["egemaps_svm is left out"])
    )
    words = ["baselines", "--corpus", tmp_path, "--models", "egemaps_svm"]
    assert main([str(word) for word in words]) == 2
    assert "None of these models can run here" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--weighted-layers", "--augmented-copies"])
def test_options_that_need_other_frames_are_not_offered(tmp_path: Path, option):
    with pytest.raises(SystemExit):
        main(["baselines", "--corpus", str(tmp_path), option, "2"])
