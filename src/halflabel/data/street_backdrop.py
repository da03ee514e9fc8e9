"""What lies behind the objects of a street scene: sky, buildings, road and pavement."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TypeAlias

from halflabel.data.street_canvas import Camera, Colour, Light, Pen, Point, Zone, mix, shade, vary

Wall: TypeAlias = Callable[[float, float], Point]

LIGHTS: tuple[Light, ...] = (
    Light("clear", (1.0, 1.0, 0.98), (92, 158, 224), (212, 232, 244), 170.0, 0.0, 90),
    Light("overcast", (0.86, 0.88, 0.9), (160, 170, 180), (214, 218, 220), 100.0, 0.0, 50),
    Light("rain", (0.68, 0.72, 0.78), (112, 122, 134), (168, 176, 182), 60.0, 0.35, 60),
    Light("fog", (0.9, 0.91, 0.92), (196, 202, 206), (214, 217, 219), 26.0, 0.3, 40),
    Light("dusk", (0.84, 0.66, 0.66), (66, 72, 132), (250, 176, 124), 120.0, 0.8, 70),
    Light("night", (0.44, 0.46, 0.6), (14, 18, 42), (50, 54, 92), 120.0, 1.0, 90),
)
LIGHT_WEIGHTS = (34, 20, 14, 10, 12, 10)
WALLS: tuple[Colour, ...] = (
    (176, 92, 72), (214, 190, 156), (228, 214, 188), (150, 104, 84), (196, 148, 110), (164, 172, 176), (206, 158, 140),
    (136, 150, 146), (222, 196, 128), (178, 190, 196), (120, 84, 76),
)  # fmt: skip
ROOFS: tuple[Colour, ...] = ((120, 62, 50), (84, 84, 92), (98, 74, 62), (70, 76, 86))
SHOPS: tuple[Colour, ...] = ((52, 96, 84), (150, 46, 48), (44, 70, 112), (196, 140, 52), (84, 60, 92), (60, 60, 64))
WORDS = ("CAFE", "BOOKS", "BAKERY", "FLOWERS", "BANK", "SHOES", "MUSIC", "DELI", "HOTEL", "TOYS", "PIZZA", "TEA")
PANE: Colour = (92, 120, 142)
LAMPLIT: Colour = (255, 214, 128)
GREENS: tuple[Colour, ...] = ((70, 122, 62), (92, 140, 66), (58, 104, 72), (126, 142, 62), (188, 132, 54))


@dataclass(frozen=True)
class Street:
    """The ground plan of a street and the camera that looks at it.

    An avenue runs away from the viewer between x = -half and x = half; otherwise the street runs across the
    picture between z = near and z = far.
    """

    camera: Camera
    avenue: bool
    half: float
    walk: float
    near: float
    far: float

    def place(self, rnd: Random, zone: Zone) -> Point:
        """Return a random place (x, z) in a zone, with apparent sizes spread evenly."""
        camera = self.camera
        if self.avenue:
            closest, farthest = {"road": (6.5, 26.0), "verge": (3.9, 9.0), "walk": (4.2, 11.0)}[zone]
            z = 1.0 / rnd.uniform(1.0 / farthest, 1.0 / closest)
            if zone == "road":
                return rnd.choice((-1, 1)) * rnd.uniform(0.35, 0.62) * self.half, z
            offset = 0.35 if zone == "verge" else rnd.uniform(0.6, self.walk - 0.4)
            return rnd.choice((-1, 1)) * (self.half + offset), z
        if zone == "road":
            z = rnd.uniform(self.near + 1.2, self.far - 0.9)
        elif rnd.random() < 0.72:
            z = self.near - (0.15 if zone == "verge" else rnd.uniform(0.2, 0.7))
        else:
            z = self.far + (0.35 if zone == "verge" else rnd.uniform(0.6, self.walk - 0.4))
        reach = 0.5 * camera.size / camera.scale(z)
        return camera.x + rnd.uniform(-reach, reach), z


def plan_street(rnd: Random, size: int) -> Street:
    """Draw the ground plan and the view of a street."""
    avenue = rnd.random() < 0.55
    half, walk = rnd.uniform(3.0, 3.9), rnd.uniform(2.4, 3.4)
    near = rnd.uniform(4.7, 5.2)
    camera = Camera(
        focal=size * rnd.uniform(0.8, 1.0),
        horizon=size * rnd.uniform(0.4, 0.5),
        centre=size * (rnd.uniform(0.3, 0.7) if avenue else 0.5),
        height=rnd.uniform(1.9, 2.5),
        x=rnd.uniform(-0.8, 0.8) * half if avenue else 0.0,
        size=size,
    )
    return Street(camera, avenue, half, walk, near, near + rnd.uniform(5.5, 7.0))


def draw_sky(pen: Pen, rnd: Random, street: Street) -> None:
    """Paint the sky with its clouds, its sun or its stars."""
    size, light = street.camera.size, pen.light
    low = int(street.camera.horizon) + 4
    for top in range(0, low, 4):
        pen.image.paste(mix(light.sky_top, light.sky_low, top / low), (0, top, size, top + 4))
    pen.haze = 0.0
    if light.name == "night":
        for _ in range(25):
            x, y = rnd.uniform(0, size), rnd.uniform(0, low * 0.8)
            pen.rect((x, y, x + 1, y + 1), (220, 224, 240), glow=True)
    if light.name in ("clear", "dusk", "night") and rnd.random() < 0.4:
        x, y, radius = rnd.uniform(0, size), rnd.uniform(0.05, 0.5) * low, size * rnd.uniform(0.02, 0.035)
        pen.halo((x, y), radius * 4, (255, 246, 214), 0.7)
        pen.oval((x - radius, y - radius, x + radius, y + radius), (255, 248, 226), glow=True)
    if light.name != "fog":
        for _ in range(rnd.randint(1, 4)):
            x, y, wide = rnd.uniform(0, size), rnd.uniform(0.08, 0.75) * low, size * rnd.uniform(0.06, 0.14)
            for _ in range(4):
                u, flat = x + rnd.uniform(-1, 1) * wide, wide * rnd.uniform(0.16, 0.26)
                pen.oval((u - wide * 0.6, y - flat, u + wide * 0.6, y + flat), (250, 250, 252), 70)


def _quad(wall: Wall, left: float, low: float, right: float, high: float) -> tuple[Point, Point, Point, Point]:
    return wall(left, low), wall(left, high), wall(right, high), wall(right, low)


def _shop(pen: Pen, rnd: Random, wall: Wall, length: float, frontal: bool) -> None:
    colour, glow = vary(rnd, rnd.choice(SHOPS)), pen.light.lamps > 0.5
    pen.poly(_quad(wall, 0.25, 0, length - 0.25, 3.0), shade(colour, 0.7))
    pane = LAMPLIT if glow else shade(PANE, 0.9)
    door = rnd.choice((0.6, length - 1.9))
    pen.poly(_quad(wall, door, 0, door + 1.2, 2.2), shade(colour, 1.3))
    pen.poly(_quad(wall, door + 0.2, 0.7, door + 1.0, 2.0), pane, glow=glow)
    start, stop = (2.2, length - 0.6) if door < 1 else (0.6, length - 2.4)
    pen.poly(_quad(wall, start, 0.6, stop, 2.2), pane, glow=glow)
    for share in (0.33, 0.66):
        at = start + (stop - start) * share
        pen.poly(_quad(wall, at - 0.04, 0.6, at + 0.04, 2.2), shade(colour, 0.6))
    if rnd.random() < 0.5:
        stripes, awning = max(4, int(length * 1.2)), rnd.choice(SHOPS)
        for k in range(stripes):
            left, right = length * k / stripes, length * (k + 1) / stripes
            pen.poly(_quad(wall, left, 2.2, right, 2.75), awning if k % 2 else (238, 234, 222))
    pen.poly(_quad(wall, 0.25, 2.75, length - 0.25, 3.2), colour)
    if frontal:
        x0, y0 = wall(length / 2, 3.0)
        pen.text((x0, y0), rnd.choice(WORDS), (wall(0, 2.6)[1] - wall(0, 3.0)[1]) * 1.0, (244, 236, 214), glow=glow)


def _facade(pen: Pen, rnd: Random, wall: Wall, length: float, floors: int, frontal: bool, side: float) -> None:
    colour = shade(vary(rnd, rnd.choice(WALLS)), side)
    trim = mix(colour, (246, 242, 232), 0.6)
    top = 3.3 + floors * 2.9
    pen.poly(_quad(wall, 0, 0, length, top), colour)
    pen.poly(_quad(wall, 0, 0, length, 0.5), shade(colour, 0.72))
    shop = rnd.random() < 0.6
    if shop:
        _shop(pen, rnd, wall, length, frontal)
    bays = max(2, int(length / rnd.uniform(1.9, 2.7)))
    step = length / bays
    wide, tall = rnd.uniform(0.42, 0.56) * step, rnd.uniform(1.35, 1.75)
    shutters = rnd.choice(SHOPS) if rnd.random() < 0.3 else None
    for floor in range(0 if not shop else 1, floors + 1):
        low = 0.9 if floor == 0 else 3.3 + (floor - 1) * 2.9 + 0.75
        if wall(0, low)[1] < 0 and wall(length, low)[1] < 0:
            break
        for bay in range(bays):
            middle = (bay + 0.5) * step
            left, right = middle - wide / 2, middle + wide / 2
            if shutters:
                pen.poly(_quad(wall, left - 0.28, low, right + 0.28, low + tall), shutters)
            else:
                pen.poly(_quad(wall, left - 0.1, low - 0.14, right + 0.1, low + tall + 0.1), trim)
            lit = pen.light.lamps > 0.5 and rnd.random() < 0.45
            pane = vary(rnd, LAMPLIT if lit else PANE, 0.15)
            pen.poly(_quad(wall, left, low, right, low + tall), pane, glow=lit)
            if frontal:
                pen.poly(_quad(wall, middle - 0.04, low, middle + 0.04, low + tall), trim)
    pen.poly(_quad(wall, -0.1, top - 0.35, length + 0.1, top), trim)
    if rnd.random() < 0.6:
        roof = vary(rnd, rnd.choice(ROOFS))
        pen.poly(
            (wall(-0.15, top), wall(0.8, top + 1.8), wall(length - 0.8, top + 1.8), wall(length + 0.15, top)), roof
        )


def _tree(pen: Pen, rnd: Random, camera: Camera, x: float, z: float) -> None:
    foot, scale = camera.project(x, 0, z), camera.scale(z)
    pen.set_distance(z)
    green, tall = vary(rnd, rnd.choice(GREENS)), rnd.uniform(3.4, 5.0)
    pen.rect((foot[0] - 0.14 * scale, foot[1], foot[0] + 0.14 * scale, foot[1] - tall * scale), (92, 70, 54))
    for factor, lift in ((0.75, 0.0), (0.92, 0.3), (1.1, 0.6)):
        for _ in range(4):
            radius = rnd.uniform(0.6, 1.0) * scale
            u, v = (
                foot[0] + rnd.uniform(-0.9, 0.9) * scale,
                foot[1] - (tall - 0.4 + lift + rnd.uniform(-0.6, 0.8)) * scale,
            )
            pen.oval((u - radius, v - radius, u + radius, v + radius), shade(green, factor))


def _avenue_walls(pen: Pen, rnd: Random, street: Street) -> None:
    camera = street.camera
    edge = street.half + street.walk
    for side in (-1, 1):
        park = rnd.random() < 0.2
        ends = [3.0]
        while ends[-1] < 55:
            ends.append(ends[-1] + rnd.uniform(6.5, 12.0))
        bright = 0.84 if side < 0 else 1.06
        for start, stop in zip(ends[-2::-1], ends[:0:-1], strict=True):
            pen.set_distance((start + stop) / 2)
            floors = rnd.randint(1, 4)
            if park:
                hedge = [
                    camera.project(side * edge, up, z) for up, z in ((0, start), (1.1, start), (1.1, stop), (0, stop))
                ]
                pen.poly(hedge, shade(GREENS[0], bright * 0.8))
                for _ in range(2):
                    _tree(pen, rnd, camera, side * (edge + rnd.uniform(0.8, 3)), rnd.uniform(max(start, 7.0), stop + 3))
                continue
            top = 3.3 + floors * 2.9
            end = [camera.project(side * x, up, start) for x, up in
                   ((edge, 0), (edge, top), (edge + 9, top), (edge + 9, 0))]  # fmt: skip
            pen.poly(end, vary(rnd, shade(rnd.choice(WALLS), 0.8)))

            def wall(along: float, up: float, start: float = start, side: int = side) -> Point:
                return camera.project(side * edge, up, max(1.2, start + along))

            _facade(pen, rnd, wall, stop - start, floors, False, bright)


def draw_buildings(pen: Pen, rnd: Random, street: Street) -> None:
    """Paint the buildings along the street, and what closes the view."""
    camera = street.camera
    if street.avenue:
        pen.set_distance(70)
        for _ in range(5):
            x, wide, up = rnd.uniform(-16, 16), rnd.uniform(4, 7), rnd.uniform(5, 16)
            pen.rect((*camera.project(x, up, 70), *camera.project(x + wide, 0, 70)), rnd.choice(WALLS))
        for _ in range(4):
            _tree(pen, rnd, camera, rnd.uniform(-9, 9), rnd.uniform(55, 66))
        _avenue_walls(pen, rnd, street)
        return
    depth = street.far + street.walk
    reach = 0.5 * camera.size / camera.scale(depth) + 1
    at = -reach - rnd.uniform(0, 4)
    while at < reach:
        length = rnd.uniform(5.0, 8.5)
        pen.set_distance(depth)
        if rnd.random() < 0.12:
            pen.rect((*camera.project(at, 1.2, depth), *camera.project(at + length, 0, depth)), GREENS[0])
            for _ in range(3):
                _tree(pen, rnd, camera, at + rnd.uniform(1, length - 1), depth + rnd.uniform(0.2, 3))
        else:

            def wall(along: float, up: float, at: float = at) -> Point:
                return camera.project(at + along, up, depth)

            _facade(pen, rnd, wall, length, rnd.randint(1, 3), True, 1.0)
        at += length


def _patch(pen: Pen, street: Street, x: Point, z: Point, colour: Colour, alpha: int = 255) -> None:
    project = street.camera.project
    pen.poly((project(x[0], 0, z[0]), project(x[0], 0, z[1]), project(x[1], 0, z[1]), project(x[1], 0, z[0])),
             colour, alpha)  # fmt: skip


def draw_ground(pen: Pen, rnd: Random, street: Street) -> None:
    """Paint the pavement, the kerbs and the road with its markings."""
    stone, tar = vary(rnd, (178, 172, 162)), vary(rnd, (86, 88, 94))
    wet = pen.light.name == "rain"
    paint: Colour = (226, 224, 214)
    size, horizon = street.camera.size, street.camera.horizon
    pen.set_distance(14)
    pen.rect((0, horizon + (0 if street.avenue else 2), size, size), stone)
    half, near, far = street.half, street.near, street.far
    if street.avenue:
        for k in range(2, 14):
            _patch(pen, street, (-14, 14), (k * 1.5, k * 1.5 + 0.05), shade(stone, 0.86))
        _patch(pen, street, (-half - 0.2, half + 0.2), (1.5, 80), shade(stone, 1.16))
        _patch(pen, street, (-half, half), (1.5, 80), tar)
        for k in range(10):
            _patch(pen, street, (-0.08, 0.08), (2 + 3.5 * k, 3.8 + 3.5 * k), paint)
        if rnd.random() < 0.35:
            z = rnd.uniform(4.5, 9)
            for k in range(-3, 3):
                _patch(pen, street, (k * half / 3 + 0.2, k * half / 3 + 0.75), (z, z + 2.2), paint)
    else:
        _patch(pen, street, (-60, 60), (near - 0.12, far + 0.15), shade(stone, 1.16))
        _patch(pen, street, (-60, 60), (near, far), tar)
        for k in range(-8, 9):
            _patch(pen, street, (k * 1.4, k * 1.4 + 0.05), (1.5, near - 0.12), shade(stone, 0.86))
            _patch(pen, street, (k * 2.6, k * 2.6 + 1.4), ((near + far) / 2 - 0.08, (near + far) / 2 + 0.08), paint)
    if wet:
        for _ in range(7):
            x, y = rnd.uniform(0, size), rnd.uniform(horizon + size * 0.1, size)
            wide = (y - horizon) * rnd.uniform(0.15, 0.5)
            pen.oval((x - wide, y - wide * 0.12, x + wide, y + wide * 0.12), (206, 214, 222), 50)
