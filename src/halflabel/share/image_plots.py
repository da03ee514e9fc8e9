"""Pictures of pictures: training examples, a contact sheet of what to look at, heat maps."""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

from ..data.files import whole_file
from ..data.images import AnnotatedImages
from ..model.decisions import say_threshold
from ..model.errors import HalflabelError
from ..model.image_processing_timm_multilabel import TimmMultiLabelImageProcessor, decode_image
from ..model.labels import IGNORE_INDEX, UNCERTAIN
from ..model.modeling_timm_multilabel import TimmMultiLabelForImageClassification
from ..use.explain import Explanation
from ..use.review import KINDS, LEAST_SURE, LOOKS_NO, LOOKS_YES, SURELY_NO, SURELY_YES, Review
from .plots import INK, NO, PALE, QUIET, YES, grid, load_font, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIDE, _ROW, _PAD, _MOST_BARS = 300, 24, 14, 8  # of the examples
_ANSWERS = {1: ("yes", YES), 0: ("no", NO), IGNORE_INDEX: ("unknown", QUIET), UNCERTAIN: ("uncertain", QUIET)}
_THUMB, _GAP, _TEXT, _HEAD, _NONE, _COLUMNS = 180, 12, 58, 50, 26, 6  # of the contact sheet
_MOST_THUMBS = 60  # of a kind; the table has all entries
_HEADINGS = {
    LOOKS_YES: "Annotated no, and the model is sure of yes: likely mistakes",
    LOOKS_NO: "Annotated yes, and the model is sure of no: likely mistakes",
    SURELY_YES: "Unknown, and the model is sure of yes: quickly confirmed",
    SURELY_NO: "Unknown, and the model is sure of no: quickly confirmed",
    LEAST_SURE: "Unknown, and the model is least sure: an answer teaches it most",
}


def draw_examples(
    images: AnnotatedImages,
    model: TimmMultiLabelForImageClassification,
    processor: TimmMultiLabelImageProcessor,
    path: Path,
    columns: int = 3,
) -> None:
    """Write a PNG of training pictures with each label's answer (yes, no, unknown) and its calibrated score as a bar.

    Chosen are pictures with both known and unknown labels first, as varied as there are.
    """
    chosen = _choose(images.labels, columns)
    pictures = [decode_image(images.dataset[i]["image"], images.dataset[i]["file_name"]) for i in chosen]
    with torch.inference_mode():
        pixels = processor(pictures)["pixel_values"].to(model.device)
        logits = model.train(False)(pixel_values=pixels).logits.cpu().double().numpy()
    scores = model.config.decision_rule.scores(logits)
    names = images.label_space.names[:_MOST_BARS]
    height = 2 * _PAD + _SIDE + 10 + (len(names) + 1) * _ROW
    sheet = Image.new("RGB", (_PAD + len(chosen) * (_SIDE + _PAD), height), "white")
    draw, font, small = ImageDraw.Draw(sheet), load_font(13), load_font(11)
    top = _PAD + _SIDE + 10
    for column, (picture, i) in enumerate(zip(pictures, chosen, strict=True)):
        left = _PAD + column * (_SIDE + _PAD)
        bar, end = left + 178, left + _SIDE - 36
        sheet.paste(ImageOps.fit(picture, (_SIDE, _SIDE)), (left, _PAD))
        for x, text in ((left, "label"), (left + 108, "annotated"), (bar, "predicted")):
            draw.text((x, top), text, fill=QUIET, font=small)
        for k, name in enumerate(names):
            y, score = top + (k + 1) * _ROW, float(scores[column, k])
            answer, colour = _ANSWERS[int(images.labels[i, k])]
            draw.text((left, y), plain(name, 100, font.getlength), fill=INK, font=font)
            draw.text((left + 108, y), answer, fill=colour, font=font)
            draw.rectangle((bar, y + 5, end, y + 14), fill="#e8eaee")
            draw.rectangle((bar, y + 5, bar + round((end - bar) * score), y + 14), fill=INK)
            draw.text((end + 6, y), f"{score:.2f}", fill=INK, font=small)
    with whole_file(path) as unfinished:
        sheet.save(unfinished, "PNG")


def _choose(labels: np.ndarray, count: int) -> list[int]:
    """Return positions of pictures with a known yes, each with another set of known labels where there is one."""
    known = labels >= 0
    preferred = np.argsort(-((labels == 1).sum(axis=1) + 10 * (known.any(axis=1) & ~known.all(axis=1))), kind="stable")
    first = np.sort(np.unique(known[preferred], axis=0, return_index=True)[1])  # of each set of known labels
    return [int(i) for i in dict.fromkeys([*preferred[first], *preferred])][:count]


