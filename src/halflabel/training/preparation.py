"""What a recipe trains on: its pictures, their known labels made into targets, and the data set of each split."""

import contextlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from datasets import IterableDataset
from numpy.typing import NDArray
from torch import Tensor

from ..data.images import AnnotatedImages
from ..data.loading import load_images, parse_sources
from ..data.pixels import FeatureDataset, PixelDataset, leave_out_unreadable
from ..data.splitting import assign_splits, hide_labels
from ..data.streaming import EXAMPLES, ImageStream, PrepareRows, open_stream
from ..model.errors import HalflabelError, shortlist
from ..model.image_processing_timm_multilabel import TimmMultiLabelImageProcessor as Processor
from ..model.labels import IGNORE_INDEX, UNCERTAIN, IntMatrix, LabelCounts, count_labels, evaluation_labels
from ..model.losses import find_loss
from ..model.modeling_timm_multilabel import TimmMultiLabelForImageClassification as Model
from .cache import DEFAULT_FOLDER, MappedRows
from .features import Views, cached_features
from .keys import DataKeys, ModelKeys, TrainingKeys
from .recipe import Recipe, by_label, parse_policy

log = logging.getLogger(__name__)

SKIPPED = "skipped_images.txt"
"""The file in the output folder that lists the pictures that were left out, a line each."""

_MAY_CHANGE = (
    "data", "image_folder", "labels", "contradictions", "uncertain_values",  # what they make of the data is compared
    "bad_images", "strict", "max_test_images", "feature_cache", "channels_last", "log_epochs",
    "early_stopping_patience",
)  # fmt: skip
"""The keys of data and training that may be others when a run goes on."""

_DECISIVE = (
    "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "weight_decay", "optim", "optim_args",
    "optim_target_modules", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "label_smoothing_factor",
    "neftune_noise_alpha", "bf16", "fp16", "seed", "data_seed", "train_sampling_strategy", "dataloader_drop_last",
    "metric_for_best_model", "greater_is_better",
)  # fmt: skip
"""The fields of `TrainingArguments` that may not: they say what a step does, and which one is the best."""

_READ_PICTURES = 256

POS_WEIGHT_RANGE = (0.05, 20.0)
"""What `pos_weight: auto` is clipped to: a few known positives must not outweigh everything else."""


def training_targets(labels: IntMatrix, label_names: Sequence[str], recipe: Recipe) -> NDArray[Any]:
    """Return the labels to train on under the recipe's policies for unknown and uncertain entries.

    Uncertain entries that are ignored stay `UNCERTAIN` where the loss learns from unknown entries: it would otherwise
    learn from these as well.

    Args:
        labels: Shape (n, num_labels): 1, 0, `IGNORE_INDEX` and `UNCERTAIN`.
        label_names: The labels.
        recipe: For its policies, see `parse_policy`, and its loss.

    Returns:
        int8 of the same shape, or float32 where a target is neither 0 nor 1.
    """
    policies = {
        IGNORE_INDEX: parse_policy("unknown", recipe.data.unknown, label_names),
        UNCERTAIN: parse_policy("uncertain", recipe.data.uncertain, label_names),
    }
    kept = UNCERTAIN if find_loss(recipe.model.loss).uses_unknown else IGNORE_INDEX
    ignored = {IGNORE_INDEX: IGNORE_INDEX, UNCERTAIN: kept}
    soft = any(target not in (None, 0.0, 1.0) for targets in policies.values() for target in targets)
    result: NDArray[Any] = labels.astype(np.float32 if soft else np.int8)
    for code, targets in policies.items():
        values = np.array([ignored[code] if target is None else target for target in targets], dtype=result.dtype)
        result = np.where(labels == code, values, result)
    return result


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
    def of(cls, counts: LabelCounts, label_names: Sequence[str], recipe: Recipe) -> "TargetCounts":
        """Count the targets that `training_targets` gives for labels of which only the counts are known."""
        codes = np.array([1, 0, UNCERTAIN, IGNORE_INDEX], dtype=np.int8)
        unknown = counts.images - counts.known - counts.uncertain
        times = np.stack([counts.positive, counts.negative, counts.uncertain, unknown])
        targets = training_targets(np.repeat(codes[:, None], len(label_names), axis=1), label_names, recipe)
        known = targets >= 0
        return cls(
            (np.where(known, targets, 0).astype(np.float64) * times).sum(axis=0),
            (known * times).sum(axis=0),
            ((targets != UNCERTAIN) * times).sum(axis=0),
            counts.images,
        )


