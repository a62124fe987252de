"""A temperature that fits, and a threshold above which the promised share of answers is right."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax as reference_softmax

from ser.scoring.calibration import (
    TARGET_PRECISION,
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
    threshold = choose_threshold(probabilities, true)
    sure = probabilities.max(axis=1) >= threshold
    assert (probabilities.argmax(axis=1) == true)[sure].mean() >= TARGET_PRECISION
    assert 0.1 <= sure.mean() < 1


def test_a_model_that_is_never_good_enough_gets_its_most_precise_useful_threshold():
    rng = np.random.default_rng(1)
    probabilities = rng.dirichlet(np.ones(6), 500)
    threshold = choose_threshold(probabilities, rng.integers(0, 6, 500))
    assert (probabilities.max(axis=1) >= threshold).mean() >= 0.1


def test_what_the_card_states_is_counted_on_other_utterances(honest):
    logits, true = honest
    calibration = calibrate(logits[:2000], true[:2000])
    probabilities = softmax(logits[2000:], calibration.temperature)
    stated = measured(calibration, probabilities, true[2000:])
    right = [
        p.argmax() == t
        for p, t in zip(probabilities, true[2000:], strict=True)
        if p.max() >= stated.threshold
    ]
    assert stated.precision == pytest.approx(sum(right) / len(right))
    assert stated.coverage == pytest.approx(len(right) / 2000)
