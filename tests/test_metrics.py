import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

from halflabel import HalflabelError, average_precision, roc_auc
from halflabel.metrics import evaluate_scores, known_loss, mean_defined


def oracle(metric, scores, labels):
    """scikit-learn on the known rows of each label; NaN where one class is missing."""
    out = []
    for j in range(labels.shape[1]):
        known = labels[:, j] != -100
        y = labels[known, j]
        out.append(metric(y, scores[known, j]) if 0 < y.sum() < len(y) else math.nan)
    return np.array(out)


@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 6), st.integers(1, 12))
@settings(max_examples=150, deadline=None)
def test_equal_to_scikit_learn_on_known_rows(seed, rows, columns, levels):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels, (rows, columns)) / levels  # few levels: many ties
    labels = rng.choice([0, 1, -100], (rows, columns), p=rng.dirichlet([1, 1, 1]))
    np.testing.assert_allclose(
        average_precision(scores, labels), oracle(average_precision_score, scores, labels), atol=1e-12
    )
    np.testing.assert_allclose(roc_auc(scores, labels), oracle(roc_auc_score, scores, labels), atol=1e-12)


def test_chunks_do_not_change_the_result(monkeypatch):
    rng = np.random.default_rng(1)
    scores, labels = rng.random((50, 9)), rng.choice([0, 1, -100], (50, 9))
    whole = average_precision(scores, labels)
    monkeypatch.setattr("halflabel.metrics._CHUNK_ENTRIES", 100)
    np.testing.assert_array_equal(average_precision(scores, labels), whole)


def test_a_score_of_an_unknown_entry_does_not_count():
    labels = np.array([[1], [0], [-100], [1]])
    for value in (0.0, 1.0, np.nan):
        assert average_precision([[0.9], [0.2], [value], [0.8]], labels) == [1.0]


def test_undefined_is_none_listed_and_left_out_of_the_mean():
    labels = np.array([[1, 1, -100], [0, 1, -100], [1, 1, -100]])
    result = evaluate_scores(np.array([[0.9, 0.5, 0.1], [0.1, 0.4, 0.1], [0.8, 0.3, 0.1]]), labels, ["a", "b", "c"])
    assert result["undefined_labels"] == ["b", "c"]
    assert result["mAP"] == 1.0
    assert result["labels"]["b"] == {"AP": None, "AUROC": None, "known": 3, "positives": 3}
    assert "NaN" not in json.dumps(result)
    assert math.isnan(mean_defined(np.array([math.nan])))


def test_known_loss_is_scikit_learns_on_known_entries():
    rng = np.random.default_rng(2)
    logits, labels = rng.normal(0, 2, (30, 4)), rng.choice([0, 1, -100], (30, 4))
    known = labels != -100
    expected = log_loss(labels[known], 1 / (1 + np.exp(-logits[known])))
    assert known_loss(logits, labels) == pytest.approx(expected, rel=1e-9)
    assert math.isnan(known_loss([[0.0]], [[-100]]))


def test_bad_arguments():
    with pytest.raises(HalflabelError, match="shape"):
        average_precision(np.zeros((2, 2)), np.zeros((2, 3), int))
    with pytest.raises(HalflabelError, match="NaN"):
        roc_auc([[math.nan], [0.0]], [[1], [0]])
