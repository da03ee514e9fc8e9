"""Long tables: one row per answer (image, label, value), an answer not listed is unknown; Open Images likewise."""

import contextlib
import csv
import logging
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...model.errors import HalflabelError
from ...model.labels import IGNORE_INDEX, IntMatrix, LabelSpace, uncertain_codes
from ..images import AnnotatedImages, build_images
from ..source import Source
from .columns import Columns
from .faults import locate_images
from .table import SAMPLE, holds_any, image_folder
from .tabular import read_columns

log = logging.getLogger(__name__)
LONG_COLUMNS = ("file_name", "label", "value")
OPEN_IMAGES_COLUMNS = ("ImageID", "LabelName", "Confidence")
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp")


def read_long(source: Source) -> AnnotatedImages:
    """Read a long table: columns `file_name`, `label`, `value` (1, 0, unknown), optionally `split` and `group`.

    Several answers to one question are one if they agree; an unknown one yields to any other.

    Returns:
        The images and the labels, each in the order of their first row.

    Raises:
        HalflabelError: With file, row and column, all faults at once: as for a wide table, and two different values of
            one image and label, or two splits or groups of one image.
    """
    columns = read_columns(Path(source.path))
    columns.need(*LONG_COLUMNS)
    images, labels = _index(columns, "file_name"), _index(columns, "label")
    codes = columns.codes("value", uncertain_codes(source.uncertain_values))
    splits = _per_image(columns, "split", columns.splits(), images)
    groups = _per_image(columns, "group", columns.texts("group"), images)
    folder = image_folder(columns.path, images.names, source.image_folder)
    wheres = columns.wheres("file_name", images.first_row.tolist())
    paths = locate_images(folder, images.names, wheres, columns.faults, source.allow_outside)
    matrix, names = _fill(source, columns, "value", images, labels, labels.names, codes)
    columns.faults.raise_any()
    return build_images(images.names, paths, matrix, names, splits, groups)


def read_open_images(source: Source) -> AnnotatedImages:
    """Read Open Images' human-verified image labels: Confidence 1 is yes, 0 is no, a label not listed is unknown.

    Codes become names by the class-descriptions file: `descriptions`, or every `*class-descriptions*.csv` beside the
    table. Codes that share a name there keep the code in it, so that the tables of all splits name a label alike. The
    split is taken from the file's own name (`train-annotations-...`).
    https://storage.googleapis.com/openimages/web/download_v7.html

    Where `missing_images` is `skip`, pictures that are not there are left out with a warning, and so are labels that
    only they have answers for.

    Raises:
        HalflabelError: As for `read_long`, and for a code without a description or an answer without a confidence.
    """
    columns = read_columns(Path(source.path))
    columns.need(*OPEN_IMAGES_COLUMNS)
    images, labels = _index(columns, "ImageID"), _index(columns, "LabelName")
    codes = columns.codes("Confidence", uncertain_codes(source.uncertain_values))
    columns.faults.add_rows(
        np.flatnonzero(codes == IGNORE_INDEX),
        lambda row: (columns.where(row, "Confidence"), "it is unknown; a verified label is 1 or 0"),
    )
    split = _split_of(columns.path.name)
    if source.missing_images == "skip":
        folder, files = _find_present(columns.path, images.names, source.image_folder, split)
        images, labels = _narrow(images, labels, np.array([file != "" for file in files]), bool(source.labels))
        files = [file for file in files if file]
    else:
        folder = _open_images_folder(columns.path, images.names, source.image_folder, split)
        files = _with_endings(folder, images.names)
    described = _describe(source, columns, labels)
    wheres = columns.wheres("ImageID", images.first_row.tolist())
    paths = locate_images(folder, files, wheres, columns.faults, source.allow_outside)
    matrix, names = _fill(source, columns, "Confidence", images, labels, described, codes)
    columns.faults.raise_any()
    return build_images(files, paths, matrix, names, [split] * len(files))


