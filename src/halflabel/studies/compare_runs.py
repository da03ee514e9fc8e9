"""A recipe trained and measured on held-out entries, again and again: what `compare` is made of."""

import numpy as np
from numpy.typing import NDArray
from torch import nn
from transformers import PrinterCallback, set_seed

from ..data.images import AnnotatedImages
from ..data.splitting import assign_splits
from ..model.errors import HalflabelError
from ..model.labels import count_labels
from ..training.preparation import TrainingData
from ..training.recipe import Recipe
from ..training.run import prepare_training
from ..training.trainer import make_trainer

Floats = NDArray[np.float64]


def train_and_score(recipe: Recipe, images: AnnotatedImages, seed: int) -> Floats:
    """Train a recipe on the training split, to its last epoch, and return its logits of the test split.

    Args:
        recipe: One on cached features. Its own seed decides its augmented views, so that these are made once.
        images: Of the splits `train` and `test`.
        seed: Of the head's start and of the order of the images.

    Returns:
        Shape (test images, num_labels).
    """
    data = TrainingData(images, count_labels(images.of_split("train").labels))
    set_seed(seed)
    model, _, datasets = prepare_training(recipe, data)
    model.backbone = nn.Identity()  # features are cached: half of the time of a step went on walking through its layers
    trainer = make_trainer(recipe.change(seed=seed), model, datasets, data)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return np.asarray(trainer.predict(datasets["test"]).predictions, dtype=np.float64)


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
        part = assign_splits(part.with_column("split", ["train"] * len(part)), 1 / (folds - fold), 0, seed)
        taken = part.column("split") == "validation"
        fold_of[rest[taken]] = fold
        rest = rest[~taken]
    if len(set(fold_of.tolist())) < folds:
        raise HalflabelError(f"the training images are in fewer than {folds} groups: too few to cross-validate")
    return fold_of


def held_out_logits(recipe: Recipe, images: AnnotatedImages, fold_of: NDArray[np.intp], seed: int) -> Floats:
    """Return logits of every image by a model that was trained without the images of its fold.

    Args:
        recipe: One on cached features.
        images: Those to train on, whatever their splits.
        fold_of: See `cut_folds`.
        seed: Of training.

    Returns:
        Shape (n, num_labels).
    """
    logits = np.empty(images.labels.shape)
    for fold in np.unique(fold_of):
        outside = fold_of == fold
        logits[outside] = train_and_score(
            recipe, images.with_column("split", np.where(outside, "test", "train").astype(object)), seed
        )
    return logits
