"""The labels of a data set's columns: one column per label, a list of labels, or the class of each image."""

import logging
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ...model.errors import HalflabelError, did_you_mean, shortlist
from ...model.labels import IGNORE_INDEX, IntMatrix, encode_value, uncertain_codes
from ..images import ANSWER_COLUMNS, TEXT_COLUMNS
from ..source import Source, show
from .tables import Columns

log = logging.getLogger(__name__)

YES_NO = {"absent": 0, "present": 1, "negative": 0, "positive": 1}
"""Class names that say yes or no, beside the codes of a table."""

ClassNames = Mapping[str, list[str]]
"""Column (`objects.category` inside another) -> the names of its classes."""


def find_labels(source: Source, columns: Columns, classes: ClassNames) -> tuple[IntMatrix, list[str]]:
    """Read the labels of a data set; faults are noted in `columns`.

    What holds them is found out from the columns' kinds, or said by `label_column`:

    - `positive` and `negative` (and `uncertain`) lists, as shards of halflabel have: every answer.
    - One list of names or classes, also inside a column (`objects.category`): what is in it is yes; what is not is as
      `absent` says, which must be given. An empty cell is unknown altogether.
    - One class column and no other: yes for the image's class, no for every other one; an empty cell or -1 is unknown.
    - A column per label: 1, 0 or unknown, or a class named yes, no, present, absent, positive or negative.

    Args:
        source: Where they come from.
        columns: The columns without the pictures.
        classes: The names of the class columns.

    Returns:
        The codes, int8 of shape (rows, num_labels), and the label names.

    Raises:
        HalflabelError: If no column or several could hold the labels, or `absent` is missing.
    """
    lists = _find_lists(columns.table.schema, classes)
    if source.label_column is None and {"positive", "negative"} <= set(lists):
        return _read_answers(columns, classes, [name for name in ANSWER_COLUMNS if name in lists])
    others = {*TEXT_COLUMNS} - source.named_labels
    fields = columns.table.schema
    singles = [field.name for field in fields if field.name not in others and not pa.types.is_nested(field.type)]
    chosen = _choose(source, columns, classes, lists, singles)
    names = list(source.labels or singles)
    read = names if chosen is None else [_parts(columns, chosen)[0]]
    ignored = [name for name in columns.names if name not in (*others, *read)]
    if ignored:
        log.info("%s: not read: %s", source.title, shortlist(ignored))
    if chosen is None:
        return _read_columns(source, columns, classes, names)
    if chosen in lists:
        return _read_list(source, columns, chosen, classes.get(chosen))
    return _read_class(columns, chosen, classes.get(chosen))


def _find_lists(schema: pa.Schema, classes: ClassNames) -> list[str]:
    """Return the list columns that may hold labels: those of texts and classes, or else those of numbers."""
    found: dict[str, pa.DataType] = {}
    for field in schema:
        kind = field.type
        if _is_list(kind) and pa.types.is_struct(kind.value_type):
            found |= {f"{field.name}.{inner.name}": inner.type for inner in kind.value_type}
        elif pa.types.is_struct(kind):
            found |= {f"{field.name}.{inner.name}": inner.type.value_type for inner in kind if _is_list(inner.type)}
        elif _is_list(kind):
            found[field.name] = kind.value_type
    named = [name for name, kind in found.items() if name in classes or _is_text(kind)]
    return named or [name for name, kind in found.items() if pa.types.is_integer(kind) or pa.types.is_null(kind)]


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _choose(source: Source, columns: Columns, classes: ClassNames, lists: list[str], singles: list[str]) -> str | None:
    """Return the list or class column that holds the labels, None where there is a column per label."""
    if source.label_column is not None:
        choices = [*lists, *singles]
        if source.label_column in choices:
            return source.label_column
        nearest = did_you_mean(source.label_column, choices)
        raise HalflabelError(f"{source.title}: no label column {source.label_column!r}{nearest}")
    if source.labels and set(source.labels) <= set(singles):
        return None
    uncertain = uncertain_codes(source.uncertain_values)
    classy = [name for name in singles if name in classes and _yes_no(classes[name], uncertain) is None]
    answers = [name for name in singles if _is_answer(columns, name, classes) and name not in classy]
    holders = [*lists, *classy, *(answers[:1] if lists or classy else ())]
    if len(holders) > 1 or (classy and len(singles) > 1):
        found = shortlist(dict.fromkeys([*lists, *classy, *answers, *singles]), 8)
        raise HalflabelError(
            f"{source.title}: several columns may hold the labels ({found}): "
            "say which by label_column, or name the columns of single labels by labels"
        )
    if not holders and not singles:
        kinds = [f"{f.name} ({f.type})" for f in columns.table.schema if f.name not in TEXT_COLUMNS]
        raise HalflabelError(f"{source.title}: no label columns{' in ' if kinds else ''}{shortlist(kinds)}")
    return holders[0] if holders else None


