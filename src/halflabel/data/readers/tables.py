"""Tables become columns: CSV, TSV (also gzipped), Parquet, JSON lines and data frames; a fault names the cell's row."""

import contextlib
import csv
import gzip
import json
import os
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from ...model.errors import HalflabelError, did_you_mean, nearest_file, reason_of, shortlist
from ...model.labels import IGNORE_INDEX, IntMatrix, encode_value
from ..images import check_split
from ..source import Faults, Source, check_origins, name_labels, show

ENDINGS = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet", ".jsonl")
BLOCK = 1 << 24
NOT_A_LABEL = "is not 1, 0 or unknown (empty, NaN, -1)"
_UNREADABLE = (ValueError, OSError, EOFError, zlib.error, csv.Error, pa.ArrowException)


@dataclass(frozen=True)
class Columns:
    """A table: its cells are looked at once each, and have the place that an editor shows.

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

    def note(self, rows: Iterable[int], column: str, tell: Callable[[int], str]) -> None:
        """Note what is wrong with these rows' cells of a column, as `Faults.add_rows` does."""
        self.faults.add_rows(rows, lambda row: (self.where(row, column), tell(row)))

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
            column = self._decode(name)
        try:  # by chunks, as the texts of all may be too many for one
            encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        except pa.ArrowNotImplementedError:  # a kind of cell that pyarrow has no means to compare
            texts = [None if cell is None else str(cell) for cell in column.to_pylist()]
            encoded = pa.array(texts, pa.string()).dictionary_encode()
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.combine_chunks()
        places = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        return encoded.dictionary.to_pylist(), places

    def _decode(self, name: str) -> pa.ChunkedArray:
        """Return a column of bytes as texts, and note the cells that are not UTF-8."""
        column = self.table.column(name)
        with contextlib.suppress(pa.ArrowInvalid):
            return column.cast(pa.string())
        cells = column.to_pylist()
        texts = [None if cell is None else cell.decode("utf-8", "backslashreplace") for cell in cells]
        pairs = enumerate(zip(cells, texts, strict=True))
        wrong = [row for row, (cell, text) in pairs if text is not None and text.encode() != cell]
        self.note(wrong, name, lambda row: f"{show(cells[row])} is not UTF-8")
        return pa.chunked_array([pa.array(texts, pa.string())])

    def _is_nested(self, name: str, told: str) -> bool:
        """Tell whether a column holds lists or objects, and note that it should not."""
        kind = self.table.column(name).type
        if pa.types.is_nested(kind):
            self.faults.add(f"column {name!r}", f"it holds {str(kind)[:100]}, {told}")
        return bool(pa.types.is_nested(kind))

    def texts(self, name: str) -> list[str]:
        """Return a column as stripped texts, "" for an empty cell; all "" where there is no such column."""
        if name not in self.names or self._is_nested(name, "expected texts"):
            return [""] * len(self)
        uniques, places = self.factorize(name)
        words = ["" if value is None or value != value else str(value).strip() for value in uniques]  # NaN is empty
        texts: list[str] = np.array([*words, ""], dtype=object)[places].tolist()
        return texts

    def origins(self, name: str, source: Source) -> list[str]:
        """Return the column `group` or `source` as `texts` does, all "" where the user calls it a label."""
        return [""] * len(self) if name in source.named_labels else self.texts(name)

    def check_origins(self, source: Source, labels: Collection[str]) -> None:
        """Note columns that hold nothing but answers and are no labels, see `source.check_origins`."""
        words = {name: set(self.texts(name)) for name in {"group", "source"}.intersection(self.names)}
        check_origins(source, self.names, labels, words, self.faults)

    def codes(self, name: str, uncertain: Collection[str] = ()) -> IntMatrix:
        """Return a label column as codes, int8 of shape (rows,), each distinct cell being looked at once.

        Cells that are neither 1, 0 nor unknown are noted as faults.

        Args:
            name: The column.
            uncertain: What the source writes for uncertain, see `labels.uncertain_codes`.
        """
        if self._is_nested(name, f"which {NOT_A_LABEL}"):
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
            rows = np.flatnonzero(wrong[places])
            self.note(rows, name, lambda row: f"label value {show(uniques[places[row]])} {NOT_A_LABEL}")
            if not (codes >= 0).any():
                self.faults.hint(f"if {name!r} is no label, {name_labels(self.path)}")
        return codes[places]

    def splits(self, name: str = "split") -> list[str]:
        """Return the split column by its standard names, "" where nothing is given; others are noted as faults."""
        values = self.texts(name)
        standard, wrong = {"": ""}, dict[str, str]()
        for value in sorted(set(values) - {""}):
            try:
                standard[value] = check_split(value)
            except HalflabelError as error:
                wrong[value] = str(error)
        rows = [row for row, value in enumerate(values) if value in wrong]
        self.note(rows, name, lambda row: wrong[values[row]])
        return [standard.get(value, "") for value in values]


