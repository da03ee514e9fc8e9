import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from known_rows import of_known_rows, random_case
from scipy.stats import binomtest, ttest_1samp
from sklearn.metrics import average_precision_score, roc_auc_score

from halflabel import HalflabelError
from halflabel.metrics.intervals import (
    mean_interval,
    mean_over_labels,
    percentile_interval,
    resample_ranking,
    wilson_interval,
)


@pytest.mark.parametrize(("yes", "count"), [(0, 1), (3, 7), (0, 10), (40, 40), (500, 1000)])
def test_the_interval_of_a_rate_is_wilsons(yes, count):
    expected = binomtest(yes, count).proportion_ci(0.95, method="wilson")
    np.testing.assert_allclose(wilson_interval(yes, count), [expected.low, expected.high], atol=1e-6)
    several = wilson_interval([yes, 0], [count, 0])
    np.testing.assert_allclose(several[:, 0], wilson_interval(yes, count))
    assert np.isnan(several[:, 1]).all()  # without a trial


def test_the_interval_of_a_mean_is_students():
    for values in ([0.5, 0.7], [0.1, 0.12, 0.05, -0.02]):
        for ci in (0.9, 0.95):
            expected = ttest_1samp(values, 0).confidence_interval(ci)
            np.testing.assert_allclose(mean_interval(values, ci), [expected.low, expected.high], rtol=1e-9)
    np.testing.assert_array_equal(mean_interval([0.5, 0.5, 0.5]), [0.5, 0.5])
    for undefined in ([], [0.5], [0.5, math.nan, 0.7]):
        assert np.isnan(mean_interval(undefined)).all()


@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 4), st.integers(1, 12), st.sampled_from("fd"))
@settings(max_examples=25, deadline=None)
def test_equal_to_scikit_learn_on_the_drawn_rows(seed, rows, columns, levels, dtype):
    scores, labels = random_case(seed, rows, columns, levels, dtype)
    scores = 2 * scores - 1
    found = resample_ranking(scores, labels, samples=8, seed=seed)
    rng = np.random.default_rng(seed)
    draws = [rng.integers(0, rows, rows) for _ in range(8)]
    for ours, theirs in ((found.average_precision, average_precision_score), (found.roc_auc, roc_auc_score)):
        expected = [of_known_rows(theirs, scores[drawn].astype("d"), labels[drawn], both=True) for drawn in draws]
        np.testing.assert_allclose(ours, expected, atol=1e-12)


def test_the_seed_decides_the_draws_and_memory_bounds_change_nothing(monkeypatch):
    scores, labels = random_case(1, 30, 3, 10**6)
    first, other = (resample_ranking(scores, labels, 20, seed) for seed in (0, 1))
    assert (first.roc_auc != other.roc_auc).any()
    monkeypatch.setattr("halflabel.metrics.intervals._WEIGHTS", 30 * 7)
    monkeypatch.setattr("halflabel.metrics.intervals._EXACT", 10)
    again = resample_ranking(scores, labels, 20, 0)
    np.testing.assert_array_equal(again.average_precision, first.average_precision)
    np.testing.assert_array_equal(again.roc_auc, first.roc_auc)


def test_no_image_and_nothing_known_give_undefined_resamples():
    for labels in (np.zeros((0, 2), int), np.full((3, 2), -100)):
        found = resample_ranking(np.zeros(labels.shape), labels, samples=4)
        assert found.roc_auc.shape == (4, 2)
        for values in (found.roc_auc, found.average_precision):
            assert np.isnan(values).all()
            assert np.isnan(mean_over_labels(values)).all()
            assert np.isnan(percentile_interval(values)).all()


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
        for interval in (percentile_interval, mean_interval):
            with pytest.raises(HalflabelError, match="expected a confidence between 0 and 1, like 0.95"):
                interval(np.zeros(3), ci)


def test_groups_are_drawn_as_wholes():
    scores, labels = np.arange(40.0)[:, None], (np.arange(40) % 3 == 0).astype(np.int8)[:, None]
    alone = resample_ranking(scores, labels, 50, seed=3)
    copies = (np.repeat(one, 4, axis=0) for one in (scores, labels))
    grouped = resample_ranking(*copies, 50, seed=3, groups=np.repeat(np.arange(40), 4))
    np.testing.assert_allclose(grouped.roc_auc, alone.roc_auc)
    np.testing.assert_allclose(grouped.average_precision, alone.average_precision)
