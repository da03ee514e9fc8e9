"""Unlabelled street furniture, much of which resembles a labelled object."""

import math
from random import Random

from halflabel.data.street_backdrop import GREENS, LAMPLIT, SHOPS
from halflabel.data.street_canvas import Colour, Stamp, Zone, shade, vary
from halflabel.data.street_objects import CLOTHES, DARK, METAL, SIGN_RED, WHITE, Prop

WOOD: Colour = (146, 100, 62)
STONE: Colour = (158, 158, 152)


def _post(stamp: Stamp, rnd: Random, top: float, width: float = 0.045) -> None:
    stamp.shadow(0.2, 0.08)
    stamp.rect((-width, 0, width, top), vary(rnd, METAL))


def draw_road_sign(stamp: Stamp, rnd: Random) -> None:
    """Draw a traffic sign other than a stop sign: no entry, speed limit, yield or parking."""
    centre, kind = rnd.uniform(2.1, 2.5), rnd.choice(("entry", "entry", "speed", "yield", "yield", "parking"))
    radius, red = rnd.uniform(0.44, 0.54), vary(rnd, SIGN_RED, 0.1)
    _post(stamp, rnd, centre + 0.2)
    if kind == "entry":
        stamp.disc(0, centre, radius, WHITE)
        stamp.disc(0, centre, radius * 0.92, red)
        stamp.rect((-radius * 0.66, centre - radius * 0.17, radius * 0.66, centre + radius * 0.17), WHITE)
    elif kind == "speed":
        stamp.disc(0, centre, radius, red)
        stamp.disc(0, centre, radius * 0.76, WHITE)
        stamp.text(0, centre, rnd.choice(("30", "40", "50", "60")), radius * 0.95, DARK)
    elif kind == "yield":
        for size, colour in ((radius * 1.2, red), (radius * 0.68, WHITE)):
            turned = [-math.pi / 2 + k * math.tau / 3 for k in range(3)]
            stamp.poly([(size * math.cos(a), centre + 0.08 + size * math.sin(a)) for a in turned], colour)
    else:
        stamp.slab((-radius, centre - radius, radius, centre + radius), 0.06, (36, 84, 168))
        stamp.text(0, centre, "P", radius * 1.5, WHITE)


def draw_shop_disc(stamp: Stamp, rnd: Random) -> None:
    """Draw a red or orange shop sign with a word, on a post."""
    centre, radius = rnd.uniform(2.1, 2.5), rnd.uniform(0.44, 0.54)
    colour = vary(rnd, rnd.choice((SIGN_RED, (206, 70, 40), (224, 122, 36), (236, 150, 50))))
    _post(stamp, rnd, centre + 0.2)
    if rnd.random() < 0.6:
        stamp.disc(0, centre, radius, shade(colour, 0.7))
        stamp.disc(0, centre, radius * 0.9, colour)
    else:
        stamp.slab((-radius, centre - radius * 0.8, radius, centre + radius * 0.8), 0.08, WHITE)
        stamp.slab((-radius * 0.93, centre - radius * 0.73, radius * 0.93, centre + radius * 0.73), 0.06, colour)
    stamp.text(0, centre, rnd.choice(("SHOP", "SALE", "BAR", "CAFE", "TAXI", "BUS")), radius * 0.62, WHITE)


def draw_street_lamp(stamp: Stamp, rnd: Random) -> None:
    """Draw a street lamp with a lantern or a globe."""
    top, lamps = 3.3, stamp.pen.light.lamps
    stamp.shadow(0.2, 0.08)
    stamp.rect((-0.05, 0, 0.05, top - 0.5), DARK)
    stamp.rect((-0.1, 0, 0.1, 0.5), DARK)
    glass: Colour = LAMPLIT if lamps > 0.3 else (228, 226, 208)
    if rnd.random() < 0.5:
        stamp.poly(((-0.14, top - 0.55), (0.14, top - 0.55), (0.22, top), (-0.22, top)), glass, glow=lamps > 0.3)
        stamp.poly(((-0.27, top), (0.27, top), (0.05, top + 0.2), (-0.05, top + 0.2)), DARK)
        stamp.line(((0, top - 0.55), (0, top)), 0.03, DARK)
    else:
        stamp.line(((-0.32, top - 0.3), (0, top - 0.5), (0.32, top - 0.3)), 0.06, DARK)
        for u in (-0.32, 0.32):
            stamp.disc(u, top - 0.1, 0.17, glass, glow=lamps > 0.3)
    stamp.halo(0, top - 0.25, 1.2, LAMPLIT, 0.6 * lamps)


