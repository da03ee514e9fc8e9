"""What is put on a backbone: the heads by name, the arguments each takes, and their ranges."""

import inspect
import math
from collections.abc import Mapping
from typing import Any

from .errors import HalflabelError, did_you_mean
from .feature_head import FeatureHead
from .pooled_heads import ACTIVATIONS, NORMS, LinearHead, MlpHead
from .position_heads import CsraHead, MlDecoderHead

HEADS: dict[str, type[FeatureHead]] = {
    "linear": LinearHead,
    "mlp": MlpHead,
    "csra": CsraHead,
    "ml_decoder": MlDecoderHead,
}
_DEFAULTS: dict[str, dict[str, Any]] = {
    key: {
        name: parameter.default
        for name, parameter in inspect.signature(head).parameters.items()
        if parameter.default is not parameter.empty
    }
    for key, head in HEADS.items()
}
_CHOICES = {"activation": tuple(ACTIVATIONS), "norm": NORMS}
_COUNTS = frozenset({"feed_forward", "heads", "layers", "queries", "width"})
# Lowest and highest value, the highest excluded.
_RANGES: dict[str, tuple[float, float]] = {"dropout": (0, 1), "lam": (0, math.inf)}


def check_head(head: str, head_args: Mapping[str, Any] | None = None) -> None:
    """Refuse a head that does not exist, or arguments that are not its own.

    Args:
        head: A key of `HEADS`.
        head_args: Its keyword arguments.

    Raises:
        HalflabelError: It names the value and the allowed ones.
    """
    if head not in HEADS:
        raise HalflabelError(f"unknown head {head!r}; it is one of {', '.join(HEADS)}{did_you_mean(head, HEADS)}")
    if not isinstance(head_args, Mapping | None):
        raise HalflabelError(f"head_args is {head_args!r}, expected a mapping of names to values")
    takes = _DEFAULTS[head]
    for name, value in (head_args or {}).items():
        if name not in takes:
            raise HalflabelError(
                f"head {head!r} takes no argument {name!r}; it takes {', '.join(takes) or 'none'}"
                f"{did_you_mean(name, takes)}"
            )
        _check_value(head, name, value)
    values = {**takes, **(head_args or {})}
    if head == "ml_decoder" and values["width"] % values["heads"]:
        raise HalflabelError(
            f"head {head!r}: width is {values['width']}, expected a multiple of heads, which is {values['heads']}"
        )


def _check_value(head: str, name: str, value: Any) -> None:  # noqa: ANN401 - from a file
    nearest = ""
    if name in _COUNTS:
        allowed, right = "a whole number of at least 1", isinstance(value, int) and _is_number(value) and value >= 1
    elif name in _CHOICES:
        choices = _CHOICES[name]
        allowed, right = f"{', '.join(choices[:-1])} or {choices[-1]}", value in choices
        nearest = did_you_mean(value, choices)
    elif name == "learn_queries":
        allowed, right = "true or false", isinstance(value, bool)
    elif name == "power":
        allowed, right = "a number above 0 and at most 1", _is_number(value) and 0 < value <= 1
    elif name == "temperatures":
        allowed = "a list of numbers above 0 or 'max'"
        right = isinstance(value, list | tuple) and len(value) > 0
        right = right and all(item == "max" or (_is_number(item) and item > 0) for item in value)
    else:
        low, high = _RANGES[name]
        allowed = f"a number of at least {low}" + ("" if high == math.inf else f" and below {high}")
        right = _is_number(value) and low <= value < high
    if not right:
        raise HalflabelError(f"head {head!r}: {name} is {value!r}, expected {allowed}{nearest}")


def _is_number(value: Any) -> bool:  # noqa: ANN401 - from a file
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
