"""One picture for all labels: average precision, what is known, how a run learned; and the whole set at once."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..metrics.entries import Floats, check_pair, mean_defined, ratio
from ..metrics.ranking import average_precision
from ..metrics.report import check_names
from ..model.labels import LabelCounts, count_labels
from ..use.evaluation import Measured
from .figures import BASE, NO, PALE, QUIET, YES, choose_labels, finish, new_figure, plain, save, why_undefined
from .metric_plots import draw_precision_recall, draw_reliability, draw_score_histograms

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_ROWS = 60


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
        scores: As in `metric_plots.draw_precision_recall`, and so are labels, names, thresholds and intervals.
        labels: What the scores are measured against.
        names: The labels, in order.
        thresholds: A number, or one per label.
        intervals: Of each AP, shape (2, num_labels).
        log_history: The Trainer's, `trainer.state.log_history`; None: no learning curve is drawn.
        counts: What is known in training; None: what is known of the measured images is drawn.

    Returns:
        The files: `average_precision.png`, `precision_recall.png`, `reliability.png`, `score_histograms.png`,
        `coverage.png`, and with a history `learning_curve.png`.

    Raises:
        HalflabelError: As `metric_plots.draw_precision_recall`.
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
) -> None:
    """Draw what was measured, see `draw_metrics`; intervals are drawn where they were measured.

    Args:
        folder: Where to; it is made.
        measured: What was measured.
        log_history: The run's, for its learning curve.
        counts: What was known in training.
    """
    found = measured.metrics["labels"]
    rows = [row.get("AP_interval") for row in found.values()]
    ends = None if None in rows else np.array(rows, dtype=np.float64).T
    scores, thresholds = measured.rule.scores(measured.logits), measured.rule.thresholds
    draw_metrics(folder, scores, measured.labels, list(found), thresholds, ends, log_history, counts)


def draw_average_precision(
    scores: ArrayLike, labels: ArrayLike, names: Sequence[str], intervals: ArrayLike | None = None
) -> "Figure":
    """Draw a bar per label, best first: its average precision, its interval, and what guessing reaches.

    Arguments and errors are those of `metric_plots.draw_precision_recall`.

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
    figure, axes = _rows(f"{title}\n{clause}; best first", [names[i] for i in order])
    places = np.arange(len(order))
    axes.barh(places, ap[order], color=YES, alpha=0.6, height=0.7)
    if intervals is not None:
        ends = np.asarray(intervals, dtype=np.float64)[:, order]
        axes.hlines(places, *ends, color="black", linewidth=1.4, label="confidence interval")
    guess = np.where(np.isnan(ap), np.nan, ratio(counts.positive, counts.known))
    axes.plot(guess[order], places, "|", color=NO, markersize=9, markeredgewidth=2, label="guessing: the share of yes")
    for place, i in enumerate(order.tolist()):
        if missing := why_undefined(counts, i):
            axes.text(0.01, place, missing, va="center", fontsize=8, color=QUIET)
        of = f"{_number(ap[i])}   {counts.positive[i]:,} yes of {counts.known[i]:,} known"
        axes.text(1.02, place, of, va="center", fontsize=8, transform=axes.get_yaxis_transform())
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
    figure, axes = _rows(f"Known in {where}: {share}\n{clause}", [names[i] for i in order])
    start = np.zeros(len(order))
    for text, colour, count in (
        ("known yes", YES, counts.positive),
        ("known no", NO, counts.negative),
        ("unknown (or uncertain)" if counts.uncertain.any() else "unknown", PALE, counts.images - counts.known),
    ):
        axes.barh(np.arange(len(order)), count[order], left=start, color=colour, height=0.8, label=text)
        start = start + count[order]
    for place, i in enumerate(order.tolist()):
        axes.text(1.02, place, f"{counts.positive[i]:,} yes, {counts.negative[i]:,} no", va="center", fontsize=8,
                  transform=axes.get_yaxis_transform())  # fmt: skip
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


def _rows(title: str, names: Sequence[str]) -> "tuple[Figure, Axes]":
    """Return a figure with a row per label, the first at the top."""
    figure = new_figure(9, 0.24 * len(names) + 1.8, title)
    axes = figure.subplots()
    axes.set_yticks(range(len(names)), [plain(name, 32) for name in names], fontsize=8.5)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure, axes


def _number(value: float) -> str:
    return "undefined" if np.isnan(value) else f"{value:.3f}"
