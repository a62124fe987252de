"""The yardstick: a speaker is judged by a model that never heard it, and a lucky leak would show."""

from __future__ import annotations

import importlib.util
import json
import sys

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from support import write_corpus

from ser.cli import main
from ser.errors import CorpusError, SettingsError
from ser.experiments.probe import probe
from ser.features.opensmile import functionals

EMOTIONS = ["anger", "fear", "neutral"]


def utterances(informative: float, seed: int = 0) -> tuple[np.ndarray, list[str], list[str]]:
    """Features `(60, 8)`, emotions and speakers; the emotion moves the features by `informative`."""
    rng = np.random.default_rng(seed)
    emotions = [EMOTIONS[i % 3] for i in range(60)]
    centres = {emotion: rng.standard_normal(8) for emotion in EMOTIONS}
    noise = rng.standard_normal((60, 8))
    features = noise + informative * np.stack([centres[emotion] for emotion in emotions])
    return features, emotions, [f"s{i // 12}" for i in range(60)]


def test_what_separates_the_emotions_is_found_and_noise_is_not():
    def accuracy(informative: float) -> float:
        result = probe(*utterances(informative))
        return float(np.mean(result.probabilities.argmax(1) == result.true))

    assert accuracy(5.0) == 1.0
    assert accuracy(0.0) < 0.55


def test_each_speaker_is_judged_by_a_model_of_the_others_alone():
    features, emotions, speakers = utterances(1.0)
    test = np.array(speakers) == "s2"
    result = probe(features, emotions, speakers, c=0.1)
    mean, scale = features[~test].mean(0), features[~test].std(0)
    model = LogisticRegression(C=0.1, max_iter=2000).fit((features[~test] - mean) / scale, result.true[~test])
    expected = model.predict_proba((features[test] - mean) / scale)
    np.testing.assert_allclose(result.probabilities[test], expected, atol=1e-6)

    of_s2 = np.where(test, "surprise", emotions).tolist()  # an emotion of nobody else: never predicted
    result = probe(features, of_s2, speakers)
    assert (result.probabilities[test, result.labels.index("surprise")] == 0).all()
    np.testing.assert_allclose(result.probabilities.sum(axis=1), 1)
    with pytest.raises(CorpusError, match="two speakers"):
        probe(features, emotions, ["one"] * 60)


def test_a_file_that_cannot_be_written_and_a_strength_that_makes_no_sense_are_refused_first(tmp_path, capsys):
    words = ["probe", "--corpus", str(tmp_path / "no corpus")]
    assert main([*words, "--out", str(tmp_path / "no" / "folder.json")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    assert main([*words, "--c", "-1"]) == 2
    assert "--c must be positive" in capsys.readouterr().err


def test_the_command_writes_the_figures_of_an_encoder(tmp_path, tiny_encoder, capsys):
    write_corpus(tmp_path / "corpus", 3)
    words = ["probe", "--corpus", str(tmp_path / "corpus"), "--encoder", str(tiny_encoder)]
    words += ["--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "probe.json")]
    assert main(words) == 0
    content = json.loads((tmp_path / "probe.json").read_text())
    assert len(content["speakers"]) == 3
    assert f"{100 * content['scores']['wa']['value']:.2f}" in capsys.readouterr().out


def test_a_machine_without_opensmile_is_told_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "opensmile", None)
    with pytest.raises(SettingsError, match="pip install opensmile"):
        functionals([np.zeros(16000, np.float32)])
    with pytest.raises(SettingsError, match="egemaps, compare"):
        functionals([], "mfcc")


@pytest.mark.skipif(importlib.util.find_spec("opensmile") is None, reason="openSMILE is not installed")
def test_functionals_are_finite_and_follow_the_voice():
    time_s = np.arange(16000) / 16000
    low, high = (0.3 * np.sign(np.sin(2 * np.pi * hz * time_s)).astype(np.float32) for hz in (110, 220))
    vectors = functionals([low, high, np.zeros(16000, np.float32)])
    assert vectors.shape == (3, 88)
    assert np.isfinite(vectors).all()
    assert vectors[1, 0] - vectors[0, 0] == pytest.approx(12, abs=0.5)  # the mean F0, in semitones
