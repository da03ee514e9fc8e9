"""Camera, light, pen and stamp: the drawing primitives of the street scenes.

A scene is laid out in metres and seen by a pinhole `Camera`. The `Pen` draws in pixels and tints every
colour by the light and the haze of the moment; a `Stamp` draws one object in metres around its foot point.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, TypeAlias

from PIL import Image, ImageDraw, ImageFont

Colour: TypeAlias = tuple[int, int, int]
Point: TypeAlias = tuple[float, float]
Box: TypeAlias = tuple[float, float, float, float]
Zone: TypeAlias = Literal["road", "verge", "walk"]


@dataclass(frozen=True)
class Camera:
    """A pinhole camera that looks along the z axis, level with the ground."""

    focal: float
    horizon: float
    centre: float
    height: float
    x: float
    size: int

    def scale(self, z: float) -> float:
        """Return pixels per metre at distance z."""
        return self.focal / z

    def project(self, x: float, up: float, z: float) -> Point:
        """Return the pixel of the point x metres right, `up` metres above ground and z metres ahead."""
        scale = self.focal / z
        return self.centre + (x - self.x) * scale, self.horizon + (self.height - up) * scale


@dataclass(frozen=True)
class Light:
    """The weather and the time of day, as far as they change colours."""

    name: str
    ambient: tuple[float, float, float]
    sky_top: Colour
    sky_low: Colour
    visibility: float
    lamps: float
    shadow: int


@functools.lru_cache(maxsize=128)
def sized_font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return Pillow's built-in font at a pixel size."""
    return ImageFont.load_default(size)


@functools.lru_cache(maxsize=1)
def _halo_mask() -> Image.Image:
    table = [int(255 * max(0.0, 1.0 - value / 181.0) ** 2) for value in range(256)]
    return Image.radial_gradient("L").point(table).reduce(4)


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """Return the colour `share` of the way from the first to the second."""
    keep = 1.0 - share
    return (
        int(first[0] * keep + second[0] * share),
        int(first[1] * keep + second[1] * share),
        int(first[2] * keep + second[2] * share),
    )


def shade(colour: Colour, factor: float) -> Colour:
    """Return the colour made darker (factor below 1) or lighter (above 1)."""
    return (
        min(255, int(colour[0] * factor)),
        min(255, int(colour[1] * factor)),
        min(255, int(colour[2] * factor)),
    )


def vary(rnd: Random, colour: Colour, spread: float = 0.12) -> Colour:
    """Return the colour with a random brightness and a slight random cast."""
    base = 1.0 + rnd.uniform(-spread, spread)
    red, green, blue = (max(0, min(255, int(part * base + rnd.uniform(-8, 8)))) for part in colour)
    return red, green, blue


