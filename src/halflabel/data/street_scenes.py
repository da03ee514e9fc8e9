"""The embedded sample: rendered street scenes, asked of three teams that each answered only some questions."""

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from halflabel.data.street_drawing import PREVALENCE, draw_scene
from halflabel.model.labels import IGNORE_INDEX

LABEL_NAMES = tuple(PREVALENCE)
TEAMS: Mapping[str, Sequence[str]] = {
    "team_a": ("pedestrian", "car"),
    "team_b": ("car", "stop sign"),
    "team_c": ("traffic light",),
}
"""Which questions each annotator team answered: 5 of the 12 answers that three full teams would have given."""


def render_street_scene(split: str, index: int, seed: int = 0, size: int = 256) -> dict[str, Any]:
    """Render one picture; it depends on these arguments alone.

    Args:
        split: `train` or `test`.
        index: The picture's number in its split, from 0.
        seed: Another seed, other pictures.
        size: Width and height in pixels.

    Returns:
        `image` (`bytes`: a JPEG, and `path`: its name), `file_name`, `labels` (a code per name of `LABEL_NAMES`,
        `IGNORE_INDEX` where the picture's team was not asked), `team` ("" in the test split, which is fully known),
        and `split`.
    """
    rng = np.random.default_rng([seed, ("train", "test").index(split), index])
    team = str(rng.choice(list(TEAMS)))
    picture, answers = draw_scene(rng, size)
    asked = TEAMS[team] if split == "train" else LABEL_NAMES
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=90)
    name = f"street_{split}_{index:05d}.jpg"
    return {
        "image": {"bytes": content.getvalue(), "path": name},
        "file_name": name,
        "labels": [answers[label] if label in asked else IGNORE_INDEX for label in LABEL_NAMES],
        "team": team if split == "train" else "",
        "split": split,
    }


def iterate_street_scenes(
    train_images: int = 640, test_images: int = 256, seed: int = 0, size: int = 256
) -> Iterator[dict[str, Any]]:
    """Render the training pictures, then the test pictures; fewer pictures are the first of more."""
    for split, count in (("train", train_images), ("test", test_images)):
        for index in range(count):
            yield render_street_scene(split, index, seed, size)
