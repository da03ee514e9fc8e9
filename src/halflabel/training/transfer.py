"""What is trained, at which rate, and what is kept of it.

Frozen parts of the backbone, learning rates that fall from the head down, low-rank adapters, averaged weights.
"""

import logging
import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from timm.models._manipulate import group_with_matcher
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import Trainer, TrainingArguments

from ..model.errors import HalflabelError, did_you_mean, shortlist
from ..model.image_processing_timm_multilabel import TimmMultiLabelImageProcessor as Processor
from ..model.modeling_timm_multilabel import TimmMultiLabelForImageClassification as Model
from .checkpoints import KeepTrainingWeights, copy_weights, weights_of
from .keys import TrainingKeys
from .preparation import TrainingData, loss_configuration
from .recipe import Recipe

log = logging.getLogger(__name__)
_BELONGS_TO_NO_GROUP = "\0"


def layer_groups(backbone: nn.Module) -> tuple[dict[str, int], int]:
    """Number the layers of a timm backbone from the picture to the head, as its own `group_matcher` does.

    Args:
        backbone: A timm model.

    Returns:
        The group of each parameter, by its name in the backbone, and the number of groups. What timm puts into no
        group (a last norm, an attention pool) stands beside the head and has that number itself.

    Raises:
        HalflabelError: If timm does not say how this architecture is layered.
    """
    if not callable(matcher := getattr(backbone, "group_matcher", None)):
        raise HalflabelError(f"timm names no layer groups of {type(backbone).__name__}; freeze its modules by name")
    names = [*(name for name, _ in backbone.named_parameters()), _BELONGS_TO_NO_GROUP]
    groups = group_with_matcher(((name, None) for name in names), matcher(coarse=False), reverse=True)
    count = groups.pop(_BELONGS_TO_NO_GROUP)
    return groups, count


def freeze(model: Model, parts: Sequence[str | int]) -> None:
    """Keep parts of the backbone as they are: no gradient, and evaluation mode, so that BatchNorm does not drift.

    Args:
        model: It is changed; its head is trained on.
        parts: Names or globs of the backbone's modules and parameters, like `"layer1"`, `"blocks.0"`, `"stages.0*"`
            or `"pos_embed"`; or a number k, also as text: the first k `layer_groups`.

    Raises:
        HalflabelError: If a name matches nothing (it shows the nearest), or there are not so many groups.
    """
    for part in parts:
        if str(part).isdecimal():
            groups, total = layer_groups(model.backbone)
            if not 1 <= int(part) <= total:
                name = type(model.backbone).__name__
                raise HalflabelError(f"freeze: {part} layer groups, but {name} has 1 to {total}")
            names = [name for name, group in groups.items() if group < int(part)]
        else:
            names = _matching(model.backbone, str(part))
        for name in names:
            model.backbone.get_parameter(name).requires_grad_(False)
    model.train(model.training)


def _matching(backbone: nn.Module, pattern: str) -> list[str]:
    """Return the parameters in modules (or with names) that match a glob."""
    parameters = [name for name, _ in backbone.named_parameters()]
    modules = [name for name, module in backbone.named_modules() if name and any(True for _ in module.parameters())]
    matched = {name for name in (*modules, *parameters) if fnmatchcase(name, pattern)}
    found = [name for name in parameters if name in matched or any(f"{m}." == name[: len(m) + 1] for m in matched)]
    if not found:
        nearest = did_you_mean(pattern, [*modules, *parameters])
        tops = dict.fromkeys(name.split(".")[0] for name in parameters)
        raise HalflabelError(
            f"freeze: {pattern!r} matches nothing in {type(backbone).__name__}, "
            f"whose parts are {shortlist(tops, 12)}{nearest}"
        )
    return found


