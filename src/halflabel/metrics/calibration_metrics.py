"""How far scores are from being the probabilities they claim to be: Brier score, log-loss, calibration error."""

import numpy as np
from numpy.typing import ArrayLike

from ..model.errors import HalflabelError
from .known_scores import Answered, Floats, KnownScores, check_pair, per_label, ratio

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

    Args:
        scores: As in `brier_score`.
        labels: As in `brier_score`.
        bins: Number of bins of equal width, at least 1.

    Returns:
        float64 of shape (num_labels,), each in 0..1; NaN for a label without a known entry.

    Raises:
        HalflabelError: As `brier_score`, and on another number of bins.
    """
    if bins < 1:
        raise HalflabelError(f"bins is {bins!r}, expected at least 1")
    return per_label(lambda known: calibration_error_of(known, bins), *check_pair(scores, labels, probabilities=True))


def brier_of(known: KnownScores) -> Floats:
    """`brier_score` of known entries."""
    noes, yeses = known.noes, known.yeses
    lost = noes.sums(np.square(noes.scores, dtype=np.float64)) + yeses.sums(np.square(1.0 - _double(yeses)))
    return ratio(lost, known.counts)


def log_loss_of(known: KnownScores) -> Floats:
    """`log_loss` of known entries."""
    lost = np.zeros(len(known.counts))
    for part, is_yes in ((known.yeses, True), (known.noes, False)):
        eps = np.finfo(part.scores.dtype).eps
        score = np.clip(part.scores, eps, 1 - eps).astype(np.float64)
        lost -= part.sums(np.log(score) if is_yes else np.log1p(-score))
    return ratio(lost, known.counts)


def calibration_error_of(known: KnownScores, bins: int = BINS) -> Floats:
    """`calibration_error` of known entries."""
    edges = np.arange(1, bins) / bins
    labels = np.arange(len(known.counts))
    excess = np.zeros(len(labels) * bins)  # sum of scores minus number of yeses, per label and bin
    for part, answer in ((known.noes, 0.0), (known.yeses, 1.0)):
        place = part.spread(labels * bins) + np.searchsorted(edges, part.scores, "right")
        excess += np.bincount(place, _double(part) - answer, minlength=len(excess))
    return ratio(np.abs(excess).reshape(-1, bins).sum(axis=1), known.counts)


def _double(part: Answered) -> Floats:
    return part.scores.astype(np.float64, copy=False)
