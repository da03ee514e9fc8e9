import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from known_rows import of_known_rows, random_case
from sklearn.metrics import fbeta_score, matthews_corrcoef, precision_score, recall_score

from halflabel import HalflabelError
from halflabel.metrics.answers import decision_summary, f_score, phi, precision, recall

CASES = (st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 6), st.integers(1, 12))


def with_thresholds(seed, rows, columns, levels):
    scores, labels = random_case(seed, rows, columns, levels)
    return scores, labels, np.random.default_rng(seed).integers(0, levels + 2, columns) / levels


@given(*CASES, st.sampled_from([0.0, 0.5, 1.0, 2.0]))
@settings(max_examples=100, deadline=None)
def test_equal_to_scikit_learn_on_known_rows_undefined_ones_too(seed, rows, columns, levels, beta):
    scores, labels, thresholds = with_thresholds(seed, rows, columns, levels)
    for ours, theirs, how in (
        (precision(scores, labels, thresholds), precision_score, {}),
        (recall(scores, labels, thresholds), recall_score, {}),
        (f_score(scores, labels, thresholds, beta), fbeta_score, {"beta": beta}),
    ):
        decided = (scores >= thresholds).astype(int)
        expected = of_known_rows(lambda y, d, f=theirs, k=how: f(y, d, zero_division=np.nan, **k), decided, labels)
        np.testing.assert_allclose(ours, expected, atol=1e-12)


@given(*CASES)
@settings(max_examples=50, deadline=None)
def test_averages_over_labels_and_over_all_entries(seed, rows, columns, levels):
    scores, labels, thresholds = with_thresholds(seed, rows, columns, levels)
    each = [metric(scores, labels, thresholds) for metric in (precision, recall, f_score)]
    cp, cr, macro_f1 = (values[~np.isnan(values)].mean() if (~np.isnan(values)).any() else math.nan for values in each)
    known = labels >= 0
    decided, y = (scores >= thresholds)[known], labels[known]
    tp, yes, positives = int((decided & (y == 1)).sum()), int(decided.sum()), int((y == 1).sum())
    expected = {
        "CP": cp,
        "CR": cr,
        "CF1": 0.0 if cp == cr == 0 else 2 / (1 / cp + 1 / cr) if cp and cr else cp * cr,
        "OP": tp / yes if yes else math.nan,
        "OR": tp / positives if positives else math.nan,
        "OF1": 2 * tp / (yes + positives) if yes + positives else math.nan,
        "macro_F1": macro_f1,
    }
    assert decision_summary(scores, labels, thresholds) == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_a_score_equal_to_its_threshold_is_decided_yes_in_float64():
    assert recall([[0.3]], [[1]], 0.3) == 1.0
    nearest = np.float32([[0.7]])  # 0.699999988
    assert recall(nearest, [[1]], 0.7) == 0.0
    assert recall(nearest, [[1]], nearest[0]) == 1.0


def test_a_label_without_a_known_yes_has_no_recall_and_an_f_score_only_if_something_is_decided_yes():
    scores, labels = [[0.9, 0.1], [0.2, 0.2]], [[0, 0], [0, 0]]
    np.testing.assert_array_equal(precision(scores, labels, 0.5), [0.0, math.nan])
    np.testing.assert_array_equal(recall(scores, labels, 0.5), [math.nan, math.nan])
    np.testing.assert_array_equal(f_score(scores, labels, 0.5), [0.0, math.nan])


@pytest.mark.parametrize(
    ("thresholds", "message"),
    [
        ([0.5], "thresholds have shape (1,): give a number, or one for each of 2 labels"),
        ([[0.5, 0.5]], "thresholds have shape (1, 2): give a number, or one for each of 2 labels"),
        ([0.5, math.nan], "a threshold is NaN or infinite"),
    ],
)
def test_thresholds_that_do_not_fit(thresholds, message):
    for measure in (precision, decision_summary):
        with pytest.raises(HalflabelError) as error:
            measure([[0.1, 0.2]], [[1, 0]], thresholds)
        assert str(error.value) == message


@pytest.mark.parametrize("beta", [-1.0, math.nan, math.inf])
def test_a_beta_that_is_none(beta):
    with pytest.raises(HalflabelError, match="beta is .*, expected a number of at least 0"):
        f_score([[0.1]], [[1]], 0.5, beta)


def test_phi_is_the_correlation_of_the_answers():
    a, b = np.random.default_rng(0).integers(0, 2, (2, 50))
    counts = [((a == first) & (b == second)).sum() for first in (1, 0) for second in (1, 0)]
    assert phi(counts) == pytest.approx(matthews_corrcoef(a, b))
    np.testing.assert_allclose(phi([counts, [4, 0, 0, 6], [0, 4, 6, 0]]), [phi(counts), 1, -1])
    assert np.isnan(phi([5, 0, 3, 0]))  # one answer never varies
