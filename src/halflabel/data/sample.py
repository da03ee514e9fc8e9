"""The embedded sample: drawn street scenes, asked of three teams that each answered only some questions.

A scene is laid out in metres and seen by a camera about 2 m above the ground. Most things are flat figures that stand
x metres right of the camera and z metres ahead of it. Each labelled object has look-alikes that have no label.
"""

import functools
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random
from typing import Any, TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from ..model.labels import IGNORE_INDEX

Colour: TypeAlias = tuple[int, ...]
Box: TypeAlias = tuple[float, float, float, float]

LABEL_NAMES = ("pedestrian", "car", "stop sign", "traffic light")
FREQUENCIES = ((0.6, 0.6, 0.15, 0.45), (0.3, 0.4, 0.35, 0.15))
"""How often each label's object is asked for in busy streets and in quiet ones; half of the streets are busy."""

TEAMS = {"team_a": ("pedestrian", "car"), "team_b": ("car", "stop sign"), "team_c": ("traffic light",)}
"""Which questions each annotator team answered: 5 of the 12 answers that three full teams would have given."""

SIZE = 256
WHITE, DARK, METAL, WOOD, RED = (242, 242, 238), (34, 37, 42), (122, 126, 130), (128, 90, 60), (196, 26, 34)
PANE, LAMPLIT, SHADOW = (104, 134, 154), (255, 214, 128), (58, 60, 66)
PAINTS = ((178, 44, 52), (38, 70, 128), (44, 110, 84), (226, 178, 60), (60, 60, 66), (232, 226, 212), (124, 66, 126))
SKINS = ((244, 208, 178), (226, 180, 146), (190, 136, 100), (140, 94, 66), (94, 62, 46))
WALLS = ((176, 92, 72), (214, 190, 156), (150, 104, 84), (196, 148, 110), (164, 172, 176), (136, 150, 146))
GREENS = ((70, 122, 62), (92, 140, 66), (58, 104, 72), (126, 142, 62), (188, 132, 54))


LIGHTS = (
    (1.0, (92, 158, 224), (212, 232, 244), 170, False),
    (0.88, (160, 170, 180), (214, 218, 220), 90, False),
    (0.9, (196, 202, 206), (214, 217, 219), 28, False),
    (0.75, (66, 72, 132), (250, 176, 124), 120, True),
    (0.6, (14, 18, 42), (50, 54, 92), 120, True),
)
"""Brightness, sky, haze, how many metres away two thirds of a colour are lost in it, and whether lamps are lit."""

_font = functools.cache(ImageFont.load_default)


def _mix(first: Colour, second: Colour, share: float) -> Colour:
    """Return the colour `share` of the way from the first to the second."""
    return tuple(int(a + (b - a) * share) for a, b in zip(first, second, strict=True))


def _pick(rnd: Random, *colours: Colour) -> Colour:
    """Choose a colour and make it a little darker or lighter."""
    return _mix(rnd.choice(colours), rnd.choice((DARK, WHITE)), rnd.uniform(0, 0.2))


