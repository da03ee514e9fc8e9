"""Cut the splits a source does not give: stratified by what is known, a group kept together, seeded."""

import logging

import numpy as np
from iterstrat.ml_stratifiers import MultilabelStratifiedShuffleSplit
from numpy.typing import NDArray

from ..model.errors import HalflabelError
from ..model.labels import IntMatrix
from .images import AnnotatedImages

log = logging.getLogger(__name__)
_MOST_ENTRIES = 50_000_000  # beyond, stratifying would take minutes and gigabytes, and chance does as well
_ATTEMPTS = 10
_TOLERANCE = 0.05  # of the share asked for
_FEW = 500  # groups


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
    splits, groups = images.column("split").copy(), images.column("group")
    groups = np.where(groups == "", [f"\0{i}" for i in range(len(groups))], groups)
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
    splits: NDArray[np.object_], groups: NDArray[np.object_], labels: IntMatrix, name: str, share: float, seed: int
) -> None:
    rows = np.flatnonzero(splits == "train")
    _, group_of, sizes = np.unique(groups[rows].astype(str), return_inverse=True, return_counts=True)
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
