"""A wide table: one row per image, one column per label, `file_name`, and optionally `split` and `group`."""

import csv
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from ..errors import HalflabelError, did_you_mean, shortlist
from ..labels import LabelSpace, encode_column, uncertain_codes
from .annotated_images import AnnotatedImages, check_split, from_records

ENDINGS = (".csv", ".tsv", ".parquet", ".jsonl")
_NOT_LABELS = ("file_name", "split", "group")


def read_table(
    path: str | Path,
    image_folder: str | Path | None = None,
    labels: Sequence[str] | None = None,
    uncertain_values: Sequence[str] = (),
) -> AnnotatedImages:
    """Read a table of images with labels 1 / 0 / unknown.

    Args:
        path: A file ending in .csv, .tsv, .parquet or .jsonl (one JSON object a line).
        image_folder: What `file_name` is relative to; None: the table's folder, or `images` in it.
        labels: The label columns; None: every column that is not `file_name`, `split` or `group`.
        uncertain_values: Cells that mean uncertain, like `["-1"]` or `["?"]`.

    Raises:
        HalflabelError: With file, row and column, for the first fault and the number of further ones: no such
            column, a column given twice, a label value that is not 1, 0 or unknown, a missing image, an image given
            twice, a split that is not train, validation or test, a path that leaves the folder, no rows.
    """
    path = Path(path)
    frame, first_row = _read(path)
    if "file_name" not in frame.columns:
        found = f"; its columns are {shortlist(frame.columns, 8)}"
        raise HalflabelError(f"{path}: no column 'file_name'{found}{did_you_mean('file_name', frame.columns)}")
    if frame.empty:
        raise HalflabelError(f"{path}: the table has no rows")
    names = list(labels) if labels else [str(name) for name in frame.columns if name not in _NOT_LABELS]
    for name in names:
        if name not in frame.columns:
            raise HalflabelError(f"{path}: no label column {name!r}{did_you_mean(name, frame.columns)}")
    if not names:
        raise HalflabelError(f"{path}: no label columns beside {', '.join(frame.columns)}")
    space = LabelSpace(names)
    rows = np.arange(len(frame)) + first_row
    files = _text_column(frame, "file_name")
    matrix = _label_matrix(path, frame, names, rows, uncertain_codes(uncertain_values))
    splits = _splits(path, frame, rows)
    _check_unique(path, files, splits, rows)
    folder = _image_folder(path, files, image_folder)
    images = _locate(path, files, folder, rows)
    groups = _text_column(frame, "group")
    records = (
        {"image": {"path": image, "bytes": None}, "file_name": file, "labels": row, "split": split, "group": group}
        for image, file, row, split, group in zip(images, files, matrix, splits, groups, strict=True)
    )
    return from_records(records, space.names)


def _read(path: Path) -> tuple[pd.DataFrame, int]:
    """Return the cells as they are written and the number of the first data row, as an editor counts lines."""
    if path.suffix not in ENDINGS:
        raise HalflabelError(f"{path}: a table ends in {', '.join(ENDINGS)}")
    if not path.is_file():
        raise HalflabelError(f"{path}: no such file")
    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path), 1
        if path.suffix == ".jsonl":
            return pd.read_json(path, lines=True, dtype=False, convert_dates=False), 1
        separator = "\t" if path.suffix == ".tsv" else ","
        _check_header(path, separator)
        frame = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        return frame, 2
    except HalflabelError:
        raise
    except (ValueError, OSError) as error:  # pandas' parser errors are ValueErrors, Arrow's are both
        reason = str(error).strip().splitlines()[0]
        raise HalflabelError(f"{path}: cannot be read as {path.suffix[1:]} ({reason[:150]})") from error


def _check_header(path: Path, separator: str) -> None:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        header = next(csv.reader(lines, delimiter=separator), [])
    if not header:
        raise HalflabelError(f"{path}: the table is empty")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise HalflabelError(f"{path}, row 1: column {twice[0]!r} is given twice")


def _text_column(frame: pd.DataFrame, name: str) -> list[str]:
    if name not in frame.columns:
        return [""] * len(frame)
    return ["" if pd.isna(value) else str(value).strip() for value in frame[name]]


def _raise_first(path: Path, faults: list[tuple[int, str]]) -> None:
    if faults:
        row, text = min(faults)
        more = f" (and {len(faults) - 1} more such faults)" if len(faults) > 1 else ""
        raise HalflabelError(f"{path}, row {row}{text}{more}")


def _label_matrix(
    path: Path, frame: pd.DataFrame, names: list[str], rows: np.ndarray[Any, Any], uncertain: Collection[str]
) -> list[list[int]]:
    columns, faults = [], []
    for name in names:
        cells = frame[name].to_numpy(dtype=object)
        codes, wrong = encode_column(cells, uncertain)
        columns.append(codes)
        allowed = "is not 1, 0 or unknown (empty, NaN, -1)"
        faults += [(int(rows[i]), f", column {name!r}: label value {cells[i]!r} {allowed}") for i in wrong]
    _raise_first(path, faults)
    matrix: list[list[int]] = np.stack(columns, axis=1).tolist()
    return matrix


def _splits(path: Path, frame: pd.DataFrame, rows: np.ndarray[Any, Any]) -> list[str]:
    if "split" not in frame.columns:
        return [""] * len(frame)
    known: dict[str, str] = {}
    faults = []
    values = _text_column(frame, "split")
    for row, value in zip(rows, values, strict=True):
        if value not in known:
            try:
                known[value] = check_split(value)
            except HalflabelError as error:
                faults.append((int(row), f", column 'split': {error}"))
    _raise_first(path, faults)
    return [known[value] for value in values]


def _check_unique(path: Path, files: list[str], splits: list[str], rows: np.ndarray[Any, Any]) -> None:
    seen: dict[str, int] = {}
    faults = []
    for i, file in enumerate(files):
        if not file:
            faults.append((int(rows[i]), ", column 'file_name': it is empty"))
        elif file in seen:
            first = seen[file]
            where = "" if splits[i] == splits[first] else f" ({splits[first]} and {splits[i]})"
            faults.append((int(rows[i]), f", column 'file_name': {file!r} is already in row {rows[first]}{where}"))
        else:
            seen[file] = i
    _raise_first(path, faults)


def _image_folder(path: Path, files: list[str], given: str | Path | None) -> Path:
    if given is not None:
        if not Path(given).is_dir():
            raise HalflabelError(f"image_folder {str(given)!r}: no such folder")
        return Path(given)
    inside = path.parent / "images"
    return inside if not (path.parent / files[0]).is_file() and (inside / files[0]).is_file() else path.parent


def _locate(path: Path, files: list[str], folder: Path, rows: np.ndarray[Any, Any]) -> list[str]:
    faults, located = [], []
    for row, file in zip(rows, files, strict=True):
        place = folder / file
        if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts:
            faults.append((int(row), f", column 'file_name': {file!r} leaves the image folder {folder}"))
        elif not place.is_file():
            hint = "; is image_folder right?"
            faults.append((int(row), f", column 'file_name': no image {file!r} in {folder}{hint}"))
        located.append(str(place))
    _raise_first(path, faults)
    return located
