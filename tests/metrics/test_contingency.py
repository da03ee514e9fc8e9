import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import matthews_corrcoef

from halflabel.metrics.contingency import phi, wilson_interval


@pytest.mark.parametrize(("yes", "count"), [(0, 1), (3, 7), (0, 10), (40, 40), (500, 1000)])
def test_the_interval_of_a_rate_is_wilsons(yes, count):
    expected = binomtest(yes, count).proportion_ci(0.95, method="wilson")
    np.testing.assert_allclose(wilson_interval(yes, count), [expected.low, expected.high], atol=1e-6)


def test_intervals_of_several_rates_are_those_of_each_and_undefined_without_a_trial():
    found = wilson_interval([3, 0], [7, 0])
    np.testing.assert_allclose(found[:, 0], wilson_interval(3, 7))
    assert np.isnan(found[:, 1]).all()


def test_phi_is_the_correlation_of_the_answers():
    a, b = np.random.default_rng(0).integers(0, 2, (2, 50))
    counts = [((a == first) & (b == second)).sum() for first in (1, 0) for second in (1, 0)]
    assert phi(counts) == pytest.approx(matthews_corrcoef(a, b))
    np.testing.assert_allclose(phi([counts, [4, 0, 0, 6], [0, 4, 6, 0]]), [phi(counts), 1, -1])


def test_phi_is_undefined_where_one_answer_never_varies():
    assert np.isnan(phi([5, 0, 3, 0]))
