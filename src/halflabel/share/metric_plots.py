"""What was measured, over known entries only: a panel per label, one picture for all labels, and how a run learned."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import precision_recall_curve

from ..metrics.answers import check_thresholds, precision, recall
from ..metrics.calibration import BINS, calibration_error
from ..metrics.entries import Floats, check_pair, mean_defined, ratio
from ..metrics.intervals import wilson_interval
from ..metrics.ranking import average_precision
from ..metrics.report import check_names
from ..model.decisions import say_threshold
from ..model.labels import LabelCounts, count_labels
from ..use.evaluate import Measured
from .figures import BASE, NO, PALE, QUIET, YES, finish, grid, label_rows, new_figure, plain, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PANELS, MOST_ROWS = 24, 60
HISTOGRAM_BINS = 20
_MARKS: dict[str, Any] = {
    "line": {"linestyle": "-"},
    "dotted": {"linestyle": ":"},
    "dashed": {"linestyle": "--"},
    "dot": {"linestyle": "", "marker": "o"},
}


def draw_metrics(
    folder: Path,
    scores: ArrayLike,
    labels: ArrayLike,
    names: Sequence[str],
    thresholds: ArrayLike,
    intervals: ArrayLike | None = None,
    log_history: Sequence[Mapping[str, Any]] | None = None,
    counts: LabelCounts | None = None,
) -> list[Path]:
    """Write all pictures of a measured model.

    Args:
        folder: Where to; it is made.
        scores: Shape (n, num_labels); probabilities in 0..1.
        labels: Same shape: 1, 0, or below 0 for unknown and uncertain entries.
        names: The labels, in order.
        thresholds: A number, or one per label; a score of at least this is a yes.
        intervals: Shape (2, num_labels), the lower and the upper end of each AP; None: none are shown.
        log_history: The Trainer's, `trainer.state.log_history`; None: no learning curve is drawn.
        counts: What is known in training; None: what is known of the measured images is drawn.

    Returns:
        The files: `average_precision.png`, `precision_recall.png`, `reliability.png`, `score_histograms.png`,
        `coverage.png`, and with a history `learning_curve.png`.

    Raises:
        HalflabelError: On scores, labels, names or thresholds that are not such, or if matplotlib is not installed.
    """
    where = "the measured images" if counts is None else "training"
    figures = {
        "average_precision": draw_average_precision(scores, labels, names, intervals),
        "precision_recall": draw_precision_recall(scores, labels, names, thresholds, intervals),
        "reliability": draw_reliability(scores, labels, names),
        "score_histograms": draw_score_histograms(scores, labels, names, thresholds),
        "coverage": draw_coverage(count_labels(np.asarray(labels)) if counts is None else counts, names, where),
    }
    if log_history is not None:
        figures["learning_curve"] = draw_learning_curve(log_history)
    return [save(figure, folder / f"{name}.png") for name, figure in figures.items()]


def draw_measured(
    folder: Path,
    measured: Measured,
    log_history: Sequence[Mapping[str, Any]] | None = None,
    counts: LabelCounts | None = None,
) -> list[Path]:
    """Draw what `use.evaluate.measure` found, see `draw_metrics`; intervals are drawn where they were measured."""
    found = measured.metrics["labels"]
    rows = [row.get("AP_interval") for row in found.values()]
    ends = None if None in rows else np.array(rows, dtype=np.float64).T
    scores, thresholds = measured.rule.scores(measured.logits), measured.rule.thresholds
    return draw_metrics(folder, scores, measured.labels, list(found), thresholds, ends, log_history, counts)


def draw_precision_recall(
    scores: ArrayLike,
    labels: ArrayLike,
    names: Sequence[str],
    thresholds: ArrayLike,
    intervals: ArrayLike | None = None,
) -> "Figure":
    """Draw the precision-recall curve of each label, the point that its threshold chooses, and what guessing reaches.

    Arguments and errors are those of `draw_metrics`.

    Returns:
        A figure with a panel for each of at most 24 labels, those with the most known positives.
    """
    shown = _Shown(scores, labels, names, thresholds)
    ap = average_precision(shown.scores, shown.labels)
    right, found = (measure(shown.scores, shown.labels, shown.thresholds) for measure in (precision, recall))
    ends = None if intervals is None else np.asarray(intervals, dtype=np.float64)[:, shown.columns]
    figure, panels = grid(len(shown.names), f"Precision against recall\n{shown.clause}")
    for i, axes, score, answer in shown.fill(panels, "recall", "precision", _why_undefined):
        curve = precision_recall_curve(answer, score)
        axes.plot(curve[1], curve[0], color=YES, drawstyle="steps-post")
        axes.axhline(answer.mean(), color=QUIET, linestyle=":")
        axes.plot(found[i], right[i], "o", color=NO, markersize=7)  # nothing where the precision is NaN
        reached = "none reaches it" if np.isnan(right[i]) else f"P {right[i]:.2f}, R {found[i]:.2f}"
        between = "" if ends is None or np.isnan(ends[:, i]).any() else f" ({ends[0, i]:.2f} to {ends[1, i]:.2f})"
        _head(axes, shown.names[i], f"AP {ap[i]:.3f}{between}\n{say_threshold(shown.thresholds[i])}: {reached}")
    return _explained(
        figure,
        ("line", YES, "every threshold"),
        ("dot", NO, "the model's threshold (P: precision, R: recall)"),
        ("dotted", QUIET, "guessing: the share of yes"),
    )


def draw_reliability(scores: ArrayLike, labels: ArrayLike, names: Sequence[str]) -> "Figure":
    """Draw, for each label, the share of yes among the known entries of about the same score, and how many they are.

    The bins are those of `calibration_error`; arguments, result and errors are those of `draw_precision_recall`.
    """
    shown = _Shown(scores, labels, names)
    error = calibration_error(shown.scores, shown.labels)
    figure, panels = grid(len(shown.names), f"Reliability: is a score of 0.7 a yes in 7 of 10 cases?\n{shown.clause}")
    for i, axes, score, answer in shown.fill(panels, "score", "share of yes", _nothing_known):
        place = np.searchsorted(np.arange(1, BINS) / BINS, score, "right")
        count, claimed, true = (np.bincount(place, weights, BINS) for weights in (None, score, answer))
        _draw_counts(axes, count)
        axes.plot([0, 1], [0, 1], color=QUIET, linestyle=":")
        filled = count > 0
        mean, share = claimed[filled] / count[filled], true[filled] / count[filled]
        axes.vlines(mean, *wilson_interval(true[filled], count[filled]), color=YES, alpha=0.35, linewidth=2)
        axes.plot(mean, share, "o", color=YES, markersize=4.5)
        _head(axes, shown.names[i], f"calibration error {error[i]:.3f}, {len(answer):,} known")
    return _explained(
        figure,
        ("dot", YES, f"entries of about the same score, in {BINS} bins, with 95 % intervals"),
        ("dotted", QUIET, "perfect: share of yes = score"),
        ("patch", PALE, "known entries per bin (right axis)"),
    )


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
    shown = _Shown(scores, labels, names, thresholds)
    figure, panels = grid(len(shown.names), f"Scores of the known yes and of the known no\n{shown.clause}")
    edges = np.linspace(0, 1, HISTOGRAM_BINS + 1)
    for i, axes, score, answer in shown.fill(panels, "score", "% of yes, % of no", _nothing_known):
        highest = 0.0
        for code, colour in ((0, NO), (1, YES)):
            count = np.histogram(score[answer == code], edges)[0]
            share = 100 * count / max(count.sum(), 1)
            highest = max(highest, share.max())
            axes.stairs(share, edges, fill=True, color=colour, alpha=0.4)
            axes.stairs(share, edges, color=colour)
        axes.set_ylim(0, 1.05 * highest)
        axes.axvline(shown.thresholds[i], color="black", linestyle="--", linewidth=1.2)
        counted = f"{shown.counts.positive[i]:,} yes, {shown.counts.negative[i]:,} no"
        _head(axes, shown.names[i], f"{counted}\n{say_threshold(shown.thresholds[i])}")
    return _explained(
        figure, ("patch", YES, "known yes"), ("patch", NO, "known no"), ("dashed", "black", "yes from here on")
    )


def draw_average_precision(
    scores: ArrayLike, labels: ArrayLike, names: Sequence[str], intervals: ArrayLike | None = None
) -> "Figure":
    """Draw a bar per label, best first: its average precision, its interval, and what guessing reaches.

    Arguments and errors are those of `draw_metrics`.

    Returns:
        A figure with at most 60 bars, of the labels with the most known positives.
    """
    values, matrix = check_pair(scores, labels)
    names = check_names(names, matrix.shape[1])
    ap, counts = average_precision(values, matrix), count_labels(matrix)
    chosen, clause = choose_labels(counts.positive, MOST_ROWS)
    order = chosen[np.argsort(-ap[chosen], kind="stable")]  # NaN comes last
    undefined = int(np.isnan(ap).sum())
    title = f"Average precision: mAP {_number(mean_defined(ap))} over {len(ap) - undefined} labels"
    title += f", {undefined} undefined and not in it" if undefined else ""
    figure, axes = label_rows(f"{title}\n{clause}; best first", [names[i] for i in order])
    places = np.arange(len(order))
    axes.barh(places, ap[order], color=YES, alpha=0.6, height=0.7)
    if intervals is not None:
        ends = np.asarray(intervals, dtype=np.float64)[:, order]
        axes.hlines(places, *ends, color="black", linewidth=1.4, label="confidence interval")
    guess = np.where(np.isnan(ap), np.nan, ratio(counts.positive, counts.known))
    axes.plot(guess[order], places, "|", color=NO, markersize=9, markeredgewidth=2, label="guessing: the share of yes")
    for place, i in enumerate(order.tolist()):
        if missing := _why_undefined(counts, i):
            axes.text(0.01, place, missing, va="center", fontsize=8, color=QUIET)
        _beside(axes, place, f"{_number(ap[i])}   {counts.positive[i]:,} yes of {counts.known[i]:,} known")
    axes.set_xlim(0, 1)
    figure.legend(loc="outside lower left", ncols=2, frameon=False, fontsize=9)
    return finish(figure)


def draw_coverage(counts: LabelCounts, names: Sequence[str], where: str) -> "Figure":
    """Draw a bar per label of how many images have a known yes, a known no, and no known answer.

    Args:
        counts: What is known.
        names: The labels, in order.
        where: Of which images, for the title: "Known in training".

    Returns:
        A figure with at most 60 bars, of the labels with the most known positives.

    Raises:
        HalflabelError: If matplotlib is not installed.
    """
    order, clause = choose_labels(counts.positive, MOST_ROWS)
    share = f"{100 * counts.known_fraction:.0f} % of all entries" if counts.images else "no images"
    figure, axes = label_rows(f"Known in {where}: {share}\n{clause}", [names[i] for i in order])
    start = np.zeros(len(order))
    for text, colour, count in (
        ("known yes", YES, counts.positive),
        ("known no", NO, counts.negative),
        ("unknown (or uncertain)" if counts.uncertain.any() else "unknown", PALE, counts.images - counts.known),
    ):
        axes.barh(np.arange(len(order)), count[order], left=start, color=colour, height=0.8, label=text)
        start = start + count[order]
    for place, i in enumerate(order.tolist()):
        _beside(axes, place, f"{counts.positive[i]:,} yes, {counts.negative[i]:,} no")
    axes.set_xlim(0, max(counts.images, 1))
    axes.set_xlabel("images", fontsize=9)
    figure.legend(loc="outside lower left", ncols=3, frameon=False, fontsize=9)
    return finish(figure)


def draw_learning_curve(log_history: Sequence[Mapping[str, Any]]) -> "Figure":
    """Draw a run's training loss, and its known loss and mAP on the validation split, with the best mAP marked.

    Args:
        log_history: The Trainer's: entries with `epoch` and `loss`, or `eval_mAP` and `eval_known_loss`.

    Raises:
        HalflabelError: If matplotlib is not installed.
    """
    figure = new_figure(10, 4.2, "How the run learned")
    left, right = figure.subplots(1, 2)
    for key, colour, text in (
        ("loss", QUIET, "training loss (the loss that is trained)"),
        ("eval_known_loss", NO, "validation: cross-entropy of known entries"),
    ):
        epochs, values = _logged(log_history, key)
        if len(epochs):
            left.plot(epochs, values, ".-", color=colour, markersize=4, label=text)
    left.set_ylabel("loss")
    left.set_ylim(0, None)
    if left.lines:
        left.legend(frameon=False, fontsize=9)
    epochs, values = _logged(log_history, "eval_mAP")
    right.plot(epochs, values, ".-", color=YES, markersize=4)
    right.set_ylabel("validation mAP")
    if np.isfinite(values).any():
        best = int(np.nanargmax(values))
        right.plot(epochs[best], values[best], "o", color=BASE, markersize=9)
        right.set_title(f"best mAP {values[best]:.3f}, at epoch {epochs[best]:g}", fontsize=10, loc="left")
    else:
        right.text(0.5, 0.5, "nothing was validated", transform=right.transAxes, ha="center", color=QUIET)
    for axes in (left, right):
        axes.set_xlabel("epoch")
        axes.spines[["top", "right"]].set_visible(False)
    return finish(figure)


def _logged(log_history: Sequence[Mapping[str, Any]], key: str) -> tuple[Floats, Floats]:
    """Return the epochs at which a value was logged, and the values."""
    entries = [(entry["epoch"], entry[key]) for entry in log_history if key in entry]
    epochs, values = np.array(entries, dtype=np.float64).reshape(-1, 2).T
    return epochs, values


class _Shown:
    """The labels that get a panel: their columns of the matrices, and a clause that says which they are."""

    def __init__(self, scores: ArrayLike, labels: ArrayLike, names: Sequence[str], thresholds: ArrayLike = 0.5) -> None:
        values, matrix = check_pair(scores, labels, probabilities=True)
        names = check_names(names, matrix.shape[1])
        self.columns, self.clause = choose_labels(count_labels(matrix).positive)
        if len(self.columns) == len(names) > 1:
            self.clause += "; most known positives first"
        self.scores, self.labels = values[:, self.columns], matrix[:, self.columns]
        self.names = [names[i] for i in self.columns]
        self.thresholds = check_thresholds(thresholds, matrix.shape[1])[self.columns]
        self.counts = count_labels(self.labels)

    def fill(
        self, panels: "list[Axes]", x: str, y: str, why_empty: Callable[[LabelCounts, int], str]
    ) -> "Iterator[tuple[int, Axes, Floats, NDArray[Any]]]":
        """Prepare a panel per label, and yield it with the label's known scores and answers.

        Where `why_empty(counts, label)` gives a reason, that stands in the panel, and nothing is yielded.
        """
        for i, axes in enumerate(panels):
            axes.set_xlim(-0.02, 1.02)
            axes.set_ylim(-0.02, 1.04)
            axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
            axes.tick_params(labelsize=8)
            axes.spines[["top", "right"]].set_visible(False)
            axes.set_xlabel(x, fontsize=8)
            axes.set_ylabel(y, fontsize=8)
            if missing := why_empty(self.counts, i):
                _head(axes, self.names[i], "")
                axes.text(0.5, 0.5, missing, transform=axes.transAxes, ha="center", va="center", color=QUIET, wrap=True)
                continue
            known = self.labels[:, i] >= 0
            yield i, axes, self.scores[known, i].astype(np.float64), self.labels[known, i]


def choose_labels(positives: NDArray[np.integer], limit: int = MOST_PANELS) -> tuple[NDArray[np.intp], str]:
    """Return which labels to show, those with the most known positives first, and a clause that says which they are."""
    order = np.argsort(-positives, kind="stable")
    if len(order) > limit:
        return order[:limit], f"{limit} of {len(order)} labels: those with the most known positives"
    return order, "1 label" if len(order) == 1 else f"{len(order)} labels"


def _nothing_known(counts: LabelCounts, label: int) -> str:
    return "" if counts.known[label] else "nothing known"


def _why_undefined(counts: LabelCounts, label: int) -> str:
    """Say what a measure of how well a label is ranked lacks; "" where it lacks nothing."""
    if not counts.known[label]:
        return "undefined: nothing known"
    if not counts.positive[label]:
        return "undefined: no known positive"
    return "" if counts.negative[label] else "undefined: no known negative"


def _head(axes: "Axes", name: str, below: str) -> None:
    axes.set_title(f"{plain(name)}\n{below}", fontsize=8.5, loc="left")


def _beside(axes: "Axes", place: int, text: str) -> None:
    axes.text(1.02, place, text, va="center", fontsize=8, transform=axes.get_yaxis_transform())


def _explained(figure: "Figure", *entries: tuple[str, str, str]) -> "Figure":
    """Explain every mark, once for all panels: a key of `_MARKS` or `"patch"`, its colour, and the text."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Patch(color=colour, label=text) if mark == "patch" else Line2D([], [], color=colour, label=text, **_MARKS[mark])
        for mark, colour, text in entries
    ]
    figure.legend(handles=handles, loc="outside lower left", ncols=len(handles), frameon=False, fontsize=9)
    return finish(figure)


def _number(value: float) -> str:
    return "undefined" if np.isnan(value) else f"{value:.3f}"
