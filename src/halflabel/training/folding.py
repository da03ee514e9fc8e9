"""Each BatchNorm folded into the convolution before it: fewer passes over memory where a network only infers."""

import copy
from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..model.modeling_timm_multilabel import TimmMultiLabelForImageClassification

TOLERANCE = 1e-5
"""How far folded features may be from the plain ones, as a share of the largest plain one."""

# Exactly these: a subclass may do more than the formula says, as one that standardises its weight does.
_CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
_NORMS = (nn.BatchNorm2d, BatchNormAct2d)


@torch.inference_mode()
def fold_batch_norms(
    model: TimmMultiLabelForImageClassification, pixels: Tensor
) -> TimmMultiLabelForImageClassification:
    """Return a model with the same features that computes them faster; the given one is left as it is.

    Which convolution feeds which BatchNorm is seen by running the backbone, whatever the layers are called.

    Args:
        model: In evaluation mode.
        pixels: A few pictures to try it on, shape (batch, channels, height, width), as the backbone takes them.

    Returns:
        A folded copy; or the model itself where nothing can be folded, or where the features of `pixels` would
        differ by more than `TOLERANCE`.
    """
    pairs, plain = _trace(model, pixels)
    if not pairs:
        return model
    folded = copy.deepcopy(model)
    for convolution, norm in pairs:
        before, layer = folded.get_submodule(convolution), folded.get_submodule(norm)
        assert isinstance(before, nn.Conv2d)
        assert isinstance(layer, nn.BatchNorm2d)
        folded.set_submodule(convolution, fuse_conv_bn_eval(before, layer))
        folded.set_submodule(norm, _rest(layer))
    # NaN compares as false, and then the plain model is the one that should show it.
    difference = (folded.extract_features(pixels) - plain).abs().max()
    return folded if bool(difference <= TOLERANCE * plain.abs().max()) else model


def _trace(model: TimmMultiLabelForImageClassification, pixels: Tensor) -> tuple[list[tuple[str, str]], Tensor]:
    """Run the model; return the names of each convolution and the BatchNorm that takes its output, and the features."""
    made: dict[int, tuple[str, Tensor]] = {}  # by identity; the tensors are kept, lest another gets the same one
    pairs: list[tuple[str, str]] = []
    calls: list[str] = []

    def watch(name: str, module: nn.Module) -> Any:  # noqa: ANN401 - torch's handle
        def note(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            calls.append(name)
            if isinstance(module, _CONVOLUTIONS):
                made[id(output)] = (name, output)
            elif id(inputs[0]) in made:
                pairs.append((made[id(inputs[0])][0], name))

        return module.register_forward_hook(note)

    layers = [(name, module) for name, module in model.named_modules() if type(module) in (*_CONVOLUTIONS, *_NORMS)]
    # A BatchNorm without running statistics normalises by the batch, which no convolution can do.
    handles = [watch(name, layer) for name, layer in layers if getattr(layer, "running_mean", ()) is not None]
    try:
        plain = model.extract_features(pixels)
    finally:
        for handle in handles:
            handle.remove()
    # A layer that runs twice has two places, and folding would serve one of them.
    return [pair for pair in pairs if all(calls.count(name) == 1 for name in pair)], plain


def _rest(norm: nn.Module) -> nn.Module:
    """Return what a BatchNorm does besides normalising."""
    return nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()
