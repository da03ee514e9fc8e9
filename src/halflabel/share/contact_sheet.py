"""A sheet of thumbnails for entries that somebody should look at, drawn with Pillow."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image, ImageDraw

from ..data.images import AnnotatedImages
from ..model.decisions import say_threshold
from ..model.errors import HalflabelError
from ..model.image_processing_timm_multilabel import decode_image
from ..use.disagreements import KINDS, LEAST_SURE, LOOKS_NO, LOOKS_YES, SURELY_NO, SURELY_YES
from ..use.evaluation import Review
from .figures import NO, PALE, QUIET, YES, load_font, plain

_THUMB, _PAD, _TEXT, _HEAD, _NONE, _COLUMNS = 180, 12, 58, 50, 26, 6
_WIDTH = _PAD + _COLUMNS * (_THUMB + _PAD)
_INK = "#22262e"
_MOST = 60  # thumbnails of a kind; the table has all entries
_HEADINGS = {
    LOOKS_YES: "Annotated no, and the model is sure of yes: likely mistakes",
    LOOKS_NO: "Annotated yes, and the model is sure of no: likely mistakes",
    SURELY_YES: "Unknown, and the model is sure of yes: quickly confirmed",
    SURELY_NO: "Unknown, and the model is sure of no: quickly confirmed",
    LEAST_SURE: "Unknown, and the model is least sure: an answer teaches it most",
}


def draw_contact_sheet(table: pd.DataFrame, images: AnnotatedImages, path: Path, about: str = "") -> None:
    """Write a PNG with a thumbnail for each entry, its label, what is annotated and the score; a block per kind.

    Args:
        table: What `find_disagreements` returned, or some rows of it.
        images: The images that its `row` counts.
        path: The file to write.
        about: A line at the top, as `disagreements.about_splits` gives it.
    """
    kinds = [(kind, table[table["kind"] == kind]) for kind in KINDS]
    headings = [_HEADINGS[kind] + (f" ({_MOST} of {len(rows)})" if len(rows) > _MOST else "") for kind, rows in kinds]
    blocks = [(heading, rows.head(_MOST)) for heading, (_, rows) in zip(headings, kinds, strict=True)]
    heights = [_HEAD + (-(-len(rows) // _COLUMNS) * (_THUMB + _TEXT) or _NONE) for _, rows in blocks]
    sheet = Image.new("RGB", (_WIDTH, _HEAD + sum(heights) + _PAD), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((_PAD, _PAD), plain(about, _WIDTH - 2 * _PAD, load_font(13).getlength), fill=_INK, font=load_font(13))
    top = _HEAD
    for (heading, rows), height in zip(blocks, heights, strict=True):
        draw.text((_PAD, top + 12), heading, fill=_INK, font=load_font(17))
        if rows.empty:
            draw.text((_PAD, top + _HEAD), "none", fill=QUIET, font=load_font(13))
        for i, entry in enumerate(rows.to_dict("records")):
            left = _PAD + i % _COLUMNS * (_THUMB + _PAD)
            below = top + _HEAD + i // _COLUMNS * (_THUMB + _TEXT)
            sheet.paste(_thumbnail(images.dataset[int(entry["row"])]), (left, below))
            _write(draw, left, below + _THUMB + 4, entry)
        top += height
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def write_errors(found: Review, folder: Path) -> None:
    """Write what somebody should look at as `errors.csv`, and a contact sheet as `errors.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    found.table.drop(columns="row").to_csv(folder / "errors.csv", index=False)
    draw_contact_sheet(found.table, found.images, folder / "errors.png", found.about)


def _thumbnail(row: Mapping[str, Any]) -> Image.Image:
    """Return the whole picture on a square, or a grey square that says why it cannot be read."""
    try:
        picture = decode_image(row["image"], row["file_name"], shortest_side=_THUMB)
    except HalflabelError as error:
        tile = Image.new("RGB", (_THUMB, _THUMB), PALE)
        ImageDraw.Draw(tile).multiline_text((8, 8), _wrapped(str(error)), fill=_INK, font=load_font(11))
        return tile
    scale = _THUMB / max(picture.size)  # by hand, since ImageOps.pad fails on a line of pixels
    small = picture.resize([max(round(side * scale), 1) for side in picture.size])
    tile = Image.new("RGB", (_THUMB, _THUMB), "#f3f4f6")
    tile.paste(small, ((_THUMB - small.width) // 2, (_THUMB - small.height) // 2))
    return tile


def _wrapped(text: str) -> str:
    """Break a text into lines as wide as a tile, also within long words such as paths; what is too much is cut."""
    font, lines = load_font(11), [""]
    for letter in " ".join(text.split()):
        if font.getlength(lines[-1] + letter) > _THUMB - 16:
            lines.append("")
        lines[-1] += letter
    return "\n".join(line.strip() for line in lines[:11])


def _write(draw: ImageDraw.ImageDraw, left: int, top: int, entry: Mapping[Any, Any]) -> None:
    """Write three lines: the label; the annotation and the score; the file and where a yes starts."""
    known = entry["known"]
    answer, colour = (f"annotated {known}", YES if known == "yes" else NO) if known in ("yes", "no") else (known, QUIET)
    start = say_threshold(entry["threshold"])
    lines = (
        (f"{entry['rank']}. {entry['label']}", "", _INK, 13),
        (answer, f"score {entry['score']:.3f}", colour, 12),
        (entry["file_name"], start, QUIET, 10),
    )
    for i, (text, at_right, fill, size) in enumerate(lines):
        font = load_font(size)
        taken = font.getlength(at_right) + 6 if at_right else 0
        draw.text((left, top + 16 * i), plain(text, _THUMB - taken, font.getlength), fill=fill, font=font)
        draw.text((left + _THUMB + 6 - taken, top + 16 * i), at_right, fill=_INK if size == 12 else fill, font=font)
