"""Pseudo-labels: calibrated guesses at unknown entries, and how often such guesses are right where we know.

What speaks for an entry is a probe on the features and the answers of the nearest neighbours. Every known entry is
hidden once, in one of several folds; what is said of it then is the like of what is said of entries that are truly
unknown. From these the evidence is weighed, the precision of the pseudo-labels measured, and the round that foretells
best is kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_expit, logit
from sklearn.neighbors import NearestNeighbors

from ..model.heads import raise_features
from ..model.labels import IGNORE_INDEX
from .keys import PseudoLabelOptions

Matrix = NDArray[np.float64]
Mask = NDArray[np.bool_]

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
    def fit(cls, evidence: Sequence[Matrix], answers: NDArray[Any], known: Mask) -> "Weighing":
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


def mean_log_loss(logits: Matrix, answers: NDArray[Any], known: Mask) -> float:
    """Return the mean log loss in nats over known entries, after `Weighing` has calibrated the logits on them."""
    weighing = Weighing.fit([logits], answers, known)
    calibrated, truth = (weighing.weights[0] * logits + weighing.offsets)[known], np.asarray(answers)[known]
    return float(-np.where(truth > 0.5, log_expit(calibrated), log_expit(-calibrated)).mean())


PENALTIES = (0.01, 0.04, 0.16)
"""What the probe's ridge penalty per feature is chosen from, by the log loss of hidden known entries."""

LEAST = 2
"""A label needs this many known yes and as many known no, or it gets no pseudo-labels."""


def pool(features: Any, power: float) -> NDArray[np.float32]:  # noqa: ANN401 - a tensor, or rows on disk
    """Return one vector per row: the mean over positions where the head consumes these."""
    if isinstance(features, torch.Tensor) and features.ndim == 2:
        pooled = features.float()
    else:
        pooled = torch.stack([features[row].float().mean(dim=0) for row in range(len(features))])
    return np.asarray(raise_features(pooled, power))


