"""Each label is fitted on its own known entries, and labels with too few of them are fitted together."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..metrics.entries import Floats

MIN_KNOWN = 10
"""Known positives, and known negatives, from which a label's own numbers are better on new images than pooled ones."""
_POOLED = 4_000_000  # entries of a pool at most
_COLUMN_ENTRIES = 2_000_000  # matrix entries copied at once, so that memory does not grow with the number of labels


def fit_labels(
    fit: Callable[..., tuple[float, float]],
    labels: NDArray[Any],
    groups: Sequence[NDArray[np.intp]],
    *arrays: NDArray[Any],
) -> tuple[Floats, NDArray[np.bool_]]:
    """Fit each label alone, but those of a group on the known entries of all of them.

    Where a group has fewer than `MIN_KNOWN` positives or negatives, all labels' entries are taken.

    Args:
        fit: Takes the values of known entries in each of the arrays, float64 of shape (entries,), and their answers;
            gives two numbers.
        labels: Shape (n, num_labels): 1, 0, or below 0 for entries that do not count.
        groups: Columns of labels that are not fitted alone.
        arrays: Each of shape (n, num_labels).

    Returns:
        The two numbers of each label, (2, num_labels), and whether they are those of a group, (num_labels,).
    """
    fitted, pooled = np.empty((2, labels.shape[1])), np.zeros(labels.shape[1], dtype=bool)
    for group in groups:
        fitted[:, group] = np.array(fit(*pool_entries(labels, group, *arrays)))[:, None]
        pooled[group] = True
    for label, entries in known_entries(np.flatnonzero(~pooled), labels, *arrays):
        fitted[:, label] = fit(*entries)
    return fitted, pooled


def known_entries(
    columns: NDArray[np.intp], labels: NDArray[Any], *arrays: NDArray[Any]
) -> Iterator[tuple[int, list[NDArray[Any]]]]:
    """Give, for each of some columns, the values of its known entries in each of the arrays, and their answers."""
    width = max(1, _COLUMN_ENTRIES // max(len(labels), 1))
    for start in range(0, len(columns), width):
        part = columns[start : start + width]
        for label, answers, *values in zip(part, *(matrix[:, part].T for matrix in (labels, *arrays)), strict=True):
            known = answers >= 0
            yield int(label), [*(one[known].astype(np.float64) for one in values), answers[known]]


def scarce_groups(labels: NDArray[Any]) -> list[NDArray[np.intp]]:
    """Return the labels with too few known positives, and those with too few known negatives only.

    They are pooled apart: the base rates differ.
    """
    few_positives, few_negatives = ((labels == answer).sum(axis=0) < MIN_KNOWN for answer in (1, 0))
    groups = (few_positives, few_negatives & ~few_positives)
    return [np.flatnonzero(group) for group in groups if group.any()]


def pool_entries(labels: NDArray[Any], group: NDArray[np.intp], *arrays: NDArray[Any]) -> list[NDArray[Any]]:
    """Return the values of a group's known entries in each of the arrays, and their answers, see `fit_labels`.

    Of more than `_POOLED` entries evenly spaced ones.
    """
    inside = labels[:, group]
    if min((inside == 1).sum(), (inside == 0).sum()) < MIN_KNOWN:
        group, inside = np.arange(labels.shape[1]), labels
    known = inside.T >= 0
    step = max(1, -(-int(known.sum()) // _POOLED))
    values = [array[:, group].T[known][::step].astype(np.float64) for array in arrays]
    return [*values, inside.T[known][::step]]
