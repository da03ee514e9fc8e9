"""The scores of each label's known entries, taken out of (n, num_labels) matrices or of batches of them.

Every metric is a function of these.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from ..model.errors import HalflabelError
from ..model.labels import check_matrix

Floats = NDArray[np.float64]
_CHUNK_ENTRIES = 4_000_000  # matrix entries turned around together, so that memory does not grow with the labels
_LEAST_WIDTH = 16  # labels turned around together at least: in a row, their scores share a cache line
_CHECKED = 2**18  # matrix entries whose values are checked together
_BLOCK = 4_000_000  # entries of batches that are put in order together


class KnownScores(NamedTuple):
    """The scores of a label's known entries: of those answered no and of those answered yes, each rising."""

    negatives: NDArray[Any]
    positives: NDArray[Any]


def known_scores(scores: NDArray[Any], labels: NDArray[Any]) -> Iterator[KnownScores]:
    """Give the known entries of one label after the other; scores and labels as from `check_pair`."""
    width = max(_LEAST_WIDTH, _CHUNK_ENTRIES // max(len(labels), 1))
    for start in range(0, labels.shape[1], width):
        across, answers = (np.ascontiguousarray(one[:, start : start + width].T) for one in (scores, labels))
        for row, answer in zip(across, answers, strict=True):
            known = KnownScores(np.compress(answer == 0, row), np.compress(answer == 1, row))
            known.negatives.sort()
            known.positives.sort()
            yield known


class EntryStore:
    """Known entries that come in batch by batch, kept in little more than 4 bytes each.

    They are held in blocks, label after label, beside what has come in since the last block was closed.

    Args:
        num_labels: The number of labels.
    """

    def __init__(self, num_labels: int) -> None:
        """Start with no entry."""
        self.num_labels = num_labels
        self._blocks: list[tuple[NDArray[np.float32], NDArray[Any]]] = []  # scores, and the ends of their groups
        self._waiting: list[tuple[NDArray[np.uint32], NDArray[np.float32]]] = []  # groups, scores
        self._count = 0  # of those that wait

    def add(self, scores: NDArray[Any], labels: NDArray[Any]) -> None:
        """Take in a batch, as from `check_pair`; scores are rounded to float32."""
        rows, columns = np.nonzero(labels >= 0)
        groups = 2 * columns + (labels[rows, columns] == 1)
        self._waiting.append((groups.astype(np.uint32), scores[rows, columns].astype(np.float32)))
        self._count += len(groups)
        if self._count >= _BLOCK:
            self._close_block()

    def _close_block(self) -> None:
        if self._waiting:
            groups, scores = (np.concatenate(parts) for parts in zip(*self._waiting, strict=True))
            places = (groups, np.arange(len(groups)))
            block = csr_array((scores, places), shape=(2 * self.num_labels, len(groups)))  # sorts in linear time
            self._blocks.append((block.data, block.indptr))
            self._waiting, self._count = [], 0

    def known_scores(self) -> Iterator[KnownScores]:
        """Give what has come in so far, one label after the other."""
        self._close_block()
        for group in range(0, 2 * self.num_labels, 2):
            yield KnownScores(self._sorted(group), self._sorted(group + 1))

    def _sorted(self, group: int) -> NDArray[np.float32]:
        parts = [scores[ends[group] : ends[group + 1]] for scores, ends in self._blocks]
        return np.sort(np.concatenate([np.empty(0, np.float32), *parts]))


def per_label(
    measure: Callable[[KnownScores], float | Sequence[float]], scores: NDArray[Any], labels: NDArray[Any]
) -> Floats:
    """Return what is measured of each label, shape (num_labels, ...); scores and labels as from `check_pair`."""
    return np.array([measure(known) for known in known_scores(scores, labels)], dtype=np.float64)


def check_pair(
    scores: ArrayLike, labels: ArrayLike, *, probabilities: bool = False
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return both as arrays (n, num_labels), the scores in float32 or wider.

    Args:
        scores: Shape (n, num_labels); an array or a tensor of real numbers.
        labels: Same shape: 1, 0, or below 0 for unknown and uncertain entries, whose scores do not count.
        probabilities: Refuse a score outside 0..1.

    Raises:
        HalflabelError: On shapes that differ, other label values, or scores of known entries that are not such numbers.
    """
    matrix, values = check_matrix(_array(labels), any_below=True), _array(scores)
    if values.shape != matrix.shape:
        raise HalflabelError(f"scores have shape {values.shape}, labels {matrix.shape}; they must agree")
    if values.dtype.kind not in "biuf":
        raise HalflabelError(f"scores hold values of type {values.dtype}, expected real numbers")
    values = values.astype(np.result_type(values.dtype, np.float32), copy=False)
    rows = max(1, _CHECKED // max(matrix.shape[1], 1))
    for start in range(0, len(matrix), rows):
        piece, known = values[start : start + rows], matrix[start : start + rows] >= 0
        wrong = known & ~((piece >= 0) & (piece <= 1) if probabilities else np.isfinite(piece))
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            place = f"a known entry, at row {start + row}, column {column},"
            if not np.isfinite(piece[row, column]):
                raise HalflabelError(f"the score of {place} is NaN or infinite")
            raise HalflabelError(
                f"scores must be probabilities in 0..1; that of {place} is {piece[row, column]:g}: "
                "apply the sigmoid to logits"
            )
    return values, matrix


def _array(values: ArrayLike) -> NDArray[Any]:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = values.float() if values.dtype == torch.bfloat16 else values  # numpy has no such type
    return np.asarray(values)


def mean_defined(values: Floats) -> float:
    """Mean of the values that are not NaN; NaN where all are."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def ratio(numerator: ArrayLike, denominator: ArrayLike) -> Floats:
    """Divide; NaN where the denominator is 0."""
    below = np.asarray(denominator, dtype=np.float64)
    quotient: Floats = np.divide(numerator, below, out=np.full(below.shape, np.nan), where=below != 0)
    return quotient
