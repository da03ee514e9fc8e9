"""Temperature and Platt calibration of each label's logits, fitted on known entries."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..metrics.known_scores import Floats, check_pair

CHUNK_ENTRIES = 2_000_000
"""Entries worked on at once, so that memory does not grow with the number of labels."""
_TOLERANCE = 1e-7  # of the last step; Newton's method converges quadratically, so the error is about its square
_MOST_STEPS, _MOST_HALVINGS = 100, 40
_LARGEST_SHIFT = 5.0  # of one step: with all scores near 0 or 1 there is next to no curvature


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> Floats:
    """Fit the scale of sigmoid(scale * logit) per label; 1 / scale is its temperature (Guo et al. 2017).

    Args:
        logits: Shape (n, num_labels), finite where known.
        labels: Same shape: 1, 0, or below 0 for unknown and uncertain entries.

    Returns:
        float64 of shape (num_labels,): the scale with the least cross-entropy to Platt's targets, see `fit_platt`.
        At or below 0 where large logits do not speak for yes; NaN for a label without a known yes and a known no.

    Raises:
        HalflabelError: On shapes that differ, on other label values, or on a logit that is not finite.
    """
    scale: Floats = _by_chunks(logits, labels, "scale")[0]
    return scale


def fit_platt(logits: ArrayLike, labels: ArrayLike) -> tuple[Floats, Floats]:
    """Fit scale and shift of sigmoid(scale * logit + shift) per label by Newton's method (Lin, Lin and Weng 2007).

    The targets are Platt's (1999): with P known positives and N known negatives a yes counts as (P + 1) / (P + 2), a no
    as 1 / (N + 2). So the convex loss has a finite minimum also where the logits separate yes from no.

    Arguments, results (scale and shift) and errors are those of `fit_temperature`.
    """
    scale, shift = _by_chunks(logits, labels, "both")
    return scale, shift


def fit_shift(logits: ArrayLike, labels: ArrayLike) -> Floats:
    """Fit the shift of sigmoid(logit + shift) per label, for logits whose scale is right.

    Arguments, targets and errors are those of `fit_platt`. Thanks to the targets answers of one kind are enough; NaN
    for a label without a known entry.
    """
    shift: Floats = _by_chunks(logits, labels, "shift")[1]
    return shift


def by_columns(rows: int, columns: int) -> list[slice]:
    """Return slices of columns that hold at most about `CHUNK_ENTRIES` entries each."""
    width = max(1, CHUNK_ENTRIES // max(rows, 1))
    return [slice(start, start + width) for start in range(0, columns, width)]


def scarce_groups(positive: NDArray[Any], negative: NDArray[Any], min_known: int) -> list[NDArray[np.intp]]:
    """Return the labels with too few known positives, and those with too few known negatives only.

    They are pooled apart: the base rates differ.
    """
    groups = (positive < min_known, (negative < min_known) & (positive >= min_known))
    return [np.flatnonzero(group) for group in groups if group.any()]


def pool_entries(
    arrays: Sequence[NDArray[Any]], labels: NDArray[Any], group: NDArray[np.intp], min_known: int
) -> list[NDArray[Any]]:
    """Return the known entries of a group of labels as one column, shape (entries, 1), of each array.

    Where the group has fewer than `min_known` positives or negatives, those of all labels. Of more than
    `2 * CHUNK_ENTRIES` entries evenly spaced ones.
    """
    inside = labels[:, group]
    if min((inside == 1).sum(), (inside == 0).sum()) < min_known:
        group, inside = np.arange(labels.shape[1]), labels
    known = inside.T >= 0
    step = max(1, -(-int(known.sum()) // (2 * CHUNK_ENTRIES)))
    return [array[:, group].T[known][::step, None] for array in arrays]


def _by_chunks(logits: ArrayLike, labels: ArrayLike, free: str) -> Floats:
    given, matrix = check_pair(logits, labels)
    parts = [_fit(given[:, part], matrix[:, part], free) for part in by_columns(*matrix.shape)]
    return np.concatenate([np.empty((2, 0)), *parts], axis=1)


def _fit(logits: NDArray[Any], labels: NDArray[Any], free: str) -> Floats:
    """Return scale and shift, shape (2, num_labels); `free` says which of them is fitted."""
    known = labels >= 0
    count = known.sum(axis=0)
    order = np.argsort(~known, axis=0, kind="stable")[: count.max(initial=0)]  # known entries first, the rest left out
    known, answers = np.take_along_axis(known, order, axis=0), np.take_along_axis(labels, order, axis=0)
    z = np.where(known, np.take_along_axis(logits, order, axis=0), 0.0).astype(np.float64)
    positive = (answers == 1).sum(axis=0)
    negative = count - positive
    targets = np.where(answers == 1, (positive + 1) / (positive + 2), 1 / (negative + 2))
    # Newton's method is run on standardised logits, so that its first step and the tolerance fit every scale of logits.
    mean = np.zeros(z.shape[1]) if free == "scale" else z.sum(axis=0) / np.maximum(count, 1)
    z = np.where(known, z - mean, 0.0)
    deviation = np.ones(z.shape[1])
    if free != "shift":
        deviation = np.sqrt((z**2).sum(axis=0) / np.maximum(count, 1))
        deviation[deviation == 0] = 1
    scale, shift = _newton(z / deviation, targets, known, free)
    fitted = np.array([scale / deviation, shift - scale / deviation * mean])
    fitted[:, (count == 0) if free == "shift" else (positive == 0) | (negative == 0)] = np.nan
    return fitted


def _newton(z: Floats, targets: Floats, known: NDArray[np.bool_], free: str) -> Floats:
    """Minimise each column's cross-entropy; a step is halved until the loss falls, so it converges."""
    solution = np.zeros((2, z.shape[1]))
    solution[0] = free == "shift"
    active = np.arange(z.shape[1])
    loss, p = _cross_entropy(z, targets, known, solution)
    for _ in range(_MOST_STEPS):
        step = _newton_step(z, np.where(known, p - targets, 0.0), np.where(known, p * (1 - p), 0.0), free)
        start, size = solution[:, active], np.ones(len(active))
        for _ in range(_MOST_HALVINGS):
            new_loss, p = _cross_entropy(z, targets, known, start - size * step)
            worse = new_loss > loss * (1 + 1e-14)
            if not worse.any():
                break
            size[worse] /= 2
        solution[:, active] = start - size * step
        going = np.abs(step).max(axis=0) > _TOLERANCE * np.maximum(1, np.abs(start).max(axis=0))
        if not going.any():
            break
        active, loss = active[going], new_loss[going]
        z, targets, known, p = z[:, going], targets[:, going], known[:, going], p[:, going]
    return solution


