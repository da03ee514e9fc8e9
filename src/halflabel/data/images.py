"""What every source turns into: encoded pictures in one `datasets.Dataset`, and a matrix of label codes beside them."""

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..model.errors import HalflabelError, did_you_mean
from ..model.labels import IntMatrix, LabelSpace, check_matrix

SPLITS = ("train", "validation", "test")
TEXT_COLUMNS = ("file_name", "split", "group", "source")
FEATURES = datasets.Features(
    {"image": datasets.Image(decode=False), **{name: datasets.Value("string") for name in TEXT_COLUMNS}}
)


@dataclass(frozen=True)
class AnnotatedImages:
    """Pictures with labels.

    Attributes:
        dataset: Columns `image` (bytes or path; encoded until a picture is needed), `file_name`, `split` (`train`,
            `validation`, `test`, or "" where none is given), `group` (images of one group stay in one split; "" for an
            image on its own), `source` (where the image came from).
        label_space: The names of the label columns.
        labels: int8 of shape (n, num_labels): 1, 0, `IGNORE_INDEX`, `UNCERTAIN`. An array, never lists: a million
            entries are a megabyte.
    """

    dataset: datasets.Dataset
    label_space: LabelSpace
    labels: IntMatrix

    def __post_init__(self) -> None:
        """Refuse labels of another shape than images and names say."""
        expected = (len(self.dataset), len(self.label_space))
        if self.labels.shape != expected:
            raise HalflabelError(f"labels have shape {self.labels.shape}, expected (images, num_labels) {expected}")

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.dataset)

    def column(self, name: str) -> NDArray[Any]:
        """Return one text column as an array of shape (n,)."""
        return np.array(self.dataset[name][:], dtype=object)

    def select(self, positions: Iterable[int]) -> "AnnotatedImages":
        """Return the images at these positions, in this order."""
        chosen = np.asarray(list(positions), dtype=np.int64)
        return replace(self, dataset=self.dataset.select(chosen), labels=self.labels[chosen])

    def with_labels(self, labels: IntMatrix) -> "AnnotatedImages":
        """Return the same images with other label codes, shape (n, num_labels)."""
        return replace(self, labels=check_matrix(labels).astype(np.int8))

    def with_column(self, name: str, values: Sequence[str] | NDArray[Any]) -> "AnnotatedImages":
        """Return the same images with other texts in one column."""
        others = self.dataset.remove_columns(name)
        # With a fingerprint of its own the library does not pickle a quarter of a million texts to make one.
        changed = others.add_column(
            name, list(values), new_fingerprint=uuid.uuid4().hex, feature=datasets.Value("string")
        )
        return replace(self, dataset=changed.select_columns(list(FEATURES)))

    def with_only(self, names: Sequence[str]) -> "AnnotatedImages":
        """Return the same images with only some labels, in the given order.

        Raises:
            HalflabelError: If a name is not a label; the nearest names are shown.
        """
        columns = [self.label_space.index(name) for name in names]
        return replace(self, label_space=LabelSpace(names), labels=self.labels[:, columns])

    def of_split(self, split: str) -> "AnnotatedImages":
        """Return the images of one split."""
        return self.select(np.flatnonzero(self.column("split") == split))

    def to_dataset(self) -> datasets.Dataset:
        """Return one data set that holds the labels too, as a column `labels` of num_labels codes an image."""
        flat = pa.array(np.ascontiguousarray(self.labels).reshape(-1))
        column = pa.FixedSizeListArray.from_arrays(flat, len(self.label_space)).cast(pa.list_(pa.int8()))
        table = self.dataset.with_format("arrow")[:]
        features = datasets.Features({**FEATURES, "labels": datasets.List(datasets.Value("int8"))})
        return datasets.Dataset(table.append_column("labels", column), info=datasets.DatasetInfo(features=features))


def build_images(
    names: Sequence[str],
    paths: Sequence[str],
    labels: IntMatrix,
    label_names: Sequence[str],
    splits: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    sources: Sequence[str] | None = None,
) -> AnnotatedImages:
    """Build the data set of pictures that lie on disk.

    Args:
        names: File names, as people know them.
        paths: Where the pictures are.
        labels: Codes, int8 of shape (n, num_labels).
        label_names: The columns of the labels.
        splits: A standard name or "" per image; None: none is given.
        groups: A group or "" per image; None: none is given.
        sources: Where an image came from before, or "" per image; None: nothing is known.
    """
    count = len(names)
    pictures = pa.StructArray.from_arrays(
        [pa.nulls(count, pa.binary()), pa.array(list(paths), pa.string())], ["bytes", "path"]
    )
    empty = [""] * count
    texts = (names, splits or empty, groups or empty, sources or empty)  # in the order of TEXT_COLUMNS
    columns = [pa.array(list(column), pa.string()) for column in texts]
    table = pa.table([pictures, *columns], ["image", *TEXT_COLUMNS])
    dataset = datasets.Dataset(table, info=datasets.DatasetInfo(features=FEATURES))
    return AnnotatedImages(dataset, LabelSpace(label_names), np.asarray(labels, dtype=np.int8))


def from_records(records: Iterable[Mapping[str, Any]], label_names: Sequence[str]) -> AnnotatedImages:
    """Build the data set from dicts with `image`, `labels`, and any of the text columns."""
    rows = list(records)
    columns = {name: [row.get(name, "") for row in rows] for name in TEXT_COLUMNS}
    dataset = datasets.Dataset.from_dict({"image": [row["image"] for row in rows], **columns}, features=FEATURES)
    labels = np.array([row["labels"] for row in rows], dtype=np.int8).reshape(len(rows), len(label_names))
    return AnnotatedImages(dataset, LabelSpace(label_names), labels)


def check_split(value: str) -> str:
    """Return the standard name of a split.

    Raises:
        HalflabelError: If it is not one of `SPLITS` (val, valid, validate and dev are taken for validation).
    """
    standard = {**dict.fromkeys(("val", "valid", "validate", "dev"), "validation"), "training": "train"}
    name = standard.get(value.strip().lower(), value.strip().lower())
    if name not in SPLITS:
        raise HalflabelError(f"split {value!r} is none of {', '.join(SPLITS)}{did_you_mean(name, SPLITS)}")
    return name
