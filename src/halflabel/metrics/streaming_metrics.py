"""Measures of data sets whose scores do not fit in memory as a matrix."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..model.errors import HalflabelError
from ..model.labels import LabelSpace
from .known_scores import Answered, KnownScores, check_pair
from .metric_report import build_report
from .threshold_metrics import check_thresholds

_BLOCK = 4_000_000  # entries put in order together


class MetricAccumulator:
    """Takes scores batch by batch and measures them all in the end, exactly.

    It keeps the known entries only, in 4 bytes each: 10 million images with 7 known labels of 9,605 take 0.3 GB, where
    the matrix of scores has 384 GB. `compute` takes as much again, for the labels' joint ranking (`micro_AP`).

    Args:
        label_names: The labels, in the order of the columns.
        thresholds: A number, or one per label; decided yes is score >= threshold.

    Raises:
        HalflabelError: If names are empty or repeated, or the thresholds are not as many as the labels.
    """

    def __init__(self, label_names: Sequence[str], thresholds: ArrayLike = 0.5) -> None:
        """Start with no entry."""
        self.label_names = LabelSpace(label_names).names
        self.thresholds = check_thresholds(thresholds, len(self.label_names))
        self._noes, self._yeses = _Store(len(self.label_names)), _Store(len(self.label_names))

    def update(self, scores: ArrayLike, labels: ArrayLike) -> None:
        """Take in a batch.

        Args:
            scores: Shape (batch, num_labels); array or tensor of probabilities in 0..1, rounded to float32.
            labels: Same shape: 1, 0, or below 0 for unknown and uncertain entries.

        Raises:
            HalflabelError: On other shapes, other label values, or a score that is no probability; nothing is taken in.
        """
        values, matrix = check_pair(scores, labels, probabilities=True)
        if matrix.shape[1] != len(self.label_names):
            raise HalflabelError(f"a batch has {matrix.shape[1]} labels, expected {len(self.label_names)}")
        for store, answer in ((self._noes, 0), (self._yeses, 1)):
            rows, columns = np.nonzero(matrix == answer)
            store.add(columns, values[rows, columns])

    def compute(self) -> dict[str, Any]:
        """Measure what was taken in so far: `metrics.evaluate_scores` of all float32 scores, without intervals."""
        return build_report(self._chunks(), self.label_names, self.thresholds)

    def _chunks(self) -> Iterator[KnownScores]:
        entries = self._noes.entries + self._yeses.entries
        num_labels = len(self.label_names)
        width = max(1, _BLOCK * num_labels // max(entries, 1))
        for start in range(0, num_labels, width):
            columns = slice(start, min(start + width, num_labels))
            yield KnownScores(self._noes.take(columns), self._yeses.take(columns), columns)


class _Store:
    """The scores of the entries with one answer: blocks in order, and what has come in since the last block.

    An entry is one uint64 while it is sorted: the column, then the bits of the score, which rise with it from 0 up.
    """

    def __init__(self, num_labels: int) -> None:
        self.num_labels = num_labels
        self.entries = self._in_blocks = 0
        self._blocks: list[Answered] = []
        self._waiting: list[NDArray[np.uint64]] = []

    def add(self, columns: NDArray[np.intp], scores: NDArray[Any]) -> None:
        self._waiting.append(_pack(columns, scores))
        self.entries += len(scores)
        if self.entries - self._in_blocks >= _BLOCK:
            self._close_block()

    def _close_block(self) -> None:
        if self._waiting:
            self._blocks.append(_unpack(self._waiting, self.num_labels))
            self._waiting, self._in_blocks = [], self.entries

    def take(self, columns: slice) -> Answered:
        """Return the entries of neighbouring labels."""
        self._close_block()
        width = columns.stop - columns.start
        parts = []
        for block in self._blocks:
            ends = block.ends[columns.start : columns.stop + 1]
            parts.append(_pack(np.repeat(np.arange(width), np.diff(ends)), block.scores[ends[0] : ends[-1]]))
        return _unpack(parts, width)


def _pack(columns: NDArray[np.intp], scores: NDArray[Any]) -> NDArray[np.uint64]:
    bits = (scores.astype(np.float32) + np.float32(0)).view(np.uint32)  # -0.0 becomes 0.0
    return columns.astype(np.uint64) << np.uint64(32) | bits


def _unpack(parts: list[NDArray[np.uint64]], num_labels: int) -> Answered:
    entries = np.sort(np.concatenate([np.empty(0, np.uint64), *parts]))
    ends = np.searchsorted(entries, np.arange(num_labels + 1, dtype=np.uint64) << np.uint64(32))
    return Answered(entries.astype(np.uint32).view(np.float32), ends)
