"""A temperature that fits, and a threshold above which the promised share of answers is right."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax as reference_softmax

from ser.scoring.calibration import (
    TARGET_PRECISION,
    Calibration,
    calibrate,
    choose_threshold,
    fit_temperature,
    measured,
    softmax,
)


@pytest.fixture
def honest() -> tuple[np.ndarray, np.ndarray]:
    """Logits whose softmax is the true probability of each class."""
    rng = np.random.default_rng(0)
    logits = 1.5 * rng.standard_normal((4000, 6))
    true = np.array([rng.choice(6, p=row) for row in reference_softmax(logits, axis=1)])
    return logits, true


def test_softmax_agrees_with_scipy_and_survives_large_logits():
    logits = np.array([[1.0, 2.0, 3.0], [1000.0, 0.0, -1000.0]])
    np.testing.assert_allclose(softmax(logits, 2.0), reference_softmax(logits / 2, axis=1), atol=1e-12)


@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_the_temperature_undoes_a_scale_of_the_logits(honest, factor):
    logits, true = honest
    assert fit_temperature(factor * logits, true) == pytest.approx(factor, rel=0.06)


def test_above_the_threshold_the_promised_share_is_right(honest):
    logits, true = honest
    probabilities = softmax(logits)
    sure = probabilities.max(axis=1) >= choose_threshold(probabilities, true)
    assert (probabilities.argmax(axis=1) == true)[sure].mean() >= TARGET_PRECISION
    assert 0.1 <= sure.mean() < 1


CHANCE = {
    "random": np.random.default_rng(1).dirichlet(np.ones(6), 500), "even": np.full((500, 6), 1 / 6),
    "always the same": np.tile(np.array([0.3, 0.2, 0.2, 0.1, 0.1, 0.1]), (500, 1)),
    "certain": np.eye(6)[np.random.default_rng(1).integers(0, 6, 500)],
}  # fmt: skip


@pytest.mark.parametrize("kind", CHANCE)
def test_a_model_at_chance_level_is_never_sure(kind):
    probabilities, true = CHANCE[kind], np.random.default_rng(2).integers(0, 6, 500)
    true[:10] = 0  # the first are right by luck, but nothing tells them from the others
    threshold = choose_threshold(probabilities, true)
    assert threshold > 1
    nothing = measured(Calibration(1.0, threshold), probabilities.max(axis=1) >= threshold, true == 0)
    assert (nothing.precision, nothing.coverage) == (None, 0.0)


def test_a_precision_counted_on_a_handful_of_answers_is_no_precision():
    probabilities = np.array([[0.9, 0.1]] * 9 + [[0.6, 0.4]] * 9)
    true = np.array([0] * 9 + [1] * 9)
    assert choose_threshold(probabilities, true) > 1
    assert choose_threshold(np.repeat(probabilities, 2, axis=0), np.repeat(true, 2)) == 0.9


def test_precision_and_coverage_are_counted_on_the_sure_answers(honest):
    logits, true = honest
    calibration = calibrate(logits[:2000], true[:2000])
    probabilities = softmax(logits[2000:], calibration.temperature)
    sure, right = (probabilities.max(axis=1) >= calibration.threshold, probabilities.argmax(axis=1) == true[2000:])
    stated = measured(calibration, sure, right)
    assert stated.precision == pytest.approx(right[sure].mean())
    assert stated.coverage == pytest.approx(sure.mean())
