import json
import math
import re
import tracemalloc
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from known_rows import of_known_rows, random_case
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    f1_score,
    log_loss,
    precision_score,
    recall_score,
    roc_auc_score,
)

import halflabel.metrics.report as report_module
from halflabel import HalflabelError
from halflabel.metrics.calibration import calibration_error
from halflabel.metrics.entries import mean_defined
from halflabel.metrics.intervals import mean_over_labels, resample_ranking
from halflabel.metrics.report import MetricAccumulator, evaluate_scores, json_ready

NAMES = ["car", "dog", "cat", "bus"]


@pytest.fixture
def case():
    """Scores, labels and thresholds; dog is never known to be yes, cat never known at all, bus never decided yes."""
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, -100, -101], (60, 4))
    labels[:, 1] = np.where(labels[:, 1] == 1, 0, labels[:, 1])
    labels[:, 2] = -100
    return rng.random((60, 4)).round(2), labels, np.array([0.4, 0.5, 0.6, 1.5])


def test_the_row_of_each_label_is_scikit_learns_and_none_where_that_is_undefined(case):
    scores, labels, thresholds = case
    report = evaluate_scores(scores, labels, NAMES, thresholds)
    decided, undefined = (scores >= thresholds).astype(int), {"zero_division": np.nan}
    expected = {
        "AP": of_known_rows(average_precision_score, scores, labels, both=True),
        "AUROC": of_known_rows(roc_auc_score, scores, labels, both=True),
        "precision": of_known_rows(partial(precision_score, **undefined), decided, labels),
        "recall": of_known_rows(partial(recall_score, **undefined), decided, labels),
        "F1": of_known_rows(partial(f1_score, **undefined), decided, labels),
        "Brier": of_known_rows(partial(brier_score_loss, pos_label=1), scores, labels),
        "log_loss": of_known_rows(partial(log_loss, labels=[0, 1]), scores, labels),
        "ECE": calibration_error(scores, labels),
        "threshold": thresholds,
        "known": (labels >= 0).sum(axis=0),
        "positives": (labels == 1).sum(axis=0),
    }
    for j, name in enumerate(NAMES):
        values = {key: None if np.isnan(column[j]) else column[j] for key, column in expected.items()}
        assert report["labels"][name] == pytest.approx(values)
    assert list(report["labels"]["cat"].values()).count(None) == 8


def test_means_are_over_the_defined_labels_and_the_others_are_counted_and_listed(case):
    scores, labels, thresholds = case
    report = evaluate_scores(scores, labels, NAMES, thresholds)
    means = {"AP": "mAP", "AUROC": "mAUROC", "precision": "CP", "recall": "CR", "F1": "macro_F1",
             "Brier": "Brier", "log_loss": "log_loss", "ECE": "ECE"}  # fmt: skip
    undefined = {"AP": ["dog", "cat"], "AUROC": ["dog", "cat"], "precision": ["cat", "bus"], "recall": ["dog", "cat"]}
    for measure, mean in means.items():
        values = {name: row[measure] for name, row in report["labels"].items()}
        left_out = undefined.get(measure, ["cat"])
        assert report["undefined"][measure] == {"count": len(left_out), "labels": left_out}
        assert report[mean] == pytest.approx(np.mean([v for name, v in values.items() if name not in left_out]))
    assert report["undefined_labels"] == ["dog", "cat"]
    assert report["CF1"] == pytest.approx(2 * report["CP"] * report["CR"] / (report["CP"] + report["CR"]))


