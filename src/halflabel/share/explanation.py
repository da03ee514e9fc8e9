"""The picture of an explanation: what the network saw, and a map over it for each label."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..model.decisions import say_threshold
from ..use.explain import Explanation, LabelMap
from .figures import NO, QUIET, YES, finish, grid, plain, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_explanation(explanation: Explanation) -> "Figure":
    """Draw what the network saw, and a panel per label with its map over it, its score and the answer.

    Raises:
        HalflabelError: If matplotlib is not installed.
    """
    figure, panels = grid(1 + len(explanation.labels), "Where the picture speaks for a label")
    for axes in panels:
        axes.set_axis_off()
    panels[0].imshow(explanation.view)
    panels[0].set_title("what the model sees of it\n(resized and cropped)", fontsize=9, loc="left")
    grey = np.asarray(explanation.view.convert("L"))
    for axes, found in zip(panels[1:], explanation.labels, strict=True):
        axes.imshow(grey, cmap="gray", vmin=0, vmax=255)
        axes.imshow(found.heat_map, cmap="inferno", vmin=0, vmax=1, alpha=0.75 * found.heat_map)
        colour = YES if found.decision else NO
        axes.set_title(f"{plain(found.label)}\n{_answer(found)}", fontsize=9, loc="left", color=colour)
        if not found.heat_map.any():
            frame = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85}
            axes.text(0.5, 0.5, "no single place\nspeaks for this label", transform=axes.transAxes, ha="center",
                      va="center", fontsize=9, bbox=frame)  # fmt: skip
    explained = (
        "Bright: speaks most for the label; grey: does not. Each map has its own scale, the score says how much."
    )
    figure.supxlabel(explained, fontsize=9, color=QUIET, x=0.01, ha="left")
    return finish(figure)


def write_explanation(path: Path, explanation: Explanation) -> None:
    """Write `draw_explanation` to a PNG file."""
    save(draw_explanation(explanation), path)


def _answer(found: LabelMap) -> str:
    return f"{'yes' if found.decision else 'no'}: score {found.score:.3g}, {say_threshold(found.threshold)}"
