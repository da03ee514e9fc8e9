"""A table as columns: cells looked at once each, and the place of a cell as an editor shows it."""

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ...model.errors import HalflabelError, did_you_mean, shortlist
from ...model.labels import IGNORE_INDEX, IntMatrix, encode_value
from ..images import check_split
from .faults import Faults, show

NOT_A_LABEL = "is not 1, 0 or unknown (empty, NaN, -1)"


class _Wheres(Sequence[str]):
    """The places of a column's cells, each made when it is asked for."""

    def __init__(self, columns: "Columns", name: str, positions: Sequence[int]) -> None:
        self.columns, self.name, self.positions = columns, name, positions

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, i: Any) -> Any:  # noqa: ANN401 - slices are never asked for
        return self.columns.where(int(self.positions[i]), self.name)


@dataclass(frozen=True)
class Columns:
    """A table.

    Attributes:
        path: The file, or what to call the data.
        table: The cells; those of text files are texts as they were written.
        faults: What is wrong in the file; whoever reads on adds to it.
        find_rows: Returns the row number of each data row; None: 1, 2, 3 ...
    """

    path: Path
    table: pa.Table
    faults: Faults = field(compare=False)
    find_rows: Callable[[], Sequence[int]] | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self.table.num_rows)

    @property
    def names(self) -> list[str]:
        """The column names."""
        return [str(name) for name in self.table.column_names]

    @cached_property
    def rows(self) -> Sequence[int]:
        """The number of each row: of a text file the line it begins in, else counted from 1."""
        if self.find_rows is None:
            return range(1, len(self) + 1)
        found = self.find_rows()
        # Should the two parsers of a file ever disagree, a number near the row is better than none.
        return found if len(found) == len(self) else range(2, len(self) + 2)

    def where(self, position: int, column: str) -> str:
        """Return the place of a cell, for people."""
        return f"row {self.rows[position]}, column {column!r}"

    def wheres(self, column: str, positions: Sequence[int] | None = None) -> Sequence[str]:
        """Return the places of a column's cells, of all or those at these positions."""
        return _Wheres(self, column, range(len(self)) if positions is None else positions)

    def need(self, *names: str) -> None:
        """Refuse a table that lacks a column.

        Raises:
            HalflabelError: With the nearest column names.
        """
        for name in names:
            if name not in self.names:
                found = f"; its columns are {shortlist(self.names, 8)}"
                advice = _other_separator(self.names) or did_you_mean(name, self.names)
                raise HalflabelError(f"{self.path}: no column {name!r}{found}{advice}")

    def factorize(self, name: str) -> tuple[list[Any], NDArray[np.int64]]:
        """Return a column's distinct values, and for each row the place of its value (-1 for an empty cell)."""
        column = self.table.column(name)
        if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
            column = _decode(self, name)
        try:  # by chunks, as the texts of all may be too many for one
            encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        except pa.ArrowNotImplementedError:  # a kind of cell that pyarrow has no means to compare
            texts = [None if cell is None else str(cell) for cell in column.to_pylist()]
            encoded = pa.array(texts, pa.string()).dictionary_encode()
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.combine_chunks()
        places = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        return encoded.dictionary.to_pylist(), places

    def texts(self, name: str) -> list[str]:
        """Return a column as stripped texts, "" for an empty cell; all "" where there is no such column."""
        if name not in self.names:
            return [""] * len(self)
        kind = self.table.column(name).type
        if pa.types.is_nested(kind):
            self.faults.add(f"column {name!r}", f"it holds {str(kind)[:100]}, expected texts")
            return [""] * len(self)
        uniques, places = self.factorize(name)
        words = np.array([_text(value) for value in uniques] + [""], dtype=object)
        texts: list[str] = words[places].tolist()
        return texts

    def codes(self, name: str, uncertain: Collection[str] = ()) -> IntMatrix:
        """Return a label column as codes, int8 of shape (rows,), each distinct cell being looked at once.

        Cells that are neither 1, 0 nor unknown are noted as faults.

        Args:
            name: The column.
            uncertain: What the source writes for uncertain, see `labels.uncertain_codes`.
        """
        kind = self.table.column(name).type
        if pa.types.is_nested(kind):
            self.faults.add(f"column {name!r}", f"it holds {str(kind)[:100]}, which {NOT_A_LABEL}")
            return np.full(len(self), IGNORE_INDEX, dtype=np.int8)
        uniques, places = self.factorize(name)
        codes = np.full(len(uniques) + 1, IGNORE_INDEX, dtype=np.int8)
        wrong = np.zeros(len(uniques) + 1, dtype=bool)
        for i, value in enumerate(uniques):
            try:
                codes[i] = encode_value(value, uncertain)
            except HalflabelError:
                wrong[i] = True
        if wrong.any():
            self.faults.add_rows(
                np.flatnonzero(wrong[places]),
                lambda row: (self.where(row, name), f"label value {show(uniques[places[row]])} {NOT_A_LABEL}"),
            )
            if not (codes >= 0).any():
                self.faults.hint(f"if {name!r} is no label, {name_labels(self.path)}")
        return codes[places]

    def splits(self, name: str = "split") -> list[str]:
        """Return the split column by its standard names, "" where nothing is given; others are noted as faults."""
        values = self.texts(name)
        standard = {"": ""}
        for value in sorted(set(values) - {""}):
            try:
                standard[value] = check_split(value)
            except HalflabelError as error:
                text = str(error)
                wrong = [row for row, other in enumerate(values) if other == value]
                self.faults.add_rows(wrong, lambda row, text=text: (self.where(row, name), text))  # type: ignore[misc]
                standard[value] = ""
        return [standard[value] for value in values]


def _other_separator(names: Sequence[str]) -> str:
    """Tell a table whose cells stand apart by something else: it has one column, with that in its name."""
    found = next((mark for mark in (";", "\t", "|", ",") if len(names) == 1 and mark in names[0]), None)
    return "" if found is None else f"; the cells seem to be separated by {found!r}: a .csv has ',' there, a .tsv tabs"


def name_labels(path: Path) -> str:
    """Return how a source says which of its columns are labels, for the end of a message."""
    source = json.dumps({"path": str(path), "labels": ["cat", "dog"]}, ensure_ascii=False)
    return f"name the label columns by labels, with '{source}' as the source"


def _text(value: Any) -> str:  # noqa: ANN401 - a cell
    return "" if value is None or (isinstance(value, float) and np.isnan(value)) else str(value).strip()


def _decode(columns: Columns, name: str) -> pa.ChunkedArray:
    """Return a column of bytes as texts, and note the cells that are not UTF-8."""
    column = columns.table.column(name)
    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid:
        cells = column.to_pylist()
    texts = [None if cell is None else cell.decode("utf-8", "backslashreplace") for cell in cells]
    wrong = [row for row, cell in enumerate(cells) if cell is not None and not _is_utf8(cell)]
    columns.faults.add_rows(wrong, lambda row: (columns.where(row, name), f"{show(cells[row])} is not UTF-8"))
    return pa.chunked_array([pa.array(texts, pa.string())])


def _is_utf8(cell: bytes) -> bool:
    try:
        cell.decode()
    except UnicodeDecodeError:
        return False
    return True
