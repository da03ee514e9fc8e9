"""What is trained and at which rate: frozen parts of the backbone, and learning rates that fall from the head down."""

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from timm.models._manipulate import group_with_matcher
from torch import nn
from torch.optim import Optimizer
from transformers import Trainer, TrainingArguments

from ..model.errors import HalflabelError, did_you_mean, shortlist
from ..model.modeling_timm_multilabel import TimmMultiLabelForImageClassification

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


def freeze(model: TimmMultiLabelForImageClassification, parts: int | Sequence[str | int]) -> None:
    """Keep parts of the backbone as they are: no gradient, and evaluation mode, so that BatchNorm does not drift.

    Args:
        model: It is changed; its head is trained on.
        parts: Names or globs of the backbone's modules and parameters, like `"layer1"`, `"blocks.0"`, `"stages.0*"`
            or `"pos_embed"`; or a number k, also as text or among the names: the first k `layer_groups`.

    Raises:
        HalflabelError: If a name matches nothing (it shows the nearest), or there are not so many groups.
    """
    listed = [parts] if isinstance(parts, int) else list(parts)
    for part in listed:
        number = str(part).isdecimal()
        names = _first_groups(model.backbone, int(part)) if number else _matching(model.backbone, str(part))
        for name in names:
            model.backbone.get_parameter(name).requires_grad_(False)
    model.train(model.training)


def _first_groups(backbone: nn.Module, count: int) -> list[str]:
    groups, total = layer_groups(backbone)
    if not 1 <= count <= total:
        raise HalflabelError(f"freeze: {count} layer groups, but {type(backbone).__name__} has 1 to {total}")
    return [name for name, group in groups.items() if group < count]


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
    model: TimmMultiLabelForImageClassification,
    learning_rate: float,
    weight_decay: float,
    layer_decay: float = 1.0,
    head_lr_multiplier: float = 1.0,
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

    Returns:
        `{"params", "lr", "weight_decay"}` each, no two with equal numbers; the head's rate first, which is therefore
        the one the Trainer logs.

    Raises:
        HalflabelError: On a value out of range, or if `layer_decay` is below 1 and timm names no layer groups.
    """
    _check_rates(layer_decay, head_lr_multiplier)
    rates = _backbone_rates(model.backbone, layer_decay)
    exempt = _without_decay(model.backbone)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in sorted(model.named_parameters(), key=lambda item: not item[0].startswith("head.")):
        if not parameter.requires_grad:
            continue
        inside = name.removeprefix("backbone.")
        plain = parameter.ndim <= 1 or (inside != name and any(fnmatchcase(inside, pattern) for pattern in exempt))
        rate = learning_rate * (head_lr_multiplier if inside == name else rates.get(inside, 1.0))
        decay = 0.0 if plain else weight_decay
        groups.setdefault((rate, decay), {"params": [], "lr": rate, "weight_decay": decay})["params"].append(parameter)
    return list(groups.values())


def _check_rates(layer_decay: float, head_lr_multiplier: float) -> None:
    if not 0 < layer_decay <= 1:
        raise HalflabelError(f"layer_decay is {layer_decay}, expected above 0 and at most 1")
    if not 0 < head_lr_multiplier < float("inf"):
        raise HalflabelError(f"head_lr_multiplier is {head_lr_multiplier}, expected above 0")


def _backbone_rates(backbone: nn.Module, layer_decay: float) -> Mapping[str, float]:
    if layer_decay == 1:
        return {}
    groups, count = layer_groups(backbone)
    return {name: layer_decay ** (count - group) for name, group in groups.items()}


def _without_decay(backbone: nn.Module) -> set[str]:
    listed = getattr(backbone, "no_weight_decay", None)
    return set(listed()) if callable(listed) else set()


def optimizer_cls_and_kwargs(
    arguments: TrainingArguments, layer_decay: float = 1.0, head_lr_multiplier: float = 1.0
) -> tuple[Callable[[], Callable[..., Optimizer]], dict[str, Any]]:
    """Return the Trainer's `optimizer_cls_and_kwargs`: the optimizer of the arguments on `parameter_groups`.

    The optimizer and its arguments are the Trainer's own choice (`optim`, `optim_args`, `adam_beta1` ...). One that
    makes its own groups (GaLore, LOMO) gets them where neither a decay nor a multiplier is asked for.

    Args:
        arguments: They also give the learning rate and the weight decay.
        layer_decay: See `parameter_groups`.
        head_lr_multiplier: See `parameter_groups`.

    Raises:
        HalflabelError: On a value out of range; and later, when the optimizer is made, if it takes no such groups.
    """
    _check_rates(layer_decay, head_lr_multiplier)

    def build(model: TimmMultiLabelForImageClassification, **kwargs: Any) -> Optimizer:  # noqa: ANN401
        try:
            chosen, kwargs = Trainer.get_optimizer_cls_and_kwargs(arguments, model)
        except ValueError as error:  # written without "=", or an optimizer that transformers does not know
            given = f"optim_args {arguments.optim_args!r} (expected key=value,key=value)"
            raise HalflabelError(f"optim {arguments.optim} with {given} cannot be made: {error}") from error
        is_class = isinstance(chosen, type) and issubclass(chosen, Optimizer)
        own = [kwargs.pop(key) for key in ("params", "model", "optimizer_dict") if key in kwargs]
        if (own or not is_class) and (layer_decay, head_lr_multiplier) != (1, 1):
            name = getattr(arguments.optim, "value", arguments.optim)
            raise HalflabelError(f"optim {name} makes its own groups: leave layer_decay and head_lr_multiplier at 1")
        if not is_class:
            made: Optimizer = chosen()(model, **kwargs)
            return made
        rates = (arguments.learning_rate, arguments.weight_decay, layer_decay, head_lr_multiplier)
        return chosen(own[-1] if own else parameter_groups(model, *rates), **kwargs)  # type: ignore[no-any-return]

    return (lambda: build), {}
