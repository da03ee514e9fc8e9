"""Held-out entries: images dealt out to folds, networks measured on what they have not seen, and compared in pairs.

Intervals and tests rest on resamples of whole groups (`metrics.intervals`). In cross-validation entry i helps to
predict entry j and j helps to predict i: where all there is is chance, the variance of a measure is larger than that
of fixed scores. It is multiplied by 1 + runs * tested / trained (Nadeau and Bengio 2003): 2.25 for five folds.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from ..metrics.entries import Floats, mean_defined
from ..metrics.intervals import RankingResamples, mean_over_labels, resample_ranking
from ..metrics.ranking import average_precision, roc_auc
from ..model.errors import shortlist
from ..model.labels import IGNORE_INDEX, IntMatrix

CI, SAMPLES = 0.95, 400
HELPS, HURTS, NO_EVIDENCE, MIXED = "helps", "hurts", "no evidence", "mixed"
NOT_ENOUGH = "not enough data to tell"

MIN_GROUPS = 10
"""A label needs so many groups (images, where there are no groups) with a yes, and as many with a no: two a fold."""


def count_answering(labels: IntMatrix, groups: NDArray[np.intp]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count the groups with a known yes, and those with a known no, of each label; both of shape (num_labels,)."""

    def count(answer: int) -> NDArray[np.int64]:
        columns = (labels[:, column] == answer for column in range(labels.shape[1]))
        return np.array([len(np.unique(groups[column])) for column in columns], dtype=np.int64)

    return count(1), count(0)


def measurable(labels: IntMatrix, groups: NDArray[np.intp]) -> IntMatrix:
    """Return the labels, those unknown throughout that have fewer than `MIN_GROUPS` groups with a yes, or a no."""
    enough = np.minimum(*count_answering(labels, groups)) >= MIN_GROUPS
    return np.where((labels >= 0) & enough, labels, IGNORE_INDEX).astype(np.int8)


def ranks_within(scores: Floats, parts: NDArray[np.intp]) -> Floats:
    """Return the rank of each score among those of its label and part, above 0 and below 1; ties share theirs.

    Networks that were fitted on different parts differ in scale, which must not decide between entries of different
    parts.

    Args:
        scores: Shape (n, num_labels); NaN for an entry that does not count, which stays NaN.
        parts: The part of each image, shape (n,).
    """
    ranked = np.full(scores.shape, np.nan)
    for part in np.unique(parts):
        rows = parts == part
        counted = (~np.isnan(scores[rows])).sum(axis=0)
        ranked[rows] = (stats.rankdata(scores[rows], axis=0, nan_policy="omit") - 0.5) / np.maximum(counted, 1)
    return ranked


@dataclass(frozen=True)
class Estimate:
    """A measure with its standard error and the degrees of freedom that this rests on."""

    value: float
    error: float
    freedom: int

    def interval(self) -> tuple[float, float]:
        """Return the two-sided interval of confidence `CI`, by Student's t."""
        half = float(stats.t.ppf((1 + CI) / 2, self.freedom)) * self.error
        return self.value - half, self.value + half

    def p_value(self, null: float = 0.0) -> float:
        """Return the two-sided p-value of the hypothesis that the measure is `null`; 1 where nothing speaks of it."""
        distance = abs(self.value - null)
        if not self.error:
            return 1.0 if not distance else 0.0
        return float(2 * stats.t.sf(distance / self.error, self.freedom))


