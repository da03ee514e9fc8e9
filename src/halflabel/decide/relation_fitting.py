"""Relations between labels, fitted on entries that are known together, and the soft targets they give."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.sparse import csc_array, csr_array
from scipy.sparse.linalg import LinearOperator

from ..metrics.entries import Floats, check_pair
from ..model.decisions import sigmoid
from ..model.errors import shortlist
from ..model.relations import Relations
from .decision_fitting import fit_decisions

MIN_TOGETHER = 5
"""Images in which both labels of a pair must be known for the pair to get a weight."""

PRIOR_DEVIATIONS = (0.5, 1.0, 2.0)
"""Standard deviations of the weights before any entry is seen, in log odds; beside them, that all weights are 0."""

LEAST_PROBABLE = 0.05
"""The probability of having a relation from which a pair is kept."""

_MOST_IN_DESIGN = 20_000_000  # of its entries; beyond, products of whole matrices are as fast
_DENSE = 0.1  # share of known entries from which products of whole matrices are faster
_TO_SAY = 0.1  # log odds; a weaker relation changes next to nothing
_CHUNK_ENTRIES = 2_000_000  # of a matrix of pairs, worked on at once


def calibrate_logits(logits: ArrayLike, labels: ArrayLike) -> Floats:
    """Return the logits of validation or cross-fitted entries on the scale of log odds, by Platt's method.

    Arguments and errors are those of `decision_fitting.fit_decisions`.
    """
    return fit_decisions(logits, labels).log_odds(logits)


def fit_relations(logits: ArrayLike, labels: ArrayLike, min_together: int = MIN_TOGETHER) -> Relations:
    """Fit one weight per pair of labels: regularised logistic regressions of each known entry on the others beside it.

    The regressions of all labels are fitted as one, since a pair has one weight; the image's own logit is in each of
    them with a factor of exactly 1. As every pair is looked at from both sides, the log-likelihood counts half.

    A pair has a relation with some probability, and its weight is then normal around 0 with one of `PRIOR_DEVIATIONS`
    (a spike and a slab, Mitchell and Beauchamp 1988). How frequent relations are and how strong is averaged over by how
    well it explains the surprises of all pairs, half of the prior being that there are none; each pair's evidence is
    that of the quadratic approximation of its log-likelihood at 0. The weight is the most probable one times the
    probability that there is a relation. So few entries, or labels that have nothing to do with one another, leave
    weights near 0; for few entries this is steadier than a choice by cross-validation. Memory is linear in the entries
    and in the pairs known together.

    Args:
        logits: Shape (n, num_labels), calibrated (`calibrate_logits`) and of images that the model was not trained on:
            of a validation split, or cross-fitted. Those of training images would leave nothing to explain.
        labels: Same shape: 1, 0, or below 0 for unknown and uncertain entries.
        min_together: See `MIN_TOGETHER`.

    Raises:
        HalflabelError: On shapes that differ, on other label values, or on a logit that is not finite where known.
    """
    given, matrix = check_pair(logits, labels)
    columns, rows = np.nonzero(matrix.T >= 0)  # known entries, label after label
    own, answers = given[rows, columns].astype(np.float64), matrix[rows, columns] == 1
    ends = np.concatenate([[0], np.cumsum(np.bincount(columns, minlength=matrix.shape[1]))])
    surprise = csc_array((answers - sigmoid(own), rows, ends), shape=matrix.shape)
    pairs, together, slope, curvature = _find_pairs(surprise, min_together)
    probable = _probabilities(slope, curvature)
    kept = probable.sum(axis=0) >= LEAST_PROBABLE
    (first, second), probable = pairs[:, kept], probable[:, kept]
    make = _design if 2 * together[kept].sum() <= _MOST_IN_DESIGN else _dense_design
    design = make(surprise, first, second)
    fits = [_fit_weights(design, own, answers, deviation) for deviation in PRIOR_DEVIATIONS]
    weights = (probable * np.array(fits)).sum(axis=0)
    return Relations(matrix.shape[1], tuple(first.tolist()), tuple(second.tolist()), tuple(weights.tolist()))


def relation_targets(logits: ArrayLike, labels: ArrayLike, min_together: int = MIN_TOGETHER) -> Floats:
    """Return a soft target for every entry, from the picture and from what is known of the same image.

    Args:
        logits: Shape (n, num_labels), cross-fitted: those of an image by a model that was not trained on it, nor on
            another image of its group. They are calibrated here.
        labels: Same shape: 1, 0, or below 0 for unknown and uncertain entries.
        min_together: See `MIN_TOGETHER`.

    Returns:
        Same shape, float64 in 0..1: known entries as they are, the others a calibrated probability.

    Raises:
        HalflabelError: As `fit_decisions` and `fit_relations`.
    """
    calibrated = calibrate_logits(logits, labels)
    return sigmoid(fit_relations(calibrated, labels, min_together).apply(calibrated, labels))


def relation_notes(relations: Relations, label_names: Sequence[str]) -> list[str]:
    """Name the strongest relations, those of either sign in a line."""
    lines = []
    order = sorted(range(len(relations.weights)), key=lambda i: -abs(relations.weights[i]))
    for words, sign in (("go together", 1), ("speak against one another", -1)):
        named = [
            f"{label_names[relations.first[i]]} and {label_names[relations.second[i]]} ({relations.weights[i]:+.1f})"
            for i in order
            if sign * relations.weights[i] >= _TO_SAY
        ]
        if named:
            lines.append(f"labels that {words} (log odds): {shortlist(named)}")
    return lines


def _find_pairs(surprise: csc_array, min_together: int) -> tuple[NDArray[np.intp], Floats, Floats, Floats]:
    """Return the columns of each pair known together often enough, shape (2, pairs), and three sums over its images.

    They are the number of these, the product of the pair's surprises, which is the slope of half the log-likelihood
    where the weight is 0, and the square of that, which is the curvature there.
    """
    count = surprise.shape[1]
    known = csc_array((np.ones(surprise.nnz), surprise.indices, surprise.indptr), shape=surprise.shape)
    tables = [known, surprise, surprise.power(2)]
    if surprise.nnz > _DENSE * surprise.shape[0] * count:
        tables = [table.toarray() for table in tables]
    pairs, sums = [np.empty((2, 0), dtype=np.intp)], [np.empty((3, 0))]
    for part in _by_columns(count):
        products = [table.T @ table[:, part] for table in tables]  # each of shape (num_labels, labels of this part)
        together, product, squares = (one if isinstance(one, np.ndarray) else one.toarray() for one in products)
        above = np.arange(count)[:, None] < np.arange(count)[part]
        found = np.nonzero(above & (together >= min_together))
        pairs.append(np.array(found) + [[0], [part.start]])
        sums.append(np.array([together[found], product[found], squares[found]]))
    return np.concatenate(pairs, axis=1), *np.concatenate(sums, axis=1)


def _by_columns(count: int) -> list[slice]:
    width = max(1, _CHUNK_ENTRIES // max(count, 1))
    return [slice(start, start + width) for start in range(0, count, width)]


def _probabilities(slope: Floats, curvature: Floats) -> Floats:
    """Return how probable it is that a pair has a relation and that it comes from each prior, (deviations, pairs)."""
    shares = 4.0 ** -np.arange(np.ceil(np.log2(max(len(slope), 1)) / 2) + 1)  # from all pairs down to one
    variances = np.square(PRIOR_DEVIATIONS)
    evidence = [
        _either(factor, share)[0].sum() for factor in _bayes_factors(slope, curvature, variances) for share in shares
    ]
    none = np.log(len(evidence))  # as probable beforehand as all the others together
    weight = np.exp(np.array(evidence) - max(none, *evidence))
    weight /= weight.sum() + np.exp(none - max(none, *evidence))
    probable = np.zeros((len(variances), len(slope)))
    factors = _bayes_factors(slope, curvature, variances)
    for row, factor, likely in zip(probable, factors, weight.reshape(len(variances), -1), strict=True):
        for share, probability in zip(shares, likely, strict=True):
            row += probability * _either(factor, share)[1]
    return probable


def _bayes_factors(slope: Floats, curvature: Floats, variances: Floats) -> Iterator[Floats]:
    """Give for each prior variance how much likelier, in logs, a pair's entries are with such a weight than without."""
    for variance in variances:
        yield (slope**2 * variance / (1 + variance * curvature) - np.log1p(variance * curvature)) / 2


