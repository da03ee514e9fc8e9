"""JSON lines: one object a line; every cell keeps what it says, whatever else its column holds."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from ...model.errors import reason_of
from .faults import Faults, show


def parse_json_lines(path: Path, faults: Faults) -> tuple[pa.Table, list[int]]:
    """Read the objects of a file; a key that an object lacks is an empty cell.

    Args:
        path: The file.
        faults: Where to note lines that hold no object, or a key twice.

    Returns:
        The cells as texts (a column of lists or of objects alone keeps its structure), and the line of each row.
    """
    cells: dict[str, list[Any]] = {}
    rows: list[int] = []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                record = _parse(line, first=number == 1)
            except (ValueError, RecursionError) as error:
                faults.add(f"row {number}", _reason(error))
                continue
            rows.append(number)
            for key in [key for key in record if key not in cells]:  # in their order
                cells[key] = [None] * (len(rows) - 1)
            for key, column in cells.items():
                column.append(record.get(key))
    return pa.table({name: _column(column) for name, column in cells.items()}), rows


def _parse(line: bytes, first: bool) -> dict[str, Any]:
    text = line.decode("utf-8-sig" if first else "utf-8")
    record = DECODER.decode(text)
    if not isinstance(record, dict):
        raise ValueError(f"{show(record)} is no object {{...}}")
    if "\\u" in text:  # half a pair of escapes passes json, and nothing that writes text
        json.dumps(record, ensure_ascii=False).encode()
    return record


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {show(next(key for key in keys if keys.count(key) > 1))} is given twice")
    return record


DECODER = json.JSONDecoder(object_pairs_hook=_unique)


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON ({error.msg} at character {error.colno})"
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8"
    if isinstance(error, UnicodeEncodeError):
        return "a \\u escape is half a pair"
    if "integer string conversion" in str(error):
        return "a number of too many digits"
    return "nested too deeply" if isinstance(error, RecursionError) else reason_of(error, first_line=True)


def _column(values: Sequence[Any]) -> pa.Array:
    kinds = {type(value) for value in values} - {type(None)}
    if kinds in ({list}, {dict}):
        try:
            return pa.array(values)
        except (pa.ArrowException, ValueError, OverflowError):
            pass  # elements of several kinds
    return pa.array([_text(value) for value in values], pa.string())


def _text(value: Any) -> str | None:  # noqa: ANN401 - a JSON value
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value)
