"""Composes a street scene: places the objects, keeps the labelled ones visible, draws and weathers the picture."""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

import numpy as np
from PIL import Image, ImageFilter

from halflabel.data.street_backdrop import (
    LIGHT_WEIGHTS,
    LIGHTS,
    Street,
    draw_buildings,
    draw_ground,
    draw_sky,
    plan_street,
)
from halflabel.data.street_canvas import Box, Light, Pen, Stamp
from halflabel.data.street_clutter import CAR_LIKE, LIGHT_LIKE, PERSON_LIKE, SIGN_LIKE
from halflabel.data.street_objects import CAR_END, CAR_SIDE, PEDESTRIAN, STOP_SIGN, TRAFFIC_ARM, TRAFFIC_LIGHT, Prop

PREVALENCE: dict[str, float] = {"pedestrian": 0.45, "car": 0.5, "stop sign": 0.25, "traffic light": 0.3}
"""How often each labelled object is asked for, in label order."""

_CLUTTER = ((SIGN_LIKE, (5, 4, 1)), (LIGHT_LIKE, (5, 4, 1)), (PERSON_LIKE, (4, 5, 1)), (CAR_LIKE, (4, 5, 1)))
_TRIES = 60
_GRID = 8


@dataclass(frozen=True)
class _Item:
    prop: Prop
    x: float
    z: float
    mirror: bool
    seed: int
    core: Box
    boxes: tuple[Box, ...]


def sample_labels(rng: np.random.Generator) -> dict[str, int]:
    """Draw which labelled objects a scene shall show, independently of one another."""
    return {name: int(draw < share) for (name, share), draw in zip(PREVALENCE.items(), rng.random(4), strict=True)}


def _pixels(street: Street, box: Box, x: float, z: float, mirror: bool) -> Box:
    left, low, right, high = (-box[2], box[1], -box[0], box[3]) if mirror else box
    x0, y1 = street.camera.project(x + left, low, z)
    x1, y0 = street.camera.project(x + right, high, z)
    return x0, y0, x1, y1


def _make_item(street: Street, prop: Prop, rnd: Random) -> _Item:
    x, z = street.place(rnd, rnd.choice(prop.zones))
    mirror, seed = rnd.random() < 0.5, rnd.getrandbits(32)
    boxes = [_pixels(street, box, x, z, mirror) for box in prop.boxes]
    if prop.depth:
        rear = [_pixels(street, box, x, z + prop.depth, mirror) for box in prop.boxes]
        boxes = [(min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3]))
                 for a, b in zip(boxes, rear, strict=True)]  # fmt: skip
    return _Item(prop, x, z, mirror, seed, _pixels(street, prop.core, x, z, mirror), tuple(boxes))


def _hidden_share(item: _Item, others: list[_Item], size: int) -> float:
    """Return the share of an item's core that lies outside the frame or behind nearer things."""
    x0, y0, x1, y1 = item.core
    far = 1e9  # everything beyond an edge of the frame is out of sight, however far beyond
    covers: list[Box] = [(-far, -far, 0.0, far), (size, -far, far, far), (-far, -far, far, 0.0), (-far, size, far, far)]
    covers += [box for other in others if other.z < item.z for box in other.boxes]
    covers = [box for box in covers if box[0] < x1 and box[2] > x0 and box[1] < y1 and box[3] > y0]
    if not covers:
        return 0.0
    hidden = 0
    for column in range(_GRID):
        x = x0 + (x1 - x0) * (column + 0.5) / _GRID
        spans = [(box[1], box[3]) for box in covers if box[0] <= x <= box[2]]
        for row in range(_GRID):
            y = y0 + (y1 - y0) * (row + 0.5) / _GRID
            hidden += any(top <= y <= low for top, low in spans)
    return hidden / _GRID**2


def _overlaps(item: _Item, others: list[_Item]) -> bool:
    return any(abs(item.x - other.x) < 0.5 and abs(item.z - other.z) < 0.5 for other in others)


def _place_clutter(street: Street, rnd: Random) -> list[_Item]:
    items: list[_Item] = []
    for group, weights in _CLUTTER:
        for _ in range(rnd.choices((0, 1, 2), weights)[0]):
            prop = rnd.choice(group)
            item = _make_item(street, prop, rnd)
            for _ in range(12):
                if not _overlaps(item, items) and _hidden_share(item, items, street.camera.size) < 0.6:
                    break
                item = _make_item(street, prop, rnd)
            items.append(item)
    return items


