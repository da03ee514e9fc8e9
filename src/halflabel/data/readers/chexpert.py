"""CheXpert and MIMIC-CXR-JPG label files: 1.0 yes, 0.0 no, -1.0 uncertain, blank unknown."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...model.errors import HalflabelError, shortlist
from ...model.labels import IntMatrix, uncertain_codes
from ..images import AnnotatedImages, build_images
from ..source import Source
from .columns import Columns
from .faults import leaves_folder, locate_images
from .table import check_unique, holds_any, image_folder
from .tabular import read_columns

FINDINGS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation",
    "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip
PATIENT = re.compile(r"(?:^|/)(patient[^/]*)/")
SPLIT_FOLDER = re.compile(r"(?:^|/)(train|valid|test)/")
SPLIT_FOLDERS = {"train": "train", "valid": "validation", "test": "test"}
SPLIT_FILES = "mimic-cxr-*-split.csv*"


def read_chexpert(source: Source) -> AnnotatedImages:
    """Read a label file of CheXpert (one row per picture, `Path`) or MIMIC-CXR-JPG (one row per study).

    A cell of -1 is uncertain, whatever `uncertain_values` adds to it. A patient's pictures are one group. CheXpert's
    paths say the split. Of a MIMIC study every picture gets the study's labels, and the split that
    `mimic-cxr-2.0.0-split.csv` beside the table gives it, where that file is there.

    Returns:
        The pictures in the order of the rows, those of a study by name; the labels in the order of `FINDINGS`.

    Raises:
        HalflabelError: With file, row and column, all faults at once: those of a wide table, a study without pictures,
            and a picture that the split file lacks.
    """
    columns = read_columns(Path(source.path))
    have = set(columns.names)
    names = [name for name in FINDINGS if name in have]
    if not names:
        raise HalflabelError(f"{columns.path}: none of the 14 CheXpert findings is a column")
    uncertain = uncertain_codes(("-1", *source.uncertain_values))
    matrix = np.stack([columns.codes(name, uncertain) for name in names], axis=1)
    if "Path" in have:
        return _chexpert(source, columns, matrix, names)
    columns.need("subject_id", "study_id")
    return _mimic(source, columns, matrix, names)


def _chexpert(source: Source, columns: Columns, matrix: IntMatrix, names: Sequence[str]) -> AnnotatedImages:
    files = columns.texts("Path")
    check_unique(columns, files, "Path", [""] * len(files))
    folder, places = _find_pictures(source, columns.path, files)
    paths = locate_images(folder, places, columns.wheres("Path"), columns.faults, source.allow_outside)
    columns.faults.raise_any()
    patients, folders = map(PATIENT.search, files), map(SPLIT_FOLDER.search, files)
    groups = [found[1] if found else "" for found in patients]
    splits = [SPLIT_FOLDERS[found[1]] if found else "" for found in folders]
    return build_images(files, paths, matrix, names, splits, groups)


def _find_pictures(source: Source, path: Path, files: Sequence[str]) -> tuple[Path, Sequence[str]]:
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


def _mimic(source: Source, columns: Columns, matrix: IntMatrix, names: Sequence[str]) -> AnnotatedImages:
    path = columns.path
    given = image_folder(path, (), source.image_folder)
    folder = next((place for place in (given, given / "images") if (place / "files").is_dir()), given)
    split_of = {} if source.split else _read_splits(path)
    rows, files, groups, splits = [], [], [], []
    seen: dict[str, int] = {}
    empty = []
    pairs = zip(columns.texts("subject_id"), columns.texts("study_id"), strict=True)
    for row, (subject, study) in enumerate(pairs):
        subject, study = subject.removesuffix(".0"), study.removesuffix(".0")
        if not (subject + study).isalnum() or not subject or not study:
            columns.faults.add(columns.where(row, "study_id"), f"{subject!r}, {study!r} is no patient and study")
            continue
        first = seen.setdefault(study, row)
        if first != row:
            columns.faults.add(columns.where(row, "study_id"), f"{study!r} is already in row {columns.rows[first]}")
        inside = f"files/p{subject[:2]}/p{subject}/s{study}"
        pictures = _pictures(folder / inside)
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
    columns.faults.add_rows(empty, lambda row: (columns.where(row, "study_id"), text))
    columns.faults.raise_any()
    return build_images(files, [str(folder / file) for file in files], matrix[rows], names, splits, groups)


def _pictures(folder: Path) -> list[str]:
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
    check_unique(columns, pictures, "dicom_id", splits)
    columns.faults.raise_any()
    return dict(zip(pictures, splits, strict=True))
