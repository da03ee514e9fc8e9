"""A panel per label: precision and recall, reliability, and the scores of yes and no; all over known entries only."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import precision_recall_curve

from ..metrics.answers import check_thresholds, precision, recall
from ..metrics.calibration import BINS, calibration_error
from ..metrics.entries import Floats, check_pair
from ..metrics.intervals import wilson_interval
from ..metrics.ranking import average_precision
from ..metrics.report import check_names
from ..model.decisions import say_threshold
from ..model.labels import LabelCounts, count_labels
from .figures import NO, PALE, QUIET, YES, choose_labels, finish, grid, plain, why_undefined

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HISTOGRAM_BINS = 20


def draw_precision_recall(
    scores: ArrayLike,
    labels: ArrayLike,
    names: Sequence[str],
    thresholds: ArrayLike,
    intervals: ArrayLike | None = None,
) -> "Figure":
    """Draw the precision-recall curve of each label, the point that its threshold chooses, and what guessing reaches.

    Args:
        scores: Shape (n, num_labels); probabilities in 0..1.
        labels: Same shape: 1, 0, or below 0 for unknown and uncertain entries.
        names: The labels, in order.
        thresholds: A number, or one per label; a score of at least this is a yes.
        intervals: Shape (2, num_labels), the lower and the upper end of each AP; None: none are shown.

    Returns:
        A figure with a panel for each of at most 24 labels, those with the most known positives.

    Raises:
        HalflabelError: On scores, labels, names or thresholds that are not such, or if matplotlib is not installed.
    """
    shown = _choose(scores, labels, names, thresholds)
    ap = average_precision(shown.scores, shown.labels)
    right, found = (measure(shown.scores, shown.labels, shown.thresholds) for measure in (precision, recall))
    ends = None if intervals is None else np.asarray(intervals, dtype=np.float64)[:, shown.columns]
    figure, panels = grid(len(shown.names), f"Precision against recall\n{shown.clause}")
    for i, axes in enumerate(panels):
        _frame(axes, "recall", "precision")
        if missing := why_undefined(shown.counts, i):
            _say(axes, shown.names[i], missing)
            continue
        score, answer = shown.known(i)
        curve = precision_recall_curve(answer, score)
        axes.plot(curve[1], curve[0], color=YES, drawstyle="steps-post")
        axes.axhline(answer.mean(), color=QUIET, linestyle=":")
        axes.plot(found[i], right[i], "o", color=NO, markersize=7)  # nothing where the precision is NaN
        reached = "none reaches it" if np.isnan(right[i]) else f"P {right[i]:.2f}, R {found[i]:.2f}"
        between = "" if ends is None or np.isnan(ends[:, i]).any() else f" ({ends[0, i]:.2f} to {ends[1, i]:.2f})"
        _head(axes, shown.names[i], f"AP {ap[i]:.3f}{between}\n{shown.threshold(i)}: {reached}")
    _legend(
        figure,
        ("line", YES, "every threshold"),
        ("dot", NO, "the model's threshold (P: precision, R: recall)"),
        ("dotted", QUIET, "guessing: the share of yes"),
    )
    return finish(figure)


def draw_reliability(scores: ArrayLike, labels: ArrayLike, names: Sequence[str]) -> "Figure":
    """Draw, for each label, the share of yes among the known entries of about the same score, and how many they are.

    The bins are those of `calibration_error`; arguments, result and errors are those of `draw_precision_recall`.
    """
    shown = _choose(scores, labels, names)
    error = calibration_error(shown.scores, shown.labels)
    figure, panels = grid(len(shown.names), f"Reliability: is a score of 0.7 a yes in 7 of 10 cases?\n{shown.clause}")
    for i, axes in enumerate(panels):
        _frame(axes, "score", "share of yes")
        if not shown.counts.known[i]:
            _say(axes, shown.names[i], "undefined: nothing known")
            continue
        score, answer = shown.known(i)
        place = np.searchsorted(np.arange(1, BINS) / BINS, score, "right")
        count, claimed, true = (np.bincount(place, weights, BINS) for weights in (None, score, answer))
        _draw_counts(axes, count)
        axes.plot([0, 1], [0, 1], color=QUIET, linestyle=":")
        filled = count > 0
        mean, share = claimed[filled] / count[filled], true[filled] / count[filled]
        axes.vlines(mean, *wilson_interval(true[filled], count[filled]), color=YES, alpha=0.35, linewidth=2)
        axes.plot(mean, share, "o", color=YES, markersize=4.5)
        _head(axes, shown.names[i], f"calibration error {error[i]:.3f}, {len(answer):,} known")
    _legend(
        figure,
        ("dot", YES, f"entries of about the same score, in {BINS} bins, with 95 % intervals"),
        ("dotted", QUIET, "perfect: share of yes = score"),
        ("patch", PALE, "known entries per bin (right axis)"),
    )
    return finish(figure)


def _draw_counts(axes: "Axes", count: NDArray[Any]) -> None:
    """Draw bars over the lowest quarter of a panel, behind its curve."""
    behind = axes.twinx()
    behind.bar((np.arange(BINS) + 0.5) / BINS, count, 1 / BINS, color=PALE, edgecolor="white", linewidth=0.5)
    behind.set_ylim(0, 4 * count.max())
    behind.set_yticks([0, count.max()], ["0", f"{count.max():,.0f}"], fontsize=7, color=QUIET)
    behind.spines[["top", "right", "left"]].set_visible(False)
    axes.set_zorder(behind.get_zorder() + 1)
    axes.patch.set_visible(False)


def draw_score_histograms(
    scores: ArrayLike, labels: ArrayLike, names: Sequence[str], thresholds: ArrayLike
) -> "Figure":
    """Draw, for each label, how the scores of its known yes and of its known no are spread, and its threshold.

    Each of the two is drawn in shares of its own number, so that a rare yes is seen; arguments, result and errors are
    those of `draw_precision_recall`.
    """
    shown = _choose(scores, labels, names, thresholds)
    figure, panels = grid(len(shown.names), f"Scores of the known yes and of the known no\n{shown.clause}")
    edges = np.linspace(0, 1, HISTOGRAM_BINS + 1)
    for i, axes in enumerate(panels):
        _frame(axes, "score", "% of yes, % of no")
        if not shown.counts.known[i]:
            _say(axes, shown.names[i], "nothing known")
            continue
        score, answer = shown.known(i)
        highest = 0.0
        for code, colour in ((0, NO), (1, YES)):
            count = np.histogram(score[answer == code], edges)[0]
            share = 100 * count / max(count.sum(), 1)
            highest = max(highest, share.max())
            axes.stairs(share, edges, fill=True, color=colour, alpha=0.4)
            axes.stairs(share, edges, color=colour)
        axes.set_ylim(0, 1.05 * highest)
        axes.axvline(shown.thresholds[i], color="black", linestyle="--", linewidth=1.2)
        _head(
            axes,
            shown.names[i],
            f"{shown.counts.positive[i]:,} yes, {shown.counts.negative[i]:,} no\n{shown.threshold(i)}",
        )
    _legend(figure, ("patch", YES, "known yes"), ("patch", NO, "known no"), ("dashed", "black", "yes from here on"))
    return finish(figure)


@dataclass(frozen=True)
class _Shown:
    """The labels that get a panel: their columns of the matrices, and a clause that says which they are."""

    columns: NDArray[np.intp]
    scores: NDArray[Any]
    labels: NDArray[Any]
    names: list[str]
    thresholds: Floats
    counts: LabelCounts
    clause: str

    def known(self, label: int) -> tuple[Floats, NDArray[Any]]:
        known = self.labels[:, label] >= 0
        return self.scores[known, label].astype(np.float64), self.labels[known, label]

    def threshold(self, label: int) -> str:
        return say_threshold(self.thresholds[label])


def _choose(scores: ArrayLike, labels: ArrayLike, names: Sequence[str], thresholds: ArrayLike = 0.5) -> _Shown:
    values, matrix = check_pair(scores, labels, probabilities=True)
    names = check_names(names, matrix.shape[1])
    limits = check_thresholds(thresholds, matrix.shape[1])
    columns, clause = choose_labels(count_labels(matrix).positive)
    if len(columns) == len(names) > 1:
        clause += "; most known positives first"
    values, matrix = values[:, columns], matrix[:, columns]
    chosen = [names[i] for i in columns]
    return _Shown(columns, values, matrix, chosen, limits[columns], count_labels(matrix), clause)


def _frame(axes: "Axes", x: str, y: str) -> None:
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.04)
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(x, fontsize=8)
    axes.set_ylabel(y, fontsize=8)


def _head(axes: "Axes", name: str, below: str) -> None:
    axes.set_title(f"{plain(name)}\n{below}", fontsize=8.5, loc="left")


def _say(axes: "Axes", name: str, message: str) -> None:
    """Leave a panel empty but for a message."""
    _head(axes, name, "")
    axes.text(0.5, 0.5, message, transform=axes.transAxes, ha="center", va="center", color=QUIET, wrap=True)


def _legend(figure: "Figure", *entries: tuple[str, str, str]) -> None:
    """Explain every mark, once for all panels: a key of `_MARKS` or `"patch"`, its colour, and the text."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Patch(color=colour, label=text) if mark == "patch" else Line2D([], [], color=colour, label=text, **_MARKS[mark])
        for mark, colour, text in entries
    ]
    figure.legend(handles=handles, loc="outside lower left", ncols=len(handles), frameon=False, fontsize=9)


_MARKS: dict[str, Any] = {
    "line": {"linestyle": "-"},
    "dotted": {"linestyle": ":"},
    "dashed": {"linestyle": "--"},
    "dot": {"linestyle": "", "marker": "o"},
}
