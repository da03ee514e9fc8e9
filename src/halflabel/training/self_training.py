"""Unknown training entries get pseudo-labels before training, from features of the untouched backbone."""

import logging
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..model.errors import shortlist
from ..model.heads import raise_features
from ..model.image_processing_timm_multilabel import TimmMultiLabelImageProcessor
from ..model.labels import IGNORE_INDEX
from ..model.modeling_timm_multilabel import TimmMultiLabelForImageClassification
from .arguments import Recipe
from .feature_shards import FeatureDataset
from .preparation import TrainingData, training_features
from .pseudo_labels import PseudoLabels, make_pseudo_labels
from .pseudo_options import PseudoLabelOptions

log = logging.getLogger(__name__)


def add_pseudo_labels(
    recipe: Recipe,
    model: TimmMultiLabelForImageClassification,
    processor: TimmMultiLabelImageProcessor,
    data: TrainingData,
    datasets: dict[str, Any],
) -> dict[str, Any] | None:
    """Fill unknown entries of the training split with pseudo-labels, in place.

    The features are those that a probe is trained on, or, where the backbone is to be trained, those it has before.

    Args:
        recipe: Its `pseudo_labels` and `pseudo_args` say how.
        model: Untrained.
        processor: The model's.
        data: What the recipe trains on.
        datasets: See `preparation.make_datasets`; the labels of `train` are replaced.

    Returns:
        The report, see `PseudoLabels.to_dict`; None where the recipe wants none, or nothing is unknown.
    """
    settings, train = recipe.settings, datasets["train"]
    if settings.pseudo_labels is None:
        return None
    # As annotated: what nobody could tell is not guessed, whatever it is trained on.
    labels = data.images.of_split("train").labels
    if not (labels == IGNORE_INDEX).any():
        log.warning("pseudo_labels: no training entry is unknown, so there is nothing to learn from; training plainly")
        return None
    features = train.features if isinstance(train, FeatureDataset) else None
    views = settings.views if isinstance(train, FeatureDataset) else 1
    if features is None:
        features = training_features(recipe, model, processor, data)
    pooled = _pool(features, model.head.power)
    found = make_pseudo_labels(
        pooled, labels, PseudoLabelOptions.of(settings.pseudo_args), views, recipe.training.seed  # type: ignore[arg-type]
    )  # fmt: skip
    _report(found, data.names)
    guessed = (labels == IGNORE_INDEX) & (found.targets >= 0)
    if guessed.any():
        train.labels = np.where(guessed, found.targets, train.labels).astype(np.float32)
    return found.to_dict(data.names)


def _pool(features: Any, power: float) -> NDArray[np.float32]:  # noqa: ANN401 - a tensor, or rows on disk
    """Return one vector per row: the mean over positions where the head consumes these."""
    if isinstance(features, torch.Tensor) and features.ndim == 2:
        pooled = features.float()
    else:
        pooled = torch.stack([features[row].float().mean(dim=0) for row in range(len(features))])
    return np.asarray(raise_features(pooled, power))


def _report(found: PseudoLabels, names: tuple[str, ...]) -> None:
    """Log what each round found, and what was decided."""
    for number, one in enumerate(found.rounds, start=1):
        right = "undefined" if one.precision is None else f"{one.precision:.3f}"
        log.info(
            "pseudo-labels, round %d: %d yes, %d no; precision %s on %d hidden known entries",
            number, one.yes, one.no, right, one.hidden,
        )  # fmt: skip
    if found.without:
        log.warning("no pseudo-labels for want of known yes or no: %s", shortlist([names[j] for j in found.without]))
    if found.rounds and not found.kept:
        log.warning("pseudo-labels do not help to foretell hidden known entries; training on the known ones alone")
    elif found.kept < len(found.rounds):
        log.warning("round %d of the pseudo-labels was best and is kept", found.kept)
