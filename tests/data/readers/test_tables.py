import csv
import datetime
import decimal
import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reading import error_of

from halflabel import HalflabelError
from halflabel.data.readers.tables import ENDINGS, Columns, column_names, read_columns, table_ending
from halflabel.data.source import Faults, Source
from halflabel.model.labels import uncertain_codes


def columns_of(**arrays):
    return Columns(Path("t"), pa.table(arrays), Faults("t"))


def message(columns):
    return error_of(columns.faults.raise_any)


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
    assert codes.tolist() == [1, 0, -100]
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
    told = ("row 1, column 'comment': label value 'blurred'", "row 2, column 'car': label value 'x'",
            "row 3, column 'comment': label value 'nice'")  # fmt: skip
    assert message(columns) == (
        "t, " + "; ".join(f"{one} is not 1, 0 or unknown (empty, NaN, -1)" for one in told) +
        "; if 'comment' is no label, name the label columns by labels, "
        """with '{"path": "t", "labels": ["cat", "dog"]}' as the source"""
    )  # fmt: skip


def test_texts_are_stripped_and_empty_where_there_is_nothing():
    columns = columns_of(x=pa.array([" a ", None, "b"]), n=pa.array([1, 2, None]), f=pa.array([0.5, np.nan, 2]))
    assert columns.texts("x") == ["a", "", "b"]
    assert columns.texts("n") == ["1", "2", ""]
    assert columns.texts("f") == ["0.5", "", "2.0"]
    assert columns.texts("no such column") == ["", "", ""]
    columns.faults.raise_any()
    columns = columns_of(x=pa.array([["a"]]))
    assert columns.texts("x") == [""]
    assert message(columns).startswith("t, column 'x': it holds list<")


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
    told = "t: no column 'file_name'; its columns are filename, x; did you mean filename?"
    assert error_of(columns_of(filename=["a"], x=["1"]).need, "x", "file_name") == told


def test_places_are_made_when_asked_for():
    asked = []
    columns = Columns(Path("t"), pa.table({"x": ["a", "b"]}), Faults("t"), lambda: asked.append(1) or [2, 5])
    assert not asked
    assert [columns.where(i, "x") for i in range(2)] == ["row 2, column 'x'", "row 5, column 'x'"]
    assert asked == [1]


ROWS = [("a.jpg", "1"), ("b.jpg", "0"), ("ü c.jpg", "")]


@pytest.fixture
def write(tmp_path):
    def write(content, ending=".csv"):
        path = tmp_path / f"t{ending}"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def names_of(path):
    return column_names(Source(str(path)))


def cells(path):
    columns = read_columns(path)
    columns.faults.raise_any()
    return list(zip(*(columns.texts(name) for name in columns.names), strict=True))


def fault(path):
    """The one line that reading a table's columns as texts raises."""
    try:
        columns = read_columns(path)
        for name in columns.names:
            columns.texts(name)
        columns.faults.raise_any()
    except HalflabelError as error:
        return str(error).replace(str(path), "PATH")
    return "no fault"


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_ending_gives_the_same_cells(tmp_path, ending):
    path = tmp_path / f"t{ending}"
    if ending == ".parquet":
        pa.parquet.write_table(pa.table({"x": [x for x, _ in ROWS], "y": [y or None for _, y in ROWS]}), path)
    elif ending == ".jsonl":
        path.write_text("\n".join(json.dumps({"x": x, "y": y}) for x, y in ROWS), encoding="utf-8")
    else:
        text = "\n".join(("\t" if "tsv" in ending else ",").join(row) for row in [("x", "y"), *ROWS])
        path.write_bytes(gzip.compress(text.encode()) if ending.endswith(".gz") else text.encode())
    assert names_of(path) == ["x", "y"]
    assert cells(path) == ROWS


@pytest.mark.parametrize(
    "text",
    [
        "x,y\r\na,1\r\nb,2\r\n",
        "x,y\ra,1\rb,2",
        "\ufeffx,y\na,1\nb,2\n",
        "\ufeff\r\n\r\nx,y\r\n\r\na,1\r\n\r\nb,2\r\n\r\n",
        '"x","y"\n"a","1"\n"b","2"\n',
        " x , y\na ,1\n b, 2\n",
    ],
)
def test_line_ends_marks_quotes_and_blanks_do_not_matter(write, text):
    assert cells(write(text)) == [("a", "1"), ("b", "2")]
    assert names_of(write(text)) == ["x", "y"]


