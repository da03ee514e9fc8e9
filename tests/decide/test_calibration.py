import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize
from sklearn.calibration import _SigmoidCalibration

from halflabel import HalflabelError
from halflabel.decide.calibration import fit_platt, fit_shift, fit_temperature, pool_entries, scarce_groups


def draw(seed, rows=60, columns=4, scale=1.0, known=0.6):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (rows, columns)) + rng.normal(0, 1, columns)
    labels = (rng.random((rows, columns)) < 1 / (1 + np.exp(-rng.uniform(0.2, 1.5, columns) * logits))).astype(int)
    return logits * scale, np.where(rng.random((rows, columns)) < known, labels, -100)


def known_rows(logits, labels):
    """Give the column, its known logits and Platt's targets for them."""
    for j in range(labels.shape[1]):
        known = labels[:, j] >= 0
        answers = labels[known, j]
        positives, negatives = (answers == 1).sum(), (answers == 0).sum()
        yield j, logits[known, j], np.where(answers == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))


def loss(scale, shift, logits, targets):
    values = scale * logits + shift
    return (np.logaddexp(0, values) - targets * values).sum()


@given(st.integers(0, 10**6), st.integers(5, 80), st.integers(1, 5), st.sampled_from([1e-3, 1.0, 1e3]))
@settings(max_examples=60, deadline=None)
def test_no_other_scale_and_shift_fit_better(seed, rows, columns, size):
    logits, labels = draw(seed, rows, columns, size)
    (scale, shift), temperature = fit_platt(logits, labels), fit_temperature(logits, labels)
    for j, z, targets in known_rows(logits, labels):
        answers = labels[labels[:, j] >= 0, j]
        if len(np.unique(answers)) < 2:
            assert np.isnan([scale[j], shift[j], temperature[j]]).all()
            continue
        best = minimize(lambda v, z=z, t=targets: loss(v[0] / size, v[1], z, t), [0, 0], method="BFGS", tol=1e-12)
        assert loss(scale[j], shift[j], z, targets) <= best.fun + 1e-6
        one = minimize(lambda v, z=z, t=targets: loss(v[0] / size, 0, z, t), [0], method="BFGS", tol=1e-12)
        assert loss(temperature[j], 0, z, targets) <= one.fun + 1e-6
        assert temperature[j] * size == pytest.approx(one.x[0], abs=1e-3)


def test_platt_is_scikit_learns_sigmoid_calibration_on_the_known_rows():
    logits, labels = draw(1, rows=400)
    scale, shift = fit_platt(logits, labels)
    for j in range(4):
        known = labels[:, j] >= 0
        reference = _SigmoidCalibration().fit(logits[known, j], labels[known, j])
        assert scale[j] == pytest.approx(-reference.a_, abs=1e-4)
        assert shift[j] == pytest.approx(-reference.b_, abs=1e-4)


def test_the_shift_alone_makes_scores_and_targets_agree_on_average():
    logits, labels = draw(2)
    labels[:, 1] = np.where(labels[:, 1] == 1, -100, labels[:, 1])  # only no is known
    labels[:, 2] = -100
    shift = fit_shift(logits, labels)
    assert np.isnan(shift).tolist() == [False, False, True, False]
    for j, z, targets in known_rows(logits, labels):
        if j != 2:
            root = brentq(lambda b, z=z, t=targets: (1 / (1 + np.exp(-z - b)) - t).sum(), -50, 50, xtol=1e-12)
            assert shift[j] == pytest.approx(root, abs=1e-7)


@pytest.mark.parametrize("seed", range(4))
def test_the_shift_is_found_also_where_most_scores_are_near_0_or_1(seed):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(0, 1, (20, 20)) ** 5, rng.integers(0, 2, (20, 20))
    targets = np.where(labels == 1, (labels.sum(0) + 1) / (labels.sum(0) + 2), 1 / ((1 - labels).sum(0) + 2))
    scores = 1 / (1 + np.exp(-np.clip(logits + fit_shift(logits, labels), -700, 700)))
    np.testing.assert_allclose(scores.sum(axis=0), targets.sum(axis=0), atol=1e-6)


