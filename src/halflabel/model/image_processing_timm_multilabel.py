"""From an encoded picture to `pixel_values`: every mode on purpose, as the backbone's own timm data configuration says.

JPEGs are decoded no larger than the transform needs.
"""

import base64
import io
import math
import os
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPException
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import torch
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError
from timm.data.config import resolve_data_config, resolve_model_data_config
from timm.data.transforms_factory import create_transform
from torch import Tensor, nn
from torchvision.transforms import Compose
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor

from .errors import HalflabelError, Kind, did_you_mean, list_of, number, one_of, printable, reason_of

_CHANNELS = (1, 3, 4)  # of an array: grey, RGB, RGB and alpha
_JPEG_FORMATS = ("JPEG", "MPO")  # MPO: several JPEGs in one file, as phones and stereo cameras write them
_END_OF_JPEG = b"\xff\xd9"
_NARROWEST_CROP = 3 / 4  # timm's random crops are 3/4 to 4/3 as wide as they are high
_BITS_TAG, _PHOTOMETRIC_TAG, _WHITE_IS_ZERO = 258, 262, 0  # of TIFF
_DECODE_MARGIN = 1.25
"""A JPEG decoded to just the needed size is softer than one resized from more: scores of photographs then move by up to
0.01 on average, with this margin by half of that."""
_SMALLEST_CROP = 0.5  # of the area, in training
_LONGEST_STRIP = 32
"""So many times as long as it is wide a picture is at most resized: more lies far outside the centre crop, and a line
of 50,000 x 1 pixels would become billions of them, or within a border none."""
_SIDES = list_of(number(1, 16384, whole=True), "")
# Of which settings, maybe from a stranger's file, a transform can be made.
_SETTINGS: dict[str, Kind] = {
    "input_size": Kind(
        "three channels (pictures are made RGB), and height and width of 1 to 16384, at most 4096 x 4096 pixels",
        lambda value: _SIDES.fits(value) and len(value) == 3 and value[0] == 3 and value[1] * value[2] <= 4096**2,
    ),
    "interpolation": one_of("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos", "random"),
    "mean": list_of(number(-1e6, 1e6), "finite numbers, one per channel"),
    "std": list_of(number(1e-6, 1e6), "numbers above 0, one per channel"),
    "crop_pct": number(0.1, 2),
    "crop_mode": one_of("center", "squash", "border"),
}
_TRANSFORMERS_KEYS = frozenset({"image_processor_type", "auto_map", "processor_class", "video_processor_type"})

ENCODED = (str, os.PathLike, bytes, Mapping)
"""The types by which `read_image` is given a picture."""

ImageTransform = Callable[[Image.Image], Tensor]


def cut_strip(picture: Image.Image) -> Image.Image:
    """Return the middle of a picture that is longer than 32 times its width, any other picture as it is."""
    longest = _LONGEST_STRIP * min(picture.size)
    width, height = (min(side, longest) for side in picture.size)
    if (width, height) == picture.size:
        return picture
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))


