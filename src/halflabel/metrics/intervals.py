"""How sure a number is: the interval of a rate, of a mean of repeated runs, and of what images tell of a model.

- A rate, so many of so many: `wilson_interval`.
- The mean of a few runs, or of the differences of paired runs: `mean_interval`.
- A measure of scores, or the difference of two models' on the same images: `resample_ranking`, the percentile bootstrap
  over images (Efron and Tibshirani, 1993), and `percentile_interval` of the resamples or of their differences.

A resample draws as many images as there are, with replacement; drawing an image k times weighs its entries by k. So the
images of each label are put in order once, and all resamples are sums of weights along that order.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.sparse import csr_array

from ..model.errors import HalflabelError
from .entries import Floats, check_pair, ratio

_WEIGHTS = 20_000_000  # image weights held at once
_EXACT = 2**23  # sums of two whole numbers up to here are exact in float32


def wilson_interval(successes: ArrayLike, trials: ArrayLike) -> Floats:
    """95 % interval of a rate (Wilson 1927), shape (2, ...): within 0..1 also for few trials; NaN without any."""
    n, z2 = np.asarray(trials, dtype=np.float64), 1.959964**2
    rate, spread = ratio(successes, n), ratio(z2, n)
    middle, half = rate + spread / 2, np.sqrt(spread * (rate * (1 - rate) + spread / 4))
    return np.clip(np.stack([middle - half, middle + half]) / (1 + spread), 0, 1)


def mean_interval(values: ArrayLike, ci: float = 0.95) -> Floats:
    """Interval of the mean of values that vary by chance, like those of runs with several seeds, by Student's t.

    Args:
        values: Shape (runs,), of independent runs; where runs are paired by their seed, the differences.
        ci: The interval's confidence, above 0 and below 1.

    Returns:
        float64 of shape (2,); NaN for fewer than two runs, or where one is undefined.
    """
    check_confidence(ci)
    runs = np.asarray(values, dtype=np.float64)
    if len(runs) < 2:
        return np.full(2, np.nan)
    half = stats.t.ppf((1 + ci) / 2, len(runs) - 1) * runs.std(ddof=1) / np.sqrt(len(runs))
    return np.array([runs.mean() - half, runs.mean() + half])


@dataclass(frozen=True)
class RankingResamples:
    """What each resample gives: float64 of shape (samples, num_labels), NaN for a label that is undefined in it."""

    average_precision: Floats
    roc_auc: Floats


def resample_ranking(
    scores: ArrayLike,
    labels: ArrayLike,
    samples: int = 1000,
    seed: int = 0,
    groups: NDArray[np.intp] | None = None,
) -> RankingResamples:
    """Average precision and area under the ROC curve per label, for resamples of the images.

    Args:
        scores: Shape (n, num_labels); array or tensor of any real numbers, larger means more likely yes.
        labels: Same shape: 1, 0, or below 0 for unknown and uncertain entries.
        samples: The number of resamples.
        seed: Of the draws. The same seed, number of images and samples give the same draws.
        groups: The number of each image's group, from 0, shape (n,): groups are drawn as wholes, since images of one
            patient or video say less than as many of several. None: every image stands alone.

    Raises:
        HalflabelError: On shapes that differ, other label values, a score that is not finite, or less than 1 sample.
    """
    values, matrix = check_pair(scores, labels)
    if samples < 1:
        raise HalflabelError(f"{samples} resamples are too few, expected at least 1")
    ap, auroc = np.empty((samples, matrix.shape[1])), np.empty((samples, matrix.shape[1]))
    drawn = len(matrix) if groups is None else int(groups.max(initial=-1)) + 1
    for rows, times in _draw(drawn, samples, seed):
        weights = times if groups is None else times[groups]
        for label in range(matrix.shape[1]):
            ranked = _rank_weighted(values[:, label], matrix[:, label], weights)
            ap[rows, label], auroc[rows, label] = ranked
    return RankingResamples(ap, auroc)


def mean_over_labels(values: Floats) -> Floats:
    """The mean of each resample's defined labels, (samples,), from (samples, num_labels); NaN where none is."""
    return ratio(np.nansum(values, axis=1), (~np.isnan(values)).sum(axis=1))


