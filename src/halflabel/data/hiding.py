"""Simulated partial labels: hide known entries by a protocol, seeded, so that the truth is there to compare with."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..model.errors import HalflabelError, did_you_mean
from ..model.labels import IGNORE_INDEX, IntMatrix, LabelSpace, check_matrix

PROTOCOLS = ("random", "single_positive", "per_label", "by_group")


def hide_labels(
    labels: NDArray[Any] | Sequence[Sequence[int]],
    protocol: str = "random",
    *,
    keep: float | None = None,
    per_label: int | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
    label_space: LabelSpace | None = None,
    seed: int = 0,
) -> IntMatrix:
    """Return a copy of the labels with some known entries made unknown; an unknown entry never becomes known.

    Args:
        labels: Array of shape (n, num_labels) with 1, 0 and `IGNORE_INDEX`.
        protocol: One of
            `random`: each entry is kept with probability `keep`;
            `single_positive`: each image keeps one of its positives, drawn at random, and nothing else, so an image
            without a positive keeps nothing (Cole et al. 2021, "Multi-Label Learning from Single Positive Labels");
            `per_label`: each label keeps `per_label` positive and as many negative entries, or all where there are
            fewer ("fixed per class", Ben-Baruch et al. 2022);
            `by_group`: each image goes to one annotator group, drawn evenly, and keeps only that group's labels.
        keep: For `random`, a probability in 0..1.
        per_label: For `per_label`, a count of at least 1.
        groups: For `by_group`, group name -> names of the labels that group answered.
        label_space: For `by_group`, the names of the columns.
        seed: The same seed gives the same result.

    Returns:
        int8 array of shape (n, num_labels).

    Raises:
        HalflabelError: On an unknown protocol, or a parameter that is missing, out of range or of another protocol.
    """
    matrix = check_matrix(labels).astype(np.int8)
    needs = {"random": "keep", "per_label": "per_label", "by_group": "groups", "single_positive": None}
    if protocol not in needs:
        raise HalflabelError(
            f"unknown hiding protocol {protocol!r}; it is one of {', '.join(PROTOCOLS)}{did_you_mean(protocol, needs)}"
        )
    given = {"keep": keep, "per_label": per_label, "groups": groups}
    for name, value in given.items():
        if name == needs[protocol] and value is None:
            raise HalflabelError(f"hiding protocol {protocol!r} needs {name!r}")
        if name != needs[protocol] and value is not None:
            raise HalflabelError(f"{name!r} does not belong to hiding protocol {protocol!r}")
    rng = np.random.default_rng(seed)
    if protocol == "random":
        kept = _keep_random(matrix, keep, rng)
    elif protocol == "single_positive":
        kept = _keep_single_positive(matrix, rng)
    elif protocol == "per_label":
        kept = _keep_per_label(matrix, per_label, rng)
    else:
        kept = _keep_by_group(matrix, groups, label_space, rng)
    return np.where(kept, matrix, np.int8(IGNORE_INDEX)).astype(np.int8)


def _keep_random(matrix: IntMatrix, keep: float | None, rng: np.random.Generator) -> NDArray[np.bool_]:
    if keep is None or not 0 <= keep <= 1:
        raise HalflabelError(f"'keep' is {keep!r}, expected a probability from 0 to 1")
    return np.asarray(rng.random(matrix.shape) < keep)


def _keep_single_positive(matrix: IntMatrix, rng: np.random.Generator) -> NDArray[np.bool_]:
    draw = np.where(matrix == 1, rng.random(matrix.shape), -1.0)
    chosen: NDArray[np.bool_] = np.zeros(matrix.shape, dtype=bool)
    chosen[np.arange(len(matrix)), draw.argmax(axis=1)] = True
    chosen &= matrix == 1
    return chosen


def _keep_per_label(matrix: IntMatrix, per_label: int | None, rng: np.random.Generator) -> NDArray[np.bool_]:
    if per_label is None or per_label < 1:
        raise HalflabelError(f"'per_label' is {per_label!r}, expected a count of at least 1")
    kept = np.zeros(matrix.shape, dtype=bool)
    for column in range(matrix.shape[1]):
        for value in (1, 0):
            rows = np.flatnonzero(matrix[:, column] == value)
            kept[rng.permutation(rows)[:per_label], column] = True
    return kept


def _keep_by_group(
    matrix: IntMatrix,
    groups: Mapping[str, Sequence[str]] | None,
    label_space: LabelSpace | None,
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    if not groups:
        raise HalflabelError("'groups' is empty: name each annotator group and its labels")
    if label_space is None or len(label_space) != matrix.shape[1]:
        raise HalflabelError("hiding protocol 'by_group' needs 'label_space', the names of the label columns")
    answered = np.zeros((len(groups), matrix.shape[1]), dtype=bool)
    for row, (group, names) in enumerate(groups.items()):
        if isinstance(names, str) or not isinstance(names, Sequence):
            raise HalflabelError(f"'groups': {group!r} has {names!r}, expected a list of labels")
        answered[row, [label_space.index(name) for name in names]] = True
    kept: NDArray[np.bool_] = answered[rng.integers(len(groups), size=len(matrix))]
    return kept
