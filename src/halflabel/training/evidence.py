"""What speaks for an unknown entry: a probe on the features, and the answers of the nearest neighbours, weighed.

Logistic regressions of many labels at once on soft targets; labels spread over the nearest-neighbour graph; and the
weights of several sources, by how well each foretells entries whose answer is known.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_expit, logit
from sklearn.neighbors import NearestNeighbors

Matrix = NDArray[np.float64]
Known = NDArray[np.bool_]

ABSORPTION = 0.1
"""How strongly every image is also tied to the label's prior; one neighbour of the same direction ties with 1."""

_TOLERANCE, _ROUNDS = 1e-4, 1000  # of spreading
_RIDGE, _CLIP = 1.0, 0.02  # of weighing


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
        base = logit(smoothed_share(targets, weights))
        ridge = penalty * self.width
        # Newton's diagonal at a score of 0.5: in these coordinates the problem is nearly round.
        curvature = self.scales[:, None] ** 2 * (weights.mean(axis=0) / 4) + ridge
        scale, bias_scale = 1 / np.sqrt(curvature), 1 / np.sqrt(total / 4 + 1e-3)
        spread_weights = np.repeat(weights / self.views, self.views, axis=0)
        spread_targets = np.repeat(np.where(weights > 0, targets, 0.0), self.views, axis=0)

        def unpack(vector: Matrix) -> tuple[Matrix, Matrix]:
            parts = vector.reshape(len(self.scales) + 1, -1)
            return parts[:-1] * scale, parts[-1] * bias_scale + base

        def objective(vector: Matrix) -> tuple[float, Matrix]:
            axes, bias = unpack(vector)
            logits = self.rows @ axes.astype(np.float32) + bias
            losses = spread_weights * (np.logaddexp(0, logits) - spread_targets * logits)
            error = spread_weights * (expit(logits) - spread_targets)
            slopes = (self.rows.T @ error.astype(np.float32) + ridge * axes) * scale
            loss = float(losses.sum() + ridge / 2 * (axes**2).sum())
            return loss, np.vstack([slopes, error.sum(axis=0) * bias_scale]).ravel()

        start = np.zeros((len(self.scales) + 1, targets.shape[1]))
        if near is not None:
            start = np.vstack([near.axes / scale, (near.bias - base) / bias_scale])
        options = {"maxiter": 200, "maxcor": 15, "ftol": 1e-6}
        found = minimize(objective, start.ravel(), jac=True, method="L-BFGS-B", options=options)
        axes, bias = unpack(found.x)
        logits = self.rows @ axes + bias
        return Fit(logits.reshape(-1, self.views, targets.shape[1]).mean(axis=1), axes, bias)


def smoothed_share(targets: NDArray[Any], weights: NDArray[Any]) -> Matrix:
    """Return the share of yes by Laplace's rule: (yes + 1) / (all + 2).

    Args:
        targets: Shape (n, num_labels), in [0, 1]; anything where the weight is 0.
        weights: Shape (n, num_labels), at least 0, or bool.

    Returns:
        Shape (num_labels,), in (0, 1).
    """
    yes = (np.where(weights > 0, targets, 0.0) * weights).sum(axis=0)
    return np.asarray((yes + 1) / (weights.sum(axis=0) + 2))


def neighbour_graph(features: NDArray[np.floating], neighbours: int) -> Any:  # noqa: ANN401 - a scipy.sparse matrix
    """Return the symmetric graph of nearest neighbours by the cosine of centred features.

    Exact search, by scikit-learn; time grows with the square of the images, memory with their number.

    Args:
        features: Shape (n, width), one row per image.
        neighbours: Of each image, at least 1; with fewer images, all others.

    Returns:
        scipy.sparse CSR matrix (n, n), weights in (0, 1]: the cosine, where either image is near the other.
    """
    centred = np.asarray(features, dtype=np.float64)
    centred = centred - centred.mean(axis=0)
    count = min(neighbours, len(centred) - 1)
    if count < 1:
        return scipy.sparse.csr_matrix((len(centred), len(centred)))
    search = NearestNeighbors(n_neighbors=count, metric="cosine", algorithm="brute").fit(centred)
    graph = search.kneighbors_graph(mode="distance")
    graph.data = np.clip(1 - graph.data, 0, 1)
    graph = graph.maximum(graph.T).tocsr()
    graph.eliminate_zeros()
    return graph


def propagate(graph: Any, labels: NDArray[Any]) -> Matrix:  # noqa: ANN401
    """Spread known entries over a graph; known entries stay as they are.

    The score f of an unknown entry solves f_i = (sum_j w_ij f_j + a * prior) / (sum_j w_ij + a), a = `ABSORPTION`:
    the chance that a random walk from the image ends at a known yes, where at each step it may also give up and draw
    from the label's prior (Zhu, Ghahramani & Lafferty 2003, with their dongle to a prior). Solved by iteration.

    Args:
        graph: See `neighbour_graph`.
        labels: Shape (n, num_labels): 1, 0 or a target between; below 0: unknown.

    Returns:
        Shape (n, num_labels), in [0, 1]; an entry that no known one reaches has its label's prior.
    """
    known = labels >= 0
    fixed = np.where(known, labels, 0).astype(np.float64)
    prior = smoothed_share(labels, known)
    degree = np.asarray(graph.sum(axis=1)).reshape(-1, 1) + ABSORPTION
    scores = np.where(known, fixed, prior)
    for _ in range(_ROUNDS):
        spread = np.where(known, fixed, (graph @ scores + ABSORPTION * prior) / degree)
        change = np.abs(spread - scores).max(initial=0.0)
        scores = spread
        if change < _TOLERANCE * ABSORPTION:
            break
    return scores


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
    return np.asarray(logit(scores.clip(_CLIP, 1 - _CLIP)) - logit(prior.clip(_CLIP, 1 - _CLIP)))


def mean_log_loss(logits: Matrix, answers: NDArray[Any], known: Known) -> float:
    """Return the mean log loss in nats over known entries, after `Weighing` has calibrated the logits on them."""
    weighing = Weighing.fit([logits], answers, known)
    calibrated, truth = (weighing.weights[0] * logits + weighing.offsets)[known], np.asarray(answers)[known]
    return float(-np.where(truth > 0.5, log_expit(calibrated), log_expit(-calibrated)).mean())
