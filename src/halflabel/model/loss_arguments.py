"""The losses by name, the arguments each takes, and their ranges: refused where a model is made, not in mid-run."""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from .errors import HalflabelError, did_you_mean
from .known_losses import asl, bce, focal
from .unknown_losses import em, ll_ct, ll_r, selective, splc, wan

NORMALIZERS = ("labels", "images", "tasks")
LOSSES: dict[str, Callable[..., Tensor]] = {
    "bce": bce,
    "focal": focal,
    "asl": asl,
    "selective": selective,
    "ll_r": ll_r,
    "ll_ct": ll_ct,
    "splc": splc,
    "em": em,
    "wan": wan,
}
LEARN_FROM_UNKNOWN = frozenset({"selective", "ll_r", "ll_ct", "splc", "em", "wan"})
EPOCH_DEPENDENT = frozenset({"ll_r", "ll_ct", "splc"})
_GIVEN_ELSEWHERE = {"logits", "targets", "pos_weight", "epoch"}
_ARGUMENTS = {
    key: tuple(name for name in inspect.signature(function).parameters if name not in _GIVEN_ELSEWHERE)
    for key, function in LOSSES.items()
}
# Lowest and highest value; the highest is excluded where the third is False.
_RANGES: dict[str, tuple[float, float, bool]] = {
    "alpha": (0, 1, True),
    "clip": (0, 1, False),
    "delta": (0, 1, True),
    "gamma": (0, math.inf, False),
    "gamma_neg": (0, math.inf, False),
    "gamma_pos": (0, math.inf, False),
    "gamma_unknown": (0, math.inf, False),
    "label_smoothing": (0, 1, False),
    "prior_threshold": (0, 1, True),
    "threshold": (0, 1, True),
    "topk": (0, math.inf, False),
    "weight": (0, math.inf, False),
}


def check_loss(loss: str, loss_args: Mapping[str, Any] | None = None, num_labels: int | None = None) -> None:
    """Refuse a loss that does not exist, or arguments that are not its own.

    Args:
        loss: A key of `LOSSES`.
        loss_args: Its keyword arguments.
        num_labels: How many values a `prior` needs; None: not checked.

    Raises:
        HalflabelError: It names the value and the allowed ones.
    """
    if loss not in LOSSES:
        raise HalflabelError(f"unknown loss {loss!r}; it is one of {', '.join(LOSSES)}{did_you_mean(loss, LOSSES)}")
    for name, value in (loss_args or {}).items():
        if name not in _ARGUMENTS[loss]:
            raise HalflabelError(
                f"loss {loss!r} takes no argument {name!r}; it takes {', '.join(_ARGUMENTS[loss])}"
                f"{did_you_mean(name, _ARGUMENTS[loss])}"
            )
        _check_value(loss, name, value, num_labels)


def _check_value(loss: str, name: str, value: Any, num_labels: int | None) -> None:  # noqa: ANN401 - from a file
    if name == "detach_focus":
        allowed, right = "true or false", isinstance(value, bool)
    elif value is None and name in ("alpha", "gamma_unknown", "prior", "weight"):
        return
    elif name == "prior":
        allowed = f"a list of {num_labels or 'num_labels'} numbers from 0 to 1"
        right = isinstance(value, list | tuple) and num_labels in (None, len(value))
        right = right and all(_is_number(item) and 0 <= item <= 1 for item in value)
    else:
        low, high, closed = _RANGES[name]
        allowed = f"a number of at least {low}" + (
            "" if high == math.inf else f" and {'at most' if closed else 'below'} {high}"
        )
        right = _is_number(value) and low <= value and (value <= high if closed else value < high)
        if name == "topk":
            allowed, right = "a whole number of at least 0", right and value == int(value)
    if not right:
        raise HalflabelError(f"loss {loss!r}: {name} is {value!r}, expected {allowed}")


def _is_number(value: Any) -> bool:  # noqa: ANN401 - from a file
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_normalizer(normalizer: str) -> None:
    """Refuse a normalizer that does not exist.

    Raises:
        HalflabelError: It names the allowed ones.
    """
    if normalizer not in NORMALIZERS:
        nearest = did_you_mean(normalizer, NORMALIZERS)
        raise HalflabelError(f"unknown normalizer {normalizer!r}; it is one of {', '.join(NORMALIZERS)}{nearest}")
