"""Out-of-fold logits: what a head says of training pictures that it has not seen, so that all of them can train it.

The pictures are dealt out to folds. For each fold a head is trained on the cached features of the others, as the
Trainer trains it, and asked about the pictures of the fold.
"""

import copy
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import get_scheduler

from ..data.images import AnnotatedImages
from ..data.pixels import FeatureDataset
from ..data.splitting import assign_splits
from ..metrics.entries import Floats
from ..model.errors import HalflabelError, shortlist
from ..model.image_processing_timm_multilabel import TimmMultiLabelImageProcessor as Processor
from ..model.labels import IGNORE_INDEX, count_labels
from ..model.modeling_timm_multilabel import TimmMultiLabelForImageClassification as Model
from ..model.objective import count_items
from .guesses import make_pseudo_labels, pool
from .keys import PseudoLabelOptions
from .preparation import (
    TargetCounts,
    TrainingData,
    head_weight_decay,
    start_head,
    training_features,
    training_targets,
)
from .recipe import Recipe, parse_recipe
from .transfer import choose_trained, optimizer_cls_and_kwargs

FOLDS = 5
_ROWS = 4096  # whose logits are computed at once

log = logging.getLogger(__name__)


@contextmanager
def only_errors() -> Iterator[None]:
    """Let the package tell errors alone, without bars: of one of many trainings or cuts nobody needs to hear more."""
    logger = logging.getLogger("halflabel")
    level, bars = logger.level, not datasets.are_progress_bars_disabled()
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if bars:
            datasets.enable_progress_bars()


def cut_folds(images: AnnotatedImages, folds: int, seed: int) -> NDArray[np.intp]:
    """Deal images out to folds: groups kept whole, each label's known yes and known no spread evenly.

    Args:
        images: Those to deal out, whatever their splits.
        folds: At least 2.
        seed: The same seed deals the same way.

    Returns:
        The fold of each image, shape (n,).

    Raises:
        HalflabelError: If there are fewer groups than folds.
    """
    fold_of = np.full(len(images), folds - 1)
    rest = np.arange(len(images))
    for fold in range(folds - 1):
        part = images.select(rest)
        with only_errors():  # what is said of a validation split means nothing here
            part = assign_splits(part.with_column("split", ["train"] * len(part)), 1 / (folds - fold), 0, seed)
        taken = part.column("split") == "validation"
        fold_of[rest[taken]] = fold
        rest = rest[~taken]
    if len(set(fold_of.tolist())) < folds:
        raise HalflabelError(f"the training images are in fewer than {folds} groups: too few to cross-validate")
    return fold_of


def out_of_fold_logits(
    recipe: Recipe, model: Model, data: TrainingData, train: FeatureDataset, fold_of: NDArray[np.intp] | None = None
) -> Tensor | None:
    """Return logits of all training pictures, each by a head that has not seen any picture of its group.

    Pseudo-labels, where the recipe makes them, are made again without the answers of the fold.

    Args:
        recipe: It caches features.
        model: With the head of the recipe, in any state; it is left as it was.
        data: Its training pictures are those of `train`, in the same order.
        train: Their features.
        fold_of: See `cut_folds`; None: `FOLDS` folds, or as many as there are groups.

    Returns:
        float32 of shape (n, num_labels); None where all pictures are of one group.
    """
    images = data.images.of_split("train")
    if fold_of is None:
        folds = min(FOLDS, len(np.unique(images.groups)))
        if folds < 2:
            return None
        fold_of = cut_folds(images, folds, recipe.arguments.seed)
    trained, epoch = model.head, model.epoch
    found = torch.empty(len(images), len(data.names))
    state, model.head = torch.get_rng_state(), copy.deepcopy(trained)
    try:
        for fold in np.unique(fold_of):
            torch.manual_seed(recipe.arguments.seed)
            rows, held_out = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
            part = images.select(rows)
            seen = replace(data, images=part, counts=count_labels(part.labels))
            mine = train.select(rows, training_targets(part.labels, data.names, recipe))
            model.head.reset_parameters()
            with only_errors():
                add_pseudo_labels(recipe, model, None, seen, mine)
            start_head(model, mine, seen.target_counts(recipe))
            fit_head(recipe, model, mine, seen.target_counts(recipe))
            found[torch.from_numpy(held_out)] = logits_of(model, train, held_out)
    finally:
        model.head, model.epoch = trained, epoch
        torch.set_rng_state(state)
    return found


def probe_out_of_fold(
    model: Model, processor: Processor, images: AnnotatedImages, batch_size: int = 32
) -> Floats | None:
    """Return logits of annotated pictures by linear probes on a model's features that have not seen their groups.

    The probes are those of the recipe `linear_probe`; the model's own head and decisions have no part in them.

    Args:
        model: Any; it is left as it was.
        processor: The model's.
        images: With the model's labels, whatever their splits.
        batch_size: Pictures at once, where features are not cached yet.

    Returns:
        Shape (n, num_labels); None where all pictures are of one group, no known answer is a yes, or none a no, and
        where features are not finite, so that the model's logits tell more.
    """
    if not (images.labels == 1).any() or not (images.labels == 0).any():
        return None
    quiet = {"output_dir": "unused", "per_device_eval_batch_size": batch_size, "disable_tqdm": True}
    recipe = parse_recipe("linear_probe", quiet)
    images = images.with_column("split", ["train"] * len(images))
    data = TrainingData(images, count_labels(images.labels))
    model = copy.deepcopy(model)
    with only_errors():  # that the decisions go with the old head is meant
        model.replace_head(data.names, "linear", keep=False)
    choose_trained(model, recipe.training)
    features = training_features(recipe, model, processor, data)
    train = FeatureDataset(features, training_targets(images.labels, data.names, recipe), 1)
    if not train.sample().isfinite().all():
        return None
    logits = out_of_fold_logits(recipe, model, data, train)
    return None if logits is None else logits.numpy().astype(np.float64)


