"""Labels go together: what an image's known labels say about its other ones, beside what the picture shows."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .decisions import DecisionRule, sigmoid
from .errors import HalflabelError
from .labels import check_matrix
from .stored_values import from_stored, to_stored

_AT_ONCE = 4_000_000  # pairs times images worked on together


@dataclass(frozen=True)
class Relations:
    """One weight for each pair of labels that have to do with one another; all other pairs have none.

    With calibrated logits c, p = sigmoid(c) and the known labels y of an image, label j has the logit

        c_j + sum over known k of W_jk (y_k - p_k),   W symmetric.

    An answer is evidence as far as it surprises: one that the picture shows anyway says nothing new, and an unknown
    label counts as what the picture says of it, which is no evidence. W_jk is to first order the coupling of an Ising
    model (its conditional logit is linear in the other labels, and c_j is its marginal one), the log odds ratio of the
    two labels in images that look alike. `relation_fitting.fit_relations` fits it.

    Args:
        num_labels: How many labels there are, also those in no pair.
        first: The column of a label, for each pair.
        second: The column of the other one, above that in `first`; no pair stands twice.
        weights: W of each pair, in units of log odds: above 0 for labels that go together.

    Raises:
        HalflabelError: On sequences of different lengths or values out of range.
    """

    num_labels: int
    first: tuple[int, ...]
    second: tuple[int, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check every value."""
        if not _is_column(self.num_labels, math.inf):
            raise HalflabelError(f"relations: num_labels is {self.num_labels!r}, expected a count")
        for name in ("first", "second", "weights"):
            values = getattr(self, name)
            if not isinstance(values, tuple) or len(values) != len(self.first):
                raise HalflabelError(f"relations: {name} is {values!r}, expected a list of {len(self.first)} values")
        pairs = list(zip(self.first, self.second, strict=True))
        for one, other in pairs:
            if not (_is_column(one, other) and _is_column(other, self.num_labels)):
                raise HalflabelError(
                    f"relations: the pair ({one!r}, {other!r}) is not of two rising columns below {self.num_labels}"
                )
        if len(set(pairs)) != len(pairs):
            raise HalflabelError("relations: a pair stands twice")
        for weight in self.weights:
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
                raise HalflabelError(f"relations: weights holds {weight!r}, expected a finite number")

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any], num_labels: int) -> "Relations":
        """Read what `to_dict` wrote.

        Raises:
            HalflabelError: On another number of labels, a missing or unknown key, or a value out of range.
        """
        relations = from_stored(cls, "relations", stored)
        if relations.num_labels != num_labels:
            raise HalflabelError(f"relations were fitted for {relations.num_labels} labels, not these {num_labels}")
        return relations

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold, for `TimmMultiLabelConfig.relations`."""
        return to_stored(self)

    def apply(self, logits: ArrayLike, given: ArrayLike) -> NDArray[np.float64]:
        """Return logits that also count what is known of each image.

        Args:
            logits: Shape (n, num_labels), calibrated, as `DecisionRule.log_odds` gives them.
            given: Same shape: 1, 0, or below 0 where the answer is not known.

        Returns:
            Same shape. A given entry is certain: infinite or minus infinite, so that its score is exactly 1 or 0. An
            entry that nothing speaks for or against has its own logit, bit for bit.

        Raises:
            HalflabelError: On another shape, or a given value that is none of these.
        """
        values, codes = np.array(logits, dtype=np.float64), check_matrix(np.asarray(given))
        if values.shape != codes.shape or values.shape[1] != self.num_labels:
            raise HalflabelError(
                f"logits have shape {values.shape} and given entries {codes.shape}, "
                f"expected (images, num_labels) with {self.num_labels} labels for both"
            )
        step = max(1, _AT_ONCE // max(1, len(self.weights)))
        for start in range(0, len(values), step):
            rows = slice(start, start + step)
            values[rows] = self._condition(values[rows], codes[rows])
        return values

    def _condition(self, logits: NDArray[np.float64], codes: NDArray[Any]) -> NDArray[np.float64]:
        first, second = np.array(self.first, dtype=np.intp), np.array(self.second, dtype=np.intp)
        weights = np.array(self.weights)[:, None]
        surprise = np.where(codes >= 0, (codes == 1) - sigmoid(logits), 0.0).T
        evidence = np.zeros_like(surprise)
        np.add.at(evidence, first, weights * surprise[second])
        np.add.at(evidence, second, weights * surprise[first])
        moved = np.where(evidence.T == 0, logits, logits + evidence.T)
        return np.where(codes >= 0, np.where(codes == 1, np.inf, -np.inf), moved)

    def take(self, rows: Sequence[int | None]) -> "Relations":
        """Return the relations of other labels: those of a label here, or none for None."""
        places = {row: place for place, row in enumerate(rows) if row is not None}
        pairs = [
            (*sorted((places[one], places[other])), weight)
            for one, other, weight in zip(self.first, self.second, self.weights, strict=True)
            if one in places and other in places
        ]
        first, second, weights = zip(*pairs, strict=True) if pairs else ((), (), ())
        return Relations(len(rows), tuple(first), tuple(second), tuple(weights))


def answer(
    rule: DecisionRule, logits: ArrayLike, relations: Relations | None = None, given: ArrayLike | None = None
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return a model's scores and decisions, also beside answers that are given.

    Args:
        rule: The model's; evidence is added to its calibrated logits, so that its thresholds mean the same.
        logits: Shape (n, num_labels), the model's own.
        relations: The model's; needed where something is given.
        given: Same shape: 1, 0, or below 0 for what is not known; None: nothing is.

    Returns:
        Two arrays of that shape: scores in 0..1, and whether the answer is yes. A given entry has the score 1 or 0 and
        the answer that was given, whatever the threshold.

    Raises:
        HalflabelError: As `Relations.apply`, or if the model has no relations.
    """
    if given is None:
        scores = rule.scores(logits)
        return scores, rule.decide(scores)
    if relations is None:
        raise HalflabelError(
            "the model has no relations between labels, without which given answers say nothing of the others: "
            "train it with relations: true"
        )
    scores, codes = sigmoid(relations.apply(rule.log_odds(logits), given)), np.asarray(given)
    return scores, np.where(codes >= 0, codes == 1, rule.decide(scores))


def _is_column(value: Any, below: float) -> bool:  # noqa: ANN401 - what a file holds
    return (
        isinstance(value, int) and not isinstance(value, bool) and isinstance(below, int | float) and 0 <= value < below
    )
