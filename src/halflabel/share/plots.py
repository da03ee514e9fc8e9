"""Pictures for people, drawn with Pillow."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps

from ..data.images import AnnotatedImages
from ..model.image_processing_timm_multilabel import TimmMultiLabelImageProcessor, decode_image
from ..model.labels import IGNORE_INDEX, UNCERTAIN
from ..model.modeling_timm_multilabel import TimmMultiLabelForImageClassification
from .figures import load_font, plain

_SIDE, _ROW, _PAD, _MOST_LABELS = 300, 24, 14, 8
_INK, _QUIET, _TRACK = (34, 38, 46), (138, 144, 154), (232, 234, 238)
_ANSWERS = {1: ("yes", (0, 114, 178)), 0: ("no", (213, 94, 0)),  # Okabe and Ito's palette
            IGNORE_INDEX: ("unknown", _QUIET), UNCERTAIN: ("uncertain", _QUIET)}  # fmt: skip


def draw_examples(
    images: AnnotatedImages,
    model: TimmMultiLabelForImageClassification,
    processor: TimmMultiLabelImageProcessor,
    path: Path,
    columns: int = 3,
) -> None:
    """Write training pictures with each label's answer (yes, no, unknown) and the model's score as a bar.

    Args:
        images: Where to choose from: pictures with both known and unknown labels first, as varied as there are.
        model: Gives the scores, calibrated by its decision rule.
        processor: The model's.
        path: The PNG to write.
        columns: How many pictures.
    """
    chosen = _choose(images.labels, columns)
    pictures = [decode_image(images.dataset[i]["image"], images.dataset[i]["file_name"]) for i in chosen]
    with torch.inference_mode():
        pixels = processor(pictures)["pixel_values"].to(model.device)
        logits = model.train(False)(pixel_values=pixels).logits.double().cpu().numpy()
    scores = model.config.decision_rule.scores(logits)
    shown = min(len(images.label_space), _MOST_LABELS)
    height = 2 * _PAD + _SIDE + 10 + (shown + 1) * _ROW
    sheet = Image.new("RGB", (_PAD + len(chosen) * (_SIDE + _PAD), height), "white")
    for column, (picture, i) in enumerate(zip(pictures, chosen, strict=True)):
        left = _PAD + column * (_SIDE + _PAD)
        sheet.paste(ImageOps.fit(picture, (_SIDE, _SIDE)), (left, _PAD))
        _draw_answers(ImageDraw.Draw(sheet), left, images.label_space.names[:shown], images.labels[i], scores[column])
    sheet.save(path)


def _choose(labels: np.ndarray, count: int) -> list[int]:
    """Return positions of pictures with a known yes, each with another set of known labels where there is one."""
    known = labels >= 0
    preferred = np.argsort(-((labels == 1).sum(axis=1) + 10 * (known.any(axis=1) & ~known.all(axis=1))), kind="stable")
    chosen: list[int] = []
    patterns: set[bytes] = set()
    for position in [*preferred, *preferred]:
        pattern = known[position].tobytes()
        fresh = pattern not in patterns or len(patterns) == len(np.unique(known, axis=0))
        if len(chosen) < count and int(position) not in chosen and fresh:
            chosen.append(int(position))
            patterns.add(pattern)
    return chosen


def _draw_answers(
    draw: ImageDraw.ImageDraw,
    left: int,
    names: tuple[str, ...],
    row: np.ndarray,
    scores: np.ndarray,
) -> None:
    font, small = load_font(13), load_font(11)
    top = _PAD + _SIDE + 10
    bar, end = left + 178, left + _SIDE - 36
    for x, text in ((left, "label"), (left + 108, "annotated"), (bar, "predicted")):
        draw.text((x, top), text, fill=_QUIET, font=small)
    for k, name in enumerate(names):
        y = top + (k + 1) * _ROW
        answer, colour = _ANSWERS[int(row[k])]
        draw.text((left, y), plain(name, 100, font.getlength), fill=_INK, font=font)
        draw.text((left + 108, y), answer, fill=colour, font=font)
        draw.rectangle((bar, y + 5, end, y + 14), fill=_TRACK)
        draw.rectangle((bar, y + 5, bar + round((end - bar) * float(scores[k])), y + 14), fill=_INK)
        draw.text((end + 6, y), f"{scores[k]:.2f}", fill=_INK, font=small)
