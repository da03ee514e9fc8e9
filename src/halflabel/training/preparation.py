"""What a recipe trains on: its pictures, their known labels, and the data set of each split."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import IterableDataset
from numpy.typing import NDArray
from torch import Tensor

from ..data.hiding import hide_labels
from ..data.images import AnnotatedImages
from ..data.loading import load_source, parse_sources
from ..data.pixels import PixelDataset, inspect_pictures
from ..data.splitting import assign_splits
from ..data.streaming import EXAMPLES, ImageStream, PrepareRows, open_stream
from ..model.errors import HalflabelError, shortlist
from ..model.image_processing_timm_multilabel import TimmMultiLabelImageProcessor
from ..model.labels import LabelCounts, count_labels, evaluation_labels
from ..model.modeling_timm_multilabel import TimmMultiLabelForImageClassification
from .arguments import Recipe
from .feature_cache import DEFAULT_FOLDER
from .feature_shards import FeatureDataset, MappedRows
from .feature_views import Views
from .features import cached_features
from .objective import TargetCounts, prior_counts, training_targets
from .processes import process_state
from .settings import RecipeArguments

log = logging.getLogger(__name__)


SKIPPED = "skipped_images.txt"
"""The file in the output folder that lists the pictures that were left out, a line each."""


@dataclass(frozen=True)
class TrainingData:
    """What a recipe trains on.

    Attributes:
        images: Every picture with its split; of streamed training pictures only the first few.
        counts: What is known in the training split.
        stream: Where training pictures come from one after another; None: they are in `images`.
        skipped: A line for each picture that cannot be read and was left out.
    """

    images: AnnotatedImages
    counts: LabelCounts
    stream: ImageStream | None = None
    skipped: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The label names."""
        return self.images.label_space.names

    def target_counts(self, settings: RecipeArguments) -> TargetCounts:
        """Count the targets of the training split under the recipe's policies."""
        return TargetCounts.from_labels(self.counts, self.names, settings)


def prepare_data(recipe: Recipe) -> TrainingData:
    """Load what the recipe trains on; see `load_data`, and `streaming.open_stream` for a recipe that streams."""
    settings, seed = recipe.settings, recipe.training.seed
    if settings.streaming:
        return _open_stream(settings)
    images = load_data(settings, seed)
    skipped: tuple[str, ...] = ()
    if settings.bad_images == "skip":
        images, skipped = leave_out_unreadable(images, quiet=bool(recipe.training.disable_tqdm))
    return TrainingData(images, count_labels(images.of_split("train").labels), None, skipped)


def _open_stream(settings: RecipeArguments) -> TrainingData:
    sources = parse_sources(settings.data, None, settings.uncertain_values or ())
    stream = open_stream(sources, settings.labels)
    images = stream.collect({"train": EXAMPLES, "validation": None, "test": settings.max_test_images})
    skipped: tuple[str, ...] = ()
    if settings.bad_images == "skip":
        images, skipped = leave_out_unreadable(images, quiet=True)
    return TrainingData(images, stream.counts["train"], stream, skipped)


def leave_out_unreadable(images: AnnotatedImages, quiet: bool = False) -> tuple[AnnotatedImages, tuple[str, ...]]:
    """Decode every picture once, each process its share, and return the readable ones and a line for each other one."""
    state = process_state()
    rows = list(range(state.process_index, len(images), state.num_processes))
    found = zip(rows, inspect_pictures(images.select(rows), quiet), strict=True)
    mine = {row: picture["error"] for row, picture in found if "error" in picture}
    bad = dict(sorted(item for part in gather_object([mine]) for item in part.items()))
    for line in list(bad.values())[:20]:
        log.warning("left out: %s", line)
    if len(bad) > 20:
        log.warning("left out: %d more, see %s", len(bad) - 20, SKIPPED)
    return images.select(i for i in range(len(images)) if i not in bad) if bad else images, tuple(bad.values())


def count_skipped(path: Path) -> int:
    """Count the pictures that were left out; a stream notes one again in every pass."""
    if not path.is_file():
        return 0
    lines = list(dict.fromkeys(path.read_text(encoding="utf-8").splitlines()))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)


def load_data(settings: RecipeArguments, seed: int) -> AnnotatedImages:
    """Load the recipe's source, give every picture a split, and hide known entries where the recipe says so."""
    images = load_source(
        settings.data,
        settings.image_folder,
        settings.labels,
        settings.max_train_images,
        settings.max_test_images,
        settings.uncertain_values or (),
        settings.contradictions,
    )
    images = assign_splits(images, settings.validation_share, settings.test_share, seed)
    asked = (settings.keep_labels, settings.hide_per_label, settings.hide_groups)
    if settings.hide_protocol == "random" and asked == (None, None, None):
        return images
    # Test entries are neither hidden nor drawn for: the draw depends on the other images alone.
    rows, labels = images.column("split") != "test", images.labels.copy()
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


