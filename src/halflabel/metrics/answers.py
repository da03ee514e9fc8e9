"""How good the decisions are, score >= threshold: precision, recall and F-score, per label and averaged."""

import math

import numpy as np
from numpy.typing import ArrayLike

from ..model.errors import HalflabelError
from .entries import Floats, KnownScores, check_pair, known_scores, mean_defined, ratio


def precision(scores: ArrayLike, labels: ArrayLike, thresholds: ArrayLike) -> Floats:
    """Precision per label, over its known entries: the share of yes among those decided yes, TP / (TP + FP).

    Args:
        scores: Shape (n, num_labels); array or tensor of any real numbers, larger means more likely yes.
        labels: Same shape: 1, 0, or below 0 for unknown and uncertain entries.
        thresholds: A number, or one per label, on the scale of the scores. Decided yes is score >= threshold,
            compared in float64.

    Returns:
        float64 of shape (num_labels,), each in 0..1, as scikit-learn's on the known rows; NaN for a label of which no
        known entry is decided yes.

    Raises:
        HalflabelError: On shapes that differ, other label values, a score or a threshold that is not finite.
    """
    tp, fp, _ = _count(scores, labels, thresholds)
    return ratio(tp, tp + fp)


def recall(scores: ArrayLike, labels: ArrayLike, thresholds: ArrayLike) -> Floats:
    """Recall per label, over its known entries: the share decided yes among the known positives, TP / (TP + FN).

    Arguments and errors are those of `precision`; NaN for a label without a known positive.
    """
    tp, _, fn = _count(scores, labels, thresholds)
    return ratio(tp, tp + fn)


def f_score(scores: ArrayLike, labels: ArrayLike, thresholds: ArrayLike, beta: float = 1.0) -> Floats:
    """F-score per label, over its known entries: (1 + beta^2) TP / ((1 + beta^2) TP + beta^2 FN + FP).

    `beta`, at least 0, says how many times as important recall is as precision (van Rijsbergen, 1979). The other
    arguments and the errors are those of `precision`; NaN for a label without a known yes or an entry decided yes. As
    in scikit-learn, 0 for a label that has no known yes and entries decided yes.
    """
    if not (math.isfinite(beta) and beta >= 0):
        raise HalflabelError(f"beta is {beta!r}, expected a number of at least 0")
    tp, fp, fn = _count(scores, labels, thresholds)
    return f_from_counts(tp, fp, fn, beta)


def decision_summary(scores: ArrayLike, labels: ArrayLike, thresholds: ArrayLike) -> dict[str, float]:
    """Precision, recall and F1 averaged over labels, and of all known entries together; NaN where undefined.

    Arguments and errors are those of `precision`.

    Returns:
        Under the names of the multi-label literature: `CP` and `CR`, the means of the labels' precision and recall
        (macro, each over the labels where it is defined); `CF1`, their harmonic mean; `OP`, `OR` and `OF1`, precision,
        recall and F1 of the entries of all labels together (micro). `macro_F1` is the mean of the labels' F1.
    """
    return decision_means(*_count(scores, labels, thresholds))


def _count(scores: ArrayLike, labels: ArrayLike, thresholds: ArrayLike) -> Floats:
    """`decision_counts` of all labels, shape (3, num_labels)."""
    values, matrix = check_pair(scores, labels)
    pairs = zip(known_scores(values, matrix), check_thresholds(thresholds, matrix.shape[1]), strict=True)
    return np.array([decision_counts(*pair) for pair in pairs], dtype=np.float64).reshape(-1, 3).T


def f_from_counts(tp: ArrayLike, fp: ArrayLike, fn: ArrayLike, beta: float = 1.0) -> Floats:
    """F-score from the numbers of true positives, false positives and false negatives; NaN where it is 0 / 0."""
    hits = (1 + beta**2) * np.asarray(tp, dtype=np.float64)
    return ratio(hits, hits + beta**2 * np.asarray(fn) + np.asarray(fp))


def decision_counts(known: KnownScores, threshold: np.float64) -> tuple[int, int, int]:
    """The numbers of true positives, false positives and false negatives of a label."""
    fp, tp = (len(scores) - int(np.searchsorted(scores, threshold)) for scores in known)
    return tp, fp, len(known.positives) - tp


def decision_means(tp: Floats, fp: Floats, fn: Floats) -> dict[str, float]:
    """`decision_summary`, from each label's counts."""
    cp, cr = mean_defined(ratio(tp, tp + fp)), mean_defined(ratio(tp, tp + fn))
    hits, wrong, missed = tp.sum(), fp.sum(), fn.sum()
    return {
        "CP": cp,
        "CR": cr,
        "CF1": 2 * cp * cr / (cp + cr) if cp + cr != 0 else 0.0,
        "OP": float(ratio(hits, hits + wrong)),
        "OR": float(ratio(hits, hits + missed)),
        "OF1": float(f_from_counts(hits, wrong, missed)),
        "macro_F1": mean_defined(f_from_counts(tp, fp, fn)),
    }


def check_thresholds(thresholds: ArrayLike, num_labels: int) -> Floats:
    """Return one threshold per label.

    Raises:
        HalflabelError: If there are not as many as labels, or one is NaN or infinite.
    """
    values = np.asarray(thresholds, dtype=np.float64)
    if values.ndim > 1 or (values.ndim == 1 and len(values) != num_labels):
        raise HalflabelError(
            f"thresholds have shape {values.shape}: give a number, or one for each of {num_labels} labels"
        )
    if not np.isfinite(values).all():
        raise HalflabelError("a threshold is NaN or infinite")
    return np.broadcast_to(values, (num_labels,))


def phi(counts: ArrayLike) -> Floats:
    """The correlation of two yes/no answers, -1 to 1, from counts (..., 4) of yes-yes, yes-no, no-yes, no-no.

    NaN where one of them is always answered the same.
    """
    both, first, second, neither = np.moveaxis(np.asarray(counts, dtype=np.float64), -1, 0)
    scale = np.sqrt((both + first) * (second + neither) * (both + second) * (first + neither))
    return ratio(both * neither - first * second, scale)