def parameter_groups(
    model: Model,
    learning_rate: float,
    weight_decay: float,
    layer_decay: float = 1.0,
    head_lr_multiplier: float = 1.0,
    head_weight_decay: float | None = None,
) -> list[dict[str, Any]]:
    """Split the trained parameters by learning rate and weight decay, for any torch optimizer.

    Group i of n `layer_groups` has the rate `learning_rate * layer_decay ** (n - i)`: what stands beside the head has
    `learning_rate`, the last group below it one `layer_decay` less (BEiT, arXiv 2106.08254; timm's rule). The head
    has `learning_rate * head_lr_multiplier`. Vectors, which norms and biases are, and what the backbone's
    `no_weight_decay()` names are not decayed.

    Args:
        model: Parameters without `requires_grad` are left out.
        learning_rate: At least 0.
        weight_decay: Of the parameters that are decayed.
        layer_decay: In (0, 1]; 1 asks nothing of the architecture.
        head_lr_multiplier: Above 0.
        head_weight_decay: Of the head; None: as of the others.

    Returns:
        `{"params", "lr", "weight_decay"}` each, no two with equal numbers; the head's rate first, which is therefore
        the one the Trainer logs.

    Raises:
        HalflabelError: If `layer_decay` is below 1 and timm names no layer groups.
    """
    layers, count = layer_groups(model.backbone) if layer_decay != 1 else ({}, 0)
    listed = getattr(model.backbone, "no_weight_decay", None)
    exempt = listed() if callable(listed) else ()
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in sorted(model.named_parameters(), key=lambda item: not item[0].startswith("head.")):
        if not parameter.requires_grad:
            continue
        inside = name.removeprefix("backbone.")
        plain = parameter.ndim <= 1 or (inside != name and any(fnmatchcase(inside, pattern) for pattern in exempt))
        factor = head_lr_multiplier if inside == name else layer_decay ** (count - layers.get(inside, count))
        rate = learning_rate * factor
        own = head_weight_decay if inside == name else None
        decay = 0.0 if plain else weight_decay if own is None else own
        groups.setdefault((rate, decay), {"params": [], "lr": rate, "weight_decay": decay})["params"].append(parameter)
    return list(groups.values())


def optimizer_cls_and_kwargs(
    arguments: TrainingArguments,
    layer_decay: float = 1.0,
    head_lr_multiplier: float = 1.0,
    head_weight_decay: float | None = None,
) -> tuple[Callable[[], Callable[..., Optimizer]], dict[str, Any]]:
    """Return the Trainer's `optimizer_cls_and_kwargs`: the optimizer of the arguments on `parameter_groups`.

    The optimizer and its arguments are the Trainer's own choice (`optim`, `optim_args`, `adam_beta1` ...). One that
    makes its own groups (GaLore, LOMO) gets them where neither a decay nor a multiplier is asked for.

    Raises:
        HalflabelError: On a value out of range; and later, when the optimizer is made, if it takes no such groups.
    """
    if not 0 < layer_decay <= 1:
        raise HalflabelError(f"layer_decay is {layer_decay}, expected above 0 and at most 1")
    if not 0 < head_lr_multiplier < float("inf"):
        raise HalflabelError(f"head_lr_multiplier is {head_lr_multiplier}, expected above 0")

    def build(model: Model, **kwargs: Any) -> Optimizer:  # noqa: ANN401
        name = getattr(arguments.optim, "value", arguments.optim)
        try:
            chosen, kwargs = Trainer.get_optimizer_cls_and_kwargs(arguments, model)
        except ValueError as error:  # written without "=", or an optimizer that transformers does not know
            given = f"optim_args {arguments.optim_args!r} (expected key=value,key=value)"
            raise HalflabelError(f"optim {name} with {given} cannot be made: {error}") from error
        is_class = isinstance(chosen, type) and issubclass(chosen, Optimizer)
        own = [kwargs.pop(key) for key in ("params", "model", "optimizer_dict") if key in kwargs]
        if (own or not is_class) and (layer_decay, head_lr_multiplier) != (1, 1):
            raise HalflabelError(f"optim {name} makes its own groups: leave layer_decay and head_lr_multiplier at 1")
        if not is_class:
            made: Optimizer = chosen()(model, **kwargs)
            return made
        decay = arguments.weight_decay
        rates = (arguments.learning_rate, decay, layer_decay, head_lr_multiplier, head_weight_decay)
        return chosen(own[-1] if own else parameter_groups(model, *rates), **kwargs)  # type: ignore[no-any-return]

    return (lambda: build), {}


