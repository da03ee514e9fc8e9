"""Load one source or several: find the format, read, rename, put together."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..model.errors import HalflabelError, did_you_mean, nearest_file, shortlist
from .images import AnnotatedImages, from_records
from .merging import MergeReport, map_labels, merge
from .readers.chexpert import FINDINGS, read_chexpert
from .readers.coco import looks_like_coco, read_coco
from .readers.hub import read_datasets
from .readers.imagefolder import METADATA, find_metadata, read_imagefolder
from .readers.long_table import LONG_COLUMNS, OPEN_IMAGES_COLUMNS, read_long, read_open_images
from .readers.table import read_wide
from .readers.tabular import ENDINGS, column_names, table_ending
from .readers.voc import looks_like_voc, read_voc
from .readers.yolo import looks_like_yolo, read_yolo
from .source import Source, parse_source

EMBEDDED = "street_scenes"
READERS: dict[str, Callable[[Source], AnnotatedImages]] = {
    "table": read_wide,
    "long": read_long,
    "open_images": read_open_images,
    "chexpert": read_chexpert,
    "coco": read_coco,
    "voc": read_voc,
    "yolo": read_yolo,
    "imagefolder": read_imagefolder,
    "datasets": read_datasets,
}


def load_source(
    data: str | Mapping[str, Any] | Sequence[Any],
    image_folder: str | None = None,
    labels: Sequence[str] | None = None,
    max_train_images: int | None = None,
    max_test_images: int | None = None,
    uncertain_values: Sequence[str] = (),
    contradictions: str = "error",
) -> AnnotatedImages:
    """Load annotated pictures from one source or several.

    Args:
        data: A path, a mapping of `Source`'s keys, or a list of these.
        image_folder: What file names are relative to, for sources that do not say it themselves.
        labels: The labels to use, by their names after `label_map`; None: all.
        max_train_images: Take only the first so many images of the training split (those without a split included).
        max_test_images: Likewise of the test split.
        uncertain_values: Cells of a table that mean uncertain, for sources that do not say it themselves.
        contradictions: What becomes of an entry that sources disagree about; see `merging.merge`.

    Raises:
        HalflabelError: If there is no such source, or it has a fault; file, row and column are named.
    """
    sources = parse_sources(data, image_folder, uncertain_values)
    if labels:
        sources = _narrow(sources, labels)
    limits = {"train": max_train_images, "": max_train_images, "test": max_test_images}
    images, _ = load_sources(sources, limits, contradictions)
    if labels:
        images = images.with_only(labels)
    return _limit(images, limits)


def _narrow(sources: Sequence[Source], labels: Sequence[str]) -> list[Source]:
    """Return the sources with only the columns that are asked for, so that their others may hold anything.

    Raises:
        HalflabelError: If all sources are wide tables, and none has one of the labels.
    """
    tables = [not source.labels and (source.format or find_format(source.path)) == "table" for source in sources]
    if len(sources) == 1 and not tables[0]:
        alone = sources[0]  # which of a label_map's names it has, only reading it tells
        return [alone if alone.labels or alone.label_map else replace(alone, labels=tuple(labels))]
    columns = [column_names(Path(source.path)) if table else [] for source, table in zip(sources, tables, strict=True)]
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
    data: str | Mapping[str, Any] | Sequence[Any],
    image_folder: str | None = None,
    uncertain_values: Sequence[str] = (),
) -> list[Source]:
    """Return the sources that a recipe names, as `load_source` takes them.

    Raises:
        HalflabelError: If there is none, or a mapping is not one of `Source`.
    """
    given = [data] if isinstance(data, str | Mapping | Source) else list(data)
    if not given:
        raise HalflabelError("data names no source")
    sources = []
    for one in given:
        source = parse_source(one)
        if source.image_folder is None and image_folder is not None:
            source = replace(source, image_folder=image_folder)
        if not source.uncertain_values and uncertain_values:
            source = replace(source, uncertain_values=tuple(uncertain_values))
        sources.append(source)
    return sources


def load_sources(
    sources: Sequence[Source], limits: Mapping[str, int | None] | None = None, contradictions: str = "error"
) -> tuple[AnnotatedImages, MergeReport]:
    """Read sources and put them together; see `load_source` and `merging.merge`."""
    parts = [_read(source, limits or {}) for source in sources]
    return merge(parts, contradictions)


def _read(source: Source, limits: Mapping[str, int | None]) -> AnnotatedImages:
    form = source.format or find_format(source.path)
    if source.missing_images == "skip" and form != "open_images":
        raise HalflabelError(f"{source.title}: missing_images: skip works for Open Images only, and this is {form}")
    if form == EMBEDDED:
        images = _read_street_scenes(limits)
    else:
        if source.image_folder is not None and not os.path.isdir(source.image_folder):  # noqa: PTH112
            raise HalflabelError(f"image_folder {source.image_folder!r}: no such folder")
        images = READERS[form](source)
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
    place = Path(path)
    if path == EMBEDDED:
        return EMBEDDED
    # os.path, as it knows what to do with a name that is too long
    if os.path.isdir(path):  # noqa: PTH112
        return _find_folder_format(place)
    if place.suffix == ".json" and os.path.isfile(path):  # noqa: PTH113
        if looks_like_coco(place):
            return "coco"
        raise HalflabelError(f"{path}: a JSON file, but not of COCO or LVIS (images, annotations, categories)")
    if place.suffix in (".yaml", ".yml") and looks_like_yolo(place):
        return "yolo"
    if table_ending(place):
        return _find_table_format(place)
    if os.path.exists(path):  # noqa: PTH110
        raise HalflabelError(f"{path}: no known format; a table ends in {', '.join(ENDINGS)}, COCO in .json")
    if place.suffix or path.count("/") > 1 or path.startswith(("/", ".", "~")):
        raise HalflabelError(f"{path}: no such file or folder{nearest_file(path)}")
    if "/" not in path:
        nearest = did_you_mean(path, [EMBEDDED])
        raise HalflabelError(
            f"data {path!r} is neither a file, a folder nor {EMBEDDED!r}{nearest}; a data set of the Hub is owner/name"
        )
    return "datasets"


def _find_folder_format(folder: Path) -> str:
    checks: dict[str, Callable[[Path], bool]] = {
        "imagefolder": lambda path: bool(find_metadata(path)),
        "datasets": lambda path: (
            any((path / name).is_file() for name in ("dataset_dict.json", "state.json"))
            or any(file.name not in METADATA for glob in ("*.parquet", "*/*.parquet") for file in path.glob(glob))
        ),
        "yolo": looks_like_yolo,
        "voc": looks_like_voc,
    }
    found = [name for name, check in checks.items() if check(folder)]
    if not found:
        raise HalflabelError(
            f"{folder}: no known format; an image folder has metadata.csv, a data set Parquet files, "
            "YOLO data.yaml, Pascal VOC Annotations/*.xml; of COCO give the JSON file"
        )
    if len(found) > 1:
        raise HalflabelError(f"{folder}: it could be {shortlist(found)}; say which by format")
    return found[0]


def _find_table_format(path: Path) -> str:
    names = set(column_names(path))
    if set(OPEN_IMAGES_COLUMNS) <= names:
        return "open_images"
    if ("Path" in names or {"subject_id", "study_id"} <= names) and len(names & set(FINDINGS)) > 3:
        return "chexpert"
    return "long" if set(LONG_COLUMNS) <= names else "table"


def _limit(images: AnnotatedImages, limits: Mapping[str, int | None]) -> AnnotatedImages:
    """Keep the first images of each split, as many as its limit says."""
    splits = images.column("split")
    kept = np.ones(len(images), dtype=bool)
    for limited in ({"train", ""}, {"test"}):
        limit = limits.get(max(limited))
        rows = np.flatnonzero(np.isin(splits.astype(str), list(limited)))
        if limit is not None:
            kept[rows[limit:]] = False
    return images if kept.all() else images.select(np.flatnonzero(kept))