@dataclass(frozen=True)
class Measured:
    """A network on its held-out entries.

    Attributes:
        auroc: Per label, (num_labels,); NaN for one that is not measured.
        ap: Average precision, likewise.
        resampled: Both, of the same resamples for all networks on the same images.
        seen: Per label, the groups that the rarer answer comes from: they say how sure a measure is.
        inflation: Factor of the variance, see above.
    """

    auroc: Floats
    ap: Floats
    resampled: RankingResamples
    seen: NDArray[np.int64]
    inflation: float

    @classmethod
    def of(cls, scores: Floats, labels: IntMatrix, groups: NDArray[np.intp], inflation: float) -> "Measured":
        """Measure scores (n, num_labels) of any kind, larger means more likely yes, on labels that are `measurable`."""
        known = np.where(labels >= 0, scores, 0.0)
        resampled = resample_ranking(known, labels, SAMPLES, groups=groups)
        seen = np.minimum(*count_answering(labels, groups))
        return cls(roc_auc(known, labels), average_precision(known, labels), resampled, seen, inflation)

    @property
    def columns(self) -> NDArray[np.intp]:
        """The labels that are measured."""
        return np.flatnonzero(~np.isnan(self.auroc))

    def estimate(self, other: "Measured | None" = None, column: int | None = None, measure: str = "auroc") -> Estimate:
        """Return a measure of a label (None: the mean over labels), or how far it is above that of another network."""
        names = {"auroc": "roc_auc", "ap": "average_precision"}
        values = [getattr(one, measure) for one in (self, other) if one is not None]
        drawn = [getattr(one.resampled, names[measure]) for one in (self, other) if one is not None]
        value = values[0] - values[1] if other is not None else values[0]
        samples = drawn[0] - drawn[1] if other is not None else drawn[0]
        if column is None:
            value, samples, seen = mean_defined(value), mean_over_labels(samples), int(self.seen[self.columns].min())
        else:
            value, samples, seen = float(value[column]), samples[:, column], int(self.seen[column])
        error = np.sqrt(self.inflation * np.nanvar(samples, ddof=1) * seen / (seen - 1))
        return Estimate(value, float(error), seen - 1)


@dataclass(frozen=True)
class Comparison:
    """Two networks on the same held-out entries.

    Attributes:
        kinds: What the two are called, like ("pretrained", "random").
        labels: Per label for JSON: AUROC and average precision of both with intervals, p-values, verdict and sentence;
            None for a label that is not measured. The verdict comes with `judge`.
        mean: The mean AUROC over those labels of both, and its difference with an interval; None without such a label.
    """

    kinds: tuple[str, str]
    labels: dict[str, dict[str, Any] | None]
    mean: dict[str, float] | None

    @classmethod
    def of(cls, first: Measured, second: Measured, kinds: tuple[str, str], names: Sequence[str]) -> "Comparison":
        """Compare label by label; differences are the first minus the second."""
        rows: dict[str, dict[str, Any] | None] = dict.fromkeys(names)
        for column in first.columns:
            row: dict[str, Any] = {}
            for measure in ("auroc", "ap"):
                both = [one.estimate(column=column, measure=measure) for one in (first, second)]
                difference = first.estimate(second, column, measure)
                row[measure] = _describe(kinds, both, difference)
                if measure == "auroc":
                    better = max(both, key=lambda one: one.value)
                    chance = better.p_value(0.5) if better.value > 0.5 else 1.0
                    row |= {"p_difference": difference.p_value(), "p_chance": chance}
                    row["p"] = max(row["p_difference"], row["p_chance"])
            rows[names[column]] = row
        if not len(first.columns):
            return cls(kinds, rows, None)
        return cls(kinds, rows, _describe(kinds, [first.estimate(), second.estimate()], first.estimate(second)))

    def sentence(self) -> str:
        """Say how the means over labels compare."""
        return "no label has enough tested answers" if self.mean is None else f"mean {say(self.mean, self.kinds)}"

    def verdict(self) -> str:
        """Return what the labels' verdicts amount to."""
        return summarise(row["verdict"] for row in self.labels.values() if row is not None)


def _describe(kinds: tuple[str, str], both: Sequence[Estimate], difference: Estimate) -> dict[str, float]:
    found: dict[str, float] = {}
    for kind, one in zip(kinds, both, strict=True):
        low, high = one.interval()
        found |= {kind: one.value, f"{kind}_low": max(low, 0.0), f"{kind}_high": min(high, 1.0)}
    return found | describe_difference(difference)


