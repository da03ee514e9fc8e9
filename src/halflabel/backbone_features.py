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

from .data import PixelDataset
from .errors import HalflabelError
from .feature_views import Views
from .features import cached_features
from .image_processing_timm_multilabel import TimmMultiLabelImageProcessor
from .modeling_timm_multilabel import TimmMultiLabelForImageClassification
from .source_data import SourceData, find_source_data
from .sources import AnnotatedImages

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

    Args:
        images: At least one.
        backbones: timm names; a repeated one counts once.
        weights: `hub`, `installed` or a path, the same for all.
        folder: Where features are kept; None: in memory only.
        seed: Of the random weights.
        options: `batch_size`, `workers` and `quiet` of `features.cached_features`.

    Returns:
        The features by name, and of each backbone that cannot be had `backbone` and `reason`, one line.
    """
    loaded: dict[str, BackboneFeatures] = {}
    failures: list[dict[str, str]] = []
    for name in dict.fromkeys(backbones):
        try:
            model = _build(name, images, weights)
            pretrained = _extract(model, images, folder, f"{name}, pretrained", options)
            random = backbone_features(images, name, None, folder, seed, **options)
        except HalflabelError as error:
            log.warning("%s is left out: %s", name, error)
            failures.append({"backbone": name, "reason": str(error)})
            continue
        parameters = sum(parameter.numel() for parameter in model.backbone.parameters())
        source = find_source_data(name, weights)
        loaded[name] = BackboneFeatures(name, weights, pretrained, random, source, parameters)
    return loaded, failures


def backbone_features(
    images: AnnotatedImages,
    backbone: str,
    weights: str | None,
    folder: str | Path | None = None,
    seed: int = 0,
    **options: Any,  # noqa: ANN401
) -> NDArray[np.float32]:
    """Return the pooled features of all images in their order, float32 of shape (n, width).

    A network with random weights is as timm initialises it. Statistics of BatchNorm layers from some pictures would
    make a weaker rival of it: on photographs, probes on such features were hardly better than chance.

    Args:
        images: At least one.
        backbone: A timm name.
        weights: `hub`, `installed`, a path, or None for random weights.
        folder: Where features are kept and found again; None: in memory only.
        seed: Of the random weights.
        options: `batch_size`, `workers` and `quiet` of `features.cached_features`.

    Raises:
        HalflabelError: If the backbone or its weights cannot be had, a picture cannot be read, or the features are
            NaN or infinite, as those of random weights may be.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = _build(backbone, images, weights)
    title = f"{backbone}, {'random' if weights is None else 'pretrained'}"
    return _extract(model, images, folder, title, options)


def _build(backbone: str, images: AnnotatedImages, weights: str | None) -> TimmMultiLabelForImageClassification:
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
    if not found.isfinite().all():
        raise HalflabelError(f"{title}: features are NaN or infinite, so that nothing can be measured on them")
    return found.numpy()