class TimmMultiLabelImageProcessor(BaseImageProcessor):
    """Resize, crop and normalise as the backbone's weights expect.

    Args:
        input_size: (channels, height, width) of the network's input, in pixels.
        interpolation: Resampling filter, as timm names it.
        mean: Per channel, for images scaled to 0..1.
        std: Per channel, likewise.
        crop_pct: Share of the resized image that the centre crop keeps, 0.1 to 2; above 1 it is padded.
        crop_mode: `"center"`, `"squash"` or `"border"`, as timm names them.

    Raises:
        HalflabelError: On an unknown key, or a value that is not as above.
    """

    model_input_names = ["pixel_values"]
    _auto_class = "AutoImageProcessor"  # its code is saved beside it

    def __init__(
        self,
        input_size: tuple[int, int, int] = (3, 224, 224),
        interpolation: str = "bicubic",
        mean: tuple[float, ...] = (0.5, 0.5, 0.5),
        std: tuple[float, ...] = (0.5, 0.5, 0.5),
        crop_pct: float = 0.875,
        crop_mode: str = "center",
        **kwargs: Any,  # noqa: ANN401 - transformers' own contract
    ) -> None:
        """Keep the settings; transforms are built from them when they are needed."""
        unknown = sorted(set(kwargs) - _TRANSFORMERS_KEYS)
        if unknown:
            raise HalflabelError(f"unknown image processor key {unknown[0]!r}{did_you_mean(unknown[0], _SETTINGS)}")
        given = (input_size, interpolation, mean, std, crop_pct, crop_mode)
        for (name, kind), value in zip(_SETTINGS.items(), given, strict=True):
            kind.check(f"image processor: {name}", value)
        super().__init__()
        self.input_size, self.mean, self.std = list(input_size), list(mean), list(std)
        self.interpolation, self.crop_pct, self.crop_mode = interpolation, crop_pct, crop_mode
        # Where nothing is said of video, a pipeline takes it that this code has a processor for it, and asks to run it.
        self.video_processor_type = "none"

    @classmethod
    def from_backbone(cls, backbone: nn.Module) -> "TimmMultiLabelImageProcessor":
        """Take the settings that belong to a timm model's weights."""
        config = resolve_model_data_config(backbone)
        return cls(**{key: config[key] for key in _SETTINGS})

    @property
    def data_config(self) -> dict[str, Any]:
        """The settings as timm's `create_transform` takes them."""
        given = {key: getattr(self, key) for key in _SETTINGS}
        return dict(resolve_data_config({**given, "input_size": tuple(self.input_size)}))

    def eval_transform(self) -> ImageTransform:
        """Return timm's evaluation transform: RGB picture -> float32 (channels, height, width)."""
        strip = [] if self.crop_mode == "squash" else [cut_strip]  # squashed, a line of pixels fills the input
        transform: ImageTransform = Compose(
            [*strip, *create_transform(**self.data_config, is_training=False).transforms]
        )
        return transform

    def train_transform(self) -> ImageTransform:
        """Return a training transform: random resized crop of at least half the area, flip, slight colour jitter.

        timm's own default crops down to 8 % of the area, which often leaves a labelled object outside the crop while
        its label still says yes.
        """
        transform: ImageTransform = create_transform(
            **self.data_config, is_training=True, scale=(_SMALLEST_CROP, 1.0), color_jitter=0.2
        )
        return transform

    def needed_side(self, training: bool = False) -> int:
        """Return how many pixels a picture's shortest side needs, for `decoding.decode_image`.

        Args:
            training: For the training transform, whose crops are smaller, and not for that of evaluation.
        """
        if training:  # nearly all crops are larger than the smallest, which is margin enough
            return needed_side(self.data_config, _SMALLEST_CROP)
        return math.ceil(_DECODE_MARGIN * needed_side(self.data_config))

    def preprocess(self, images: Any, return_tensors: str | None = "pt", **kwargs: Any) -> BatchFeature:  # noqa: ANN401
        """Turn one picture or several into `pixel_values`.

        Args:
            images: A picture is PIL's, a uint8 array or tensor (see `to_rgb`), a path, a URL, encoded bytes, or a row
                of a data set with `bytes` or `path`; several are a list, or an array of four dimensions.
            return_tensors: `"pt"`.
            kwargs: None is known.

        Returns:
            A batch with `pixel_values`, float32 of shape (batch, channels, height, width).

        Raises:
            HalflabelError: If `return_tensors` is not `"pt"`, an option is not known, or there is no picture, or one
                that cannot be read.
        """
        if return_tensors != "pt":
            raise HalflabelError(f"return_tensors={return_tensors!r} is not supported; use 'pt'")
        if kwargs:
            raise HalflabelError(
                f"unknown option {sorted(kwargs)[0]!r}: the processor's settings are fixed by its backbone"
            )
        transform = self.eval_transform()
        pixels = [transform(picture) for picture in self._pictures(images)]
        if not pixels:
            raise HalflabelError("there is no picture to prepare")
        return BatchFeature({"pixel_values": torch.stack(pixels)})

    def _pictures(self, images: Any) -> Iterator[Image.Image]:  # noqa: ANN401
        """Give the RGB pictures of what `preprocess` was given."""
        if isinstance(images, list | tuple) or getattr(images, "ndim", 0) == 4:
            for image in images:
                yield from self._pictures(image)
        else:
            yield read_image(images) if isinstance(images, ENCODED) else to_rgb(images)


