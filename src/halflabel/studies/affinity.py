"""Does a step that helps one label help another? Gradients at a small trunk that all labels share.

The trunk is linear and stands on a backbone's features: a few numbers per image, at first the largest principal
components, scaled to a variance of 1. It can be trained to mix in the other components. Each label has a linear head
on it, fitted before anything is measured: a head at random would give a label and its negation opposed gradients,
although they need the same feature. A trunk that is wide gives every label all it needs, and nothing is left to share
or to fight for; which narrow width is right nobody knows. So the mean over several widths counts.

With the heads w fitted, the gradient of label j at the trainable weights is the outer product of m_j, what the
component outside the trunk still tells about the label's residuals, and w_j. Everything follows from this in closed
form. The step is judged on images that neither the heads nor the gradient have seen.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import t as student_t

from ..metrics.entries import Floats, ratio

WIDTHS, RANK = (2, 4, 8, 16), 256
_PCA_IMAGES = 4096  # enough to find the components; more would cost as much as the rest
_STEP = 0.1
_ENTRIES = 8_000_000  # numbers held at once


@dataclass(frozen=True)
class Trunk:
    """Features as a shared trunk gives them, and what it could mix in.

    Attributes:
        given: float64 of shape (n, width), uncorrelated, of variance 1.
        addable: float64 of shape (n, rank), uncorrelated with `given`.
    """

    given: Floats
    addable: Floats

    def take(self, rows: NDArray[Any]) -> "Trunk":
        """Return some images."""
        return Trunk(self.given[rows], self.addable[rows])

    def without_overlap(self, rows: NDArray[Any]) -> "Trunk":
        """Return all images, with `addable` uncorrelated with `given` on these rows."""
        known = np.column_stack([np.ones(len(self.given)), self.given])
        told = np.linalg.lstsq(known[rows], self.addable[rows], rcond=None)[0]
        return Trunk(self.given, self.addable - known @ told)


@dataclass(frozen=True)
class Heads:
    """Fitted heads, and the gradient of each label's loss at the trunk that is left.

    Attributes:
        weight: Shape (width, num_labels).
        bias: Shape (num_labels,).
        missing: m, shape (rank, num_labels); the gradient of label j is the outer product of m_j and w_j.
    """

    weight: Floats
    bias: Floats
    missing: Floats

    def logits(self, trunk: Trunk) -> Floats:
        """Return logits of shape (n, num_labels)."""
        logits: Floats = trunk.given @ self.weight + self.bias
        return logits


@dataclass(frozen=True)
class Affinity:
    """What a step on one label does to the loss of another, as a share of that loss; undefined is NaN.

    Attributes:
        of: Shape (num_labels, num_labels): the step is on the row's label, the loss is the column's. Above 0 it helps.
        pair: Symmetric, the mean of both directions.
        pair_error: Its standard error over groups of images, same shape.
        cosine: Between the gradients of two labels, from all images, same shape.
        groups: How many groups of images the errors rest on.
    """

    of: Floats
    pair: Floats
    pair_error: Floats
    cosine: Floats
    groups: int

    def intervals(self, pairs: int, ci: float = 0.95) -> tuple[Floats, Floats]:
        """Return the ends of the intervals of `pair`, which hold for so many pairs at once (Bonferroni)."""
        reach = student_t.ppf(1 - (1 - ci) / 2 / max(pairs, 1), max(self.groups - 1, 1)) * self.pair_error
        return self.pair - reach, self.pair + reach


def make_trunks(features: NDArray[Any], seed: int = 0) -> list[Trunk]:
    """Take principal components of standardised features, as trunks of several widths.

    Args:
        features: Shape (n, width), finite, of at least 2 images that differ.
        seed: Of the draw of at most 4,096 images from which the components are found.

    Returns:
        Trunks of 2, 4, 8 and 16 numbers; of less than 160 images only those with 10 images a number, at least one.
    """
    spread = features.std(axis=0, dtype=np.float64)
    standard = (features - features.mean(axis=0, dtype=np.float64)) / np.where(spread > 1e-6, spread, 1.0)
    some = standard
    if len(standard) > _PCA_IMAGES:
        some = standard[np.random.default_rng(seed).choice(len(standard), _PCA_IMAGES, replace=False)]
    values, axes = np.linalg.eigh(some.T @ some / len(some)) if some.shape[1] <= len(some) else _from_rows(some)
    order = np.argsort(-values)[:RANK]
    order = order[values[order] > 1e-8 * values.max(initial=0.0)]
    parts = standard @ axes[:, order]
    most = min(len(features) // 10, len(order) // 2)
    widths = [width for width in WIDTHS if width <= most] or [1]
    return [Trunk(parts[:, :width] / np.sqrt(values[order[:width]]), parts[:, width:]) for width in widths]


def _from_rows(rows: Floats) -> tuple[Floats, Floats]:
    """Return variances and axes of fewer images than features, from the images' inner products."""
    values, vectors = np.linalg.eigh(rows @ rows.T / len(rows))
    kept = values > 1e-8 * values.max(initial=0.0)
    axes = rows.T @ vectors[:, kept] / np.sqrt(values[kept] * len(rows))
    return values[kept], axes