class _Pen:
    """Draws in metres around a foot point: u to the right, v up, w away from the camera."""

    def __init__(self, rnd: Random) -> None:
        self.image = Image.new("RGB", (2 * SIZE, 2 * SIZE))
        self.canvas = ImageDraw.Draw(self.image)
        self.brightness, self.sky, self.haze, self.visibility, self.lamps = rnd.choice(LIGHTS)
        self.focal, self.horizon = SIZE * rnd.uniform(1.6, 2.0), SIZE * rnd.uniform(0.8, 1.0)
        self.centre, self.height = SIZE * rnd.uniform(0.6, 1.4), rnd.uniform(1.9, 2.5)
        self.road = rnd.uniform(-2.4, 2.4)  # where the middle of the road lies, in metres

    def move(self, x: float, z: float, mirror: bool = False) -> None:
        """Set the foot point; `mirror` swaps left and right."""
        self.x, self.z, self.side = x, z, -1 if mirror else 1

    def at(self, u: float, v: float, w: float = 0) -> tuple[float, float]:
        """Return the pixel of a point."""
        scale = self.focal / (self.z + w)
        return self.centre + (self.x + self.side * u) * scale, self.horizon + (self.height - v) * scale

    def pixels(self, box: Box) -> Box:
        """Return a box (left, low, right, high) in metres as (left, top, right, bottom) in pixels."""
        (x0, y1), (x1, y0) = self.at(box[0], box[1]), self.at(box[2], box[3])
        return min(x0, x1), y0, max(x0, x1), y1

    def tone(self, colour: Colour, glow: bool = False) -> Colour:
        """Return a colour as it looks in this light, from here; what glows is not darkened."""
        lit = colour if glow else _mix((0, 0, 0), colour, self.brightness)
        return _mix(lit, self.haze, 1 - math.exp(-self.z / self.visibility))

    def poly(self, points: Sequence[tuple[float, ...]], colour: Colour, glow: bool = False) -> None:
        self.canvas.polygon([self.at(*point) for point in points], fill=self.tone(colour, glow))

    def rect(self, box: Box, colour: Colour, glow: bool = False) -> None:
        self.canvas.rectangle(self.pixels(box), fill=self.tone(colour, glow))

    def oval(self, box: Box, colour: Colour, glow: bool = False) -> None:
        self.canvas.ellipse(self.pixels(box), fill=self.tone(colour, glow))

    def disc(self, u: float, v: float, radius: float, colour: Colour, glow: bool = False) -> None:
        self.oval((u - radius, v - radius, u + radius, v + radius), colour, glow)

    def line(self, points: Sequence[tuple[float, float]], width: float, colour: Colour) -> None:
        wide = max(1, round(width * self.focal / self.z))
        self.canvas.line([self.at(*point) for point in points], self.tone(colour), wide, joint="curve")

    def wall(self, left: float, low: float, right: float, high: float, colour: Colour, glow: bool = False) -> None:
        """Fill a part of a wall beside the road, from `left` to `right` metres along it."""
        self.poly(((0, low, left), (0, high, left), (0, high, right), (0, low, right)), colour, glow)

    def ground(self, left: float, right: float, near: float, far: float, colour: Colour) -> None:
        self.poly(((left, 0, near), (left, 0, far), (right, 0, far), (right, 0, near)), colour)

    def text(self, v: float, word: str, height: float, colour: Colour) -> None:
        size = max(3, int(height * self.focal / self.z))
        self.canvas.text(self.at(0, v), word, self.tone(colour), _font(size), anchor="mm")


def _pedestrian(pen: _Pen, rnd: Random) -> None:
    skin, top, trousers, hair = (_pick(rnd, *colours) for colours in (SKINS, PAINTS, PAINTS, (DARK, *SKINS[2:])))
    tall, stride, swing = rnd.uniform(0.9, 1.08), rnd.uniform(0.05, 0.3), rnd.uniform(0.05, 0.25)
    hip, shoulder, head = 0.86 * tall, 1.42 * tall, 1.63 * tall
    hem, flare = rnd.choice(((hip - 0.06, 0.19), (0.62 * tall, 0.25), (0.5 * tall, 0.32)))
    pen.oval((-0.4, -0.08, 0.4, 0.08), SHADOW)
    pen.line(((-0.19, shoulder), (-0.27, 1.15 * tall), (-0.2 - swing, 0.92 * tall)), 0.1, _mix(top, DARK, 0.25))
    for foot in (-stride, stride):
        pen.line(((0, hip), (0.7 * foot, 0.45 * tall), (foot, 0.06)), 0.15, trousers)
        pen.oval((foot - 0.08, 0, foot + 0.17, 0.11), DARK)
    pen.poly(((-0.22, shoulder), (0.22, shoulder), (flare, hem), (-flare, hem)), top)
    pen.oval((-0.15, head - rnd.choice((0.1, 0.26)), 0.12, head + 0.19), hair)
    pen.oval((-0.1, head - 0.15, 0.13, head + 0.12), skin)
    pen.line(((0.19, shoulder), (0.27, 1.15 * tall), (0.2 + swing, 0.94 * tall)), 0.1, _mix(top, DARK, 0.12))


def _car(pen: _Pen, rnd: Random) -> None:
    paint, glass, roof, long = _pick(rnd, *PAINTS), _pick(rnd, PANE), rnd.uniform(1.38, 1.9), rnd.uniform(3.4, 4.2)
    pen.poly(((-1, 0, -0.1), (1, 0, -0.1), (1, 0, long), (-1, 0, long)), SHADOW)
    for side in (-0.88, 0.88):
        top = 0.78 * side
        pen.poly(((side, 0.3, 0), (side, 0.92, 0), (side, 0.88, long), (side, 0.3, long)), _mix(paint, DARK, 0.28))
        pen.poly(((side, 0.92, 0.2), (top, roof, 0.7), (top, roof, long - 1), (side, 0.9, long)), DARK)
        pen.rect((side - 0.12, 0, side + 0.12, 0.34), DARK)
    pen.poly(((-0.86, 0.92, 0.1), (0.86, 0.92, 0.1), (0.68, roof, 0.6), (-0.68, roof, 0.6)), paint)
    pen.poly(((-0.7, 0.98, 0.1), (0.7, 0.98, 0.1), (0.58, roof - 0.09, 0.6), (-0.58, roof - 0.09, 0.6)), glass)
    pen.rect((-0.9, 0.28, 0.9, 0.94), paint)
    lamp = rnd.choice(((214, 30, 34), (252, 246, 212)))  # from behind, from the front
    for side in (-0.7, 0.7):
        pen.oval((side - 0.17, 0.58, side + 0.17, 0.8), lamp, pen.lamps)


