"""How far scores are from being the probabilities they claim to be: Brier score, log-loss, calibration error."""

import math

import numpy as np
from numpy.typing import ArrayLike

from ..model.errors import HalflabelError
from .entries import Floats, KnownScores, check_pair, per_label

BINS = 15


def brier_score(scores: ArrayLike, labels: ArrayLike) -> Floats:
    """Mean of (score - answer)^2 per label, over its known entries (Brier, 1950).

    Args:
        scores: Shape (n, num_labels); array or tensor of probabilities in 0..1.
        labels: Same shape: 1, 0, or below 0 for unknown and uncertain entries.

    Returns:
        float64 of shape (num_labels,), each in 0..1, as scikit-learn's `brier_score_loss` on the known rows; NaN for a
        label without a known entry.

    Raises:
        HalflabelError: On shapes that differ, on other label values, or on a score that is no probability.
    """
    return per_label(brier_of, *check_pair(scores, labels, probabilities=True))


def log_loss(scores: ArrayLike, labels: ArrayLike) -> Floats:
    """Mean negative log-likelihood per label, over its known entries: -ln(score) for a yes, -ln(1 - score) for a no.

    As in scikit-learn, scores are moved into [eps, 1 - eps], where eps is the machine precision of their type (1.2e-7
    for float32, 2.2e-16 for float64), so that a score of 0 or 1 that is wrong costs 15.9 or 36.0 and not infinity.
    Arguments and errors are those of `brier_score`; NaN for a label without a known entry.
    """
    return per_label(log_loss_of, *check_pair(scores, labels, probabilities=True))


def calibration_error(scores: ArrayLike, labels: ArrayLike, bins: int = BINS) -> Floats:
    """Expected calibration error per label, over its known entries.

    sum_b n_b / n |mean score in bin b - share of yes in bin b| (Naeini et al., 2015, for a binary event), where bin b
    of B holds b / B <= score < (b + 1) / B, and the last one a score of 1 too.

    Arguments, result and errors are those of `brier_score`; `bins`, the number of bins of equal width, is at least 1.
    """
    if bins < 1:
        raise HalflabelError(f"bins is {bins!r}, expected at least 1")
    return per_label(lambda known: calibration_error_of(known, bins), *check_pair(scores, labels, probabilities=True))


def brier_of(known: KnownScores) -> float:
    """`brier_score` of a label."""
    return _mean(np.square(_excess(known)))


def log_loss_of(known: KnownScores) -> float:
    """`log_loss` of a label."""
    eps = np.finfo(known.positives.dtype).eps
    likelihood = np.clip(np.concatenate(known), eps, 1 - eps).astype(np.float64)
    likelihood[: len(known.negatives)] = 1 - likelihood[: len(known.negatives)]
    return -_mean(np.log(likelihood))


def calibration_error_of(known: KnownScores, bins: int = BINS) -> float:
    """`calibration_error` of a label."""
    excess = _excess(known)
    place = np.searchsorted(np.arange(1, bins) / bins, np.concatenate(known), "right")
    return float(np.abs(np.bincount(place, excess, bins)).sum()) / len(excess) if len(excess) else math.nan


def _excess(known: KnownScores) -> Floats:
    """By how much each score is above the answer: first those answered no, then those answered yes."""
    excess = np.concatenate(known, dtype=np.float64)
    excess[len(known.negatives) :] -= 1
    return excess


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else math.nan