def draw_dark_panel(stamp: Stamp, rnd: Random) -> None:
    """Draw a tall dark shop sign with coloured dots, letters or a cross."""
    low, high = 2.15, 3.35
    stamp.shadow(0.2, 0.08)
    stamp.rect((-0.05, 0, 0.05, low + 0.2), vary(rnd, METAL))
    stamp.slab((-0.22, low, 0.22, high), 0.06, vary(rnd, rnd.choice((DARK, DARK, (36, 48, 74), (70, 34, 40)))))
    bright = rnd.choice(((240, 90, 160), (90, 170, 250), (250, 240, 220), (255, 196, 50), (255, 110, 70)))
    kind = rnd.choice(("dots", "letters", "letters", "cross"))
    if kind == "cross":
        stamp.rect((-0.06, 2.4, 0.06, 3.1), (60, 220, 120), glow=True)
        stamp.rect((-0.17, 2.66, 0.17, 2.84), (60, 220, 120), glow=True)
    elif kind == "dots":
        for k in range(4):
            stamp.disc(0, 2.3 + 0.29 * k, 0.09, bright, glow=k % 2 == 0)
    else:
        for k, letter in enumerate(rnd.choice(("BAR", "TEA", "INN", "SPA"))):
            stamp.text(0, 3.12 - 0.36 * k, letter, 0.36, bright, glow=True)
    stamp.halo(0, 2.75, 0.8, bright, 0.35 * stamp.pen.light.lamps)


def draw_meter(stamp: Stamp, rnd: Random) -> None:
    """Draw a parking meter."""
    _post(stamp, rnd, 1.2)
    case = vary(rnd, rnd.choice((DARK, METAL, (56, 74, 92))))
    stamp.slab((-0.17, 1.05, 0.17, 1.65), 0.14, case)
    stamp.rect((-0.1, 1.36, 0.1, 1.5), (178, 206, 190))
    stamp.disc(0, 1.2, 0.06, rnd.choice(((240, 60, 50), (60, 220, 120), (250, 190, 50))), glow=True)


def draw_hydrant(stamp: Stamp, rnd: Random) -> None:
    """Draw a fire hydrant."""
    colour = vary(rnd, rnd.choice((SIGN_RED, (230, 180, 50), (60, 110, 160))))
    stamp.shadow(0.3)
    stamp.rect((-0.2, 0, 0.2, 0.1), shade(colour, 0.7))
    stamp.rect((-0.14, 0.08, 0.14, 0.66), colour)
    stamp.rect((-0.25, 0.4, 0.25, 0.54), shade(colour, 0.85))
    stamp.oval((-0.15, 0.55, 0.15, 0.85), colour)
    stamp.disc(0, 0.47, 0.08, shade(colour, 0.65))


def draw_bin(stamp: Stamp, rnd: Random) -> None:
    """Draw a litter bin or a pillar box."""
    stamp.shadow(0.36)
    if rnd.random() < 0.5:
        colour = vary(rnd, rnd.choice(((58, 84, 66), (70, 72, 78), (60, 90, 130))))
        stamp.poly(((-0.24, 0), (0.24, 0), (0.3, 0.95), (-0.3, 0.95)), colour)
        stamp.slab((-0.34, 0.92, 0.34, 1.08), 0.06, shade(colour, 0.65))
        stamp.rect((-0.16, 0.66, 0.16, 0.8), shade(colour, 0.5))
        return
    stamp.rect((-0.28, 0.08, 0.28, 1.4), (190, 34, 38))
    stamp.oval((-0.32, 1.28, 0.32, 1.62), (172, 28, 34))
    stamp.rect((-0.3, 0, 0.3, 0.14), DARK)
    stamp.rect((-0.18, 1.14, 0.18, 1.2), DARK)
    stamp.rect((-0.14, 0.75, 0.14, 1.02), WHITE)


def draw_statue(stamp: Stamp, rnd: Random) -> None:
    """Draw a stone bust or figure on a plinth."""
    stone = vary(rnd, rnd.choice((STONE, (124, 142, 130), (116, 98, 80))))
    stamp.shadow(0.5)
    stamp.rect((-0.42, 0, 0.42, 0.2), shade(stone, 0.8))
    stamp.rect((-0.32, 0.2, 0.32, 0.85), shade(stone, 0.92))
    stamp.rect((-0.38, 0.8, 0.38, 0.92), shade(stone, 0.8))
    stamp.poly(((-0.16, 0.92), (0.18, 0.92), (0.25, 1.7), (-0.25, 1.7)), stone)
    stamp.oval((-0.25, 1.56, 0.25, 1.8), stone)
    stamp.disc(0, 1.95, 0.15, shade(stone, 1.08))
    stamp.limb(((0.2, 1.68), (0.36, 1.4), (0.12, 1.25)), 0.1, shade(stone, 0.85))


