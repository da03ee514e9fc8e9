import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from halflabel.metrics.measures import average_precision, micro_average_precision, roc_auc


def oracle(metric, scores, labels):
    """scikit-learn on the known rows of each label; NaN where one class is missing."""
    out = []
    for j in range(labels.shape[1]):
        known = labels[:, j] >= 0
        y = labels[known, j]
        out.append(metric(y, scores[known, j]) if 0 < y.sum() < len(y) else math.nan)
    return np.array(out)


def random_case(seed, rows, columns, levels, dtype=np.float64):
    rng = np.random.default_rng(seed)
    scores = (rng.integers(0, levels, (rows, columns)) / levels).astype(dtype)  # few levels: many ties
    return scores, rng.choice([0, 1, -100, -101], (rows, columns), p=rng.dirichlet([1, 1, 0.5, 0.5]))


@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 6), st.integers(1, 12), st.sampled_from("efd"))
@settings(max_examples=150, deadline=None)
def test_equal_to_scikit_learn_on_known_rows(seed, rows, columns, levels, dtype):
    scores, labels = random_case(seed, rows, columns, levels, dtype)
    wide = scores.astype(np.float64)
    np.testing.assert_allclose(
        average_precision(scores, labels), oracle(average_precision_score, wide, labels), atol=1e-12
    )
    np.testing.assert_allclose(roc_auc(scores, labels), oracle(roc_auc_score, wide, labels), atol=1e-12)


@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 6), st.integers(1, 12))
@settings(max_examples=50, deadline=None)
def test_micro_is_scikit_learns_on_all_known_entries(seed, rows, columns, levels):
    scores, labels = random_case(seed, rows, columns, levels)
    known = labels >= 0
    expected = oracle(average_precision_score, scores[known][:, None], labels[known][:, None])[0]
    assert micro_average_precision(scores, labels) == pytest.approx(expected, abs=1e-12, nan_ok=True)


@given(st.integers(0, 10**6), st.integers(2, 40), st.integers(2, 6), st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_equal_to_torchmetrics_where_a_label_has_both_answers(seed, rows, columns, levels):
    functional = pytest.importorskip("torchmetrics.functional.classification")
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, (rows, columns)) / levels
    labels = rng.choice([0, 1, -100], (rows, columns))
    labels[0], labels[1] = 0, 1
    given_ = (torch.from_numpy(scores), torch.from_numpy(labels))
    how = {"num_labels": columns, "average": None, "ignore_index": -100}
    theirs = functional.multilabel_average_precision(*given_, **how), functional.multilabel_auroc(*given_, **how)
    np.testing.assert_allclose(average_precision(scores, labels), theirs[0], atol=1e-6)
    np.testing.assert_allclose(roc_auc(scores, labels), theirs[1], atol=1e-6)


def test_scores_of_any_size_are_ranked():
    labels = [[1], [0], [1], [0], [-100]]
    for scores in ([-3e38], [-5.0], [3e38], [-0.0], [0.0]), ([-9], [-10], [4], [0], [1]):
        wide = np.array(scores, dtype=np.float64)
        expected = oracle(roc_auc_score, wide, np.array(labels))
        np.testing.assert_array_equal(roc_auc(scores, labels), expected)
        np.testing.assert_array_equal(roc_auc(wide.astype(np.float32), labels), expected)


def test_zero_and_minus_zero_tie():
    assert roc_auc([[0.0], [-0.0]], [[1], [0]]) == 0.5
    assert average_precision(np.float32([[-0.0], [0.0]]), [[1], [0]]) == 0.5
