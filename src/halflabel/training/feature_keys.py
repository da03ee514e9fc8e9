"""What a backbone's features depend on, as keys: change any of it, and features kept under another key are not used."""

import inspect
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import pyarrow as pa
import torch
import xxhash
from datasets import Dataset
from datasets.fingerprint import Hasher
from PIL import features as pillow_features
from torch import nn

from ..data.draws import draw_seed
from ..data.pixels import PixelDataset
from ..model import backbones, image_processing_timm_multilabel
from ..model.errors import HalflabelError
from ..model.modeling_timm_multilabel import TimmMultiLabelForImageClassification

KEY_BYTES = 16
"""Length of the key of one row of features. 128 bits: no two of a billion rows share one."""

_ROWS_AT_ONCE = 256  # of a data set; with embedded pictures a few dozen megabytes


def backbone_parts(model: TimmMultiLabelForImageClassification) -> dict[str, Any]:
    """Return all of a model that its features depend on, for JSON; its head counts only by what it consumes.

    Args:
        model: On the device on which it is to run; devices round differently.
    """
    config, backbone = model.config, model.backbone
    device = model.device.type
    return {
        "backbone": config.backbone,
        "backbone_args": {key: str(value) for key, value in sorted((config.backbone_args or {}).items())},
        "structure": _digest(re.sub(r" at 0x[0-9a-fA-F]+", "", repr(backbone))),
        "weights": hash_weights(backbone),
        "consumes": model.head.consumes,
        "dtype": str(model.dtype),
        "device": device,
        "tf32": device == "cuda" and torch.backends.cudnn.allow_tf32,  # the convolutions' precision on recent GPUs
        "matmul_precision": torch.get_float32_matmul_precision(),
        "code": _digest(inspect.getsource(type(model).extract_features) + inspect.getsource(backbones.to_positions)),
        "torch": torch.__version__,
        "timm": version("timm"),
    }


def hash_weights(module: nn.Module) -> str:
    """Return a hash of every parameter and buffer: name, type, shape and bytes; about 0.3 s a gigabyte."""
    digest = xxhash.xxh3_128()
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        # Also a buffer that no checkpoint holds, and whatever the memory layout.
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def pixel_parts(pixels: PixelDataset) -> dict[str, Any]:
    """Return all that the pixels depend on beside the picture itself, for JSON: transform, decoding, and libraries.

    Args:
        pixels: Any transform that can be pickled will do; its settings are hashed, and of a function its code.
    """
    return {
        "transform": Hasher.hash(pixels.transform),
        "shortest_side": pixels.shortest_side,
        "code": _digest(inspect.getsource(image_processing_timm_multilabel)),
        "pillow": version("pillow"),
        "libjpeg_turbo": pillow_features.version("libjpeg_turbo"),
        "torchvision": version("torchvision"),
    }


def hash_parts(parts: Mapping[str, Any]) -> str:
    """Return one key for named parts, 32 hexadecimal digits."""
    return _digest(json.dumps(parts, sort_keys=True))


def row_keys(pixels: PixelDataset, views: Sequence[int] = (0,), seed: int = 0) -> Iterator[list[bytes]]:
    """Yield for each image the keys of its views, `KEY_BYTES` each.

    A picture in a file is known by path, size and time of change, an embedded one by its bytes. The order of the
    images, their labels and their splits do not matter.

    Args:
        pixels: The pictures, with the transform of these views.
        views: Their numbers; view 0 draws nothing, any other draws what `draws.draw_seed` says.
        seed: Of the draws.

    Raises:
        HalflabelError: If a picture's file is not there.
    """
    what = hash_parts(pixel_parts(pixels))
    for name, identity in _identities(pixels.dataset):
        drawn = (f"{draw_seed(seed, view, name)}" if view else "" for view in views)
        yield [xxhash.xxh3_128_digest(f"{what}|{draw}|{identity}".encode()) for draw in drawn]


def _identities(dataset: Dataset) -> Iterator[tuple[str, str]]:
    """Yield each picture's name, and what tells it from any other picture."""
    columns = dataset.select_columns(["image", "file_name"]).with_format("arrow")
    for table in columns.iter(batch_size=_ROWS_AT_ONCE):
        pictures = table["image"].combine_chunks()
        rows = zip(
            table["file_name"].to_pylist(), pictures.field("bytes"), pictures.field("path").to_pylist(), strict=True
        )
        for name, content, path in rows:
            yield name, _identity(name, content, path)


def _identity(name: str, content: pa.BinaryScalar, path: str | None) -> str:
    if content.is_valid:
        return xxhash.xxh3_128_hexdigest(content.as_buffer())  # the bytes where they lie, not a copy
    try:
        if path is None:
            raise ValueError("there are neither bytes nor a path")
        found = os.stat(path)
    except (OSError, ValueError) as error:
        raise HalflabelError(f"image {name or path} cannot be read: {error}") from error
    return f"{os.path.abspath(path)}|{found.st_size}|{found.st_mtime_ns}"


def _digest(text: str) -> str:
    return xxhash.xxh3_128_hexdigest(text.encode())