@dataclass(frozen=True)
class _Index:
    """The distinct texts of a column in the order of their first rows, and each row's place among them (-1: empty)."""

    names: list[str]
    of_row: NDArray[np.int64]
    first_row: NDArray[np.int64]


def _index(columns: Columns, name: str) -> _Index:
    uniques, places = columns.factorize(name)
    texts = [str(value).strip() for value in uniques]
    names = list(dict.fromkeys(text for text in texts if text))
    place = {text: i for i, text in enumerate(names)}
    of_row = np.array([place.get(text, -1) for text in texts] + [-1], dtype=np.int64)[places]
    columns.faults.add_rows(np.flatnonzero(of_row < 0), lambda row: (columns.where(row, name), "it is empty"))
    rows = np.flatnonzero(of_row >= 0)[::-1]
    first_row = np.zeros(len(names), dtype=np.int64)
    first_row[of_row[rows]] = rows  # from the last row to the first, which stays
    return _Index(names, of_row, first_row)


def _per_image(columns: Columns, name: str, values: Sequence[str], images: _Index) -> list[str]:
    """Return each image's text of a column, the first that is not empty, and note rows that say another."""
    result = np.full(len(images.names), "", dtype=object)
    if name in columns.names:
        texts = np.array(values, dtype=object)
        rows = np.flatnonzero((texts != "") & (images.of_row >= 0))
        result[images.of_row[rows[::-1]]] = texts[rows[::-1]]
        of_row = images.of_row
        columns.faults.add_rows(
            rows[texts[rows] != result[of_row[rows]]],
            lambda row: (
                columns.where(row, name),
                f"{images.names[of_row[row]]!r} is already in {name} {result[of_row[row]]!r}",
            ),
        )
    texts_per_image: list[str] = result.tolist()
    return texts_per_image


def _fill(
    source: Source,
    columns: Columns,
    name: str,
    images: _Index,
    labels: _Index,
    label_names: Sequence[str],
    codes: IntMatrix,
) -> tuple[IntMatrix, tuple[str, ...]]:
    """Return the matrix of the source's labels and their names, and note answers that contradict an earlier row.

    Only the labels asked for are filled in: those of all 9,605 of Open Images' labels would be gigabytes.
    """
    if not label_names:
        columns.faults.raise_any()
    try:
        space = LabelSpace(label_names)
        chosen = LabelSpace(source.labels or space.names)
        places = [space.index(label) for label in chosen.names]
    except HalflabelError as error:
        raise HalflabelError(f"{columns.path}: {error}") from error
    column_of = np.full(len(space) + 1, -1, dtype=np.int64)
    column_of[places] = np.arange(len(places))
    matrix = np.full((len(images.names), len(places)), IGNORE_INDEX, dtype=np.int8)
    rows = np.flatnonzero((codes != IGNORE_INDEX) & (images.of_row >= 0) & (column_of[labels.of_row] >= 0))
    image_of, label_of = images.of_row[rows], column_of[labels.of_row[rows]]
    matrix[image_of[::-1], label_of[::-1]] = codes[rows[::-1]]  # the first of several stays
    columns.faults.add_rows(
        rows[matrix[image_of, label_of] != codes[rows]],
        lambda row: (
            columns.where(row, name),
            f"{images.names[images.of_row[row]]!r} has another answer for "
            f"{label_names[labels.of_row[row]]!r} in an earlier row",
        ),
    )
    return matrix, chosen.names


def _describe(source: Source, columns: Columns, labels: _Index) -> list[str]:
    """Return the names of label codes; a name that several codes share is told apart by them."""
    beside = sorted(columns.path.parent.glob("*class-descriptions*.csv"))
    files = [Path(source.descriptions)] if source.descriptions else beside
    if not files:
        return labels.names
    names: dict[str, str] = {}
    for file in files:
        try:
            with file.open(encoding="utf-8-sig", newline="") as lines:
                names = {**{row[0].strip(): row[1].strip() for row in csv.reader(lines) if len(row) > 1}, **names}
        except (OSError, ValueError, csv.Error) as error:
            raise HalflabelError(f"{source.path}: the descriptions file {str(file)!r} cannot be read") from error
    told = ", ".join(map(str, files))
    for code, row in zip(labels.names, labels.first_row, strict=True):
        if not names.get(code):
            columns.faults.add(columns.where(int(row), "LabelName"), f"{code!r} is not in {told}")
    described = [names.get(code) or code for code in labels.names]
    counts = Counter(names.values())  # of the whole file: a table may hold but one of the labels that share a name
    return [
        f"{name} ({code})" if counts[name] > 1 else name for name, code in zip(described, labels.names, strict=True)
    ]