def draw_contact_sheet(table: pd.DataFrame, images: AnnotatedImages, path: Path, about: str = "") -> None:
    """Write a PNG with a thumbnail for each entry, its label, what is annotated and the score; a block per kind.

    The table is what `find_disagreements` returned, or some rows of it, and `about` the line at the top.
    """
    width, blocks = _GAP + _COLUMNS * (_THUMB + _GAP), []
    for kind in KINDS:
        rows = table[table["kind"] == kind]
        heading = _HEADINGS[kind] + (f" ({_MOST_THUMBS} of {len(rows)})" if len(rows) > _MOST_THUMBS else "")
        blocks.append((heading, rows.head(_MOST_THUMBS)))
    heights = [_HEAD + (-(-len(rows) // _COLUMNS) * (_THUMB + _TEXT) or _NONE) for _, rows in blocks]
    sheet = Image.new("RGB", (width, _HEAD + sum(heights) + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, _GAP), plain(about, width - 2 * _GAP, load_font(13).getlength), fill=INK, font=load_font(13))
    top = _HEAD
    for (heading, rows), height in zip(blocks, heights, strict=True):
        draw.text((_GAP, top + 12), heading, fill=INK, font=load_font(17))
        if rows.empty:
            draw.text((_GAP, top + _HEAD), "none", fill=QUIET, font=load_font(13))
        for i, entry in enumerate(rows.to_dict("records")):
            left = _GAP + i % _COLUMNS * (_THUMB + _GAP)
            below = top + _HEAD + i // _COLUMNS * (_THUMB + _TEXT)
            sheet.paste(_thumbnail(images.dataset[int(entry["row"])]), (left, below))
            _write(draw, left, below + _THUMB + 4, entry)
        top += height
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as unfinished:
        sheet.save(unfinished, "PNG")


def write_review(found: Review, folder: Path) -> None:
    """Write what somebody should look at as `errors.csv`, and a contact sheet as `errors.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / "errors.csv") as unfinished:
        found.table.drop(columns="row").to_csv(unfinished, index=False)
    draw_contact_sheet(found.table, found.images, folder / "errors.png", found.about)


def _thumbnail(row: Mapping[str, Any]) -> Image.Image:
    """Return the whole picture on a square, or a grey square that says why it cannot be read."""
    try:
        picture = decode_image(row["image"], row["file_name"], shortest_side=_THUMB)
    except HalflabelError as error:
        tile, lines = Image.new("RGB", (_THUMB, _THUMB), PALE), textwrap.wrap(str(error), 24)
        ImageDraw.Draw(tile).multiline_text((8, 8), "\n".join(lines[:11]), fill=INK, font=load_font(11))
        return tile
    scale = _THUMB / max(picture.size)  # by hand, since ImageOps.pad fails on a line of pixels
    small = picture.resize([max(round(side * scale), 1) for side in picture.size])
    tile = Image.new("RGB", (_THUMB, _THUMB), "#f3f4f6")
    tile.paste(small, ((_THUMB - small.width) // 2, (_THUMB - small.height) // 2))
    return tile


def _write(draw: ImageDraw.ImageDraw, left: int, top: int, entry: Mapping[Any, Any]) -> None:
    """Write three lines: the label; the annotation and the score; the file and where a yes starts."""
    known = entry["known"]
    answer, colour = (f"annotated {known}", YES if known == "yes" else NO) if known in ("yes", "no") else (known, QUIET)
    lines = (
        (f"{entry['rank']}. {entry['label']}", "", INK, 13),
        (answer, f"score {entry['score']:.3f}", colour, 12),
        (entry["file_name"], say_threshold(entry["threshold"]), QUIET, 10),
    )
    for i, (text, at_right, fill, size) in enumerate(lines):
        font = load_font(size)
        taken = font.getlength(at_right) + 6 if at_right else 0
        draw.text((left, top + 16 * i), plain(text, _THUMB - taken, font.getlength), fill=fill, font=font)
        draw.text((left + _THUMB + 6 - taken, top + 16 * i), at_right, fill=INK if size == 12 else fill, font=font)


def draw_heat_map(view: Image.Image, heat_map: NDArray[np.float32]) -> Image.Image:
    """Return what the network saw, in grey, under a heat map h: a pixel has a share of 0.75 h of the colour of h."""
    from matplotlib import colormaps

    heat, grey = heat_map[..., None], np.asarray(view.convert("L"))[..., None] / 255
    colours = colormaps["inferno"](heat_map)[..., :3]
    return Image.fromarray(np.rint(255 * (grey + 0.75 * heat * (colours - grey))).astype(np.uint8))


def draw_explanation(explanation: Explanation) -> "Figure":
    """Draw what the network saw, and a panel per label with its map over it, its score and the answer."""
    figure, panels = grid(1 + len(explanation.labels), "Where the picture speaks for a label")
    for axes in panels:
        axes.set_axis_off()
    panels[0].imshow(explanation.view)
    panels[0].set_title("what the model sees of it\n(resized and cropped)", fontsize=9, loc="left")
    for axes, found in zip(panels[1:], explanation.labels, strict=True):
        axes.imshow(draw_heat_map(explanation.view, found.heat_map))
        answer = f"{'yes' if found.decision else 'no'}: score {found.score:.3g}, {say_threshold(found.threshold)}"
        colour = YES if found.decision else NO
        axes.set_title(f"{plain(found.label)}\n{answer}", fontsize=9, loc="left", color=colour)
        if not found.heat_map.any():
            frame = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85}
            axes.text(0.5, 0.5, "no single place\nspeaks for this label", transform=axes.transAxes, ha="center",
                      va="center", fontsize=9, bbox=frame)  # fmt: skip
    explained = (
        "Bright: speaks most for the label; grey: does not. Each map has its own scale, the score says how much."
    )
    figure.supxlabel(explained, fontsize=9, color=QUIET, x=0.01, ha="left")
    return figure
