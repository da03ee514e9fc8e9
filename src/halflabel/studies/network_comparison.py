"""Two networks on the same held-out entries, label by label: is the pretrained one better, and better than chance?

Predictions were made by cross-validation. There, entry i helps to predict entry j and j helps to predict i: where all
there is is chance, the variance of a measure is twice what it would be for fixed scores. So it is multiplied by
1 + runs * tested / trained (Nadeau and Bengio 2003), which is 2.25 for five folds.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..metrics.entries import Floats
from ..model.errors import shortlist
from ..model.labels import IntMatrix
from .advice_data import MIN_GROUPS, NOT_ENOUGH
from .grouped_folds import FOLDS
from .ranking_influence import Estimate, ap_influence, auroc_influence, estimate, holm

CI = 0.95
KINDS = ("pretrained", "random")
INFLATION = 1 + FOLDS / (FOLDS - 1)
"""Of the variance, where every fold is tested once."""

HELPS, HURTS, NO_EVIDENCE, MIXED = "helps", "hurts", "no evidence", "mixed"
_MEASURES = {"auroc": auroc_influence, "ap": ap_influence}


@dataclass(frozen=True)
class Comparison:
    """What is measured on held-out entries.

    Attributes:
        labels: Per label AUROC and average precision of both networks with intervals and uncorrected p-values, as
            dicts for JSON; None for a label with too few tested answers.
        mean: The mean AUROC over those labels, and its difference with an interval; None without such a label.
    """

    labels: dict[str, dict[str, Any] | None]
    mean: dict[str, float] | None

    def sentence(self) -> str:
        """Say how the means over labels compare."""
        if self.mean is None:
            return "no label has enough tested answers"
        return (
            "mean AUROC {pretrained:.2f} with pretrained weights, {random:.2f} with random ones, difference "
            "{difference:+.2f} ({low:+.2f} to {high:+.2f})"
        ).format(**self.mean)


def measured(labels: IntMatrix, groups: NDArray[np.intp], column: int) -> NDArray[np.intp] | None:
    """Return the rows where a label is known; None where its answers come from too few groups to measure anything."""
    rows = np.flatnonzero(labels[:, column] >= 0)
    return rows if answering_groups(labels[rows, column] == 1, groups[rows]) >= MIN_GROUPS else None


def answering_groups(yes: NDArray[np.bool_], groups: NDArray[np.intp]) -> int:
    """Return how many groups the rarer of two answers comes from."""
    return min(len(np.unique(groups[yes])), len(np.unique(groups[~yes])))


def compare_networks(
    scores: Mapping[str, Floats],
    labels: IntMatrix,
    names: Sequence[str],
    groups: NDArray[np.intp],
    inflation: float,
) -> Comparison:
    """Compare the scores of two networks on the same entries.

    Args:
        scores: Of `pretrained` and `random`, each of shape (n, num_labels); larger means more likely yes.
        labels: Same shape: 1, 0, or below 0 for entries that are not known or not tested.
        names: Of the labels.
        groups: The number of each image's group.
        inflation: Factor of the variance, see above.
    """
    columns, fewest = _measured_columns(labels, groups)
    compared: dict[str, dict[str, Any] | None] = dict.fromkeys(names)
    for column, rows in columns.items():
        both = [scores[kind][rows, column] for kind in KINDS]
        found = compare_pair(both, labels[rows, column] == 1, groups[rows], inflation)
        compared[names[column]] = _describe(found)
    if not columns:
        return Comparison(compared, None)
    (first, of_first), (second, of_second) = (_mean_of_labels("auroc", scores[kind], labels, columns) for kind in KINDS)
    difference = estimate(first - second, of_first - of_second, groups, fewest, inflation)
    return Comparison(compared, {"pretrained": first, "random": second, **_interval(difference)})


def compare_pair(
    scores: Sequence[Floats], yes: NDArray[np.bool_], groups: NDArray[np.intp], inflation: float
) -> dict[str, tuple[Estimate, Estimate, Estimate]]:
    """Measure two networks on the same known entries of a label.

    Args:
        scores: Of the first and of the second, each of shape (entries,).
        yes: The answers, shape (entries,).
        groups: The number of each entry's group.
        inflation: Factor of the variance, see above.

    Returns:
        `auroc` and `ap`: those of the first, of the second, and the first's minus the second's.
    """
    seen, found = answering_groups(yes, groups), {}
    for key, measure in _MEASURES.items():
        (first, of_first), (second, of_second) = (measure(one, yes) for one in scores)
        found[key] = (
            estimate(first, of_first, groups, seen, inflation),
            estimate(second, of_second, groups, seen, inflation),
            estimate(first - second, of_first - of_second, groups, seen, inflation),
        )
    return found


def _measured_columns(labels: IntMatrix, groups: NDArray[np.intp]) -> tuple[dict[int, NDArray[np.intp]], int]:
    """Return the rows of each label that can be measured, and from how few groups the rarest of their answers comes."""
    rows_of = {column: measured(labels, groups, column) for column in range(labels.shape[1])}
    columns = {column: rows for column, rows in rows_of.items() if rows is not None}
    seen = (answering_groups(labels[rows, column] == 1, groups[rows]) for column, rows in columns.items())
    return columns, min(seen, default=0)


def _describe(found: Mapping[str, tuple[Estimate, Estimate, Estimate]]) -> dict[str, Any]:
    described: dict[str, Any] = {}
    for key, (one, other, difference) in found.items():
        described[key] = {"pretrained": one.value, "random": other.value, **_interval(difference)}
        for name, of_one in (("pretrained", one), ("random", other)):
            low, high = of_one.interval(CI)
            described[key] |= {f"{name}_low": max(low, 0.0), f"{name}_high": min(high, 1.0)}
        if key == "auroc":
            better = max(one, other, key=lambda measure: measure.value)
            described["p_difference"] = difference.p_value()
            described["p_chance"] = better.p_value(0.5) if better.value > 0.5 else 1.0
            described["p"] = max(described["p_difference"], described["p_chance"])
    return described


def _interval(difference: Estimate) -> dict[str, float]:
    low, high = difference.interval(CI)
    return {"difference": difference.value, "low": low, "high": high}


def judge(comparisons: Iterable[Comparison]) -> None:
    """Give every label of all comparisons a verdict and a sentence, in place.

    A network is better where the difference in AUROC is significant and it is itself better than chance: the larger
    p-value of the two decides, corrected (Holm) for all labels of all comparisons at once, so that the chance of any
    praise or blame is at most 5 % where nothing is to be found.
    """
    rows = [(name, row) for comparison in comparisons for name, row in comparison.labels.items() if row is not None]
    for (name, row), corrected in zip(rows, holm([row["p"] for _, row in rows]), strict=True):
        row["p_holm"] = float(corrected)
        auroc = row["auroc"]
        found = corrected < 1 - CI
        row["verdict"] = (HELPS if auroc["difference"] > 0 else HURTS) if found else NO_EVIDENCE
        row["sentence"] = (
            f"{name}: {row['verdict']}: AUROC {auroc['pretrained']:.2f} with pretrained weights, "
            f"{auroc['random']:.2f} with random ones, difference {auroc['difference']:+.2f} "
            f"({auroc['low']:+.2f} to {auroc['high']:+.2f}), p = {corrected:.2g} corrected for {len(rows)} tests"
        )


def summarise(verdicts: Iterable[str]) -> str:
    """Return what verdicts of labels amount to."""
    given = set(verdicts)
    if {HELPS, HURTS} <= given:
        return MIXED
    return next((verdict for verdict in (HELPS, HURTS, NO_EVIDENCE) if verdict in given), NOT_ENOUGH)


def rank_networks(
    scores: Mapping[str, Mapping[str, Floats]], labels: IntMatrix, groups: NDArray[np.intp], inflation: float
) -> tuple[list[dict[str, Any]], str]:
    """Order networks by their mean AUROC over labels, the best first, each compared with the best on the same entries.

    Args:
        scores: By backbone and kind of weights, each of shape (n, num_labels).
        labels: Same shape.
        groups: The number of each image's group.
        inflation: Factor of the variance.

    Returns:
        A row per network for JSON, where `behind` is how far the best is ahead of it, with an interval; and a sentence.
    """
    columns, fewest = _measured_columns(labels, groups)
    if not columns:
        return [], "no label has enough tested answers"
    ranked: list[tuple[dict[str, Any], Floats]] = []
    for backbone, both in scores.items():
        for kind, matrix in both.items():
            auroc, influence = _mean_of_labels("auroc", matrix, labels, columns)
            low, high = estimate(auroc, influence, groups, fewest, inflation).interval(CI)
            row = {
                "backbone": backbone, "weights": kind, "auroc": auroc, "low": max(low, 0.0), "high": min(high, 1.0),
                "ap": _mean_of_labels("ap", matrix, labels, columns)[0],
            }  # fmt: skip
            ranked.append((row, influence))
    ranked.sort(key=lambda one: -one[0]["auroc"])
    best, of_best = ranked[0]
    for row, influence in ranked:
        row["behind"] = _interval(
            estimate(best["auroc"] - row["auroc"], of_best - influence, groups, fewest, inflation)
        )
    return [row for row, _ in ranked], _say_ranking([row for row, _ in ranked])


def _mean_of_labels(
    measure: str, scores: Floats, labels: IntMatrix, columns: Mapping[int, NDArray[np.intp]]
) -> tuple[float, Floats]:
    """Return the mean of a measure over labels, and the influence of each image on it, (n,)."""
    total, influence = 0.0, np.zeros(len(labels))
    for column, rows in columns.items():
        value, parts = _MEASURES[measure](scores[rows, column], labels[rows, column] == 1)
        total += value
        influence[rows] += parts
    return total / len(columns), influence / len(columns)


def _say_ranking(rows: Sequence[Mapping[str, Any]]) -> str:
    best = rows[0]
    told = f"best: {best['backbone']} with {best['weights']} weights, mean AUROC {best['auroc']:.2f}"
    level = [row for row in rows[1:] if row["behind"]["low"] <= 0]
    return told + (f"; not told apart from it: {shortlist(map(_say_network, level))}" if level else "")


def _say_network(row: Mapping[str, Any]) -> str:
    return f"{row['backbone']} ({row['weights']}, {row['auroc']:.2f})"
