"""Features of backbones with pretrained and with random weights: the same pictures, each through each network once."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..data.images import AnnotatedImages
from ..data.pixels import PixelDataset
from ..model.errors import HalflabelError
from ..model.image_processing_timm_multilabel import TimmMultiLabelImageProcessor
from ..model.modeling_timm_multilabel import TimmMultiLabelForImageClassification
from ..training.features import Views, cached_features
from .source_data import SourceData, find_source_data

log = logging.getLogger(__name__)


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


def _views(model: TimmMultiLabelForImageClassification, images: AnnotatedImages) -> Views:
    processor = TimmMultiLabelImageProcessor.from_backbone(model.backbone)
    return Views(PixelDataset(images, processor.eval_transform(), shortest_side=processor.needed_side()))


def _extract(
    model: TimmMultiLabelForImageClassification,
    images: AnnotatedImages,
    folder: str | Path | None,
    title: str,
    options: dict[str, Any],
) -> NDArray[np.float32]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    nn.Module.to(model, device)
    found = cached_features(model, _views(model, images), folder, title=title, **options)
    assert isinstance(found, torch.Tensor)  # a linear head consumes pooled features
    return found.numpy()
