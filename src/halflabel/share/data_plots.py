"""Pictures of what is known: which image has which answers, and which labels were asked together."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from ..data.images import AnnotatedImages
from ..model.errors import HalflabelError
from ..model.labels import UNCERTAIN
from .figures import finish, plain, save

_MOST_LABELS, _MOST_ROWS = 60, 400
# Okabe and Ito's palette: told apart by the colour-blind. Unknown is the paper.
_COLOURS = {"unknown": "#f2f2f2", "no": "#d55e00", "uncertain": "#f0e442", "yes": "#0072b2"}


def draw_coverage(images: AnnotatedImages, path: Path) -> None:
    """Write a PNG: left the answers (images x labels), right how many images have both of two labels known.

    Images are put in order of their split and of which labels they have known. Of more than 400 images, evenly chosen
    ones are drawn; of more than 60 labels, those with the most known entries.

    Raises:
        HalflabelError: If matplotlib is not installed.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
        from matplotlib.colors import ListedColormap
        from matplotlib.patches import Patch
    except ImportError as error:
        raise HalflabelError("pictures need matplotlib: pip install 'halflabel[plots]'") from error
    known = images.labels >= 0
    chosen = np.sort(np.argsort(-known.sum(axis=0), kind="stable")[:_MOST_LABELS])
    names = [plain(images.label_space.names[i]) for i in chosen]
    rows = _ordered_rows(images, known)
    codes = images.labels[rows][:, chosen]
    shown = np.select([codes == 1, codes == 0, codes == UNCERTAIN], [3, 1, 2], 0)
    side = max(4.5, 0.28 * len(names))
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(2 * side + 2, side + 1.6), layout="constrained")
    left.imshow(
        shown, aspect="auto", interpolation="nearest", cmap=ListedColormap(list(_COLOURS.values())), vmin=0, vmax=3
    )
    left.set_title(f"What is known: {100 * known.mean():.0f} % of the entries")
    left.set_ylabel(f"images ({len(rows)} of {len(images)})" if len(rows) < len(images) else f"{len(images)} images")
    left.set_xticks(range(len(names)), names, rotation=90)
    _mark_splits(left, images.column("split")[rows])
    together = known[:, chosen].astype(np.int64).T @ known[:, chosen].astype(np.int64)
    drawn = right.imshow(together, cmap="cividis", vmin=0)
    right.set_title("Images in which both labels are known")
    right.set_xticks(range(len(names)), names, rotation=90)
    right.set_yticks(range(len(names)), names)
    if len(names) <= 12:
        for (i, j), value in np.ndenumerate(together):
            colour = "white" if value < together.max() / 2 else "black"
            right.text(j, i, str(value), ha="center", va="center", color=colour, fontsize=9)
    figure.colorbar(drawn, ax=right, shrink=0.8)
    figure.legend(handles=[Patch(facecolor=c, edgecolor="#999999", label=n) for n, c in _COLOURS.items()],
                  loc="outside upper center", ncols=4, frameon=False)  # fmt: skip
    save(finish(figure), path)
    pyplot.close(figure)


def _mark_splits(axes: Any, splits: np.ndarray) -> None:  # noqa: ANN401 - matplotlib's
    """Draw a line between the splits, and say which each is."""
    if (splits == "").all():
        return
    starts = [0, *(np.flatnonzero(splits[1:] != splits[:-1]) + 1), len(splits)]
    for start, end in itertools.pairwise(starts):
        if start:
            axes.axhline(start - 0.5, color="black", linewidth=1.5)
        axes.text(1.005, (start + end - 1) / 2, splits[start] or "no split", rotation=270, va="center", ha="left",
                  transform=axes.get_yaxis_transform(), fontsize=9)  # fmt: skip


def _ordered_rows(images: AnnotatedImages, known: np.ndarray) -> np.ndarray:
    splits = images.column("split").astype(str)
    patterns = np.unique(known, axis=0, return_inverse=True)[1] if known.shape[1] <= 64 else known.sum(axis=1)
    order: np.ndarray = np.lexsort((np.ravel(patterns), splits))
    if len(order) <= _MOST_ROWS:
        return order
    evenly = np.linspace(0, len(order) - 1, _MOST_ROWS).round().astype(int)
    return np.asarray(order[evenly])