def add_pseudo_labels(
    recipe: Recipe,
    model: Model,
    processor: Processor | None,
    data: TrainingData,
    train: Any,  # noqa: ANN401 - a data set
) -> dict[str, Any] | None:
    """Fill unknown entries of the training data set with pseudo-labels, in place, and return their report.

    The features are those that a probe is trained on, or, where the backbone is to be trained, those it has before.
    Without a report the recipe wants none, or nothing is unknown. The processor is needed only in the second case.
    """
    keys = recipe.training
    if keys.pseudo_labels is None:
        return None
    # As annotated: what nobody could tell is not guessed, whatever it is trained on.
    labels = data.images.of_split("train").labels
    if not (labels == IGNORE_INDEX).any():
        log.warning("pseudo_labels: no training entry is unknown, so there is nothing to learn from; training plainly")
        return None
    if isinstance(train, FeatureDataset):
        features, views = train.features, train.views
    else:
        assert processor is not None
        features, views = training_features(recipe, model, processor, data), 1
    pooled, options = pool(features, model.head.power), PseudoLabelOptions.of(keys.pseudo_args)
    targets, report = make_pseudo_labels(pooled, labels, data.names, options, views, recipe.arguments.seed)
    _tell_guesses(report)
    guessed = (labels == IGNORE_INDEX) & (targets >= 0)
    if guessed.any():
        train.labels = np.where(guessed, targets, train.labels).astype(np.float32)
    return report


def _tell_guesses(report: dict[str, Any]) -> None:
    """Log what each round of pseudo-labels found, and what was decided."""
    for number, one in enumerate(report["rounds"], start=1):
        right = "undefined" if one["precision"] is None else f"{one['precision']:.3f}"
        told = "pseudo-labels, round %d: %d yes, %d no; precision %s on %d hidden known entries"
        log.info(told, number, one["yes"], one["no"], right, one["hidden"])
    if report["labels_without"]:
        log.warning("no pseudo-labels for want of known yes or no: %s", shortlist(report["labels_without"]))
    if report["rounds"] and not report["kept_round"]:
        log.warning("pseudo-labels do not help to foretell hidden known entries; training on the known ones alone")
    elif report["kept_round"] < len(report["rounds"]):
        log.warning("round %d of the pseudo-labels was best and is kept", report["kept_round"])


def fit_head(recipe: Recipe, model: Model, train: FeatureDataset, counts: TargetCounts) -> None:
    """Train the head as `MultiLabelTrainer` does on one device, but for checkpoints, averaged weights and logs.

    Args:
        recipe: For its `TrainingArguments` and rates.
        model: Its backbone is not used; only its head is changed.
        train: Features and targets.
        counts: Of the targets, without pseudo-labels.
    """
    arguments, keys = recipe.arguments, recipe.training
    size = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    epoch_steps = math.ceil(len(train) / size)
    steps = arguments.max_steps if arguments.max_steps > 0 else math.ceil(arguments.num_train_epochs * epoch_steps)
    decay = head_weight_decay(recipe, model, train, counts)
    make, _ = optimizer_cls_and_kwargs(arguments, keys.layer_decay, keys.head_lr_multiplier, decay)
    optimizer = make()(model)
    warmup, options = arguments.get_warmup_steps(steps), cast(dict[str, Any], arguments.lr_scheduler_kwargs)
    scheduler = get_scheduler(arguments.lr_scheduler_type, optimizer, warmup, steps, options)
    seed = arguments.seed if arguments.data_seed is None else arguments.data_seed
    weights = [weight for weight in model.head.parameters() if weight.requires_grad]
    model.train()
    for step in range(steps):
        if step % epoch_steps == 0:
            model.epoch = step // epoch_steps
            train.set_epoch(model.epoch)
            order = torch.Generator().manual_seed(seed + model.epoch)  # as Accelerate's sampler draws it
            batches = torch.randperm(len(train), generator=order).split(size)
        batch = train.batch(batches[step % epoch_steps].numpy())
        features, labels = (batch[name].to(model.device) for name in ("features", "labels"))
        loss = model(features=features, labels=labels, num_items_in_batch=count_items(labels, model.loss)).loss
        loss.backward()
        if arguments.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(weights, arguments.max_grad_norm)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    train.set_epoch(0)


@torch.no_grad()
def logits_of(model: Model, images: FeatureDataset, rows: NDArray[np.intp] | None = None) -> Tensor:
    """Return the logits of some images, or all, in their plain view, float32 of shape (rows, num_labels)."""
    model.train(False)
    rows = np.arange(len(images)) if rows is None else rows
    parts = np.array_split(rows, math.ceil(len(rows) / _ROWS))
    return torch.cat([model(features=images.plain(part).to(model.device)).logits.cpu() for part in parts])