def _other_separator(names: Sequence[str]) -> str:
    """Tell a table whose cells stand apart by something else: it has one column, with that in its name."""
    found = next((mark for mark in (";", "\t", "|", ",") if len(names) == 1 and mark in names[0]), None)
    return "" if found is None else f"; the cells seem to be separated by {found!r}: a .csv has ',' there, a .tsv tabs"


def table_ending(path: str | Path) -> str:
    """Return which of `ENDINGS` a file name has, "" where it has none."""
    name = os.path.basename(path).lower()  # noqa: PTH119 - of a text or a path
    return next((ending for ending in ENDINGS if name.endswith(ending)), "")


def open_table(source: Source) -> Columns:
    """Read the table of a source, a file or a data frame; see `read_columns`."""
    path = Path(source.path)
    if not isinstance(source.content, pd.DataFrame):
        return read_columns(path)
    cells = [_frame_column(source.content.iloc[:, i]) for i in range(source.content.shape[1])]
    names = _check_names(path, map(str, source.content.columns))
    return _not_empty(Columns(path, pa.table(cells, names), Faults(path)))


def read_columns(path: Path) -> Columns:
    """Read a table. Column names lose spaces around them; rows that are not whole are left out and noted as faults.

    Returns:
        The columns, with the faults found so far; whoever reads them raises these together with its own.

    Raises:
        HalflabelError: On another ending, a file that is not there, not of its format or without a row, or a column
            name given twice.
    """
    ending = table_ending(path)
    if not ending:
        raise HalflabelError(f"{path}: a table ends in {', '.join(ENDINGS)}")
    if not os.path.isfile(path):  # noqa: PTH113 - which knows what to do with a name that is too long
        raise HalflabelError(f"{path}: no such file{nearest_file(path)}")
    try:
        if ending == ".parquet":
            columns = Columns(path, _read_parquet(path), Faults(path))
        elif ending == ".jsonl":
            columns = _read_json_lines(path)
        else:
            columns = _read_separated(path, _separator(ending))
        names = _check_names(path, columns.names)
    except HalflabelError:
        raise
    except _UNREADABLE as error:
        raise HalflabelError(f"{path}: cannot be read as {ending[1:]} ({reason_of(error, first_line=True)})") from error
    return _not_empty(replace(columns, table=columns.table.rename_columns(names)))


def column_names(source: Source) -> list[str]:
    """Return the column names of a table, of JSON lines those of the first; none where reading it would fail."""
    if isinstance(source.content, pd.DataFrame):
        return [str(name).strip() for name in source.content.columns]
    path, ending = Path(source.path), table_ending(source.path)
    try:
        if ending == ".parquet":
            names = pa.parquet.read_schema(path).names
        elif ending == ".jsonl":
            with path.open(encoding="utf-8-sig", errors="replace") as lines:
                names = list(json.loads(next((line for line in lines if line.strip()), "{}")))
        else:
            names = _read_header(path, _separator(ending))[0] if ending else []
    except (*_UNREADABLE, TypeError, RecursionError):
        return []
    return [str(name).strip() for name in names]


def _not_empty(columns: Columns) -> Columns:
    if not len(columns):
        columns.faults.raise_any()
        raise HalflabelError(f"{columns.path}: the table has no rows")
    return columns


def _check_names(path: Path, given: Iterable[str], where: str = "") -> list[str]:
    names = [name.strip() for name in given]
    for name, count in Counter(names).items():
        if count > 1:
            raise HalflabelError(f"{path}{where}: column {show(name)} is given twice")
        if any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") for letter in name):
            raise HalflabelError(f"{path}{where}: the column name {show(name)} holds a control character")
    return names


def _frame_column(values: "pd.Series[Any]") -> pa.Array | pa.ChunkedArray:
    """Return a column of a data frame; cells of several kinds, and paths, become texts."""
    try:
        return pa.array(values, from_pandas=True)
    except (pa.ArrowException, ValueError, TypeError):
        cells = zip(values, values.notna(), strict=True)
        return pa.array([str(cell).encode("utf-8", "surrogatepass") if given else None for cell, given in cells])


def _read_parquet(path: Path) -> pa.Table:
    table = pa.parquet.ParquetFile(path).read()  # read_table would take folder names like split=train for columns
    table.validate(full=True)  # a damaged file may hold texts that are not UTF-8
    row_labels = re.compile(r"__index_level_\d+__")  # of a pandas table; they are no column
    return table.select([i for i, name in enumerate(table.column_names) if not row_labels.fullmatch(name)])


def _read_json_lines(path: Path) -> Columns:
    """Read one object a line. Every cell keeps what it says, as text; a column of lists or of objects alone is kept."""
    faults, records, rows = Faults(path), list[dict[str, Any]](), list[int]()
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    records.append(_parse_object(line.decode("utf-8-sig" if number == 1 else "utf-8")))
                    rows.append(number)
                except (ValueError, RecursionError) as error:
                    faults.add(f"row {number}", _reason_of_json(error))
    names = dict.fromkeys(key for record in records for key in record)
    table = pa.table({name: _json_column([record.get(name) for record in records]) for name in names})
    return Columns(path, table, faults, lambda: rows)


