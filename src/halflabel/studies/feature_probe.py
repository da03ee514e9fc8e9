"""A linear probe on features that are at hand, cross-validated: folds that keep groups whole, and a learning curve."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..metrics.entries import Floats
from ..model.labels import IntMatrix
from .grouped_folds import FOLDS
from .transferability import LinearEvidence, contrasts, same_known


@dataclass(frozen=True)
class HeldOut:
    """Predictions of images by probes that saw none of their group; NaN where the label is not known.

    Attributes:
        predictions: Of the answer 1 or 0 by ridge regression, shape (n, num_labels).
        baseline: The share of yes that the same probe was fitted on, same shape.
    """

    predictions: Floats
    baseline: Floats


def probe(features: NDArray[np.float32], labels: IntMatrix, folds: NDArray[np.intp]) -> HeldOut:
    """Fit a probe per label and fold on all other folds' known entries, and predict the fold's known entries.

    The probe is ridge regression of the answers on standardised features; its penalty is the one of greatest evidence
    on the entries it is fitted on, so that nothing is tuned on what is predicted.

    Args:
        features: Shape (n, width).
        labels: Shape (n, num_labels).
        folds: The fold of each image, shape (n,).
    """
    held_out = _nothing(labels)
    shared = same_known(labels)
    for fold in _standardised(features, folds):
        for columns in shared:
            rows = np.flatnonzero(~fold.test & (labels[:, columns[0]] >= 0))
            if len(rows) > 1:
                _fit(held_out, fold, labels, columns, rows)
    return held_out


def probe_few(
    features: NDArray[np.float32],
    labels: IntMatrix,
    folds: NDArray[np.intp],
    draws: Mapping[int, int],
    seed: int = 0,
) -> dict[int, list[HeldOut]]:
    """Fit probes on few known entries of each label; otherwise as `probe`.

    Args:
        features: Shape (n, width).
        labels: Shape (n, num_labels).
        folds: The fold of each image.
        draws: How many known entries of a label each probe is fitted on, at least 2, -> how often they are drawn. The
            share of yes is that of the label, but there is at least one of either answer. All entries are taken where
            there are fewer.
        seed: Of the draws; the same for another network's features draws the same entries, and more entries of one
            draw contain the fewer.

    Returns:
        By number of entries, what each draw gave.
    """
    drawn = {entries: [_nothing(labels) for _ in range(times)] for entries, times in draws.items()}
    for number, fold in enumerate(_standardised(features, folds)):
        for entries, held_outs in drawn.items():
            for draw, held_out in enumerate(held_outs):
                for label in range(labels.shape[1]):
                    rng = np.random.default_rng([seed, number, draw, label])
                    rows = _draw_entries(labels[:, label], ~fold.test, entries, rng)
                    if len(rows) > 1:
                        _fit(held_out, fold, labels, [label], rows)
    return drawn


def _nothing(labels: IntMatrix) -> HeldOut:
    return HeldOut(np.full(labels.shape, np.nan), np.full(labels.shape, np.nan))


@dataclass(frozen=True)
class _Fold:
    """A fold's images, and the features of all images and of these by mean and deviation of all others."""

    test: NDArray[np.bool_]
    scaled: Floats
    tested: Floats


def _standardised(features: NDArray[np.float32], folds: NDArray[np.intp]) -> Iterator[_Fold]:
    for fold in range(FOLDS):
        test = folds == fold
        mean, scale = features[~test].mean(axis=0, dtype=np.float64), features[~test].std(axis=0, dtype=np.float64)
        scaled = (features - mean) / np.where(scale > 0, scale, 1)
        yield _Fold(test, scaled, scaled[test])


def _fit(held_out: HeldOut, fold: _Fold, labels: IntMatrix, columns: list[int], rows: NDArray[np.intp]) -> None:
    """Fit labels on the same rows and fill in what is predicted."""
    chosen = fold.scaled[rows]
    evidence, mean = LinearEvidence(contrasts(chosen)), chosen.mean(axis=0)
    asked = fold.test & (labels[:, columns[0]] >= 0)
    for column in columns:
        answers = labels[rows, column].astype(np.float64)
        share = answers.mean()
        if 0 < share < 1:
            weights = evidence.fit(contrasts(answers)).weights
            predicted = fold.tested @ weights + (share - mean @ weights)
            held_out.predictions[asked, column] = predicted[asked[fold.test]]
            held_out.baseline[asked, column] = share


def _draw_entries(
    answers: NDArray[np.int8], allowed: NDArray[np.bool_], entries: int, rng: np.random.Generator
) -> NDArray[np.intp]:
    """Return rows of known entries, the share of yes kept as nearly as can be with at least one of each."""
    yes, no = (rng.permutation(np.flatnonzero(allowed & (answers == answer))) for answer in (1, 0))
    if len(yes) + len(no) <= entries or not len(yes) or not len(no):
        return np.concatenate([yes, no])
    taken = round(entries * len(yes) / (len(yes) + len(no)))
    taken = min(max(taken, 1, entries - len(no)), entries - 1, len(yes))
    return np.concatenate([yes[:taken], no[: entries - taken]])