def test_cells_are_kept_as_written(write):
    assert cells(write('x,y\n007,1e3\n"a, ""b""\nc",NULL\n')) == [("007", "1e3"), ('a, "b"\nc', "NULL")]
    text = '{"x": "a", "y": 1}\r\n\r\n{"x": "b"}\r\n'
    assert cells(write(f"\ufeff{text}", ".jsonl")) == [("a", "1"), ("b", "")]


def test_row_numbers_are_those_an_editor_shows(write, tmp_path):
    columns = read_columns(write('x,y\n\n"a\nb",1\nc,"2\n2"\n\n\nd,3\n'))
    assert list(columns.rows) == [3, 5, 9]
    assert columns.where(2, "y") == "row 9, column 'y'"
    assert list(read_columns(write('{"x": 1}\n\n{"x": 2}\n', ".jsonl")).rows) == [1, 3]
    assert list(read_columns(write("x,y\r\na,1\r\nb,2\r\n")).rows) == [2, 3]
    pa.parquet.write_table(pa.table({"x": ["a", "b"]}), tmp_path / "t.parquet")
    assert list(read_columns(tmp_path / "t.parquet").rows) == [1, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "PATH: the table is empty"),
        (b"\n\n", "PATH: the table is empty"),
        (b"\xef\xbb\xbf", "PATH: the table is empty"),
        (b"x,y\n", "PATH: the table has no rows"),
        (b"x,y,x\n1,2,3\n", "PATH, row 1: column 'x' is given twice"),
        (b"\nx, x\n1,2\n", "PATH, row 2: column 'x' is given twice"),
        (b"x,\xff\n1,2\n", "PATH, row 1: the column names are not UTF-8"),
        (b"x,y\0\n1,2\n", r"PATH, row 1: the column name 'y\x00' holds a control character"),
        (b"x,y\na,1\nb\nc,2,3\nd,4\n", "PATH, row 3: 1 cells, expected 2; row 4: 3 cells, expected 2"),
        (b'x,y\n"a\na",1\n\nb\n', "PATH, row 5: 1 cells, expected 2"),
        (b"x,y\nb\n", "PATH, row 2: 1 cells, expected 2"),
        (b"x,y\na,\xff\nb,2\nc\xe9,3\n", r"PATH, row 2, column 'y': b'\xff' is not UTF-8; "
                                         r"row 4, column 'x': b'c\xe9' is not UTF-8"),
        (b'x,y\na,"1\nb,2\nc,3\n', "PATH, row 2: a quote is opened and never closed"),
        (b'x,y\na,"1\nb,"2\nc,3\n', "PATH, row 2: a stray quote (',' expected after '\"')"),
        (b'x,y\na,"1"1\nb,2\n', "PATH, row 2: a stray quote (',' expected after '\"')"),
        (b'"x,y\na,1\n', "PATH, row 1: a quote is opened and never closed"),
        ("x,y\na,1\n".encode("utf-16"), "PATH, row 1: the column names are not UTF-8"),
    ],
)  # fmt: skip
def test_faults_of_csv(write, text, message):
    assert fault(write(text)) == message


def test_a_quote_that_swallows_rows_is_found_though_the_cells_come_out_even(write):
    text = 'x,y,note\na,1,"oops\nb,0,oops"\nc,1,fine\n'
    assert len(read_columns(write(text))) == 2  # one cell of two lines: legitimate
    assert "row 2: a stray quote" in fault(write('x,y,note\na,1,"oops\nb,0,"oops\nc,1,fine\n'))


