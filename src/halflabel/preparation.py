"""What a recipe trains on: its pictures, their known labels, and the data set of each split."""

import logging
from typing import Any

import torch
from numpy.typing import NDArray

from .arguments import Recipe, RecipeArguments
from .data import FeatureDataset, PixelDataset, assign_splits
from .errors import HalflabelError, shortlist
from .features import extract_features
from .hiding import hide_labels
from .image_processing_timm_multilabel import TimmMultiLabelImageProcessor
from .labels import count_labels
from .modeling_timm_multilabel import TimmMultiLabelForImageClassification
from .objective import evaluation_labels, prior_counts
from .sources import AnnotatedImages, load_source

log = logging.getLogger(__name__)


def load_data(settings: RecipeArguments, seed: int) -> AnnotatedImages:
    """Load the recipe's source, give every picture a split, and hide known entries where the recipe says so."""
    images = load_source(
        settings.data, settings.image_folder, settings.labels, settings.max_train_images, settings.max_test_images,
        uncertain_values=settings.uncertain_values or (),
    )  # fmt: skip
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


def make_datasets(
    recipe: Recipe,
    model: TimmMultiLabelForImageClassification,
    processor: TimmMultiLabelImageProcessor,
    images: AnnotatedImages,
    targets: NDArray[Any],
) -> dict[str, Any]:
    """Return the data set of each split that has images, and start the head from the training data.

    Args:
        recipe: The recipe.
        model: Its backbone makes the features where the recipe caches them.
        processor: The model's.
        images: All pictures.
        targets: The labels to train on, shape (training images, num_labels).
    """
    settings = recipe.settings
    made: dict[str, Any] = {}
    for split in ("train", "validation", "test"):
        part = images.of_split(split)
        if not len(part):
            continue
        labels = targets if split == "train" else evaluation_labels(part.labels)
        augmented = split == "train" and not settings.cache_features
        transform = processor.train_transform() if augmented else processor.eval_transform()
        pixels = PixelDataset(part, transform, labels)
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
            made[split] = FeatureDataset(features, labels)
    start_head(model, made["train"])
    return made


def start_head(model: TimmMultiLabelForImageClassification, dataset: FeatureDataset | PixelDataset) -> None:
    """Set the head's bias from the training targets, and its standardisation where features are at hand."""
    positive, entries = prior_counts(dataset.labels, model.config.loss)
    model.head.set_prior_(torch.from_numpy(positive), torch.from_numpy(entries))  # type: ignore[operator]
    if isinstance(dataset, FeatureDataset):
        model.head.standardize_(dataset.features)  # type: ignore[operator]
