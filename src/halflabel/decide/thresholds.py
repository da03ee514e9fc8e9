"""Thresholds per label for an objective, fitted on known entries: what the numbers promise on new images."""

import math
import re
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..metrics.entries import Floats, check_pair
from ..model.decisions import NEVER
from ..model.errors import HalflabelError
from .pooling import fit_labels, scarce_groups

_QUANTILE = 0.8416  # of the normal distribution at 80 %
_PRIOR_ENTRIES = 20


def parse_objective(text: str) -> tuple[str, float]:
    """Read an objective: `f1`, `f0.5`, `f2`, `precision>=0.9`, `recall>=0.95`, `rate=0.05`.

    Returns:
        `"f"` (the best F-beta) and beta; `"precision"` or `"recall"` (the other one as high as possible while this one
        is at least a share) or `"rate"` (a share of yes) and that share.

    Raises:
        HalflabelError: If it is written in another way or impossible: a beta of 0, a share outside 0..1. Also a
            precision or recall of 1, which cannot be promised for new images.
    """
    match = re.fullmatch(r"(f|precision>=|recall>=|rate=)(\d+\.?\d*|\.\d+)", re.sub(r"\s", "", str(text)).lower())
    if match:
        kind, value = match[1].rstrip(">="), float(match[2])
        if 0 < value < (math.inf if kind == "f" else 1):
            return kind, value
    raise HalflabelError(
        f"objective {text!r} is none of f1 (or another beta: f0.5, f2), precision>=X, recall>=X and rate=X "
        "with X above 0 and below 1"
    )


class Thresholds(NamedTuple):
    """One item a label: a threshold, whether it is a pooled one, and whether no threshold meets the objective."""

    values: Floats
    pooled: NDArray[np.bool_]
    unmet: NDArray[np.bool_]


def fit_thresholds(
    scores: ArrayLike,
    labels: ArrayLike,
    objective: str,
    probabilities: ArrayLike | None = None,
) -> Thresholds:
    """Fit a threshold per label; the answer is yes where `score >= threshold`.

    A threshold lies midway between two adjacent scores of known entries.

    `f1` takes the best F-beta on these entries. `precision>=x` takes the highest recall, `recall>=x` the highest
    precision, among thresholds whose precision or recall is at least x with a confidence of 80 %: the lower bound of
    Wilson's score interval (1927), so that what holds here for a few entries by luck is not promised. Into the bound
    goes, with the weight of 20 entries, what the calibrated scores expect (the mean score of the yes; the share of the
    summed scores that they hold), which steadies labels with few entries. Where no threshold reaches it, the label is
    unmet and gets the safe answer: never yes (`NEVER`) for a precision, always yes (0) for a recall. `rate=x` answers
    yes to that share of the known entries.

    A label with fewer than `MIN_KNOWN` known positives or negatives gets the threshold of all such labels together
    (those short of positives and those short of negatives apart). For a rate that is a label with so few known entries
    that less than one of them would be the exception.

    Args:
        scores: Shape (n, num_labels), in 0..1 where known, calibrated: a pooled threshold compares labels.
        labels: Same shape: 1, 0, or below 0 for unknown and uncertain entries.
        objective: See `parse_objective`.
        probabilities: The best estimate of the probabilities where `scores` are not that; same shape and same order
            within each label.

    Raises:
        HalflabelError: On a wrong objective, shape or value, or without a known entry; but for a rate also without a
            known yes or a known no.
    """
    kind, share = goal = parse_objective(objective)
    values, matrix = check_pair(scores, labels, probabilities=True)
    expected = values if probabilities is None else check_pair(probabilities, matrix, probabilities=True)[0]
    known, positive = (matrix >= 0).sum(axis=0), (matrix == 1).sum(axis=0)
    if kind == "rate":
        few = np.flatnonzero(known * min(share, 1 - share) < 1)
        groups = [few] if len(few) else []
        empty = not known.any()
    else:
        groups = scarce_groups(matrix)
        empty = not positive.any() or not (known - positive).any()
    if empty:
        raise HalflabelError("thresholds need known entries, a yes and a no among them")
    (threshold, unmet), pooled = fit_labels(partial(_fit, goal), matrix, groups, values, expected)
    return Thresholds(threshold, pooled, unmet > 0)


def _fit(goal: tuple[str, float], scores: Floats, expected: Floats, answers: NDArray[Any]) -> tuple[float, bool]:
    """Return the threshold of known entries, each array (entries,), and whether none meets the objective."""
    order = np.argsort(-scores, kind="stable")
    scores, hits, mass = scores[order], np.cumsum(answers[order] == 1), np.cumsum(expected[order])
    below = np.append(scores[1:], 0.0)
    worth = _worth(goal, hits, np.arange(1, len(scores) + 1), mass)
    worth[:-1][np.diff(scores) == 0] = -np.inf  # a threshold can only be put after the last of several equal scores
    place = worth.argmax()
    if worth[place] == -np.inf:
        return 0.0 if goal[0] == "recall" else NEVER, True
    middle = below[place] + (scores[place] - below[place]) / 2
    return float(middle if middle > below[place] else scores[place]), False  # between neighbouring floats is no middle


def _worth(goal: tuple[str, float], hits: NDArray[Any], seen: NDArray[Any], mass: Floats) -> Floats:
    """Return what is to be as large as possible, for a threshold after each place; -inf where it is not allowed."""
    kind, value = goal
    if kind == "rate":
        return -np.abs(seen - value * len(seen))
    total = max(int(hits[-1]), 1)
    if kind == "f":
        return np.asarray((1 + value**2) * hits / (value**2 * total + seen))
    if kind == "precision":
        return np.where(_holds(hits, seen, mass / seen, value), seen, -np.inf)
    expected = mass / max(mass[-1], np.finfo(np.float64).tiny)
    return np.where(_holds(hits, total, expected, value), hits / seen, -np.inf)


def _holds(hits: NDArray[Any], tries: NDArray[Any] | int, expected: Floats, share: float) -> NDArray[np.bool_]:
    """Tell where Wilson's lower bound of hits / tries, with the expected share as a prior, is at least `share`."""
    surplus = hits - share * tries + _PRIOR_ENTRIES * (expected - share)
    return np.asarray(surplus >= _QUANTILE * np.sqrt(share * (1 - share) * (tries + _PRIOR_ENTRIES)))