def test_ragged_rows_leave_the_numbers_of_the_others_right(write):
    columns = read_columns(write("x,y\na,1\nb\nc,2\n"))
    assert columns.texts("x") == ["a", "c"]
    assert list(columns.rows) == [2, 4]
    assert len(columns.faults) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "PATH: the table has no rows"),
        (b'{"x": 1}\n{"x": }\n', "PATH, row 2: not JSON (Expecting value at character 7)"),
        (b'{"x": 1, "x": 2}\n', "PATH, row 1: the key 'x' is given twice"),
        (b'{"x": 1}\n[1]\n7\nnull\n', "PATH, row 2: [1] is no object {...}; row 3: 7 is no object {...}; "
                                      "row 4: None is no object {...}"),
        (b'{"x": 1}\n{"x": "\xff"}\n', "PATH, row 2: not UTF-8"),
        (b'{"x": "\\ud800"}\n', "PATH, row 1: a \\u escape is half a pair"),
        (b'{"x": ' + b"[" * 100_000 + b"\n", "PATH, row 1: nested too deeply"),
        (b'{"x": 1, " x": 2}\n', "PATH: column 'x' is given twice"),
        (b'{"x": 1' + b"0" * 5000 + b"}\n", "PATH, row 1: a number of too many digits"),
    ],
)  # fmt: skip
def test_faults_of_json_lines(write, text, message):
    assert fault(write(text, ".jsonl")) == message


def test_faults_of_parquet(tmp_path, write):
    pa.parquet.write_table(pa.table([pa.array([1]), pa.array([2])], names=["x", "x"]), tmp_path / "t.parquet")
    assert fault(tmp_path / "t.parquet") == "PATH: column 'x' is given twice"
    pa.parquet.write_table(pa.table({"x": pa.array([], pa.string())}), tmp_path / "t.parquet")
    assert fault(tmp_path / "t.parquet") == "PATH: the table has no rows"
    assert fault(write(b"nothing", ".parquet")).startswith("PATH: cannot be read as parquet (")


def test_folder_names_and_pandas_row_labels_are_no_columns(tmp_path):
    folder = tmp_path / "split=train"
    folder.mkdir()
    table = pa.table({"x": [1], "__index_level_0__": [5], "__index_level_zero__": [6]})
    pa.parquet.write_table(table, folder / "t.parquet")
    assert read_columns(folder / "t.parquet").names == ["x", "__index_level_zero__"]


def test_broken_archives(write):
    whole = gzip.compress(b"x,y\n" + b"a,1\n" * 1000)
    for content in (b"not gzipped", whole[:-20], whole[:30], whole[:20] + b"\xff" * 20 + whole[40:]):
        assert "PATH" in fault(write(content, ".csv.gz"))


def test_files_that_are_none(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    for name in ("no.csv", "folder.csv", "no.parquet", "x" * 300 + ".csv", "nul\0.csv"):
        assert fault(tmp_path / name) == "PATH: no such file"
        assert names_of(tmp_path / name) == []
    assert fault(tmp_path / "t.xlsx").startswith("PATH: a table ends in .csv, .csv.gz, ")


def test_endings_whatever_their_case():
    assert [table_ending(name) for name in ("A.CSV", "x/b.tsv.gz", "c.gz", "csv", "d.jsonl.gz")] == [
        ".csv", ".tsv.gz", "", "", ""
    ]  # fmt: skip


FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

SCRAPS = st.lists(
    st.sampled_from([b",", b"\n", b"\r", b'"', b"a", b"1", b"\0", b"\xff", b"\xef\xbb\xbf", b" "]), max_size=40
)


@FUZZ
@given(st.binary(max_size=60) | SCRAPS.map(b"".join))
def test_any_bytes_as_csv_are_what_the_standard_library_reads_or_one_line(tmp_path, content):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    names_of(path)
    line = ""
    try:
        columns = read_columns(path)
        assert all(len(columns.codes(name)) == len(columns) for name in columns.names)
        columns = read_columns(path)  # without the faults of labels
        found = [columns.texts(name) for name in columns.names]
        columns.faults.raise_any()
    except HalflabelError as error:
        line = str(error)
    if line:
        assert len(line.splitlines()) == 1
        assert line.startswith(str(path))
        return
    with path.open(encoding="utf-8-sig", newline="") as lines:
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines, strict=True) if row]
    assert [list(row) for row in zip(*found, strict=True)] == rows[1:]
    assert columns.names == rows[0]
    assert columns.rows == sorted(columns.find_rows())
    assert len(columns.find_rows()) == len(columns)
