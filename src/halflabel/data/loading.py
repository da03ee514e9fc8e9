"""Load pictures and their labels from one source or several: find the format, read, rename, put together."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..model.errors import HalflabelError, did_you_mean, shortlist
from .files import EMBEDDED, check_data_place
from .images import AnnotatedImages, from_records
from .merging import MergeReport, map_labels, merge
from .pixels import leave_out_unreadable
from .readers.coco import looks_like_coco, read_coco
from .readers.hub import find_metadata, looks_like_datasets, read_datasets, read_imagefolder
from .readers.label_files import (
    LONG_COLUMNS,
    OPEN_IMAGES_COLUMNS,
    looks_like_chexpert,
    read_chexpert,
    read_long,
    read_open_images,
    read_wide,
)
from .readers.tables import ENDINGS, column_names, table_ending
from .readers.voc import looks_like_voc, read_voc
from .readers.yolo import looks_like_yolo, read_yolo
from .source import Source, check_word, parse_source


@dataclass(frozen=True)
class Reader:
    """How one format is read; to add a format, write these two functions and put a reader into `READERS`.

    Attributes:
        name: What a source's `format` calls it.
        detect: Tells whether a source looks like it. Several of `READERS` may know a file: the first one reads it. Of
            a folder only one may.
        read: Reads a source. It collects what is wrong in `source.Faults`, and keeps pictures encoded.
    """

    name: str
    detect: Callable[[Source], bool]
    read: Callable[[Source], AnnotatedImages]


def _has_columns(*names: str) -> Callable[[Source], bool]:
    return lambda source: set(names) <= set(column_names(source))


def _is_table(source: Source) -> bool:
    return source.content is not None or (table_ending(source.path) != "" and not os.path.isdir(source.path))


def _is_imagefolder(source: Source) -> bool:
    return os.path.isdir(source.path) and bool(find_metadata(Path(source.path)))


READERS: dict[str, Reader] = {
    reader.name: reader
    for reader in (
        Reader("open_images", _has_columns(*OPEN_IMAGES_COLUMNS), read_open_images),
        Reader("chexpert", looks_like_chexpert, read_chexpert),
        Reader("long", _has_columns(*LONG_COLUMNS), read_long),
        Reader("table", _is_table, read_wide),
        Reader("coco", looks_like_coco, read_coco),
        Reader("imagefolder", _is_imagefolder, read_imagefolder),
        Reader("datasets", looks_like_datasets, read_datasets),
        Reader("yolo", looks_like_yolo, read_yolo),
        Reader("voc", looks_like_voc, read_voc),
    )
}


def load_images(
    data: Any,  # noqa: ANN401 - what a program or a recipe names
    image_folder: str | os.PathLike[str] | None = None,
    labels: Sequence[str] | None = None,
    max_train_images: int | None = None,
    max_test_images: int | None = None,
    uncertain_values: Sequence[str] = (),
    contradictions: str = "error",
    bad_images: str = "error",
) -> AnnotatedImages:
    """Load annotated pictures from one source or several.

    Args:
        data: A path, a pandas data frame with the columns of a table, `AnnotatedImages`, a mapping of `Source`'s keys,
            or a list of these.
        image_folder: What file names are relative to, for sources that do not say it themselves.
        labels: The labels to use, by their names after `label_map`; None: all.
        max_train_images: Take only the first so many images of the training split (those without a split included).
        max_test_images: Likewise of the test split.
        uncertain_values: Cells of a table that mean uncertain, for sources that do not say it themselves.
        contradictions: What becomes of an entry that sources disagree about; see `merging.merge`.
        bad_images: `error`: a picture that cannot be read is an error when it is needed; `skip`: every picture is
            decoded once, and those that cannot be read are left out and listed in `skipped`.

    Raises:
        HalflabelError: If there is no such source, or it has a fault; file, row and column are named.
    """
    if bad_images not in ("error", "skip"):
        raise HalflabelError(f"bad_images is {bad_images!r}, expected error or skip")
    sources = parse_sources(data, image_folder, uncertain_values)
    if labels:
        sources = _narrow(sources, labels)
    limits = {"train": max_train_images, "": max_train_images, "test": max_test_images}
    images, _ = load_sources(sources, limits, contradictions)
    if labels:
        images = images.with_only(labels)
    images = _limit(images, limits)
    return leave_out_unreadable(images) if bad_images == "skip" else images


def _narrow(sources: Sequence[Source], labels: Sequence[str]) -> list[Source]:
    """Return the sources with only the columns that are asked for, so that their others may hold anything.

    Raises:
        HalflabelError: If all sources are wide tables, and none has one of the labels.
    """
    tables = [not source.labels and _find_format(source) == "table" for source in sources]
    if len(sources) == 1 and not tables[0]:
        alone = sources[0]  # which of a label_map's names it has, only reading it tells
        return [alone if alone.labels or alone.label_map else replace(alone, labels=tuple(labels))]
    columns = [column_names(source) if table else [] for source, table in zip(sources, tables, strict=True)]
    maps = [source.label_map or {} for source in sources]
    if all(columns):
        have = [renamed.get(name, name) or "" for renamed, names in zip(maps, columns, strict=True) for name in names]
        known = set(have)
        missing = next((label for label in labels if label not in known), None)
        if missing is not None:
            raise HalflabelError(f"unknown label {missing!r}{did_you_mean(missing, have)}")
    wanted = set(labels)
    chosen = [
        tuple(name for name in names if name in renamed or name in wanted)
        for renamed, names in zip(maps, columns, strict=True)
    ]
    return [replace(source, labels=names) if names else source for source, names in zip(sources, chosen, strict=True)]


def parse_sources(
    data: Any,  # noqa: ANN401 - what a program or a recipe names
    image_folder: str | os.PathLike[str] | None = None,
    uncertain_values: Sequence[str] = (),
) -> list[Source]:
    """Return the sources that a recipe names, as `load_images` takes them.

    Raises:
        HalflabelError: If there is none, or a mapping is not one of `Source`.
    """
    several = isinstance(data, Sequence) and not isinstance(data, str)
    sources = []
    for one in data if several else [data]:
        source = parse_source(one)
        check_word(source.path, "format", source.format, (EMBEDDED, *READERS))
        if source.image_folder is None and image_folder is not None:
            source = replace(source, image_folder=os.fspath(image_folder))
        if not source.uncertain_values and uncertain_values:
            source = replace(source, uncertain_values=tuple(uncertain_values))
        sources.append(source)
    if not sources:
        raise HalflabelError("data names no source")
    return sources


def load_sources(
    sources: Sequence[Source], limits: Mapping[str, int | None] | None = None, contradictions: str = "error"
) -> tuple[AnnotatedImages, MergeReport]:
    """Read sources and put them together; see `load_images` and `merging.merge`."""
    return merge([_read(source, limits or {}) for source in sources], contradictions)


def _read(source: Source, limits: Mapping[str, int | None]) -> AnnotatedImages:
    if isinstance(source.content, AnnotatedImages):
        images = source.content
    else:
        form = _find_format(source)
        if source.missing_images == "skip" and form != "open_images":
            raise HalflabelError(f"{source.title}: missing_images: skip works for Open Images only, and this is {form}")
        if form == EMBEDDED:
            images = _read_street_scenes(limits)
        else:
            if source.image_folder is not None and not os.path.isdir(source.image_folder):  # noqa: PTH112
                raise HalflabelError(f"image_folder {source.image_folder!r}: no such folder")
            images = READERS[form].read(source)
    if source.labels and tuple(source.labels) != images.label_space.names:
        images = images.with_only(source.labels)
    images = map_labels(images, source)
    if source.split is not None:
        images = images.with_column("split", [source.split] * len(images))
    given = images.column("source")  # data that halflabel wrote say where each image came from
    return images.with_column("source", np.where((given == "") | bool(source.name), source.title, given))


def _read_street_scenes(limits: Mapping[str, int | None]) -> AnnotatedImages:
    from .sample import LABEL_NAMES, iterate_street_scenes

    sizes = {"train_images": limits.get("train"), "test_images": limits.get("test")}
    scenes = iterate_street_scenes(**{key: value for key, value in sizes.items() if value is not None})
    return from_records(scenes, LABEL_NAMES)


def find_format(path: str) -> str:
    """Return the format that a path looks like.

    Raises:
        HalflabelError: If it looks like none; what was tried is said.
    """
    return _find_format(Source(path))


def _find_format(source: Source) -> str:
    path = source.path
    if source.format or path == EMBEDDED:
        return source.format or EMBEDDED
    # os.path, as it knows what to do with a name that is too long
    folder = os.path.isdir(path) and not isinstance(source.content, pd.DataFrame)  # noqa: PTH112
    found = [reader.name for reader in READERS.values() if reader.detect(source)]
    if len(found) > 1 and folder:
        raise HalflabelError(f"{path}: it could be {shortlist(found)}; say which by format")
    return found[0] if found else _without_reader(path, folder)


def _without_reader(path: str, folder: bool) -> str:
    """Return `datasets` for what is called like a data set of the Hub; tell why any other path has no format."""
    if folder:
        raise HalflabelError(
            f"{path}: no known format; an image folder has metadata.csv, a data set Parquet files, "
            "YOLO data.yaml, Pascal VOC Annotations/*.xml; of COCO give the JSON file"
        )
    if os.path.exists(path):  # noqa: PTH110
        if path.endswith(".json"):
            raise HalflabelError(f"{path}: a JSON file, but not of COCO or LVIS (images, annotations, categories)")
        raise HalflabelError(f"{path}: no known format; a table ends in {', '.join(ENDINGS)}, COCO in .json")
    check_data_place(path)
    return "datasets"


def _limit(images: AnnotatedImages, limits: Mapping[str, int | None]) -> AnnotatedImages:
    """Keep the first images of each split, as many as its limit says."""
    splits = images.column("split").astype(str)
    kept = np.ones(len(images), dtype=bool)
    for limited in (("train", ""), ("test",)):
        limit = limits.get(limited[0])
        if limit is not None:
            kept[np.flatnonzero(np.isin(splits, limited))[limit:]] = False
    return images if kept.all() else images.select(np.flatnonzero(kept))
