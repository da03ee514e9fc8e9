"""One architecture with pretrained and with random weights: its features, what they come from, and short trainings."""

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PrinterCallback, ProgressCallback, set_seed

from ..data.images import AnnotatedImages
from ..data.pixels import PixelDataset
from ..metrics.entries import Floats
from ..model.errors import HalflabelError, shortlist
from ..model.image_processing_timm_multilabel import TimmMultiLabelImageProcessor
from ..model.labels import IntMatrix, count_labels
from ..model.modeling_timm_multilabel import TimmMultiLabelForImageClassification
from ..training.features import Views, cached_features
from ..training.guesses import FeatureBasis
from ..training.preparation import TrainingData
from ..training.recipe import parse_recipe
from ..training.run import prepare_training
from ..training.trainer import make_trainer

log = logging.getLogger(__name__)

SOURCE_IMAGES = {
    "in1k": 1_281_167,
    "in12k": 11_821_647,
    "in21k": 14_197_122,
    "in22k": 14_197_122,
    "inw21k": 14_197_122,
    "sa1b": 11_000_000,
    "cc12m": 12_000_000,
    "yfcc15m": 15_000_000,
    "yfcc100m": 100_000_000,
    "m38m": 38_000_000,
    "lvd142m": 142_000_000,
    "lvd1689m": 1_689_000_000,
    "sat493m": 493_000_000,
    "jft": 300_000_000,
    "openai": 400_000_000,
    "laion400m": 400_000_000,
    "400m": 400_000_000,
    "ig1b": 940_000_000,
    "swag": 3_600_000_000,
    "seer": 1_000_000_000,
    "laion2b": 2_300_000_000,
    "laiona": 900_000_000,
    "merged2b": 2_000_000_000,
    "dfn2b": 2_000_000_000,
    "dfndr2b": 2_000_000_000,
    "2pt5b": 2_500_000_000,
    "dfn5b": 5_000_000_000,
    "datacomp1b": 1_400_000_000,
    "datacompxl": 1_400_000_000,
    "webli": 10_000_000_000,
}
"""Images by the words of timm's tags, rounded as the data sets' authors publish them."""

EPOCHS, RUNS, RUN_FOLDS = 3, 2, 2
"""Each training is this long; a run with its own seed tests on its own two folds and trains on all others."""

PENALTY = 0.04
"""Of the probes, per feature; the middle one of those that `training.guesses` chooses from. Nothing is tuned on what is
predicted."""

_FAR_MORE = 10


@dataclass(frozen=True)
class SourceData:
    """What pretrained weights come from: timm's tag, and the images of its largest data set; None: not known."""

    tag: str | None
    images: int | None

    def relate(self, target_images: int) -> dict[str, Any]:
        """Compare with the number of target images: a dict for JSON with the verdict and a sentence.

        Transfer is expected to help where the source has far more data than the target; here: ten times as many images.
        """
        ratio = self.images / target_images if self.images is not None and target_images else None
        if ratio is None:
            verdict = "unknown"
            sentence = f"how many images the weights come from is not known ({self.tag or 'no tag'})"
        else:
            more = ratio >= _FAR_MORE
            verdict = "far more source images" if more else "not far more source images"
            sentence = (
                f"the weights come from {self.images:,} images ({self.tag}), "
                f"{ratio:,.{0 if more else 1}f} times the {target_images:,} target images"
            )
        return {
            "tag": self.tag,
            "images": self.images,
            "target_images": target_images,
            "ratio": ratio,
            "verdict": verdict,
            "sentence": sentence,
        }


def find_source_data(backbone: str, weights: str) -> SourceData:
    """Read the tag of a backbone's weights; where it names several data sets, the largest counts.

    Args:
        backbone: A timm name; without a tag it has the one that timm takes.
        weights: `hub` or `installed`; of the weights in a file nothing is known.
    """
    if weights not in ("hub", "installed"):
        return SourceData(None, None)
    config = timm.get_pretrained_cfg(backbone, allow_unregistered=True)
    tag = (config.tag or None) if config is not None else None
    if tag is None:
        return SourceData(None, None)
    found = [SOURCE_IMAGES[word] for word in tag.split("_") if word in SOURCE_IMAGES]
    return SourceData(tag, max(found, default=None))


@dataclass(frozen=True)
class BackboneFeatures:
    """Pooled features of the same images from one architecture, float32 of shape (n, width) each.

    Attributes:
        name: The timm name.
        weights: Where the pretrained weights come from: `hub`, `installed` or a path.
        pretrained: Features with them.
        random: Features of the same architecture with random weights.
        source: What they were trained on.
        parameters: The number of parameters of the backbone.
    """

    name: str
    weights: str
    pretrained: NDArray[np.float32]
    random: NDArray[np.float32]
    source: SourceData
    parameters: int


