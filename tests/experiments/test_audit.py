"""`ser audit` says what a condition does to answers and scores, and fails a pipeline where a limit is missed."""

from __future__ import annotations

import json
from argparse import Namespace

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score
from support import RATE_HZ, voice, write_corpus

import ser
from ser.audio.conditions import CONDITIONS
from ser.classifier.checkpoint import read_fingerprint
from ser.cli import main
from ser.cli.audit import _missed
from ser.corpora.corpus import read_corpus
from ser.experiments.audit import audit
from ser.reporting.audit_report import groups_figure
from ser.scoring.metrics import group_difference


@pytest.mark.parametrize("name", CONDITIONS)
def test_a_condition_changes_the_sound_and_always_in_the_same_way(name):
    samples = 0.4 * voice(1.0)
    once, again = (CONDITIONS[name](samples, np.random.default_rng(1)) for _ in range(2))
    np.testing.assert_array_equal(once, again)
    assert once.dtype == np.float32
    assert np.isfinite(once).all()
    assert np.abs(once).max() <= 2
    assert once.size != samples.size or np.abs(once - samples).max() > 0.01


def test_noise_is_as_far_below_the_recording_as_its_name_says():
    samples = 0.2 * voice(2.0)
    noise = CONDITIONS["noise 10 dB below"](samples, np.random.default_rng(0)) - samples
    assert 10 * np.log10(np.mean(samples**2) / np.mean(noise**2)) == pytest.approx(10, abs=0.1)


def test_a_group_is_compared_with_all_others_and_a_speaker_may_be_in_both():
    true = np.array([0, 1] * 20)
    inside = np.arange(40) < 20
    answers = np.where(inside, true, 0)  # all right inside, half outside
    gap = group_difference(true, answers, [f"s{i % 5}" for i in range(40)], inside, 2)
    assert gap.wa.value == gap.uar.value == pytest.approx(0.5)
    assert gap.wa.low <= 0.5 <= gap.wa.high
    same = group_difference(true, true, [f"s{i % 5}" for i in range(40)], inside, 2)
    assert same.uar.value == same.uar.low == same.uar.high == 0


def test_the_audit_counts_what_an_independent_count_gives(tiny_checkpoint, tmp_path, capsys):
    folder = write_corpus(tmp_path / "corpus", 3)
    names = ["20 dB fainter", "clipped"]
    words = ["audit", "--checkpoint", tiny_checkpoint, "--corpus", folder, "--out", tmp_path / "out"]
    words = [*map(str, words), "--conditions", *names]
    assert main(words) == 0
    content = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert content["model"] == read_fingerprint(tiny_checkpoint)
    predictor, utterances = ser.load(tiny_checkpoint), read_corpus(folder).utterances
    true = [one.emotion for one in utterances]
    plain = [predictor(one.path, timeline=False).emotion for one in utterances]
    assert content["plain"]["uar"]["value"] == pytest.approx(balanced_accuracy_score(true, plain))
    assert set(content["conditions"]) == set(names)
    assert set(content["groups"]) == {"speaker"}  # all are of one length and of nobody's sex
    assert sum(one["n_utterances"] for one in content["groups"]["speaker"].values()) == 18
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(name in page for name in names)
    figure = groups_figure(content)
    assert set(figure.data[0].y) == {f"speaker: {name}" for name in content["groups"]["speaker"]}
    assert "chart-groups" in page
    said = capsys.readouterr().out
    assert "as recorded" in said
    assert "lowest speaker" in said
    assert main([*words, "--min-stay", "1.01"]) == 1
    assert "missed: clipped" in capsys.readouterr().out


def test_a_recording_that_loses_its_speech_counts_as_wrong(tiny_checkpoint, tmp_path, monkeypatch):
    corpus = read_corpus(write_corpus(tmp_path / "corpus", 2))
    monkeypatch.setitem(CONDITIONS, "clipped", lambda samples, rng: np.zeros(RATE_HZ, np.float32))
    row = audit(ser.load(tiny_checkpoint), corpus, ["clipped"])["conditions"]["clipped"]
    assert (row["unanswered"], row["stay"], row["scores"]["wa"]["value"], row["sure"]) == (12, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("kind", ["sex", "length", "corpus"])
def test_a_group_that_is_served_worse_than_the_limit_fails_a_pipeline(kind):
    groups = {kind: {"one": {"difference": {"uar": {"value": -0.3}}}, "other": {"difference": {"uar": {"value": 0.3}}}}}
    found = {"conditions": {}, "groups": groups}
    limits = {"min_uar": None, "min_stay": None}
    assert _missed(found, Namespace(**limits, max_gap=0.31)) == []
    (missed,) = _missed(found, Namespace(**limits, max_gap=0.29))
    assert missed == f"{kind} one: UAR 30.0% below that of the others, more than 29.0%"
