"""Baselines are measured on the same folds as the Bi-GRU, see no test speaker before the end, and are kept."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from optuna.storages import InMemoryStorage
from sklearn.metrics import accuracy_score, f1_score, recall_score
from training_support import DIM, ENCODER, SETTINGS, Toy, write_tiny_corpus

from ser.cli import main
from ser.cli.baselines import print_comparison
from ser.corpora.folds import Fold
from ser.errors import SettingsError, Stopped
from ser.experiments.baselines import BaselineSettings, FrontEnd, ListedFrames, Task, linear_svm, mfccs
from ser.experiments.comparison import Comparison, ComparisonSettings, Encoded
from ser.experiments.models import MODELS, runnable
from ser.experiments.networks import logits
from ser.experiments.published import PUBLISHED
from ser.labels import EMOTIONS
from ser.reporting.comparison import write_comparison_report
from ser.scoring.predictions import read_predictions
from ser.tuning.budget import EqualBudgets
from ser.tuning.space import TuningSettings

N_LAYERS = 3
SMALL = BaselineSettings(width=8, learning_rate=0.01, max_epochs=6, patience=2)
COMPARED = ComparisonSettings(SETTINGS, SMALL, paper=SETTINGS)
ON_FRAMES = ("paper", "mean_lr", "conformer", "drm", "drm_classifiers")
NETWORKS = ("mfcc_cnn", "conformer", "drm", "drm_classifiers")


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
    source = Layers(toy) if name.startswith("drm") else toy
    fold = SETTINGS.folds(toy.corpus)[0]
    return Task(source, targets_of(toy) if targets is None else targets, 3, fold, SMALL)


def fitted(name: str, task: Task) -> np.ndarray:
    """Probabilities of a model for the test part."""
    fit = MODELS[name].fit if name in MODELS else linear_svm
    return fit(task, lambda epoch: None)


def compare(toy: Toy, names, folder: Path, settings: ComparisonSettings = COMPARED, **more) -> dict:
    return Comparison(toy.corpus, encoded(toy), settings, folder, **more).run(names)


@pytest.mark.parametrize("name", [*NETWORKS, "mean_lr", "svm"])
def test_a_model_learns_and_no_choice_of_it_sees_the_emotions_of_test_speakers(toy, name):
    task = task_of(toy, name)
    answers = fitted(name, task)
    np.testing.assert_allclose(answers.sum(axis=1), 1)
    assert (answers.argmax(axis=1) == task.true(task.fold.test)).mean() > 0.6
    others = task.targets.copy()
    others[list(task.fold.test)] = (others[list(task.fold.test)] + 1) % 3
    np.testing.assert_array_equal(fitted(name, task_of(toy, name, others)), answers)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_answer_does_not_depend_on_what_else_is_asked(toy, name):
    task = task_of(toy, name)
    torch.manual_seed(0)
    (build,) = MODELS[name].fit.args
    model = build((N_LAYERS, DIM), 3, SMALL)
    every = range(len(task.targets))
    together = logits(model, task, every)
    for index in (0, 1, 50):
        np.testing.assert_allclose(logits(model, task, [index])[0], together[index], atol=1e-5)


@pytest.mark.slow
def test_every_model_is_tested_on_the_same_folds_and_its_scores_follow_from_its_predictions(toy, tmp_path):
    content = compare(toy, ON_FRAMES, tmp_path)
    assert [row["model"] for row in content["rows"]] == list(ON_FRAMES)
    fold_of = np.zeros(len(toy.corpus.utterances), dtype=int)
    for number, fold in enumerate(SETTINGS.folds(toy.corpus)):
        fold_of[list(fold.test)] = number + 1
    for row in content["rows"]:
        rows = read_predictions(tmp_path / row["run"] / "predictions.csv")
        assert [int(one["fold"]) for one in rows] == fold_of.tolist()
        columns = [[one[name] for one in rows] for name in ("emotion", "predicted")]
        assert row["wa"]["value"] == pytest.approx(accuracy_score(*columns))
        assert row["wa"]["value"] > 0.6
        assert row["uar"]["value"] == pytest.approx(recall_score(*columns, average="macro"))
        assert row["macro_f1"]["value"] == pytest.approx(f1_score(*columns, average="macro"))
    assert json.loads((tmp_path / "baselines.json").read_text()) == content
    page = write_comparison_report(content, tmp_path / "report.html").read_text()
    assert all(row["title"] in page for row in content["rows"])
    assert not any(one.name in page for one in PUBLISHED)  # on another corpus


def test_the_front_end_is_what_enters_the_first_layer(toy, tmp_path, monkeypatch):
    seen = []
    model = replace(
        MODELS["front_conformer"], fit=lambda task, _: seen.append(task) or np.full((len(task.fold.test), 3), 1 / 3)
    )
    monkeypatch.setitem(MODELS, "front_conformer", model)
    compare(toy, ["front_conformer"], tmp_path)
    frames, lengths = seen[0].source.gather([3, 5], 300)
    assert frames.shape == (lengths.sum(), DIM)
    assert not frames.any()  # the first of `Layers`


SHEMO = {"name": "ShEMO", "n_utterances": 3000, "n_speakers": 87, "emotions": dict.fromkeys(EMOTIONS, 500)}


def test_figures_published_on_a_corpus_stand_beside_measurements_on_that_corpus_alone(capsys):
    score = {"value": 0.5, "low": 0.4, "high": 0.6}
    row = {"title": "Bi-GRU", "wa": score, "uar": score, "macro_f1": score, "seconds": 1.0}
    content = {"protocol": "five folds", "intervals": "95 %", "rows": [row], "corpus": SHEMO}
    print_comparison(content)
    assert "78.77 %" in capsys.readouterr().out
    fearless = dict.fromkeys(set(EMOTIONS) - {"fear"}, 592)
    others = ({"name": "EMO-DB"}, {"n_speakers": 10}, {"n_utterances": 60}, {"emotions": fearless})
    for other in others:  # also a folder that is called shemo
        print_comparison(content | {"corpus": SHEMO | other})
        assert "published" not in capsys.readouterr().out


def test_a_search_that_is_stopped_in_its_first_trial_still_tries_the_settings_as_given():
    tried = []

    def accuracy(settings: BaselineSettings) -> float:
        tried.append(settings)
        if len(tried) == 1:
            raise Stopped("now")
        return 0.5

    budgets = EqualBudgets(InMemoryStorage(), TuningSettings(trials=2))
    with pytest.raises(Stopped):
        budgets.network("one", {}, SMALL, accuracy)
    budgets.network("one", {}, SMALL, accuracy)
    assert [settings == SMALL for settings in tried] == [True, True, False]


@pytest.mark.slow
def test_what_is_finished_is_kept_and_a_comparison_goes_on_where_it_stopped(toy, tmp_path):
    brief = replace(COMPARED, baseline=replace(SMALL, max_epochs=1))
    heard: set[str] = set()

    def rows(folder: str, **more) -> list[dict]:
        heard.clear()
        listening = {"listener": lambda run, fold, epoch: heard.add(run), **more}
        found = compare(toy, ("mean_lr", "conformer", "drm"), tmp_path / folder, brief, **listening)["rows"]
        return [row | {"seconds": 0} for row in found]

    whole = rows("whole")
    with pytest.raises(Stopped):
        rows("cut", should_stop=lambda: "conformer-shipped" in heard)
    assert rows("cut") == whole
    assert heard == {"conformer-shipped", "drm-shipped"}
    assert rows("cut") == whole
    assert heard == set()


@pytest.mark.slow
def test_beside_a_bigru_with_other_settings_stands_the_papers_on_the_same_folds(toy, tmp_path):
    other = replace(SETTINGS, classifier=replace(SETTINGS.classifier, pooling="attentive"))
    rows = compare(toy, ["bigru"], tmp_path / "both", replace(COMPARED, crossval=other))["rows"]
    assert [row["model"] for row in rows] == ["paper", "bigru"]
    runs = [read_predictions(tmp_path / "both" / row["run"] / "predictions.csv") for row in rows]
    assert [[one["fold"] for one in run] for run in runs] == [[one["fold"] for one in runs[0]]] * 2
    rows = compare(toy, ["bigru"], tmp_path / "one")["rows"]
    assert [row["model"] for row in rows] == ["paper"]  # given are the paper's


def test_the_papers_settings_are_those_of_section_4_2():
    paper = ComparisonSettings(replace(SETTINGS, seed=1)).of_bigru("paper")
    assert (paper.seed, paper.n_folds) == (1, SETTINGS.n_folds)
    assert (paper.classifier.units, paper.classifier.dropout) == ((192, 32), 0.2)
    training = paper.training
    assert (training.optimizer, training.learning_rate, training.l2) == ("sgd", 0.003, 0.016)
    assert (training.batch_size, training.max_epochs, training.patience) == (16, 150, 3)


def test_a_folder_of_another_comparison_is_refused_to_every_model(toy, tmp_path):
    compare(toy, ["mean_lr"], tmp_path)
    before = (tmp_path / "baselines.json").read_text()
    with pytest.raises(SettingsError, match="other baseline"):
        compare(toy, ["mean_lr"], tmp_path, replace(COMPARED, baseline=BaselineSettings(width=12)))
    for change in ({"seed": 3}, {"n_folds": 2}):
        with pytest.raises(SettingsError, match="other settings"):
            compare(toy, ["drm"], tmp_path, replace(COMPARED, crossval=replace(SETTINGS, **change)))
    toy.corpus = replace(toy.corpus, name="another")
    with pytest.raises(SettingsError, match="other corpus"):
        compare(toy, ["drm"], tmp_path)
    assert (tmp_path / "baselines.json").read_text() == before


@pytest.mark.slow
def test_encoders_of_the_same_name_are_kept_apart_and_each_model_tells_its_seconds(toy, tmp_path):
    two = [replace(encoded(toy)[0], reference=replace(ENCODER, source=f"{run}/encoder", fingerprint=run))
           for run in ("first", "second")]  # fmt: skip
    comparison = Comparison(toy.corpus, two, COMPARED, tmp_path)
    rows = comparison.run(["paper", "mean_lr"])["rows"]
    assert {row["run"] for row in rows} == {
        f"{name}-encoder-{run}" for name in ("paper", "mean_lr") for run in ("first", "second")
    }
    assert all(row["seconds"] > 0 for row in rows)
    assert comparison.run(["paper", "mean_lr"])["rows"] == rows


def test_each_network_gets_the_same_search_which_sees_no_test_speaker_and_resumes(toy, tmp_path, monkeypatch):
    seen: list[tuple[BaselineSettings, Fold]] = []

    def better_when_wide(task: Task, listener) -> np.ndarray:
        seen.append((task.settings, task.fold))
        right = np.eye(3)[task.true(task.fold.test)]
        return right if task.settings.width >= 64 else 1 - right

    monkeypatch.setitem(MODELS, "conformer", replace(MODELS["conformer"], fit=partial(better_when_wide)))
    storage, search, stops = InMemoryStorage(), TuningSettings(trials=6), iter([False] * 7 + [True])
    budgets, n_folds = EqualBudgets(storage, search), len(SETTINGS.folds(toy.corpus))
    with pytest.raises(Stopped):
        compare(toy, ["conformer"], tmp_path, chooser=budgets, should_stop=lambda: next(stops))
    n_before = len(seen)
    content = compare(toy, ["conformer"], tmp_path, chooser=budgets)
    (row,) = content["rows"]
    searched, tested = seen[:-n_folds], seen[-n_folds:]
    assert n_before == 7
    assert len(searched) == 6 * n_folds + 7 % n_folds  # a trial that was stopped is begun again
    assert [fold.test for _, fold in searched] == [fold.validation for _, fold in searched]
    assert [fold for _, fold in tested] == list(SETTINGS.folds(toy.corpus))
    assert searched[0][0] == SMALL  # as given
    assert len({settings.width for settings, _ in searched}) > 1
    assert row["wa"]["value"] == 1
    assert tested[0][0].width >= 64
    assert "6 trials: the configuration was chosen by validation speakers" in content["protocol"]
    assert compare(toy, ["conformer"], tmp_path, chooser=budgets)["rows"] == [row]  # as it is
    toy.corpus = replace(toy.corpus, name="another")
    with pytest.raises(SettingsError, match="made with something else"):
        compare(toy, ["conformer"], tmp_path / "elsewhere", chooser=budgets)


@pytest.mark.slow
def test_the_bigru_is_searched_as_ser_tune_searches_it_and_the_papers_settings_stand_beside_it(toy, tmp_path):
    quick = replace(SETTINGS, training=replace(SETTINGS.training, max_epochs=1))
    settings = ComparisonSettings(quick, SMALL, paper=quick)
    budgets = EqualBudgets(InMemoryStorage(), TuningSettings(trials=2))
    content = compare(toy, ["bigru"], tmp_path, settings, chooser=budgets)
    assert [row["model"] for row in content["rows"]] == ["paper", "bigru"]
    told = json.loads((tmp_path / content["rows"][1]["run"] / "result.json").read_text())
    assert "chosen by validation speakers" in told["protocol"]
    study = optuna.load_study(storage=budgets.storage, study_name=content["rows"][1]["run"])
    assert len(study.trials) == 2
    chosen = {**told["settings"]["classifier"], **told["settings"]["training"]}
    for name in ("base_units", "final_units", "optimizer"):
        assert chosen[name] == study.best_params[name]


def test_without_opensmile_its_models_are_left_out_with_the_reason(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    names, reasons = runnable(list(MODELS))
    assert names == [name for name in MODELS if not name.endswith("_svm")]
    assert len(reasons) == 2
    assert all("pip install opensmile" in reason for reason in reasons)


@pytest.mark.parametrize(("name", "value"), [("width", 6), ("width", 0), ("max_epochs", 0), ("learning_rate", -1.0)])
def test_settings_that_make_no_sense_are_refused(name, value):
    with pytest.raises(SettingsError, match=str(value)):
        BaselineSettings(**{name: value})


def test_mfccs_have_fifty_frames_a_second():
    assert mfccs(np.zeros(16_000, dtype=np.float32) + 0.01).shape == (51, 40)


def command(folder: Path, encoder: object, n_epochs: int, *more: object) -> list[str]:
    words = ["--corpus", folder / "corpus", "--encoder", encoder, "--cache", folder / "cache", "--folds", 3, *more,
             "--validation-share", 0.2, "--baseline-max-epochs", n_epochs, "--out", folder / "out"]  # fmt: skip
    return ["baselines", *map(str, words)]


def test_the_command_measures_models_and_writes_the_report(tmp_path, tiny_encoder, capsys):
    write_tiny_corpus(tmp_path / "corpus")
    words = command(tmp_path, tiny_encoder, 2)
    assert main([*words, "--models", "mean_lr", "drm", "mfcc_cnn"]) == 0
    printed = capsys.readouterr().out
    assert "MFCC, 1D-CNN" in printed
    assert "published" not in printed  # on another corpus
    assert (tmp_path / "out" / "report.html").exists()
    assert (tmp_path / "out" / "mfcc_cnn" / "predictions.csv").exists()


def test_models_without_an_encoder_load_none(tmp_path, capsys):
    write_tiny_corpus(tmp_path / "corpus")
    words = command(tmp_path, tmp_path / "nowhere", 1, "--no-check")
    assert main([*words, "--models", "mfcc_cnn,mfcc_cnn"]) == 0
    assert capsys.readouterr().out.count("MFCC, 1D-CNN") == 1


def test_a_command_that_nothing_can_answer_says_so(tmp_path, monkeypatch, capsys):
    words = command(tmp_path, tmp_path, 1)
    assert main([*words, "--models", "svm"]) == 2
    assert "there are paper, bigru, mean_lr" in capsys.readouterr().err
    reason = "egemaps_svm is left out"
    monkeypatch.setattr("ser.experiments.models.runnable", lambda names: ([], [reason]))
    assert main([*words, "--models", "egemaps_svm"]) == 2
    assert "None of these models can run here" in capsys.readouterr().err
    for option in ("--weighted-layers", "--augmented-copies"):  # they need other frames
        with pytest.raises(SystemExit):
            main([*words, option, "2"])


def test_the_length_of_an_utterance_is_known_without_reading_its_layers(toy):
    layers = Layers(toy)
    layers.lengths = np.arange(1, 5)
    np.testing.assert_array_equal(FrontEnd(layers).lengths, layers.lengths)
    assert ListedFrames([np.zeros((3, 2), np.float32)]).lengths.tolist() == [3]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_setting_that_is_searched_changes_the_network(name):
    shape = (N_LAYERS, DIM) if name.startswith("drm") else (DIM,)
    build = MODELS[name].fit.args[0]
    sizes = {sum(one.numel() for one in build(shape, 3, replace(SMALL, width=n)).parameters()) for n in (8, 16)}
    assert len(sizes) == 2


def test_how_many_models_are_done_is_told_from_none_to_all(toy, tmp_path):
    told = []
    compare(toy, ["mean_lr", "drm"], tmp_path / "out", progress=lambda done, total: told.append((done, total)))
    assert told == [(0, 2), (1, 2), (2, 2)]
