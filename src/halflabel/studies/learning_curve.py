"""How good a probe is with 8, 16, 32 ... known entries: what pretraining is worth while there are few."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..metrics.entries import Floats
from ..model.labels import IGNORE_INDEX, IntMatrix
from .feature_probe import probe_few
from .grouped_folds import FOLDS
from .network_comparison import CI, INFLATION, answering_groups, measured
from .ranking_influence import auroc_influence, estimate, ranks_within

MOST_CURVES = 20
"""Of more labels, only those with the most answers of the rarer kind get a curve: it takes most of the time."""

_FEWEST = 8
_DRAWS = {8: 5, 16: 5, 32: 3, 64: 3}  # of entries for a point of the curve; one where there are more


def learning_curves(
    features: Mapping[str, NDArray[np.float32]],
    with_all: Mapping[str, Floats],
    labels: IntMatrix,
    groups: NDArray[np.intp],
    folds: NDArray[np.intp],
    seed: int = 0,
) -> list[dict[str, list[Any]] | None]:
    """Measure AUROC per label against the number of known entries that probes are fitted on.

    Args:
        features: By kind of network, each of shape (n, width).
        with_all: By kind, held-out predictions of probes that were fitted on all entries, (n, num_labels).
        labels: Shape (n, num_labels).
        groups: The number of each image's group.
        folds: The fold of each image.
        seed: Of the draws, which are the same for all kinds.

    Returns:
        Per label `n`, and for each kind a list of as many AUROCs under its name, `_low` and `_high`; the last is with
        all entries (on average over folds). None for a label that cannot be measured, or beyond `MOST_CURVES`.
    """
    labels = _with_most(labels)
    known = (labels >= 0).sum(axis=0) * (FOLDS - 1) // FOLDS
    sizes = [_FEWEST << step for step in range(64) if _FEWEST << step < known.max()]
    curves: list[dict[str, list[Any]] | None] = []
    for column in range(labels.shape[1]):
        rows = measured(labels, groups, column)
        curves.append(None if rows is None else {"n": [n for n in sizes if n < known[column]] + [int(known[column])]})
    for kind, matrix in features.items():
        drawn = probe_few(matrix, labels, folds, {n: _DRAWS.get(n, 1) for n in sizes}, seed)
        for column, curve in enumerate(curves):
            if curve is not None:
                points = [[one.predictions for one in drawn[n]] for n in curve["n"][:-1]] + [[with_all[kind]]]
                told = [_auroc(draws, labels, groups, folds, column) for draws in points]
                curve |= {
                    kind: [t[0] for t in told],
                    f"{kind}_low": [t[1] for t in told],
                    f"{kind}_high": [t[2] for t in told],
                }
    return curves


def _with_most(labels: IntMatrix) -> IntMatrix:
    """Return the labels with everything unknown but what gets a curve."""
    rarer = np.minimum((labels == 1).sum(axis=0), (labels == 0).sum(axis=0))
    kept = np.isin(np.arange(labels.shape[1]), np.argsort(-rarer, kind="stable")[:MOST_CURVES])
    return np.where(kept, labels, np.int8(IGNORE_INDEX))


def _auroc(
    draws: list[Floats], labels: IntMatrix, groups: NDArray[np.intp], folds: NDArray[np.intp], column: int
) -> tuple[float, float, float]:
    """Return the mean AUROC over draws, and its interval."""
    rows = np.flatnonzero(labels[:, column] >= 0)
    yes = labels[rows, column] == 1
    found = [auroc_influence(ranks_within(one[rows][:, [column]], folds[rows])[:, 0], yes) for one in draws]
    value, influence = float(np.mean([area for area, _ in found])), np.mean([part for _, part in found], axis=0)
    low, high = estimate(value, influence, groups[rows], answering_groups(yes, groups[rows]), INFLATION).interval(CI)
    return value, max(low, 0.0), min(high, 1.0)
