"""What every source turns into: encoded pictures in one `datasets.Dataset` and a matrix of label codes; and its files.

The files are one wide Parquet table, or Parquet shards that hold the pictures too.
"""

import contextlib
import os
import re
import stat
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import xxhash
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ..model.errors import HalflabelError, did_you_mean, printable
from ..model.image_processing_timm_multilabel import check_format
from ..model.labels import IGNORE_INDEX, UNCERTAIN, IntMatrix, LabelSpace, check_matrix
from .files import file_identity, put_in_place, whole_file

SPLITS = ("train", "validation", "test")
TEXT_COLUMNS = ("file_name", "split", "group", "source")
FEATURES = datasets.Features(
    {"image": datasets.Image(decode=False), **{name: datasets.Value("string") for name in TEXT_COLUMNS}}
)
ANSWER_COLUMNS = {"positive": 1, "negative": 0, "uncertain": UNCERTAIN}
"""The columns of shards that halflabel writes: per image the labels with each answer; what is in none is unknown."""
SHARD_BYTES = 300_000_000
_UNFINISHED = "*-[0-9][0-9][0-9][0-9][0-9].parquet.part"  # a shard that has not got its name yet


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
        skipped: A line for each picture that was left out, as it cannot be read.
    """

    dataset: datasets.Dataset
    label_space: LabelSpace
    labels: IntMatrix
    skipped: tuple[str, ...] = ()

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
        changed = add_texts(self.dataset.remove_columns(name), name, list(values))
        return replace(self, dataset=changed.select_columns(list(FEATURES)))

    def with_only(self, names: Sequence[str]) -> "AnnotatedImages":
        """Return the same images with only some labels, in the given order.

        Raises:
            HalflabelError: If a name is not a label; the nearest names are shown.
        """
        columns = [self.label_space.index(name) for name in names]
        return replace(self, label_space=LabelSpace(names), labels=self.labels[:, columns])

    def with_unknown(self, names: Sequence[str]) -> "AnnotatedImages":
        """Return the same images with more labels, which are unknown for all of them."""
        unknown = np.full((len(self), len(names)), IGNORE_INDEX, dtype=np.int8)
        space = LabelSpace([*self.label_space.names, *names])
        return replace(self, label_space=space, labels=np.hstack([self.labels, unknown]))

    def of_split(self, split: str) -> "AnnotatedImages":
        """Return the images of one split."""
        return self.select(np.flatnonzero(self.column("split") == split))

    @property
    def groups(self) -> NDArray[np.intp]:
        """The number of each image's group, shape (n,); an image without one ("") is a group of its own."""
        names = self.column("group")
        named = np.where(names == "", [f"\0{i}" for i in range(len(names))], names)
        return np.unique(named.astype(str), return_inverse=True)[1]