def to_rgb(image: Any) -> Image.Image:  # noqa: ANN401 - any of three array kinds
    """Return a PIL picture, uint8 array or uint8 tensor as an RGB picture.

    An array has no channels (grey), or first or last 1 (grey), 3 (RGB) or 4 (RGB and alpha) of them. A PIL picture of
    another mode, or with an EXIF orientation, is treated as a decoded file is, so that a model sees the same pixels in
    training and in use.

    Raises:
        HalflabelError: On an array of another type or shape.
    """
    if isinstance(image, Image.Image):
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        return as_rgb(ImageOps.exif_transpose(image) if turned else image)
    array = np.asarray(image.cpu() if isinstance(image, Tensor) else image)
    if array.dtype != np.uint8:
        raise HalflabelError(f"an image array of {array.dtype} is not supported; pass uint8 values from 0 to 255")
    if array.ndim == 3 and array.shape[0] in _CHANNELS and array.shape[-1] not in _CHANNELS:
        array = np.moveaxis(array, 0, -1)
    if array.ndim not in (2, 3) or not array.size or (array.ndim == 3 and array.shape[-1] not in _CHANNELS):
        raise HalflabelError(f"an image array of shape {array.shape} is no picture of 1, 3 or 4 channels")
    return as_rgb(Image.fromarray(array.squeeze(-1) if array.ndim == 3 and array.shape[-1] == 1 else array))


def read_image(source: Any, shortest_side: int | None = None, timeout: float | None = None) -> Image.Image:  # noqa: ANN401
    """Decode a picture from wherever it is.

    Args:
        source: Of the types in `ENCODED`: a path, a URL, base64 text, encoded bytes, or a record for `decode_image`.
        shortest_side: See `decode_image`.
        timeout: Seconds to wait for a URL; None: as long as it takes.

    Raises:
        HalflabelError: If it cannot be fetched or read.
    """
    if isinstance(source, bytes | Mapping):
        return decode_image({"bytes": source} if isinstance(source, bytes) else source, shortest_side=shortest_side)
    text = os.fspath(source)
    if text.startswith(("http://", "https://")):
        try:
            with urlopen(Request(text, headers={"User-Agent": "halflabel"}), timeout=timeout) as answer:
                content = answer.read()
        except (OSError, HTTPException) as error:
            raise HalflabelError(f"image {text} cannot be fetched: {error}") from error
        return decode_image({"bytes": content}, text, shortest_side)
    if os.path.isfile(text):
        return decode_image({"path": text}, shortest_side=shortest_side)
    try:
        content = base64.b64decode(text.rpartition(",")[2], validate=True)
        return decode_image({"bytes": content}, shortest_side=shortest_side)
    except ValueError as error:
        raise HalflabelError(f"image {text[:80]!r} is neither a file nor a URL nor a picture in base64") from error


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
        source: Any = path if content is None else io.BytesIO(content)
        if source is None:
            raise ValueError("there are neither bytes nor a path")
        if content is None and os.path.exists(source) and not (os.path.isfile(source) or os.path.isdir(source)):
            raise ValueError("it is no file")  # a pipe would be waited for without an end
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
        raise HalflabelError(f"image {printable(name or path or 'given as bytes')} cannot be read: {reason}") from error


def check_format(content: bytes, name: str) -> None:
    """Refuse bytes that do not begin as a picture does; they are not decoded.

    Raises:
        HalflabelError: It names the picture.
    """
    try:
        with Image.open(io.BytesIO(content)):
            pass
    except Exception as error:  # as in decode_image
        raise HalflabelError(f"image {printable(name)} cannot be read: {_reason(error, content, None)}") from error


def needed_side(data_config: dict[str, Any], smallest_area: float = 1.0) -> int:
    """Return how many pixels a picture's shortest side needs for a transform not to enlarge it.

    Args:
        data_config: timm's: `input_size` (channels, height, width), `crop_pct` above 0, and `crop_mode` (`"center"`,
            `"squash"` or `"border"`).
        smallest_area: 1.0: the evaluation transform. Below, but above 0: a training transform whose random crops keep
            at least this share of the picture's area.

    Returns:
        At least 1; what `decode_image` takes as `shortest_side`.
    """
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