def _choose_prop(name: str, street: Street, rnd: Random) -> Prop:
    if name == "pedestrian":
        return PEDESTRIAN
    if name == "car":
        return CAR_END if street.avenue else CAR_SIDE
    if name == "stop sign":
        return STOP_SIGN
    return TRAFFIC_ARM if rnd.random() < 0.35 else TRAFFIC_LIGHT


def _place_visible(name: str, street: Street, rnd: Random, items: list[_Item], shown: list[_Item]) -> _Item | None:
    """Find a place where the object is visible and leaves the other labelled objects visible."""
    prop, size = _choose_prop(name, street, rnd), street.camera.size
    for _ in range(_TRIES):
        item = _make_item(street, prop, rnd)
        if _overlaps(item, items) or _hidden_share(item, items, size) > prop.max_hidden:
            continue
        nearer = [*items, item]
        if all(_hidden_share(other, nearer, size) <= other.prop.max_hidden for other in shown if other.z > item.z):
            return item
    return None


def _place_objects(
    street: Street, rngs: Mapping[str, Random], wanted: Mapping[str, int]
) -> tuple[list[_Item], dict[str, int]]:
    items = _place_clutter(street, rngs["clutter"])
    shown: list[_Item] = []
    labels = dict.fromkeys(PREVALENCE, 0)
    for name in ("stop sign", "traffic light", "car", "pedestrian"):
        rnd = rngs[name]
        count = rnd.choices((1, 2, 3), (4, 4, 2) if name == "pedestrian" else (6, 4, 0))[0]
        for _ in range(count * wanted[name]):
            item = _place_visible(name, street, rnd, items, shown)
            if item is not None:
                items.append(item)
                shown.append(item)
                labels[name] = 1
    return sorted(items, key=lambda item: -item.z), labels


def _weather(image: Image.Image, light: Light, rnd: Random, rng: np.random.Generator) -> Image.Image:
    """Add rain, the softness of a lens, a colour cast and the noise of a sensor."""
    size = image.width
    if light.name == "rain":
        pen = Pen(image, light)
        slant = rnd.uniform(-0.3, 0.3)
        for _ in range(70):
            x, y, fall = rnd.uniform(0, size), rnd.uniform(0, size), size * rnd.uniform(0.02, 0.05)
            pen.line(((x, y), (x + slant * fall, y + fall)), 1, (240, 244, 250), 90)
    if rnd.random() < 0.4:
        image = image.filter(ImageFilter.BoxBlur(rnd.uniform(0.2, 0.7)))
    noise = rng.standard_normal((size, size, 1), dtype=np.float32) * rnd.uniform(1.0, 6.0)
    exposure = rnd.uniform(0.9, 1.08)
    gain = np.array([exposure * rnd.uniform(0.96, 1.04) for _ in range(3)], dtype=np.float32)
    pixels = np.asarray(image, dtype=np.float32) * gain + noise
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def draw_scene(
    rng: np.random.Generator, size: int = 256, labels: Mapping[str, int] | None = None
) -> tuple[Image.Image, dict[str, int]]:
    """Draw one street scene.

    Everything but the labelled objects (street, weather, clutter, noise) is the same for every choice of labels.

    Args:
        rng: Where all random choices come from.
        size: Width and height of the picture in pixels.
        labels: Which objects to show, 1 or 0 by name; drawn by `sample_labels` when left out.

    Returns:
        The picture, and 1 or 0 for each label. A label is 1 only where the object is visible for at least half.
    """
    drawn = sample_labels(rng)
    wanted = drawn if labels is None else dict(labels)
    streams = ("street", "clutter", "finish", *PREVALENCE)
    rngs = {name: Random(int(seed)) for name, seed in zip(streams, rng.integers(0, 2**32, len(streams)), strict=True)}
    setting = rngs["street"]
    street = plan_street(setting, 2 * size)
    light = setting.choices(LIGHTS, LIGHT_WEIGHTS)[0]
    image = Image.new("RGB", (2 * size, 2 * size))
    pen = Pen(image, light)
    draw_sky(pen, setting, street)
    draw_ground(pen, setting, street)
    draw_buildings(pen, setting, street)
    items, found = _place_objects(street, rngs, wanted)
    for item in items:
        pen.set_distance(item.z)
        item.prop.draw(Stamp(pen, street.camera, item.x, item.z, item.mirror), Random(item.seed))
    return _weather(image.reduce(2), light, rngs["finish"], rng), found
