"""A wide table: one row per image, one column per label, `file_name`, and optionally `split`, `group` and `source`."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...model.errors import HalflabelError, did_you_mean
from ...model.labels import IntMatrix, LabelSpace, uncertain_codes
from ..images import TEXT_COLUMNS, AnnotatedImages, build_images
from ..source import Source
from .columns import Columns, name_labels
from .faults import locate_images
from .tabular import read_columns

SAMPLE = 20
"""How many images are looked for to tell which folder they are in."""


def read_table(
    path: str | Path,
    image_folder: str | Path | None = None,
    labels: Sequence[str] | None = None,
    uncertain_values: Sequence[str] = (),
) -> AnnotatedImages:
    """Read a wide table of images with labels 1 / 0 / unknown.

    Args:
        path: A file ending in .csv, .csv.gz, .tsv, .tsv.gz, .parquet or .jsonl (one JSON object a line).
        image_folder: What `file_name` is relative to; None: the table's folder, or `images` in it.
        labels: The label columns; None: every column that is not `file_name`, `split`, `group` or `source`.
        uncertain_values: Cells that mean uncertain, like `["-1"]` or `["?"]`.

    Raises:
        HalflabelError: As for `read_wide`.
    """
    folder = None if image_folder is None else str(image_folder)
    chosen = None if labels is None else tuple(labels)
    return read_wide(Source(str(path), "table", None, folder, chosen, uncertain_values=tuple(uncertain_values)))


def read_wide(source: Source) -> AnnotatedImages:
    """Read a wide table.

    Raises:
        HalflabelError: With file, row and column, all faults at once: a label value that is not 1, 0 or unknown, a
            missing image, an image given twice, a split that is not train, validation or test, a path that leaves the
            folder, a row that is not whole; and for no such column, a column given twice, or no rows.
    """
    columns = read_columns(Path(source.path))
    columns.need("file_name")
    names = list(source.labels) if source.labels else [name for name in columns.names if name not in TEXT_COLUMNS]
    have = set(columns.names)
    missing = next((name for name in names if name not in have), None)
    if missing is not None:
        raise HalflabelError(f"{columns.path}: no label column {missing!r}{did_you_mean(missing, columns.names)}")
    if "" in names:
        place = columns.names.index("") + 1
        advice = f"take it out (pandas: index=False), or {name_labels(columns.path)}"
        raise HalflabelError(f"{columns.path}: column {place} has no name; {advice}")
    if not names:
        raise HalflabelError(f"{columns.path}: no label columns beside {', '.join(columns.names)}")
    uncertain = uncertain_codes(source.uncertain_values)
    matrix = np.empty((len(columns), len(names)), dtype=np.int8)
    for i, name in enumerate(names):
        matrix[:, i] = columns.codes(name, uncertain)
    return attach_images(source, columns, matrix, names)


def attach_images(source: Source, columns: Columns, matrix: IntMatrix, names: Sequence[str]) -> AnnotatedImages:
    """Put the pictures of a table's `file_name` column to its labels.

    Args:
        source: Where the table is from.
        columns: The table, one row per image.
        matrix: Codes, int8 of shape (rows, num_labels).
        names: The labels.

    Raises:
        HalflabelError: As for `read_wide`, with the faults that `columns` holds already.
    """
    splits, groups, sources = columns.splits(), columns.texts("group"), columns.texts("source")
    files = columns.texts("file_name")
    check_unique(columns, files, "file_name", splits)
    folder = image_folder(columns.path, files, source.image_folder)
    paths = locate_images(folder, files, columns.wheres("file_name"), columns.faults, source.allow_outside)
    columns.faults.raise_any()
    return build_images(files, paths, matrix, _check_labels(columns, names), splits, groups, sources)


def _check_labels(columns: Columns, names: Sequence[str]) -> tuple[str, ...]:
    try:
        return LabelSpace(names).names
    except HalflabelError as error:
        raise HalflabelError(f"{columns.path}: {error}") from error


def check_unique(columns: Columns, files: Sequence[str], name: str, splits: Sequence[str]) -> None:
    """Note every file name of a column that is empty, or stands in the table already."""
    seen: dict[str, int] = {}
    for i, file in enumerate(files):
        if not file:
            columns.faults.add(columns.where(i, name), "it is empty")
            continue
        plain = os.path.normpath(file) if "./" in file or "//" in file else file
        first = seen.setdefault(plain, i)
        if first != i:
            parts = "" if splits[i] == splits[first] else f" ({splits[first] or 'none'} and {splits[i] or 'none'})"
            columns.faults.add(columns.where(i, name), f"{file!r} is already in row {columns.rows[first]}{parts}")


def image_folder(path: Path, files: Sequence[str], given: str | None, *others: Path) -> Path:
    """Return what file names are relative to: the given folder, else the first candidate that holds one of the images.

    Args:
        path: The annotation file; its folder, and `images` in it, are the first candidates.
        files: File names, of which the first few are looked for.
        given: What the user says.
        others: Further candidates.

    Raises:
        HalflabelError: If the given folder does not exist.
    """
    if given is not None:
        if not os.path.isdir(given):  # noqa: PTH112 - which knows what to do with a name that is too long
            raise HalflabelError(f"image_folder {given!r}: no such folder")
        return Path(given)
    candidates = (path.parent, path.parent / "images", *others)
    return next((folder for folder in candidates if holds_any(folder, files)), path.parent)


def holds_any(folder: Path, files: Sequence[str]) -> bool:
    """Tell whether one of the first images is in a folder."""
    return any(file and os.path.isfile(folder / file) for file in files[:SAMPLE])  # noqa: PTH113 - likewise