def test_a_known_distortion_is_found_again():
    rng = np.random.default_rng(3)
    true = rng.normal(0, 2, (200_000, 2))
    labels = (rng.random(true.shape) < 1 / (1 + np.exp(-true))).astype(int)
    np.testing.assert_allclose(1 / fit_temperature(2.5 * true, labels), 2.5, rtol=0.02)
    scale, shift = fit_platt(2.5 * (true + 1), labels)
    np.testing.assert_allclose(scale, 0.4, rtol=0.02)
    np.testing.assert_allclose(shift, -1, rtol=0.03)


def test_labels_that_the_logits_separate_stay_finite():
    logits = np.array([[-3.0, -2e6], [-1.0, -1e6], [1.0, 1e6], [2.0, 3e6]])
    labels = np.array([[0, 0], [0, 0], [1, 1], [1, 1]])
    scale, shift = fit_platt(logits, labels)
    temperature = fit_temperature(logits, labels)
    for values in (scale, temperature):
        assert np.isfinite(values).all()
        assert (values > 0).all()
    scores = 1 / (1 + np.exp(-(scale * logits + shift)))
    np.testing.assert_allclose(scores.mean(axis=0), 0.5, atol=1e-6)  # as the targets, 3/4 and 1/4
    assert scores.max() < 0.9


def test_equal_logits_have_no_slope_and_the_base_rate_as_score():
    labels = np.array([[1], [0], [0], [0]])
    scale, shift = fit_platt(np.full((4, 1), 7.0), labels)
    assert scale[0] == 0
    assert 1 / (1 + math.exp(-shift[0])) == pytest.approx((2 / 3 + 3 / 5) / 4)


def test_unknown_entries_count_for_nothing():
    logits, labels = draw(4)
    labels[0] = -101  # uncertain
    expected = [fit_platt(logits[labels[:, j] >= 0, j, None], labels[labels[:, j] >= 0, j, None]) for j in range(4)]
    for filler in (np.nan, 1e9):
        found = fit_platt(np.where(labels < 0, filler, logits), labels)
        np.testing.assert_allclose(found, np.hstack(expected), rtol=1e-9)


def test_chunks_do_not_change_the_result(monkeypatch):
    logits, labels = draw(5, rows=50, columns=9)
    whole = fit_platt(logits, labels), fit_temperature(logits, labels)
    monkeypatch.setattr("halflabel.decide.calibration.CHUNK_ENTRIES", 100)
    for one, other in zip((fit_platt(logits, labels), fit_temperature(logits, labels)), whole, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)


def test_labels_short_of_yes_and_labels_short_of_no_are_pooled_apart():
    groups = scarce_groups(np.array([3, 50, 2, 40]), np.array([90, 4, 1, 40]), 10)
    assert [group.tolist() for group in groups] == [[0, 2], [1]]


def test_a_pool_holds_the_known_entries_of_its_labels_and_of_all_where_these_are_too_few(monkeypatch):
    labels = np.array([[1, 0, -100], [0, -100, 1], [1, 1, 0], [-100, 0, 0]])
    values = np.arange(12.0).reshape(4, 3)
    (pooled,) = pool_entries([values], labels, np.array([0, 2]), 1)
    assert sorted(pooled[:, 0].tolist()) == [0, 3, 5, 6, 8, 11]
    (pooled,) = pool_entries([values], labels, np.array([0, 2]), 4)
    assert sorted(pooled[:, 0].tolist()) == sorted(values[labels >= 0].tolist())
    monkeypatch.setattr("halflabel.decide.calibration.CHUNK_ENTRIES", 2)
    (pooled,) = pool_entries([values], labels, np.array([0, 1, 2]), 1)
    assert len(pooled) == 3  # every third of nine


@pytest.mark.parametrize("fit", [fit_platt, fit_temperature, fit_shift])
def test_bad_arguments(fit):
    with pytest.raises(HalflabelError, match="must agree"):
        fit(np.zeros((2, 2)), np.zeros((2, 3), int))
    with pytest.raises(HalflabelError, match="NaN"):
        fit([[math.nan], [0.0]], [[1], [0]])
    with pytest.raises(HalflabelError, match="label value 3"):
        fit([[1.0], [0.0]], [[3], [0]])
