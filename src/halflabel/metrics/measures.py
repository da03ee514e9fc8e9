"""Masked metrics: only known entries count, and undefined is NaN, never 0."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from transformers import EvalPrediction

from .bootstrap import check_confidence, mean_over_labels, percentile_interval, resample_ranking
from .calibration_metrics import brier_score, calibration_error, log_loss
from .known_scores import Floats, KnownScores, check_pair, known_chunks, mean_defined
from .metric_report import build_report, check_names, json_number
from .paired_comparison import Comparison, compare_scores
from .ranking_metrics import average_precision, micro_average_precision, rank_labels, roc_auc
from .streaming_metrics import MetricAccumulator
from .threshold_metrics import (
    check_thresholds,
    decision_counts,
    decision_means,
    decision_summary,
    f_score,
    precision,
    recall,
)

__all__ = [
    "Comparison",
    "Floats",
    "MetricAccumulator",
    "average_precision",
    "brier_score",
    "calibration_error",
    "compare_scores",
    "decision_summary",
    "evaluate_scores",
    "f_score",
    "known_loss",
    "log_loss",
    "mean_defined",
    "micro_average_precision",
    "precision",
    "recall",
    "roc_auc",
    "trainer_metrics",
]


def known_loss(logits: ArrayLike, labels: ArrayLike) -> float:
    """Mean binary cross-entropy over all known entries; NaN where none is known.

    Args:
        logits: Shape (n, num_labels), finite where known.
        labels: Same shape: 1, 0, or below 0 for unknown and uncertain entries.
    """
    return _mean_loss([_loss_and_count(known) for known in known_chunks(*check_pair(logits, labels))])


def _loss_and_count(known: KnownScores) -> tuple[float, int]:
    costs = np.logaddexp(0, known.noes.scores, dtype=np.float64), np.logaddexp(0, -known.yeses.scores, dtype=np.float64)
    return float(costs[0].sum() + costs[1].sum()), int(known.counts.sum())


def _mean_loss(parts: list[tuple[float, int]]) -> float:
    count = sum(count for _, count in parts)
    return sum(loss for loss, _ in parts) / count if count else math.nan


def trainer_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Measure logits on known entries: a `compute_metrics` for the Trainer.

    Args:
        prediction: `predictions` are logits (n, num_labels), `label_ids` the labels.

    Returns:
        `mAP`, `mAUROC`, `known_loss`, `undefined_labels` (for how many AP is not defined), and `CF1` and `OF1` of the
        decisions logit >= 0, which is score >= 0.5; NaN where undefined.
    """
    logits, labels = check_pair(prediction.predictions, prediction.label_ids)
    zeros, parts, losses = np.zeros(logits.shape[1]), [], []
    for known in known_chunks(logits, labels):
        parts.append(np.concatenate([rank_labels(known), decision_counts(known, zeros)]))
        losses.append(_loss_and_count(known))
    ap, auroc, *counts = np.concatenate(parts, axis=1)
    decided = decision_means(*counts)
    return {
        "mAP": mean_defined(ap),
        "mAUROC": mean_defined(auroc),
        "known_loss": _mean_loss(losses),
        "undefined_labels": int(np.isnan(ap).sum()),
        "CF1": decided["CF1"],
        "OF1": decided["OF1"],
    }


def evaluate_scores(
    scores: ArrayLike,
    labels: ArrayLike,
    label_names: Sequence[str],
    thresholds: ArrayLike = 0.5,
    ci: float | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure scores against known labels; the result can be written as JSON, None stands for undefined.

    Args:
        scores: Shape (n, num_labels); array or tensor of probabilities in 0..1.
        labels: Same shape: 1, 0, or below 0 for unknown and uncertain entries.
        label_names: The distinct names of the columns.
        thresholds: A number, or one per label; decided yes is score >= threshold.
        ci: The confidence of bootstrap intervals, like 0.95; None: no intervals.
        samples: The number of resamples.
        seed: Of the resamples.

    Returns:
        `labels`: name -> `AP`, `AUROC`, `precision`, `recall`, `F1`, `Brier`, `log_loss`, `ECE`, `threshold`, `known`
        and `positives`. Their means over the labels where they are defined: `mAP`, `mAUROC`, `CP` (precision), `CR`
        (recall), `macro_F1`, `Brier`, `log_loss`, `ECE`; `undefined`: name of the measure -> `count` and `labels` that
        the mean leaves out; `undefined_labels`: those of AP. `mAP_weighted` weighs each label by its positives; `CF1`
        is the harmonic mean of CP and CR. `micro_AP`, `OP`, `OR` and `OF1` are average precision, precision, recall
        and F1 of the known entries of all labels together, whose number is `known_entries`.

        With `ci`: `mAP_interval` and `mAUROC_interval`, each [low, high]; per label `AP_interval`, `AUROC_interval` and
        `undefined_resamples`, the number of resamples they leave out; and `bootstrap`, how they were found.

    Raises:
        HalflabelError: On shapes, names or thresholds that do not fit one another, on other label values, or on scores
            that are no probabilities.
    """
    values, matrix = check_pair(scores, labels, probabilities=True)
    names = check_names(label_names, matrix.shape[1])
    if ci is not None:
        check_confidence(ci)
    report = build_report(known_chunks(values, matrix), names, check_thresholds(thresholds, len(names)))
    if ci is None:
        return report
    resamples = resample_ranking(values, matrix, samples, seed)
    for measure, found in (("AP", resamples.average_precision), ("AUROC", resamples.roc_auc)):
        interval = percentile_interval(found, ci)
        for i, name in enumerate(names):
            report["labels"][name][f"{measure}_interval"] = [json_number(bound) for bound in interval[:, i]]
        mean = percentile_interval(mean_over_labels(found), ci)
        report[f"m{measure}_interval"] = [json_number(bound) for bound in mean]
    for name, undefined in zip(names, np.isnan(resamples.average_precision).sum(axis=0), strict=True):
        report["labels"][name]["undefined_resamples"] = int(undefined)
    report["bootstrap"] = {"ci": ci, "samples": samples, "seed": seed, "images": len(matrix), "method": "percentile"}
    return report