def _is_answer(columns: Columns, name: str, classes: ClassNames) -> bool:
    """Tell whether a column can be nothing but answers to one question."""
    return name in classes or bool(pa.types.is_boolean(columns.table.schema.field(name).type))


def _yes_no(names: list[str], uncertain: Collection[str]) -> list[int] | None:
    """Return the code of each class, None where one says neither yes, no nor unknown."""
    codes = []
    for name in names:
        try:
            word = name.strip().lower()
            codes.append(YES_NO[word] if word in YES_NO else encode_value(name, uncertain))
        except HalflabelError:
            return None
    return codes


def _parts(columns: Columns, column: str) -> tuple[str, str]:
    """Return a column's name, and that of the one inside it or ""."""
    outer, _, inner = (column, "", "") if column in columns.names else column.partition(".")
    return outer, inner


def _elements(columns: Columns, column: str) -> tuple[NDArray[np.int64], pa.Array, NDArray[np.bool_]]:
    """Return the row and the value of every element of a list column, and which rows have a list."""
    outer, inner = _parts(columns, column)
    lists = columns.table.column(outer).combine_chunks()
    if inner and pa.types.is_struct(lists.type):
        lists = pc.struct_field(lists, inner)
    lengths = pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False)
    rows = np.repeat(np.arange(len(lists)), lengths)
    values = pc.list_flatten(lists)
    if pa.types.is_struct(values.type):
        values = pc.struct_field(values, inner)
    return rows, values, lists.is_valid().to_numpy(zero_copy_only=False)


def _places(
    columns: Columns, column: str, rows: NDArray[np.int64], values: pa.Array, names: list[str] | None
) -> tuple[NDArray[np.int64], list[str]]:
    """Return which label each value is, -1 for one that is none, which is noted; and the labels' names.

    With `names` given, numbers are their places; without, the names are the values found, in order.
    """
    encoded = values.dictionary_encode()
    uniques = encoded.dictionary.to_pylist()
    indices = encoded.indices.fill_null(len(uniques)).to_numpy(zero_copy_only=False)
    numbers = pa.types.is_integer(values.type)
    if names is not None and numbers:
        known = [int(value) if 0 <= value < len(names) else -1 for value in uniques]
    else:
        texts = [str(value).strip() for value in uniques]
        names = names or sorted({*texts} - {""}, key=int if numbers else None)
        place = {name: i for i, name in enumerate(names)}
        known = [place.get(text, -1) for text in texts]
    if not names:
        raise HalflabelError(f"{columns.path}: column {column!r} names no label")
    places = np.array([*known, -1], dtype=np.int64)[indices]
    told = [*uniques, None]
    columns.faults.add_rows(
        np.flatnonzero(places < 0),
        lambda i: (columns.where(int(rows[i]), column), f"{show(told[indices[i]])} is no label"),
    )
    return places, names


def _read_answers(columns: Columns, classes: ClassNames, found: list[str]) -> tuple[IntMatrix, list[str]]:
    lists = {name: _elements(columns, name) for name in found}
    if "positive" in classes:
        names = classes["positive"]
        if any(classes.get(name) != names for name in found):
            raise HalflabelError(f"{columns.path}: the columns {' and '.join(found)} have different labels")
    else:
        found_values = {value for _, values, _ in lists.values() for value in pc.unique(values).to_pylist()}
        names = sorted({str(value).strip() for value in found_values - {None}} - {""})
    matrix = np.full((len(columns), len(names)), IGNORE_INDEX, dtype=np.int8)
    for name, (rows, values, _) in lists.items():
        values = values if name in classes else values.cast(pa.string())
        places, _ = _places(columns, name, rows, values, names)
        _answer(columns, name, matrix, rows[places >= 0], places[places >= 0], names)
    return matrix, names


