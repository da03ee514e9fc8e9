"""The four labelled objects of the street scenes: pedestrians, cars, stop signs and traffic lights."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from halflabel.data.street_canvas import Box, Colour, Point, Stamp, Zone, shade, vary

METAL: Colour = (122, 126, 130)
DARK: Colour = (34, 37, 42)
WHITE: Colour = (244, 244, 240)
SIGN_RED: Colour = (196, 26, 34)
GLASS: Colour = (118, 152, 172)
CLOTHES: tuple[Colour, ...] = (
    (178, 44, 52), (38, 70, 128), (44, 110, 84), (226, 178, 60), (60, 60, 66), (150, 150, 156), (232, 226, 212),
    (124, 66, 126), (222, 116, 54), (86, 58, 44), (66, 138, 168), (208, 120, 150),
)  # fmt: skip
SKINS: tuple[Colour, ...] = ((244, 208, 178), (226, 180, 146), (190, 136, 100), (140, 94, 66), (94, 62, 46))
HAIRS: tuple[Colour, ...] = (
    (38, 28, 24),
    (84, 54, 34),
    (148, 104, 58),
    (206, 170, 104),
    (150, 150, 150),
    (120, 50, 30),
)
PAINTS: tuple[Colour, ...] = (
    (190, 32, 38), (32, 66, 136), (226, 228, 230), (52, 56, 62), (156, 162, 168), (40, 104, 78), (228, 180, 48),
    (206, 104, 44), (110, 158, 196), (110, 34, 50), (196, 186, 160),
)  # fmt: skip


@dataclass(frozen=True)
class Prop:
    """One kind of thing in a scene.

    Attributes:
        draw: Draws it with a stamp; the random numbers choose its looks.
        boxes: What it covers, as boxes in metres (left, bottom, right, top) around its foot point.
        core: The part that must be visible for the thing to count as visible.
        zones: Where it may stand.
        depth: How far it reaches away from the viewer, in metres.
        max_hidden: The largest share of the core that may be out of sight.
    """

    draw: Callable[[Stamp, Random], None]
    boxes: tuple[Box, ...]
    core: Box
    zones: tuple[Zone, ...]
    depth: float = 0.0
    max_hidden: float = 0.5


def _legs(stamp: Stamp, rnd: Random, tall: float, trousers: Colour) -> None:
    stride = rnd.uniform(0.04, 0.3)
    shoes = vary(rnd, rnd.choice(((40, 34, 32), (90, 60, 40), (230, 230, 226))))
    hip = 0.86 * tall
    for foot, lift, tone in ((-stride, 0.06, 0.78), (stride, 0.0, 1.0)):
        side = 0.06 if foot > 0 else -0.06
        knee: Point = (foot * 0.62 + side * 0.4, 0.46 * tall + lift * 0.4)
        stamp.limb(((side, hip), knee, (foot, 0.07 + lift)), 0.145, shade(trousers, tone))
        stamp.oval((foot - 0.09, lift, foot + 0.17, 0.11 + lift), shoes)


def _torso(stamp: Stamp, rnd: Random, tall: float, top: Colour) -> None:
    shoulder, hip = 1.43 * tall, 0.84 * tall
    cut = rnd.random()
    if cut < 0.25:
        hem = rnd.uniform(0.5, 0.62) * tall
        stamp.poly(((-0.19, shoulder), (0.19, shoulder), (0.15, 1.08), (0.3, hem), (-0.3, hem), (-0.15, 1.08)), top)
    elif cut < 0.55:
        hem = rnd.uniform(0.55, 0.7) * tall
        stamp.poly(((-0.23, shoulder), (0.23, shoulder), (0.25, hem), (-0.25, hem)), top)
        stamp.line(((0.03, shoulder), (0.03, hem)), 0.02, shade(top, 0.7))
    else:
        stamp.poly(((-0.23, shoulder), (0.23, shoulder), (0.18, hip - 0.06), (-0.18, hip - 0.06)), top)
        stamp.rect((-0.18, hip - 0.08, 0.18, hip - 0.02), shade(top, 0.72))
    stamp.oval((-0.23, shoulder - 0.1, 0.23, shoulder + 0.09), top)


def _head(stamp: Stamp, rnd: Random, tall: float, skin: Colour) -> None:
    hair = vary(rnd, rnd.choice(HAIRS))
    centre = 1.63 * tall
    stamp.rect((-0.05, centre - 0.2, 0.05, centre), shade(skin, 0.85))
    if rnd.random() < 0.35:
        stamp.oval((-0.16, centre - 0.24, 0.14, centre + 0.15), hair)
    stamp.oval((-0.115, centre - 0.15, 0.125, centre + 0.14), skin)
    stamp.poly(((-0.13, centre - 0.04), (-0.12, centre + 0.1), (-0.03, centre + 0.17), (0.1, centre + 0.14),
                (0.13, centre + 0.05), (-0.05, centre + 0.07)), hair)  # fmt: skip
    if rnd.random() < 0.22:
        hat = rnd.choice(CLOTHES)
        stamp.poly(((-0.14, centre + 0.06), (-0.1, centre + 0.19), (0.1, centre + 0.19), (0.14, centre + 0.06)), hat)
        stamp.rect((-0.15, centre + 0.04, 0.2, centre + 0.075), shade(hat, 0.75))


def draw_pedestrian(stamp: Stamp, rnd: Random) -> None:
    """Draw a walking or standing person."""
    tall = rnd.uniform(0.93, 1.06)
    skin, top = rnd.choice(SKINS), vary(rnd, rnd.choice(CLOTHES))
    trousers = vary(rnd, rnd.choice(CLOTHES[1:7]), 0.2)
    stamp.shadow(0.42)
    extra = rnd.random()
    swing = rnd.uniform(0.04, 0.24)
    back_hand: Point = (-0.2 - swing, 0.92 * tall)
    stamp.limb(((-0.19, 1.38 * tall), (-0.25 - swing * 0.3, 1.12 * tall), back_hand), 0.1, shade(top, 0.75))
    stamp.disc(*back_hand, 0.055, skin)
    _legs(stamp, rnd, tall, trousers)
    if extra < 0.2:
        stamp.slab((-0.4, 0.98 * tall, -0.12, 1.42 * tall), 0.08, vary(rnd, rnd.choice(CLOTHES)))
    _torso(stamp, rnd, tall, top)
    _head(stamp, rnd, tall, skin)
    if extra > 0.82:
        hand: Point = (0.26, 1.22 * tall)
        cover = vary(rnd, rnd.choice(CLOTHES))
        rim, crown = 1.82 * tall, 2.14 * tall
        stamp.line(((0.26, 1.15 * tall), (0.2, crown)), 0.03, DARK)
        stamp.poly([(0.2 + 0.62 * math.cos(a * math.pi / 8), rim + (crown - rim) * math.sin(a * math.pi / 8))
                    for a in range(9)], cover)  # fmt: skip
        stamp.poly(((0.0, rim), (0.4, rim), (0.2, crown)), shade(cover, 0.82))
    else:
        hand = (0.2 + swing, 0.94 * tall)
    stamp.limb(((0.19, 1.38 * tall), (0.27, 1.12 * tall), hand), 0.1, shade(top, 0.9))
    stamp.disc(*hand, 0.055, skin)
    if 0.2 <= extra < 0.45:
        bag = vary(rnd, rnd.choice(CLOTHES))
        stamp.line(((hand[0] - 0.08, 0.72), hand, (hand[0] + 0.08, 0.72)), 0.025, shade(bag, 0.6))
        stamp.slab((hand[0] - 0.15, 0.46, hand[0] + 0.15, 0.74), 0.03, bag)


def _wheel(stamp: Stamp, u: float, radius: float) -> None:
    stamp.disc(u, radius, radius + 0.06, (24, 25, 28))
    stamp.disc(u, radius, radius, (46, 47, 50))
    stamp.disc(u, radius, radius * 0.58, (176, 180, 184))
    stamp.disc(u, radius, radius * 0.2, (80, 82, 86))


_SEDAN: tuple[Point, ...] = ((-1.25, 0.88), (-0.72, 1.38), (0.42, 1.42), (1.02, 0.9))
_HATCH: tuple[Point, ...] = ((-1.78, 0.9), (-1.58, 1.42), (0.3, 1.5), (0.98, 0.92))
_VAN: tuple[Point, ...] = ((-2.02, 0.9), (-1.98, 1.86), (0.7, 1.92), (1.45, 1.0))


def draw_car_side(stamp: Stamp, rnd: Random) -> None:
    """Draw a car seen from its side."""
    paint = vary(rnd, rnd.choice(PAINTS))
    cabin = rnd.choice((_SEDAN, _HATCH, _VAN))
    low, lamps = shade(paint, 0.74), stamp.pen.light.lamps
    stamp.shadow(2.15, 0.28)
    stamp.poly(cabin, paint)
    (left, base), (left_top, roof), (right_top, _), (right, base_right) = cabin
    slope_left, slope_right = left_top - left, right - right_top
    middle = (left_top + right_top) / 2 + rnd.uniform(-0.1, 0.2)
    high = roof - 0.09
    glass = vary(rnd, GLASS)
    if cabin is not _VAN or rnd.random() < 0.4:
        stamp.poly(((left + 0.16 + slope_left * 0.1, base + 0.06), (left_top + 0.1, high), (middle - 0.04, high),
                    (middle - 0.04, base + 0.06)), glass)  # fmt: skip
    stamp.poly(((middle + 0.04, base + 0.06), (middle + 0.04, high), (right_top - 0.03, high),
                (right - 0.14 - slope_right * 0.1, base_right + 0.06)), shade(glass, 1.12))  # fmt: skip
    stamp.poly(((-2.1, 0.34), (-2.14, 0.74), (-2.0, 0.93), (1.0, 0.95), (1.85, 0.82), (2.12, 0.62), (2.14, 0.34),
                (1.9, 0.24), (-1.9, 0.24)), paint)  # fmt: skip
    stamp.poly(((-2.13, 0.46), (2.13, 0.46), (2.14, 0.34), (1.9, 0.24), (-1.9, 0.24), (-2.1, 0.34)), low)
    stamp.line(((middle, 0.9), (middle, 0.36)), 0.025, shade(paint, 0.6))
    stamp.line(((-2.0, 0.8), (1.7, 0.8)), 0.025, shade(paint, 1.2))
    stamp.rect((middle + 0.1, 0.72, middle + 0.3, 0.77), shade(paint, 0.5))
    radius = rnd.uniform(0.32, 0.36)
    _wheel(stamp, -1.28, radius)
    _wheel(stamp, 1.3, radius)
    stamp.rect((-2.14, 0.62, -2.02, 0.8), (214, 30, 34), glow=lamps > 0.3)
    stamp.oval((1.9, 0.56, 2.12, 0.74), (252, 244, 204), glow=lamps > 0.3)
    if lamps > 0.3:
        stamp.halo(2.1, 0.65, 0.9, (255, 240, 190), 0.7 * lamps)


def _car_face(stamp: Stamp, rnd: Random, paint: Colour, rear: bool) -> None:
    lamps = stamp.pen.light.lamps
    stamp.slab((-0.9, 0.26, 0.9, 0.95), 0.1, paint)
    stamp.rect((-0.88, 0.26, 0.88, 0.42), shade(paint, 0.55))
    colour: Colour = (216, 28, 34) if rear else (252, 246, 212)
    for side in (-1, 1):
        outer, inner = side * 0.84, side * 0.54
        stamp.slab((outer, 0.6, inner, 0.8), 0.05, colour, glow=lamps > 0.3)
        if lamps > 0.3:
            stamp.halo(side * 0.7, 0.7, 0.55, colour, 0.75 * lamps)
    if rear:
        stamp.rect((-0.26, 0.5, 0.26, 0.63), WHITE)
        stamp.line(((-0.8, 0.88), (0.8, 0.88)), 0.03, shade(paint, 0.7))
    else:
        stamp.slab((-0.45, 0.5, 0.45, 0.72), 0.05, DARK)
        stamp.rect((-0.2, 0.32, 0.2, 0.42), WHITE)


def draw_car_end(stamp: Stamp, rnd: Random) -> None:
    """Draw a car seen from behind or from the front, with its side in perspective."""
    paint, glass = vary(rnd, rnd.choice(PAINTS)), vary(rnd, GLASS)
    rear, long = rnd.random() < 0.6, rnd.uniform(3.6, 4.4)
    van = rnd.random() < 0.25
    roof = rnd.uniform(1.75, 1.95) if van else rnd.uniform(1.4, 1.55)
    edge, back = (0.75, 0.05) if van else (0.66, 0.35 if rear else 0.95)
    slope, front = (0.12 if van else 0.4), long * (0.8 if van else 0.62 if rear else 0.92)
    stamp.pen.poly([stamp.deep(u, 0.0, w) for u, w in ((-1.0, -0.15), (1.0, -0.15), (1.0, long), (-1.0, long))],
                   (12, 14, 22), min(255, stamp.pen.light.shadow + 50))  # fmt: skip
    for side in (-0.88, 0.88):
        for w in (long - 0.8, 0.7):
            stamp.solid([(side, 0.36 + 0.35 * math.sin(a * math.pi / 4), w + 0.35 * math.cos(a * math.pi / 4))
                         for a in range(8)], (30, 31, 34))  # fmt: skip
        stamp.solid(((side, 0.34, 0), (side, 0.92, 0), (side, 0.86, long), (side, 0.34, long)), shade(paint, 0.74))
        for w in (long - 0.8, 0.7):
            stamp.solid([(side, 0.33 + 0.31 * math.sin(a * math.pi / 4), w + 0.31 * math.cos(a * math.pi / 4))
                         for a in range(8)], (40, 41, 44))  # fmt: skip
    stamp.solid(((-0.88, 0.92, 0), (0.88, 0.92, 0), (0.86, 0.86, long), (-0.86, 0.86, long)), shade(paint, 1.12))
    for side in (-1, 1):
        top, low = side * edge, side * 0.82
        stamp.solid(((low, 0.92, back), (top, roof, back + slope), (top, roof, front - 0.5), (low, 0.9, front)),
                    shade(paint, 0.7))  # fmt: skip
        stamp.solid(((low, 1.0, back + 0.35), (top, roof - 0.08, back + slope + 0.2), (top, roof - 0.08, front - 0.7),
                     (low, 1.0, front - 0.3)), shade(glass, 0.7))  # fmt: skip
    stamp.solid(((-edge, roof, back + slope), (edge, roof, back + slope), (edge, roof, front - 0.5),
                 (-edge, roof, front - 0.5)), shade(paint, 1.2))  # fmt: skip
    stamp.solid(((-0.82, 0.92, back), (0.82, 0.92, back), (edge, roof, back + slope), (-edge, roof, back + slope)),
                paint)  # fmt: skip
    stamp.solid(((-0.7, 1.0, back), (0.7, 1.0, back), (edge - 0.08, roof - 0.08, back + slope),
                 (0.08 - edge, roof - 0.08, back + slope)), shade(glass, 0.85 if rear else 1.1))  # fmt: skip
    for side in (-1, 1):
        stamp.rect((side * 0.84, 0.0, side * 0.58, 0.34), (26, 27, 30))
    _car_face(stamp, rnd, paint, rear)


def draw_stop_sign(stamp: Stamp, rnd: Random) -> None:
    """Draw an octagonal stop sign on its post."""
    centre, radius = rnd.uniform(2.1, 2.5), rnd.uniform(0.5, 0.58)
    stamp.shadow(0.2, 0.08)
    stamp.rect((-0.045, 0, 0.045, centre + 0.2), vary(rnd, METAL))
    red = vary(rnd, SIGN_RED, 0.1)
    for size, colour in ((radius, shade(red, 0.8)), (radius * 0.97, WHITE), (radius * 0.87, red)):
        turned = [math.pi / 8 + k * math.pi / 4 for k in range(8)]
        stamp.poly([(size * math.cos(a), centre + size * math.sin(a)) for a in turned], colour)
    stamp.text(0, centre + 0.01, "STOP", radius * 0.66, WHITE)
    if rnd.random() < 0.25:
        stamp.rect((-0.3, centre - radius - 0.24, 0.3, centre - radius - 0.06), WHITE)
        stamp.text(0, centre - radius - 0.15, "4-WAY", 0.15, SIGN_RED)


def _signal_head(stamp: Stamp, rnd: Random, u: float, v: float) -> None:
    case = rnd.choice(((30, 33, 37), (30, 33, 37), (46, 58, 52), (214, 164, 40)))
    if rnd.random() < 0.35:
        stamp.slab((u - 0.36, v - 0.82, u + 0.36, v + 0.82), 0.1, (226, 228, 226))
        stamp.slab((u - 0.32, v - 0.78, u + 0.32, v + 0.78), 0.1, (28, 30, 33))
    stamp.slab((u - 0.25, v - 0.72, u + 0.25, v + 0.72), 0.1, case)
    lit = rnd.choice((0, 0, 1, 2, 2))
    lamps: tuple[tuple[Colour, Colour], ...] = (
        ((70, 22, 22), (255, 58, 44)), ((70, 56, 20), (255, 196, 50)), ((18, 58, 36), (60, 240, 150)),
    )  # fmt: skip
    for index, (dull, bright) in enumerate(lamps):
        height = v + 0.45 - 0.45 * index
        stamp.disc(u, height + 0.02, 0.2, shade(case, 0.6))
        stamp.disc(u, height, 0.175, bright if index == lit else dull, glow=index == lit)
        if index == lit:
            stamp.halo(u, height, 0.5 + 0.25 * stamp.pen.light.lamps, bright, 0.45 + 0.3 * stamp.pen.light.lamps)
            stamp.disc(u, height, 0.09, shade(bright, 1.3), glow=True)


def draw_traffic_light(stamp: Stamp, rnd: Random) -> None:
    """Draw a traffic light on a post."""
    centre = 2.75
    stamp.shadow(0.22, 0.08)
    stamp.rect((-0.055, 0, 0.055, centre), vary(rnd, rnd.choice((METAL, DARK))))
    stamp.rect((-0.1, 0, 0.1, 0.3), DARK)
    _signal_head(stamp, rnd, 0.0, centre)


def draw_traffic_arm(stamp: Stamp, rnd: Random) -> None:
    """Draw a traffic light that hangs from an arm."""
    colour = vary(rnd, METAL)
    stamp.shadow(0.24, 0.08)
    stamp.rect((-0.07, 0, 0.07, 4.3), colour)
    stamp.rect((-0.12, 0, 0.12, 0.35), shade(colour, 0.7))
    stamp.line(((0, 4.15), (1.75, 4.3)), 0.09, colour)
    stamp.line(((0, 3.7), (0.6, 4.2)), 0.05, colour)
    stamp.line(((1.6, 4.3), (1.6, 3.9)), 0.06, colour)
    _signal_head(stamp, rnd, 1.6, 3.6)


PEDESTRIAN = Prop(draw_pedestrian, ((-0.4, 0, 0.45, 1.85),), (-0.26, 0, 0.28, 1.8), ("walk", "walk", "verge"))
CAR_SIDE = Prop(draw_car_side, ((-2.1, 0, 2.1, 0.95), (-2.05, 0.9, 1.45, 1.92)), (-2.0, 0.1, 2.0, 1.3), ("road",))
CAR_END = Prop(draw_car_end, ((-0.95, 0, 0.95, 1.95),), (-0.9, 0, 0.9, 1.5), ("road",), depth=4.2)
STOP_SIGN = Prop(draw_stop_sign, ((-0.56, 1.6, 0.56, 3.0), (-0.05, 0, 0.05, 1.7)), (-0.52, 1.7, 0.52, 2.9),
                 ("verge",), max_hidden=0.35)  # fmt: skip
TRAFFIC_LIGHT = Prop(draw_traffic_light, ((-0.3, 2.0, 0.3, 3.5), (-0.06, 0, 0.06, 2.2)), (-0.26, 2.02, 0.26, 3.48),
                     ("verge",), max_hidden=0.35)  # fmt: skip
TRAFFIC_ARM = Prop(draw_traffic_arm, ((1.3, 2.85, 1.9, 4.35), (-0.08, 0, 0.08, 4.3)), (1.34, 2.88, 1.86, 4.32),
                   ("verge",), max_hidden=0.35)  # fmt: skip
