"""Scores agree with scikit-learn and with formulas written out by hand, and their intervals with theory."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import astuple

import numpy as np
import pytest
from sklearn import metrics as reference

from ser.labels import EMOTIONS
from ser.scoring.metrics import accuracy_and_uar, confusion, paired_difference, reliability, score, scores_by


@pytest.fixture(autouse=True)
def no_warning_is_printed():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def answers(n_clips: int = 400, n_speakers: int = 12, n_classes: int = 6, seed: int = 0):
    """Random truth, probabilities that lean towards it, and speakers."""
    generator = np.random.default_rng(seed)
    true = generator.integers(0, n_classes, n_clips)
    logits = generator.normal(size=(n_clips, n_classes)) + 1.5 * np.eye(n_classes)[true]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    speakers = [f"S{number:02d}" for number in generator.integers(0, n_speakers, n_clips)]
    return true, probabilities, speakers


def error_by_loops(true, probabilities, n_bins: int = 15) -> float:
    total = 0.0
    for b in range(n_bins):
        inside = [i for i, p in enumerate(probabilities) if b / n_bins < max(p) <= (b + 1) / n_bins]
        if inside:
            sure = sum(max(probabilities[i]) for i in inside) / len(inside)
            right = sum(int(probabilities[i].argmax() == true[i]) for i in inside) / len(inside)
            total += len(inside) / len(true) * abs(sure - right)
    return total


def test_scores_agree_with_scikit_learn():
    true, probabilities, speakers = answers()
    predicted = probabilities.argmax(axis=1)
    scores = score(true, probabilities, speakers, EMOTIONS, n_bootstrap=10)
    assert scores.wa.value == pytest.approx(reference.accuracy_score(true, predicted))
    assert scores.uar.value == pytest.approx(reference.balanced_accuracy_score(true, predicted))
    assert scores.macro_f1.value == pytest.approx(reference.f1_score(true, predicted, average="macro"))
    precision, recall, _, _ = reference.precision_recall_fscore_support(true, predicted)
    assert [scores.recall[e].value for e in EMOTIONS] == pytest.approx(recall.tolist())
    assert [scores.precision[e].value for e in EMOTIONS] == pytest.approx(precision.tolist())
    assert (scores.n_utterances, scores.n_speakers) == (400, 12)
    assert scores.ece.value == pytest.approx(error_by_loops(true, probabilities))
    ours = confusion(true, predicted, 6)
    assert (ours == reference.confusion_matrix(true, predicted)).all()
    both = [astuple(accuracy_and_uar(matrix)) for matrix in (ours, np.zeros((6, 6)))]
    assert both[0] == pytest.approx((scores.wa.value, scores.uar.value))
    assert all(math.isnan(value) for value in both[1])


def test_scores_agree_with_scikit_learn_when_classes_are_missing():
    true, predicted = np.array([0, 0, 1, 1, 1]), np.array([0, 2, 1, 1, 0])
    scores = score(true, predicted, ["a", "b", "a", "b", "a"], EMOTIONS, n_bootstrap=10)
    assert scores.uar.value == pytest.approx(np.mean([1 / 2, 2 / 3]))
    assert scores.macro_f1.value == pytest.approx(reference.f1_score(true, predicted, average="macro"))


def test_the_interval_is_that_of_drawing_whole_speakers():
    """The same draws, made clip by clip with lists, scored by scikit-learn."""
    true, probabilities, speakers = answers(n_clips=120, n_speakers=5)
    predicted = probabilities.argmax(axis=1)
    names = sorted(set(speakers))
    weights = np.random.default_rng(40).multinomial(5, np.full(5, 1 / 5), 200)
    wa, f1, ece = [], [], []
    for draw in weights:
        rows = []
        for name, times in zip(names, draw, strict=True):
            rows += [i for i, speaker in enumerate(speakers) if speaker == name] * times
        wa.append(reference.accuracy_score(true[rows], predicted[rows]))
        f1.append(reference.f1_score(true[rows], predicted[rows], average="macro"))
        ece.append(error_by_loops(true[rows], probabilities[rows]))
    scores = score(true, probabilities, speakers, EMOTIONS, n_bootstrap=200)
    ece += scores.ece.value - np.median(ece)
    for ours, theirs in ((scores.wa, wa), (scores.macro_f1, f1), (scores.ece, ece)):
        assert [ours.low, ours.high] == pytest.approx(np.quantile(theirs, [0.025, 0.975]).tolist())


def test_the_calibration_error_lies_in_its_own_interval_even_where_noise_only_adds_to_it():
    """A model calibrated to the last clip: every replicate is worse than the measured value."""
    rng = np.random.default_rng(2)
    hits = np.tile([True] * 7 + [False] * 3, 30)
    probabilities = np.full((300, 6), 0.3 / 5)
    probabilities[:, 0] = 0.7
    speakers = [f"S{number}" for number in rng.permutation(np.arange(300) % 10)]
    found = score(np.where(hits, 0, 1), probabilities, speakers, EMOTIONS).ece
    assert found.value == pytest.approx(0, abs=1e-12)
    assert found.low <= found.value < found.high


def test_intervals_widen_when_the_clips_of_a_speaker_are_alike():
    """Ten speakers of forty clips, each wholly right or wholly wrong: as uncertain as ten clips, not 400."""
    speakers = [f"S{number}" for number in range(10) for _ in range(40)]
    true = np.zeros(400, dtype=int)
    predicted = np.array([number % 2 for number in range(10) for _ in range(40)])
    alike = score(true, predicted, speakers, EMOTIONS).wa
    mixed = score(true, np.arange(400) % 2, speakers, EMOTIONS).wa
    assert alike.value == mixed.value == 0.5
    expected_width = 2 * 1.96 * math.sqrt(0.25 / 10)
    assert alike.high - alike.low == pytest.approx(expected_width, rel=0.1)
    assert mixed.high - mixed.low < 0.01


def test_the_order_of_the_clips_does_not_matter():
    true, probabilities, speakers = answers()
    order = np.random.default_rng(1).permutation(len(true))
    shuffled = score(true[order], probabilities[order], [speakers[i] for i in order], EMOTIONS)
    straight = score(true, probabilities, speakers, EMOTIONS)
    assert shuffled.wa == straight.wa
    assert shuffled.ece.low == pytest.approx(straight.ece.low)


def test_one_speaker_gives_a_value_and_no_interval():
    scores = score([0, 1], [0, 0], ["only", "only"], EMOTIONS)
    assert math.isnan(scores.wa.low)
    note = "one speaker gives no interval"
    assert scores.wa.to_dict() == {"value": 0.5, "low": None, "high": None, "note": note}
    read = json.loads(json.dumps(scores.to_dict(), allow_nan=False))
    parts = {"wa", "uar", "macro_f1", "ece", "recall", "precision", "n_utterances", "n_speakers"}
    assert (set(read), set(read["recall"])) == (parts, set(EMOTIONS))


def test_an_absent_class_is_undefined_with_a_note_and_a_rare_one_scored_on_the_draws_that_hold_it():
    scores = score([0, 0, 1], [0, 1, 1], ["a", "b", "b"], EMOTIONS, n_bootstrap=100)
    assert math.isnan(scores.recall["surprise"].value)
    assert scores.recall["surprise"].note == "no utterance of surprise"
    assert scores.precision["surprise"].note == "never predicted surprise"
    assert scores.recall["fear"].low == scores.recall["fear"].high == 1.0  # of one speaker
    assert "of 100 draws" in scores.recall["fear"].note


def test_answers_without_probabilities_have_no_calibration_error():
    true, probabilities, speakers = answers()
    scores = score(true, probabilities.argmax(axis=1), speakers, EMOTIONS)
    assert math.isnan(scores.ece.value)
    assert scores.ece.note == "needs probabilities"
    assert scores.wa == score(true, probabilities, speakers, EMOTIONS).wa


@pytest.mark.parametrize(
    ("true", "given", "speakers", "words"),
    [
        ([], [], [], "nothing to score"),
        ([0, 1], [0], ["a", "b"], "2 true classes, 1 predictions and 2 speakers"),
        ([0, 6], [0, 1], ["a", "b"], "run from 0 to 6, but there are 6 labels"),
        ([-1, 0], [0, 1], ["a", "b"], "run from -1"),
        ([0], [[0.5, 0.5]], ["a"], "6 labels but 2 probabilities"),
        ([0], [[math.nan] * 6], ["a"], "not finite"),
    ],
)
def test_impossible_input_is_refused_with_what_was_given(true, given, speakers, words):
    with pytest.raises(ValueError, match=words):
        score(true, given, speakers, EMOTIONS)


def test_scores_by_gender_are_those_of_each_part():
    true, probabilities, speakers = answers()
    gender = ["female" if speaker < "S06" else "male" for speaker in speakers]
    parts = scores_by(gender, true, probabilities, speakers, EMOTIONS, n_bootstrap=50)
    rows = np.array(gender) == "male"
    alone = score(true[rows], probabilities[rows], np.array(speakers)[rows], EMOTIONS, n_bootstrap=50)
    assert list(parts) == ["female", "male"]
    assert parts["male"] == alone


def test_a_paired_difference_is_narrower_than_the_two_scores_apart():
    true, probabilities, speakers = answers(n_clips=800)
    better = probabilities.argmax(axis=1)
    worse = np.where(np.arange(800) % 20 == 0, (true + 1) % 6, better)
    gain = paired_difference(true, better, worse, speakers, 6)
    apart = [score(true, each, speakers, EMOTIONS).wa for each in (better, worse)]
    assert gain.wa.value == pytest.approx(apart[0].value - apart[1].value)
    assert 0 < gain.wa.low < gain.wa.value < gain.wa.high
    assert gain.wa.high - gain.wa.low < apart[0].high - apart[0].low
    assert (gain.n_utterances, gain.n_speakers) == (800, 12)
    none = paired_difference(true, probabilities, better, speakers, 6)  # of a model from itself
    assert none.to_dict()["wa"] == none.to_dict()["uar"] == {"value": 0, "low": 0, "high": 0}


def test_reliability_holds_what_the_calibration_error_sums_up():
    true, probabilities, speakers = answers()
    bins = reliability(true, probabilities)
    gaps = [n * abs(c - a) for c, a, n in zip(bins.confidence, bins.accuracy, bins.counts, strict=True) if n]
    ece = score(true, probabilities, speakers, EMOTIONS, n_bootstrap=10).ece.value
    assert sum(gaps) / sum(bins.counts) == pytest.approx(ece)
    assert sum(bins.counts) == len(true)
    assert math.isnan(bins.confidence[0])