def _parse_object(text: str) -> dict[str, Any]:
    record = json.loads(text, object_pairs_hook=_unique)
    if not isinstance(record, dict):
        raise ValueError(f"{show(record)} is no object {{...}}")
    if "\\u" in text:  # half a pair of escapes passes json, and nothing that writes text
        json.dumps(record, ensure_ascii=False).encode()
    return record


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    repeated = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
    if repeated:
        raise ValueError(f"the key {show(repeated[0])} is given twice")
    return dict(pairs)


def _reason_of_json(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON ({error.msg} at character {error.colno})"
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8"
    if isinstance(error, UnicodeEncodeError):
        return "a \\u escape is half a pair"
    if "integer string conversion" in str(error):
        return "a number of too many digits"
    return "nested too deeply" if isinstance(error, RecursionError) else reason_of(error, first_line=True)


def _json_column(values: Sequence[Any]) -> pa.Array:
    if {type(value) for value in values} - {type(None)} in ({list}, {dict}):
        with contextlib.suppress(pa.ArrowException, ValueError, OverflowError):  # elements of several kinds
            return pa.array(values)
    texts = [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
    return pa.array(texts, pa.string())


def _separator(ending: str) -> str:
    return "\t" if ending.startswith(".tsv") else ","


def _read_separated(path: Path, separator: str) -> Columns:
    header, line = _read_header(path, separator)
    names, faults = _check_names(path, header, f", row {line}"), Faults(path)
    # pyarrow is fast, but would take a quote that is never closed for a cell that goes on over the next rows.
    if not _holds_quote(path):
        with contextlib.suppress(pa.ArrowInvalid):  # mostly for rows that are not whole: all are found below
            table = _read_plain(path, separator, len(names))
            return Columns(path, table.rename_columns(names), faults, lambda: _row_numbers(path, separator, faults))
    rows, cells = list[int](), [list[bytes]() for _ in names]
    records = _records(path, separator)
    next(records)  # the header
    for line, row, wrong in records:
        if wrong:
            faults.add(f"row {line}", wrong)
            faults.raise_any()  # what follows cannot be told apart
        elif len(row) != len(names):
            faults.add(f"row {line}", f"{len(row)} cells, expected {len(names)}")
        else:
            rows.append(line)
            for column, cell in zip(cells, row, strict=True):
                column.append(cell.encode("utf-8", "surrogateescape"))
    return Columns(path, pa.table([pa.array(column, pa.binary()) for column in cells], names), faults, lambda: rows)


def _read_plain(path: Path, separator: str, width: int) -> pa.Table:
    places = [str(i) for i in range(width)]  # the header is read as a row, so that no cell's kind is guessed
    kinds = dict.fromkeys(places, pa.binary())
    return pyarrow.csv.read_csv(
        str(path),
        read_options=pyarrow.csv.ReadOptions(column_names=places, block_size=BLOCK),
        parse_options=pyarrow.csv.ParseOptions(delimiter=separator),
        convert_options=pyarrow.csv.ConvertOptions(column_types=kinds, strings_can_be_null=False),
    ).slice(1)


def _row_numbers(path: Path, separator: str, faults: Faults) -> list[int]:
    numbers = []
    for line, _, wrong in _records(path, separator):
        if wrong:  # a cell too long to be any, which pyarrow reads
            faults.add(f"row {line}", wrong)
            faults.raise_any()
        numbers.append(line)
    return numbers[1:]


def _records(path: Path, separator: str) -> Iterator[tuple[int, list[str], str]]:
    """Give each record of a file: the line it begins in, its cells, and what is wrong with its quotes."""
    with _open(path) as lines:
        reader = csv.reader(lines, delimiter=separator, strict=True)
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield line, [], _quote_fault(str(error))
                return
            if cells:  # an empty line is no record
                yield line, cells, ""


def _quote_fault(said: str) -> str:
    if "unexpected end" in said:
        return "a quote is opened and never closed"
    if "field limit" in said:
        return f"a cell of more than {csv.field_size_limit()} characters, or a quote that is never closed"
    return f"a stray quote ({said})"


def _open(path: Path) -> TextIO:
    """Open for csv: line ends as they are, and bytes that are not UTF-8 so that they can be had back."""
    if path.name.lower().endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline="")
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")


def _read_header(path: Path, separator: str) -> tuple[list[str], int]:
    """Return the cells of the first row that is not empty, and its line."""
    for line, cells, wrong in _records(path, separator):
        if wrong:
            raise HalflabelError(f"{path}, row {line}: {wrong}")
        try:
            "".join(cells).encode()
        except UnicodeEncodeError as error:
            raise HalflabelError(f"{path}, row {line}: the column names are not UTF-8") from error
        return cells, line
    raise HalflabelError(f"{path}: the table is empty")


def _holds_quote(path: Path) -> bool:
    with gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb") as content:
        return any(b'"' in block for block in iter(lambda: content.read(BLOCK), b""))
