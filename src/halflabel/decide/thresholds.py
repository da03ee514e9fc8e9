"""Thresholds per label for an objective, fitted on known entries: what the numbers promise on new images."""

import math
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..metrics.known_scores import Floats, check_pair
from ..model.decisions import NEVER
from ..model.errors import HalflabelError
from .calibration import by_columns, pool_entries, scarce_groups

MIN_KNOWN = 10
"""Known positives, and known negatives, from which a label's own numbers are better on new images than pooled ones."""
_QUANTILE = 0.8416  # of the normal distribution at 80 %
_PRIOR_ENTRIES = 20


@dataclass(frozen=True)
class Objective:
    """What thresholds are fitted for.

    Args:
        kind: `"f"` (the best F-beta), `"precision"` or `"recall"` (the other one as high as possible while this one is
            at least `value`), or `"rate"` (a share of yes).
        value: Beta, or the precision, recall or rate.
    """

    kind: str
    value: float


def parse_objective(text: str) -> Objective:
    """Read an objective: `f1`, `f0.5`, `f2`, `precision>=0.9`, `recall>=0.95`, `rate=0.05`.

    Raises:
        HalflabelError: If it is written in another way or impossible: a beta of 0, a share outside 0..1. Also a
            precision or recall of 1, which cannot be promised for new images.
    """
    match = re.fullmatch(r"(f|precision>=|recall>=|rate=)(\d+\.?\d*|\.\d+)", re.sub(r"\s", "", str(text)).lower())
    if match:
        kind, value = match[1].rstrip(">="), float(match[2])
        if 0 < value < (math.inf if kind == "f" else 1):
            return Objective(kind, value)
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
    min_known: int = MIN_KNOWN,
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

    A label with fewer than `min_known` known positives or negatives gets the threshold of all such labels together
    (those short of positives and those short of negatives apart). For a rate that is a label with so few known entries
    that less than one of them would be the exception.

    Args:
        scores: Shape (n, num_labels), in 0..1 where known, calibrated: a pooled threshold compares labels.
        labels: Same shape: 1, 0, or below 0 for unknown and uncertain entries.
        objective: See `parse_objective`.
        min_known: At least 1.
        probabilities: The best estimate of the probabilities where `scores` are not that; same shape and same order
            within each label.

    Raises:
        HalflabelError: On a wrong objective, shape or value, or without a known entry; but for a rate also without a
            known yes or a known no.
    """
    goal = parse_objective(objective)
    values, matrix = check_pair(scores, labels, probabilities=True)
    expected = values if probabilities is None else check_pair(probabilities, matrix, probabilities=True)[0]
    known, positive = (matrix >= 0).sum(axis=0), (matrix == 1).sum(axis=0)
    if goal.kind == "rate":
        few = np.flatnonzero(known * min(goal.value, 1 - goal.value) < 1)
        groups = [few] if len(few) else []
        empty = not known.any()
    else:
        groups = scarce_groups(positive, known - positive, min_known)
        empty = not positive.any() or not (known - positive).any()
    if empty:
        raise HalflabelError("thresholds need known entries, a yes and a no among them")
    threshold, unmet = np.empty(len(known)), np.zeros(len(known), dtype=bool)
    for part in by_columns(*matrix.shape):
        threshold[part], unmet[part] = _fit(values[:, part], matrix[:, part], expected[:, part], goal)
    pooled = np.zeros(len(known), dtype=bool)
    for group in groups:
        pool = pool_entries((values, matrix, expected), matrix, group, min_known)
        threshold[group], unmet[group] = _fit(pool[0], pool[1], pool[2], goal)
        pooled[group] = True
    return Thresholds(threshold, pooled, unmet)


def _fit(
    scores: NDArray[Any], labels: NDArray[Any], expected: NDArray[Any], goal: Objective
) -> tuple[Floats, NDArray[np.bool_]]:
    """Return each column's threshold and whether none meets the objective; columns are sorted by falling score."""
    known = labels >= 0
    count = known.sum(axis=0)
    keys = np.where(known, -scores.astype(np.float64), np.inf)
    order = np.argsort(keys, axis=0, kind="stable")[: max(1, count.max(initial=0))]
    keys = np.take_along_axis(keys, order, axis=0)
    positive = np.take_along_axis(labels == 1, order, axis=0)
    hits, seen = np.cumsum(positive, axis=0), np.arange(1, len(keys) + 1)[:, None]
    expected = np.where(np.isfinite(keys), np.take_along_axis(expected, order, axis=0), 0.0)
    mass = np.cumsum(expected, axis=0, dtype=np.float64)
    below = np.zeros(keys.shape)
    below[:-1] = np.where(np.isfinite(keys[1:]), -keys[1:], 0.0)
    end = np.isfinite(keys)
    end[:-1] &= keys[1:] != keys[:-1]  # a threshold can only be put after the last of several equal scores
    worth = np.where(end, _worth(goal, hits, seen, mass, count), -np.inf)
    place = worth.argmax(axis=0)[None]
    above, below = (np.take_along_axis(array, place, axis=0)[0] for array in (-keys, below))
    middle = below + (above - below) / 2
    threshold = np.where(middle > below, middle, above)  # between neighbouring floats there is no middle
    unmet = ~np.isfinite(worth.max(axis=0))
    return np.where(unmet, 0.0 if goal.kind == "recall" else NEVER, threshold), unmet


def _worth(goal: Objective, hits: NDArray[Any], seen: NDArray[Any], mass: Floats, count: NDArray[Any]) -> Floats:
    """Return what is to be as large as possible, for a threshold after each place; -inf where it is not allowed."""
    if goal.kind == "rate":
        return -np.abs(np.asarray(seen - goal.value * count, dtype=np.float64))
    total = np.maximum(hits[-1], 1)
    if goal.kind == "f":
        return np.asarray((1 + goal.value**2) * hits / (goal.value**2 * total + seen), dtype=np.float64)
    if goal.kind == "precision":
        return np.where(_holds(hits, seen, mass / seen, goal.value), seen, -np.inf)
    expected = mass / np.maximum(mass[-1], np.finfo(np.float64).tiny)
    return np.where(_holds(hits, total, expected, goal.value), hits / seen, -np.inf)


def _holds(hits: NDArray[Any], tries: NDArray[Any], expected: Floats, share: float) -> NDArray[np.bool_]:
    """Tell where Wilson's lower bound of hits / tries, with the expected share as a prior, is at least `share`."""
    surplus = hits - share * tries + _PRIOR_ENTRIES * (expected - share)
    return np.asarray(surplus >= _QUANTILE * np.sqrt(share * (1 - share) * (tries + _PRIOR_ENTRIES)))
