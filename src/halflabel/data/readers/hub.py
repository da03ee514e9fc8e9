"""Data sets of the `datasets` library: on the Hub, saved on disk, in Parquet files."""

import contextlib
import os
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc
from huggingface_hub.constants import HF_HUB_CACHE

from ...model.errors import HalflabelError, did_you_mean, reason_of, shortlist
from ...model.labels import LabelSpace
from ..images import FEATURES, TEXT_COLUMNS, AnnotatedImages, check_split
from ..source import Source
from .columns import Columns
from .faults import Faults, show
from .hub_labels import ANSWER_COLUMNS as ANSWER_COLUMNS
from .hub_labels import ClassNames, find_labels
from .imagefolder import find_metadata

_SHARDS = 64  # of a saved data set that is streamed: so many workers can share it


def read_datasets(source: Source) -> AnnotatedImages:
    """Read a data set: an image column, and labels as `hub_labels.find_labels` finds them.

    Shards that halflabel wrote hold every answer. The splits are those of the data set, unless it has a column `split`.
    The pictures stay where they are and encoded.

    Raises:
        HalflabelError: If it cannot be loaded, has no image column or several, no column of labels or several; and with
            row and column, all at once, a value that is not 1, 0 or unknown, and a row without a picture.
    """
    with _told(source):  # damaged files are found out where their cells are first looked at
        return _read(source)


def _read(source: Source) -> AnnotatedImages:
    whole = load(source)
    image = find_image_column(source, whole.features)
    columns, classes = _read_columns(source, whole, image)
    matrix, names = find_labels(source, columns, classes)
    texts = _read_texts(columns, classes)
    pictures = whole.cast_column(image, datasets.Image(decode=False)).select_columns([image])
    paths = _check_pictures(source, pictures, image, columns)
    columns.faults.raise_any()
    try:
        space = LabelSpace(names)
    except HalflabelError as error:
        raise HalflabelError(f"{source.title}: {error}") from error
    if "file_name" not in columns.names:
        texts["file_name"] = _picture_names(paths, Path(source.path))
    if image != "image":
        pictures = pictures.rename_column(image, "image")
    for name in TEXT_COLUMNS:
        pictures = pictures.add_column(
            name, texts[name], new_fingerprint=uuid.uuid4().hex, feature=datasets.Value("string")
        )
    return AnnotatedImages(pictures.select_columns(list(FEATURES)), space, matrix)


def load(source: Source) -> datasets.Dataset:
    """Load a data set with its splits put together, a column `split` saying which.

    Raises:
        HalflabelError: If there is no such data set, the Hub cannot be reached, or its splits do not fit together.
    """
    parts = [_with_split(part, _standard(split)) if split else part for split, part in open_parts(source).items()]
    with _told(source):
        return datasets.concatenate_datasets(parts)


def open_parts(source: Source, streaming: bool = False, columns: Sequence[str] | None = None) -> dict[str, Any]:
    """Open each split of a data set.

    Args:
        source: Where it is.
        streaming: Give `datasets.IterableDataset`, and not `datasets.Dataset`.
        columns: Read only these, where the files allow it; None: all.

    Returns:
        The parts by their split; by "" where the data set has none.

    Raises:
        HalflabelError: If there is no such data set, or the Hub cannot be reached.
    """
    with _told(source):
        loaded = _open(source, streaming, columns)
        parts = loaded if isinstance(loaded, dict) else {"": loaded}
        if columns is not None:
            parts = {split: part.select_columns(list(columns)) for split, part in parts.items()}
        return {str(split): part for split, part in parts.items()}


@contextlib.contextmanager
def _told(source: Source) -> Iterator[None]:
    try:
        yield
    except HalflabelError:
        raise
    except Exception as error:  # the library raises many kinds, also those of its file systems
        raise HalflabelError(
            f"data {source.path!r} cannot be loaded as a data set: {reason_of(error, first_line=True)}"
        ) from error


def _open(source: Source, streaming: bool, columns: Sequence[str] | None) -> Any:  # noqa: ANN401 - datasets' own kinds
    path = Path(source.path)
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        loaded = datasets.load_from_disk(str(path))
        if not streaming:
            return loaded
        parts = loaded if isinstance(loaded, dict) else {"": loaded}
        return {split: part.to_iterable_dataset(min(_SHARDS, len(part)) or 1) for split, part in parts.items()}
    if path.is_dir() and find_metadata(path):
        return datasets.load_dataset("imagefolder", data_dir=str(path), drop_labels=True, streaming=streaming)
    if path.is_dir():
        return datasets.load_dataset("parquet", data_dir=str(path), streaming=streaming, columns=columns)
    if path.is_file() and path.suffix == ".parquet":
        return datasets.load_dataset("parquet", data_files=str(path), streaming=streaming, columns=columns)
    if columns is None:
        return datasets.load_dataset(source.path, streaming=streaming)
    try:
        return datasets.load_dataset(source.path, streaming=streaming, columns=columns)
    except ValueError:  # not of Parquet files: no other builder knows columns
        return datasets.load_dataset(source.path, streaming=streaming)


