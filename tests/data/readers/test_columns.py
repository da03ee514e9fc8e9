import datetime
import decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from halflabel import HalflabelError
from halflabel.data.readers.tables import Columns
from halflabel.data.source import Faults
from halflabel.model.labels import uncertain_codes


def columns_of(**arrays):
    return Columns(Path("t"), pa.table(arrays), Faults("t"))


def message(columns):
    with pytest.raises(HalflabelError) as error:
        columns.faults.raise_any()
    return str(error.value)


YES_NO_UNKNOWN = [1, 0, -100]


@pytest.mark.parametrize(
    "array",
    [
        pa.array(["1", "0", ""]), pa.array(["yes", "NO", "NaN"]), pa.array(["True", "false", "null"]),
        pa.array([1, 0, None]), pa.array([1, 0, -1], pa.int8()), pa.array([1.0, 0.0, np.nan]),
        pa.array([1, 0, None], pa.uint8()), pa.array([True, False, None]), pa.array(np.array([1, 0, -1], np.float16)),
        pa.array([decimal.Decimal("1.0"), decimal.Decimal("0.0"), None]), pa.array([b"1", b"0", b""]),
        pa.array(["1", "0", None], pa.large_string()), pa.array(["1", "0", None], pa.string_view()),
        pa.array(["1", "0", None]).dictionary_encode(),
        pa.chunked_array([pa.array(["1"]).dictionary_encode(), pa.array(["0", None]).dictionary_encode()]),
        pa.DictionaryArray.from_arrays(pa.array([0, 1, 2]), pa.array(["1", "0", None])),
    ],
    ids=lambda array: str(array.type),
)  # fmt: skip
def test_every_kind_of_cell(array):
    columns = columns_of(x=array)
    codes = columns.codes("x")
    columns.faults.raise_any()
    assert codes.tolist() == YES_NO_UNKNOWN
    assert codes.dtype == np.int8


def test_nothing_but_nulls_is_unknown():
    assert columns_of(x=pa.nulls(2)).codes("x").tolist() == [-100, -100]
    assert columns_of(x=pa.chunked_array([], pa.string())).codes("x").tolist() == []


def test_uncertain_goes_before_all_else():
    columns = columns_of(x=["-1", "-1.0", "?", "", "-101", "1"])
    assert columns.codes("x", uncertain_codes(["-1", "?"])).tolist() == [-101, -101, -101, -100, -101, 1]


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (pa.array([1, 2]), "row 2, column 'x': label value 2"),
        (pa.array([1.0, 0.5]), "row 2, column 'x': label value 0.5"),
        (pa.array(["1", "x" * 999]), "row 2, column 'x': label value 'xxxxx"),
        (pa.array([b"1", b"\xff"]), r"row 2, column 'x': b'\xff' is not UTF-8"),
        (pa.array([datetime.date(2000, 1, 1)]), "row 1, column 'x': label value datetime.date(2000, 1, 1)"),
        (pa.array([b"0" * 16], pa.uuid()), "row 1, column 'x': label value '3030"),
        (pa.array([[1], [0]]), "column 'x': it holds list<"),
        (pa.array([{"a": 1}]), "column 'x': it holds struct<a: int64>, which is not 1, 0 or unknown"),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_what_is_no_label_is_told(array, told):
    columns = columns_of(x=array)
    columns.codes("x")
    assert message(columns).startswith(f"t, {told}")
    assert len(columns.faults) == 1
    assert len(message(columns)) < 300


def test_a_column_that_answers_nothing_comes_with_a_hint():
    columns = columns_of(comment=["blurred", "", "nice"], car=["1", "x", "0"])
    columns.codes("comment")
    columns.codes("car")
    assert message(columns) == (
        "t, row 1, column 'comment': label value 'blurred' is not 1, 0 or unknown (empty, NaN, -1); "
        "row 2, column 'car': label value 'x' is not 1, 0 or unknown (empty, NaN, -1); "
        "row 3, column 'comment': label value 'nice' is not 1, 0 or unknown (empty, NaN, -1); "
        "if 'comment' is no label, name the label columns by labels, "
        """with '{"path": "t", "labels": ["cat", "dog"]}' as the source"""
    )


def test_texts_are_stripped_and_empty_where_there_is_nothing():
    columns = columns_of(x=pa.array([" a ", None, "b"]), n=pa.array([1, 2, None]), f=pa.array([0.5, np.nan, 2]))
    assert columns.texts("x") == ["a", "", "b"]
    assert columns.texts("n") == ["1", "2", ""]
    assert columns.texts("f") == ["0.5", "", "2.0"]
    assert columns.texts("no such column") == ["", "", ""]
    columns.faults.raise_any()
    assert columns_of(x=pa.array([["a"]])).texts("x") == [""]


def test_lists_are_no_texts():
    columns = columns_of(group=pa.array([["a"]]))
    columns.texts("group")
    assert message(columns).startswith("t, column 'group': it holds list<")


def test_splits_get_their_standard_names():
    columns = columns_of(split=["train", "VAL", "valid", "validate", "dev", "training", "Test ", "", None])
    assert columns.splits() == ["train", *["validation"] * 4, "train", "test", "", ""]
    assert len(columns.faults) == 0
    assert columns_of(x=["1"]).splits() == [""]


def test_what_is_no_split_is_told_with_the_nearest():
    columns = columns_of(split=["trian", "test", "trian"])
    assert columns.splits() == ["", "test", ""]
    one = "split 'trian' is none of train, validation, test; did you mean train?"
    assert message(columns) == f"t, row 1, column 'split': {one}; row 3, column 'split': {one}"


def test_a_missing_column_is_told_with_the_nearest():
    with pytest.raises(
        HalflabelError, match=r"t: no column 'file_name'; its columns are filename, x; did you mean filename"
    ):
        columns_of(filename=["a"], x=["1"]).need("x", "file_name")


def test_places_are_made_when_asked_for():
    asked = []

    def find_rows():
        asked.append(1)
        return [2, 5, 6]

    columns = Columns(Path("t"), pa.table({"x": ["a", "b", "c"]}), Faults("t"), find_rows)
    assert not asked
    assert columns.where(1, "x") == "row 5, column 'x'"
    assert columns.where(2, "x") == "row 6, column 'x'"
    assert asked == [1]
