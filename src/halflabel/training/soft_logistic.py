"""Logistic regression of many labels at once on soft targets: the probe's optimum in a fraction of a second."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Fit:
    """A logistic regression per label.

    Attributes:
        logits: Shape (n, num_labels), averaged over the views of an image.
        axes: Shape (rank, num_labels): the coefficients along the principal axes.
        bias: Shape (num_labels,).
    """

    logits: Matrix
    axes: Matrix
    bias: Matrix


@dataclass(frozen=True)
class FeatureBasis:
    """Standardised features along their principal axes, where a ridge penalty is easy to precondition.

    Attributes:
        rows: float32 of shape (n * views, rank): the coordinates; all views of an image in a row.
        scales: Shape (rank,): the singular values.
        width: How many features there were.
        views: Rows per image.
    """

    rows: NDArray[np.float32]
    scales: Matrix
    width: int
    views: int

    @classmethod
    def of(cls, features: NDArray[np.floating], views: int = 1) -> "FeatureBasis":
        """Standardise features of shape (n * views, width), a constant one by 1, and turn them to their axes."""
        values = np.asarray(features, dtype=np.float64)
        spread = values.std(axis=0)
        values = (values - values.mean(axis=0)) / np.where(spread > 1e-6, spread, 1.0)
        wide = values.shape[0] < values.shape[1]
        squares, axes = np.linalg.eigh(values @ values.T if wide else values.T @ values)
        kept = squares > 1e-10 * max(float(squares[-1]), 1e-300)
        scales = np.sqrt(squares[kept])
        rows = axes[:, kept] * scales if wide else values @ axes[:, kept]
        return cls(rows.astype(np.float32), scales, values.shape[1], views)

    def fit(self, targets: Matrix, weights: Matrix, penalty: float, near: Fit | None = None) -> Fit:
        """Fit one logistic regression per label.

        Minimises sum_ij w_ij BCE(t_ij, x_i . v_j + b_j) + penalty * width / 2 * |v_j|^2 by L-BFGS, where every view
        of an image has 1 / views of its weight. The bias is not penalised.

        Args:
            targets: Shape (n, num_labels), in [0, 1]; anything where the weight is 0.
            weights: Shape (n, num_labels), at least 0; 0: not used.
            penalty: Per feature, above 0: features are standardised, so that this does not depend on their number.
            near: The fit of a like problem, from which to start.
        """
        total = weights.sum(axis=0)
        base = _log_odds(targets, weights)
        ridge = penalty * self.width
        # Newton's diagonal at a score of 0.5: in these coordinates the problem is nearly round.
        curvature = self.scales[:, None] ** 2 * (weights.mean(axis=0) / 4) + ridge
        scale, bias_scale = 1 / np.sqrt(curvature), 1 / np.sqrt(total / 4 + 1e-3)
        spread_weights = np.repeat(weights / self.views, self.views, axis=0)
        spread_targets = np.repeat(np.where(weights > 0, targets, 0.0), self.views, axis=0)
        across = self.rows.T

        def unpack(vector: Matrix) -> tuple[Matrix, Matrix]:
            parts = vector.reshape(len(self.scales) + 1, -1)
            return parts[:-1] * scale, parts[-1] * bias_scale + base

        def objective(vector: Matrix) -> tuple[float, Matrix]:
            axes, bias = unpack(vector)
            logits = self.rows @ axes.astype(np.float32) + bias
            losses = spread_weights * (np.logaddexp(0, logits) - spread_targets * logits)
            error = spread_weights * (expit(logits) - spread_targets)
            slopes = np.vstack(
                [(across @ error.astype(np.float32) + ridge * axes) * scale, error.sum(axis=0) * bias_scale]
            )
            return float(losses.sum() + ridge / 2 * (axes**2).sum()), slopes.ravel()

        start = np.zeros((len(self.scales) + 1, targets.shape[1]))
        if near is not None:
            start = np.vstack([near.axes / scale, (near.bias - base) / bias_scale])
        options = {"maxiter": 200, "maxcor": 15, "ftol": 1e-6}
        found = minimize(objective, start.ravel(), jac=True, method="L-BFGS-B", options=options)
        axes, bias = unpack(found.x)
        logits = self.rows @ axes + bias
        return Fit(logits.reshape(-1, self.views, targets.shape[1]).mean(axis=1), axes, bias)


def _log_odds(targets: Matrix, weights: Matrix) -> Matrix:
    """Return the log-odds of each label's weighted targets, by Laplace's rule; shape (num_labels,)."""
    share = ((np.where(weights > 0, targets, 0.0) * weights).sum(axis=0) + 1) / (weights.sum(axis=0) + 2)
    return np.asarray(np.log(share / (1 - share)))