def loss_configuration(recipe: Recipe, counts: TargetCounts, label_names: Sequence[str]) -> dict[str, Any]:
    """Return the keys of `TimmMultiLabelConfig` that make up the objective.

    `pos_weight: auto` becomes each label's negatives over positives among its targets, clipped to `POS_WEIGHT_RANGE`
    (1 where either is missing). The `prior` of the selective loss, where none is given, becomes the share of positives
    among a label's targets, or among all images where no negative is known.

    Raises:
        HalflabelError: On a weight that is no number, or a label that does not exist.
    """
    model = recipe.model
    loss_args = dict(model.loss_args or {})
    if model.loss == "selective" and "prior" not in loss_args:
        images = np.where(counts.answered > counts.positive, counts.answered, counts.images)
        loss_args["prior"] = (counts.positive / np.maximum(images, 1)).tolist()

    def weights(key: str, given: Any) -> list[float] | None:  # noqa: ANN401 - from a file
        return None if given is None else by_label(key, given, label_names, 1.0, _number)

    auto = model.pos_weight == "auto"
    return {
        "loss": model.loss,
        "loss_args": loss_args or None,
        "normalizer": model.normalizer,
        "pos_weight": _auto_weight(counts) if auto else weights("pos_weight", model.pos_weight),
        "label_weight": weights("label_weight", model.label_weight),
    }


def _auto_weight(counts: TargetCounts) -> list[float]:
    negative = counts.answered - counts.positive
    defined = (counts.positive > 0) & (negative > 0)
    ratio = np.where(defined, negative / np.maximum(counts.positive, 1e-9), 1.0)
    return [float(value) for value in ratio.clip(*POS_WEIGHT_RANGE)]


def _number(key: str, value: Any) -> float:  # noqa: ANN401 - from a file
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        auto = "'auto', " if key.startswith("pos_weight") else ""
        raise HalflabelError(f"{key}: {value!r} is not {auto}a number or a mapping of labels to numbers") from error


@dataclass(frozen=True)
class TrainingData:
    """What a recipe trains on.

    Attributes:
        images: Every picture with its split; of streamed training pictures only the first few.
        counts: What is known in the training split.
        stream: Where training pictures come from one after another; None: they are in `images`.
    """

    images: AnnotatedImages
    counts: LabelCounts
    stream: ImageStream | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The label names."""
        return self.images.label_space.names

    def target_counts(self, recipe: Recipe) -> TargetCounts:
        """Count the targets of the training split under the recipe's policies."""
        return TargetCounts.of(self.counts, self.names, recipe)


def prepare_data(recipe: Recipe) -> TrainingData:
    """Load what the recipe trains on; see `load_data`, and `streaming.open_stream` for a recipe that streams."""
    data, stream = recipe.data, None
    if data.streaming:
        stream = open_stream(parse_sources(data.data, None, data.uncertain_values or ()), data.labels)
        images = stream.collect({"train": EXAMPLES, "validation": None, "test": data.max_test_images})
    else:
        images = load_data(recipe)
    if data.bad_images == "skip":
        images = leave_out_unreadable(images, quiet=bool(stream or recipe.arguments.disable_tqdm))
    counts = count_labels(images.of_split("train").labels) if stream is None else stream.counts["train"]
    return TrainingData(images, counts, stream)


def count_skipped(path: Path) -> int:
    """Count the pictures that were left out; a stream notes one again in every pass."""
    if not path.is_file():
        return 0
    lines = list(dict.fromkeys(path.read_text(encoding="utf-8").splitlines()))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)


def load_data(recipe: Recipe) -> AnnotatedImages:
    """Load the recipe's source, give every picture a split, and hide known entries where the recipe says so."""
    data, seed = recipe.data, recipe.arguments.seed
    most, uncertain = (data.max_train_images, data.max_test_images), data.uncertain_values or ()
    images = load_images(data.data, data.image_folder, data.labels, *most, uncertain, data.contradictions)
    return hide_known(assign_splits(images, recipe.validation_share, data.test_share, seed), data, seed)


