"""Labels in tables: a row per image or per answer, Open Images' verified labels, CheXpert and MIMIC-CXR-JPG."""

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

from ...model.errors import HalflabelError, did_you_mean, shortlist
from ...model.labels import IGNORE_INDEX, IntMatrix, LabelSpace, uncertain_codes
from ..images import TEXT_COLUMNS, AnnotatedImages, build_images
from ..source import Source, holds_any, image_folder, leaves_folder, locate_images, name_labels
from .tables import Columns, column_names, open_table, read_columns

log = logging.getLogger(__name__)
LONG_COLUMNS = ("file_name", "label", "value")
OPEN_IMAGES_COLUMNS = ("ImageID", "LabelName", "Confidence")
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp")
FINDINGS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation",
    "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip
PATIENT = re.compile(r"(?:^|/)(patient[^/]*)/")
SPLIT_FOLDER = re.compile(r"(?:^|/)(train|valid|test)/")
SPLIT_FOLDERS = {"train": "train", "valid": "validation", "test": "test"}
SPLIT_FILES = "mimic-cxr-*-split.csv*"


def read_wide(source: Source) -> AnnotatedImages:
    """Read a wide table: a row per image, a column per label, `file_name`, and if any `split`, `group` and `source`.

    Raises:
        HalflabelError: With file, row and column, all faults at once: a label value that is not 1, 0 or unknown, a
            missing image, an image given twice, a split that is not train, validation or test, a path that leaves the
            folder, a row that is not whole; and for no such column, a column given twice, or no rows.
    """
    columns = open_table(source)
    columns.need("file_name")
    others = {*TEXT_COLUMNS} - source.named_labels
    names = list(source.labels) if source.labels else [name for name in columns.names if name not in others]
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
    return attach_images(source, columns, _codes(columns, names, uncertain_codes(source.uncertain_values)), names)


def _codes(columns: Columns, names: Sequence[str], uncertain: frozenset[str]) -> IntMatrix:
    """Return the codes of label columns, int8 of shape (rows, names)."""
    matrix = np.empty((len(columns), len(names)), dtype=np.int8)
    for i, name in enumerate(names):
        matrix[:, i] = columns.codes(name, uncertain)
    return matrix


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
    columns.check_origins(source, names)
    splits, groups, sources = columns.splits(), columns.origins("group", source), columns.origins("source", source)
    files = columns.texts("file_name")
    _check_unique(columns, files, "file_name", splits)
    folder = image_folder(columns.path, files, source.image_folder)
    paths = _locate(source, columns, folder, files, "file_name")
    columns.faults.raise_any()
    try:
        return build_images(files, paths, matrix, names, splits, groups, sources)
    except HalflabelError as error:
        raise HalflabelError(f"{columns.path}: {error}") from error


def _locate(source: Source, columns: Columns, folder: Path, files: Sequence[str], name: str) -> list[str]:
    """Return the full paths of the files that the rows of a column name."""
    return locate_images(folder, files, lambda row: columns.where(row, name), columns.faults, source.allow_outside)


def _check_unique(columns: Columns, files: Sequence[str], name: str, splits: Sequence[str]) -> None:
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


def read_long(source: Source) -> AnnotatedImages:
    """Read a long table: columns `file_name`, `label`, `value` (1, 0, unknown), optionally `split` and `group`.

    An answer that is not listed is unknown. Several answers to one question are one if they agree; an unknown one
    yields to any other.

    Returns:
        The images and the labels, each in the order of their first row.

    Raises:
        HalflabelError: With file, row and column, all faults at once: as for a wide table, and two different values of
            one image and label, or two splits or groups of one image.
    """
    columns = open_table(source)
    columns.need(*LONG_COLUMNS)
    images, labels = _index(columns, "file_name"), _index(columns, "label")
    codes = columns.codes("value", uncertain_codes(source.uncertain_values))
    splits = _per_image(columns, "split", columns.splits(), images)
    groups = _per_image(columns, "group", columns.texts("group"), images)
    folder = image_folder(columns.path, images.names, source.image_folder)
    paths = images.locate(source, columns, folder, images.names)
    matrix, names = _fill(source, columns, "value", images, labels, labels.names, codes)
    columns.faults.raise_any()
    return build_images(images.names, paths, matrix, names, splits, groups)


@dataclass(frozen=True)
class _Index:
    """The distinct texts of a column in the order of their first rows, and each row's place among them (-1: empty)."""

    column: str
    names: list[str]
    of_row: NDArray[np.int64]
    first_row: NDArray[np.int64]

    def locate(self, source: Source, columns: Columns, folder: Path, files: Sequence[str]) -> list[str]:
        """Return the full path of each one's file."""

        def where(i: int) -> str:
            return columns.where(int(self.first_row[i]), self.column)

        return locate_images(folder, files, where, columns.faults, source.allow_outside)

    def only(self, kept: NDArray[np.bool_]) -> "_Index":
        """Return an index of some of the texts, kept being of shape (names,); rows of the others get the place -1."""
        place = np.append(np.where(kept, np.cumsum(kept) - 1, -1), -1)
        names = [name for name, keep in zip(self.names, kept, strict=True) if keep]
        return _Index(self.column, names, place[self.of_row], self.first_row[kept])