def _cross_entropy(z: Floats, targets: Floats, known: NDArray[np.bool_], at: Floats) -> tuple[Floats, Floats]:
    """Return the loss per column and the probability per entry; both from one exponential."""
    logits = z * at[0] + at[1]
    small = np.exp(-np.abs(logits))
    loss = np.where(known, np.maximum(logits, 0) + np.log1p(small) - targets * logits, 0.0).sum(axis=0)
    return loss, np.where(logits >= 0, 1.0, small) / (1 + small)


def _newton_step(z: Floats, residual: Floats, weight: Floats, free: str) -> Floats:
    """Return Hessian^-1 gradient per column, shape (2, columns); 0 along a direction without curvature."""
    slope, curvature = (residual * z).sum(axis=0), (weight * z * z).sum(axis=0)
    if free == "scale":
        return np.array([slope / np.where(curvature > 0, curvature, 1), np.zeros_like(slope)])
    level, mixed, total = residual.sum(axis=0), (weight * z).sum(axis=0), weight.sum(axis=0)
    total = np.where(total > 0, total, 1)
    if free == "shift":
        return np.array([np.zeros_like(level), np.clip(level / total, -_LARGEST_SHIFT, _LARGEST_SHIFT)])
    inner = curvature - mixed**2 / total  # Schur complement: what the shift does not explain
    steep = np.where(inner > 1e-12 * curvature, (slope - mixed / total * level) / np.where(inner > 0, inner, 1), 0.0)
    return np.array([steep, (level - mixed * steep) / total])
