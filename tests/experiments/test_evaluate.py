"""`ser evaluate` gives the scores that an independent count of the model's answers gives, and flatters nobody."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, confusion_matrix
from support import write_corpus

import ser
from ser.cli import main
from ser.corpora.corpus import keep_emotions, read_corpus
from ser.errors import CorpusError
from ser.experiments.evaluate import evaluate, known_speakers
from ser.labels import EMOTIONS


@pytest.fixture(scope="module")
def corpus_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("evaluate") / "corpus", 3)


@pytest.fixture
def command(tiny_checkpoint: Path, corpus_folder: Path, tmp_path: Path) -> list[str]:
    words = ["--checkpoint", tiny_checkpoint, "--corpus", corpus_folder, "--out", tmp_path / "out"]
    return ["evaluate", *map(str, words)]


def test_the_scores_are_those_of_an_independent_count(command, corpus_folder, tiny_checkpoint, tmp_path, capsys):
    assert main(command) == 0
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    predictor = ser.load(tiny_checkpoint)
    utterances = read_corpus(corpus_folder).utterances
    true = [one.emotion for one in utterances]
    predicted = [predictor(one.path, timeline=False).emotion for one in utterances]
    assert content["scores"]["wa"]["value"] == pytest.approx(np.mean(np.equal(true, predicted)))
    assert content["scores"]["uar"]["value"] == pytest.approx(balanced_accuracy_score(true, predicted))
    assert content["confusion"] == confusion_matrix(true, predicted, labels=EMOTIONS).tolist()
    assert set(content["by_speaker"]) == {"s0", "s1", "s2"}
    assert f"{100 * np.mean(np.equal(true, predicted)):.2f} %" in capsys.readouterr().out
    with (tmp_path / "out" / "predictions.csv").open() as file:
        assert [row["predicted"] for row in csv.DictReader(file)] == predicted


def test_speakers_of_the_training_are_refused_unless_allowed(command, tiny_checkpoint, tmp_path, capsys):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "model")
    content = json.loads((folder / "model.json").read_text())
    content["data"] = {"speakers": ["corpus:s1", "elsewhere:s2"]}
    (folder / "model.json").write_text(json.dumps(content))
    command[2] = str(folder)
    assert main(command) == 2
    assert "trained on 1 of these 3 speakers, for instance corpus:s1" in capsys.readouterr().err
    assert not (tmp_path / "out" / "evaluation.json").exists()
    assert main([*command, "--allow-trained-speakers"]) == 0
    assert "flatter it" in json.loads((tmp_path / "out" / "evaluation.json").read_text())["protocol"]


def test_emotions_that_the_model_does_not_know_and_broken_files_are_counted_not_scored(
    command, corpus_folder, tmp_path
):
    folder = shutil.copytree(corpus_folder, tmp_path / "corpus")
    (folder / "broken.wav").write_text("not a recording")
    shutil.copy(folder / "0_0.wav", folder / "extra.wav")
    with (folder / "metadata.csv").open("a") as table:
        table.write("broken.wav,s0,anger\nextra.wav,s0,boredom\n")
    command[4] = str(folder)
    assert main(command) == 1
    content = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert content["left_out"]["unknown_emotions"] == {"boredom": 1}
    assert [file for file, _ in content["left_out"]["unreadable"]] == ["broken.wav"]
    assert content["scores"]["n_utterances"] == 18


def test_a_single_emotion_is_no_evaluation(tiny_checkpoint, corpus_folder):
    corpus, _ = keep_emotions(read_corpus(corpus_folder), ["anger"])
    with pytest.raises(CorpusError, match="at least two"):
        evaluate(ser.load(tiny_checkpoint), corpus)
    assert known_speakers(corpus, ["corpus:s1", "other:s0", "s2"]) == ["corpus:s1"]
