"""Where a picture speaks for a label: a heat map per label, for convolutional and transformer backbones."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ..model.backbones import position_width, to_positions
from ..model.decisions import check_logits
from ..model.errors import HalflabelError
from ..model.image_processing_timm_multilabel import TimmMultiLabelImageProcessor, decode_image
from ..model.modeling_timm_multilabel import TimmMultiLabelForImageClassification
from .inference import Name, SavedModel, open_model

SHOWN = 6
_ROUNDING = 1e-6  # evidence below this share of all that a label weighs is not told from 0 in float32


@dataclass(frozen=True)
class LabelMap:
    """What a model answers for one label (yes where the calibrated score reaches the threshold), and where it saw it.

    The heat map has shape (height, width) of the network's input, in 0..1; the place that speaks most for the label has
    about 1. All is 0 where no place does.
    """

    label: str
    score: float
    threshold: float
    decision: bool
    heat_map: NDArray[np.float32]


@dataclass(frozen=True)
class Explanation:
    """What the network saw, resized and cropped as for its input, and a map for each label that was asked for."""

    view: Image.Image
    labels: tuple[LabelMap, ...]


def explain(
    model: Name | SavedModel,
    image: Any,  # noqa: ANN401 - a path, or whatever the processor takes
    labels: Sequence[str] | None = None,
) -> Explanation:
    """Find where one picture speaks for labels, by HiResCAM (Draelos and Carin 2020, arXiv 2011.08891).

    The evidence for label i at position p is max(0, x_p . d logit_i / d x_p), where x_p are the last features there.
    Where the head subtracts the mean of the training images, so does x_p: 0 is an average picture, and the logit of a
    linear head is its bias plus the mean of w_i . x_p over the positions, for which this is CAM and Grad-CAM up to its
    scale. Grad-CAM averages the gradient over the positions, which points to wrong places where a head attends to some
    of them (csra, ml_decoder). A transformer that pools by its class token reads the positions in its last attention;
    there x_p is what enters that.

    Args:
        model: A folder, a Hub name, or what is open already; it is put into evaluation mode, and its parameters may be
            frozen. Its own decision rule gives the answers.
        image: One picture: a path, PIL or a uint8 array.
        labels: Whose maps to make, in this order; None: those of the six highest scores.

    Raises:
        HalflabelError: If a label is not the model's, the picture cannot be read, a logit is not finite, or the
            backbone has no map of positions.
    """
    saved = open_model(model)
    network, processor = saved.model, saved.processor
    space, rule = network.config.label_space, network.config.decision_rule
    chosen = None if labels is None else [space.index(label) for label in labels]
    if isinstance(image, str | os.PathLike):  # decoded as `predict` does, so that the scores are the same
        image = decode_image({"path": os.fspath(image)}, shortest_side=processor.needed_side())
    pixels = processor(image)["pixel_values"].to(network.device, network.dtype)
    network.train(False)
    with torch.enable_grad():
        logits, maps, baseline = _run(network, pixels)
    values = logits.detach().cpu().double().numpy()
    check_logits(values, space.names, ["the picture"])
    scores = rule.scores(values)[0]
    answers, found = rule.decide(scores), []
    grid, size = _grid(network, maps, pixels), (pixels.shape[-2], pixels.shape[-1])
    for i in np.argsort(-scores, kind="stable")[:SHOWN].tolist() if chosen is None else chosen:
        (gradient,) = torch.autograd.grad(logits[0, i], maps, retain_graph=True)
        features = to_positions(maps.detach(), network.backbone) - baseline
        contributions = (features * to_positions(gradient, network.backbone)).float().sum(dim=-1)
        heat_map = _heat_map(contributions.reshape(grid), size)
        found.append(LabelMap(space.names[i], float(scores[i]), rule.thresholds[i], bool(answers[i]), heat_map))
    return Explanation(_view(pixels, processor), tuple(found))


def _run(model: TimmMultiLabelForImageClassification, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the logits, the last map of positions as the backbone gives it, and its values where it says nothing."""
    backbone: Any = model.backbone
    head = model.head
    kind, nothing = type(backbone).__name__, torch.zeros((), device=pixels.device, dtype=pixels.dtype)
    try:
        position_width(backbone)
    except HalflabelError as error:
        raise HalflabelError(f"{kind} has no single map of positions that a picture could show") from error
    if getattr(backbone, "global_pool", "") == "token" and head.consumes == "pooled":
        norms = [module for name, module in backbone.named_modules() if name.endswith(".norm1")]
        if not norms:
            raise _unshown(kind)
        entered: list[Tensor] = []

        def keep(module: Any, given: Any, tokens: Tensor) -> Tensor:  # noqa: ANN401 - torch's contract of a hook
            entered.append(tokens.detach().requires_grad_())
            return entered[0].clone()

        with norms[-1].register_forward_hook(keep):
            logits: Tensor = model(pixels).logits
        return logits, entered[0], nothing
    with torch.no_grad():
        maps = backbone.forward_features(pixels)
    maps = maps.detach().requires_grad_()
    if head.consumes == "positions":
        features, straight = to_positions(maps, backbone), True
    else:
        features = backbone.forward_head(maps.clone(), pre_logits=True)
        mean = to_positions(maps, backbone).mean(dim=1)
        straight = features.shape == mean.shape and torch.allclose(features, mean, rtol=1e-3, atol=1e-4)
    return head(features), maps, head.feature_mean.to(maps.dtype) if straight else nothing


def _grid(model: TimmMultiLabelForImageClassification, maps: Tensor, pixels: Tensor) -> tuple[int, int]:
    """Return the rows and columns of the positions."""
    count = to_positions(maps, model.backbone).shape[1]
    rows = round((count * pixels.shape[-2] / pixels.shape[-1]) ** 0.5)
    if not rows or count % rows:
        raise _unshown(type(model.backbone).__name__)
    return rows, count // rows


def _unshown(kind: str) -> HalflabelError:
    return HalflabelError(f"{kind} orders or pools its positions in a way that a picture cannot show")


def _heat_map(contributions: Tensor, size: tuple[int, int]) -> NDArray[np.float32]:
    """Keep what speaks for a label, scale it by its largest, and enlarge it (rows, columns) to a size in pixels."""
    evidence = torch.where(contributions > _ROUNDING * contributions.abs().sum(), contributions, 0.0)
    if evidence.any():
        evidence = evidence / evidence.max()
    enlarged = F.interpolate(evidence[None, None], size=size, mode="bilinear", align_corners=False)
    return enlarged[0, 0].cpu().numpy()


def _view(pixels: Tensor, processor: TimmMultiLabelImageProcessor) -> Image.Image:
    """Turn the network's input back into a picture."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (processor.mean, processor.std))
    shares = (pixels[0].float().cpu() * std + mean).clamp(0, 1)
    return Image.fromarray((255 * shares).round().byte().permute(1, 2, 0).numpy())
