from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit
from sklearn.calibration import _SigmoidCalibration

from halflabel.decide.calibration import fit_shift, fit_sigmoid

fit_platt, fit_temperature = partial(fit_sigmoid, shifted=True), partial(fit_sigmoid, shifted=False)


def targets_of(answers):
    positives, negatives = (answers == 1).sum(), (answers == 0).sum()
    return np.where(answers == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))


@st.composite
def hard_entries(draw):
    """Few or many entries, separable or not, with far outliers, nearly or wholly equal."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    rows = draw(st.integers(2, 300))
    logits = rng.normal(0, 1, rows) ** draw(st.sampled_from([0, 1, 5, 9])) * 10.0 ** draw(st.integers(-30, 30))
    logits[rng.random(rows) < draw(st.sampled_from([0, 0.9]))] = 0
    answers = (rng.random(rows) < draw(st.sampled_from([0.02, 0.5]))).astype(int)
    if draw(st.booleans()):
        answers = (logits > np.median(logits)).astype(int)
    return logits, answers


@given(hard_entries())
@settings(max_examples=200, deadline=None)
def test_the_slope_of_the_convex_loss_is_0_at_what_is_fitted(entries):
    logits, answers = entries
    targets, size = targets_of(answers), np.abs(logits).max() or 1
    rounding = 1e-9 + np.spacing(size)  # no shift is nearer than the next float
    assert (expit(logits + fit_shift(logits, answers)) - targets).mean() == pytest.approx(0, abs=rounding)
    if {0, 1} <= set(answers):
        for scale, shift, free in ((*fit_platt(logits, answers), True), (*fit_temperature(logits, answers), False)):
            missed = expit(scale * logits + shift) - targets
            assert (missed * logits).mean() / size == pytest.approx(0, abs=1e-8)
            assert not free or missed.mean() == pytest.approx(0, abs=1e-8)


def test_platt_is_scikit_learns_sigmoid_calibration():
    rng = np.random.default_rng(1)
    logits = rng.normal(0.5, 2, 400)
    answers = (rng.random(400) < expit(0.7 * logits)).astype(int)
    reference = _SigmoidCalibration().fit(logits, answers)
    assert fit_platt(logits, answers) == pytest.approx((-reference.a_, -reference.b_), abs=1e-4)


def test_a_known_distortion_is_found_again():
    rng = np.random.default_rng(3)
    true = rng.normal(0, 2, 200_000)
    answers = (rng.random(true.shape) < expit(true)).astype(int)
    assert 1 / fit_temperature(2.5 * true, answers)[0] == pytest.approx(2.5, rel=0.02)
    assert fit_platt(2.5 * (true + 1), answers) == pytest.approx((0.4, -1), rel=0.03)


@pytest.mark.parametrize("logits", [[-3.0, -1.0, 1.0, 2.0], [-2e6, -1e6, 1e6, 3e6]])
def test_what_the_logits_separate_stays_finite(logits):
    logits, answers = np.array(logits), np.array([0, 0, 1, 1])
    scale, shift = fit_platt(logits, answers)
    assert min(scale, fit_temperature(logits, answers)[0]) > 0
    scores = expit(scale * logits + shift)
    assert scores.mean() == pytest.approx(0.5, abs=1e-6)  # as the targets, 3/4 and 1/4
    assert scores.max() < 0.9


@pytest.mark.parametrize("value", [0.0, 7.1, -1e6])
def test_equal_logits_have_no_slope_and_the_base_rate_as_score(value):
    scale, shift = fit_platt(np.full(4, value), np.array([1, 0, 0, 0]))
    assert (scale, expit(shift)) == (0, pytest.approx((2 / 3 + 3 / 5) / 4))


@pytest.mark.parametrize("answer", [0, 1])
def test_a_shift_is_found_from_answers_of_one_kind(answer):
    expected = logit([1 / 5, 4 / 5][answer])
    assert fit_shift(np.full(3, 2.0), np.full(3, answer)) == pytest.approx(expected - 2)