def _either(factor: Floats, share: float) -> tuple[Floats, Floats]:
    """Return log likelihoods where a share of pairs has a relation, and how probable it then is that a pair has one."""
    related = np.log(share) + factor
    either = np.logaddexp(np.log1p(-share) if share < 1 else -np.inf, related)
    return either, np.exp(related - either)


def _design(surprise: csc_array, first: NDArray[np.intp], second: NDArray[np.intp]) -> csr_array:
    """Return how surprising the other label of each pair is, shape (known entries, pairs); 0 where it is unknown."""
    ends, rows, values = surprise.indptr, surprise.indices, surprise.data
    entries, others, pairs = [np.empty(0, dtype=np.intp)], [np.empty(0)], [np.empty(0, dtype=np.intp)]
    for pair, (one, other) in enumerate(zip(first, second, strict=True)):
        _, mine, theirs = np.intersect1d(
            rows[ends[one] : ends[one + 1]], rows[ends[other] : ends[other + 1]], True, return_indices=True
        )
        mine, theirs = mine + ends[one], theirs + ends[other]
        entries += [mine, theirs]
        others += [values[theirs], values[mine]]
        pairs.append(np.full(2 * len(mine), pair))
    places = (np.concatenate(entries), np.concatenate(pairs))
    return csr_array((np.concatenate(others), places), shape=(surprise.nnz, len(first)))