def make_pseudo_labels(
    features: NDArray[np.floating],
    labels: NDArray[np.int8],
    names: Sequence[str],
    options: PseudoLabelOptions,
    views: int = 1,
    seed: int = 0,
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """Guess unknown entries from the features and from what is known.

    Self-training (Yarowsky 1995) on evidence that is weighed by hidden known entries, as in stacking (Wolpert 1992).
    Deterministic for a seed.

    Args:
        features: Shape (n * views, width), pooled and untouched by training; all views of an image in a row.
        labels: Shape (n, num_labels): 1, 0, `IGNORE_INDEX`; an `UNCERTAIN` entry is neither guessed nor learned from.
        names: The labels.
        options: See `PseudoLabelOptions`.
        views: Rows per image.
        seed: Of the folds.

    Returns:
        Targets of shape (n, num_labels): known entries as they were, pseudo-labels in [0, 1], else negative codes; and
        a report for JSON: `rounds`, see `_Chains.run`; `kept_round`, the number of the round that the targets are of,
        from 1, or 0 where none made known entries better foretold than training on known entries alone, so that the
        targets are the labels; `known_only_log_loss`, of a probe that is trained on known entries alone, at hidden
        ones; and `labels_without`, which get no pseudo-labels for want of known yes or no.
    """
    able = np.minimum((labels == 1).sum(axis=0), (labels == 0).sum(axis=0)) >= LEAST
    without = [name for name, enough in zip(names, able, strict=True) if not enough]
    targets = labels.astype(np.float32)
    rounds: list[dict[str, Any]] = []
    found = []
    report: dict[str, Any] = {"kept_round": 0, "known_only_log_loss": None, "rounds": rounds, "labels_without": without}
    if not (labels == IGNORE_INDEX).any() or not able.any():
        return targets, report
    chains = _Chains(features, labels[:, able], options, views, seed)
    for turn in range(1, options.rounds + 1):
        one, guessed = chains.run(turn)
        rounds.append(one)
        found.append(guessed)
        if turn > 1 and (one["precision"] or 0) < (rounds[-2]["precision"] or 0):
            break  # guesses of guesses have become worse
    report["known_only_log_loss"] = chains.known_log_loss
    best = int(np.argmin([one["probe_log_loss"] for one in rounds]))
    if rounds[best]["probe_log_loss"] < chains.known_log_loss:
        report["kept_round"], targets[:, able] = best + 1, found[best]
    return targets, report


class _Chains:
    """The same self-training once for all that is known, and once without each fold of it.

    Attributes:
        logits: Of the probe, shape (folds + 1, n, num_labels): chain k has not seen the entries of fold k; the last
            chain has seen all.
        nearby: What the neighbours say beyond each label's prior, in log-odds; the same shape.
        known_log_loss: Of the first probes, on known entries that were hidden from them.
    """

    def __init__(
        self,
        features: NDArray[np.floating],
        labels: NDArray[np.int8],
        options: PseudoLabelOptions,
        views: int,
        seed: int,
    ) -> None:
        """Fit the first probes, on known entries alone, and spread these over the graph."""
        self.labels, self.known, self.options = labels, labels >= 0, options
        self.fold = _draw_folds(labels, options.folds, seed)
        self.seen = [*(np.where(self.fold == k, IGNORE_INDEX, labels) for k in range(options.folds)), labels]
        graph = neighbour_graph(features.reshape(len(labels), views, -1).mean(axis=1), options.neighbours)
        spread = (log_odds_beyond(propagate(graph, seen), smoothed_share(seen, seen >= 0)) for seen in self.seen)
        self.nearby = np.stack(list(spread))
        self.basis = FeatureBasis.of(features, views)
        tried = {penalty: self._fit(self.seen, penalty) for penalty in PENALTIES}
        losses = {penalty: self._log_loss(logits) for penalty, logits in tried.items()}
        self.penalty, self.known_log_loss = min(losses.items(), key=lambda item: item[1])
        self.logits = tried[self.penalty]

    def run(self, turn: int) -> tuple[dict[str, Any], NDArray[np.float32]]:
        """Weigh the evidence, guess, and train the next probes on the guesses.

        Returns:
            What the round found, and the targets. Found are the numbers of pseudo-labels that lean to `yes` and to
            `no`; the `precision`, which is the share of right answers where a hidden known entry would have got a
            pseudo-label, None without one, and how many `hidden` ones it rests on; the `log_loss` in nats of the
            guesses at all hidden known entries; the `probe_log_loss` of a probe trained on the pseudo-labels, too, at
            known entries that were hidden from all of it; and the `weights` of the probe's and of the neighbours' word.
        """
        sources = [self._hidden(self.logits), self._hidden(self.nearby)]
        weighing, share = Weighing.fit(sources, self.labels, self.known), turn / self.options.rounds
        targets = []
        for *pair, seen in zip(self.logits, self.nearby, self.seen, strict=True):
            scores = weighing.scores(pair)
            targets.append(np.where(self._sure(scores, seen == IGNORE_INDEX, share), scores, seen))
        hidden, sure = self._judge(sources, share)
        self.logits = self._fit(targets, self.penalty)
        guessed = (self.labels == IGNORE_INDEX) & (targets[-1] >= 0)
        right = sure & ((hidden >= 0.5) == (self.labels == 1))
        found = {
            "yes": int((guessed & (targets[-1] >= 0.5)).sum()),
            "no": int((guessed & (targets[-1] < 0.5)).sum()),
            "precision": float(right.sum() / sure.sum()) if sure.any() else None,
            "hidden": int(sure.sum()),
            "log_loss": float(-np.log(np.where(self.labels == 1, hidden, 1 - hidden)[self.known]).mean()),
            "probe_log_loss": self._log_loss(self.logits),
            "weights": weighing.weights.tolist(),
        }
        return found, targets[-1].astype(np.float32)

    def _judge(self, sources: Sequence[Matrix], share: float) -> tuple[Matrix, Mask]:
        """Return scores of hidden known entries, weighed as the other folds say, and which would get pseudo-labels."""
        scores, sure = np.full(self.known.shape, 0.5), np.zeros_like(self.known)
        for k in range(self.options.folds):
            own = self.fold == k
            scores[own] = Weighing.fit(sources, self.labels, self.known & ~own).scores(sources)[own]
            sure |= self._sure(scores, own, share)
        return scores, sure

    def _sure(self, scores: Matrix, candidates: Mask, share: float) -> Mask:
        """Return which candidates get a pseudo-label: sure enough, and among the surest share of their label's."""
        chance = np.maximum(scores, 1 - scores)
        sure = candidates & (chance >= self.options.confidence)
        limit = np.floor(share * candidates.sum(axis=0)).astype(int)
        rank = np.argsort(np.argsort(-np.where(sure, chance, -1.0), axis=0, kind="stable"), axis=0, kind="stable")
        return np.asarray(sure & (rank < limit))

    def _hidden(self, values: Matrix) -> Matrix:
        """Return for each entry what the chain says that has not seen it; shape (n, num_labels)."""
        chain = np.where(self.known, self.fold, self.options.folds)
        found: Matrix = np.take_along_axis(values, chain[None], axis=0)[0]
        return found

    def _fit(self, targets: Sequence[Matrix], penalty: float) -> Matrix:
        """Fit every chain's probe; the one that has seen all comes first, and the others start from it."""
        fits: list[Fit] = []
        for one in reversed(targets):
            known = (one >= 0).astype(np.float64)
            fits.append(self.basis.fit(one.astype(np.float64), known, penalty, fits[0] if fits else None))
        return np.stack([fit.logits for fit in reversed(fits)])

    def _log_loss(self, logits: Matrix) -> float:
        return mean_log_loss(self._hidden(logits), self.labels, self.known)


def _draw_folds(labels: NDArray[np.int8], folds: int, seed: int) -> NDArray[np.int64]:
    """Deal the known yes and the known no of each label out evenly; unknown entries are in fold -1."""
    rng = np.random.default_rng(seed)
    fold = np.full(labels.shape, -1)
    for j in range(labels.shape[1]):
        for answer in (1, 0):
            rows = rng.permutation(np.flatnonzero(labels[:, j] == answer))
            fold[rows, j] = (np.arange(len(rows)) + rng.integers(folds)) % folds
    return fold