def draw_slim_tree(stamp: Stamp, rnd: Random) -> None:
    """Draw a young tree or a potted cypress."""
    green = vary(rnd, rnd.choice(GREENS))
    stamp.shadow(0.4)
    if rnd.random() < 0.5:
        stamp.poly(((-0.22, 0), (0.22, 0), (0.28, 0.45), (-0.28, 0.45)), (172, 98, 66))
        stamp.oval((-0.3, 0.35, 0.3, 1.95), shade(green, 0.8))
        stamp.oval((-0.24, 0.5, 0.14, 1.85), green)
        return
    stamp.rect((-0.05, 0, 0.05, 1.6), (92, 68, 52))
    for factor, spread in ((0.75, 0.5), (0.95, 0.42), (1.12, 0.3)):
        for _ in range(4):
            stamp.disc(rnd.uniform(-1, 1) * spread, 2.1 + rnd.uniform(-0.7, 0.9) * spread, 0.34, shade(green, factor))


def draw_bench(stamp: Stamp, rnd: Random) -> None:
    """Draw a park bench."""
    wood = vary(rnd, WOOD)
    stamp.shadow(0.85)
    for u in (-0.7, 0.7):
        stamp.rect((u - 0.05, 0, u + 0.05, 0.85), DARK)
    for low in (0.4, 0.58, 0.74):
        stamp.rect((-0.85, low, 0.85, low + 0.11), shade(wood, 0.8 if low < 0.5 else 1.1))


def draw_bollards(stamp: Stamp, rnd: Random) -> None:
    """Draw three posts in a row."""
    colour = rnd.choice((DARK, STONE, (120, 60, 50)))
    for u in (-0.7, 0, 0.7):
        stamp.rect((u - 0.08, 0, u + 0.08, 0.85), colour)
        stamp.disc(u, 0.88, 0.11, shade(colour, 1.15))
        stamp.rect((u - 0.08, 0.6, u + 0.08, 0.68), WHITE)


def draw_bicycle(stamp: Stamp, rnd: Random) -> None:
    """Draw a parked bicycle."""
    frame = vary(rnd, rnd.choice(CLOTHES))
    stamp.shadow(0.85, 0.1)
    for u in (-0.52, 0.52):
        stamp.line([(u + 0.33 * math.cos(a * math.tau / 14), 0.35 + 0.33 * math.sin(a * math.tau / 14))
                    for a in range(15)], 0.045, (32, 33, 36))  # fmt: skip
    stamp.line(((-0.52, 0.35), (-0.2, 0.8), (0.36, 0.82), (0.0, 0.35), (-0.52, 0.35)), 0.05, frame)
    stamp.line(((0.0, 0.35), (-0.24, 0.92)), 0.05, frame)
    stamp.line(((0.52, 0.35), (0.34, 1.0), (0.5, 1.04)), 0.05, frame)
    stamp.oval((-0.36, 0.88, -0.12, 0.98), DARK)


def draw_skip(stamp: Stamp, rnd: Random) -> None:
    """Draw a rubbish skip, or a trailer on two wheels."""
    colour = vary(rnd, rnd.choice(((228, 176, 44), (48, 92, 140), (150, 60, 44), (80, 110, 80))))
    stamp.shadow(1.7, 0.25)
    if rnd.random() < 0.5:
        stamp.poly(((-1.2, 0.08), (1.2, 0.08), (1.65, 1.05), (-1.65, 1.05)), colour)
        stamp.rect((-1.7, 0.98, 1.7, 1.12), shade(colour, 0.75))
        for u in (-0.75, 0.0, 0.75):
            stamp.line(((u, 0.1), (u * 1.3, 1.0)), 0.09, shade(colour, 0.8))
        stamp.poly(((-1.3, 1.12), (-0.6, 1.35), (0.1, 1.2), (0.7, 1.4), (1.3, 1.12)), (140, 124, 104))
        return
    stamp.slab((-1.4, 0.4, 1.4, 1.75), 0.12, colour)
    stamp.rect((-1.4, 0.4, 1.4, 0.62), shade(colour, 0.72))
    stamp.rect((-0.9, 1.0, 0.5, 1.45), (60, 64, 70))
    stamp.poly(((-1.1, 1.5), (0.7, 1.5), (0.95, 1.15), (-1.3, 1.15)), (236, 230, 214))
    stamp.line(((1.4, 0.5), (1.95, 0.4)), 0.08, DARK)
    for u in (-0.25, 0.35):
        stamp.disc(u, 0.3, 0.3, (36, 37, 40))
        stamp.disc(u, 0.3, 0.14, (170, 172, 176))


