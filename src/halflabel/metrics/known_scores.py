"""The scores of known entries, taken out of (n, num_labels) matrices and grouped by label and answer.

Every metric is a function of these groups. Labels are independent, so they are looked at a chunk at a time.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from ..model.errors import HalflabelError
from ..model.labels import check_matrix

Floats = NDArray[np.float64]
_CHUNK_ENTRIES = 4_000_000  # matrix entries looked at together, so that memory does not grow with the number of labels
_CHECKED = 2**18  # and these, while values are checked
_LEAST_WIDTH = 16  # labels looked at together at least: in a row, their scores share a cache line


@dataclass(frozen=True)
class Answered:
    """The scores of the known entries that have one answer, label after label.

    Attributes:
        scores: Shape (entries,), rising within each label.
        ends: int64 of shape (num_labels + 1,); those of label i are scores[ends[i]:ends[i + 1]].
    """

    scores: NDArray[Any]
    ends: NDArray[np.int64]

    @classmethod
    def of(cls, scores: NDArray[Any], sizes: NDArray[np.int64]) -> "Answered":
        """Sort, in place, the scores of labels that have so many entries each."""
        answered = cls(scores, np.concatenate([[0], np.cumsum(sizes)]))
        for label in range(len(sizes)):
            answered[label].sort()
        return answered

    def __getitem__(self, label: int) -> NDArray[Any]:
        """Return one label's scores."""
        return self.scores[self.ends[label] : self.ends[label + 1]]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """The number of entries per label."""
        return np.diff(self.ends)

    def sums(self, values: NDArray[Any]) -> Floats:
        """Add up one value per entry within each label."""
        sums, filled = np.zeros(len(self.ends) - 1), self.sizes > 0
        if filled.any():
            sums[filled] = np.add.reduceat(values, self.ends[:-1][filled], dtype=np.float64)
        return sums

    def spread(self, values: NDArray[Any]) -> NDArray[Any]:
        """Repeat one value per label for each of its entries."""
        return np.repeat(values, self.sizes)


@dataclass(frozen=True)
class KnownScores:
    """The known entries of neighbouring labels: those answered no, those answered yes, and the labels' columns."""

    noes: Answered
    yeses: Answered
    columns: slice

    @property
    def counts(self) -> NDArray[np.int64]:
        """The number of known entries per label."""
        return self.noes.sizes + self.yeses.sizes


def known_chunks(scores: NDArray[Any], labels: NDArray[Any]) -> Iterator[KnownScores]:
    """Give the known entries of all labels, a chunk of labels at a time; scores and labels as from `check_pair`."""
    width = max(_LEAST_WIDTH, _CHUNK_ENTRIES // max(len(labels), 1))
    for start in range(0, labels.shape[1], width):
        columns = slice(start, min(start + width, labels.shape[1]))
        answers = np.ascontiguousarray(labels[:, columns].T)
        across = np.ascontiguousarray(scores[:, columns].T)
        noes, yeses = (_choose(across, answers == answer) for answer in (0, 1))
        yield KnownScores(noes, yeses, columns)


def _choose(scores: NDArray[Any], chosen: NDArray[np.bool_]) -> Answered:
    """Group the chosen ones of scores (num_labels, n). Indexing by the mask itself is four times slower."""
    return Answered.of(np.compress(chosen.ravel(), scores.ravel()), np.count_nonzero(chosen, axis=1))


def per_label(measure: Callable[[KnownScores], Floats], scores: NDArray[Any], labels: NDArray[Any]) -> Floats:
    """Return one value per label, (num_labels,); scores and labels as from `check_pair`."""
    return np.concatenate([np.empty(0), *map(measure, known_chunks(scores, labels))])


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
    matrix, values = check_matrix(_array(labels)), _array(scores)
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
