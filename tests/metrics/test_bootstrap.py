import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from halflabel import HalflabelError
from halflabel.metrics.bootstrap import mean_over_labels, percentile_interval, resample_ranking


def resample_rows(scores, labels, samples, seed):
    """scikit-learn on the rows that each resample draws; NaN where a label lacks an answer among them."""
    rng = np.random.default_rng(seed)
    measured = np.full((2, samples, labels.shape[1]), math.nan)
    for sample in range(samples):
        rows = rng.integers(0, len(labels), len(labels))
        for j in range(labels.shape[1]):
            y, p = labels[rows, j], scores[rows, j].astype(np.float64)
            if {0, 1} <= set(y):
                for k, metric in enumerate((average_precision_score, roc_auc_score)):
                    measured[k, sample, j] = metric(y[y >= 0], p[y >= 0])
    return measured


@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 4), st.integers(1, 12), st.sampled_from("fd"))
@settings(max_examples=25, deadline=None)
def test_equal_to_scikit_learn_on_the_drawn_rows(seed, rows, columns, levels, dtype):
    rng = np.random.default_rng(seed)
    scores = (rng.integers(-levels, levels, (rows, columns)) / levels).astype(dtype)
    labels = rng.choice([0, 1, -100, -101], (rows, columns), p=rng.dirichlet([1, 1, 0.5, 0.5]))
    found = resample_ranking(scores, labels, samples=8, seed=seed)
    ap, auroc = resample_rows(scores, labels, 8, seed)
    np.testing.assert_allclose(found.average_precision, ap, atol=1e-12)
    np.testing.assert_allclose(found.roc_auc, auroc, atol=1e-12)


def test_memory_bounds_do_not_change_the_resamples(monkeypatch):
    rng = np.random.default_rng(1)
    scores, labels = rng.random((30, 3)), rng.choice([0, 1, -100], (30, 3))
    whole = resample_ranking(scores, labels, samples=20)
    monkeypatch.setattr("halflabel.metrics.bootstrap._WEIGHTS", 30 * 7)
    monkeypatch.setattr("halflabel.metrics.bootstrap._EXACT", 10)
    pieces = resample_ranking(scores, labels, samples=20)
    np.testing.assert_array_equal(pieces.average_precision, whole.average_precision)
    np.testing.assert_array_equal(pieces.roc_auc, whole.roc_auc)


def test_the_seed_decides_the_draws():
    rng = np.random.default_rng(1)
    scores, labels = rng.random((30, 3)), rng.choice([0, 1], (30, 3))
    first, again, other = (resample_ranking(scores, labels, 5, seed).roc_auc for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_no_image_and_nothing_known_give_undefined_resamples():
    for labels in (np.zeros((0, 2), int), np.full((3, 2), -100)):
        found = resample_ranking(np.zeros(labels.shape), labels, samples=4)
        assert found.roc_auc.shape == (4, 2)
        assert np.isnan(found.roc_auc).all()
        assert np.isnan(found.average_precision).all()
        assert np.isnan(mean_over_labels(found.average_precision)).all()
        assert np.isnan(percentile_interval(found.average_precision)).all()


@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 5), st.floats(0.01, 0.99))
@settings(max_examples=50, deadline=None)
def test_intervals_are_numpys_quantiles_of_what_is_defined(seed, samples, columns, ci):
    rng = np.random.default_rng(seed)
    values = np.where(rng.random((samples, columns)) < 0.3, math.nan, rng.random((samples, columns)))
    tails = [(1 - ci) / 2, (1 + ci) / 2]
    for j, interval in enumerate(percentile_interval(values, ci).T):
        defined = values[~np.isnan(values[:, j]), j]
        expected = np.quantile(defined, tails) if len(defined) else [math.nan, math.nan]
        np.testing.assert_allclose(interval, expected, atol=1e-12)
        np.testing.assert_array_equal(percentile_interval(values[:, j], ci), interval)


def test_the_mean_of_a_resample_is_over_its_defined_labels():
    values = np.array([[0.2, 0.6], [math.nan, 0.5], [math.nan, math.nan]])
    np.testing.assert_allclose(mean_over_labels(values), [0.4, 0.5, math.nan])


def test_bad_arguments():
    with pytest.raises(HalflabelError, match="0 resamples are too few"):
        resample_ranking([[0.5]], [[1]], samples=0)
    with pytest.raises(HalflabelError, match="row 0, column 0, is NaN or infinite"):
        resample_ranking([[math.nan]], [[1]], samples=1)
    for ci in (0, 1, 95, math.nan):
        with pytest.raises(HalflabelError, match="expected a confidence between 0 and 1, like 0.95"):
            percentile_interval(np.zeros(3), ci)