def hides_labels(data: DataKeys) -> bool:
    """Tell whether a recipe hides known labels."""
    asked = (data.keep_labels, data.hide_per_label, data.hide_groups)
    return data.hide_protocol != "random" or asked != (None, None, None)


def hide_known(images: AnnotatedImages, data: DataKeys, seed: int) -> AnnotatedImages:
    """Hide known entries outside the test split as a recipe says; `seed` decides where it names no `hide_seed`."""
    if not hides_labels(data):
        return images
    # Test entries are neither hidden nor drawn for: the draw depends on the other images alone.
    rows, labels = images.column("split") != "test", images.labels.copy()
    labels[rows] = hide_labels(
        labels[rows],
        data.hide_protocol,
        keep=data.keep_labels,
        per_label=data.hide_per_label,
        groups=data.hide_groups,
        label_space=images.label_space,
        seed=seed if data.hide_seed is None else data.hide_seed,
    )
    return images.with_labels(labels)


def describe_run(recipe: Recipe, data: TrainingData) -> dict[str, Any]:
    """Return, for JSON, all that decides what a run becomes: settings with the labels, data, and its length.

    Left out is what may change when a run goes on: where things lie, the device, how often it is evaluated, saved and
    logged, how pictures are loaded, what is decided at the end, and the test split.
    """
    arguments, own = recipe.arguments, recipe.plain()
    trainers = arguments.to_dict()
    keys = [key.name for group in (DataKeys, ModelKeys, TrainingKeys) for key in fields(group)]
    settings = {
        "labels": data.names,
        **{key: own[key] for key in keys if key not in _MAY_CHANGE},
        **{key: trainers[key] for key in _DECISIVE},
        "images a step": arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size,
    }
    described = {
        "settings": settings,
        "data": {**_describe_split(data, "train"), **_describe_split(data, "validation")},
        "length": {key: trainers[key] for key in ("num_train_epochs", "max_steps")},
    }
    plain: dict[str, Any] = json.loads(json.dumps(described, default=str))
    return plain


def _describe_split(data: TrainingData, split: str) -> dict[str, Any]:
    """Return how many images a split has, and hashes of their names, of what is known of them, and of the pictures.

    Of pictures that is the size of every file, and what some of them hold, evenly spread: all, where they are few.
    """
    part, streamed = data.images.of_split(split), split == "train" and data.stream is not None
    pictures = xxhash.xxh3_128()
    if len(part) and part.dataset[0]["image"]["bytes"] is None:
        columns = part.dataset.select_columns("image").with_format("arrow")
        paths = [
            path for table in columns.iter(1000) for path in table["image"].combine_chunks().field("path").to_pylist()
        ]
        pictures.update(repr([os.path.isfile(path) and os.path.getsize(path) for path in paths]).encode())
    for row in np.linspace(0, len(part) - 1, min(len(part), _READ_PICTURES)).round():
        picture = part.dataset[int(row)]["image"]
        with contextlib.suppress(OSError):  # who decodes it will say what is wrong with it
            pictures.update(picture["bytes"] or Path(picture["path"]).read_bytes())
    answers = xxhash.xxh3_128(part.labels.tobytes())
    if streamed:  # of which only a few are at hand
        answers.update(np.stack([data.counts.known, data.counts.positive, data.counts.uncertain]).tobytes())
    return {
        f"number of images in {split}": data.counts.images if streamed else len(part),
        f"file names in {split}": xxhash.xxh3_128_hexdigest(repr(part.column("file_name").tolist()).encode()),
        f"answers in {split}": answers.hexdigest(),
        f"pictures in {split}": pictures.hexdigest(),
    }


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


def check_targets(counts: TargetCounts, loss: Any) -> None:  # noqa: ANN401 - as `find_loss` takes it
    """Refuse targets that are all yes, or all no, for every label, where the loss learns from nothing else.

    Raises:
        HalflabelError: It says what such data mostly come from.
    """
    learned = (counts.positive > 0) & (counts.positive < counts.answered)
    if not learned.any() and not find_loss(loss).uses_unknown:
        raise HalflabelError(
            "no label has both a yes and a no to train on, so that nothing can be learned: in a table -1 is unknown "
            "(write 0 for no, or train with unknown: negative), and of a set without annotations nothing is yes"
        )


