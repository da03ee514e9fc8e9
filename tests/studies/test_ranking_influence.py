import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from halflabel.studies.ranking_influence import Estimate, ap_influence, auroc_influence, estimate, holm, ranks_within

MEASURES = [(auroc_influence, roc_auc_score), (ap_influence, average_precision_score)]


@pytest.fixture
def entries():
    rng = np.random.default_rng(0)
    yes = rng.random(60) < 0.3
    return (yes + rng.normal(size=60)).round(1), yes  # with ties


@pytest.mark.parametrize(("measure", "oracle"), MEASURES, ids=["auroc", "ap"])
def test_value_and_influence_are_those_of_scikit_learn_with_weights(measure, oracle, entries):
    scores, yes = entries
    value, influence = measure(scores, yes)
    assert value == pytest.approx(oracle(yes, scores), abs=1e-12)
    step = 1e-5
    for i in range(len(scores)):
        more, less = np.ones(60), np.ones(60)
        more[i], less[i] = 1 + step, 1 - step
        slope = (oracle(yes, scores, sample_weight=more) - oracle(yes, scores, sample_weight=less)) / (2 * step)
        assert influence[i] == pytest.approx(slope, abs=1e-8)
    assert influence.sum() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("measure", [auroc_influence, ap_influence])
def test_the_standard_error_is_the_spread_over_new_data(measure):
    rng = np.random.default_rng(1)
    drawn = (rng.random(600) < 0.3 for _ in range(800))  # average precision depends on how many are yes
    found = [measure(yes + rng.normal(size=600), yes) for yes in drawn]
    errors = [estimate(value, influence, np.arange(600), 180).error for value, influence in found]
    assert np.mean(errors) == pytest.approx(np.std([value for value, _ in found]), rel=0.1)


def test_a_picture_that_stands_there_five_times_in_a_group_makes_nothing_surer(entries):
    scores, yes = entries
    value, influence = auroc_influence(scores, yes)
    once = estimate(value, influence, np.arange(60), int(yes.sum()))
    value, influence = auroc_influence(np.repeat(scores, 5), np.repeat(yes, 5))
    grouped = estimate(value, influence, np.repeat(np.arange(60), 5), int(yes.sum()))
    assert (grouped.value, grouped.error) == pytest.approx((once.value, once.error))
    alone = estimate(value, influence, np.arange(300), 5 * int(yes.sum()))
    assert alone.error == pytest.approx(once.error / np.sqrt(5), rel=0.05)


def test_interval_and_p_value_are_students():
    found = Estimate(0.7, 0.1, 9)
    low, high = found.interval(0.9)
    assert (low + high) / 2 == pytest.approx(0.7)
    assert stats.t.cdf((high - 0.7) / 0.1, 9) == pytest.approx(0.95)
    assert found.p_value(0.5) == pytest.approx(2 * (1 - stats.t.cdf(2, 9)))
    assert (Estimate(0.0, 0.0, 9).p_value(), Estimate(0.2, 0.0, 9).p_value()) == (1, 0)
    assert estimate(0.5, np.zeros(4), np.arange(4), 2, 3.0).interval() == (0.5, 0.5)


def test_the_variance_is_inflated(entries):
    value, influence = ap_influence(*entries)
    plain, inflated = (estimate(value, influence, np.arange(60), 10, factor).error for factor in (1, 2.25))
    assert inflated == pytest.approx(1.5 * plain)


def test_holm_multiplies_the_smallest_by_the_number_of_tests_the_next_by_one_less_and_keeps_the_order():
    given = [0.04, 0.001, 0.03, 0.5]
    expected, least = [0.0] * 4, 0.0
    for step, place in enumerate(sorted(range(4), key=given.__getitem__)):
        least = max(least, min(1, given[place] * (4 - step)))
        expected[place] = least
    np.testing.assert_allclose(holm(given), expected)
    assert holm([]).shape == (0,)


def test_ranks_are_taken_within_label_and_part_and_nan_stays():
    scores = np.array([[1.0, np.nan], [3.0, 5.0], [3.0, 4.0], [1000.0, 1.0], [2000.0, np.nan]])
    ranks = ranks_within(scores, np.array([0, 0, 0, 1, 1]))
    np.testing.assert_allclose(ranks[:, 0], [1 / 6, 4 / 6, 4 / 6, 1 / 4, 3 / 4])
    np.testing.assert_allclose(ranks[:, 1], [np.nan, 3 / 4, 1 / 4, 1 / 2, np.nan])
