"""What an entry without a known answer is trained on: nothing, no, yes, or something between."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..model.errors import HalflabelError, did_you_mean
from ..model.labels import IGNORE_INDEX, UNCERTAIN, IntMatrix, LabelSpace

POLICIES = ("ignore", "negative", "positive")
Policy = str | float | Mapping[str, str | float]


def parse_policy(key: str, policy: Any, label_names: Sequence[str]) -> list[float | None]:  # noqa: ANN401 - from a file
    """Return the target of each label.

    Args:
        key: Which policy it is, for errors: `unknown` or `uncertain`.
        policy: `ignore`, `negative`, `positive` or a soft target in 0..1, for all labels; or label name -> one of
            these, where a label that is not named is ignored.
        label_names: The labels.

    Returns:
        Per label a target in 0..1, or None for ignore.

    Raises:
        HalflabelError: On another word or number, or a label that does not exist.
    """
    if isinstance(policy, Mapping):
        space = LabelSpace(label_names)
        targets: list[float | None] = [None] * len(space)
        for name, one in policy.items():
            targets[space.index(name)] = _target(f"{key}, label {name!r}", one)
        return targets
    return [_target(key, policy)] * len(label_names)


def _target(key: str, policy: Any) -> float | None:  # noqa: ANN401 - from a file
    words: dict[str, float | None] = {"ignore": None, "negative": 0.0, "positive": 1.0}
    if policy in words:
        return words[policy]
    try:
        target = float(policy)
    except (TypeError, ValueError):
        target = -1.0
    if not 0 <= target <= 1:
        nearest = did_you_mean(str(policy), POLICIES)
        raise HalflabelError(f"{key}: {policy!r} is none of {', '.join(POLICIES)} or a target from 0 to 1{nearest}")
    return target


def apply_policies(
    labels: IntMatrix,
    label_names: Sequence[str],
    unknown: Policy = "ignore",
    uncertain: Policy = "ignore",
    keep_uncertain: bool = False,
) -> IntMatrix | NDArray[np.float32]:
    """Return the labels to train on.

    Args:
        labels: Shape (n, num_labels): 1, 0, `IGNORE_INDEX` and `UNCERTAIN`.
        label_names: The labels.
        unknown: The policy for unknown entries (nobody looked); see `parse_policy`.
        uncertain: The policy for uncertain entries (somebody looked and could not tell).
        keep_uncertain: Leave ignored uncertain entries as `UNCERTAIN`: a loss that learns from unknown entries would
            otherwise learn from these as well.

    Returns:
        int8 of the same shape, or float32 where a target is neither 0 nor 1.
    """
    policies = {
        IGNORE_INDEX: parse_policy("unknown", unknown, label_names),
        UNCERTAIN: parse_policy("uncertain", uncertain, label_names),
    }
    ignored = {IGNORE_INDEX: IGNORE_INDEX, UNCERTAIN: UNCERTAIN if keep_uncertain else IGNORE_INDEX}
    soft = any(target not in (None, 0.0, 1.0) for targets in policies.values() for target in targets)
    result: NDArray[Any] = labels.astype(np.float32 if soft else np.int8)
    for code, targets in policies.items():
        values = np.array([ignored[code] if target is None else target for target in targets], dtype=result.dtype)
        result = np.where(labels == code, values, result)
    return result
