"""From a picture to `pixel_values`, by the backbone's own timm data configuration."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data.config import resolve_data_config, resolve_model_data_config
from timm.data.transforms_factory import create_transform
from torch import Tensor, nn
from transformers import BatchFeature
from transformers.image_processing_utils import BaseImageProcessor
from transformers.image_utils import make_flat_list_of_images

from .errors import HalflabelError, did_you_mean

_DATA_KEYS = ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")
_TRANSFORMERS_KEYS = frozenset({"image_processor_type", "auto_map", "processor_class"})

ImageTransform = Callable[[Image.Image], Tensor]


class TimmMultiLabelImageProcessor(BaseImageProcessor):
    """Resize, crop and normalise as the backbone's weights expect.

    Args:
        input_size: (channels, height, width) of the network's input, in pixels.
        interpolation: Resampling filter, as timm names it.
        mean: Per channel, for images scaled to 0..1.
        std: Per channel, likewise.
        crop_pct: Share of the resized image that the centre crop keeps, in (0, 1].
        crop_mode: `"center"`, `"squash"` or `"border"`, as timm names them.

    Raises:
        HalflabelError: On an unknown key.
    """

    model_input_names = ["pixel_values"]

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
            raise HalflabelError(f"unknown image processor key {unknown[0]!r}{did_you_mean(unknown[0], _DATA_KEYS)}")
        super().__init__()
        self.input_size = list(input_size)
        self.interpolation = interpolation
        self.mean = list(mean)
        self.std = list(std)
        self.crop_pct = crop_pct
        self.crop_mode = crop_mode

    @classmethod
    def from_backbone(cls, backbone: nn.Module) -> "TimmMultiLabelImageProcessor":
        """Take the settings that belong to a timm model's weights."""
        config = resolve_model_data_config(backbone)
        return cls(**{key: config[key] for key in _DATA_KEYS})

    @property
    def data_config(self) -> dict[str, Any]:
        """The settings as timm's `create_transform` takes them."""
        given = {key: getattr(self, key) for key in _DATA_KEYS}
        return dict(resolve_data_config({**given, "input_size": tuple(self.input_size)}))

    def eval_transform(self) -> ImageTransform:
        """Return timm's evaluation transform: RGB picture -> float32 (channels, height, width)."""
        transform: ImageTransform = create_transform(**self.data_config, is_training=False)
        return transform

    def train_transform(self) -> ImageTransform:
        """Return a training transform: random resized crop of at least half the area, flip, slight colour jitter.

        timm's own default crops down to 8 % of the area, which often leaves a labelled object outside the crop while
        its label still says yes.
        """
        transform: ImageTransform = create_transform(
            **self.data_config, is_training=True, scale=(0.5, 1.0), color_jitter=0.2
        )
        return transform

    def preprocess(self, images: Any, return_tensors: str | None = "pt", **kwargs: Any) -> BatchFeature:  # noqa: ANN401
        """Turn one picture or several (PIL, uint8 array, path, URL) into `pixel_values`.

        Returns:
            A batch with `pixel_values`, float32 of shape (batch, channels, height, width).

        Raises:
            HalflabelError: If `return_tensors` is not `"pt"`, or an option is not known.
        """
        if return_tensors != "pt":
            raise HalflabelError(f"return_tensors={return_tensors!r} is not supported; use 'pt'")
        if kwargs:
            raise HalflabelError(
                f"unknown option {sorted(kwargs)[0]!r}: the processor's settings are fixed by its backbone"
            )
        flat: list[Any] = list(make_flat_list_of_images(self.fetch_images(images)))  # type: ignore[arg-type]
        transform = self.eval_transform()
        return BatchFeature({"pixel_values": torch.stack([transform(to_rgb(image)) for image in flat])})


def to_rgb(image: Any) -> Image.Image:  # noqa: ANN401 - any of three array kinds
    """Return a PIL picture, uint8 array or uint8 tensor (channels first or last) as an RGB picture."""
    if isinstance(image, Image.Image):
        return image if image.mode == "RGB" else image.convert("RGB")
    array = np.asarray(image)
    if array.dtype != np.uint8:
        raise HalflabelError(f"an image array of {array.dtype} is not supported; pass uint8 values from 0 to 255")
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[-1] not in (1, 3):
        array = np.moveaxis(array, 0, -1)
    return Image.fromarray(array.squeeze(-1) if array.ndim == 3 and array.shape[-1] == 1 else array).convert("RGB")