def fit_heads(trunk: Trunk, labels: NDArray[Any]) -> Heads:
    """Fit a logistic regression for each label on its known entries (ridge of 1, Newton's method).

    Args:
        trunk: Of n images.
        labels: Shape (n, num_labels): 1, 0, or below 0 for unknown entries.
    """
    count, width = labels.shape[1], trunk.given.shape[1]
    weight, bias = np.zeros((width, count)), np.zeros(count)
    missing = np.zeros((trunk.addable.shape[1], count))
    for label in range(count):
        known = np.flatnonzero(labels[:, label] >= 0)
        if not len(known):
            continue
        given, answer = trunk.given[known], labels[known, label].astype(np.float64)
        weight[:, label], bias[label] = _fit_logistic(given, answer)
        rest = expit(given @ weight[:, label] + bias[label]) - answer
        missing[:, label] = trunk.addable[known].T @ rest / len(known)
    return Heads(weight, bias, missing)


def _fit_logistic(given: Floats, answer: Floats) -> tuple[Floats, float]:
    rows = np.column_stack([given, np.ones(len(given))])
    penalty = np.append(np.ones(given.shape[1]), 1e-3)  # finite where all answers are the same
    solution = np.zeros(rows.shape[1])
    for _ in range(50):
        score = expit(rows @ solution)
        slope = rows.T @ (score - answer) + penalty * solution
        curvature = (rows * (score * (1 - score))[:, None]).T @ rows + np.diag(penalty)
        step = np.linalg.solve(curvature, slope)
        solution -= step / max(1.0, float(np.abs(step).max()))  # never so far that it overshoots
        if np.abs(step).max() < 1e-9:
            break
    return solution[:-1], float(solution[-1])


def cross_entropy(logits: Floats, answers: NDArray[Any]) -> Floats:
    """Binary cross-entropy of logits, of any shape, with answers of 1 and 0."""
    loss: Floats = np.logaddexp(0.0, logits) - logits * answers
    return loss


def mean_known_loss(logits: Floats, labels: NDArray[Any]) -> Floats:
    """The mean cross-entropy of each label's known entries, (num_labels,); NaN without any.

    Args:
        logits: Shape (n, num_labels).
        labels: Same shape: 1, 0, or below 0 for unknown entries.
    """
    known = labels >= 0
    return ratio(np.where(known, cross_entropy(logits, labels), 0.0).sum(axis=0), known.sum(axis=0))


def gradient_cosine(heads: Heads) -> Floats:
    """Cosine of the gradients of every two labels at the trunk, (num_labels, num_labels); NaN where one vanishes."""
    products = [part.T @ part for part in (heads.weight, heads.missing)]
    inner = products[0] * products[1]
    length = np.sqrt(np.diagonal(inner))
    return ratio(inner, np.outer(length, length))