def describe_difference(difference: Estimate) -> dict[str, float]:
    """Return a difference and its interval for JSON."""
    low, high = difference.interval()
    return {"difference": difference.value, "low": low, "high": high}


_WORDS = {"pretrained": "with pretrained weights", "random": "with random ones", "together": "together",
          "alone": "alone", "trained": "trained", "probed": "probed"}  # fmt: skip


def say(found: Mapping[str, float], kinds: tuple[str, str]) -> str:
    """Say two AUROCs and their difference."""
    values = ", ".join(f"{found[kind]:.2f} {_WORDS[kind]}" for kind in kinds)
    return f"AUROC {values}, difference {found['difference']:+.2f} ({found['low']:+.2f} to {found['high']:+.2f})"


def judge(comparisons: Iterable[Comparison]) -> None:
    """Give every label of all comparisons a verdict and a sentence, in place.

    The first network is better where the difference in AUROC is significant and it is itself better than chance: the
    larger p-value of the two decides, corrected (Holm 1979) for all labels of all comparisons at once, so that the
    chance of any praise or blame is at most 5 % where nothing is to be found.
    """
    rows = [(name, row, one.kinds) for one in comparisons for name, row in one.labels.items() if row is not None]
    for (name, row, kinds), corrected in zip(rows, holm([row["p"] for _, row, _ in rows]), strict=True):
        row["p_holm"] = float(corrected)
        helps = HELPS if row["auroc"]["difference"] > 0 else HURTS
        row["verdict"] = helps if corrected < 1 - CI else NO_EVIDENCE
        told = f"{name}: {row['verdict']}: {say(row['auroc'], kinds)}"
        row["sentence"] = f"{told}, p = {corrected:.2g} corrected for {len(rows)} tests"


def holm(p_values: ArrayLike) -> Floats:
    """Return p-values (tests,) corrected for their number: the chance of any false finding stays below the level."""
    given = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(given, kind="stable")
    corrected = np.empty(len(given))
    corrected[order] = np.minimum(np.maximum.accumulate(given[order] * np.arange(len(given), 0, -1)), 1)
    return corrected


def summarise(verdicts: Iterable[str]) -> str:
    """Return what verdicts of labels amount to."""
    given = set(verdicts)
    if {HELPS, HURTS} <= given:
        return MIXED
    return next((verdict for verdict in (HELPS, HURTS, NO_EVIDENCE) if verdict in given), NOT_ENOUGH)


def rank_networks(networks: Mapping[tuple[str, str], Measured]) -> tuple[list[dict[str, Any]], str]:
    """Order networks by their mean AUROC over labels, the best first, each compared with the best on the same entries.

    Args:
        networks: By backbone and kind of weights, all on the same entries.

    Returns:
        A row per network for JSON, where `behind` is how far the best is ahead of it, with an interval; and a sentence.
    """
    ranked = sorted(networks.items(), key=lambda one: -mean_defined(one[1].auroc))
    best = ranked[0][1]
    if not len(best.columns):
        return [], "no label has enough tested answers"
    rows: list[dict[str, Any]] = []
    for (backbone, weights), one in ranked:
        low, high = one.estimate().interval()
        rows.append({
            "backbone": backbone, "weights": weights, "auroc": mean_defined(one.auroc), "low": max(low, 0.0),
            "high": min(high, 1.0), "ap": mean_defined(one.ap), "behind": describe_difference(best.estimate(one)),
        })  # fmt: skip
    told = f"best: {rows[0]['backbone']} with {rows[0]['weights']} weights, mean AUROC {rows[0]['auroc']:.2f}"
    level = [
        f"{row['backbone']} ({row['weights']}, {row['auroc']:.2f})" for row in rows[1:] if row["behind"]["low"] <= 0
    ]
    return rows, told + (f"; not told apart from it: {shortlist(level)}" if level else "")