def _sign(pen: _Pen, corners: int, rims: Sequence[tuple[float, Colour]], word: str, size: float) -> None:
    """Draw polygons within one another on a post, and a word."""
    pen.rect((-0.045, 0, 0.045, 2.5), METAL)
    for radius, colour in rims:
        turns = [math.pi * (0.5 + (2 * k + 1) / corners) for k in range(corners)]
        pen.poly([(radius * math.cos(turn), 2.3 + radius * math.sin(turn)) for turn in turns], colour)
    pen.text(2.3, word, size, DARK if rims[-1][1] == WHITE else WHITE)


def _stop_sign(pen: _Pen, rnd: Random) -> None:
    radius = rnd.uniform(0.48, 0.58)
    _sign(pen, 8, ((radius, WHITE), (0.9 * radius, _pick(rnd, RED))), "STOP", 0.66 * radius)


def _other_sign(pen: _Pen, rnd: Random) -> None:
    radius, red, kind = rnd.uniform(0.46, 0.56), _pick(rnd, RED), rnd.randrange(4)
    if kind == 0:  # give way
        _sign(pen, 3, ((1.2 * radius, red), (0.7 * radius, WHITE)), "", 1)
    elif kind == 1:
        _sign(pen, 40, ((radius, red), (0.76 * radius, WHITE)), rnd.choice(("30", "50", "80")), 0.95 * radius)
    else:
        colour = red if kind == 2 else _pick(rnd, (206, 70, 40), (236, 150, 50))
        word = rnd.choice(("SHOP", "SALE", "CAFE", "BUS"))
        _sign(pen, rnd.choice((4, 40)), ((radius, WHITE), (0.9 * radius, colour)), word, 0.6 * radius)


def _traffic_light(pen: _Pen, rnd: Random) -> None:
    case, lit = _pick(rnd, DARK, DARK, (46, 58, 52), (214, 164, 40)), rnd.randrange(3)
    pen.rect((-0.055, 0, 0.055, 2.3), METAL)
    pen.rect((-0.33, 1.95, 0.33, 3.55), rnd.choice((WHITE, case)))
    pen.rect((-0.25, 2.03, 0.25, 3.47), case)
    for number, bright in enumerate(((255, 58, 44), (255, 196, 50), (60, 240, 150))):
        pen.disc(0, 3.2 - 0.45 * number, 0.19, _mix(case, DARK, 0.4))
        pen.disc(0, 3.2 - 0.45 * number, 0.17, bright if number == lit else _mix(bright, DARK, 0.72), number == lit)


def _shop_panel(pen: _Pen, rnd: Random) -> None:
    pen.rect((-0.055, 0, 0.055, 2.3), METAL)
    pen.rect((-0.25, 2.03, 0.25, 3.47), _pick(rnd, DARK, DARK, (36, 48, 74), (70, 34, 40)))
    bright = rnd.choice(((240, 90, 160), (90, 170, 250), (255, 196, 50), (255, 80, 60)))
    for number, letter in enumerate(rnd.choice(("BAR", "TEA", "ZOO"))):
        pen.text(3.2 - 0.45 * number, letter, 0.45, bright)


def _statue(pen: _Pen, rnd: Random) -> None:
    stone = _pick(rnd, (158, 158, 152), (124, 142, 130), (116, 98, 80))
    pen.rect((-0.3, 0, 0.3, 0.5), stone)
    pen.poly(((-0.17, 0.5), (0.18, 0.5), (0.25, 1.5), (-0.25, 1.5)), stone)
    pen.disc(0, 1.65, 0.16, stone)


