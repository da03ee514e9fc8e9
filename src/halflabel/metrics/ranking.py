"""How well scores rank the known yes above the known no: average precision and the area under the ROC curve.

Both need, for each known yes, how many negatives and positives score as high: as either group is sorted, a binary
search tells.
"""

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

from .entries import Floats, KnownScores, check_pair, per_label


def average_precision(scores: ArrayLike, labels: ArrayLike) -> Floats:
    """Average precision per label, over its known entries: sum_n (R_n - R_(n-1)) P_n, ties taken as one step.

    Args:
        scores: Shape (n, num_labels); array or tensor of any real numbers, larger means more likely yes.
        labels: Same shape: 1, 0, or below 0 for unknown and uncertain entries.

    Returns:
        float64 of shape (num_labels,), each in 0..1, as scikit-learn's `average_precision_score` on the known rows;
        NaN for a label without both a known positive and a known negative.

    Raises:
        HalflabelError: On shapes that differ, on other label values, or on a score that is not finite.
    """
    return per_label(lambda known: rank(known)[0], *check_pair(scores, labels))


def roc_auc(scores: ArrayLike, labels: ArrayLike) -> Floats:
    """Area under the ROC curve per label, over its known entries; half a point for a tie (Mann-Whitney's U).

    Arguments, result and errors are those of `average_precision`.
    """
    return per_label(lambda known: rank(known)[1], *check_pair(scores, labels))


def pooled_average_precision(labels: Iterable[KnownScores]) -> float:
    """Average precision of the entries of all labels, ranked together."""
    pooled = zip(*labels, strict=True)
    return rank(KnownScores(*(np.sort(np.concatenate(scores)) for scores in pooled)))[0]


def rank(known: KnownScores) -> tuple[float, float]:
    """Average precision and area under the ROC curve of a label."""
    negatives, positives = known
    if not (len(negatives) and len(positives)):
        return math.nan, math.nan
    below, not_above = (np.searchsorted(negatives, positives, side) for side in ("left", "right"))
    found = len(positives) - np.searchsorted(positives, positives, "left")  # positives that score as high, or higher
    precision = found / (found + len(negatives) - below)
    area = (int(below.sum()) + int(not_above.sum())) / (2 * len(negatives) * len(positives))
    return float(precision.mean()), area
