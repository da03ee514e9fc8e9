"""How well scores rank the known yeses above the known noes: average precision and the area under the ROC curve.

Both need, for each known yes, how many noes and yeses score as high: with either group sorted, a binary search tells.
"""

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .known_scores import Floats, KnownScores, check_pair, known_chunks, per_label


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
    return per_label(lambda known: rank_labels(known)[0], *check_pair(scores, labels))


def roc_auc(scores: ArrayLike, labels: ArrayLike) -> Floats:
    """Area under the ROC curve per label, over its known entries; half a point for a tie (Mann-Whitney's U).

    Arguments, result and errors are those of `average_precision`.
    """
    return per_label(lambda known: rank_labels(known)[1], *check_pair(scores, labels))


def micro_average_precision(scores: ArrayLike, labels: ArrayLike) -> float:
    """Average precision of the known entries of all labels, ranked together; arguments are `average_precision`'s.

    It copies the scores of all known entries.
    """
    chunks = known_chunks(*check_pair(scores, labels))
    return pooled_average_precision((known.noes.scores, known.yeses.scores) for known in chunks)


def pooled_average_precision(groups: Iterable[tuple[NDArray[np.floating], NDArray[np.floating]]]) -> float:
    """Average precision of groups of (noes' scores, yeses' scores), ranked together."""
    pairs = list(groups)
    noes, yeses = (np.concatenate([np.empty(0, np.float32), *(pair[answer] for pair in pairs)]) for answer in (0, 1))
    noes.sort()
    yeses.sort()
    return _rank(noes, yeses)[0]


def rank_labels(known: KnownScores) -> tuple[Floats, Floats]:
    """Average precision and area under the ROC curve of each label, both of shape (num_labels,)."""
    ranked = [_rank(known.noes[label], known.yeses[label]) for label in range(len(known.counts))]
    ap, auroc = np.array(ranked, dtype=np.float64).reshape(-1, 2).T
    return ap, auroc


def _rank(noes: NDArray[np.floating], yeses: NDArray[np.floating]) -> tuple[float, float]:
    """Average precision and area under the ROC curve, from rising scores."""
    if not (len(noes) and len(yeses)):
        return math.nan, math.nan
    below, not_above = np.searchsorted(noes, yeses, "left"), np.searchsorted(noes, yeses, "right")
    found = len(yeses) - np.searchsorted(yeses, yeses, "left")  # yeses that score as high as each, or higher
    precision = found / (found + len(noes) - below)
    area = (int(below.sum()) + int(not_above.sum())) / (2 * len(noes) * len(yeses))
    return float(precision.mean()), area
