import json
import math
import warnings

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    f1_score,
    log_loss,
    precision_score,
    recall_score,
    roc_auc_score,
)
from transformers import EvalPrediction

from halflabel import HalflabelError
from halflabel.metrics.bootstrap import mean_over_labels, resample_ranking
from halflabel.metrics.measures import evaluate_scores, known_loss, mean_defined, trainer_metrics

NAMES = ["car", "dog", "cat", "bus"]


@pytest.fixture
def case():
    """Scores, labels and thresholds; dog is never known to be yes, cat never known at all, bus never decided yes."""
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, -100, -101], (60, 4))
    labels[:, 1] = np.where(labels[:, 1] == 1, 0, labels[:, 1])
    labels[:, 2] = -100
    return rng.random((60, 4)).round(2), labels, np.array([0.4, 0.5, 0.6, 1.5])


def oracle(y, p, threshold):
    """scikit-learn on one label's known rows; None where it says that a measure is undefined."""
    decided = (p >= threshold).astype(int)
    both = 0 < y.sum() < len(y)
    return {
        "AP": average_precision_score(y, p) if both else None,
        "AUROC": roc_auc_score(y, p) if both else None,
        **{
            name: None if math.isnan(value) else value
            for name, value in (
                ("precision", precision_score(y, decided, zero_division=np.nan)),
                ("recall", recall_score(y, decided, zero_division=np.nan)),
                ("F1", f1_score(y, decided, zero_division=np.nan)),
            )
        },
        "Brier": brier_score_loss(y, p, pos_label=1),
        "log_loss": log_loss(y, p, labels=[0, 1]),
        "threshold": threshold,
        "known": len(y),
        "positives": int(y.sum()),
    }


def test_the_row_of_each_label_is_scikit_learns(case):
    scores, labels, thresholds = case
    rows = evaluate_scores(scores, labels, NAMES, thresholds)["labels"]
    for j in (0, 1, 3):
        known = labels[:, j] >= 0
        row = dict(rows[NAMES[j]])
        assert 0 <= row.pop("ECE") <= 1
        assert row == pytest.approx(oracle(labels[known, j], scores[known, j], thresholds[j]))
    nothing = dict.fromkeys(("AP", "AUROC", "precision", "recall", "F1", "Brier", "log_loss", "ECE"))
    assert rows["cat"] == {**nothing, "threshold": 0.6, "known": 0, "positives": 0}


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


def test_positives_of_a_label_without_average_precision_carry_no_weight():
    report = evaluate_scores([[0.9, 0.5], [0.8, 0.5], [0.1, 0.5]], [[1, 1], [0, 1], [1, 1]], ["a", "b"])
    assert report["mAP_weighted"] == report["labels"]["a"]["AP"] == pytest.approx((1 + 2 / 3) / 2)
    assert report["labels"]["b"]["AP"] is None


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


def test_known_loss_is_scikit_learns_on_known_entries():
    rng = np.random.default_rng(2)
    logits, labels = rng.normal(0, 2, (30, 4)), rng.choice([0, 1, -100], (30, 4))
    known = labels != -100
    expected = log_loss(labels[known], 1 / (1 + np.exp(-logits[known])))
    assert known_loss(logits, labels) == pytest.approx(expected, rel=1e-9)
    assert known_loss([[1e4, -1e4]], [[0, 1]]) == 1e4  # not infinite, as through a probability
    assert math.isnan(known_loss([[0.0]], [[-100]]))


def test_what_the_trainer_is_told_is_scikit_learns_on_known_entries(case):
    logits, labels, _ = case
    logits = (8 * logits - 4).astype(np.float32)
    told = trainer_metrics(EvalPrediction(predictions=logits, label_ids=labels.astype(np.float32)))
    rows = [(labels[labels[:, j] >= 0, j], logits[labels[:, j] >= 0, j].astype(float)) for j in (0, 1, 3)]
    decided = [(y, (z >= 0).astype(int)) for y, z in rows]
    cp = np.mean([precision_score(y, d) for y, d in decided])
    cr = np.mean([recall_score(*decided[i]) for i in (0, 2)])
    pooled = tuple(np.concatenate(parts) for parts in zip(*rows, strict=True))
    assert told == pytest.approx(
        {
            "mAP": np.mean([average_precision_score(*rows[i]) for i in (0, 2)]),
            "mAUROC": np.mean([roc_auc_score(*rows[i]) for i in (0, 2)]),
            "known_loss": log_loss(pooled[0], 1 / (1 + np.exp(-pooled[1]))),
            "undefined_labels": 2,
            "CF1": 2 * cp * cr / (cp + cr),
            "OF1": f1_score(pooled[0], (pooled[1] >= 0).astype(int)),
        }
    )
    assert all(isinstance(value, float | int) for value in told.values())


@pytest.mark.parametrize(
    ("names", "more", "message"),
    [
        (["a"], {}, "1 label names for 2 labels; give one for each column"),
        (["a", "a"], {}, "label names given more than once: a"),
        (["a", "b"], {"thresholds": [0.5]}, "thresholds have shape (1,): give a number, or one for each of 2 labels"),
        (["a", "b"], {"ci": 95, "samples": 0}, "ci is 95, expected a confidence between 0 and 1, like 0.95"),
        (["a", "b"], {"ci": 0.9, "samples": 0}, "0 resamples are too few, expected at least 1"),
    ],
)
def test_arguments_that_do_not_fit(names, more, message):
    with pytest.raises(HalflabelError) as error:
        evaluate_scores([[0.1, 0.2]], [[1, 0]], names, **more)
    assert str(error.value) == message


def test_scores_that_are_no_probabilities_are_refused_and_never_taken_for_logits():
    with pytest.raises(HalflabelError, match="apply the sigmoid to logits"):
        evaluate_scores([[0.1, 2.0]], [[1, 0]], ["a", "b"])
