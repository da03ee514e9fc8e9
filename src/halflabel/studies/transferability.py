"""How well features speak for an answer before anything is trained: the evidence of a linear model, and the H-score.

A linear model y = F w + noise with w ~ N(0, 1/alpha) and noise ~ N(0, 1/beta) has the evidence p(y | F, alpha, beta).
Its maximum is LogME (You et al. 2021, arXiv 2102.11005), and the ridge penalty alpha / beta found there is a probe's.

The published iteration counts one weight per singular value and so is wrong where features outnumber rows. Here the
evidence is that of y ~ N(0, 1/beta + F F' / alpha), with beta in closed form, searched over alpha / beta alone.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar

from ..metrics.entries import Floats
from ..model.errors import HalflabelError
from ..model.labels import IntMatrix

_GRID = np.linspace(
    math.log(1e-10), math.log(1e10), 93
)  # of log penalties, relative to the mean squared singular value


@dataclass(frozen=True)
class EvidenceFit:
    """The linear model of greatest evidence.

    Attributes:
        log_evidence: log p(y | F) at the maximum, natural logarithm, over all rows.
        penalty: alpha / beta there: the penalty of the ridge regression that is its mean, above 0.
        weights: That mean, float64 of shape (width,).
    """

    log_evidence: float
    penalty: float
    weights: Floats


class LinearEvidence:
    """Features decomposed once, for the evidence of any number of targets on the same rows."""

    def __init__(self, features: ArrayLike) -> None:
        """Decompose the smaller of F F' and F' F.

        Args:
            features: F, shape (rows, width), finite.
        """
        self.features = np.asarray(features, dtype=np.float64)
        rows, width = self.features.shape
        self._dual = rows <= width
        gram = self.features @ self.features.T if self._dual else self.features.T @ self.features
        values, vectors = np.linalg.eigh(gram)
        kept = values > values[-1] * max(rows, width) * np.finfo(np.float64).eps
        self._squares, self._vectors = values[kept], vectors[:, kept]  # squared singular values

    def fit(self, target: ArrayLike) -> EvidenceFit:
        """Find the model of greatest evidence.

        Args:
            target: y, shape (rows,).

        Returns:
            The model; of features that are all 0 the weights are 0.

        Raises:
            HalflabelError: If y is 0 throughout: any precision of the noise would do.
        """
        y = np.asarray(target, dtype=np.float64)
        total = float(y @ y)
        if not total:
            raise HalflabelError("the evidence of a target that is 0 throughout is not defined")
        if self._dual:
            projected = self._vectors.T @ y
        else:
            projected = self._vectors.T @ (self.features.T @ y) / np.sqrt(self._squares)
        full = len(self._squares) == len(y)  # then nothing is left but rounding
        rest = 0.0 if full else max(total - float(projected @ projected), 0.0)

        def evidence(log_penalties: ArrayLike) -> Floats:
            return _log_evidence(np.exp(log_penalties), self._squares, projected, rest, len(y))

        def loss(log_penalty: float) -> float:
            return -float(evidence([log_penalty])[0])

        logs = _GRID + math.log(self._squares.mean() if len(self._squares) else 1)
        best = int(evidence(logs).argmax())
        bounds = logs[max(best - 1, 0)], logs[min(best + 1, len(logs) - 1)]
        found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
        penalty = math.exp(found.x)
        shrunk = self._vectors @ (projected / (self._squares + penalty) * (1 if self._dual else np.sqrt(self._squares)))
        return EvidenceFit(-float(found.fun), penalty, self.features.T @ shrunk if self._dual else shrunk)


def _log_evidence(penalties: Floats, squares: Floats, projected: Floats, rest: float, rows: int) -> Floats:
    """Return the log evidence at each penalty, the best beta given, (penalties,)."""
    share = penalties[:, None] / (penalties[:, None] + squares)
    energy = share @ projected**2 + rest
    logs: Floats = -0.5 * (rows * (np.log(2 * np.pi * energy / rows) + 1) - np.log(share).sum(axis=1))
    return logs


def log_me(features: ArrayLike, labels: IntMatrix) -> Floats:
    """LogME per label: the greatest log evidence per known row, with an intercept that is free (a flat prior).

    Args:
        features: Shape (n, width).
        labels: Shape (n, num_labels): 1, 0, or below 0 for what is not known.

    Returns:
        Shape (num_labels,), larger is better; it depends on neither the mean of the features nor their common scale.
        NaN for a label without both a known yes and a known no.
    """
    matrix, values = np.asarray(features), np.full(labels.shape[1], np.nan)
    for columns in same_known(labels):
        rows = labels[:, columns[0]] >= 0
        answers = labels[rows][:, columns].astype(np.float64)
        varied = [i for i in range(len(columns)) if np.ptp(answers[:, i : i + 1])] if len(answers) else []
        if varied:
            evidence = LinearEvidence(contrasts(matrix[rows]))
            for i in varied:
                values[columns[i]] = evidence.fit(contrasts(answers[:, i])).log_evidence / (len(answers) - 1)
    return values


def same_known(labels: IntMatrix) -> list[list[int]]:
    """Group the columns of labels that are known on the same rows: they share a decomposition."""
    groups: dict[bytes, list[int]] = {}
    for column in range(labels.shape[1]):
        groups.setdefault(np.packbits(labels[:, column] >= 0).tobytes(), []).append(column)
    return list(groups.values())


def contrasts(values: ArrayLike) -> Floats:
    """Return what is left of rows when their mean is taken out: (n - 1, ...) for (n, ...), by a Householder reflection.

    Scalar products are those of the centred rows, and independent noise of one variance stays independent.
    """
    matrix = np.asarray(values, dtype=np.float64)
    rows = len(matrix)
    shift = (matrix.sum(axis=0) - math.sqrt(rows) * matrix[0]) / (rows - math.sqrt(rows))
    left: Floats = matrix[1:] - shift
    return left


def held_out_h_score(predictions: ArrayLike, baseline: ArrayLike, answers: ArrayLike) -> float:
    """The H-score, measured on rows that were held out.

    The H-score tr(cov(f)^-1 cov(E[f | y])) (Bao et al. 2019) of a yes/no answer is the share of its variance that the
    least-squares predictor explains (R squared). In the sample it is 1 whatever the answers are, as soon as features
    outnumber rows; so it is taken on held-out rows here.

    Args:
        predictions: Of a least-squares predictor that was fitted on other rows, shape (n,).
        baseline: The mean answer of the rows that it was fitted on, shape (n,).
        answers: 1 or 0, shape (n,).

    Returns:
        At most 1; 0 or less: no better than the mean answer.
    """
    y = np.asarray(answers, dtype=np.float64)
    return 1 - float(((y - np.asarray(predictions)) ** 2).sum() / ((y - np.asarray(baseline)) ** 2).sum())
