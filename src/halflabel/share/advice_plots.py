"""Pictures of advice: what pretraining is worth, how probes learn, and which labels need the same features."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .figures import NO, PALE, QUIET, YES, finish, grid, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_ROWS, MOST_CURVES = 40, 12
_COLOURS = {"pretrained": YES, "random": NO}
_WORDS = {"pretrained": "pretrained weights", "random": "random weights"}


def draw_transfer(rows: Mapping[str, Mapping[str, Any]], backbone: str) -> "Figure | None":
    """Draw each label's AUROC with pretrained and with random weights, with 95 % intervals.

    Args:
        rows: By label, those of one backbone in `transfer_advice`.
        backbone: Its name.

    Returns:
        A figure with at most 40 labels, those with the largest difference; None where nothing is measured.
    """
    measured = {name: row["auroc"] for name, row in rows.items() if row["auroc"]}
    if not measured:
        return None
    order = sorted(measured, key=lambda name: -abs(measured[name]["difference"]))[:MOST_ROWS]
    order.sort(key=lambda name: -measured[name]["difference"])
    most = "" if len(order) == len(measured) else f"; the {len(order)} of {len(measured)} labels that differ most"
    figure = new_figure(
        9, 0.34 * len(order) + 1.9, f"What pretraining is worth to a probe: {plain(backbone, 40)}{most}"
    )
    axes = figure.subplots()
    for kind, offset in (("pretrained", -0.14), ("random", 0.14)):
        for place, name in enumerate(order):
            auroc = measured[name]
            ends = auroc[f"{kind}_low"], auroc[f"{kind}_high"]
            axes.plot(ends, [place + offset] * 2, color=_COLOURS[kind], linewidth=2.2, alpha=0.45)
        points = [measured[name][kind] for name in order]
        axes.plot(points, np.arange(len(order)) + offset, "o", color=_COLOURS[kind], markersize=6, label=_WORDS[kind])
    axes.axvline(0.5, color=QUIET, linestyle=":", label="guessing")
    for place, name in enumerate(order):
        text = f"{measured[name]['difference']:+.2f}  {rows[name]['verdict']}"
        axes.text(1.02, place, text, va="center", fontsize=8.5, transform=axes.get_yaxis_transform())
    _rows(axes, order)
    axes.set_xlim(min(0.4, axes.get_xlim()[0]), 1.0)
    axes.set_xlabel("AUROC on held-out folds", fontsize=9)
    figure.legend(loc="outside lower left", ncols=3, frameon=False, fontsize=9)
    return finish(figure)


def draw_learning_curves(rows: Mapping[str, Mapping[str, Any]], backbone: str) -> "Figure | None":
    """Draw each label's AUROC against the number of known answers; arguments and result as of `draw_transfer`."""
    curves = {name: row["curve"] for name, row in rows.items() if row["curve"]}
    if not curves:
        return None
    order = sorted(curves, key=lambda name: -rows[name]["known"])[:MOST_CURVES]
    most = "" if len(order) == len(curves) else f"; {len(order)} of {len(curves)} labels, those with most known answers"
    figure, panels = grid(len(order), f"How much a probe learns from few answers: {plain(backbone, 40)}{most}")
    for name, axes in zip(order, panels, strict=True):
        curve = curves[name]
        for kind, colour in _COLOURS.items():
            low, high = (_numbers(curve[f"{kind}_{end}"]) for end in ("low", "high"))
            axes.fill_between(curve["n"], low, high, color=colour, alpha=0.15, linewidth=0)
            axes.plot(curve["n"], _numbers(curve[kind]), ".-", color=colour, markersize=5)
        axes.axhline(0.5, color=QUIET, linestyle=":", linewidth=1)
        axes.set_xscale("log", base=2)
        axes.set_xticks(curve["n"], [str(n) if i % 2 == 0 else "" for i, n in enumerate(curve["n"])], fontsize=7.5)
        axes.minorticks_off()
        axes.set_ylim(0.3, 1.02)
        axes.set_title(plain(name, 24), fontsize=9, loc="left")
        axes.set_xlabel("known answers", fontsize=8)
        axes.set_ylabel("AUROC", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    for kind, colour in _COLOURS.items():
        panels[0].plot([], [], ".-", color=colour, label=_WORDS[kind])
    figure.legend(loc="outside lower left", ncols=2, frameon=False, fontsize=9)
    return finish(figure)


def draw_affinity(shared: Mapping[str, Any]) -> "Figure | None":
    """Draw what a step on one label does to the loss of another.

    Args:
        shared: `shared_features` of `multitask_advice`.

    Returns:
        A matrix of all its labels; a pair whose interval excludes 0 is framed.
    """
    names = shared["labels"]
    values = 100 * np.array(shared["affinity"], dtype=np.float64)
    off = values[~np.eye(len(names), dtype=bool)]
    limit = max(float(np.nanmax(np.abs(off))) if np.isfinite(off).any() else 0.0, 1e-3)
    side = 0.46 * len(names) + 3.2
    figure = new_figure(max(side + 1.2, 6.5), side, "What a small step on one label does to the loss of another")
    axes = figure.subplots()
    shown = np.where(np.eye(len(names), dtype=bool), np.nan, values)
    axes.set_facecolor(PALE)
    image = axes.imshow(shown, cmap="RdBu", vmin=-limit, vmax=limit)
    sure = {frozenset((row["a"], row["b"])) for row in shared["pairs"] if row["verdict"] != "no evidence"}
    for i, first in enumerate(names):
        for j, second in enumerate(names):
            if i == j:
                continue
            if len(names) <= 12 and np.isfinite(values[i, j]):
                dark = abs(values[i, j]) > 0.6 * limit
                axes.text(j, i, f"{values[i, j]:+.2f}", ha="center", va="center", fontsize=8,
                          color="white" if dark else "black")  # fmt: skip
            if frozenset((first, second)) in sure:
                axes.add_patch(_frame(j, i))
    short = [plain(name, 20) for name in names]
    axes.set_xticks(range(len(names)), short, rotation=45, ha="right", fontsize=8.5)
    axes.set_yticks(range(len(names)), short, fontsize=8.5)
    axes.set_xlabel("loss of", fontsize=9)
    axes.set_ylabel("step on", fontsize=9)
    bar = figure.colorbar(image, ax=axes, shrink=0.8)
    bar.set_label("% of the loss taken off (blue) or added (red)", fontsize=8.5)
    figure.text(0.01, 0.005, "framed: the interval of the pair excludes 0", fontsize=8.5, color=QUIET)
    return finish(figure)


def _frame(column: int, row: int) -> Any:  # noqa: ANN401 - matplotlib is imported where it is used
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.46, row - 0.46), 0.92, 0.92, fill=False, edgecolor="#e69f00", linewidth=2.6)


def _rows(axes: "Axes", names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), [plain(name, 30) for name in names], fontsize=8.5)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _numbers(values: Sequence[float | None]) -> Any:  # noqa: ANN401 - None, which is undefined, becomes NaN
    return np.array(values, dtype=np.float64)