def test_weighted_and_pooled_measures_are_scikit_learns(case):
    scores, labels, thresholds = case
    report = evaluate_scores(scores, labels, NAMES, thresholds)
    rows, known = report["labels"], labels >= 0
    ap, weights = zip(*((rows[name]["AP"], rows[name]["positives"]) for name in ("car", "bus")), strict=True)
    assert report["mAP_weighted"] == pytest.approx(np.average(ap, weights=weights))
    assert report["micro_AP"] == pytest.approx(average_precision_score(labels[known], scores[known]))
    decided = (scores >= thresholds)[known].astype(int)
    pooled = {"OP": precision_score, "OR": recall_score, "OF1": f1_score}
    for name, metric in pooled.items():
        assert report[name] == pytest.approx(metric(labels[known], decided))
    assert report["known_entries"] == known.sum()
    short = evaluate_scores([[0.9, 0.5], [0.8, 0.5], [0.1, 0.5]], [[1, 1], [0, 1], [1, 1]], ["a", "b"])
    assert short["mAP_weighted"] == short["labels"]["a"]["AP"] == pytest.approx((1 + 2 / 3) / 2)
    assert short["labels"]["b"]["AP"] is None  # so its positives carry no weight


def test_a_report_is_json_without_a_warning_even_where_nothing_is_known(case):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for labels in (case[1], np.full((60, 4), -100)):
            json.dumps(evaluate_scores(case[0], labels, NAMES, ci=0.9, samples=5), allow_nan=False)
    assert math.isnan(mean_defined(np.array([math.nan])))


def test_intervals_are_quantiles_over_resampled_images(case):
    scores, labels, thresholds = case
    plain = evaluate_scores(scores, labels, NAMES, thresholds)
    report = evaluate_scores(scores, labels, NAMES, thresholds, ci=0.8, samples=50, seed=7)
    found = resample_ranking(scores, labels, samples=50, seed=7)
    for measure, values in (("AP", found.average_precision), ("AUROC", found.roc_auc)):
        for j in (0, 3):
            interval = report["labels"][NAMES[j]].pop(f"{measure}_interval")
            np.testing.assert_allclose(interval, np.nanquantile(values[:, j], [0.1, 0.9]))
        for name in ("dog", "cat"):
            assert report["labels"][name].pop(f"{measure}_interval") == [None, None]
        mean = np.quantile(mean_over_labels(values), [0.1, 0.9])
        np.testing.assert_allclose(report.pop(f"m{measure}_interval"), mean)
    assert [row.pop("undefined_resamples") for row in report["labels"].values()] == [0, 50, 50, 0]
    assert report.pop("bootstrap") == {"ci": 0.8, "samples": 50, "seed": 7, "images": 60, "method": "percentile"}
    assert report == plain


def test_copies_in_one_group_make_nothing_surer(case):
    """With every image four times, groups of copies are drawn as the images alone were."""
    scores, labels, thresholds = case
    alone = evaluate_scores(scores, labels, NAMES, thresholds, ci=0.8, samples=50)
    copies = np.tile(scores, (4, 1)), np.tile(labels, (4, 1)), NAMES, thresholds, 0.8, 50
    grouped = evaluate_scores(*copies, groups=np.tile(np.arange(60), 4))
    assert grouped["bootstrap"] == {**alone["bootstrap"], "images": 240, "groups": 60}
    for place in ("mAP_interval", "mAUROC_interval"):
        assert grouped[place] == pytest.approx(alone[place])
    narrow = evaluate_scores(*copies)
    assert np.diff(narrow["mAP_interval"])[0] < 0.7 * np.diff(alone["mAP_interval"])[0]


def test_millions_of_known_entries_are_resampled_less_often():
    scores = np.random.default_rng(0).random((20, 1))
    labels = np.tile([0, 1], 10)[:, None]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_module, "_RANKED", 20 * 300)
        assert evaluate_scores(scores, labels, ["x"], ci=0.9)["bootstrap"]["samples"] == 300
        patch.setattr(report_module, "_RANKED", 20)
        assert evaluate_scores(scores, labels, ["x"], ci=0.9)["bootstrap"]["samples"] == 100
    assert evaluate_scores(scores, labels, ["x"], ci=0.9)["bootstrap"]["samples"] == 1000


