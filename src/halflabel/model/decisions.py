"""What a model answers per label: a calibrated score, and yes or no. It is stored in the model's configuration."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import FLAG, HalflabelError, Kind, did_you_mean, number

NEVER = 2.0
"""A threshold above every score: the label is never answered with yes."""


def yes_from(threshold: float) -> str:
    """Return a threshold for people: three significant digits, or that the answer is always or never yes."""
    return "never" if threshold > 1 else "always" if threshold == 0 else f"{threshold:.3g}"


def say_threshold(threshold: float) -> str:
    """Return when a label is answered with yes, for a line of a picture."""
    words = yes_from(threshold)
    return f"yes from {words}" if words[0].isdecimal() else f"{words} yes"


def sigmoid(logits: ArrayLike) -> NDArray[np.float64]:
    """Return 1 / (1 + exp(-logit)) in float64, without overflow."""
    return np.exp(-np.logaddexp(0.0, -np.asarray(logits, dtype=np.float64)))


def check_logits(logits: ArrayLike, label_names: Sequence[str] = (), images: Sequence[str] = ()) -> None:
    """Refuse logits that are NaN or infinite: no score follows from them, and every decision would be no.

    Args:
        logits: Shape (n, num_labels).
        label_names: What the columns are called in the message; without names they are numbered.
        images: What the rows are called, likewise.

    Raises:
        HalflabelError: It names the first one.
    """
    values = np.atleast_2d(logits)
    finite = np.isfinite(values)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        label = repr(label_names[column]) if len(label_names) else f"number {column}"
        image = images[row] if len(images) else f"picture number {row}"
        raise HalflabelError(
            f"the logit of label {label} is {values[row, column]} for {image}: the model's weights, or what goes "
            "through them, are out of range, and nothing can be answered"
        )


@dataclass(frozen=True)
class DecisionRule:
    """Scores `sigmoid(scale * logit + shift)` and the answer `score >= threshold`, each label with its own numbers.

    All sequences have num_labels items. `decision_fitting.fit_decisions` makes a rule from validation entries; `plain`
    is that of a model without one: the plain sigmoid and 0.5.

    Args:
        scale: Above 0, so that the order of a label's scores never changes; 1 / scale is the label's temperature.
        shift: Added to the scaled logit.
        thresholds: In 0..1, or `NEVER`.
        calibration: How scale and shift were fitted: `"none"`, `"temperature"` or `"platt"`.
        objective: What the thresholds were fitted for, like `"f1"`; None: they were not.
        min_known: How many known positives and known negatives a label needed for numbers of its own.
        known: Known validation entries that the label was fitted on.
        positives: The positives among them.
        pooled_calibration: Whether the scale is not the label's own: that of several labels together, or next to 0
            where the label's logits say nothing.
        pooled_threshold: Whether the threshold is that of several labels together.
        unmet: Whether no threshold met the objective.

    Raises:
        HalflabelError: On sequences of different lengths or values out of range.
    """

    scale: tuple[float, ...]
    shift: tuple[float, ...]
    thresholds: tuple[float, ...]
    calibration: str
    objective: str | None
    min_known: int
    known: tuple[int, ...]
    positives: tuple[int, ...]
    pooled_calibration: tuple[bool, ...]
    pooled_threshold: tuple[bool, ...]
    unmet: tuple[bool, ...]

    def __post_init__(self) -> None:
        """Check every value."""
        for name, kind in _WORDS.items():
            kind.check(f"decisions: {name}", getattr(self, name))
        for name, (kind, _) in _ROWS.items():  # scale comes first, so that it has a length for the others
            count = len(self.scale) if isinstance(self.scale, list | tuple) else 0
            kind.check_each(f"decisions: {name}", getattr(self, name), count)

    @classmethod
    def plain(cls, num_labels: int) -> "DecisionRule":
        """Return the rule of a model without a fitted one: the plain sigmoid, and yes from 0.5."""
        rows = {name: (plain,) * num_labels for name, (_, plain) in _ROWS.items()}
        return cls(calibration="none", objective=None, min_known=0, **rows)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any], num_labels: int) -> "DecisionRule":
        """Read what `to_dict` wrote.

        Raises:
            HalflabelError: On another number of labels, a missing or unknown key, or a value out of range.
        """
        if not isinstance(stored, Mapping):
            raise HalflabelError(f"decisions is {stored!r}, expected a mapping of names to values")
        keys = [field.name for field in fields(cls)]
        for key in stored:
            if key not in keys:
                raise HalflabelError(f"decisions: unknown key {key!r}{did_you_mean(key, keys)}")
        for key in keys:
            if key not in stored:
                raise HalflabelError(f"decisions: {key} is missing")
        values: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in stored.items()}
        rule = cls(**values)
        if len(rule.scale) != num_labels:
            raise HalflabelError(f"decisions were fitted for {len(rule.scale)} labels, not these {num_labels}")
        return rule

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold, for `TimmMultiLabelConfig.decisions`; tuples become lists."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def scores(self, logits: ArrayLike) -> NDArray[np.float64]:
        """Return calibrated probabilities of logits; both have shape (..., num_labels); errors as `check_logits`."""
        check_logits(logits)
        return sigmoid(np.asarray(logits, dtype=np.float64) * np.array(self.scale) + np.array(self.shift))

    def decide(self, scores: ArrayLike) -> NDArray[np.bool_]:
        """Return where calibrated scores, shape (..., num_labels), are a yes."""
        return np.asarray(np.asarray(scores) >= np.array(self.thresholds))

    def take(self, rows: Sequence[int | None]) -> "DecisionRule":
        """Return the rule of other labels: the one of a label here, or the plain one for None."""
        values: dict[str, Any] = {
            name: tuple(plain if row is None else getattr(self, name)[row] for row in rows)
            for name, (_, plain) in _ROWS.items()
        }
        return replace(self, **values)


_COUNT = Kind("a count", number(0, whole=True).fits)
_WORD = Kind("a word", lambda value: isinstance(value, str))
_WORDS = {"calibration": _WORD, "objective": _WORD.or_none(), "min_known": _COUNT}
# What a field holds for each label, and the value of a label without a fitted one.
_ROWS: dict[str, tuple[Kind, Any]] = {
    "scale": (number(0, above=True), 1.0),
    "shift": (number(), 0.0),
    "thresholds": (
        Kind(f"a number in 0..1, or {NEVER} for never", lambda value: number(0, 1).fits(value) or value == NEVER),
        0.5,
    ),
    "known": (_COUNT, 0),
    "positives": (_COUNT, 0),
    "pooled_calibration": (FLAG, False),
    "pooled_threshold": (FLAG, False),
    "unmet": (FLAG, False),
}