def percentile_interval(values: Floats, ci: float = 0.95) -> Floats:
    """The percentile interval of resampled values: the (1 - ci) / 2 and (1 + ci) / 2 quantiles of each column.

    Args:
        values: Shape (samples,) or (samples, columns); NaN, an undefined resample, is left out.
        ci: The interval's confidence, above 0 and below 1.

    Returns:
        float64 of shape (2,) or (2, columns); NaN where no resample is defined.
    """
    check_confidence(ci)
    tails = np.reshape([(1 - ci) / 2, (1 + ci) / 2], (2, *(1,) * (values.ndim - 1)))
    interval: Floats = stats.quantile(values, tails, axis=0, nan_policy="omit")
    return interval


def check_confidence(ci: float) -> None:
    """Refuse a confidence that is not above 0 and below 1."""
    if not 0 < ci < 1:
        raise HalflabelError(f"ci is {ci!r}, expected a confidence between 0 and 1, like 0.95")


def _draw(images: int, samples: int, seed: int) -> Iterator[tuple[slice, NDArray[np.floating]]]:
    """Give, for some resamples at a time, how often each drew each image or group: (images, some samples)."""
    rng = np.random.default_rng(seed)
    together = max(1, _WEIGHTS // max(images, 1))
    for start in range(0, samples, together):
        rows = slice(start, min(start + together, samples))
        weights = np.empty((images, rows.stop - start), np.float32 if images <= _EXACT else np.float64)
        for sample in weights.T:
            sample[:] = np.bincount(rng.integers(0, max(images, 1), images), minlength=images)
        yield rows, weights


def _rank_weighted(scores: NDArray[Any], labels: NDArray[Any], weights: NDArray[np.floating]) -> tuple[Floats, Floats]:
    """Average precision and area under the ROC curve of one label under weights (images, samples), each (samples,).

    Distinct scores of positives are levels. A negative stands between two levels or on one; only the weights of the
    negatives at each such place, and of the positives on each level, are needed.
    """
    negatives, positives = np.flatnonzero(labels == 0), np.flatnonzero(labels == 1)
    levels, level = np.unique(scores[positives], return_inverse=True)
    lower, upper = (np.searchsorted(levels, scores[negatives], side) for side in ("left", "right"))
    won = _pool(level, positives, len(levels), weights)
    found = _sum_from_top(won.copy())
    lost = _sum_from_top(_pool(lower + upper, negatives, 2 * len(levels) + 1, weights))
    reached, passed = lost[1::2], lost[2::2]  # negatives that score as high as a level or higher, and higher
    positive, negative = won.sum(axis=0, dtype=np.float64), lost[0].astype(np.float64)
    defined = (positive > 0) & (negative > 0)
    precision = np.divide(found, np.maximum(found + reached, 1), dtype=np.float64)
    ap = np.einsum("ls,ls->s", won, precision) / np.where(defined, positive, np.nan)
    beaten = np.einsum("ls,ls->s", won, reached + passed, dtype=np.float64) / 2
    return ap, 1 - beaten / np.where(defined, positive * negative, np.nan)


def _pool(place: NDArray[np.intp], images: NDArray[np.intp], places: int, weights: NDArray[Any]) -> NDArray[Any]:
    """Add up the weights of the images at each place: (places, samples)."""
    ones = np.ones(len(images), weights.dtype)
    pooled: NDArray[Any] = csr_array((ones, (place, images)), shape=(places, len(weights))) @ weights
    return pooled


def _sum_from_top(rows: NDArray[Any]) -> NDArray[Any]:
    """Replace each row by the sum of it and all later ones. numpy's cumsum along the first axis is 10 times slower."""
    for place in range(len(rows) - 2, -1, -1):
        rows[place] += rows[place + 1]
    return rows