def _answer(
    columns: Columns,
    name: str,
    matrix: IntMatrix,
    rows: NDArray[np.int64],
    places: NDArray[np.int64],
    names: Sequence[str],
) -> None:
    """Write the answer of a list column into the matrix, and note entries that have another one already."""
    before = matrix[rows, places]
    clash = np.flatnonzero((before != IGNORE_INDEX) & (before != ANSWER_COLUMNS[name]))
    columns.faults.add_rows(
        clash, lambda i: (columns.where(int(rows[i]), name), f"{names[places[i]]!r} has another answer already")
    )
    matrix[rows, places] = ANSWER_COLUMNS[name]


def _read_list(source: Source, columns: Columns, column: str, names: list[str] | None) -> tuple[IntMatrix, list[str]]:
    if source.absent is None:
        raise HalflabelError(
            f"{source.title}: column {column!r} lists what is there; "
            "say what a label not listed means by absent: negative, or absent: unknown"
        )
    rows, values, listed = _elements(columns, column)
    places, names = _places(columns, column, rows, values, names)
    matrix = np.full((len(columns), len(names)), IGNORE_INDEX, dtype=np.int8)
    if source.absent == "negative":
        matrix[listed] = 0
    matrix[rows[places >= 0], places[places >= 0]] = 1
    return matrix, names


def _read_class(columns: Columns, column: str, names: list[str] | None) -> tuple[IntMatrix, list[str]]:
    values = columns.table.column(column).combine_chunks()
    if names is not None:  # -1 is how the library writes that a class is not known
        values = pc.if_else(pc.equal(values, -1), None, values)
    elif _is_text(values.type):
        values = pc.if_else(pc.equal(pc.utf8_trim_whitespace(values), ""), None, values)
    rows = np.flatnonzero(values.is_valid().to_numpy(zero_copy_only=False))
    places, names = _places(columns, column, rows, values.drop_null(), names)
    matrix = np.full((len(columns), len(names)), IGNORE_INDEX, dtype=np.int8)
    rows, places = rows[places >= 0], places[places >= 0]
    matrix[rows] = 0
    matrix[rows, places] = 1
    return matrix, names


def _read_columns(
    source: Source, columns: Columns, classes: ClassNames, names: list[str]
) -> tuple[IntMatrix, list[str]]:
    have = set(columns.names)
    missing = next((name for name in names if name not in have), None)
    if missing is not None:
        raise HalflabelError(f"{source.title}: no label column {missing!r}{did_you_mean(missing, columns.names)}")
    uncertain = uncertain_codes(source.uncertain_values)
    matrix = np.empty((len(columns), len(names)), dtype=np.int8)
    for i, name in enumerate(names):
        if name in classes:
            matrix[:, i] = _read_yes_no(columns, name, classes[name], uncertain)
        else:
            matrix[:, i] = columns.codes(name, uncertain)
    return matrix, names


def _read_yes_no(columns: Columns, name: str, classes: list[str], uncertain: Collection[str]) -> IntMatrix:
    """Return the codes of a class column whose classes are answers, shape (rows,)."""
    codes = _yes_no(classes, uncertain)
    if codes is None:
        told = shortlist(map(repr, classes))
        text = f"its classes ({told}) do not say yes or no; as label_column it makes a label of each"
        columns.faults.add(f"column {name!r}", text)
        return np.full(len(columns), IGNORE_INDEX, dtype=np.int8)
    numbers = columns.table.column(name).combine_chunks().fill_null(-1).to_numpy(zero_copy_only=False)
    known = (numbers >= -1) & (numbers < len(codes))  # -1 is how the library writes that a class is not known
    columns.note(np.flatnonzero(~known), name, lambda row: f"{numbers[row]} is no class")
    chosen: IntMatrix = np.array([*codes, IGNORE_INDEX], dtype=np.int8)[np.where(known, numbers, -1)]
    return chosen