_DEFAULT = re.compile(r"(?!.*(rel_pos|cpb)).*(attn|attention|mlp)")  # not the small nets of relative positions
_ADAPTER = "default"


def add_lora(
    model: Model, rank: int = 8, alpha: float | None = None, targets: Sequence[str] | None = None
) -> list[str]:
    """Put low-rank adapters into the backbone, in place, and train only them and the head.

    A layer with weight W then computes with W + alpha / rank * B A, where A and B have `rank` rows and columns and B
    starts as 0 (LoRA, arXiv 2106.09685). Everything else in the backbone is frozen, its BatchNorm also in evaluation
    mode. The model keeps its type, and `state_dict` (thus each checkpoint and `save_pretrained`) holds the merged
    weights under the plain names; `load_state_dict` takes such weights, with B back at 0. To resume a run exactly,
    add `checkpoints.KeepTrainingWeights` to the Trainer's callbacks. After training, call `merge_lora`.

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
    plain: Any = model  # torch gives its hooks no types
    plain.lora_hooks = [
        plain.register_state_dict_post_hook(_save_merged), plain.register_load_state_dict_pre_hook(_load_merged),
    ]  # fmt: skip
    model.train(model.training)
    return names


@torch.no_grad()
def merge_lora(model: Model) -> None:
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
        mine = {key.removeprefix(inside): state.pop(key) for key in list(state) if key.startswith(inside)}
        for key, _ in layer.get_base_layer().named_parameters():
            state[inside + key] = mine[f"base_layer.{key}"]
        state[f"{inside}weight"] = state[f"{inside}weight"] + layer.get_delta_weight(_ADAPTER).detach()


def _load_merged(model: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Take plain weights: they become the frozen ones, and the adapters add nothing to them."""
    for name, layer in _lora_layers(model).items():
        inside = f"{prefix}{name}."
        if f"{inside}weight" not in state:
            continue
        for key, own in layer.named_parameters():
            if key.startswith("base_layer."):
                state[inside + key] = state.pop(inside + key.removeprefix("base_layer."))
            else:
                state[inside + key] = torch.zeros_like(own) if key.startswith("lora_B") else own.detach()


def _targets(model: Model, targets: Sequence[str] | None) -> list[str]:
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
def _layers_that_run(model: Model) -> list[str]:
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
    size = Processor.from_backbone(model.backbone).input_size
    try:
        model.train(False).extract_features(torch.zeros(1, *size, dtype=model.dtype, device=model.device))
    finally:
        for hook in hooks:
            hook.remove()
        model.train(training)
    return list(ran)


def build_model(recipe: Recipe, data: TrainingData) -> tuple[Model, Processor]:
    """Return the recipe's model, all of it trainable, and its image processor.

    Raises:
        HalflabelError: On a backbone, head or loss that does not fit, or weights that cannot be had.
    """
    keys = recipe.model
    model = Model.from_backbone(
        keys.backbone,
        data.names,
        weights=keys.weights,
        head=keys.head,
        head_args=dict(keys.head_args or {}) or None,
        backbone_args=dict(keys.backbone_args or {}) or None,
        **loss_configuration(recipe, data.target_counts(recipe), data.names),
    )
    return model, Processor.from_backbone(model.backbone)


def choose_trained(model: Model, keys: TrainingKeys) -> None:
    """Freeze what the recipe freezes, or put in the adapters that it trains instead.

    Raises:
        HalflabelError: If a pattern matches nothing, or peft is missing.
    """
    if keys.freeze_backbone:
        model.freeze_backbone()
    if keys.freeze:
        freeze(model, keys.freeze)
    if keys.lora_rank is not None:
        adapted = add_lora(model, keys.lora_rank, keys.lora_alpha, keys.lora_targets)
        log.info("adapters in %d layers: %s", len(adapted), shortlist(adapted))


