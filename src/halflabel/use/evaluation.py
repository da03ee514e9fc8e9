"""A model measured on an annotated split, also beside another model, and what it finds wrong there."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ..data.images import AnnotatedImages
from ..decide.report import measure_rule
from ..metrics.comparison import compare_scores
from ..metrics.intervals import check_confidence
from ..model.decisions import DecisionRule
from ..model.errors import HalflabelError, shortlist
from .disagreements import about_splits, find_disagreements
from .inference import choose_split, load_model, split_logits

CI = 0.95


@dataclass(frozen=True)
class Measured:
    """What was measured of a model.

    Attributes:
        metrics: In the layout of `metrics.json`.
        logits: Shape (n, num_labels).
        labels: Same shape: 1, 0, or below 0 for unknown and uncertain entries.
        rule: Gives the calibrated scores and the thresholds.
    """

    metrics: dict[str, Any]
    logits: ArrayLike
    labels: NDArray[Any]
    rule: DecisionRule


def evaluate_model(
    name: str,
    images: AnnotatedImages,
    split: str,
    batch_size: int = 32,
    fast_decode: bool = True,
    ci: float | None = None,
    compare: str | None = None,
) -> Measured:
    """Measure a model's calibrated scores and its decisions on one split.

    Args:
        name: A model's folder or Hub name.
        images: Pictures with labels.
        split: What to measure on; where the data name no splits: all, and `split` in the result says so.
        batch_size: Pictures at once.
        fast_decode: Decode a JPEG no larger than the transform needs.
        ci: The confidence of bootstrap intervals, like 0.95; None: no intervals.
        compare: Another model, for the same labels in any order; `comparison` then holds the paired differences (that
            model minus this one), with intervals of confidence `ci` (None: 0.95), and a `sentence`.

    Raises:
        HalflabelError: If the split is empty, or the data and the models have different labels.
    """
    if ci is not None:
        check_confidence(ci)
    loaded = load_model(name)
    names, rule = loaded[0].config.label_space.names, loaded[0].config.decision_rule
    other, order = None, []
    if compare is not None:
        other = load_model(compare)
        order = _same_labels(name, names, compare, other[0].config.label_space.names)
    chosen, split = choose_split(name, loaded[0], images, split)
    logits = split_logits(*loaded, chosen, batch_size, fast_decode)
    metrics = measure_rule(rule, logits, chosen.labels, names, ci)
    if other is not None:
        theirs = split_logits(*other, chosen, batch_size, fast_decode)[:, order]
        found = compare_scores(logits, theirs, chosen.labels, ci or CI)
        metrics["comparison"] = {
            "with": compare,
            "sentence": found.sentence(name, str(compare)),
            **found.to_dict(names),
        }
    return Measured({"split": split, **metrics}, logits, chosen.labels, rule)


@dataclass(frozen=True)
class Review:
    """What somebody should look at: `find_disagreements`'s table, its images, and a sentence about their splits."""

    table: pd.DataFrame
    images: AnnotatedImages
    about: str


def find_errors(
    name: str,
    images: AnnotatedImages,
    split: str | None,
    limit: int,
    batch_size: int = 32,
    fast_decode: bool = True,
) -> Review:
    """Find likely mistakes and what to annotate next, see `disagreements.find_disagreements`.

    Args:
        name: A model's folder or Hub name.
        images: Pictures with labels.
        split: Which of them; None: all.
        limit: The most entries of each kind.
        batch_size: Pictures at once.
        fast_decode: Decode a JPEG no larger than the transform needs.

    Raises:
        HalflabelError: As `evaluate_model`.
    """
    if limit < 1:
        raise HalflabelError(f"limit is {limit!r}, expected at least 1")
    model, processor = load_model(name)
    chosen, _ = choose_split(name, model, images, split)
    logits = split_logits(model, processor, chosen, batch_size, fast_decode)
    rule, names = model.config.decision_rule, model.config.label_space.names
    files = chosen.column("file_name").tolist()
    table = find_disagreements(rule.scores(logits), chosen.labels, files, names, rule.thresholds, limit)
    return Review(table, chosen, about_splits(chosen.column("split").tolist()))


def _same_labels(name: str, names: Sequence[str], other: str, others: Sequence[str]) -> list[int]:
    """Return the columns of the other model's labels in the first one's order."""
    differing = set(names) ^ set(others)
    if differing:
        raise HalflabelError(f"{name} and {other} answer different labels, only one of them {shortlist(differing)}")
    return [others.index(label) for label in names]
