"""What a recipe trains on: its pictures, their known labels, and the data set of each split."""

import logging
from typing import Any

import numpy as np
import torch

from .arguments import Recipe, RecipeArguments
from .data import FeatureDataset, PixelDataset, assign_splits
from .errors import HalflabelError, shortlist
from .features import extract_features
from .hiding import hide_labels
from .image_processing_timm_multilabel import TimmMultiLabelImageProcessor
from .labels import IGNORE_INDEX, IntMatrix, count_labels
from .modeling_timm_multilabel import TimmMultiLabelForImageClassification
from .sources import AnnotatedImages, load_source

log = logging.getLogger(__name__)


def load_data(settings: RecipeArguments, seed: int) -> AnnotatedImages:
    """Load the recipe's source, give every picture a split, and hide known entries where the recipe says so."""
    images = load_source(
        settings.data, settings.image_folder, settings.labels, settings.max_train_images, settings.max_test_images
    )
    images = assign_splits(images, settings.validation_share, settings.test_share, seed)
    asked = (settings.keep_labels, settings.hide_per_label, settings.hide_groups)
    if settings.hide_protocol == "random" and asked == (None, None, None):
        return images
    # Test entries are neither hidden nor drawn for: the draw depends on the other images alone.
    rows, labels = images.column("split") != "test", images.labels
    labels[rows] = hide_labels(
        labels[rows],
        settings.hide_protocol,
        keep=settings.keep_labels,
        per_label=settings.hide_per_label,
        groups=settings.hide_groups,  # type: ignore[arg-type]
        label_space=images.label_space,
        seed=seed if settings.hide_seed is None else settings.hide_seed,
    )
    return images.with_labels(labels)


def report_labels(train_images: AnnotatedImages, strict: bool) -> None:
    """Log how much is known, and the labels nobody answered.

    Raises:
        HalflabelError: If a label has no known training entry and `strict` is set, or if no label has any.
    """
    counts = count_labels(train_images.labels)
    names = train_images.label_space.names
    empty = [name for name, known in zip(names, counts.known, strict=True) if not known]
    if empty:
        text = f"no known training entry for {shortlist(empty)}: nothing can be learned for it"
        if strict or len(empty) == len(names):
            raise HalflabelError(text)
        log.warning("%s", text)
    log.info("%d training images, %.0f %% of the entries known", counts.images, 100 * counts.known_fraction)


def training_targets(images: AnnotatedImages, unknown: str) -> IntMatrix:
    """Return the labels to train on: as they are (`ignore`), or with unknown taken as 0 (`negative`)."""
    labels = images.labels
    return np.where(labels == IGNORE_INDEX, 0, labels).astype(np.int8) if unknown == "negative" else labels


def make_datasets(
    recipe: Recipe,
    model: TimmMultiLabelForImageClassification,
    processor: TimmMultiLabelImageProcessor,
    images: AnnotatedImages,
) -> dict[str, Any]:
    """Return the data set of each split that has images, and start the head from the training data."""
    settings = recipe.settings
    made: dict[str, Any] = {}
    for split in ("train", "validation", "test"):
        part = images.of_split(split)
        if not len(part):
            continue
        if split == "train":
            part = part.with_labels(training_targets(part, settings.unknown))
        augmented = split == "train" and not settings.cache_features
        transform = processor.train_transform() if augmented else processor.eval_transform()
        pixels = PixelDataset(part, transform)
        made[split] = pixels
        if settings.cache_features:
            training = recipe.training
            torch.nn.Module.to(model, training.device)
            features = extract_features(
                model,
                part,
                pixels,
                batch_size=training.per_device_eval_batch_size,
                workers=training.dataloader_num_workers,
                title=f"features of {split}",
                quiet=bool(training.disable_tqdm),
            )
            made[split] = FeatureDataset(features, part.labels)
    start_head(model, made["train"])
    return made


def start_head(model: TimmMultiLabelForImageClassification, dataset: FeatureDataset | PixelDataset) -> None:
    """Set the head's bias from the known training counts, and its standardisation where features are at hand."""
    counts = count_labels(dataset.labels)
    model.head.set_prior_(torch.from_numpy(counts.positive), torch.from_numpy(counts.known))  # type: ignore[operator]
    if isinstance(dataset, FeatureDataset):
        model.head.standardize_(dataset.features)  # type: ignore[operator]
