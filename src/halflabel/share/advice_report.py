"""Advice as files: one HTML page that fetches nothing, and JSON."""

import base64
import json
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from ..studies.held_out import MIN_GROUPS
from .advice_plots import draw_transfer
from .figures import save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_ROWS = 100
_TEMPLATE = Path(__file__).with_name("advice_template.html.jinja")
_MARKS = {"helps": "good", "enough": "good", "similar": "good", "big enough": "good",
          "far more source images": "good", "hurts": "bad", "unequal": "bad",
          "mixed": "mixed"}  # fmt: skip


def write_report(advice: Mapping[str, Any], stem: Path) -> list[Path]:
    """Write `<stem>.html` and `<stem>.json`.

    Args:
        advice: What `advice.advise` found.
        stem: The files without their endings; the folder must be there.

    Returns:
        The files.
    """
    page, content = (stem.with_name(f"{stem.name}.{ending}") for ending in ("html", "json"))
    text = json.dumps(advice, indent=1, ensure_ascii=False, allow_nan=False)
    content.write_text(text + "\n", encoding="utf-8")
    page.write_text(render_page(advice), encoding="utf-8")
    return [page, content]


def render_page(advice: Mapping[str, Any]) -> str:
    """Render one HTML page with all pictures inside; without matplotlib it holds none, and says so."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=True, trim_blocks=True)
    environment.filters.update(number=_number, signed=_signed, mark=lambda word: _MARKS.get(word, ""))
    rows = sorted(advice["data"]["labels"].items(), key=lambda row: -row[1]["known"])
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        advice=advice,
        data=advice["data"],
        transfer=advice["transfer"],
        multi=advice["multi_task"],
        rows=rows[:MOST_ROWS],
        rows_left_out=max(0, len(rows) - MOST_ROWS),
        least=MIN_GROUPS,
        pictures=_draw(advice) if find_spec("matplotlib") else None,
    )


def _draw(advice: Mapping[str, Any]) -> dict[str, str]:
    """Return pictures as data URLs, by name; those of the backbone that was found best."""
    transfer = advice["transfer"]
    figures: dict[str, Figure | None] = {}
    best = transfer["best_backbone"] or next(iter(transfer["backbones"]), None)
    if best is not None:
        rows = transfer["backbones"][best]["labels"]
        figures["transfer"] = draw_transfer(rows, best)
    return {name: _inline(figure) for name, figure in figures.items() if figure is not None}


def _inline(figure: "Figure") -> str:
    with tempfile.TemporaryDirectory() as folder:
        content = save(figure, Path(folder) / "picture.png").read_bytes()
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def _number(value: float | None, digits: int = 2) -> str:
    return "undefined" if value is None else f"{value:z.{digits}f}"  # z: no minus before a zero


def _signed(value: float | None, digits: int = 2) -> str:
    return "undefined" if value is None else f"{value:+z.{digits}f}"