def add_texts(dataset: datasets.Dataset, name: str, texts: list[str]) -> datasets.Dataset:
    """Return a data set with one more column; its fingerprint is given, as to make one from many texts takes long."""
    return dataset.add_column(name, texts, new_fingerprint=uuid.uuid4().hex, feature=datasets.Value("string"))


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

    Raises:
        HalflabelError: If a file's name is not UTF-8; it is named.
    """
    empty = [""] * len(names)
    texts = (paths, names, splits or empty, groups or empty, sources or empty)  # in the order of TEXT_COLUMNS
    try:
        places, *columns = (pa.array(list(column), pa.string()) for column in texts)
    except UnicodeEncodeError as error:
        raise HalflabelError(f"image {printable(error.object)}: the file name is not UTF-8; give it another") from error
    pictures = pa.StructArray.from_arrays([pa.nulls(len(names), pa.binary()), places], ["bytes", "path"])
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


def picture_identities(dataset: datasets.Dataset) -> Iterator[tuple[str, str, str]]:
    """Yield each picture's name, its full path, and what tells it from another one of that path.

    That is `files.file_identity`; of a picture that lies in the data, which has no path, a hash of its bytes.

    Raises:
        HalflabelError: If a picture's file is not there.
    """
    columns = dataset.select_columns(["image", "file_name"]).with_format("arrow")
    for table in columns.iter(batch_size=256):  # with embedded pictures a few dozen megabytes
        pictures = table["image"].combine_chunks()
        names, paths = table["file_name"].to_pylist(), pictures.field("path").to_pylist()
        for name, content, path in zip(names, pictures.field("bytes"), paths, strict=True):
            if content.is_valid:
                yield name, "", xxhash.xxh3_128_hexdigest(content.as_buffer())  # the bytes where they lie, not a copy
                continue
            try:
                if path is None:
                    raise ValueError("there are neither bytes nor a path")
                yield name, os.path.abspath(path), file_identity(path)  # noqa: PTH100 - many
            except (OSError, ValueError) as error:
                raise HalflabelError(f"image {name or path} cannot be read: {error}") from error


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


def guess_split(name: str) -> str:
    """Return the split that a file or folder name tells ("instances_val2017"), "" where it tells none or several."""
    found = re.findall(r"(?<![a-z])(train|validation|valid|val|test)(?![a-z])", name.lower())
    splits = {check_split(word) for word in found}
    return splits.pop() if len(splits) == 1 else ""


def write_table(images: AnnotatedImages, path: Path) -> Path:
    """Write a wide Parquet table, and return what its file names are relative to.

    Labels are 1, 0, null for unknown and -101 for uncertain. Reading the table gives back the same data.

    Raises:
        HalflabelError: If pictures lie inside the data and not on disk, or a label is called like another column.
    """
    records = images.dataset["image"][:]
    if any(record["bytes"] is not None for record in records):
        raise HalflabelError(f"{path}: the pictures are not files; write shards instead: --output FOLDER/")
    places = [os.path.abspath(record["path"]) for record in records]  # noqa: PTH100 - without following links
    root = Path(os.path.commonpath([os.path.dirname(place) for place in places]))  # noqa: PTH120
    columns: dict[str, Any] = {"file_name": [os.path.relpath(place, root) for place in places]}
    for i, name in enumerate(images.label_space.names):
        if name in TEXT_COLUMNS:
            raise HalflabelError(f"{path}: label {name!r} is a column of such tables; rename it by label_map")
        codes = images.labels[:, i]
        columns[name] = pa.array(codes, mask=codes == IGNORE_INDEX)
    columns.update({name: list(images.column(name)) for name in ("split", "group", "source")})
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as unfinished:
        pa.parquet.write_table(pa.table(columns), unfinished)
    return root


def write_shards(images: AnnotatedImages, folder: Path, shard_bytes: int = SHARD_BYTES, quiet: bool = False) -> int:
    """Write Parquet shards that hold the encoded pictures and every answer, for the Hub and for streaming.

    Each image has the lists `positive`, `negative` and `uncertain` of its labels; what is in none is unknown. Files are
    named `SPLIT-00000-of-00003.parquet`, as the Hub expects; images without a split go to train. They get these names
    together, when all are written; what a killed writing leaves is not read, see `writing_was_stopped`.

    Args:
        images: What to write.
        folder: Where; made if it is not there. It must hold no Parquet file yet.
        shard_bytes: A shard ends when its pictures exceed this.
        quiet: Show no progress bar.

    Returns:
        The number of files.

    Raises:
        HalflabelError: If the folder holds Parquet files, or a picture cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.glob("*.parquet")):
        raise HalflabelError(f"{folder}: it holds Parquet files already; choose an empty folder")
    splits = np.where(images.column("split") == "", "train", images.column("split"))
    for left in folder.glob(_UNFINISHED):
        left.unlink()
    names: dict[Path, Path] = {}
    try:
        for split in dict.fromkeys(splits):
            part = images.select(np.flatnonzero(splits == split))
            shards = list(_shard_rows(part, shard_bytes))
            for number, rows in enumerate(shards):
                unfinished = folder / f"{split}-{number:05d}.parquet.part"
                names[unfinished] = folder / f"{split}-{number:05d}-of-{len(shards):05d}.parquet"
                _write_shard(part.select(rows), unfinished, quiet)
        put_in_place(names)
    finally:
        for unfinished in names:
            unfinished.unlink(missing_ok=True)
    return len(names)


def writing_was_stopped(folder: Path) -> bool:
    """Tell whether `write_shards` was killed in a folder, so that shards may lack there."""
    return os.path.isdir(folder) and any(folder.glob(_UNFINISHED))  # noqa: PTH112 - which takes any name


@contextlib.contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HalflabelError(f"image {name} cannot be read: {error.strerror}") from error


def _size(path: str, name: str) -> int:
    with _readable(name):
        found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for without an end
        raise HalflabelError(f"image {name} cannot be read: it is no file")
    return found.st_size


def _shard_rows(images: AnnotatedImages, shard_bytes: int) -> Iterator[range]:
    start = held = 0
    pictures = zip(images.dataset["image"][:], images.column("file_name"), strict=True)
    for row, (record, name) in enumerate(pictures):
        held += len(record["bytes"]) if record["bytes"] is not None else _size(record["path"], name)
        if held >= shard_bytes:
            yield range(start, row + 1)
            start, held = row + 1, 0
    if start < len(images):
        yield range(start, len(images))


def _write_shard(images: AnnotatedImages, path: Path, quiet: bool) -> None:
    pictures = []
    for row in tqdm(images.dataset, desc=path.name.removesuffix(".part"), unit="image", disable=quiet):
        record = row["image"]
        with _readable(row["file_name"]):
            content = record["bytes"] if record["bytes"] is not None else Path(record["path"]).read_bytes()
        check_format(content, row["file_name"])  # a link may lead to any file, which nobody wants in a data set
        pictures.append({"bytes": content, "path": os.path.basename(row["file_name"])})  # noqa: PTH119
    columns: dict[str, Any] = {"image": pa.array(pictures, pa.struct({"bytes": pa.binary(), "path": pa.string()}))}
    columns.update({name: pa.array(list(images.column(name)), pa.string()) for name in TEXT_COLUMNS})
    columns.update({name: _list_columns(images.labels == code) for name, code in ANSWER_COLUMNS.items()})
    label = datasets.ClassLabel(names=list(images.label_space.names))
    features = datasets.Features(
        {**FEATURES, "image": datasets.Image(), **{name: datasets.List(label) for name in ANSWER_COLUMNS}}
    )
    datasets.Dataset(pa.table(columns), info=datasets.DatasetInfo(features=features)).to_parquet(str(path))


def _list_columns(chosen: NDArray[np.bool_]) -> pa.ListArray:
    """Return per row the columns that are true."""
    rows, columns = np.nonzero(chosen)
    offsets = np.searchsorted(rows, np.arange(len(chosen) + 1)).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(columns.astype(np.int64)))
