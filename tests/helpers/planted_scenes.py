"""Rendered scenes whose labels share features, or fight for them, as they were made to."""

import numpy as np
import torch
from advice_examples import answer
from PIL import Image, ImageDraw

from halflabel import TimmMultiLabelForImageClassification, TimmMultiLabelImageProcessor

OPPOSED, SHARED, NEGATED, AT_RANDOM = (0, 1), (2, 3), (2, 4), 5
"""Columns of the labels: pairs, and the one that nothing tells."""


def draw_scene(rng, day, disc):
    """A landscape by day or night, some grey boxes, and a small disc, red or blue."""
    sky, ground = ((150, 190, 230), (90, 140, 70)) if day else ((20, 24, 50), (25, 35, 25))
    picture = Image.new("RGB", (96, 96), sky)
    pen = ImageDraw.Draw(picture)
    pen.rectangle((0, 48, 96, 96), fill=ground)
    for _ in range(4):
        x, y, grey = rng.integers(5, 80, 3)
        pen.rectangle((x, y, x + 9, y + 9), fill=(int(grey) + 60,) * 3)
    x, y = rng.integers(10, 76, 2)
    pen.ellipse((x, y, x + 14, y + 14), fill=(220, 40, 40) if disc else (40, 60, 220))
    noisy = np.asarray(picture) + rng.normal(0, 8, (96, 96, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def plant(seed, count=600):
    """Features of `tf_efficientnet_lite0`, and six labels: of two the disc is a shortcut, in opposed directions."""
    rng = np.random.default_rng(seed)
    day, disc = 2 * rng.integers(0, 2, (2, count)) - 1
    model = TimmMultiLabelForImageClassification.from_backbone("tf_efficientnet_lite0", ["a"], weights="installed")
    processor = TimmMultiLabelImageProcessor.from_backbone(model.backbone)
    model.train(False)
    pictures = [draw_scene(rng, a > 0, b > 0) for a, b in zip(day, disc, strict=True)]
    with torch.inference_mode():
        parts = [processor(pictures[i : i + 8])["pixel_values"] for i in range(0, count, 8)]
        features = torch.cat([model.extract_features(part) for part in parts]).numpy()
    logits = 2 * day + 1.5 * disc, 2 * day - 1.5 * disc, 2 * disc, 2 * disc, -2 * disc, 0 * disc
    return features, np.stack([answer(rng, logit) for logit in logits], axis=1)