def _trailer(pen: _Pen, rnd: Random) -> None:
    pen.oval((-1.1, -0.08, 1.1, 0.08), SHADOW)
    pen.disc(0.2, 0.3, 0.3, DARK)
    pen.rect((-1.1, 0.35, 1.1, 1.6), _pick(rnd, *PAINTS))
    pen.rect((-0.8, 0.9, rnd.uniform(0, 0.8), 1.35), PANE)


Thing: TypeAlias = tuple[Callable[[_Pen, Random], None], Box, tuple[float, float], tuple[float, float], Sequence[int]]
THINGS: dict[str, Thing] = {
    "sign": (_other_sign, (-0.5, 1.75, 0.5, 2.85), (4, 9), (2.9, 3.5), (0, 0, 1)),
    "panel": (_shop_panel, (-0.25, 2.0, 0.25, 3.5), (4, 9), (2.9, 3.5), (0, 0, 1)),
    "statue": (_statue, (-0.3, 0, 0.3, 1.8), (4, 12), (3.0, 4.6), (0, 0, 1, 2)),
    "trailer": (_trailer, (-1.1, 0, 1.1, 1.6), (8, 30), (1.0, 4.0), (0, 0, 1, 2)),
    "stop sign": (_stop_sign, (-0.5, 1.75, 0.5, 2.85), (4, 7), (2.9, 3.5), (1, 1, 2)),
    "traffic light": (_traffic_light, (-0.25, 2.0, 0.25, 3.5), (4, 8), (2.9, 3.5), (1, 1, 2)),
    "car": (_car, (-0.9, 0.1, 0.9, 1.4), (8, 30), (0.8, 1.7), (1, 1, 2)),
    "pedestrian": (_pedestrian, (-0.3, 0, 0.3, 1.8), (4, 9), (3.0, 4.6), (1, 2, 3)),
}
"""How a thing is drawn, its box that must be seen, how far ahead and beside the road's middle it stands, how many."""

Item: TypeAlias = tuple[float, float, Box, str, Random]  # metres ahead, to the right, pixels, name, for its looks


def _shared(box: Box, other: Box) -> float:
    wide, high = (min(box[i + 2], other[i + 2]) - max(box[i], other[i]) for i in (0, 1))
    return max(wide, 0) * max(high, 0)


def _is_seen(item: Item, items: Sequence[Item]) -> bool:
    """Return whether more than half of an item lies well inside the picture and not behind nearer ones."""
    covered = sum(_shared(item[2], other[2]) for other in items if other[0] < item[0])
    return _shared(item[2], (0.14 * SIZE, 0, 1.86 * SIZE, 2 * SIZE)) - covered > 0.55 * _shared(item[2], item[2])


def _arrange(pen: _Pen, key: str, names: Sequence[str]) -> list[Item]:
    """Find places where all things are seen; one that finds none is left out."""
    items: list[Item] = []
    for name in names:
        _, box, ahead, beside, counts = THINGS[name]
        for number in range(Random(f"{key} {name}").choice(counts)):
            rnd = Random(f"{key} {name} {number}")
            for _ in range(40):
                z = 1 / rnd.uniform(1 / ahead[1], 1 / ahead[0])  # spreads the sizes in pixels evenly
                pen.move(pen.road + rnd.choice((-1, 1)) * rnd.uniform(*beside), z)
                more = [*items, (z, pen.x, pen.pixels(box), name, rnd)]
                if all(_is_seen(item, more) for item in more):
                    items = more
                    break
    return items