def draw_stall(stamp: Stamp, rnd: Random) -> None:
    """Draw a market stall with a striped roof."""
    colour = vary(rnd, rnd.choice(SHOPS))
    stamp.shadow(1.5, 0.25)
    for u in (-1.3, 1.3):
        stamp.rect((u - 0.05, 0, u + 0.05, 2.1), WOOD)
    stamp.rect((-1.35, 0.1, 1.35, 0.85), shade(WOOD, 0.85))
    fruit: tuple[Colour, ...] = ((206, 60, 46), (236, 150, 40), (120, 160, 60), (230, 200, 70))
    for k in range(7):
        stamp.disc(-1.1 + 0.37 * k, 0.92, 0.17, rnd.choice(fruit))
    stamp.rect((-1.35, 0.72, 1.35, 0.86), WOOD)
    for k in range(8):
        u = -1.5 + 0.375 * k
        stamp.poly(((u, 1.85), (u + 0.375, 1.85), (u * 0.85 + 0.32, 2.35), (u * 0.85, 2.35)),
                   colour if k % 2 else (240, 236, 226))  # fmt: skip


def draw_shelter(stamp: Stamp, rnd: Random) -> None:
    """Draw a bus shelter."""
    frame = vary(rnd, rnd.choice((DARK, (70, 90, 100), (110, 60, 50))))
    stamp.shadow(1.7, 0.2)
    stamp.rect((-1.5, 0.3, 1.5, 2.1), (178, 204, 214), 130)
    for u in (-1.5, 0.5, 1.5):
        stamp.rect((u - 0.05, 0, u + 0.05, 2.2), frame)
    stamp.rect((0.55, 0.4, 1.45, 2.0), vary(rnd, rnd.choice(CLOTHES)))
    stamp.slab((-1.7, 2.15, 1.7, 2.35), 0.06, frame)
    stamp.rect((-1.3, 0.45, 0.3, 0.55), WOOD)


_SIGN = (-0.54, 1.6, 0.54, 3.0)
SIGN_LIKE = tuple(
    Prop(draw, (_SIGN, (-0.05, 0, 0.05, 1.7)), _SIGN, ("verge",)) for draw in (draw_road_sign, draw_shop_disc)
)
LIGHT_LIKE = tuple(
    Prop(draw, (box, (-0.06, 0, 0.06, 2.8)), box, ("verge",))
    for draw, box in (
        (draw_street_lamp, (-0.4, 2.7, 0.4, 3.5)),
        (draw_dark_panel, (-0.24, 2.1, 0.24, 3.4)),
        (draw_meter, (-0.18, 1.0, 0.18, 1.66)),
    )
)
PERSON_LIKE = tuple(
    Prop(draw, (box,), box, ("walk", "verge"))
    for draw, box in (
        (draw_hydrant, (-0.25, 0, 0.25, 0.85)),
        (draw_bin, (-0.34, 0, 0.34, 1.6)),
        (draw_statue, (-0.42, 0, 0.42, 2.1)),
        (draw_slim_tree, (-0.6, 0, 0.6, 2.6)),
        (draw_bench, (-0.85, 0, 0.85, 0.85)),
        (draw_bollards, (-0.8, 0, 0.8, 1.0)),
    )
)
_CLUTTERED: tuple[tuple[Zone, ...], ...] = (("walk", "road"), ("verge", "road"), ("walk",), ("walk",))
CAR_LIKE = tuple(
    Prop(draw, (box,), box, zones)
    for draw, box, zones in (
        (draw_bicycle, (-0.85, 0, 0.85, 1.05), _CLUTTERED[0]),
        (draw_skip, (-1.7, 0, 1.7, 1.75), _CLUTTERED[1]),
        (draw_stall, (-1.5, 0, 1.5, 2.35), _CLUTTERED[2]),
        (draw_shelter, (-1.7, 0, 1.7, 2.35), _CLUTTERED[3]),
    )
)