def _split_of(name: str) -> str:
    found = re.findall(r"(?<![a-z])(train|validation|test)(?=-)", name.lower())
    return found[0] if found else ""


def _usual_folders(path: Path, split: str) -> tuple[Path, ...]:
    here = path.parent
    return here, here / "images", here / split, here / "images" / split


def _open_images_folder(path: Path, images: Sequence[str], given: str | None, split: str) -> Path:
    files = [image + ending for image in images[:SAMPLE] for ending in ("", *IMAGE_ENDINGS)]
    for folder in _usual_folders(path, split) if given is None else ():
        if any(holds_any(folder, [file]) for file in files):
            return folder
    return image_folder(path, (), given)


def _with_endings(folder: Path, images: Sequence[str]) -> list[str]:
    """Return the file name of each image; mostly all end alike, so the last ending found is tried first."""
    endings = ["", *IMAGE_ENDINGS]
    root, files = str(folder), []
    for image in images:
        start = os.path.join(root, image)  # noqa: PTH118 - a hundred thousand times
        found = next((ending for ending in endings if os.path.isfile(start + ending)), None)  # noqa: PTH113 - likewise
        if found is not None and found != endings[0]:
            endings.remove(found)
            endings.insert(0, found)
        files.append(image + (IMAGE_ENDINGS[0] if found is None else found))
    return files


def _find_present(path: Path, images: Sequence[str], given: str | None, split: str) -> tuple[Path, list[str]]:
    """Return the image folder, and the file name of each image, "" where it is not there.

    Of nine million images a user may have ten thousand, so folders are listed instead of asking for each image.

    Raises:
        HalflabelError: If none of the images is in any of the usual folders, or in the given one.
    """
    folders = _usual_folders(path, split) if given is None else (image_folder(path, (), given),)
    for folder in folders:
        present: dict[str, str] = {}
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for name in sorted(entry.name for entry in entries):
                stem, ending = os.path.splitext(name)  # noqa: PTH122 - a million times
                present[stem if ending.lower() in IMAGE_ENDINGS else name] = name
        files = [present.get(image) or present.get(os.path.splitext(image)[0], "") for image in images]  # noqa: PTH122
        missing = files.count("")
        if missing < len(files):
            if missing:
                log.warning(
                    "%s: %d of %d pictures are left out, as they are not in %s", path, missing, len(files), folder
                )
            return folder, files
    told = ", ".join(map(str, dict.fromkeys(folders)))
    raise HalflabelError(f"{path}: none of its {len(images)} pictures is in {told}; is image_folder right?")


def _narrow(images: _Index, labels: _Index, present: NDArray[np.bool_], keep_labels: bool) -> tuple[_Index, _Index]:
    """Return the images that are there, and the labels that they have answers for, or all where these are kept."""
    kept_images = _only(images, present)
    if keep_labels:
        return kept_images, labels
    answered = np.zeros(len(labels.names) + 1, dtype=bool)
    answered[labels.of_row[kept_images.of_row >= 0]] = True
    return kept_images, _only(labels, answered[:-1])


def _only(index: _Index, kept: NDArray[np.bool_]) -> _Index:
    """Return an index of some of its texts, kept being of shape (names,); rows of the others get the place -1."""
    place = np.append(np.where(kept, np.cumsum(kept) - 1, -1), -1)
    names = [name for name, keep in zip(index.names, kept, strict=True) if keep]
    return _Index(names, place[index.of_row], index.first_row[kept])