def _house(pen: _Pen, rnd: Random) -> None:
    floors, bays, wall, length = rnd.randint(1, 4), rnd.randint(3, 4), _pick(rnd, *WALLS), rnd.uniform(7.5, 9)
    top = 3.3 + 2.9 * floors
    pen.poly(((0, 0), (0, top), (9, top), (9, 0)), _mix(wall, DARK, 0.25))
    pen.wall(0, 0, length, top, wall)
    if rnd.random() < 0.6:  # a shop
        pen.wall(0.3, 0, length - 0.3, 3.1, _pick(rnd, *PAINTS))
        pen.wall(0.7, 0.6, length - 2.2, 2.3, LAMPLIT if pen.lamps else PANE, pen.lamps)
    for number in range(floors * bays):
        left, low, lit = number % bays * length / bays + 0.6, 4.0 + 2.9 * (number // bays), rnd.random() < 0.4
        pen.wall(left, low, left + 1.1, low + 1.55, LAMPLIT if lit and pen.lamps else PANE, lit and pen.lamps)


def _tree(pen: _Pen, rnd: Random) -> None:
    pen.rect((1.8, 0, 2.1, 3.5), WOOD)
    for _ in range(6):
        pen.disc(rnd.uniform(1.1, 2.9), rnd.uniform(3, 5), rnd.uniform(0.7, 1.1), _pick(rnd, *GREENS))


def _backdrop(pen: _Pen, rnd: Random) -> None:
    """Draw the sky, the road with its markings, and houses or trees on both sides."""
    for y in range(0, int(pen.horizon) + 8, 8):
        pen.canvas.rectangle((0, y, 2 * SIZE, y + 8), _mix(pen.sky, pen.haze, min(1, y / pen.horizon)))
    stone, crossing = _pick(rnd, (178, 172, 162)), rnd.uniform(-7, 12)
    pen.move(pen.road, 12)
    pen.ground(-4000, 4000, -10.5, 900, stone)
    pen.ground(-2.9, 2.9, -10.5, 900, _mix(stone, WHITE, 0.3))
    pen.ground(-2.7, 2.7, -10.5, 900, _pick(rnd, (86, 88, 94)))
    for k in range(10):
        pen.ground(-0.08, 0.08, 3.5 * k - 10, 3.5 * k - 8.2, WHITE)
    for k in range(-3, 3):
        pen.ground(0.9 * k + 0.2, 0.9 * k + 0.7, crossing, crossing + 2.2, WHITE)
    for side in (-1, 1):
        draw = rnd.choice((_house, _house, _house, _tree))
        for near in range(48, 2, -9):
            pen.move(pen.road + 5.2 * side, near, mirror=side < 0)
            draw(pen, rnd)


def draw_scene(key: str, labels: Mapping[str, int] | None = None) -> tuple[Image.Image, dict[str, int]]:
    """Draw one street scene.

    Everything but the labelled objects (street, light, look-alikes, noise) is the same for every choice of labels.

    Args:
        key: Another key, another scene.
        labels: Which objects to show, 1 or 0 by name; those left out are drawn with `FREQUENCIES`.

    Returns:
        The picture, and 1 or 0 for each label. An object is shown only where more than half of it can be seen.
    """
    rnd = Random(f"{key} street")
    frequencies = zip(LABEL_NAMES, rnd.choice(FREQUENCIES), strict=True)
    wanted = {name: rnd.random() < share for name, share in frequencies} | dict(labels or {})
    pen = _Pen(rnd)
    _backdrop(pen, rnd)
    items = _arrange(pen, key, [name for name in THINGS if name not in LABEL_NAMES or wanted[name]])
    for z, x, _, name, looks in sorted(items, reverse=True):
        pen.move(x, z, looks.random() < 0.5)
        THINGS[name][0](pen, looks)
    rnd = Random(f"{key} camera")
    image = pen.image.reduce(2).filter(ImageFilter.BoxBlur(rnd.choice((0, 0, 0.6))))
    noise = np.random.default_rng(rnd.getrandbits(32)).standard_normal((SIZE, SIZE, 1), np.float32)
    pixels = np.asarray(image) + rnd.uniform(1, 6) * noise
    shown = {name for *_, name, _ in items}
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), {name: int(name in shown) for name in LABEL_NAMES}


def render_street_scene(split: str, index: int, seed: int = 0) -> dict[str, Any]:
    """Render one picture; it depends on these arguments alone.

    Args:
        split: `train` or `test`.
        index: The picture's number in its split, from 0.
        seed: Another seed, other pictures.

    Returns:
        `image` (`bytes`: a JPEG, and `path`: its name), `file_name`, `labels` (a code per name of `LABEL_NAMES`,
        `IGNORE_INDEX` where the picture's team was not asked), `team` ("" in the test split, which is fully known),
        and `split`.
    """
    key, content, name = f"{seed} {split} {index}", io.BytesIO(), f"street_{split}_{index:05d}.jpg"
    picture, truth = draw_scene(key)
    picture.save(content, "JPEG", quality=90)
    team = Random(f"{key} team").choice(list(TEAMS)) if split == "train" else ""
    asked = TEAMS.get(team, LABEL_NAMES)
    return {
        "image": {"bytes": content.getvalue(), "path": name},
        "file_name": name,
        "labels": [truth[label] if label in asked else IGNORE_INDEX for label in LABEL_NAMES],
        "team": team,
        "split": split,
    }


def iterate_street_scenes(train_images: int = 640, test_images: int = 256, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Render the training pictures, then the test pictures; fewer pictures are the first of more."""
    for split, count in (("train", train_images), ("test", test_images)):
        yield from (render_street_scene(split, index, seed) for index in range(count))