def _dense_design(surprise: csc_array, first: NDArray[np.intp], second: NDArray[np.intp]) -> LinearOperator:
    """Return what `_design` does without storing it: the surprises are held as a matrix (images, num_labels)."""
    table, rows = surprise.toarray(), surprise.indices
    columns = np.repeat(np.arange(surprise.shape[1]), np.diff(surprise.indptr))

    def evidence(weights: Floats) -> Floats:
        matrix = np.zeros((surprise.shape[1],) * 2)
        matrix[first, second] = matrix[second, first] = weights.ravel()
        found: Floats = (table @ matrix)[rows, columns]
        return found

    def slope(errors: Floats) -> Floats:
        spread = np.zeros_like(table)
        spread[rows, columns] = errors.ravel()
        product = table.T @ spread
        found: Floats = product[first, second] + product[second, first]
        return found

    return LinearOperator((surprise.nnz, len(first)), matvec=evidence, rmatvec=slope, dtype=np.float64)


def _fit_weights(
    design: csr_array | LinearOperator, own: Floats, answers: NDArray[np.bool_], deviation: float
) -> Floats:
    """Return the most probable weights under one prior."""

    def objective(weights: Floats) -> tuple[float, Floats]:
        loss, slope = _half_loss(weights, design, own, answers)
        return loss + (weights**2).sum() / (2 * deviation**2), slope + weights / deviation**2

    options = {"maxiter": 200, "ftol": 1e-11, "gtol": 1e-6}
    found: Floats = minimize(objective, np.zeros(design.shape[1]), jac=True, method="L-BFGS-B", options=options).x
    return found


def _half_loss(
    weights: Floats, design: csr_array | LinearOperator, own: Floats, answers: NDArray[np.bool_]
) -> tuple[float, Floats]:
    """Return half of the summed log loss, and its slope."""
    logits = own + design @ weights
    loss = (np.logaddexp(0.0, logits) - answers * logits).sum() / 2
    return float(loss), design.T @ (sigmoid(logits) - answers) / 2
