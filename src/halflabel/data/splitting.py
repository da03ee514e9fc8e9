"""What a study does with labelled pictures, seeded: cut the splits a source does not give, and hide known entries."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from iterstrat.ml_stratifiers import MultilabelStratifiedShuffleSplit
from numpy.typing import NDArray

from ..model.errors import HalflabelError, did_you_mean
from ..model.labels import IGNORE_INDEX, IntMatrix, LabelSpace, check_matrix
from .images import AnnotatedImages

log = logging.getLogger(__name__)
_MOST_ENTRIES = 50_000_000  # beyond, stratifying would take minutes and gigabytes, and chance does as well
_ATTEMPTS = 10
_TOLERANCE = 0.05  # of the share asked for
_FEW = 500  # groups
PROTOCOLS = ("random", "single_positive", "per_label", "by_group")


def assign_splits(images: AnnotatedImages, validation_share: float, test_share: float, seed: int) -> AnnotatedImages:
    """Give every image a split: keep the given ones, and cut what is missing from the training images.

    Cuts are stratified (iterative stratification, Sechidis et al. 2011) over each label's known positives and known
    negatives, so that a label with few of them has some in every part. Shares are of images, also where groups differ
    in size: a cut that misses its share by more than a twentieth is tried again, and the nearest one is taken.

    Args:
        images: With or without given splits; validation is cut from train, never from test.
        validation_share: Share of the training images to validate on where no validation split is given; 0: none.
        test_share: Share of all images to test on where the source names no splits at all; 0: none.
        seed: The same seed cuts the same way. Images of one group stay together.

    Raises:
        HalflabelError: If a share is outside [0, 1), or there is no training image.
    """
    for name, share in (("validation_share", validation_share), ("test_share", test_share)):
        if not 0 <= share < 1:
            raise HalflabelError(f"{name} is {share}, expected at least 0 and below 1")
    splits, groups = images.column("split").copy(), images.groups
    if (splits == "").all():
        splits[:] = "train"
        _cut(splits, groups, images.labels, "test", test_share, seed)
    splits[splits == ""] = "train"
    if not (splits == "validation").any():
        _cut(splits, groups, images.labels, "validation", validation_share, seed)
    if not (splits == "train").any():
        raise HalflabelError("no image is left to train on: the 'split' column has no 'train'")
    return images.with_column("split", splits)


def _cut(
    splits: NDArray[np.object_], groups: NDArray[np.intp], labels: IntMatrix, name: str, share: float, seed: int
) -> None:
    rows = np.flatnonzero(splits == "train")
    _, group_of, sizes = np.unique(groups[rows], return_inverse=True, return_counts=True)
    if share == 0 or not len(sizes):
        return
    if len(sizes) == 1:
        log.warning("no %s split is cut: all training images are one group", name)
        return
    taken = _choose(_answers(labels[rows], group_of, sizes), sizes, share, seed)
    splits[rows[taken[group_of]]] = name
    got = sizes[taken].sum() / sizes.sum()
    if abs(got - share) > _tolerance(sizes, share):
        why = (
            "groups stay whole, and are few or large" if sizes.max() > 1 else f"there are only {len(sizes)} to cut from"
        )
        told = "the %s split has %.1f %% of the images instead of %.1f %%: %s"
        log.warning(told, name, 100 * got, 100 * share, why)


def _answers(labels: IntMatrix, group_of: NDArray[np.intp], sizes: NDArray[np.intp]) -> NDArray[np.bool_] | None:
    """Return per group what is to be shared out evenly, bool of shape (groups, columns).

    The columns are: a yes to each label, a no to each label, and whether the group is of 1, 2-3, 4-7 ... images.
    """
    if len(sizes) * labels.shape[1] * 2 > _MOST_ENTRIES:
        log.info("too many images and labels to stratify: the split is drawn at random")
        return None
    found = np.zeros((len(sizes), 2 * labels.shape[1]), dtype=bool)
    for column in range(labels.shape[1]):
        found[group_of[labels[:, column] == 1], column] = True
        found[group_of[labels[:, column] == 0], labels.shape[1] + column] = True
    scale = np.frexp(sizes)[1]
    return np.concatenate([found, scale[:, None] == np.unique(scale)], axis=1)


def _choose(found: NDArray[np.bool_] | None, sizes: NDArray[np.intp], share: float, seed: int) -> NDArray[np.bool_]:
    """Return which groups to take, bool of shape (groups,), so that they hold a share of the images."""
    asked, nearest, missed = share, np.zeros(len(sizes), dtype=bool), np.inf
    for attempt in range(_ATTEMPTS):
        taken = _draw(found, len(sizes), asked, seed + attempt)
        got = sizes[taken].sum() / sizes.sum()
        if abs(got - share) < missed:
            nearest, missed = taken, abs(got - share)
        if missed <= _tolerance(sizes, share):
            break
        asked *= share / got  # the stratifier shares out groups: ask for as many more or fewer as it takes
    return _mend(nearest, sizes, share, seed)


def _mend(taken: NDArray[np.bool_], sizes: NDArray[np.intp], share: float, seed: int) -> NDArray[np.bool_]:
    """Move groups until they hold the share or no move brings them nearer; where there are few, also two at once."""
    order = np.random.default_rng(seed).permutation(len(sizes))  # of equally good moves chance takes one
    while True:
        over = sizes[taken].sum() - share * sizes.sum()
        if abs(over) <= _tolerance(sizes, share) * sizes.sum():
            return taken
        change = np.where(taken, -sizes, sizes)[order]
        after = np.abs(over + change)
        first = second = int(after.argmin())
        if len(sizes) <= _FEW:
            pairs = np.abs(over + change[:, None] + change)
            np.fill_diagonal(pairs, after)
            first, second = divmod(int(pairs.argmin()), len(sizes))
        moved = taken.copy()
        moved[order[[*{first, second}]]] ^= True
        nearer = abs(sizes[moved].sum() - share * sizes.sum()) < abs(over)
        if not nearer or not 0 < moved.sum() < len(moved):
            return taken
        taken = moved


def _tolerance(sizes: NDArray[np.intp], share: float) -> float:
    return max(_TOLERANCE * share, float(sizes.min() / sizes.sum()) / 2)


def _draw(found: NDArray[np.bool_] | None, count: int, share: float, seed: int) -> NDArray[np.bool_]:
    """Return a share of the groups, at least one and not all."""
    number = min(max(round(share * count), 1), count - 1)
    taken = np.zeros(count, dtype=bool)
    if found is not None:
        splitter = MultilabelStratifiedShuffleSplit(1, test_size=number, train_size=count - number, random_state=seed)
        taken[next(splitter.split(found, found.astype(int)))[1]] = True
    if not 0 < taken.sum() < count:
        taken[:] = np.random.default_rng(seed).permutation(count) < number
    return taken


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
    for name, value in (("keep", keep), ("per_label", per_label), ("groups", groups)):
        if name == needs[protocol] and value is None:
            raise HalflabelError(f"hiding protocol {protocol!r} needs {name!r}")
        if name != needs[protocol] and value is not None:
            raise HalflabelError(f"{name!r} does not belong to hiding protocol {protocol!r}")
    rng = np.random.default_rng(seed)
    if protocol == "random":
        if keep is None or not 0 <= keep <= 1:
            raise HalflabelError(f"'keep' is {keep!r}, expected a probability from 0 to 1")
        kept = rng.random(matrix.shape) < keep
    elif protocol == "single_positive":
        draw = np.where(matrix == 1, rng.random(matrix.shape), -1.0)
        kept = (matrix == 1) & (np.arange(matrix.shape[1]) == draw.argmax(axis=1)[:, None])
    elif protocol == "per_label":
        kept = _keep_per_label(matrix, per_label, rng)
    else:
        kept = _keep_by_group(matrix, groups, label_space, rng)
    return np.where(kept, matrix, np.int8(IGNORE_INDEX)).astype(np.int8)


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
