"""What every source turns into: one `datasets.Dataset` of pictures and label codes, and the names of the labels."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray

from ..errors import HalflabelError, did_you_mean
from ..labels import IntMatrix, LabelSpace

SPLITS = ("train", "validation", "test")


def image_features(**extra: Any) -> datasets.Features:  # noqa: ANN401 - dataset feature types
    """Return the columns of a data set: pictures stay encoded until they are needed."""
    return datasets.Features(
        {
            "image": datasets.Image(decode=False),
            "file_name": datasets.Value("string"),
            "labels": datasets.List(datasets.Value("int8")),
            "split": datasets.Value("string"),
            "group": datasets.Value("string"),
            **extra,
        }
    )


@dataclass(frozen=True)
class AnnotatedImages:
    """Pictures with labels.

    Attributes:
        dataset: Columns `image` (bytes or path, encoded), `file_name`, `labels` (num_labels codes: 1, 0,
            `IGNORE_INDEX`), `split` (`train`, `validation`, `test`, or "" where none is given), `group`
            (images of one group stay in one split; "" for an image on its own).
        label_space: The names of the label codes.
    """

    dataset: datasets.Dataset
    label_space: LabelSpace

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.dataset)

    @property
    def labels(self) -> IntMatrix:
        """The label codes, int8 of shape (n, num_labels)."""
        matrix = np.array(self.dataset["labels"], dtype=np.int8)
        return matrix.reshape(len(self), len(self.label_space))

    def column(self, name: str) -> NDArray[Any]:
        """Return one text column as an array of shape (n,)."""
        return np.array(self.dataset[name], dtype=object)

    def select(self, positions: Iterable[int]) -> "AnnotatedImages":
        """Return the images at these positions, in this order."""
        return AnnotatedImages(self.dataset.select(list(positions)), self.label_space)

    def with_labels(self, labels: IntMatrix) -> "AnnotatedImages":
        """Return the same images with other label codes, shape (n, num_labels)."""
        column = self.dataset.features["labels"]
        changed = self.dataset.remove_columns("labels").add_column("labels", list(labels), feature=column)
        return AnnotatedImages(changed.select_columns(self.dataset.column_names), self.label_space)

    def with_only(self, names: Sequence[str]) -> "AnnotatedImages":
        """Return the same images with only some labels, in the given order.

        Raises:
            HalflabelError: If a name is not a label; the nearest names are shown.
        """
        columns = [self.label_space.index(name) for name in names]
        return AnnotatedImages(self.with_labels(self.labels[:, columns]).dataset, LabelSpace(names))

    def of_split(self, split: str) -> "AnnotatedImages":
        """Return the images of one split."""
        return self.select(np.flatnonzero(self.column("split") == split))


def from_records(records: Iterable[Mapping[str, Any]], label_names: Sequence[str]) -> AnnotatedImages:
    """Build the data set from dicts with the columns of `image_features`."""
    rows = list(records)
    features = image_features()
    columns = {name: [row[name] for row in rows] for name in features}
    return AnnotatedImages(datasets.Dataset.from_dict(columns, features=features), LabelSpace(label_names))


def check_split(value: str) -> str:
    """Return the standard name of a split.

    Raises:
        HalflabelError: If it is not one of `SPLITS` (val, valid and dev are taken for validation).
    """
    standard = {"val": "validation", "valid": "validation", "dev": "validation", "training": "train"}
    name = standard.get(value.strip().lower(), value.strip().lower())
    if name not in SPLITS:
        raise HalflabelError(f"split {value!r} is none of {', '.join(SPLITS)}{did_you_mean(name, SPLITS)}")
    return name
