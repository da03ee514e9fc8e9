"""Plots of what was measured, over known entries only, and of how a run learned; and what all pictures share.

Figures need no display, and names are shown as they are written. The colours are of Okabe and Ito's palette, told apart
by the colour-blind.
"""

import unicodedata
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import ImageFont
from sklearn.metrics import precision_recall_curve

from ..data.files import whole_file
from ..metrics.answers import check_thresholds, precision, recall
from ..metrics.calibration import BINS, calibration_error
from ..metrics.entries import Floats, check_pair, mean_defined, ratio
from ..metrics.intervals import wilson_interval
from ..metrics.ranking import average_precision
from ..metrics.report import check_names
from ..model.decisions import say_threshold
from ..model.errors import HalflabelError
from ..model.labels import LabelCounts, count_labels
from ..use.evaluate import Measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PANELS, MOST_ROWS = 24, 60
YES, NO, BASE, PALE, QUIET, INK = "#0072b2", "#d55e00", "#009e73", "#d7dae0", "#6b717c", "#22262e"
# Looked for beside DejaVu Sans, which holds Latin, Greek, Cyrillic, Arabic and Hebrew letters, but no Asian ones.
_FAMILIES = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans Devanagari", "Noto Sans Thai", "WenQuanYi Zen Hei",
    "Microsoft YaHei", "Malgun Gothic", "Nirmala UI", "PingFang SC", "Hiragino Sans", "Arial Unicode MS",
)  # fmt: skip
_FONT_FILES = ("NotoSansCJK-Regular.ttc", "DejaVuSans.ttf", "Arial Unicode.ttf", "arial.ttf")


def check_drawing() -> None:
    """Refuse, before any work is done for them, pictures that cannot be drawn for want of matplotlib."""
    if find_spec("matplotlib") is None:
        raise HalflabelError("pictures need matplotlib: pip install 'halflabel[plots]'")


def new_figure(width: float, height: float, title: str) -> "Figure":
    """Return an empty figure of so many inches, which no window and no state of pyplot belongs to."""
    check_drawing()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    return figure


def grid(count: int, title: str) -> "tuple[Figure, list[Axes]]":
    """Return a figure with so many panels, in rows of at most six."""
    columns = count if count <= 6 else 4 if count <= 12 else 5 if count <= 20 else 6
    rows = -(-count // columns)
    figure = new_figure(max(2.7 * columns, 6.5), 2.6 * rows + 1.1, title)
    panels = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for surplus in panels[count:]:
        surplus.remove()
    return figure, panels[:count]


def label_rows(title: str, names: list[str]) -> "tuple[Figure, Axes]":
    """Return a figure with a row per label, the first at the top."""
    figure = new_figure(9, 0.24 * len(names) + 1.8, title)
    axes = figure.subplots()
    axes.set_yticks(range(len(names)), [plain(name, 32) for name in names], fontsize=8.5)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure, axes


def save(figure: "Figure", path: Path) -> Path:
    """Write a figure to a PNG file, with every text as it is written: `$` starts no formula, scripts find their font.

    Letters that no installed font has are boxes; the Noto fonts have most scripts.
    """
    from matplotlib import font_manager
    from matplotlib.text import Text

    families = ["DejaVu Sans", *(name for name in _FAMILIES if name in font_manager.get_font_names())]
    for text in figure.findobj(Text):
        text.set_parse_math(False)
        text.set_fontfamily(families)
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph ")  # one a letter
        with whole_file(path) as unfinished:
            figure.savefig(unfinished, dpi=110, format="png")
    return path


def letters(text: str) -> int:
    """Return how wide a text is, in Latin letters; an Asian letter is as wide as two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def plain(name: str, limit: float = 26, measure: Callable[[str], float] = letters) -> str:
    """Return a name for one line of a picture; from the middle of a longer one letters are left out.

    Args:
        name: Any text; line breaks and what cannot be printed become spaces.
        limit: The largest width.
        measure: The width of a text; a Pillow font's `getlength` gives pixels.
    """
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in name).split())
    if measure(line) <= limit:
        return line
    end = line[-20:]
    while end and measure(end) > limit / 3:
        end = end[1:]
    start = line[:400]
    while start and measure(f"{start}…{end}") > limit:
        start = start[:-1]
    return f"{start.rstrip()}…{end.lstrip()}"


@cache
def load_font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return a font for Pillow: its own has no accented letters, so it is taken only where there is no other."""
    matplotlib = find_spec("matplotlib")
    bundled = [] if matplotlib is None else [f"{Path(str(matplotlib.origin)).parent}/mpl-data/fonts/ttf/DejaVuSans.ttf"]
    for name in [*_FONT_FILES, *bundled]:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)