class Pen:
    """Draws shapes in pixels, tinted by the light and by the haze at the current distance."""

    def __init__(self, image: Image.Image, light: Light) -> None:
        """Take the image to draw on and the light of the scene."""
        self.image = image
        self.light = light
        self.haze = 0.0
        self._solid = ImageDraw.Draw(image)
        self._clear = ImageDraw.Draw(image, "RGBA")

    def set_distance(self, z: float) -> None:
        """Set the distance of what is drawn next, which decides its haze."""
        self.haze = 1.0 - math.exp(-z / self.light.visibility)

    def tone(self, colour: Colour, glow: bool = False) -> Colour:
        """Return the colour as it looks in this light; a glowing colour is not darkened."""
        if glow:
            return mix(colour, self.light.sky_low, self.haze * 0.6)
        red, green, blue = self.light.ambient
        lit = (min(255, int(colour[0] * red)), min(255, int(colour[1] * green)), min(255, int(colour[2] * blue)))
        return mix(lit, self.light.sky_low, self.haze)

    def _target(self, colour: Colour, alpha: int, glow: bool) -> tuple[ImageDraw.ImageDraw, tuple[int, ...]]:
        toned = self.tone(colour, glow)
        return (self._solid, toned) if alpha >= 255 else (self._clear, (*toned, alpha))

    def poly(self, points: Sequence[Point], colour: Colour, alpha: int = 255, glow: bool = False) -> None:
        """Fill a polygon."""
        draw, fill = self._target(colour, alpha, glow)
        draw.polygon(points, fill=fill)

    def rect(self, box: Box, colour: Colour, alpha: int = 255, glow: bool = False) -> None:
        """Fill a rectangle given by any two opposite corners."""
        draw, fill = self._target(colour, alpha, glow)
        x0, y0, x1, y1 = box
        draw.rectangle((min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)), fill=fill)

    def oval(self, box: Box, colour: Colour, alpha: int = 255, glow: bool = False) -> None:
        """Fill an ellipse given by any two opposite corners of its box."""
        draw, fill = self._target(colour, alpha, glow)
        x0, y0, x1, y1 = box
        draw.ellipse((min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)), fill=fill)

    def slab(self, box: Box, radius: float, colour: Colour, glow: bool = False) -> None:
        """Fill a rectangle with round corners."""
        x0, y0, x1, y1 = box
        corners = (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
        self._solid.rounded_rectangle(corners, radius, fill=self.tone(colour, glow))

    def line(self, points: Sequence[Point], width: float, colour: Colour, alpha: int = 255) -> None:
        """Draw a line at least one pixel wide."""
        draw, fill = self._target(colour, alpha, False)
        draw.line(points, fill=fill, width=max(1, round(width)))

    def text(self, centre: Point, text: str, height: float, colour: Colour, glow: bool = False) -> None:
        """Write a word around a centre point; nothing is drawn where it would be too small to see."""
        if height >= 4:
            self._solid.text(centre, text, fill=self.tone(colour, glow), font=sized_font(int(height)), anchor="mm")

    def halo(self, centre: Point, radius: float, colour: Colour, strength: float) -> None:
        """Lay a soft glow over the image."""
        side = int(2 * radius)
        if side < 4 or strength <= 0:
            return
        mask = _halo_mask().resize((side, side)).point([int(value * min(1.0, strength)) for value in range(256)])
        self.image.paste(colour, (int(centre[0] - radius), int(centre[1] - radius)), mask)


class Stamp:
    """Draws one object in metres around its foot point: u to the right, v up, w away from the viewer."""

    def __init__(self, pen: Pen, camera: Camera, x: float, z: float, mirror: bool = False) -> None:
        """Put the foot point at x metres right and z metres ahead; `mirror` swaps left and right."""
        self.pen = pen
        self.camera = camera
        self.x = x
        self.z = z
        self.scale = camera.scale(z)
        self.foot = camera.project(x, 0.0, z)
        self.side = -1.0 if mirror else 1.0

    def at(self, u: float, v: float) -> Point:
        """Return the pixel of a point on the plane of the object."""
        return self.foot[0] + self.side * u * self.scale, self.foot[1] - v * self.scale

    def deep(self, u: float, v: float, w: float) -> Point:
        """Return the pixel of a point w metres behind the plane of the object."""
        return self.camera.project(self.x + self.side * u, v, self.z + w)

    def poly(self, points: Sequence[Point], colour: Colour, alpha: int = 255, glow: bool = False) -> None:
        """Fill a polygon."""
        self.pen.poly([self.at(u, v) for u, v in points], colour, alpha, glow)

    def solid(self, points: Sequence[tuple[float, float, float]], colour: Colour) -> None:
        """Fill a polygon whose corners have a depth."""
        self.pen.poly([self.deep(*point) for point in points], colour)

    def rect(self, box: Box, colour: Colour, alpha: int = 255, glow: bool = False) -> None:
        """Fill a rectangle."""
        self.pen.rect((*self.at(box[0], box[1]), *self.at(box[2], box[3])), colour, alpha, glow)

    def oval(self, box: Box, colour: Colour, alpha: int = 255, glow: bool = False) -> None:
        """Fill an ellipse."""
        self.pen.oval((*self.at(box[0], box[1]), *self.at(box[2], box[3])), colour, alpha, glow)

    def disc(self, u: float, v: float, radius: float, colour: Colour, glow: bool = False) -> None:
        """Fill a circle."""
        self.oval((u - radius, v - radius, u + radius, v + radius), colour, 255, glow)

    def slab(self, box: Box, radius: float, colour: Colour, glow: bool = False) -> None:
        """Fill a rectangle with round corners."""
        corners = (*self.at(box[0], box[1]), *self.at(box[2], box[3]))
        self.pen.slab(corners, radius * self.scale, colour, glow)

    def line(self, points: Sequence[Point], width: float, colour: Colour, alpha: int = 255) -> None:
        """Draw a line of a width in metres."""
        self.pen.line([self.at(u, v) for u, v in points], width * self.scale, colour, alpha)

    def limb(self, points: Sequence[Point], width: float, colour: Colour) -> None:
        """Draw a line with round joints and ends."""
        self.line(points, width, colour)
        for u, v in points:
            self.disc(u, v, width / 2, colour)

    def text(self, u: float, v: float, text: str, height: float, colour: Colour, glow: bool = False) -> None:
        """Write a word of a height in metres."""
        self.pen.text(self.at(u, v), text, height * self.scale, colour, glow)

    def halo(self, u: float, v: float, radius: float, colour: Colour, strength: float) -> None:
        """Lay a soft glow of a radius in metres."""
        self.pen.halo(self.at(u, v), radius * self.scale, colour, strength)

    def shadow(self, half_width: float, half_depth: float = 0.18) -> None:
        """Lay a soft shadow on the ground below the object."""
        x, y = self.foot
        wide, flat = half_width * self.scale, max(1.0, half_depth * self.scale)
        self.pen.oval((x - wide, y - flat, x + wide, y + flat), (12, 14, 22), self.pen.light.shadow)
