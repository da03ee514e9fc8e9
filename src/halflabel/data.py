"""From annotated pictures to batches: splits, decoding, transforms and the collator."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from sklearn.model_selection import GroupShuffleSplit
from torch import Tensor
from torch.utils.data import Dataset

from .errors import HalflabelError
from .image_processing_timm_multilabel import ImageTransform, to_rgb
from .sources import AnnotatedImages


def decode_image(record: Mapping[str, Any], name: str = "") -> Image.Image:
    """Decode one encoded picture to RGB, turned as its EXIF orientation says.

    Args:
        record: `bytes`, or a `path` where there are none.
        name: What to call it in an error; None: its path.

    Raises:
        HalflabelError: If it cannot be read as a picture; it is named.
    """
    content = record.get("bytes")
    try:
        with Image.open(io.BytesIO(content) if content is not None else record["path"]) as picture:
            return to_rgb(ImageOps.exif_transpose(picture))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise HalflabelError(f"image {name or record.get('path')} cannot be read: {reason}") from error


class PixelDataset(Dataset[dict[str, Any]]):
    """Pictures and labels for the Trainer: `pixel_values` (channels, height, width) and `labels` (num_labels,)."""

    def __init__(self, images: AnnotatedImages, transform: ImageTransform, labels: NDArray[Any] | None = None) -> None:
        """Keep the pictures encoded; `transform` runs when an item is asked for.

        `labels` of shape (n, num_labels) stand in for those of the images where given.
        """
        self.dataset = images.dataset
        self.labels = images.labels if labels is None else labels
        self.transform = transform

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.dataset)

    def __getitem__(self, position: int) -> dict[str, Any]:
        """Decode and transform one picture."""
        row = self.dataset[position]
        return {
            "pixel_values": self.transform(decode_image(row["image"], row["file_name"])),
            "labels": self.labels[position],
        }


class FeatureDataset(Dataset[dict[str, Any]]):
    """Backbone features and labels for the Trainer: `features` (width,) and `labels` (num_labels,)."""

    def __init__(self, features: Tensor, labels: NDArray[Any]) -> None:
        """Hold features of shape (n, width) and labels of shape (n, num_labels)."""
        self.features = features
        self.labels = labels

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.features)

    def __getitem__(self, position: int) -> dict[str, Any]:
        """Return one row."""
        return {"features": self.features[position], "labels": self.labels[position]}


def collate(items: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Stack items to a batch; labels become float32 with `IGNORE_INDEX` for unknown.

    The default collator would keep integers, and an integer label makes other models guess a single-label problem.
    """
    batch = {key: torch.stack([item[key] for item in items]) for key in items[0] if key != "labels"}
    batch["labels"] = torch.from_numpy(np.stack([item["labels"] for item in items]).astype(np.float32))
    return batch


def assign_splits(images: AnnotatedImages, validation_share: float, test_share: float, seed: int) -> AnnotatedImages:
    """Give every image a split: keep the given ones, and cut what is missing from the training images.

    Args:
        images: With or without given splits; validation is cut from train, never from test.
        validation_share: Share of the training images to validate on where no validation split is given; 0: none.
        test_share: Share of all images to test on where the source names no splits at all; 0: none.
        seed: The same seed cuts the same way. Images of one group stay together.

    Raises:
        HalflabelError: If a share is outside [0, 1), or leaves no training image.
    """
    for name, share in (("validation_share", validation_share), ("test_share", test_share)):
        if not 0 <= share < 1:
            raise HalflabelError(f"{name} is {share}, expected at least 0 and below 1")
    splits, groups = images.column("split").copy(), images.column("group")
    groups = np.where(groups == "", [f"\0{i}" for i in range(len(groups))], groups)
    if (splits == "").all():
        splits[:] = "train"
        _cut(splits, groups, "test", test_share, seed)
    if not (splits == "validation").any():
        _cut(splits, groups, "validation", validation_share, seed)
    if not (splits == "train").any():
        raise HalflabelError("no image is left to train on: the 'split' column has no 'train'")
    dataset = images.dataset.remove_columns("split").add_column("split", list(splits))
    return AnnotatedImages(dataset, images.label_space)


def _cut(splits: NDArray[Any], groups: NDArray[Any], name: str, share: float, seed: int) -> None:
    rows = np.flatnonzero(splits == "train")
    if share == 0 or len(set(groups[rows])) < 2:
        return
    cutter = GroupShuffleSplit(n_splits=1, test_size=share, random_state=seed)
    _, taken = next(cutter.split(rows, groups=groups[rows]))
    splits[rows[taken]] = name