def draw_measured(folder: Path, measured: Measured) -> list[Path]:
    """Write pictures of a measured model, and return the files; intervals are drawn where they were measured."""
    names, rows = list(measured.metrics["labels"]), list(measured.metrics["labels"].values())
    ends = [row.get("AP_interval") for row in rows]
    intervals = None if None in ends else np.array(ends, dtype=np.float64).T
    scores, labels, thresholds = measured.rule.scores(measured.logits), measured.labels, measured.rule.thresholds
    figures = {
        "average_precision": draw_average_precision(scores, labels, names, intervals),
        "precision_recall": draw_precision_recall(scores, labels, names, thresholds),
        "reliability": draw_reliability(scores, labels, names),
    }
    return [save(figure, folder / f"{name}.png") for name, figure in figures.items()]


def draw_training(
    folder: Path, log_history: Sequence[Mapping[str, Any]], counts: LabelCounts, names: Sequence[str]
) -> list[Path]:
    """Write pictures of how a run learned, and from what was known; arguments and errors are those of the two."""
    figures = {
        "learning_curve": draw_learning_curve(log_history),
        "coverage": draw_coverage(counts, names, "training"),
    }
    return [save(figure, folder / f"{name}.png") for name, figure in figures.items()]


def draw_precision_recall(
    scores: ArrayLike, labels: ArrayLike, names: Sequence[str], thresholds: ArrayLike
) -> "Figure":
    """Draw the precision-recall curve of each label, the point that its threshold chooses, and what guessing reaches.

    Args:
        scores: Shape (n, num_labels); probabilities in 0..1.
        labels: Same shape: 1, 0, or below 0 for unknown and uncertain entries.
        names: The labels, in order.
        thresholds: A number, or one per label; a score of at least this is a yes.

    Returns:
        A figure with a panel for each of at most 24 labels, those with the most known positives.

    Raises:
        HalflabelError: On scores, labels, names or thresholds that are not such, or if matplotlib is not installed.
    """
    figure, filled = _panels(scores, labels, names, "Precision against recall", "recall", "precision")
    limits = check_thresholds(thresholds, len(names))
    for i, axes, score, answer in filled:
        column, truth = score[:, None], answer[:, None]
        curve = precision_recall_curve(answer, score)
        axes.plot(curve[1], curve[0], color=YES, drawstyle="steps-post")
        axes.axhline(answer.mean(), color=QUIET, linestyle=":")
        (right,), (found,) = precision(column, truth, limits[i]), recall(column, truth, limits[i])
        axes.plot(found, right, "o", color=NO, markersize=7)  # nothing where the precision is NaN
        reached = "none reaches it" if np.isnan(right) else f"P {right:.2f}, R {found:.2f}"
        ap = f"AP {average_precision(column, truth)[0]:.3f}"
        _head(axes, names[i], f"{ap}\n{say_threshold(limits[i])}: {reached}")
    return _explained(
        figure,
        ("-", YES, "every threshold"),
        ("o", NO, "the model's threshold (P: precision, R: recall)"),
        (":", QUIET, "guessing: the share of yes"),
    )


def draw_reliability(scores: ArrayLike, labels: ArrayLike, names: Sequence[str]) -> "Figure":
    """Draw, for each label, the share of yes among the known entries of about the same score.

    The bins are those of `calibration_error`; arguments, result and errors are those of `draw_precision_recall`.
    """
    title = "Reliability: is a score of 0.7 a yes in 7 of 10 cases?"
    figure, filled = _panels(scores, labels, names, title, "score", "share of yes")
    for i, axes, score, answer in filled:
        place = np.searchsorted(np.arange(1, BINS) / BINS, score, "right")
        count, claimed, true = (np.bincount(place, weights, BINS) for weights in (None, score, answer))
        axes.plot([0, 1], [0, 1], color=QUIET, linestyle=":")
        some = count > 0
        mean, share = claimed[some] / count[some], true[some] / count[some]
        axes.vlines(mean, *wilson_interval(true[some], count[some]), color=YES, alpha=0.35, linewidth=2)
        axes.plot(mean, share, "o", color=YES, markersize=4.5)
        error = calibration_error(score[:, None], answer[:, None])[0]
        _head(axes, names[i], f"calibration error {error:.3f}, {len(answer):,} known")
    return _explained(
        figure,
        ("o", YES, f"entries of about the same score, in {BINS} bins, with 95 % intervals"),
        (":", QUIET, "perfect: share of yes = score"),
    )


