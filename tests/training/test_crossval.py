"""Cross-validation keeps test speakers apart, writes what it promises, and can be killed at any time."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, recall_score
from support import write_corpus
from training_support import DIM, EMOTIONS, ENCODER, SETTINGS, Toy, crossval

from ser.classifier.checkpoint import load_checkpoint
from ser.cli import main
from ser.errors import SettingsError
from ser.experiments.voice_curve import voice_curve
from ser.inference import adaptation
from ser.inference.load import load
from ser.labels import EMOTIONS as EVERY_EMOTION
from ser.scoring.calibration import calibrate, softmax
from ser.scoring.predictions import read_predictions
from ser.training.crossval import Crossval, Stopped
from ser.training.lockstep import Lockstep
from ser.training.run_folder import identity
from ser.training.settings import CrossvalSettings
from ser.training.trainer import Diverged
from ser.workers import pool


@pytest.fixture
def toy(tmp_path) -> Toy:
    return Toy(tmp_path / "corpus")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that has ended: the toy, the run, its result and its folder."""
    toy, folder = Toy(tmp_path_factory.mktemp("corpus")), tmp_path_factory.mktemp("finished")
    run = crossval(toy, folder)
    return toy, run, run.run(), folder


def test_the_result_follows_from_the_written_predictions(finished):
    _, _, result, folder = finished
    rows = read_predictions(folder / "predictions.csv")
    columns = [[row[name] for row in rows] for name in ("emotion", "predicted")]
    assert len(rows) == 120
    pooled = {name: one["value"] for name, one in result["pooled"].items() if name in ("wa", "uar", "macro_f1")}
    assert pooled == {
        "wa": pytest.approx(accuracy_score(*columns)),
        "uar": pytest.approx(recall_score(*columns, average="macro")),
        "macro_f1": pytest.approx(f1_score(*columns, average="macro")),
    }
    for row in rows:
        probabilities = {emotion: float(row[emotion]) for emotion in EMOTIONS}
        assert max(probabilities, key=probabilities.get) == row["predicted"]
        assert sum(probabilities.values()) == pytest.approx(1, abs=1e-5)


def test_parts_of_a_fold_share_no_speaker_and_every_utterance_is_tested_once(finished):
    toy, _, result, _ = finished
    tested = [file for fold in result["folds"] for file in fold["test"]]
    assert sorted(tested) == sorted(utterance.path.name for utterance in toy.corpus.utterances)
    for fold in result["folds"]:
        speakers = [{file[:3] for file in fold[part]} for part in ("train", "validation", "test")]
        assert sum(map(len, speakers)) == len(set.union(*speakers))


def test_a_test_speaker_is_not_looked_at_while_training(toy, tmp_path):
    one = crossval(toy, tmp_path)
    lockstep = Lockstep(one.data, one.folds[:1], SETTINGS.classifier, SETTINGS.training)
    toy.gathered.clear()
    while not lockstep.done:
        lockstep.run_epoch()
    assert not set(toy.gathered) & set(one.folds[0].test)