def _index(columns: Columns, name: str) -> _Index:
    uniques, places = columns.factorize(name)
    texts = [str(value).strip() for value in uniques]
    names = list(dict.fromkeys(text for text in texts if text))
    place = {text: i for i, text in enumerate(names)}
    of_row = np.array([place.get(text, -1) for text in texts] + [-1], dtype=np.int64)[places]
    columns.note(np.flatnonzero(of_row < 0), name, lambda row: "it is empty")
    rows = np.flatnonzero(of_row >= 0)[::-1]
    first_row = np.zeros(len(names), dtype=np.int64)
    first_row[of_row[rows]] = rows  # from the last row to the first, which stays
    return _Index(name, names, of_row, first_row)


def _per_image(columns: Columns, name: str, values: Sequence[str], images: _Index) -> list[str]:
    """Return each image's text of a column, the first that is not empty, and note rows that say another."""
    texts, of_row = np.array(values, dtype=object), images.of_row
    result = np.full(len(images.names), "", dtype=object)
    rows = np.flatnonzero((texts != "") & (of_row >= 0))
    result[of_row[rows[::-1]]] = texts[rows[::-1]]
    wrong = rows[texts[rows] != result[of_row[rows]]]
    columns.note(wrong, name, lambda row: f"{images.names[of_row[row]]!r} is already in {name} {result[of_row[row]]!r}")
    return list(result)


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

    def tell(row: int) -> str:
        image, label = images.names[images.of_row[row]], label_names[labels.of_row[row]]
        return f"{image!r} has another answer for {label!r} in an earlier row"

    columns.note(rows[matrix[image_of, label_of] != codes[rows]], name, tell)
    return matrix, chosen.names


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
    columns = open_table(source)
    columns.need(*OPEN_IMAGES_COLUMNS)
    images, labels = _index(columns, "ImageID"), _index(columns, "LabelName")
    codes = columns.codes("Confidence", uncertain_codes(source.uncertain_values))
    unknown = np.flatnonzero(codes == IGNORE_INDEX)
    columns.note(unknown, "Confidence", lambda row: "it is unknown; a verified label is 1 or 0")
    found = re.search(r"(?<![a-z])(train|validation|test)(?=-)", columns.path.name.lower())
    split = found[0] if found else ""
    here = columns.path.parent
    folders = [here, here / "images", here / split, here / "images" / split]
    if source.image_folder is not None:
        folders = [image_folder(columns.path, (), source.image_folder)]
    folder, files = _find_pictures(images.names, folders)
    missing = files.count("")
    if source.missing_images == "skip":
        if missing == len(files):
            told = ", ".join(map(str, dict.fromkeys(folders)))
            raise HalflabelError(f"{columns.path}: none of its {missing} pictures is in {told}; is image_folder right?")
        if missing:
            text = "%s: %d of %d pictures are left out, as they are not in %s"
            log.warning(text, columns.path, missing, len(files), folder)
        images = images.only(np.array([file != "" for file in files]))
        files = [file for file in files if file]
        if not source.labels:  # labels that only left out pictures have answers for go with them
            labels = labels.only(np.isin(np.arange(len(labels.names)), labels.of_row[images.of_row >= 0]))
    files = [file or image + IMAGE_ENDINGS[0] for file, image in zip(files, images.names, strict=True)]
    described = _describe(source, columns, labels)
    paths = images.locate(source, columns, folder, files)
    matrix, names = _fill(source, columns, "Confidence", images, labels, described, codes)
    columns.faults.raise_any()
    return build_images(files, paths, matrix, names, [split] * len(files))


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


def _find_pictures(images: Sequence[str], folders: Sequence[Path]) -> tuple[Path, list[str]]:
    """Return the first folder that holds any of the images, and the file name of each, "" where it is not there.

    Of nine million images a user may have ten thousand, so folders are listed instead of asking for each image.
    """
    for folder in folders:
        present: dict[str, str] = {}
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for name in sorted(entry.name for entry in entries):
                stem, ending = os.path.splitext(name)  # noqa: PTH122 - a million times
                present[stem if ending.lower() in IMAGE_ENDINGS else name] = name
        files = [present.get(image) or present.get(os.path.splitext(image)[0], "") for image in images]  # noqa: PTH122
        if any(files):
            return folder, files
    return folders[0], [""] * len(images)


def looks_like_chexpert(source: Source) -> bool:
    """Tell whether a table has the columns of CheXpert or MIMIC-CXR-JPG, and more than three of their findings."""
    names = set(column_names(source))
    return ("Path" in names or {"subject_id", "study_id"} <= names) and len(names & set(FINDINGS)) > 3


