"""Statistics of counts: the interval of a rate, and the correlation of two answers."""

import numpy as np
from numpy.typing import ArrayLike

from .known_scores import Floats, ratio


def wilson_interval(successes: ArrayLike, trials: ArrayLike) -> Floats:
    """95 % interval of a rate (Wilson 1927), shape (2, ...): within 0..1 also for few trials; NaN without any."""
    n, z2 = np.asarray(trials, dtype=np.float64), 1.959964**2
    rate, spread = ratio(successes, n), ratio(z2, n)
    middle, half = rate + spread / 2, np.sqrt(spread * (rate * (1 - rate) + spread / 4))
    return np.clip(np.stack([middle - half, middle + half]) / (1 + spread), 0, 1)


def phi(counts: ArrayLike) -> Floats:
    """The correlation of two yes/no answers, -1 to 1, from counts (..., 4) of yes-yes, yes-no, no-yes, no-no.

    NaN where one of them is always answered the same.
    """
    both, first, second, neither = np.moveaxis(np.asarray(counts, dtype=np.float64), -1, 0)
    scale = np.sqrt((both + first) * (second + neither) * (both + second) * (first + neither))
    return ratio(both * neither - first * second, scale)
