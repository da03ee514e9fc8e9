"""What each entry contributes to AUROC and to average precision, for intervals and tests that respect groups.

The influence of an entry is the derivative of the measure by the entry's weight. The variance of a measure is the sum
of the squared influences, those of one group added up before (the infinitesimal jackknife, Efron 1982; for AUROC this
is DeLong et al. 1988, with groups Obuchowski 1997). A difference of measures has the difference of influences, so a
paired comparison needs no more.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from ..metrics.entries import Floats

Measure = Callable[[Floats, NDArray[np.bool_]], tuple[float, Floats]]


def auroc_influence(scores: Floats, yes: NDArray[np.bool_]) -> tuple[float, Floats]:
    """Return the area under the ROC curve and the influence of each entry on it.

    Args:
        scores: Shape (n,).
        yes: The answers, shape (n,), both present.

    Returns:
        The area, and influences of shape (n,); they add up to 0.
    """
    positives, negatives = scores[yes], scores[~yes]
    influence = np.empty(len(scores))
    won = _beaten(np.sort(negatives), positives)
    area = float(won.mean())
    influence[yes] = (won - area) / len(positives)
    influence[~yes] = (1 - _beaten(np.sort(positives), negatives) - area) / len(negatives)
    return area, influence


def _beaten(ordered: Floats, scores: Floats) -> Floats:
    """Return the share of the ordered scores that each score beats; a tie is half."""
    below, not_above = np.searchsorted(ordered, scores, "left"), np.searchsorted(ordered, scores, "right")
    share: Floats = (below + not_above) / (2 * len(ordered))
    return share


def ap_influence(scores: Floats, yes: NDArray[np.bool_]) -> tuple[float, Floats]:
    """Return average precision and the influence of each entry on it; arguments and result as of `auroc_influence`."""
    levels, level = np.unique(-scores, return_inverse=True)  # the highest score first
    found = np.cumsum(won := np.bincount(level[yes], minlength=len(levels)))
    wrong = np.cumsum(np.bincount(level[~yes], minlength=len(levels)))
    precision, answered = found / (found + wrong), (found + wrong) ** 2
    positives = int(found[-1])
    ap = float((won * precision).sum() / positives)
    # An entry at a level counts in the precision of that level and of all below it.
    gain = _sum_from_end(won * wrong / answered)[level] / positives
    loss = _sum_from_end(won * found / answered)[level] / positives
    influence: Floats = np.where(yes, (precision[level] - ap) / positives + gain, -loss)
    return ap, influence


def _sum_from_end(values: Floats) -> Floats:
    return np.cumsum(values[::-1])[::-1]


@dataclass(frozen=True)
class Estimate:
    """A measure with its standard error and the degrees of freedom that this rests on."""

    value: float
    error: float
    freedom: int

    def interval(self, ci: float = 0.95) -> tuple[float, float]:
        """Return the two-sided interval, by Student's t."""
        half = float(stats.t.ppf((1 + ci) / 2, self.freedom)) * self.error
        return self.value - half, self.value + half

    def p_value(self, null: float = 0.0) -> float:
        """Return the two-sided p-value of the hypothesis that the measure is `null`; 1 where nothing speaks of it."""
        distance = abs(self.value - null)
        if not self.error:
            return 1.0 if not distance else 0.0
        return float(2 * stats.t.sf(distance / self.error, self.freedom))


def estimate(
    value: float, influence: ArrayLike, groups: NDArray[np.intp], seen: int, inflation: float = 1.0
) -> Estimate:
    """Turn influences into a standard error; entries of one group count as one observation.

    Args:
        value: The measure, or a difference or a mean of measures on the same entries.
        influence: Of each entry, shape (n,).
        groups: The number of each entry's group, shape (n,).
        seen: How many groups the rarer answer comes from, at least 2: it says how sure this is.
        inflation: Factor of the variance.
    """
    sums = np.bincount(groups, weights=np.asarray(influence))
    return Estimate(value, float(np.sqrt(inflation * (sums @ sums) * seen / (seen - 1))), seen - 1)


def holm(p_values: ArrayLike) -> Floats:
    """Return p-values corrected for their number (Holm 1979): the chance of any false finding stays below the level.

    Args:
        p_values: Shape (tests,).
    """
    given = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(given, kind="stable")
    corrected = np.empty(len(given))
    corrected[order] = np.minimum(np.maximum.accumulate(given[order] * np.arange(len(given), 0, -1)), 1)
    return corrected


def ranks_within(scores: Floats, parts: NDArray[np.intp]) -> Floats:
    """Return the rank of each score among those of its label and part, above 0 and below 1; ties share theirs.

    Networks that were fitted on different parts differ in scale, which must not decide between entries of different
    parts.

    Args:
        scores: Shape (n, num_labels); NaN for an entry that does not count, which stays NaN.
        parts: The part of each image, shape (n,).
    """
    ranked = np.full(scores.shape, np.nan)
    for part in np.unique(parts):
        rows = np.flatnonzero(parts == part)
        for label in range(scores.shape[1]):
            known = rows[~np.isnan(scores[rows, label])]
            if len(known):
                values = scores[known, label]
                ranked[known, label] = _beaten(np.sort(values), values)
    return ranked
