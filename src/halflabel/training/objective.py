"""What a recipe says of the objective, made concrete by the training labels: targets, weights, priors, head start."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ..model.errors import HalflabelError
from ..model.labels import IGNORE_INDEX, UNCERTAIN, LabelCounts, LabelSpace
from ..model.losses import find_loss
from .policies import apply_policies
from .settings import RecipeArguments

POS_WEIGHT_RANGE = (0.05, 20.0)
"""What `pos_weight: auto` is clipped to: a few known positives must not outweigh everything else."""


def training_targets(labels: NDArray[np.int8], label_names: Sequence[str], settings: RecipeArguments) -> NDArray[Any]:
    """Return the labels to train on under the recipe's two policies; shape (n, num_labels), see `apply_policies`."""
    keep = find_loss(settings.loss).uses_unknown
    return apply_policies(labels, label_names, settings.unknown, settings.uncertain, keep_uncertain=keep)


@dataclass(frozen=True)
class TargetCounts:
    """What the training targets add up to; arrays of shape (num_labels,).

    Attributes:
        positive: The sum of the targets; a soft target counts by its value.
        answered: How many entries have a target.
        asked: How many entries are not `UNCERTAIN`.
        images: How many images there are.
    """

    positive: NDArray[np.float64]
    answered: NDArray[np.int64]
    asked: NDArray[np.int64]
    images: int

    @classmethod
    def of(cls, targets: NDArray[Any]) -> "TargetCounts":
        """Count targets of shape (n, num_labels)."""
        known = targets >= 0
        positive = np.where(known, targets, 0).sum(axis=0, dtype=np.float64)
        return cls(positive, known.sum(axis=0), (targets != UNCERTAIN).sum(axis=0), len(targets))

    @classmethod
    def from_labels(cls, counts: LabelCounts, label_names: Sequence[str], settings: RecipeArguments) -> "TargetCounts":
        """Count the targets that `training_targets` gives for labels of which only the counts are known."""
        codes = np.array([1, 0, UNCERTAIN, IGNORE_INDEX], dtype=np.int8)
        unknown = counts.images - counts.known - counts.uncertain
        times = np.stack([counts.positive, counts.negative, counts.uncertain, unknown])
        targets = training_targets(np.repeat(codes[:, None], len(label_names), axis=1), label_names, settings)
        known = targets >= 0
        return cls(
            (np.where(known, targets, 0).astype(np.float64) * times).sum(axis=0),
            (known * times).sum(axis=0),
            ((targets != UNCERTAIN) * times).sum(axis=0),
            counts.images,
        )


def loss_configuration(settings: RecipeArguments, counts: TargetCounts, label_names: Sequence[str]) -> dict[str, Any]:
    """Return the keys of `TimmMultiLabelConfig` that make up the objective.

    `pos_weight: auto` becomes each label's negatives over positives among its targets, clipped to `POS_WEIGHT_RANGE`
    (1 where either is missing). The `prior` of the selective loss, where none is given, becomes the share of positives
    among a label's targets, or among all images where no negative is known.

    Raises:
        HalflabelError: On a weight that is no number, or a label that does not exist.
    """
    loss_args: dict[str, Any] = dict(cast(dict[str, Any], settings.loss_args or {}))
    if settings.loss == "selective" and "prior" not in loss_args:
        images = np.where(counts.answered > counts.positive, counts.answered, counts.images)
        loss_args["prior"] = (counts.positive / np.maximum(images, 1)).tolist()
    return {
        "loss": settings.loss,
        "loss_args": loss_args or None,
        "normalizer": settings.normalizer,
        "pos_weight": _pos_weight(settings.pos_weight, counts.positive, counts.answered - counts.positive, label_names),
        "label_weight": _by_label("label_weight", settings.label_weight, label_names),
    }


def prior_counts(counts: TargetCounts, loss: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return positives and entries from which a head's bias starts: what the loss will at first take for true."""
    return counts.positive, counts.asked if find_loss(loss).assumes_negative else counts.answered


def _pos_weight(
    given: Any,  # noqa: ANN401 - from a file
    positive: NDArray[np.float64],
    negative: NDArray[np.float64],
    label_names: Sequence[str],
) -> list[float] | None:
    if given != "auto":
        return _by_label("pos_weight", given, label_names)
    defined = (positive > 0) & (negative > 0)
    ratio = np.where(defined, negative / np.maximum(positive, 1e-9), 1.0)
    return [float(value) for value in ratio.clip(*POS_WEIGHT_RANGE)]


def _by_label(key: str, given: Any, label_names: Sequence[str]) -> list[float] | None:  # noqa: ANN401 - from a file
    """Spread a number, or a mapping of label names to numbers, over the labels; a label not named gets 1."""
    if given is None:
        return None
    if isinstance(given, Mapping):
        space, weights = LabelSpace(label_names), [1.0] * len(label_names)
        for name, value in given.items():
            weights[space.index(name)] = _number(f"{key}, label {name!r}", value)
        return weights
    return [_number(key, given)] * len(label_names)


def _number(key: str, value: Any) -> float:  # noqa: ANN401 - from a file
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        auto = "'auto', " if key.startswith("pos_weight") else ""
        raise HalflabelError(f"{key}: {value!r} is not {auto}a number or a mapping of labels to numbers") from error
