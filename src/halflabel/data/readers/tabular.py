"""Tables of every kind become columns: CSV, TSV (also gzipped), Parquet and JSON lines."""

import contextlib
import csv
import functools
import gzip
import json
import os
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from ...model.errors import HalflabelError, nearest_file, reason_of
from .columns import Columns
from .faults import Faults, show
from .json_lines import parse_json_lines

ENDINGS = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet", ".jsonl")
BLOCK = 1 << 24
_UNREADABLE = (ValueError, OSError, EOFError, zlib.error, csv.Error, pa.ArrowException)


def table_ending(path: str | Path) -> str:
    """Return which of `ENDINGS` a file name has, "" where it has none."""
    name = os.path.basename(path).lower()  # noqa: PTH119 - of a text or a path
    return next((ending for ending in ENDINGS if name.endswith(ending)), "")


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
    with _told(path, ending):
        if ending == ".parquet":
            columns = Columns(path, _read_parquet(path), Faults(path))
        elif ending == ".jsonl":
            columns = _read_json_lines(path)
        else:
            columns = _read_separated(path, _separator(ending))
        names = _check_names(path, columns.names)
        columns = replace(columns, table=columns.table.rename_columns(names))
    if not len(columns):
        columns.faults.raise_any()
        raise HalflabelError(f"{path}: the table has no rows")
    return columns


def column_names(path: Path) -> list[str]:
    """Return the column names of a table, of JSON lines those of the first; none where reading it would fail."""
    ending = table_ending(path)
    try:
        if ending == ".parquet":
            names = pa.parquet.read_schema(path).names
        elif ending == ".jsonl":
            with path.open(encoding="utf-8-sig", errors="replace") as lines:
                names = list(json.loads(next((line for line in lines if line.strip()), "{}")))
        else:
            names = _read_header(path, _separator(ending))[0]
    except (*_UNREADABLE, TypeError, RecursionError):
        return []
    return [str(name).strip() for name in names]


@contextlib.contextmanager
def _told(path: Path, ending: str) -> Iterator[None]:
    """Turn what a parser raises into one line."""
    try:
        yield
    except HalflabelError:
        raise
    except _UNREADABLE as error:
        raise HalflabelError(f"{path}: cannot be read as {ending[1:]} ({reason_of(error, first_line=True)})") from error


def _separator(ending: str) -> str:
    return "\t" if ending.startswith(".tsv") else ","


def _check_names(path: Path, given: Sequence[str], where: str = "") -> list[str]:
    names = [name.strip() for name in given]
    for name, count in Counter(names).items():
        if count > 1:
            raise HalflabelError(f"{path}{where}: column {show(name)} is given twice")
        if any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") for letter in name):
            raise HalflabelError(f"{path}{where}: the column name {show(name)} holds a control character")
    return names


def _read_parquet(path: Path) -> pa.Table:
    table = pa.parquet.ParquetFile(path).read()  # read_table would take folder names like split=train for columns
    table.validate(full=True)  # a damaged file may hold texts that are not UTF-8
    row_labels = re.compile(r"__index_level_\d+__")  # of a pandas table; they are no column
    return table.select([i for i, name in enumerate(table.column_names) if not row_labels.fullmatch(name)])


def _read_json_lines(path: Path) -> Columns:
    faults = Faults(path)
    table, rows = parse_json_lines(path, faults)
    return Columns(path, table, faults, lambda: rows)


def _read_separated(path: Path, separator: str) -> Columns:
    header, line = _read_header(path, separator)
    names = _check_names(path, header, f", row {line}")
    faults = Faults(path)
    places = [str(i) for i in range(len(names))]  # the header is read as a row, so that no cell's kind is guessed
    try:
        table = pyarrow.csv.read_csv(
            str(path),
            read_options=pyarrow.csv.ReadOptions(column_names=places, block_size=BLOCK),
            parse_options=pyarrow.csv.ParseOptions(delimiter=separator, newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(places, pa.binary()), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid:  # mostly for rows that are not whole: find them all
        return _read_slowly(path, separator, names, faults)
    find_rows = functools.cache(lambda: [line for line, _ in _whole_rows(path, separator, len(names), faults)])
    if _holds_quote(path):
        find_rows()  # notes what is wrong with the quotes
    return Columns(path, table.slice(1).rename_columns(names), faults, find_rows)


def _read_slowly(path: Path, separator: str, names: Sequence[str], faults: Faults) -> Columns:
    rows: list[int] = []
    cells: list[list[bytes]] = [[] for _ in names]
    for line, row in _whole_rows(path, separator, len(names), faults):
        rows.append(line)
        for column, cell in zip(cells, row, strict=True):
            column.append(cell.encode("utf-8", "surrogateescape"))
    table = pa.table([pa.array(column, pa.binary()) for column in cells], names)
    return Columns(path, table, faults, lambda: rows)


def _whole_rows(path: Path, separator: str, width: int, faults: Faults) -> Iterator[tuple[int, list[str]]]:
    """Give the data rows with the right number of cells, each with the line it begins in, and note the others.

    pyarrow takes a quote that is never closed, or is closed inside a cell, for a cell that goes on over the next rows.

    Raises:
        HalflabelError: On such a quote; what follows it cannot be told apart.
    """
    records = _records(path, separator)
    next(records)  # the header
    for line, cells, wrong in records:
        if wrong:
            faults.add(f"row {line}", wrong)
            faults.raise_any()
        elif len(cells) != width:
            faults.add(f"row {line}", f"{len(cells)} cells, expected {width}")
        else:
            yield line, cells


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
