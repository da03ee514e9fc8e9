"""Where a picture speaks for a label: a heat map per label, for convolutional and transformer backbones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from ..model.backbones import position_width, to_positions
from ..model.errors import HalflabelError
from ..model.image_processing_timm_multilabel import TimmMultiLabelImageProcessor
from ..model.modeling_timm_multilabel import TimmMultiLabelForImageClassification

SHOWN = 6
_ROUNDING = 1e-6  # evidence below this share of all that a label weighs is not told from 0 in float32


@dataclass(frozen=True)
class LabelMap:
    """What a model answers for one label, and where it saw it.

    Attributes:
        label: Its name.
        score: The calibrated score, 0..1.
        threshold: The answer is yes from here on.
        decision: Whether it is yes.
        heat_map: float32 of shape (height, width) of the network's input, each in 0..1; the place that speaks most for
            the label has about 1. All 0 where no place does.
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
    model: TimmMultiLabelForImageClassification,
    processor: TimmMultiLabelImageProcessor,
    image: Any,  # noqa: ANN401 - whatever the processor takes
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
        model: It is put into evaluation mode; its parameters may be frozen. Its own decision rule gives the answers.
        processor: The model's.
        image: One picture: PIL, a path or a uint8 array.
        labels: Whose maps to make, in this order; None: those of the six highest scores.

    Raises:
        HalflabelError: If a label is not the model's, if the backbone has no map of positions, or if Captum is not
            installed.
    """
    try:
        from captum.attr import LayerGradientXActivation
    except ImportError as error:
        raise HalflabelError("heat maps need Captum: pip install 'halflabel[explain]'") from error
    space, rule = model.config.label_space, model.config.decision_rule
    chosen = None if labels is None else [space.index(label) for label in labels]
    pixels = processor(image)["pixel_values"].to(model.device, model.dtype)
    model.train(False)
    network = _ThroughPositions(model, pixels)
    with torch.no_grad():
        scores = rule.scores(network(pixels).double().cpu().numpy())[0]
    answers = rule.decide(scores)
    attribution = LayerGradientXActivation(network, network.positions)
    maps = []
    for i in np.argsort(-scores, kind="stable")[:SHOWN].tolist() if chosen is None else chosen:
        contributions = attribution.attribute(pixels, target=i).detach().float().sum(dim=-1)  # (1, positions)
        heat_map = _heat_map(contributions.reshape(network.grid), (pixels.shape[-2], pixels.shape[-1]))
        maps.append(LabelMap(space.names[i], float(scores[i]), rule.thresholds[i], bool(answers[i]), heat_map))
    return Explanation(_view(pixels, processor), tuple(maps))


class _ThroughPositions(nn.Module):
    """The model's logits, by way of a layer whose output (batch, positions, channels) is what they are explained by.

    Attributes:
        positions: That layer.
        grid: Rows and columns of the positions.
    """

    def __init__(self, model: TimmMultiLabelForImageClassification, pixels: Tensor) -> None:
        super().__init__()
        self.model = model
        self.positions = nn.Identity()
        kind = type(model.backbone).__name__
        try:
            position_width(model.backbone)
        except HalflabelError as error:
            raise HalflabelError(f"{kind} has no single map of positions that a picture could show") from error
        with torch.no_grad():
            maps = model.backbone.forward_features(pixels)  # type: ignore[operator]
            positions = to_positions(maps, model.backbone)
            pooled = model.backbone.forward_head(maps, pre_logits=True)  # type: ignore[operator]
            straight = model.head.consumes == "positions" or _is_mean(pooled, positions)
        self.baseline = model.head.feature_mean if straight else torch.zeros((), device=pixels.device)
        self.count = positions.shape[1]
        rows = round((self.count * pixels.shape[-2] / pixels.shape[-1]) ** 0.5)
        self.grid = (rows, self.count // rows)
        norms = [module for name, module in model.backbone.named_modules() if name.endswith(".norm1")]
        by_class_token = getattr(model.backbone, "global_pool", "") == "token" and model.head.consumes == "pooled"
        if self.count != rows * self.grid[1] or (by_class_token and not norms):
            raise HalflabelError(f"{kind} orders or pools its positions in a way that a picture cannot show")
        self.last_attention_input = norms[-1] if by_class_token else None

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pixels (batch, channels, height, width) to logits (batch, num_labels)."""
        backbone, head = self.model.backbone, self.model.head
        logits: Tensor
        if self.last_attention_input is not None:
            hook = self.last_attention_input.register_forward_hook(lambda module, given, tokens: self._through(tokens))
            try:
                logits = self.model(pixels).logits
            finally:
                hook.remove()
            return logits
        features = self._through(backbone.forward_features(pixels))  # type: ignore[operator]
        if head.consumes == "positions":
            features = to_positions(features, backbone)
        else:
            features = backbone.forward_head(features, pre_logits=True)  # type: ignore[operator]
        logits = head(features)
        return logits

    def _through(self, maps: Tensor) -> Tensor:
        """Lead the positions of a map through the layer; tokens before them (class, registers) go past it."""
        if maps.ndim == 3:
            first = maps.shape[1] - self.count
            return torch.cat([maps[:, :first], self._from_baseline(maps[:, first:])], dim=1)
        positions = self._from_baseline(to_positions(maps, self.model.backbone))
        channels_last = getattr(self.model.backbone, "output_fmt", "NCHW") == "NHWC"
        return (positions if channels_last else positions.transpose(1, 2)).reshape(maps.shape)

    def _from_baseline(self, positions: Tensor) -> Tensor:
        baseline = self.baseline.to(positions.dtype)
        moved: Tensor = self.positions(positions - baseline)
        return moved + baseline


def _is_mean(pooled: Tensor, positions: Tensor) -> bool:
    mean = positions.mean(dim=1)
    return pooled.shape == mean.shape and torch.allclose(pooled, mean, rtol=1e-3, atol=1e-4)


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
