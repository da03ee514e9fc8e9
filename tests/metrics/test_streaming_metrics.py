import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from halflabel import HalflabelError
from halflabel.metrics.measures import MetricAccumulator, evaluate_scores
from halflabel.metrics.streaming_metrics import _BLOCK

NAMES = ["a", "b", "c", "d"]


def same(left, right):
    """Tell whether two reports agree: the sums of floats may be added in another order."""
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    return left == (pytest.approx(right, abs=1e-12) if isinstance(right, float) else right)


@given(st.integers(0, 10**6), st.integers(1, 60), st.sampled_from([1, 7, _BLOCK]), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_batches_give_what_all_float32_scores_give_at_once(seed, rows, block, levels):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels + 1, (rows, 4)) / levels
    scores[scores == 0] *= rng.choice([-1, 1])  # -0.0 is a score too
    labels = rng.choice([0, 1, -100, -101], (rows, 4), p=rng.dirichlet([1, 1, 0.5, 0.5]))
    thresholds = rng.random(4)
    accumulator = MetricAccumulator(NAMES, thresholds)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("halflabel.metrics.streaming_metrics._BLOCK", block)
        start = 0
        while start < rows:
            end = start + int(rng.integers(1, 20))
            accumulator.update(scores[start:end], torch.from_numpy(labels[start:end]))
            start = end
        report = accumulator.compute()
    assert same(report, evaluate_scores(scores.astype(np.float32), labels, NAMES, thresholds))


def test_computing_in_between_changes_nothing():
    rng = np.random.default_rng(1)
    scores, labels = rng.random((40, 4), dtype=np.float32), rng.choice([0, 1, -100], (40, 4))
    accumulator = MetricAccumulator(NAMES)
    accumulator.update(scores[:25], labels[:25])
    assert same(accumulator.compute(), evaluate_scores(scores[:25], labels[:25], NAMES))
    accumulator.update(scores[25:], labels[25:])
    assert same(accumulator.compute(), evaluate_scores(scores, labels, NAMES))
    assert same(accumulator.compute(), evaluate_scores(scores, labels, NAMES))


def test_without_a_batch_everything_is_undefined():
    report = MetricAccumulator(NAMES).compute()
    assert report["mAP"] is None
    assert report["known_entries"] == 0
    assert report["undefined"]["ECE"] == {"count": 4, "labels": NAMES}


def test_a_refused_batch_is_not_taken_in():
    accumulator = MetricAccumulator(NAMES)
    accumulator.update([[0.1, 0.2, 0.3, 0.4]], [[1, 0, 1, 0]])
    with pytest.raises(HalflabelError, match="apply the sigmoid to logits"):
        accumulator.update([[0.1, 0.2, 0.3, 4.0]], [[1, 0, 1, 0]])
    with pytest.raises(HalflabelError, match="a batch has 2 labels, expected 4"):
        accumulator.update([[0.1, 0.2]], [[1, 0]])
    assert accumulator.compute()["known_entries"] == 4


def test_it_keeps_little_more_than_4_bytes_for_each_known_entry(monkeypatch):
    monkeypatch.setattr("halflabel.metrics.streaming_metrics._BLOCK", 50_000)
    accumulator = MetricAccumulator(NAMES)
    batch, labels = np.zeros((1_000, 4), np.float32), np.tile([[1, 0, 0, -100]], (1_000, 1))
    tracemalloc.start()
    for _ in range(400):
        accumulator.update(batch, labels)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 5 * accumulator.compute()["known_entries"]


def test_bad_arguments():
    with pytest.raises(HalflabelError, match="label names given more than once: a"):
        MetricAccumulator(["a", "a"])
    with pytest.raises(HalflabelError, match="give a number, or one for each of 4 labels"):
        MetricAccumulator(NAMES, [0.5])
