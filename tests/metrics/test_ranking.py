import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from known_rows import of_known_rows, random_case
from sklearn.metrics import average_precision_score, roc_auc_score

from halflabel.metrics.ranking import average_precision, roc_auc

CASES = (st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 6), st.integers(1, 12))


@given(*CASES, st.sampled_from("efd"))
@settings(max_examples=150, deadline=None)
def test_equal_to_scikit_learn_on_known_rows(seed, rows, columns, levels, dtype):
    scores, labels = random_case(seed, rows, columns, levels, dtype)
    for ours, theirs in ((average_precision, average_precision_score), (roc_auc, roc_auc_score)):
        expected = of_known_rows(theirs, scores.astype(np.float64), labels, both=True)
        np.testing.assert_allclose(ours(scores, labels), expected, atol=1e-12)


@pytest.mark.parametrize("scores", [[-3e38, -5.0, 3e38, -0.0, 0.0], [-9, -10, 4, 0, 1]])
def test_scores_of_any_size_are_ranked(scores):
    wide, labels = np.array(scores, dtype=np.float64)[:, None], np.array([[1], [0], [1], [0], [-100]])
    expected = of_known_rows(roc_auc_score, wide, labels)
    for given_ in (wide.tolist(), wide, wide.astype(np.float32)):
        np.testing.assert_array_equal(roc_auc(given_, labels), expected)


def test_zero_and_minus_zero_tie():
    assert roc_auc([[0.0], [-0.0]], [[1], [0]]) == 0.5
    assert average_precision(np.float32([[-0.0], [0.0]]), [[1], [0]]) == 0.5