@pytest.mark.parametrize(
    ("names", "more", "message"),
    [
        (["a"], {}, "1 label names for 2 labels; give one for each column"),
        (["a", "a"], {}, "label names given more than once: a"),
        (["a", "b"], {"thresholds": [0.5]}, "thresholds have shape (1,): give a number, or one for each of 2 labels"),
        (["a", "b"], {"ci": 95, "samples": 0}, "ci is 95, expected a confidence between 0 and 1, like 0.95"),
        (["a", "b"], {"ci": 0.9, "samples": 0}, "0 resamples are too few, expected at least 1"),
        (["a", "b"], {"scores": [[0.1, 2.0]]}, "apply the sigmoid to logits"),
    ],
)
def test_arguments_that_do_not_fit(names, more, message):
    with pytest.raises(HalflabelError, match=re.escape(message)):
        evaluate_scores(**{"scores": [[0.1, 0.2]], "labels": [[1, 0]], "label_names": names, **more})


def same(left, right):
    """Tell whether two reports agree: the sums of floats may be added in another order."""
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    return left == (pytest.approx(right, abs=1e-12) if isinstance(right, float) else right)


@given(st.integers(0, 10**6), st.integers(1, 60), st.sampled_from([1, 7, 4_000_000]), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_batches_give_what_all_float32_scores_give_at_once_also_in_between(seed, rows, block, levels):
    scores, labels = random_case(seed, rows, 4, levels)
    rng = np.random.default_rng(seed)
    scores[scores == 0] *= rng.choice([-1, 1])  # -0.0 is a score too
    thresholds = rng.random(4)
    accumulator = MetricAccumulator(NAMES, thresholds)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("halflabel.metrics.entries._BLOCK", block)
        end = 0
        while end < rows:
            start, end = end, end + int(rng.integers(1, 20))
            accumulator.update(scores[start:end], torch.from_numpy(labels[start:end]))
            expected = evaluate_scores(scores[:end].astype(np.float32), labels[:end], NAMES, thresholds)
            assert same(accumulator.compute(), expected)


def test_a_refused_batch_is_not_taken_in_and_without_a_batch_everything_is_undefined():
    accumulator = MetricAccumulator(NAMES)
    for scores, labels, message in (
        ([[0.1, 0.2, 0.3, 4.0]], [[1, 0, 1, 0]], "apply the sigmoid to logits"),
        ([[0.1, 0.2]], [[1, 0]], "a batch has 2 labels, expected 4"),
    ):
        with pytest.raises(HalflabelError, match=message):
            accumulator.update(scores, labels)
    report = accumulator.compute()
    assert (report["mAP"], report["known_entries"]) == (None, 0)
    assert report["undefined"]["ECE"] == {"count": 4, "labels": NAMES}
    with pytest.raises(HalflabelError, match="label names given more than once: a"):
        MetricAccumulator(["a", "a"])
    with pytest.raises(HalflabelError, match="give a number, or one for each of 4 labels"):
        MetricAccumulator(NAMES, [0.5])


def test_it_keeps_little_more_than_4_bytes_for_each_known_entry(monkeypatch):
    monkeypatch.setattr("halflabel.metrics.entries._BLOCK", 50_000)
    accumulator = MetricAccumulator(NAMES)
    batch, labels = np.zeros((1_000, 4), np.float32), np.tile([[1, 0, 0, -100]], (1_000, 1))
    tracemalloc.start()
    for _ in range(400):
        accumulator.update(batch, labels)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 5 * accumulator.compute()["known_entries"]


def test_what_json_cannot_hold_is_none_and_numpy_is_plain():
    plain = json_ready(
        {
            "a": np.float32("nan"),
            "b": [math.inf, (1, "x", None, True)],
            "c": np.array([[1.5, math.nan]]),
            "d": np.int8(3),
        }
    )
    assert plain == {"a": None, "b": [None, [1, "x", None, True]], "c": [[1.5, None]], "d": 3}
    json.dumps(plain, allow_nan=False)
