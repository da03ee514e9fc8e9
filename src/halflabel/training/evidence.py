"""What several sources say of an unknown entry, weighed by how well each foretells entries whose answer is known."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_expit

Matrix = NDArray[np.float64]
Known = NDArray[np.bool_]

_RIDGE = 1.0
_CLIP = 0.02


@dataclass(frozen=True)
class Weighing:
    """A logistic regression on evidence: logit_ij = sum_s weight_s * evidence_sij + offset_j.

    Weights are shared by all labels and never negative; offsets lean to 0, so that a label with few known entries
    goes by what holds for all.

    Attributes:
        weights: Shape (sources,).
        offsets: Shape (num_labels,).
    """

    weights: Matrix
    offsets: Matrix

    @classmethod
    def fit(cls, evidence: Sequence[Matrix], answers: NDArray[Any], known: Known) -> "Weighing":
        """Fit on known entries, whose evidence must not have seen their answers.

        Args:
            evidence: Log-odds of shape (n, num_labels) per source; the first is the image model's, which a priori
                has weight 1, the others 0.
            answers: Shape (n, num_labels), 1 or 0 where known.
            known: Shape (n, num_labels).
        """
        count, labels = len(evidence), known.shape[1]
        values, truth = np.stack([one[known] for one in evidence], axis=1), np.asarray(answers)[known]
        label = np.broadcast_to(np.arange(labels), known.shape)[known]
        first = np.eye(1, count)[0]

        def objective(vector: Matrix) -> tuple[float, Matrix]:
            apart = vector[:count] - first
            logits = values @ vector[:count] + vector[count:][label]
            error = expit(logits) - truth
            loss = (np.logaddexp(0, logits) - truth * logits).sum()
            loss += _RIDGE / 2 * ((apart**2).sum() + (vector[count:] ** 2).sum())
            offsets = np.bincount(label, error, labels) + _RIDGE * vector[count:]
            return float(loss), np.concatenate([values.T @ error + _RIDGE * apart, offsets])

        bounds = [(0, None)] * count + [(None, None)] * labels
        start = np.concatenate([first, np.zeros(labels)])
        found = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds).x
        return cls(found[:count], found[count:])

    def scores(self, evidence: Sequence[Matrix]) -> Matrix:
        """Return the chance of a yes for every entry; shape (n, num_labels), in (0, 1)."""
        summed = sum(weight * one for weight, one in zip(self.weights, evidence, strict=True))
        return np.asarray(expit(summed + self.offsets))


def log_odds_beyond(scores: Matrix, prior: Matrix) -> Matrix:
    """Return by how much scores speak for yes beyond a label's prior, in log-odds; both are kept in [0.02, 0.98]."""
    clipped, base = scores.clip(_CLIP, 1 - _CLIP), prior.clip(_CLIP, 1 - _CLIP)
    return np.asarray(np.log(clipped / (1 - clipped)) - np.log(base / (1 - base)))


def mean_log_loss(logits: Matrix, answers: NDArray[Any], known: Known) -> float:
    """Return the mean log loss in nats over known entries, after `Weighing` has calibrated the logits on them."""
    weighing = Weighing.fit([logits], answers, known)
    calibrated, truth = (weighing.weights[0] * logits + weighing.offsets)[known], np.asarray(answers)[known]
    return float(-np.where(truth > 0.5, log_expit(calibrated), log_expit(-calibrated)).mean())
