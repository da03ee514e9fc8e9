"""What is known of pictures that are to be scored: a table's answers, put to the picture files."""

import logging
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..model.errors import HalflabelError, did_you_mean, shortlist
from ..model.labels import IGNORE_INDEX, IntMatrix, LabelSpace
from .images import TEXT_COLUMNS
from .readers.table import check_unique
from .readers.tabular import read_columns

log = logging.getLogger(__name__)


def read_given(path: str | Path, files: Sequence[Path], space: LabelSpace) -> IntMatrix:
    """Read what a wide table knows of picture files; see `sources.table.read_table` for its form.

    A row belongs to the file at that place, seen from the table's folder, or else to the one whose path ends in its
    file name. A warning counts the rows that belong to none.

    Args:
        path: The table. It may hold some of the labels, and some of the pictures.
        files: The pictures.
        space: The model's labels.

    Returns:
        int8 of shape (len(files), len(space)): 1, 0, and below 0 for what is not known.

    Raises:
        HalflabelError: On a fault of the table, a label that the model does not answer, a file name that fits several
            pictures, a picture named twice, or where no file name fits.
    """
    columns = read_columns(Path(path))
    columns.need("file_name")
    labels = [name for name in columns.names if name not in TEXT_COLUMNS]
    for label in labels:
        if label not in space.names:
            raise HalflabelError(f"{path}: the model answers no label {label!r}{did_you_mean(label, space.names)}")
    names = columns.texts("file_name")
    check_unique(columns, names, "file_name", columns.texts("split"))
    codes = {label: columns.codes(label) for label in labels}
    columns.faults.raise_any()
    places = _find(Path(path), names, files)
    missing = [name for name in names if name not in places]
    if not places:
        raise HalflabelError(f"{path}: none of its {len(names)} file names fits a picture, like {missing[0]!r}")
    if missing:
        log.warning("%s: %d of %d file names fit no picture: %s", path, len(missing), len(names), shortlist(missing))
    given = np.full((len(files), len(space)), IGNORE_INDEX, dtype=np.int8)
    rows = [row for row, name in enumerate(names) if name in places]
    for label in labels:
        given[[places[names[row]] for row in rows], space.index(label)] = codes[label][rows]
    return given


def _find(table: Path, names: Sequence[str], files: Sequence[Path]) -> dict[str, int]:
    """Return the position of the picture of each name that has one."""
    at = {os.path.realpath(file): row for row, file in enumerate(files)}
    ending = defaultdict(list)
    for row, file in enumerate(files):
        ending[file.name].append((file.absolute().parts, row))
    places: dict[str, int] = {}
    names_of: dict[int, str] = {}
    for name in names:
        plain = Path(os.path.normpath(name))
        place = at.get(os.path.realpath(table.parent / plain))
        if place is None:
            place = _by_ending(table, plain, ending[plain.name])
        if place is None:
            continue
        if place in names_of:
            raise HalflabelError(f"{table}: {names_of[place]!r} and {name!r} are the same picture, {files[place]}")
        places[name], names_of[place] = place, name
    return places


def _by_ending(table: Path, name: Path, candidates: Sequence[tuple[tuple[str, ...], int]]) -> int | None:
    fitting = [(parts, place) for parts, place in candidates if parts[-len(name.parts) :] == name.parts]
    if len(fitting) > 1:
        several = shortlist([Path(*parts) for parts, _ in fitting], 2)
        raise HalflabelError(
            f"{table}: file name {str(name)!r} fits several pictures, {several}; give more of its path"
        )
    return fitting[0][1] if fitting else None