class AverageWeights(KeepTrainingWeights):
    """Average the weights over the optimizer steps, and show the average to everything but training.

    average <- d * average + (1 - d) * weights after each optimizer step (Polyak & Juditsky 1992; Tarvainen & Valpola,
    arXiv 1703.01780), with d = min(decay, (1 + t) / (10 + t)) after t steps, so that the average forgets the first
    weights, as which it starts, soon (TensorFlow's ExponentialMovingAverage). While the Trainer evaluates or saves, and
    when training ends, the model holds the average: the best epoch is the average's best, and each checkpoint and the
    final folder are models of averaged weights. What is trained lies beside them in `training_weights.safetensors`, for
    resuming.

    Floating-point buffers are averaged too, as timm's ModelEmaV3 does: BatchNorm's running statistics belong to the
    weights they were measured with, and so lag as much as the averaged weights do. Integers stay those of the training.

    The average lies where the model does, and takes as much memory; while it is shown, twice as much.
    """

    def __init__(self, decay: float) -> None:
        """Set what is kept of the average at each step.

        Args:
            decay: In (0, 1), like 0.999: the average is then over about the last 1000 steps.

        Raises:
            HalflabelError: If the decay is out of range.
        """
        if not 0 < decay < 1:
            raise HalflabelError(f"ema_decay is {decay}, expected between 0 and 1, like 0.999")
        self.decay = decay
        self.average: dict[str, Tensor] = {}
        self.hidden: dict[str, Tensor] | None = None  # the trained weights, while the model holds the average

    def training_weights(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the trained and the averaged weights."""
        trained = weights_of(model) | (self.hidden or {})
        average = {f"average.{name}": tensor for name, tensor in self.average.items()}
        return {f"trained.{name}": tensor for name, tensor in trained.items()} | average

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:  # noqa: ANN401
        """Start the average, or go on with that of the checkpoint.

        Raises:
            HalflabelError: If the weights are not of float32 or float64, which a small step would not change.
        """
        weights = weights_of(model)
        coarse = [name for name, w in weights.items() if w.is_floating_point() and torch.finfo(w.dtype).bits < 32]
        if coarse:
            raise HalflabelError(f"averaging needs float32 weights; {coarse[0]} is {weights[coarse[0]].dtype}")
        self.hidden = None
        self.average = {name: tensor.clone() for name, tensor in weights.items() if tensor.is_floating_point()}
        super().on_train_begin(args, state, control, model=model)
        self._show(model)  # for an evaluation at the start

    def on_epoch_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:  # noqa: ANN401
        """Go on with training."""
        if self.hidden is not None:
            copy_weights(self.hidden, self._averaged(model))
            self.hidden = None

    on_step_begin = on_epoch_begin

    @torch.no_grad()
    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:  # noqa: ANN401
        """Average; show the average where the Trainer evaluates or saves next."""
        steps = state.global_step - 1
        update = get_ema_multi_avg_fn(min(self.decay, (1 + steps) / (10 + steps)))
        update(list(self.average.values()), list(self._averaged(model).values()), None)
        if control.should_evaluate or control.should_save:
            self._show(model)

    def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:  # noqa: ANN401
        """Show the average: the Trainer evaluates or saves next, or training is over."""
        self._show(model)

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:  # noqa: ANN401
        """Leave the model with what it holds, the average or the best one, and free the rest."""
        self.hidden, self.average = None, {}

    def _averaged(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the model's own tensors of which there is an average."""
        weights = weights_of(model)
        return {name: weights[name] for name in self.average}

    def _show(self, model: nn.Module) -> None:
        if self.hidden is None:
            self.hidden = {name: tensor.clone() for name, tensor in self._averaged(model).items()}
            copy_weights(self.average, self._averaged(model))
