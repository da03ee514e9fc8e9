"""Masked metrics: arrays in, one value per label out; only known entries count and undefined is NaN, never 0."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import HalflabelError
from .labels import check_matrix, count_labels

Floats = NDArray[np.float64]
_CHUNK_ENTRIES = 4_000_000  # entries sorted at once, so that memory does not grow with the number of labels


def average_precision(scores: ArrayLike, labels: ArrayLike) -> Floats:
    """Average precision per label, over its known entries: sum_n (R_n - R_(n-1)) P_n, ties taken as one step.

    Args:
        scores: Shape (n, num_labels); any real numbers, larger means more likely yes.
        labels: Same shape: 1, 0, or below 0 for unknown and uncertain entries.

    Returns:
        float64 of shape (num_labels,), each in 0..1, as scikit-learn's `average_precision_score` on the known rows;
        NaN for a label without both a known positive and a known negative.

    Raises:
        HalflabelError: On shapes that differ, on other label values, or on a score that is not finite.
    """
    return _by_chunks(scores, labels, _average_precision)


def roc_auc(scores: ArrayLike, labels: ArrayLike) -> Floats:
    """Area under the ROC curve per label, over its known entries; half a point for a tie (Mann-Whitney's U).

    Arguments, result and errors are those of `average_precision`.
    """
    return _by_chunks(scores, labels, _roc_auc)


def _by_chunks(scores: ArrayLike, labels: ArrayLike, metric: Any) -> Floats:  # noqa: ANN401 - a function below
    matrix, values = _check_pair(scores, labels)
    width = max(1, _CHUNK_ENTRIES // max(len(matrix), 1))
    parts = [_in_order(values[:, i : i + width], matrix[:, i : i + width]) for i in range(0, matrix.shape[1], width)]
    return np.concatenate([metric(*part) for part in parts])


def _check_pair(scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray[Any], Floats]:
    matrix, values = check_matrix(np.asarray(labels)), np.asarray(scores, dtype=np.float64)
    if values.shape != matrix.shape:
        raise HalflabelError(f"scores have shape {values.shape}, labels {matrix.shape}; they must agree")
    if not np.isfinite(values[matrix >= 0]).all():
        raise HalflabelError("a score of a known entry is NaN or infinite")
    return matrix, values


def _in_order(scores: Floats, labels: NDArray[Any]) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.intp]]:
    """Sort each column by falling score, unknown entries last.

    Returns:
        positive and known in that order, and for each place the last place of its run of equal scores.
    """
    known = labels >= 0
    keys = np.where(known, -scores, np.inf)
    order = np.argsort(keys, axis=0, kind="stable")
    keys = np.take_along_axis(keys, order, axis=0)
    last = np.ones(keys.shape, dtype=bool)
    last[:-1] = keys[1:] != keys[:-1]
    places = np.where(last, np.arange(len(keys))[:, None], len(keys))
    run_end = np.minimum.accumulate(places[::-1], axis=0)[::-1]
    return np.take_along_axis(labels == 1, order, axis=0), np.take_along_axis(known, order, axis=0), run_end


def _average_precision(positive: NDArray[np.bool_], known: NDArray[np.bool_], run_end: NDArray[np.intp]) -> Floats:
    hits, seen = np.cumsum(positive, axis=0), np.cumsum(known, axis=0)
    precision = np.take_along_axis(hits, run_end, axis=0) / np.maximum(np.take_along_axis(seen, run_end, axis=0), 1)
    total = positive.sum(axis=0)
    undefined = (total == 0) | (total == known.sum(axis=0))
    return np.where(undefined, np.nan, (precision * positive).sum(axis=0) / np.maximum(total, 1))


def _roc_auc(positive: NDArray[np.bool_], known: NDArray[np.bool_], run_end: NDArray[np.intp]) -> Floats:
    negative = known & ~positive
    above = np.cumsum(negative, axis=0)  # negatives at or above each place
    at_end = np.take_along_axis(above, run_end, axis=0)
    starts = np.zeros(run_end.shape, dtype=bool)
    starts[0] = True
    starts[1:] = run_end[1:] != run_end[:-1]
    before = np.where(starts, above - negative, 0)
    before = np.maximum.accumulate(before, axis=0)  # negatives above the run that a place stands in
    positives, negatives = positive.sum(axis=0), negative.sum(axis=0)
    won = ((negatives - at_end) + 0.5 * (at_end - before)) * positive
    undefined = (positives == 0) | (negatives == 0)
    return np.where(undefined, np.nan, won.sum(axis=0) / np.maximum(positives * negatives, 1))


def known_loss(logits: ArrayLike, labels: ArrayLike) -> float:
    """Mean binary cross-entropy over all known entries; NaN where none is known.

    Args:
        logits: Shape (n, num_labels), finite where known.
        labels: Same shape: 1, 0, or below 0 for unknown and uncertain entries.
    """
    matrix, values = _check_pair(logits, labels)
    known = matrix >= 0
    z, y = values[known], matrix[known]
    return float((np.logaddexp(0, z) - y * z).mean()) if known.any() else math.nan


def mean_defined(values: Floats) -> float:
    """Mean of the values that are not NaN; NaN where all are."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else math.nan


def evaluate_scores(scores: ArrayLike, labels: ArrayLike, label_names: Sequence[str]) -> dict[str, Any]:
    """Measure scores against known labels.

    Returns:
        `mAP` and `mAUROC` (means over the defined labels), `undefined_labels` (their names), `known_entries`, and
        `labels`: name -> `AP`, `AUROC` (None where undefined), `known`, `positives`.
    """
    ap, auroc = average_precision(scores, labels), roc_auc(scores, labels)
    counts = count_labels(np.asarray(labels))
    return {
        "mAP": _json_number(mean_defined(ap)),
        "mAUROC": _json_number(mean_defined(auroc)),
        "undefined_labels": [name for name, value in zip(label_names, ap, strict=True) if math.isnan(value)],
        "known_entries": int(counts.known.sum()),
        "labels": {
            name: {
                "AP": _json_number(ap[i]),
                "AUROC": _json_number(auroc[i]),
                "known": int(counts.known[i]),
                "positives": int(counts.positive[i]),
            }
            for i, name in enumerate(label_names)
        },
    }


def _json_number(value: float) -> float | None:
    """Return None for NaN, which JSON cannot hold."""
    return None if math.isnan(value) else float(value)
