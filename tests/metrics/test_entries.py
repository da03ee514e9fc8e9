import math
import re

import numpy as np
import pytest
import torch

from halflabel import HalflabelError
from halflabel.metrics.answers import precision
from halflabel.metrics.calibration import brier_score, calibration_error, log_loss
from halflabel.metrics.ranking import average_precision, roc_auc


def precision_at_varied_thresholds(scores, labels):
    return precision(scores, labels, np.linspace(0.1, 0.9, np.shape(scores)[1]))


MEASURES = [average_precision, roc_auc, brier_score, log_loss, calibration_error, precision_at_varied_thresholds]
LABELS = np.array([[1, 0], [0, -100], [1, -101], [0, 1]])
SCORES = np.array([[0.9, 0.1], [0.2, 0.4], [0.7, 0.3], [0.8, 0.6]])


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("value", [0.0, 1.0, 7.0, math.nan, math.inf])
def test_a_score_of_an_unknown_entry_does_not_count(measure, value):
    np.testing.assert_array_equal(measure(np.where(LABELS < 0, value, SCORES), LABELS), measure(SCORES, LABELS))


@pytest.mark.parametrize("measure", MEASURES)
def test_tensors_and_lists_are_taken_as_arrays_are_which_stay_as_they_are(measure):
    given = np.asfortranarray(SCORES), np.asfortranarray(LABELS)
    expected = measure(*given)
    for array, before in zip(given, (SCORES, LABELS), strict=True):
        np.testing.assert_array_equal(array, before)
    np.testing.assert_array_equal(measure(SCORES.tolist(), LABELS.tolist()), expected)
    scores = torch.tensor(SCORES, requires_grad=True)
    np.testing.assert_array_equal(measure(scores, torch.from_numpy(LABELS).float()), expected)
    half = torch.tensor(SCORES, dtype=torch.bfloat16)
    np.testing.assert_array_equal(measure(half, LABELS), measure(half.float().numpy(), LABELS))


@pytest.mark.parametrize("measure", MEASURES)
def test_chunks_of_labels_do_not_change_the_result(measure, monkeypatch):
    rng = np.random.default_rng(1)
    scores, labels = rng.random((50, 40)), rng.choice([0, 1, -100], (50, 40))
    whole = measure(scores, labels)
    monkeypatch.setattr("halflabel.metrics.entries._CHUNK_ENTRIES", 100)
    monkeypatch.setattr("halflabel.metrics.entries._CHECKED", 100)
    np.testing.assert_array_equal(measure(scores, labels), whole)


@pytest.mark.parametrize("measure", MEASURES)
def test_nothing_known_is_nan_and_no_label_gives_no_value(measure):
    assert np.isnan(measure(np.zeros((3, 2)), np.full((3, 2), -100))).all()
    assert np.isnan(measure(np.zeros((0, 2)), np.zeros((0, 2), int))).all()
    assert measure(np.zeros((3, 0)), np.zeros((3, 0), int)).shape == (0,)


@pytest.mark.parametrize(
    ("measure", "scores", "labels", "message"),
    [
        (roc_auc, np.zeros((2, 2)), np.zeros((2, 3), int), "scores have shape (2, 2), labels (2, 3); they must agree"),
        (roc_auc, [0.5], [1], "labels have shape (1,), expected (images, num_labels)"),
        (roc_auc, [[0.5]], [[2]], "label value 2 at row 0, column 0 is not 1, 0, or below 0"),
        (roc_auc, [["a"]], [[1]], "scores hold values of type <U1, expected real numbers"),
        (average_precision, [[0.1], [math.nan]], [[1], [0]], "the score of a known entry, at row 1, column 0, is NaN"),
        (brier_score, [[0, -math.inf]], [[1, 1]], "the score of a known entry, at row 0, column 1, is NaN or infinite"),
        (log_loss, [[0.1, 0.2], [2.5, -1.0]], [[1, 1], [0, 0]], "scores must be probabilities in 0..1; that of a known "
         "entry, at row 1, column 0, is 2.5: apply the sigmoid to logits"),
    ],
)  # fmt: skip
def test_a_mistake_gets_one_clear_line(measure, scores, labels, message):
    with pytest.raises(HalflabelError, match=re.escape(message)):
        measure(scores, labels)


@pytest.mark.parametrize("measure", MEASURES)
def test_any_number_below_0_is_unknown_as_the_docstrings_say(measure):
    for code in (-1, -2, -99, -1.0):
        np.testing.assert_array_equal(measure(SCORES, np.where(LABELS < 0, code, LABELS)), measure(SCORES, LABELS))
    with pytest.raises(HalflabelError, match="label value 2 at row 0, column 0 is not 1, 0, or below 0"):
        measure(SCORES, np.where(LABELS == 1, 2, LABELS))
