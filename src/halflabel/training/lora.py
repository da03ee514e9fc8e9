"""Low-rank adapters in the backbone: few weights are trained, and what is saved is a plain model."""

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from ..model.errors import HalflabelError, did_you_mean, shortlist
from ..model.image_processing_timm_multilabel import TimmMultiLabelImageProcessor
from ..model.modeling_timm_multilabel import TimmMultiLabelForImageClassification

_DEFAULT = re.compile(r"(?!.*(rel_pos|cpb)).*(attn|attention|mlp)")  # not the small nets of relative positions
_ADAPTER = "default"


def add_lora(
    model: TimmMultiLabelForImageClassification,
    rank: int = 8,
    alpha: float | None = None,
    targets: Sequence[str] | None = None,
) -> list[str]:
    """Put low-rank adapters into the backbone, in place, and train only them and the head.

    A layer with weight W then computes with W + alpha / rank * B A, where A and B have `rank` rows and columns and B
    starts as 0 (LoRA, arXiv 2106.09685). Everything else in the backbone is frozen, its BatchNorm also in evaluation
    mode. The model keeps its type, and `state_dict` (thus each checkpoint and `save_pretrained`) holds the merged
    weights under the plain names; `load_state_dict` takes such weights, with B back at 0. To resume a run exactly,
    add `resuming.KeepTrainingWeights` to the Trainer's callbacks. After training, call `merge_lora`.

    Args:
        model: It is changed.
        rank: At least 1.
        alpha: Above 0; None: twice the rank.
        targets: Names or globs of linear or convolution layers, in full or their last parts, like `"attn.qkv"` or
            `"conv2"`; None: every linear layer in the attention and mlp blocks. Grouped convolutions, subclasses of
            the two layers, and layers whose weight is used without them (qkv of BEiT, EVA, Swin v2) have no adapters.

    Returns:
        The names of the adapted layers, in the backbone.

    Raises:
        HalflabelError: If peft is not installed, a target matches no layer that can be adapted, or a number is out
            of range.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise HalflabelError("lora needs peft: pip install 'halflabel[lora]'") from error
    if rank < 1 or (alpha is not None and not alpha > 0):
        raise HalflabelError(f"lora: rank {rank} and alpha {alpha}, expected at least 1 and above 0")
    if model.backbone_is_frozen or _lora_layers(model):
        raise HalflabelError("lora: the backbone is frozen, or has adapters already")
    names = _targets(model, targets)
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank if alpha is None else alpha,  # type: ignore[arg-type] # it divides; any number will do
        target_modules="|".join(re.escape(name) for name in names),  # a list would also match longer names
    )
    inject_adapter_in_model(config, model.backbone, adapter_name=_ADAPTER)
    del model.backbone.peft_config  # the merged model is to be a plain one in this, too
    saved = model.register_state_dict_post_hook(_save_merged)  # type: ignore[no-untyped-call]
    loaded = model.register_load_state_dict_pre_hook(_load_merged)  # type: ignore[no-untyped-call]
    model.lora_hooks = [saved, loaded]  # type: ignore[assignment]
    model.train(model.training)
    return names


@torch.no_grad()
def merge_lora(model: TimmMultiLabelForImageClassification) -> None:
    """Turn a model with adapters into the plain model that computes the same, in place."""
    for name, layer in _lora_layers(model).items():
        parent, _, last = name.rpartition(".")
        layer.merge()
        setattr(model.get_submodule(parent), last, layer.get_base_layer())
    for hook in model.__dict__.pop("lora_hooks", ()):
        hook.remove()


def _lora_layers(model: nn.Module) -> dict[str, Any]:
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def _save_merged(model: nn.Module, state: dict[str, Tensor], prefix: str, _metadata: object) -> None:
    """Put the merged weights under the plain names, in the place of the adapters."""
    for name, layer in _lora_layers(model).items():
        inside = f"{prefix}{name}."
        for key in [key for key in state if key.startswith(inside)]:
            value, (first, _, rest) = state.pop(key), key.removeprefix(inside).partition(".")
            if first == "base_layer":
                merged = rest == "weight"
                state[inside + rest] = value + layer.get_delta_weight(_ADAPTER).detach() if merged else value


def _load_merged(model: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Take plain weights: they become the frozen ones, and the adapters add nothing to them."""
    for name, layer in _lora_layers(model).items():
        inside = f"{prefix}{name}."
        if f"{inside}weight" not in state:
            continue
        for key, own in layer.named_parameters():
            plain = inside + key.removeprefix("base_layer.")
            if key.startswith("base_layer."):
                state[inside + key] = state.pop(plain)
            else:
                state[inside + key] = torch.zeros_like(own) if key.startswith("lora_B") else own.detach()


def _targets(model: TimmMultiLabelForImageClassification, targets: Sequence[str] | None) -> list[str]:
    """Return the full names of the layers to adapt."""
    usable = _layers_that_run(model)
    if targets is None:
        linear = [name for name in usable if isinstance(model.backbone.get_submodule(name), nn.Linear)]
        found = [name for name in linear if _DEFAULT.match(name)]
        if not found:
            raise HalflabelError(
                f"lora: {type(model.backbone).__name__} has no linear layers in attention or mlp blocks; "
                f"name its layers with lora_targets, like {shortlist(list(usable)[1:], 3)}"
            )
        return found
    chosen: dict[str, None] = {}
    for target in targets:
        found = [name for name in usable if fnmatchcase(name, target) or fnmatchcase(name, f"*.{target}")]
        if not found:
            lasts = [name.rpartition(".")[2] for name in usable]
            raise HalflabelError(
                f"lora: {target!r} names no layer of {type(model.backbone).__name__} that can be adapted (linear, or "
                f"convolution in one group), such as {shortlist(usable, 3)}{did_you_mean(target, [*usable, *lasts])}"
            )
        chosen.update(dict.fromkeys(found))
    return list(chosen)


@torch.no_grad()
def _layers_that_run(model: TimmMultiLabelForImageClassification) -> list[str]:
    """Return the layers whose adapters would have an effect, in the order in which they run.

    Only exact types: a subclass (weight standardisation, dynamic padding) does not compute what the adapter assumes.
    And only what a forward pass calls: some timm attentions (BEiT, EVA, Swin v2) take a layer's weight past the layer.
    """
    ran: dict[str, None] = {}
    hooks = []
    for name, layer in model.backbone.named_modules():
        if type(layer) is nn.Linear or (type(layer) is nn.Conv2d and layer.groups == 1):
            hooks.append(layer.register_forward_hook(lambda *_, name=name: ran.setdefault(name)))
    training = model.training
    size = TimmMultiLabelImageProcessor.from_backbone(model.backbone).input_size
    try:
        model.train(False).extract_features(torch.zeros(1, *size, dtype=model.dtype, device=model.device))
    finally:
        for hook in hooks:
            hook.remove()
        model.train(training)
    return list(ran)