def make_datasets(recipe: Recipe, model: Model, processor: Processor, data: TrainingData) -> dict[str, Any]:
    """Return the data set of each split that has images; of features, where the recipe caches these."""
    made: dict[str, Any] = {}
    for split in ("train", "validation", "test"):
        train = split == "train"
        if train and data.stream is not None:
            made[split] = _stream_dataset(recipe, data.stream, processor)
            continue
        part = data.images.of_split(split)
        if not len(part):
            continue
        labels = training_targets(part.labels, data.names, recipe) if train else evaluation_labels(part.labels)
        plain, augmented = (_pixels(recipe, part, labels, processor, training) for training in (False, True))
        if recipe.training.cache_features:
            views = Views(plain, augmented, recipe.training.views if train else 1, recipe.arguments.seed)
            features = _extract(recipe, model, views, f"features of {split}")
            made[split] = FeatureDataset(features, labels, views.views)
        else:
            made[split] = augmented if train else plain
    return made


def training_features(recipe: Recipe, model: Model, processor: Processor, data: TrainingData) -> Tensor | MappedRows:
    """Return the features of the training pictures by the backbone as it is, from the cache where they are there."""
    part = data.images.of_split("train")
    plain = _pixels(recipe, part, part.labels, processor, training=False)
    return _extract(recipe, model, Views(plain, seed=recipe.arguments.seed), "features of train")


def _pixels(
    recipe: Recipe, part: AnnotatedImages, labels: NDArray[Any], processor: Processor, training: bool
) -> PixelDataset:
    own = recipe.training.train_transform
    transform = processor.eval_transform() if not training else own or processor.train_transform()
    side = processor.needed_side(training) if recipe.data.fast_decode else None
    return PixelDataset(part, transform, labels, side, recipe.arguments.seed if training else None)


def _extract(recipe: Recipe, model: Model, views: Views, title: str) -> Tensor | MappedRows:
    arguments, folder = recipe.arguments, recipe.training.feature_cache
    torch.nn.Module.to(model, arguments.device)
    return cached_features(
        model,
        views,
        None if folder == "none" else folder or DEFAULT_FOLDER,
        batch_size=arguments.per_device_eval_batch_size,
        workers=arguments.dataloader_num_workers,
        title=title,
        quiet=bool(arguments.disable_tqdm),
    )


def _stream_dataset(recipe: Recipe, stream: ImageStream, processor: Processor) -> IterableDataset:
    data, names, seed = recipe.data, stream.label_space.names, recipe.arguments.seed
    side = processor.needed_side(training=True) if data.fast_decode else None
    skipped = recipe.folder / SKIPPED if data.bad_images == "skip" else None
    transform = recipe.training.train_transform or processor.train_transform()
    prepare = PrepareRows(stream, transform, lambda codes: training_targets(codes, names, recipe), side, skipped, seed)
    return stream.training_rows(prepare, seed, data.shuffle_buffer)


def start_head(model: Model, dataset: Any, counts: TargetCounts) -> None:  # noqa: ANN401
    """Set the head's bias from the training targets, and its standardisation where features are at hand."""
    entries = counts.asked if model.loss.assumes_negative else counts.answered  # what the loss at first takes for true
    model.head.set_prior_(torch.from_numpy(counts.positive), torch.from_numpy(entries))
    if isinstance(dataset, FeatureDataset):
        model.head.standardize_(dataset.sample())


def head_weight_decay(recipe: Recipe, model: Model, dataset: Any, counts: TargetCounts) -> float | None:  # noqa: ANN401
    """Return the weight decay that `head_ridge` means for this data, or None without it.

    The penalty is a prior: `ridge * in_features / 2 * |w|^2` stands against the *sum* of the loss over the entries that
    take part, so that it weighs the same, whatever share of them is known. What the Trainer minimises is this sum
    divided by their number (of images, where the loss is), and so is the penalty.
    """
    if recipe.training.head_ridge is None:
        return None
    if recipe.model.normalizer == "images":
        items = counts.images
    elif model.loss.uses_unknown or not hasattr(dataset, "labels"):
        items = (counts.asked if model.loss.uses_unknown else counts.answered).sum()
    else:
        items = (dataset.labels >= 0).sum()  # with pseudo-labels
    return recipe.training.head_ridge * model.head.in_features / max(int(items), 1)
