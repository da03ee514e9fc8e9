import numpy as np
import pytest
import torch
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


@given(*CASES)
@settings(max_examples=30, deadline=None)
def test_equal_to_torchmetrics_where_a_label_has_both_answers(seed, rows, columns, levels):
    functional = pytest.importorskip("torchmetrics.functional.classification")
    scores, labels = random_case(seed, rows + 2, columns + 1, levels)
    labels[0], labels[1] = 0, 1
    given_ = (torch.from_numpy(scores), torch.from_numpy(np.where(labels < 0, -100, labels)))
    how = {"num_labels": columns + 1, "average": None, "ignore_index": -100}
    theirs = functional.multilabel_average_precision(*given_, **how), functional.multilabel_auroc(*given_, **how)
    np.testing.assert_allclose(average_precision(scores, labels), theirs[0], atol=1e-6)
    np.testing.assert_allclose(roc_auc(scores, labels), theirs[1], atol=1e-6)


@pytest.mark.parametrize("scores", [[-3e38, -5.0, 3e38, -0.0, 0.0], [-9, -10, 4, 0, 1]])
def test_scores_of_any_size_are_ranked(scores):
    wide, labels = np.array(scores, dtype=np.float64)[:, None], np.array([[1], [0], [1], [0], [-100]])
    expected = of_known_rows(roc_auc_score, wide, labels)
    for given_ in (wide.tolist(), wide, wide.astype(np.float32)):
        np.testing.assert_array_equal(roc_auc(given_, labels), expected)


def test_zero_and_minus_zero_tie():
    assert roc_auc([[0.0], [-0.0]], [[1], [0]]) == 0.5
    assert average_precision(np.float32([[-0.0], [0.0]]), [[1], [0]]) == 0.5
