"""Write annotated data: one wide Parquet table, or Parquet shards that hold the pictures too."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet
from tqdm.auto import tqdm

from ..model.errors import HalflabelError
from ..model.image_processing_timm_multilabel import check_format
from ..model.labels import IGNORE_INDEX, IntMatrix
from .images import TEXT_COLUMNS, AnnotatedImages
from .readers.hub import ANSWER_COLUMNS

SHARD_BYTES = 300_000_000


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
    pa.parquet.write_table(pa.table(columns), path)
    return root


def write_shards(images: AnnotatedImages, folder: Path, shard_bytes: int = SHARD_BYTES, quiet: bool = False) -> int:
    """Write Parquet shards that hold the encoded pictures and every answer, for the Hub and for streaming.

    Each image has the lists `positive`, `negative` and `uncertain` of its labels; what is in none is unknown. Files are
    named `SPLIT-00000-of-00003.parquet`, as the Hub expects; images without a split go to train.

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
    label = datasets.ClassLabel(names=list(images.label_space.names))
    features = datasets.Features(
        {
            "image": datasets.Image(),
            **{name: datasets.Value("string") for name in TEXT_COLUMNS},
            **{name: datasets.List(label) for name in ANSWER_COLUMNS},
        }
    )
    splits = np.where(images.column("split") == "", "train", images.column("split"))
    files = 0
    for split in dict.fromkeys(splits):
        part = images.select(np.flatnonzero(splits == split))
        waiting: list[Path] = []
        for number, rows in enumerate(_pieces(part, shard_bytes)):
            waiting.append(folder / f"{split}-{number:05d}.parquet.part")
            _write_shard(part.select(rows), features, waiting[-1], quiet)
        for number, place in enumerate(waiting):
            place.rename(folder / f"{split}-{number:05d}-of-{len(waiting):05d}.parquet")
        files += len(waiting)
    return files


def _pieces(images: AnnotatedImages, shard_bytes: int) -> Iterator[range]:
    start = held = 0
    for row, record in enumerate(images.dataset["image"][:]):
        held += _size(record, images.dataset[row]["file_name"])
        if held >= shard_bytes:
            yield range(start, row + 1)
            start, held = row + 1, 0
    if start < len(images):
        yield range(start, len(images))


def _size(record: dict[str, Any], name: str) -> int:
    try:
        return len(record["bytes"]) if record["bytes"] is not None else os.stat(record["path"]).st_size
    except OSError as error:
        raise HalflabelError(f"image {name} cannot be read: {error.strerror}") from error


def _write_shard(images: AnnotatedImages, features: datasets.Features, path: Path, quiet: bool) -> None:
    pictures = []
    for row in tqdm(images.dataset, desc=path.name.removesuffix(".part"), unit="image", disable=quiet):
        record = row["image"]
        try:
            content = record["bytes"] if record["bytes"] is not None else Path(record["path"]).read_bytes()
        except OSError as error:
            raise HalflabelError(f"image {row['file_name']} cannot be read: {error.strerror}") from error
        check_format(content, row["file_name"])  # a link may lead to any file, which nobody wants in a data set
        pictures.append({"bytes": content, "path": os.path.basename(row["file_name"])})  # noqa: PTH119
    columns: dict[str, Any] = {"image": pa.array(pictures, pa.struct({"bytes": pa.binary(), "path": pa.string()}))}
    columns.update({name: pa.array(list(images.column(name)), pa.string()) for name in TEXT_COLUMNS})
    columns.update({name: _lists(images.labels == code) for name, code in ANSWER_COLUMNS.items()})
    datasets.Dataset(pa.table(columns), info=datasets.DatasetInfo(features=features)).to_parquet(str(path))


def _lists(chosen: IntMatrix | np.ndarray) -> pa.ListArray:
    """Return per row the columns that are true."""
    rows, columns = np.nonzero(chosen)
    offsets = np.searchsorted(rows, np.arange(len(chosen) + 1)).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(columns.astype(np.int64)))