def read_chexpert(source: Source) -> AnnotatedImages:
    """Read a label file of CheXpert (one row per picture, `Path`) or MIMIC-CXR-JPG (one row per study).

    1.0 is yes, 0.0 is no, blank is unknown, and -1.0 is uncertain, whatever `uncertain_values` adds to it. A patient's
    pictures are one group. CheXpert's paths say the split. Of a MIMIC study every picture gets the study's labels, and
    the split that `mimic-cxr-2.0.0-split.csv` beside the table gives it, where that file is there.

    Returns:
        The pictures in the order of the rows, those of a study by name; the labels in the order of `FINDINGS`.

    Raises:
        HalflabelError: With file, row and column, all faults at once: those of a wide table, a study without pictures,
            and a picture that the split file lacks.
    """
    columns = open_table(source)
    names = [name for name in FINDINGS if name in columns.names]
    if not names:
        raise HalflabelError(f"{columns.path}: none of the 14 CheXpert findings is a column")
    matrix = _codes(columns, names, uncertain_codes(("-1", *source.uncertain_values)))
    if "Path" not in columns.names:
        columns.need("subject_id", "study_id")
        return _read_mimic(source, columns, matrix, names)
    files = columns.texts("Path")
    _check_unique(columns, files, "Path", [""] * len(files))
    folder, places = _find_chexpert(source, columns.path, files)
    paths = _locate(source, columns, folder, places, "Path")
    columns.faults.raise_any()
    patients, folders = map(PATIENT.search, files), map(SPLIT_FOLDER.search, files)
    groups = [found[1] if found else "" for found in patients]
    splits = [SPLIT_FOLDERS[found[1]] if found else "" for found in folders]
    return build_images(files, paths, matrix, names, splits, groups)


def _find_chexpert(source: Source, path: Path, files: Sequence[str]) -> tuple[Path, Sequence[str]]:
    """Return what folder paths are relative to, and the paths.

    Paths begin with the name of the data set's own folder, in which the label file lies; that folder may have been
    given another name, or be the image folder.
    """
    folder = image_folder(path, files, source.image_folder, path.parent.parent)
    if holds_any(folder, files):
        return folder, files
    inner = [file if leaves_folder(file) else file.partition("/")[2] for file in files]
    renamed = image_folder(path, inner, source.image_folder)
    return (renamed, inner) if holds_any(renamed, inner) else (folder, files)


def _read_mimic(source: Source, columns: Columns, matrix: IntMatrix, names: Sequence[str]) -> AnnotatedImages:
    given = image_folder(columns.path, (), source.image_folder)
    folder = next((place for place in (given, given / "images") if (place / "files").is_dir()), given)
    split_of = {} if source.split else _read_splits(columns.path)
    rows, files, groups, splits, empty = [], [], [], [], []
    seen: dict[str, int] = {}
    for row, ids in enumerate(zip(columns.texts("subject_id"), columns.texts("study_id"), strict=True)):
        subject, study = (one.removesuffix(".0") for one in ids)
        if not (subject + study).isalnum() or not subject or not study:
            columns.faults.add(columns.where(row, "study_id"), f"{subject!r}, {study!r} is no patient and study")
            continue
        first = seen.setdefault(study, row)
        if first != row:
            columns.faults.add(columns.where(row, "study_id"), f"{study!r} is already in row {columns.rows[first]}")
        inside = f"files/p{subject[:2]}/p{subject}/s{study}"
        pictures = _list_pictures(folder / inside)
        if not pictures:
            empty.append(row)
        for picture in pictures:
            split = split_of.get(picture.removesuffix(".jpg"))
            if split_of and split is None:
                columns.faults.add(columns.where(row, "study_id"), f"{inside}/{picture} is not in the split file")
            rows.append(row)
            files.append(f"{inside}/{picture}")
            groups.append(f"p{subject}")
            splits.append(split or "")
    text = f"no picture of this study in {folder}/files; is image_folder right?"
    columns.note(empty, "study_id", lambda row: text)
    columns.faults.raise_any()
    return build_images(files, [str(folder / file) for file in files], matrix[rows], names, splits, groups)


def _list_pictures(folder: Path) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if name.endswith(".jpg"))  # noqa: PTH208 - 200,000 times
    except (OSError, ValueError):
        return []


def _read_splits(path: Path) -> dict[str, str]:
    """Return the split of each picture from MIMIC's split file, if it lies beside the label file."""
    found = sorted(path.parent.glob(SPLIT_FILES))
    if not found:
        return {}
    if len(found) > 1:
        raise HalflabelError(f"{path}: several split files lie beside it: {shortlist(file.name for file in found)}")
    columns = read_columns(found[0])
    columns.need("dicom_id", "split")
    pictures, splits = columns.texts("dicom_id"), columns.splits()
    _check_unique(columns, pictures, "dicom_id", splits)
    columns.faults.raise_any()
    return dict(zip(pictures, splits, strict=True))