def load_backbones(
    images: AnnotatedImages,
    backbones: Sequence[str],
    weights: str = "hub",
    folder: str | Path | None = None,
    seed: int = 0,
    **options: Any,  # noqa: ANN401
) -> tuple[dict[str, BackboneFeatures], list[dict[str, str]]]:
    """Run every backbone over the images, with its pretrained and with random weights.

    A network with random weights is as timm initialises it. Statistics of BatchNorm layers from some pictures would
    make a weaker rival of it: on photographs, probes on such features were hardly better than chance.

    Args:
        images: At least one.
        backbones: timm names; a repeated one counts once.
        weights: `hub`, `installed` or a path, the same for all.
        folder: Where features are kept and found again; None: in memory only.
        seed: Of the random weights.
        options: `batch_size`, `workers` and `quiet` of `features.cached_features`.

    Returns:
        The features by name, and of each backbone that cannot be had, or whose features are NaN or infinite, `backbone`
        and `reason`, one line.

    Raises:
        HalflabelError: If a picture cannot be read, or the folder cannot be written to.
    """
    loaded: dict[str, BackboneFeatures] = {}
    failures: list[dict[str, str]] = []
    for name in dict.fromkeys(backbones):
        try:
            models = {"pretrained": _build(name, images, weights, seed), "random": _build(name, images, None, seed)}
        except HalflabelError as error:
            reason = str(error)
        else:
            found = {
                kind: _extract(model, images, folder, f"{name}, {kind}", options) for kind, model in models.items()
            }
            broken = [kind for kind, matrix in found.items() if not np.isfinite(matrix).all()]
            reason = f"its features with {broken[0]} weights are NaN or infinite" if broken else ""
        if reason:
            log.warning("%s is left out: %s", name, reason)
            failures.append({"backbone": name, "reason": reason})
            continue
        parameters = sum(parameter.numel() for parameter in models["random"].backbone.parameters())
        source = find_source_data(name, weights)
        loaded[name] = BackboneFeatures(name, weights, found["pretrained"], found["random"], source, parameters)
    return loaded, failures


def _build(
    backbone: str, images: AnnotatedImages, weights: str | None, seed: int
) -> TimmMultiLabelForImageClassification:
    """Build a frozen backbone; random weights (None) follow from the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = TimmMultiLabelForImageClassification.from_backbone(backbone, images.label_space.names, weights=weights)
    model.freeze_backbone()
    return model


def _extract(
    model: TimmMultiLabelForImageClassification,
    images: AnnotatedImages,
    folder: str | Path | None,
    title: str,
    options: dict[str, Any],
) -> NDArray[np.float32]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    nn.Module.to(model, device)
    processor = TimmMultiLabelImageProcessor.from_backbone(model.backbone)
    pixels = PixelDataset(images, processor.eval_transform(), shortest_side=processor.needed_side())
    found = cached_features(model, Views(pixels), folder, title=title, **options)
    assert isinstance(found, torch.Tensor)  # a linear head consumes pooled features
    return found.numpy()


def held_out_probe(basis: FeatureBasis, labels: IntMatrix, folds: NDArray[np.intp]) -> Floats:
    """Return logits of every image by linear probes (`FeatureBasis.fit`) that saw no answer of its fold.

    Args:
        basis: The features of n images.
        labels: Shape (n, num_labels): 1, 0, or below 0 for entries that are not known.
        folds: The fold of each image, shape (n,).

    Returns:
        Shape (n, num_labels).
    """
    logits, known = np.empty(labels.shape), labels >= 0
    for fold in np.unique(folds):
        tested = folds == fold
        fit = basis.fit(labels.astype(np.float64), (known & ~tested[:, None]).astype(np.float64), PENALTY)
        logits[tested] = fit.logits[tested]
    return logits


def train_and_predict(
    images: AnnotatedImages,
    backbone: str,
    weights: str | None,
    epochs: float,
    seed: int = 0,
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

    Returns:
        Shape (test images, num_labels), in the order of the images.
    """
    with tempfile.TemporaryDirectory() as folder:
        changed = {
            "backbone": backbone, "weights": weights or "none", "num_train_epochs": epochs, "seed": seed,
            "output_dir": folder, "save_strategy": "no", "report_to": "none",
            "logging_strategy": "no",
            **({} if weights else {"layer_decay": 1.0}),
        }  # fmt: skip
        recipe = parse_recipe("finetune", changed)
        data = TrainingData(images, count_labels(images.of_split("train").labels))
        set_seed(seed)
        model, _, datasets = prepare_training(recipe, data)
        trainer = make_trainer(recipe, model, datasets, data)
        for shown in (PrinterCallback, ProgressCallback):  # their losses would stand between the lines of the advice
            trainer.remove_callback(shown)
        trainer.train()
        return np.asarray(trainer.predict(datasets["test"]).predictions)


def number_runs(folds: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return, for the fold of each image, the run of `held_out_training` that tests it; -1 where none does."""
    return np.where(folds < RUNS * RUN_FOLDS, folds // RUN_FOLDS, -1)


def held_out_training(
    images: AnnotatedImages, backbone: str, weights: str | None, run_of: NDArray[np.intp], seed: int = 0
) -> Floats:
    """Return logits of the images by networks that were trained without them, `EPOCHS` long; see `train_and_predict`.

    Args:
        images: With the labels that are trained; their splits do not count.
        backbone: A timm name.
        weights: `hub`, `installed`, a path, or None for random weights.
        run_of: See `number_runs`.
        seed: Of the first run; the next has the next.

    Returns:
        Shape (n, num_labels); NaN where no run tests.
    """
    logits = np.full(images.labels.shape, np.nan)
    for run in range(RUNS):
        log.info("%s from %s weights, run %d of %d: a network for %s", backbone, weights or "random", run + 1, RUNS,
                 shortlist(images.label_space.names))  # fmt: skip
        part = images.with_column("split", np.where(run_of == run, "test", "train"))
        logits[run_of == run] = train_and_predict(part, backbone, weights, EPOCHS, seed + run)
    return logits