def draw_average_precision(
    scores: ArrayLike, labels: ArrayLike, names: Sequence[str], intervals: ArrayLike | None = None
) -> "Figure":
    """Draw a bar per label, best first: its average precision, its interval, and what guessing reaches.

    At most 60, of the labels with the most known positives. `intervals` has shape (2, num_labels), the ends of
    each; other arguments and errors are those of `draw_precision_recall`.
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
        if missing := _missing(counts, i):
            axes.text(0.01, place, missing, va="center", fontsize=8, color=QUIET)
        _beside(axes, place, f"{_number(ap[i])}   {counts.positive[i]:,} yes of {counts.known[i]:,} known")
    axes.set_xlim(0, 1)
    figure.legend(loc="outside lower left", ncols=2, frameon=False, fontsize=9)
    return figure


def draw_coverage(counts: LabelCounts, names: Sequence[str], where: str) -> "Figure":
    """Draw a bar per label of how many images have a known yes, a known no, and no known answer.

    At most 60, of the labels with the most known positives; `where` says of which images: "Known in training".
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
    return figure


def draw_learning_curve(log_history: Sequence[Mapping[str, Any]]) -> "Figure":
    """Draw a run's training loss, and its known loss and mAP on the validation split, with the best mAP marked.

    The Trainer logs entries with `epoch` and `loss`, or `eval_mAP` and `eval_known_loss`.
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
    return figure


def _logged(log_history: Sequence[Mapping[str, Any]], key: str) -> tuple[Floats, Floats]:
    """Return the epochs at which a value was logged, and the values."""
    entries = [(entry["epoch"], entry[key]) for entry in log_history if key in entry]
    epochs, values = np.array(entries, dtype=np.float64).reshape(-1, 2).T
    return epochs, values


def _panels(
    scores: ArrayLike, labels: ArrayLike, names: Sequence[str], title: str, x: str, y: str
) -> "tuple[Figure, list[tuple[int, Axes, Floats, NDArray[Any]]]]":
    """Return a figure with a panel per label, and for each its place, its panel, and its known scores and answers.

    Where there is not a known yes and a known no, the panel says so, and is not in the list.
    """
    values, matrix = check_pair(scores, labels, probabilities=True)
    names, counts = check_names(names, matrix.shape[1]), count_labels(matrix)
    chosen, clause = choose_labels(counts.positive)
    figure, panels = grid(len(chosen), f"{title}\n{clause}")
    filled = []
    for i, axes in zip(chosen.tolist(), panels, strict=True):
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.04)
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel(x, fontsize=8)
        axes.set_ylabel(y, fontsize=8)
        if missing := _missing(counts, i):
            _head(axes, names[i], "")
            axes.text(0.5, 0.5, missing, transform=axes.transAxes, ha="center", va="center", color=QUIET, wrap=True)
        else:
            known = matrix[:, i] >= 0
            filled.append((i, axes, values[known, i].astype(np.float64), matrix[known, i]))
    return figure, filled


def choose_labels(positives: NDArray[np.integer], limit: int = MOST_PANELS) -> tuple[NDArray[np.intp], str]:
    """Return which labels to show, those with the most known positives first, and a clause that says which they are."""
    order = np.argsort(-positives, kind="stable")
    if len(order) > limit:
        return order[:limit], f"{limit} of {len(order)} labels: those with the most known positives"
    return order, "1 label" if len(order) == 1 else f"{len(order)} labels"


def _missing(counts: LabelCounts, label: int) -> str:
    """Say what a label lacks to be measured; "" where it lacks nothing."""
    if not counts.known[label]:
        return "nothing known"
    if not counts.positive[label]:
        return "no known positive"
    return "" if counts.negative[label] else "no known negative"


def _head(axes: "Axes", name: str, below: str) -> None:
    axes.set_title(f"{plain(name)}\n{below}", fontsize=8.5, loc="left")


def _beside(axes: "Axes", place: int, text: str) -> None:
    axes.text(1.02, place, text, va="center", fontsize=8, transform=axes.get_yaxis_transform())


def _explained(figure: "Figure", *entries: tuple[str, str, str]) -> "Figure":
    """Explain every mark, once for all panels: `o` or the style of a line, its colour, and the text."""
    from matplotlib.lines import Line2D

    styles: dict[str, Any] = {"o": {"ls": "", "marker": "o"}}
    handles = [Line2D([], [], color=hue, label=text, **styles.get(mark, {"ls": mark})) for mark, hue, text in entries]
    columns = len(handles) if figure.get_figwidth() > 11 else 1  # side by side they are about 10 inches wide
    figure.legend(handles=handles, loc="outside lower left", ncols=columns, frameon=False, fontsize=9)
    return figure


def _number(value: float) -> str:
    return "undefined" if np.isnan(value) else f"{value:.3f}"
