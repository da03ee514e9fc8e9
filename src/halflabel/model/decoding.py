"""From encoded bytes to an RGB picture: every mode on purpose, JPEGs no larger than the transform needs."""

import io
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from .errors import HalflabelError, reason_of

__all__ = ["as_rgb", "check_format", "decode_image", "needed_side"]

_JPEG_FORMATS = ("JPEG", "MPO")  # MPO: several JPEGs in one file, as phones and stereo cameras write them
_END_OF_JPEG = b"\xff\xd9"
_NARROWEST_CROP = 3 / 4  # timm's random crops are 3/4 to 4/3 as wide as they are high
_BITS_TAG, _PHOTOMETRIC_TAG, _WHITE_IS_ZERO = 258, 262, 0  # of TIFF


def decode_image(record: Mapping[str, Any], name: str = "", shortest_side: int | None = None) -> Image.Image:
    """Decode one encoded picture to RGB, turned as its EXIF orientation says.

    Of several frames or pages the first is taken. What is transparent becomes white. 16-bit grey is scaled to 8 bits.
    32-bit integers and floats do not say what is white: floats within 0..1 are taken as shares of white, any other
    such picture is stretched from its lowest value (black) to its highest (white). Colour profiles are not applied.

    Args:
        record: `bytes`, or a `path` where they are None or missing.
        name: What to call it in an error; empty: its path.
        shortest_side: At least 1. A JPEG is decoded at the smallest of 1/8, 1/4, 1/2 and 1 of its size at which both
            sides keep this many pixels, which is several times faster; other formats keep their size. None: full size.

    Returns:
        A picture of mode RGB that holds no open file.

    Raises:
        HalflabelError: If it cannot be read as a whole; it is named, with the reason.
    """
    content, path = record.get("bytes"), record.get("path")
    try:
        source = path if content is None else io.BytesIO(content)
        if source is None:
            raise ValueError("there are neither bytes nor a path")
        with Image.open(source) as picture:
            if picture.format == "EPS":
                raise ValueError("it is PostScript, a program, which is not run")
            if picture.format in _JPEG_FORMATS:
                _check_end(picture)
                if shortest_side is not None:
                    _draft(picture, shortest_side)
            ImageOps.exif_transpose(picture, in_place=True)
            return as_rgb(picture)
    except Exception as error:  # on damaged bytes Pillow's decoders also raise RuntimeError, NotImplementedError, ...
        reason = _reason(error, content, path)
        raise HalflabelError(f"image {name or path or 'given as bytes'} cannot be read: {reason}") from error


def check_format(content: bytes, name: str) -> None:
    """Refuse bytes that do not begin as a picture does; they are not decoded.

    Raises:
        HalflabelError: It names the picture.
    """
    try:
        with Image.open(io.BytesIO(content)):
            pass
    except Exception as error:  # as in decode_image
        raise HalflabelError(f"image {name} cannot be read: {_reason(error, content, None)}") from error


def needed_side(data_config: dict[str, Any], smallest_area: float = 1.0) -> int:
    """Return how many pixels a picture's shortest side needs for a transform not to enlarge it.

    Args:
        data_config: timm's: `input_size` (channels, height, width), `crop_pct` above 0, and `crop_mode` (`"center"`,
            `"squash"` or `"border"`).
        smallest_area: 1.0: the evaluation transform. Below: a training transform whose random crops keep at least
            this share of the picture's area.

    Returns:
        At least 1; what `decode_image` takes as `shortest_side`.

    Raises:
        HalflabelError: If `smallest_area` is outside (0, 1].
    """
    if not 0 < smallest_area <= 1:
        raise HalflabelError(f"smallest_area is {smallest_area}, expected above 0 and at most 1")
    height, width = (int(side) for side in data_config["input_size"][1:])
    if smallest_area < 1:
        # A picture with the shortest side m has at least m * m pixels. A crop of the share a of them that is r times
        # as wide as it is high has sides of at least m * sqrt(a * r) and m * sqrt(a / r); the smallest r leaves the
        # smallest side, and this one must cover the larger side of the input. The crops do not depend on crop_pct.
        return math.ceil(max(height, width) / math.sqrt(smallest_area * _NARROWEST_CROP))
    resized: list[int] = [math.floor(side / data_config["crop_pct"]) for side in (height, width)]  # timm rounds down
    # A border fits the whole picture into the frame, so it is enough that one of its sides covers the frame's;
    # the other modes fill the frame, and then both must.
    return max(1, min(resized) if data_config["crop_mode"] == "border" else max(resized))


def _draft(picture: ImageFile.ImageFile, shortest_side: int) -> None:
    """Have a JPEG decoded at the smallest scale that keeps `shortest_side`; nothing is decoded yet."""
    for scale in (8, 4, 2):
        if math.ceil(min(picture.size) / scale) >= shortest_side:  # the decoder rounds up
            # Pillow rounds down when it chooses the scale. Asked for these sizes it chooses this one, and asked for
            # shortest_side itself it would decode e.g. 511 pixels in full where 256 are needed.
            picture.draft(None, (max(1, picture.width // scale), max(1, picture.height // scale)))
            return


def _check_end(picture: ImageFile.ImageFile) -> None:
    """Refuse a JPEG without an end.

    One that is cut off is refused by Pillow too, but not where zeros stand in for the rest, as an interrupted download
    leaves them; that would be grey.
    """
    # Pillow has read up to the pixels. From the end the marker is found at once.
    if picture.fp is not None and picture.fp.read().rfind(_END_OF_JPEG) < 0:
        raise ValueError("image file is truncated (it has no end marker)")


def as_rgb(picture: Image.Image) -> Image.Image:
    """Return a new RGB picture; `decode_image` says what becomes of the other modes."""
    if picture.mode == "F" or picture.mode.startswith("I"):
        return _eight_bit(picture).convert("RGB")
    if picture.has_transparency_data:
        # The colour under what is transparent is arbitrary, often black. An alpha channel, a palette entry and a
        # transparent colour all become alpha here.
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return picture.copy() if picture.mode == "RGB" else picture.convert("RGB")


def _eight_bit(picture: Image.Image) -> Image.Image:
    """Scale greys of more than 8 bits to mode L; Pillow's own conversion clips them, mostly to white."""
    values = np.asarray(picture).astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("it holds values that are not finite")
    tags = getattr(picture, "tag_v2", {})
    if picture.mode.startswith("I;16"):
        low, high = 0, 2 ** tags.get(_BITS_TAG, (16,))[0] - 1  # a TIFF of 12 bits holds 0..4095
    elif picture.mode == "I" and picture.format == "PPM":
        low, high = 0, 65535  # Pillow scales any PGM of more than 8 bits to this
    elif picture.mode == "F" and low >= 0 and high <= 1:
        low, high = 0, 1
    # One value only, and no scale: grey rather than black.
    scaled = (values - low) * (255 / (high - low)) if high > low else np.full_like(values, 128)
    if tags.get(_PHOTOMETRIC_TAG) == _WHITE_IS_ZERO:
        scaled = 255 - scaled  # Pillow does so for 8 bits alone
    if "transparency" in picture.info:
        scaled[values == picture.info["transparency"]] = 255
    return Image.fromarray(np.rint(scaled).astype(np.uint8))


def _reason(error: Exception, content: bytes | None, path: str | os.PathLike[str] | None) -> str:
    """Return one line that says what is wrong."""
    if isinstance(error, UnidentifiedImageError):  # its own message holds a memory address
        size = len(content) if content is not None else os.path.getsize(path) if path is not None else 0
        return "it is not a picture of a known format" if size else "it is empty"
    return reason_of(error, first_line=True)
