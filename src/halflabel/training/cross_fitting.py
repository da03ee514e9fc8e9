"""Logits of training images by models that were not trained on them."""

import copy
import logging
import shutil
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold
from torch import Tensor, nn
from transformers import PrinterCallback, set_seed

from ..model.configuration_timm_multilabel import TimmMultiLabelConfig
from ..model.modeling_timm_multilabel import TimmMultiLabelForImageClassification
from .arguments import Recipe
from .building import make_trainer
from .feature_shards import FeatureDataset
from .objective import TargetCounts, training_targets
from .preparation import TrainingData, start_head

log = logging.getLogger(__name__)
FOLDS = 5
FOLDER = "cross_fit"
"""The folder in the output folder where heads are trained; it is removed at the end."""


def cross_fitted_logits(
    recipe: Recipe, model: TimmMultiLabelForImageClassification, datasets: dict[str, Any], data: TrainingData
) -> NDArray[np.float64] | None:
    """Train the recipe's head on cached features once per fold, and return what each says of the images left out.

    Images of one group are in one fold, so that no head is asked about a near-duplicate of what it was trained on.

    Args:
        recipe: Trained as it is, but for the images left out and without pseudo-labels; `cache_features` makes this a
            matter of seconds.
        model: Gives the frozen backbone and the head's kind and start (of a head whose start is random: a new one).
        datasets: See `preparation.make_datasets`.
        data: What they were made of.

    Returns:
        The logits of the first view of the training images, shape (n, num_labels); None where there are fewer than two
        groups, or the features are not in memory.
    """
    train = datasets["train"]
    if not (isinstance(train, FeatureDataset) and isinstance(train.features, Tensor)):
        return None
    part = data.images.of_split("train")
    # Pseudo-labels are left out: those of an image may come from answers to the images that are to be left out.
    train = FeatureDataset(train.features, training_targets(part.labels, data.names, recipe.settings), train.views)
    groups = part.column("group")
    groups = np.where(groups == "", [f"\0{i}" for i in range(len(groups))], groups).astype(str)
    folds = min(FOLDS, len(set(groups)))
    if folds < 2:
        return None
    log.info("%d heads, each without a part of the training images", folds)
    logits = np.empty((len(train), len(data.names)))
    splitter = GroupKFold(folds, shuffle=True, random_state=recipe.training.seed)
    for inside, outside in splitter.split(groups, groups=groups):
        left_out = _take(train, outside, view=0)
        logits[outside] = _fit_head(recipe, model, {**datasets, "train": _take(train, inside)}, data, left_out)
    return logits


def _take(dataset: FeatureDataset, images: NDArray[np.intp], view: int | None = None) -> FeatureDataset:
    """Return some images, in all views or in one."""
    views = np.arange(dataset.views) if view is None else np.array([view])
    rows = (images[:, None] * dataset.views + views).ravel()
    assert isinstance(dataset.features, Tensor)
    return FeatureDataset(dataset.features[rows], dataset.labels[images], len(views))


def _fit_head(
    recipe: Recipe,
    model: TimmMultiLabelForImageClassification,
    datasets: dict[str, Any],
    data: TrainingData,
    left_out: FeatureDataset,
) -> NDArray[np.float64]:
    training, folder = copy.copy(recipe.training), recipe.folder / FOLDER
    training.output_dir, training.report_to, training.disable_tqdm = str(folder), [], True
    other = replace(recipe, training=training)
    set_seed(training.seed)
    config = TimmMultiLabelConfig(**{**model.config.to_dict(), "decisions": None})
    rival = TimmMultiLabelForImageClassification(config, backbone=model.backbone)
    rival.freeze_backbone()
    start_head(rival, datasets["train"], TargetCounts.of(datasets["train"].labels))
    nn.Module.to(rival, training.device)
    trainer = make_trainer(other, rival, datasets, data)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    logits = np.asarray(trainer.predict(left_out).predictions, dtype=np.float64)
    trainer.accelerator.wait_for_everyone()
    shutil.rmtree(folder, ignore_errors=True)
    return logits