def report_labels(counts: LabelCounts, names: Sequence[str], strict: bool) -> None:
    """Log how much is known, and the labels nobody answered.

    Raises:
        HalflabelError: If a label has no known training entry and `strict` is set, or if no label has any.
    """
    empty = [name for name, known in zip(names, counts.known, strict=True) if not known]
    if empty:
        text = f"no known training entry for {shortlist(empty)}: nothing can be learned for it"
        if strict or len(empty) == len(names):
            raise HalflabelError(text)
        log.warning("%s", text)
    same = counts.one_answer(names)
    if same:
        log.warning("all known training entries are the same, which the model will always answer: %s", shortlist(same))
    log.info("%d training images, %.0f %% of the entries known", counts.images, 100 * counts.known_fraction)


def make_datasets(
    recipe: Recipe,
    model: TimmMultiLabelForImageClassification,
    processor: TimmMultiLabelImageProcessor,
    data: TrainingData,
) -> dict[str, Any]:
    """Return the data set of each split that has images.

    Args:
        recipe: The recipe.
        model: Its backbone makes the features where the recipe caches them.
        processor: The model's.
        data: What the recipe trains on.
    """
    settings = recipe.settings
    made: dict[str, Any] = {}
    for split in ("train", "validation", "test"):
        train = split == "train"
        if train and data.stream is not None:
            made[split] = _stream_dataset(recipe, data.stream, processor)
            continue
        part = data.images.of_split(split)
        if not len(part):
            continue
        labels = training_targets(part.labels, data.names, settings) if train else evaluation_labels(part.labels)
        plain, augmented = (_pixels(recipe, part, labels, processor, training) for training in (False, True))
        if settings.cache_features:
            views = Views(plain, augmented, settings.views if train else 1, recipe.training.seed)
            features = _extract(recipe, model, views, f"features of {split}")
            made[split] = FeatureDataset(features, labels, views.views)
        else:
            made[split] = augmented if train else plain
    return made


def training_features(
    recipe: Recipe,
    model: TimmMultiLabelForImageClassification,
    processor: TimmMultiLabelImageProcessor,
    data: TrainingData,
) -> Tensor | MappedRows:
    """Return the features of the training pictures by the backbone as it is, from the cache where they are there."""
    part = data.images.of_split("train")
    plain = _pixels(recipe, part, part.labels, processor, training=False)
    return _extract(recipe, model, Views(plain, seed=recipe.training.seed), "features of train")


def _pixels(
    recipe: Recipe,
    part: AnnotatedImages,
    labels: NDArray[Any],
    processor: TimmMultiLabelImageProcessor,
    training: bool,
) -> PixelDataset:
    transform = processor.train_transform() if training else processor.eval_transform()
    side = processor.needed_side(training) if recipe.settings.fast_decode else None
    return PixelDataset(part, transform, labels, side, recipe.training.seed if training else None)


def _extract(
    recipe: Recipe, model: TimmMultiLabelForImageClassification, views: Views, title: str
) -> Tensor | MappedRows:
    training, folder = recipe.training, recipe.settings.feature_cache
    torch.nn.Module.to(model, training.device)
    return cached_features(
        model,
        views,
        None if folder == "none" else folder or DEFAULT_FOLDER,
        batch_size=training.per_device_eval_batch_size,
        workers=training.dataloader_num_workers,
        title=title,
        quiet=bool(training.disable_tqdm),
    )


def _stream_dataset(recipe: Recipe, stream: ImageStream, processor: TimmMultiLabelImageProcessor) -> IterableDataset:
    settings, names = recipe.settings, stream.label_space.names
    transform = processor.train_transform()
    side = processor.needed_side(training=True) if settings.fast_decode else None
    skipped = recipe.folder / SKIPPED if settings.bad_images == "skip" else None
    seed = recipe.training.seed
    prepare = PrepareRows(
        stream, transform, lambda codes: training_targets(codes, names, settings), side, skipped, seed
    )
    return stream.training_rows(prepare, seed, settings.shuffle_buffer)


def start_head(model: TimmMultiLabelForImageClassification, dataset: Any, counts: TargetCounts) -> None:  # noqa: ANN401
    """Set the head's bias from the training targets, and its standardisation where features are at hand."""
    positive, entries = prior_counts(counts, model.config.loss)
    model.head.set_prior_(torch.from_numpy(positive), torch.from_numpy(entries))
    if isinstance(dataset, FeatureDataset):
        model.head.standardize_(dataset.sample())
