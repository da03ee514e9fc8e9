"""The picture of advice: what pretraining is worth."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .figures import NO, QUIET, YES, finish, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_ROWS = 40
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


def _rows(axes: "Axes", names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), [plain(name, 30) for name in names], fontsize=8.5)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