def _with_split(part: datasets.Dataset, split: str) -> datasets.Dataset:
    """Write a part's split wherever its rows say none."""
    if "split" not in part.column_names:
        return part.add_column("split", [split] * len(part), feature=datasets.Value("string"))
    if part.features["split"] != datasets.Value("string"):
        return part
    given = part["split"][:]
    if all(given):
        return part
    texts = [text or split for text in given]
    return part.remove_columns("split").add_column("split", texts, feature=datasets.Value("string"))


def _standard(split: str) -> str:
    try:
        return check_split(split)
    except HalflabelError:
        return ""


def find_image_column(source: Source, features: datasets.Features) -> str:
    """Return the name of the image column.

    Raises:
        HalflabelError: If there is none, or several and the source does not say which.
    """
    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    if source.image_column is not None:
        if source.image_column not in images:
            nearest = did_you_mean(source.image_column, images)
            raise HalflabelError(f"{source.title}: no image column {source.image_column!r}{nearest}")
        return source.image_column
    if len(images) != 1:
        found = f"the image columns {shortlist(images)}: say which by image_column" if images else "no image column"
        raise HalflabelError(f"{source.title}: it has {found}")
    return str(images[0])


def _read_columns(source: Source, whole: datasets.Dataset, image: str) -> tuple[Columns, ClassNames]:
    """Return the columns but the pictures, and the names of classes."""
    others = [name for name in whole.column_names if name != image]
    # Without any column nothing would tell how many rows there are.
    table = whole.select_columns(others).with_format("arrow")[:] if others else pa.table({"split": [""] * len(whole)})
    classes = dict(class_names(whole.select_columns(others).features))
    return Columns(Path(source.title), table, Faults(source.title)), classes


def class_names(features: datasets.Features) -> Iterator[tuple[str, list[str]]]:
    """Give each class column, also in lists and one column deep, with the names of its classes."""
    for name, feature in features.items():
        within = _element(feature)
        inner = within.items() if isinstance(within, dict) else ()
        kinds = {name: within, **{f"{name}.{key}": _element(value) for key, value in inner}}
        for place, kind in kinds.items():
            if isinstance(kind, datasets.ClassLabel):
                yield place, list(kind.names)


def _element(feature: Any) -> Any:  # noqa: ANN401 - a feature type
    return feature.feature if isinstance(feature, datasets.List | datasets.LargeList) else feature


def _read_texts(columns: Columns, classes: ClassNames) -> dict[str, list[str]]:
    """Return the text columns, "" for what is not there; a class by its name."""
    table = columns.table
    for name in set(TEXT_COLUMNS) & set(classes):
        words = pa.array(classes[name]).take(pc.if_else(pc.less(table.column(name), 0), None, table.column(name)))
        table = table.set_column(table.column_names.index(name), name, words)
    named = Columns(columns.path, table, columns.faults)
    return {name: named.splits() if name == "split" else named.texts(name) for name in TEXT_COLUMNS}


def _check_pictures(source: Source, pictures: datasets.Dataset, image: str, columns: Columns) -> list[str]:
    """Return the path or "" that each picture has; note rows without one, and files that are not there or outside.

    A row of somebody else's data may name any file of this machine.
    """
    records = pictures.with_format("arrow")[:].column(image)
    paths = pc.struct_field(records, "path").to_pylist()
    inside = pc.is_valid(pc.struct_field(records, "bytes")).to_pylist()
    place = os.path.abspath(source.path)  # noqa: PTH100 - without following links
    caches = (str(datasets.config.HF_DATASETS_CACHE), str(HF_HUB_CACHE))
    local = place if os.path.isdir(place) else os.path.dirname(place)  # noqa: PTH112, PTH120
    roots = tuple(f"{root}/" for root in ((local,) if os.path.exists(place) else caches))  # noqa: PTH110
    for row, (path, has_bytes) in enumerate(zip(paths, inside, strict=True)):
        if has_bytes or (path and "://" in path):
            continue
        if not path:
            columns.faults.add(columns.where(row, image), "no picture")
        elif not source.allow_outside and not os.path.normpath(path).startswith(roots):
            columns.faults.add(columns.where(row, image), f"{show(path)} leaves the data set's folder")
        elif not os.path.isfile(path):  # noqa: PTH113 - many
            columns.faults.add(columns.where(row, image), f"no image {show(path)}")
    return [path or "" for path in paths]


def _picture_names(paths: Sequence[str], folder: Path) -> list[str]:
    """Return what to call pictures: the path inside the data set's folder, or the number where there is none."""
    root = f"{folder.absolute()}/"
    return [path.removeprefix(root) or f"image {row}" for row, path in enumerate(paths)]
