"""What a recipe says of the objective, made concrete by the training labels: targets, weights, priors, head start."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from .arguments import RecipeArguments
from .errors import HalflabelError
from .labels import IGNORE_INDEX, UNCERTAIN, LabelSpace
from .losses import LEARN_FROM_UNKNOWN
from .policies import apply_policies

POS_WEIGHT_RANGE = (0.05, 20.0)
"""What `pos_weight: auto` is clipped to: a few known positives must not outweigh everything else."""

ASSUME_NEGATIVE = LEARN_FROM_UNKNOWN - {"em"}


def training_targets(labels: NDArray[np.int8], label_names: Sequence[str], settings: RecipeArguments) -> NDArray[Any]:
    """Return the labels to train on under the recipe's two policies; shape (n, num_labels), see `apply_policies`."""
    keep = settings.loss in LEARN_FROM_UNKNOWN
    return apply_policies(labels, label_names, settings.unknown, settings.uncertain, keep_uncertain=keep)


def evaluation_labels(labels: NDArray[np.int8]) -> NDArray[np.int8]:
    """Return the labels to measure on: what is not known counts as unknown, whatever was trained on."""
    return np.where(labels < 0, np.int8(IGNORE_INDEX), labels)


def loss_configuration(settings: RecipeArguments, targets: NDArray[Any], label_names: Sequence[str]) -> dict[str, Any]:
    """Return the keys of `TimmMultiLabelConfig` that make up the objective.

    `pos_weight: auto` becomes each label's negatives over positives among its targets, clipped to `POS_WEIGHT_RANGE`
    (1 where either is missing). The `prior` of the selective loss, where none is given, becomes the share of positives
    among a label's targets, or among all images where no negative is known.

    Raises:
        HalflabelError: On a weight that is no number, or a label that does not exist.
    """
    loss_args: dict[str, Any] = dict(cast(dict[str, Any], settings.loss_args or {}))
    positive, answered = target_counts(targets)
    if settings.loss == "selective" and "prior" not in loss_args:
        images = np.where(answered > positive, answered, len(targets))
        loss_args["prior"] = (positive / np.maximum(images, 1)).tolist()
    return {
        "loss": settings.loss,
        "loss_args": loss_args or None,
        "normalizer": settings.normalizer,
        "pos_weight": _pos_weight(settings.pos_weight, positive, answered - positive, label_names),
        "label_weight": _by_label("label_weight", settings.label_weight, label_names),
    }


def target_counts(targets: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return per label the sum of the targets and their number; a soft target counts by its value."""
    known = targets >= 0
    return np.where(known, targets, 0).sum(axis=0, dtype=np.float64), known.sum(axis=0)


def prior_counts(targets: NDArray[Any], loss: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return positives and entries from which a head's bias starts: what the loss will at first take for true."""
    positive, answered = target_counts(targets)
    return positive, (targets != UNCERTAIN).sum(axis=0) if loss in ASSUME_NEGATIVE else answered


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
