"""Data sets of the `datasets` library, on the Hub, on disk or in Parquet files, and image folders with metadata."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.compute as pc
from huggingface_hub.constants import HF_HUB_CACHE

from ...model.errors import HalflabelError, did_you_mean, reason_of, shortlist
from ...model.labels import LabelSpace
from ..images import FEATURES, TEXT_COLUMNS, AnnotatedImages, add_texts, check_split, writing_was_stopped
from ..merging import stack
from ..source import Faults, Source, show
from .hub_labels import ClassNames, find_labels
from .label_files import attach_images
from .tables import Columns, read_columns

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_SHARDS = 64  # of a saved data set that is streamed: so many workers can share it


def find_metadata(folder: Path) -> list[tuple[str, Path]]:
    """Return the metadata files of an image folder: its own with split "", or else those of its split folders."""
    own = [("", folder / name) for name in METADATA if (folder / name).is_file()]
    if own or not folder.is_dir():
        return own
    files = sorted(file for name in METADATA for file in folder.glob(f"*/{name}"))
    return [(standard_split(file.parent.name), file) for file in files if standard_split(file.parent.name)]


def standard_split(name: str) -> str:
    """Return the standard name of a split, "" for what is none."""
    try:
        return check_split(name)
    except HalflabelError:
        return ""


def read_imagefolder(source: Source) -> AnnotatedImages:
    """Read an image folder; https://huggingface.co/docs/datasets/image_dataset describes it.

    Labels stand in the metadata as `hub_labels.find_labels` finds them. The split is that of a column `split`, or else
    of the folder: where every file name begins with the name of a split, or each split folder has its own metadata.

    Raises:
        HalflabelError: If there is no metadata or several; else as for a wide table or a data set.
    """
    folder = Path(source.path)
    found = find_metadata(folder)
    if not found:
        raise HalflabelError(f"{folder}: no {', '.join(METADATA[:-1])} or {METADATA[-1]}")
    if len({file.parent for _, file in found}) < len(found):
        raise HalflabelError(f"{folder}: several metadata files: {', '.join(file.name for _, file in found)}")
    return stack([_read_metadata(source, split, file) for split, file in found])


def _read_metadata(source: Source, split: str, metadata: Path) -> AnnotatedImages:
    columns = read_columns(metadata)
    columns.need("file_name")
    matrix, names = find_labels(source, columns, {})
    root = source.image_folder or str(metadata.parent)
    images = attach_images(replace(source, image_folder=root), columns, matrix, names)
    files = list(images.column("file_name"))
    if split:  # the same file name may be in several folders
        images = images.with_column("file_name", [f"{metadata.parent.name}/{name}" for name in files])
    if "split" in columns.names:
        return images
    splits = [split or (standard_split(file.partition("/")[0]) if "/" in file else "") for file in files]
    if any("/" in file and not found for file, found in zip(files, splits, strict=True)):
        splits = [""] * len(files)  # a folder that is no split
    return images.with_column("split", splits)


def looks_like_datasets(source: Source) -> bool:
    """Tell whether a folder holds a saved data set, or Parquet files that are no metadata of an image folder."""
    path = Path(source.path)
    if not os.path.isdir(path):  # noqa: PTH112 - which knows what to do with a name that is too long
        return False
    saved = any((path / name).is_file() for name in ("dataset_dict.json", "state.json")) or writing_was_stopped(path)
    shards = (file for pattern in ("*.parquet", "*/*.parquet") for file in path.glob(pattern))
    return saved or any(file.name not in METADATA for file in shards)


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
    others = whole.select_columns([name for name in whole.column_names if name != image])
    # Without any column nothing would tell how many rows there are.
    table = others.with_format("arrow")[:] if others.column_names else pa.table({"split": [""] * len(whole)})
    columns, classes = Columns(Path(source.title), table, Faults(source.title)), dict(class_names(others.features))
    matrix, names = find_labels(source, columns, classes)
    columns.check_origins(source, names)
    texts = _read_texts(source, columns, classes)
    pictures = whole.cast_column(image, datasets.Image(decode=False)).select_columns([image])
    paths = _check_pictures(source, pictures, image, columns)
    columns.faults.raise_any()
    try:
        space = LabelSpace(names)
    except HalflabelError as error:
        raise HalflabelError(f"{source.title}: {error}") from error
    if "file_name" not in columns.names:  # the path inside the data set's folder, or the number where there is none
        root = f"{Path(source.path).absolute()}/"
        texts["file_name"] = [path.removeprefix(root) or f"image {row}" for row, path in enumerate(paths)]
    if image != "image":
        pictures = pictures.rename_column(image, "image")
    for name in TEXT_COLUMNS:
        pictures = add_texts(pictures, name, texts[name])
    return AnnotatedImages(pictures.select_columns(list(FEATURES)), space, matrix)


def load(source: Source) -> datasets.Dataset:
    """Load a data set with its splits put together, a column `split` saying which.

    Raises:
        HalflabelError: If there is no such data set, the Hub cannot be reached, or its splits do not fit together.
    """
    parts = [_with_split(part, standard_split(split)) if split else part for split, part in open_parts(source).items()]
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
        HalflabelError: If there is no such data set, its shards are not all there, or the Hub cannot be reached.
    """
    if writing_was_stopped(Path(source.path)):
        raise HalflabelError(
            f"{source.path}: the writing of these shards was stopped: remove them, and write them again"
        )
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
    if columns is not None:
        with contextlib.suppress(ValueError):  # not of Parquet files: no other builder knows columns
            return datasets.load_dataset(source.path, streaming=streaming, columns=columns)
    return datasets.load_dataset(source.path, streaming=streaming)


def _with_split(part: datasets.Dataset, split: str) -> datasets.Dataset:
    """Write a part's split wherever its rows say none."""
    if "split" not in part.column_names:
        return add_texts(part, "split", [split] * len(part))
    if part.features["split"] != datasets.Value("string"):
        return part
    given = part["split"][:]
    return part if all(given) else add_texts(part.remove_columns("split"), "split", [one or split for one in given])


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


def _read_texts(source: Source, columns: Columns, classes: ClassNames) -> dict[str, list[str]]:
    """Return the text columns, "" for what is not there; a class by its name."""
    table = columns.table
    for name in set(TEXT_COLUMNS) & set(classes):
        words = pa.array(classes[name]).take(pc.if_else(pc.less(table.column(name), 0), None, table.column(name)))
        table = table.set_column(table.column_names.index(name), name, words)
    named = Columns(columns.path, table, columns.faults)
    return {name: named.splits() if name == "split" else named.origins(name, source) for name in TEXT_COLUMNS}


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