def measure_affinity(
    trunks: Sequence[Trunk], labels: NDArray[Any], folds: NDArray[Any], groups: NDArray[Any]
) -> Affinity:
    """Measure for every two labels what a step of gradient descent on one does to the loss of the other.

    This is the inter-task affinity of Fifty et al. 2021 ("Efficiently Identifying Task Groupings for Multi-Task
    Learning", arXiv 2109.04617), 1 - loss after / loss before. Two things differ. The step is taken from other folds
    than the loss. And a step back is taken too, and half the difference counted: what any step costs by its mere
    length cancels. All labels step at one rate, at which the farthest step moves a trunk by 0.1 (root mean square; each
    of its numbers has a variance of 1).

    Args:
        trunks: Of n images each, see `make_trunks`; the mean over them counts.
        labels: Shape (n, num_labels): 1, 0, or below 0 for unknown entries.
        folds: int of shape (n,), from 0. No group may be in two of them.
        groups: int of shape (n,): images that belong together; errors are over groups.
    """
    size = labels.shape[1]
    total, mean, squares, count = *np.zeros((3, size, size)), 0
    fits = [[_fit_fold(trunk, labels, folds != fold) for trunk in trunks] for fold in range(int(folds.max()) + 1)]
    before = [_held_out_loss([parts[number] for parts in fits], labels, folds) for number in range(len(trunks))]
    rate = _STEP / (max(part.moves.max() for parts in fits for part in parts) or 1.0)
    for fold, parts in enumerate(fits):
        for rows, group in _by_group(np.flatnonzero(folds == fold), groups, size**2):
            summed = np.zeros((2, int(group.max()) + 1, size, size))
            for part, loss in zip(parts, before, strict=True):
                gained = part.gains(labels, rows, rate) / loss / len(trunks)
                np.add.at(summed[0], group, gained)
                # Both directions are one product of two gradients, as shares of two losses. An image has its part in
                # both gradients, so what it does in one direction counts again in the other.
                np.add.at(summed[1], group, gained * (1 + loss / loss[:, None]))
            total += summed[0].sum(axis=0)
            influence = (summed[1] + summed[1].transpose(0, 2, 1)) / 2
            mean, squares = mean + influence.sum(axis=0), squares + (influence**2).sum(axis=0)
            count += len(influence)
    error = np.sqrt(np.maximum(squares - mean**2 / count, 0) * count / max(count - 1, 1))
    cosine = np.mean([gradient_cosine(fit_heads(trunk, labels)) for trunk in trunks], axis=0)
    return Affinity(total, (total + total.T) / 2, error, cosine, count)


@dataclass(frozen=True)
class _Fold:
    """Heads that are fitted on other folds, and how far (root mean square) each label's gradient moves the trunk."""

    trunk: Trunk
    heads: Heads
    moves: Floats

    def gains(self, labels: NDArray[Any], rows: NDArray[Any], rate: float) -> Floats:
        """Return what each label's step takes off each label's loss, (rows, steps, num_labels); 0 where unknown."""
        trunk, answers = self.trunk.take(rows), labels[rows][:, None, :]
        weight = self.heads.weight
        change = rate * (trunk.addable @ self.heads.missing)[:, :, None] * (weight.T @ weight)
        logits = self.heads.logits(trunk)[:, None, :]
        gained = (cross_entropy(logits + change, answers) - cross_entropy(logits - change, answers)) / 2
        return np.where(answers >= 0, gained, 0.0)


def _fit_fold(trunk: Trunk, labels: NDArray[Any], rows: NDArray[Any]) -> _Fold:
    trunk = trunk.without_overlap(rows)
    fitted = trunk.take(rows)
    heads = fit_heads(fitted, labels[rows])
    spread = np.sqrt(((fitted.addable @ heads.missing) ** 2).mean(axis=0))
    return _Fold(trunk, heads, spread * np.linalg.norm(heads.weight, axis=0))


def _held_out_loss(parts: Sequence[_Fold], labels: NDArray[Any], folds: NDArray[Any]) -> Floats:
    """Return the sum of each label's cross-entropy over its known entries, (num_labels,); NaN without any."""
    losses = np.zeros(labels.shape[1])
    for fold, part in enumerate(parts):
        rows = folds == fold
        loss = cross_entropy(part.heads.logits(part.trunk.take(rows)), labels[rows])
        losses += np.where(labels[rows] >= 0, loss, 0).sum(axis=0)
    return np.where(losses > 0, losses, np.nan)


def _by_group(rows: NDArray[Any], groups: NDArray[Any], numbers: int) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Give rows some at a time, whole groups together, with each row's group counted from 0."""
    ordered = rows[np.argsort(groups[rows], kind="stable")]
    starts = np.flatnonzero(np.diff(groups[ordered], prepend=groups[ordered[:1]] - 1))
    pieces = -(-len(ordered) * numbers // _ENTRIES)
    for part in np.array_split(starts, min(pieces, len(starts))):
        following = starts[starts > part[-1]]
        piece = ordered[part[0] : following[0] if len(following) else len(ordered)]
        yield piece, np.unique(groups[piece], return_inverse=True)[1]