@pytest.mark.parametrize("stop_after", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 5, 7))])
def test_a_run_stopped_anywhere_ends_like_one_that_was_not(finished, tmp_path, stop_after):
    toy, _, whole, folder = finished
    calls = itertools.count(1)
    with pytest.raises(Stopped, match="same command"):
        crossval(toy, tmp_path).run(should_stop=lambda: next(calls) >= stop_after)
    assert json.loads((tmp_path / "progress.json").read_text())["state"] == "stopped"
    taken_up = crossval(toy, tmp_path)
    assert taken_up.resumed
    assert taken_up.run() | {"created": ""} == whole | {"created": ""}
    for name in ("predictions.csv", "checkpoint/model.safetensors"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.slow
def test_folds_trained_by_other_processes_give_the_same_and_one_that_was_stopped_goes_on(finished, tmp_path):
    toy, _, whole, folder = finished
    heard = []
    with pool(None, 2) as executor:
        with pytest.raises(Stopped):
            crossval(toy, tmp_path).run(should_stop=lambda: True, executor=executor)
        taken_up = crossval(toy, tmp_path)
        result = taken_up.run(lambda number, report: heard.append((number, report.epoch)), executor=executor)
    assert result | {"created": ""} == whole | {"created": ""}
    assert len(set(heard)) == len(heard) > 0
    for name in ("predictions.csv", "checkpoint/model.safetensors"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_a_folder_of_another_run_is_refused_and_left_alone(finished):
    toy, _, _, folder = finished
    before = (folder / "result.json").read_bytes()
    other = replace(SETTINGS, training=replace(SETTINGS.training, learning_rate=0.1))
    with pytest.raises(SettingsError, match="other settings"):
        crossval(toy, folder, other)
    assert (folder / "result.json").read_bytes() == before


def test_the_checkpoint_states_its_conditions(finished):
    toy, _, _, folder = finished
    checkpoint, model = load_checkpoint(folder / "checkpoint")
    assert (checkpoint.labels, model.n_labels) == (EMOTIONS, 3)
    assert "speaker-disjoint" in checkpoint.scores["conditions"]
    assert checkpoint.calibration.precision is not None
    assert checkpoint.data["fingerprint"] == toy.corpus.fingerprint


@pytest.mark.parametrize("ensemble", [False, True])
def test_precision_and_coverage_are_measured_without_the_test_speakers(toy, tmp_path, ensemble):
    """Recomputed with loops: of each fold, everybody who is tested there is left out of the calibration."""
    rng = np.random.default_rng(1)  # so much noise that calibrations differ
    toy.frames = [frames + 1.5 * rng.standard_normal(DIM, dtype=np.float32) for frames in toy.frames]
    one = crossval(toy, tmp_path / "run", replace(SETTINGS, ensemble=ensemble))
    one.run()
    tested, sure, right = one._test(), 0, 0
    for fold in one.folds:
        strangers = {toy.corpus.utterances[index].speaker for index in fold.test}
        rows = [row for row in range(120) if toy.corpus.utterances[row].speaker not in strangers]
        assert 0 < len(rows) < 120
        scale = [tested.temperatures[tested.fold_of[row]] if ensemble else 1 for row in rows]
        logits = tested.logits[rows] / np.array(scale)[:, None]
        fitted = calibrate(logits, one.data.targets[rows], 1.0 if ensemble else None)
        for index in fold.test:
            own = tested.temperatures[tested.fold_of[index]] if ensemble else fitted.temperature
            probabilities = softmax(tested.logits[[index]], own)[0]
            sure += probabilities.max() >= fitted.threshold
            right += probabilities.max() >= fitted.threshold and probabilities.argmax() == one.data.targets[index]
    stated = load_checkpoint(tmp_path / "run" / "checkpoint")[0].calibration
    assert stated.coverage == pytest.approx(sure / 120)
    assert stated.precision == pytest.approx(right / sure)


def test_what_a_fold_s_test_part_says_does_not_calibrate_itself(finished):
    _, one, _, _ = finished
    tested, test = one._test(), list(one.folds[0].test)
    others = np.setdiff1d(np.arange(120), test)
    logits = np.random.default_rng(0).standard_normal(tested.logits.shape).astype(np.float32)
    logits[others] = tested.logits[others]

    def scale(probabilities, logits):
        return np.log(probabilities[test][:, 0] / probabilities[test][:, 1]) / (logits[test][:, 0] - logits[test][:, 1])

    before, after = one._calibrated(tested)[1], one._calibrated(replace(tested, logits=logits))[1]
    same = scale(before, tested.logits)[0]
    np.testing.assert_allclose(scale(after, logits), same, rtol=1e-3)  # the same temperature
    assert not np.allclose(after[others], before[others])


def test_a_run_that_diverges_at_once_ends_with_advice_and_not_with_a_score(toy, tmp_path):
    settings = replace(SETTINGS, training=replace(SETTINGS.training, optimizer="sgd", learning_rate=1e30))
    with pytest.raises(Diverged, match="Lower the learning rate"):
        crossval(toy, tmp_path / "run", settings).run()
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_fold_that_diverges_later_keeps_its_best_epoch_and_every_file_is_json(toy, tmp_path):
    one = crossval(toy, tmp_path / "run")

    def poison(number, report):
        if (number, report.epoch) == (1, 2):
            one.lockstep.trainings[1].model.dense.weight.data.fill_(float("nan"))

    result = one.run(poison, final=False)
    assert result["folds"][1]["best_epoch"] in (1, 2)
    assert len(result["folds"][1]["epochs"]) == 3
    for name in ("progress.json", "result.json"):
        json.loads((tmp_path / "run" / name).read_text(), parse_constant=pytest.fail)


def test_the_engine_of_the_features_and_the_threads_are_recorded_and_no_part_of_the_identity(toy, tmp_path):
    other = replace(ENCODER, engine="onnxruntime")
    result = Crossval(toy.corpus, toy, other, SETTINGS, tmp_path).run()
    assert result["versions"]["engine"] == "onnxruntime"
    assert int(result["versions"]["threads"]) >= 1
    assert load_checkpoint(tmp_path / "checkpoint")[0].encoder == other
    assert identity(toy.corpus, other, SETTINGS) == identity(toy.corpus, ENCODER, SETTINGS)


@pytest.mark.parametrize("split", ["speakers", "loso"])
def test_the_validation_share_holds_for_every_split(toy, split):
    few, many = (replace(SETTINGS, split=split, validation_share=share).folds(toy.corpus)[0] for share in (0.1, 0.3))
    assert len(few.validation) < len(many.validation)


def test_train_makes_its_folder_and_leaves_model_run_and_report(tiny_encoder, tmp_path, capsys):
    corpus, to = (str(tmp_path / name) for name in ("corpus", "new/model"))
    write_corpus(Path(corpus), n_speakers=4)
    words = ["--corpus", corpus, "--cache", str(tmp_path / "cache"), "--encoder", str(tiny_encoder)]
    words += ["--folds", "2", "--validation-share", "0.2", "--max-epochs", "1", "--base-units", "4"]
    assert main(["train", *words, "--out", to, "--also-random-split"]) == 0
    assert load(to).labels == EVERY_EMOTION
    run = Path(to) / "run"
    assert (run / "report.html").exists()
    result = json.loads((run / "result.json").read_text())
    premium = result["random_split"]["premium"]["wa"]
    gain = result["random_split"]["pooled"]["wa"]["value"] - result["pooled"]["wa"]["value"]
    assert premium["value"] == pytest.approx(gain)
    assert premium["low"] <= premium["value"] <= premium["high"]
    assert f"Leak premium: {100 * gain:.2f} % [" in capsys.readouterr().out
    assert list(load(to).trained_on) == [f"corpus:s{number}" for number in range(4)]
    assert main(["evaluate", "--checkpoint", to, "--corpus", corpus, "--out", str(tmp_path / "new")]) == 2
    assert "trained on 4 of these 4 speakers" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_said_before_any_work(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["crossval", "--corpus", str(tmp_path / "none"), "--out", str(tmp_path / "file" / "run")]) == 1
    said = capsys.readouterr().err
    assert "Not a directory" in said
    assert "no corpus" not in said


def test_train_does_not_offer_what_it_would_refuse(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    shown = capsys.readouterr().out
    assert "--no-final" not in shown
    assert "DIR/run" in shown


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
    result = crossval(toy, tmp_path, replace(SETTINGS, split="random")).run(final=False)
    assert "ignores speakers" in result["protocol"]


def test_lockstep_reports_the_mean_over_folds_and_a_stopped_fold_its_best(finished):
    lockstep = finished[1].lockstep
    best = [training.epochs[training.best_epoch - 1].validation_wa for training in lockstep.trainings]
    assert lockstep.validation_accuracy() == pytest.approx(np.mean(best))
    assert lockstep.best_validation_accuracy() == pytest.approx(np.mean(best))


@pytest.mark.parametrize("wrong", [{"split": "both"}, {"n_folds": 1}, {"validation_share": 0.5}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        CrossvalSettings(**wrong)


def test_a_voice_is_known_by_recordings_that_are_not_scored_and_helps_strangers(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(adaptation, "HALF_KNOWN_S", 0.01)  # the toy's recordings last 0.2 s
    rng = np.random.default_rng(1)
    shifts = {name: 4 * rng.standard_normal(DIM) for name in toy.corpus.speakers}
    for number, utterance in enumerate(toy.corpus.utterances):
        toy.frames[number] = (toy.frames[number] + shifts[utterance.speaker]).astype(np.float32)
    learning = replace(SETTINGS.training, max_epochs=12, patience=0)
    settings = replace(SETTINGS, classifier=replace(SETTINGS.classifier, voices=0.5), training=learning)
    done = crossval(toy, tmp_path, settings)
    done.run(final=False)
    rows = {(row["kind"], row["recordings"]): row for row in voice_curve(done)}
    assert {count for kind, count in rows if kind == "mixed"} == {1, 3, 5}  # no speaker has ten to spare
    for (_, count), row in rows.items():
        assert (row["utterances"], row["speakers"]) == (120 - 12 * count, 12)
        gain = row["with"]["wa"]["value"] - row["without"]["wa"]["value"]
        assert row["gain"]["wa"]["value"] == pytest.approx(gain)
    assert rows["mixed", 5]["gain"]["wa"]["value"] > 0.1
