import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from known_rows import of_known_rows, random_case
from sklearn.metrics import brier_score_loss
from sklearn.metrics import log_loss as sklearn_log_loss

from halflabel import HalflabelError
from halflabel.metrics.calibration import brier_score, calibration_error, log_loss


def loop_calibration_error(y, p, bins):
    total = 0.0
    for b in range(bins):
        inside = [i for i in range(len(p)) if b / bins <= p[i] < (b + 1) / bins or (b == bins - 1 and p[i] == 1)]
        if inside:
            mean_score = sum(float(p[i]) for i in inside) / len(inside)
            total += len(inside) / len(p) * abs(mean_score - sum(y[i] for i in inside) / len(inside))
    return total


CASES = (st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 6), st.sampled_from([1, 3, 10**6]),
         st.sampled_from("fd"))  # fmt: skip


@given(*CASES)
@settings(max_examples=60, deadline=None)
def test_brier_score_and_log_loss_are_scikit_learns_on_known_rows(seed, rows, columns, levels, dtype):
    scores, labels = random_case(seed, rows, columns, levels, dtype)
    tolerance = 1e-12 if dtype == "d" else 2e-6  # it adds up float32
    brier = of_known_rows(lambda y, p: brier_score_loss(y, p, pos_label=1), scores, labels)
    loss = of_known_rows(lambda y, p: sklearn_log_loss(y, p, labels=[0, 1]), scores, labels)
    np.testing.assert_allclose(brier_score(scores, labels), brier, atol=tolerance)
    np.testing.assert_allclose(log_loss(scores, labels), loss, rtol=tolerance, atol=tolerance)


@given(*CASES, st.integers(1, 20))
@settings(max_examples=60, deadline=None)
def test_calibration_error_is_its_formula_in_a_loop(seed, rows, columns, levels, dtype, bins):
    scores, labels = random_case(seed, rows, columns, levels, dtype)
    expected = of_known_rows(lambda y, p: loop_calibration_error(y, p, bins), scores, labels)
    np.testing.assert_allclose(calibration_error(scores, labels, bins), expected, atol=1e-12)


def test_calibration_error_is_torchmetrics():
    functional = pytest.importorskip("torchmetrics.functional.classification")
    rng = np.random.default_rng(4)
    scores, labels = rng.random((200, 3)), rng.choice([0, 1, -100], (200, 3))
    theirs = [
        functional.binary_calibration_error(torch.tensor(p), torch.tensor(y), n_bins=15, ignore_index=-100).item()
        for p, y in zip(scores.T, labels.T, strict=True)
    ]
    np.testing.assert_allclose(calibration_error(scores, labels), theirs, atol=1e-6)


def test_a_score_on_an_edge_belongs_to_the_bin_above_and_1_to_the_last():
    # 0.5 and 0.9 share the upper of two bins: |0.7 - 0.5|; so do 0.5 and 1: |0.75 - 0.5|.
    assert calibration_error([[0.5], [0.9]], [[0], [1]], bins=2) == pytest.approx(0.2)
    assert calibration_error([[0.5], [1.0]], [[0], [1]], bins=2) == pytest.approx(0.25)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_wrong_score_of_0_or_1_costs_the_logarithm_of_the_machine_precision(dtype):
    expected = -math.log(np.finfo(dtype).eps)
    np.testing.assert_allclose(log_loss(np.array([[0, 1]], dtype), [[1, 0]]), [expected, expected], rtol=1e-6)


def test_a_number_of_bins_that_is_none():
    with pytest.raises(HalflabelError, match="bins is 0, expected at least 1"):
        calibration_error([[0.5]], [[1]], bins=0)
