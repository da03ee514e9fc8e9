"""What the pictures share: figures that need no display, names shown as they are written, a grid of panels, colours.

The colours are of Okabe and Ito's palette, told apart by the colour-blind.
"""

import logging
import unicodedata
import warnings
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import ImageFont

from ..model.errors import HalflabelError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)
YES, NO, BASE, PALE, QUIET, INK = "#0072b2", "#d55e00", "#009e73", "#d7dae0", "#6b717c", "#22262e"
# Looked for beside DejaVu Sans, which holds Latin, Greek, Cyrillic, Arabic and Hebrew letters, but no Asian ones.
_FAMILIES = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans Devanagari", "Noto Sans Thai", "WenQuanYi Zen Hei",
    "Microsoft YaHei", "Malgun Gothic", "Nirmala UI", "PingFang SC", "Hiragino Sans", "Arial Unicode MS",
)  # fmt: skip
_FONT_FILES = ("NotoSansCJK-Regular.ttc", "DejaVuSans.ttf", "Arial Unicode.ttf", "arial.ttf")


def check_drawing() -> None:
    """Refuse, before any work is done for them, pictures that cannot be drawn.

    Raises:
        HalflabelError: If matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise HalflabelError("pictures need matplotlib: pip install 'halflabel[plots]'")


def new_figure(width: float, height: float, title: str) -> "Figure":
    """Return an empty figure of so many inches, which no window and no state of pyplot belongs to.

    Raises:
        HalflabelError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise HalflabelError("pictures need matplotlib: pip install 'halflabel[plots]'") from error
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


def finish(figure: "Figure") -> "Figure":
    """Have every text shown as it is written: `$` starts no formula, and other scripts find their font."""
    from matplotlib import font_manager
    from matplotlib.text import Text

    families = ["DejaVu Sans", *(name for name in _FAMILIES if name in font_manager.get_font_names())]
    for text in figure.findobj(Text):
        text.set_parse_math(False)
        text.set_fontfamily(families)
    return figure


def save(figure: "Figure", path: Path) -> Path:
    """Write a figure to a PNG file, and say, once, if letters have no font."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure.savefig(path, dpi=110, format="png")
    for warning in caught:
        if str(warning.message).startswith("Glyph "):
            _tell_of_boxes()
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return path


@cache
def _tell_of_boxes() -> None:
    log.warning("some letters in pictures are boxes: no installed font has them; the Noto fonts have most scripts")


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
