"""Short trainings of whole networks, from pretrained and from random weights, on the same pictures for as long."""

import logging
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from transformers import PrinterCallback, ProgressCallback, set_seed

from ..data.images import AnnotatedImages
from ..data.pixels import PixelDataset
from ..metrics.entries import Floats
from ..model.labels import IntMatrix, count_labels
from ..training.preparation import TrainingData
from ..training.recipe import parse_recipe
from ..training.run import prepare_training
from ..training.trainer import make_trainer
from .grouped_folds import FOLDS
from .network_comparison import KINDS, Comparison, compare_networks
from .ranking_influence import ranks_within

log = logging.getLogger(__name__)

EPOCHS, RUNS, _HELD_OUT = 3, 2, 2
"""Each run trains for so long; a run with its own seed tests on its own two folds and trains on the other three."""

TUNING_INFLATION = 1 + RUNS * _HELD_OUT / (FOLDS - _HELD_OUT)


@dataclass(frozen=True)
class Tuned:
    """What the trainings gave.

    Attributes:
        ranks: By backbone and kind of weights: the rank of each tested entry among those of its label and run,
            (n, num_labels); NaN where it is not tested.
        labels: What is known of the tested entries, (n, num_labels).
        comparisons: By backbone.
        seconds: How long it took.
    """

    ranks: dict[str, dict[str, Floats]]
    labels: IntMatrix
    comparisons: dict[str, Comparison]
    seconds: float


def number_runs(folds: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return, for the fold of each image, the run that tests it; -1 where none does."""
    return np.where(folds < RUNS * _HELD_OUT, folds // _HELD_OUT, -1)


def fine_tune(
    images: AnnotatedImages,
    backbones: Mapping[str, str],
    labels: IntMatrix,
    folds: NDArray[np.intp],
    groups: NDArray[np.intp],
    seed: int = 0,
    quiet: bool = False,
) -> Tuned:
    """Train and test every backbone from pretrained and from random weights, for `EPOCHS` each.

    Seeds are paired: both networks see the same pictures in the same order.

    Args:
        images: The pictures; their splits do not count.
        backbones: By name where its weights come from.
        labels: What is known, shape (n, num_labels).
        folds: The fold of each image.
        groups: The number of each image's group.
        seed: Of the first run; the next has the next.
        quiet: Show no progress bars.

    Raises:
        HalflabelError: If a picture cannot be read.
    """
    start, run_of = time.monotonic(), number_runs(folds)
    scores = {name: {kind: np.full(labels.shape, np.nan) for kind in KINDS} for name in backbones}
    for name, weights in backbones.items():
        for run in range(RUNS):
            tested = run_of == run
            splits = np.where(tested, "test", "train")
            part = replace(images.with_column("split", splits), labels=labels)
            for kind in KINDS:
                log.info("%s from %s weights, run %d of %d", name, kind, run + 1, RUNS)
                given = weights if kind == "pretrained" else None
                scores[name][kind][tested] = train_and_predict(part, name, given, EPOCHS, seed + run, quiet)
    known = np.where((run_of >= 0)[:, None], labels, np.int8(-100))
    ranks = {
        name: {kind: ranks_within(np.where(known >= 0, values, np.nan), run_of) for kind, values in both.items()}
        for name, both in scores.items()
    }
    names = images.label_space.names
    compared = {name: compare_networks(both, known, names, groups, TUNING_INFLATION) for name, both in ranks.items()}
    return Tuned(ranks, known, compared, time.monotonic() - start)


def train_and_predict(
    images: AnnotatedImages,
    backbone: str,
    weights: str | None,
    epochs: float,
    seed: int = 0,
    quiet: bool = False,
    everywhere: bool = False,
) -> NDArray[np.float32]:
    """Train on the split `train` as the recipe `finetune` does, and return the logits of the split `test`.

    With random weights all layers have the full learning rate: a rate that falls from the head down would keep the
    lower ones as they were drawn.

    Args:
        images: With splits.
        backbone: A timm name.
        weights: `hub`, `installed`, a path, or None for random weights.
        epochs: How long.
        seed: Of the head, the order of the pictures and their augmentation, and of random weights.
        quiet: Show no progress bars.
        everywhere: Return the logits of all images, as they are without augmentation.

    Returns:
        Shape (test images, num_labels), or (n, num_labels), in the order of the images.
    """
    with tempfile.TemporaryDirectory() as folder:
        changed = {
            "backbone": backbone, "weights": weights or "none", "num_train_epochs": epochs, "seed": seed,
            "output_dir": folder, "save_strategy": "no", "report_to": "none", "disable_tqdm": quiet,
            "logging_strategy": "no",
            **({} if weights else {"layer_decay": 1.0}),
        }  # fmt: skip
        recipe = parse_recipe("finetune", [f"--{key}={value}" for key, value in changed.items()])
        data = TrainingData(images, count_labels(images.of_split("train").labels))
        set_seed(seed)
        model, processor, datasets = prepare_training(recipe, data)
        trainer = make_trainer(recipe, model, datasets, data)
        for shown in (PrinterCallback, ProgressCallback):  # their losses would stand between the lines of the advice
            trainer.remove_callback(shown)
        trainer.train()
        predicted = datasets["test"]
        if everywhere:
            predicted = PixelDataset(images, processor.eval_transform(), shortest_side=processor.needed_side())
        return np.asarray(trainer.predict(predicted).predictions)
