"""Temperature and Platt calibration of a label's logits, fitted on its known entries.

All functions take the logits of known entries, float64 of shape (entries,) and finite, and their answers, 1 or 0. The
targets are Platt's (1999): with P positives and N negatives a yes counts as (P + 1) / (P + 2), a no as 1 / (N + 2). So
the convex loss has a finite minimum also where the logits separate yes from no.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize
from scipy.special import expit, logit

from ..metrics.entries import Floats


def fit_sigmoid(logits: Floats, answers: NDArray[Any], *, shifted: bool) -> tuple[float, float]:
    """Fit scale and shift of sigmoid(scale * logit + shift) (Platt 1999; Lin, Lin and Weng 2007).

    Without a shift, 1 / scale is the temperature (Guo et al. 2017).

    Returns:
        The scale with the least cross-entropy to the targets, at or below 0 where large logits do not speak for yes;
        and the shift, 0 without one. Equal logits get a scale of 0 beside a shift.
    """
    # Logits are standardised, so that the first step and the tolerance fit every scale of them. The start has the best
    # shift of equal logits, whose scale so stays 0.
    targets = _targets(answers)
    mean = logits.mean() if shifted else 0.0
    deviation = np.sqrt(np.square(logits - mean).mean()) or 1.0
    columns = np.stack([(logits - mean) / deviation, np.ones_like(logits)])[: 1 + shifted]

    def loss(at: Floats) -> tuple[float, Floats]:
        value = at @ columns
        gradient = columns @ (expit(value) - targets) / len(value)
        return (np.logaddexp(0, value) - targets * value).mean(), gradient

    def hessian(at: Floats) -> Floats:
        score = expit(at @ columns)
        return np.asarray((columns * (score * (1 - score))) @ columns.T / len(score))

    start = np.array([0.0, logit(targets.mean())])[: 1 + shifted]
    best = minimize(loss, start, jac=True, hess=hessian, method="trust-exact", options={"gtol": 1e-13}).x
    scale = float(best[0] / deviation)
    return scale, float(best[1] - scale * mean) if shifted else 0.0


def fit_shift(logits: Floats, answers: NDArray[Any]) -> float:
    """Fit the shift of sigmoid(logit + shift), for logits whose scale is right; answers of one kind are enough.

    Where the cross-entropy is least, scores and targets agree on average.
    """
    targets = _targets(answers)
    alone = logit(targets) - logits  # what would be best for each entry alone: the shift is among them
    margin = 1 + 1e-9 * np.abs(alone).max()
    ends = alone.min() - margin, alone.max() + margin
    return float(brentq(lambda shift: (expit(logits + shift) - targets).sum(), *ends, maxiter=1000))


def _targets(answers: NDArray[Any]) -> Floats:
    yes = answers == 1
    positives, negatives = np.count_nonzero(yes), np.count_nonzero(~yes)
    targets: Floats = np.where(yes, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    return targets
