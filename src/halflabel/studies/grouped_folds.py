"""Groups of images, and folds that keep them whole."""

import numpy as np
from iterstrat.ml_stratifiers import MultilabelStratifiedKFold
from numpy.typing import NDArray

from ..model.labels import IntMatrix

FOLDS = 5
_MOST_ENTRIES = 2_000_000  # beyond, stratifying would take minutes, and chance does as well


def number_groups(groups: NDArray[np.object_]) -> NDArray[np.intp]:
    """Number the groups of images; an image without one ("") is a group of its own. Shape (n,)."""
    named = np.where(groups == "", [f"\0{i}" for i in range(len(groups))], groups)
    return np.unique(named.astype(str), return_inverse=True)[1]


def draw_folds(labels: IntMatrix, groups: NDArray[np.intp], seed: int = 0) -> NDArray[np.intp]:
    """Share images out to `FOLDS` folds; a group stays whole, and each label's yes and no are spread evenly.

    Args:
        labels: Shape (n, num_labels): 1, 0, or below 0 for what is not known.
        groups: The number of each image's group, see `number_groups`; at least `FOLDS` of them.
        seed: The same seed draws the same folds.

    Returns:
        The fold of each image, from 0, shape (n,).
    """
    count = int(groups.max()) + 1
    found = np.zeros((count, 2 * labels.shape[1]), dtype=bool)
    for column in range(labels.shape[1]):
        found[groups[labels[:, column] == 1], column] = True
        found[groups[labels[:, column] == 0], labels.shape[1] + column] = True
    if found.size > _MOST_ENTRIES:
        return np.random.default_rng(seed).permutation(count)[groups] % FOLDS
    sizes = np.frexp(np.bincount(groups))[1]  # groups of 1, 2-3, 4-7 ... images are spread, too
    splitter = MultilabelStratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    columns = np.concatenate([found, sizes[:, None] == np.unique(sizes)], axis=1)
    fold_of = np.empty(count, dtype=np.intp)
    for fold, (_, rows) in enumerate(splitter.split(columns, columns.astype(int))):
        fold_of[rows] = fold
    return fold_of[groups]
