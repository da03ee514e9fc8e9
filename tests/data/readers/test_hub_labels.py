from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import reading

from halflabel.data.readers.hub_labels import find_labels
from halflabel.data.readers.tables import Columns
from halflabel.data.source import Faults, Source

X, U = -100, -101
CLASSES = pa.list_(pa.int64())


def find(table, classes=None, **keys):
    """Return the label names and the matrix that are found in a table."""
    columns = Columns(Path("t"), pa.table(table), Faults("t"))
    matrix, names = find_labels(Source("t", **keys), columns, classes or {})
    columns.faults.raise_any()
    assert matrix.dtype == np.int8
    return list(names), matrix.tolist()


def error_of(table, classes=None, **keys):
    return reading.error_of(find, table, classes, **keys)


TAGS = [["dog", "car"], [], ["car", "car"], None]
SAY_ABSENT = (
    "t: column 'tags' lists what is there; say what a label not listed means by absent: negative, or absent: unknown"
)


@pytest.mark.parametrize(
    ("column", "classes", "names"),
    [
        (pa.array(TAGS), {}, ["car", "dog"]),
        (pa.array(TAGS, pa.large_list(pa.large_string())), {}, ["car", "dog"]),
        (pa.array([[3, 0], [], [0, 0], None], CLASSES), {"tags": ["car", "x", "y", "dog"]}, ["car", "x", "y", "dog"]),
        (pa.array([[10, 9], [], [9, 9], None], CLASSES), {}, ["9", "10"]),
        (pa.array([["dog ", "car"], [], [" car", "car"], None]), {}, ["car", "dog"]),
    ],
)
@pytest.mark.parametrize(("absent", "code"), [("negative", 0), ("unknown", X)])
def test_a_list_of_what_is_there(column, classes, names, absent, code):
    first, last = [code] * len(names), [X] * len(names)
    rows = [first.copy(), first.copy(), first.copy(), last]
    rows[0][0] = rows[0][-1] = rows[2][0] = 1
    assert find({"tags": column}, classes, absent=absent) == (names, rows)
    if not classes and names[0] == "car":
        assert error_of({"tags": column}) == SAY_ABSENT


def test_a_list_whose_empty_cells_hide_elements():
    """Arrow allows a null list to span elements; they are not its own."""
    offsets = pa.array([0, 2, 3, 3], pa.int32())
    lists = pa.ListArray.from_arrays(offsets, pa.array(["a", "b", "a"]), mask=pa.array([True, False, False]))
    assert find({"tags": lists}, absent="negative") == (["a"], [[X], [1], [0]])


DETECTIONS = [{"category": [1, 1, 0], "id": [7, 8, 9]}, {"category": [], "id": []}, {"category": [1], "id": [3]}]
LISTED = [[dict(zip(row, pair, strict=True)) for pair in zip(*row.values(), strict=True)] for row in DETECTIONS]


@pytest.mark.parametrize("objects", [DETECTIONS, LISTED], ids=["struct of lists", "list of structs"])
def test_classes_of_objects_as_detection_sets_have_them(objects):
    table, classes = {"image_id": [5, 6, 7], "objects": pa.array(objects)}, {"objects.category": ["person", "bike"]}
    matrix = [[1, 1], [0, 0], [0, 1]]
    assert find(table, classes, absent="negative") == (["person", "bike"], matrix)
    # without class names both columns of numbers could be it
    assert error_of(table, absent="negative").startswith("t: several columns may hold the labels (objects.")
    assert find(table, absent="negative", label_column="objects.category") == (["0", "1"], matrix)


def test_one_class_for_each_image():
    classes = {"label": ["cat", "dog", "owl"]}
    matrix = [[0, 0, 1], [1, 0, 0], [X] * 3, [X] * 3]
    assert find({"label": [2, 0, None, -1]}, classes) == (["cat", "dog", "owl"], matrix)
    table = {"kind": ["dog", "", None, "cat"], "sharp": [1, 0, 1, 0]}
    assert find(table, label_column="kind") == (["cat", "dog"], [[0, 1], [X, X], [X, X], [1, 0]])


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["no", "yes"], [0, 1, X, X]),
        (["yes", "no"], [1, 0, X, X]),
        (["0", "1"], [0, 1, X, X]),
        (["Absent", "Present"], [0, 1, X, X]),
        (["positive", "negative"], [1, 0, X, X]),
    ],
)
def test_classes_that_say_yes_and_no(names, expected):
    table = {"a": [0, 1, None, -1], "b": [True, False, None, True]}
    matrix = [list(row) for row in zip(expected, [1, 0, X, 1], strict=True)]
    assert find(table, {"a": names}) == (["a", "b"], matrix)
    assert find({"a": [0, 1, None, -1]}, {"a": names}) == (["a"], [[code] for code in expected])


def test_a_third_class_may_be_unknown_or_uncertain():
    classes = {"a": ["no", "yes", "?"], "b": ["", "no", "yes"]}
    assert find({"a": [0, 1, 2], "b": [0, 1, 2]}, classes, uncertain_values=("?",)) == (
        ["a", "b"], [[0, X], [1, 0], [U, 1]]
    )  # fmt: skip


def test_a_column_for_each_label():
    table = {"file_name": ["a", "b"], "split": ["train", "test"], "group": ["", ""], "source": ["", ""],
             "car": [1, None], "dog": ["no", "yes"], "cat": [True, False], "owl": [0.0, -1.0]}  # fmt: skip
    assert find(table) == (["car", "dog", "cat", "owl"], [[1, 0, 1, 0], [X, 1, 0, X]])
    assert find(table, labels=("owl", "car")) == (["owl", "car"], [[0, 1], [X, X]])


def test_named_columns_are_taken_whatever_else_there_is():
    table = {"tags": [["a"]], "kind": [0], "car": [1], "boxes": [[[0.5]]]}
    classes = {"kind": ["x", "y", "z"]}
    assert find(table, classes, labels=("car",)) == (["car"], [[1]])
    assert find(table, classes, label_column="tags", absent="negative") == (["a"], [[1]])
    assert find(table, classes, label_column="kind") == (["x", "y", "z"], [[1, 0, 0]])


@pytest.mark.parametrize(
    ("table", "classes", "found"),
    [
        ({"tags": [["a"]], "words": [["b"]]}, {}, "tags, words"),
        ({"tags": [["a"]], "car": [True]}, {}, "tags, car"),
        ({"tags": [["a"]], "kind": [0]}, {"kind": ["x", "y", "z"]}, "tags, kind"),
        ({"kind": [0], "image_id": [17]}, {"kind": ["x", "y", "z"]}, "kind, image_id"),
        ({"kind": [0], "hue": [0]}, {"kind": ["x", "y", "z"], "hue": ["red", "blue"]}, "kind, hue"),
    ],
)
def test_several_columns_that_may_hold_the_labels(table, classes, found):
    assert error_of(table, classes, absent="negative") == (
        f"t: several columns may hold the labels ({found}): "
        "say which by label_column, or name the columns of single labels by labels"
    )


def test_columns_that_hold_no_labels():
    assert error_of({"split": ["train"]}) == "t: no label columns"
    assert error_of({"boxes": [[[0.5]]], "size": [{"w": 1}]}) == (
        "t: no label columns in boxes (list<item: list<item: double>>), size (struct<w: int64>)"
    )
    assert error_of({"car": [1]}, labels=("cars",)) == "t: no label column 'cars'; did you mean car?"
    assert error_of({"car": [1]}, label_column="cra") == "t: no label column 'cra'; did you mean car?"


LISTS, NEGATIVE = pa.array([["a"], [None], [""]]), {"absent": "negative"}
NUMBERS = {"positive": pa.array([[0, 4]], CLASSES), "negative": pa.array([[1]], CLASSES)}


@pytest.mark.parametrize(
    ("table", "classes", "keys", "message"),
    [
        ({"tags": LISTS}, {}, NEGATIVE,
         ", row 2, column 'tags': None is no label; row 3, column 'tags': '' is no label"),
        ({"tags": pa.array([[0], [2], [-1]], CLASSES)}, {"tags": ["a", "b"]}, NEGATIVE,
         ", row 2, column 'tags': 2 is no label; row 3, column 'tags': -1 is no label"),
        ({"tags": pa.array([[], None], pa.list_(pa.string()))}, {}, NEGATIVE, ": column 'tags' names no label"),
        ({"tags": pa.array([[], []])}, {}, NEGATIVE, ": column 'tags' names no label"),
        ({"label": [3]}, {"label": ["cat", "dog", "owl"]}, {}, ", row 1, column 'label': 3 is no label"),
        ({"positive": [["a"], ["b", "a"]], "negative": [["b"], ["a"]]}, {}, {},
         ", row 2, column 'negative': 'a' has another answer already"),
        (NUMBERS, dict.fromkeys(NUMBERS, ["a", "b"]), {}, ", row 1, column 'positive': 4 is no label"),
        (NUMBERS, {"positive": ["a", "b"], "negative": ["a", "c"]}, {},
         ": the columns positive and negative have different labels"),
        ({"positive": [["a", None]], "negative": [[""]]}, {}, {},
         ", row 1, column 'positive': None is no label; row 1, column 'negative': '' is no label"),
        ({"a": [1, 2, 0], "b": ["x", "1", "0"], "c": [0, 5, -2], "d": [0, 0, 0]},
         {"c": ["no", "yes"], "d": ["red", "blue"]}, {"labels": ("a", "b", "c", "d")},
         ", column 'd': its classes ('red', 'blue') do not say yes or no; as label_column it makes a label of each; "
         "row 1, column 'b': label value 'x' is not 1, 0 or unknown (empty, NaN, -1); "
         "row 2, column 'a': label value 2 is not 1, 0 or unknown (empty, NaN, -1); row 2, column 'c': 5 is no class; "
         "row 3, column 'c': -2 is no class"),
    ],
)  # fmt: skip
def test_faults_are_told_at_once(table, classes, keys, message):
    assert error_of(table, classes, **keys) == f"t{message}"


def test_names_that_look_like_something_else():
    assert find({"positive": [["None"]], "negative": [["a.b"]]}) == (["None", "a.b"], [[1, 0]])
    assert find({"my.tags": [["None"], []]}, absent="negative") == (["None"], [[1], [0]])


@pytest.mark.parametrize("kind", ["classes", "names"])
def test_lists_of_every_answer(kind):
    lists = {
        "positive": [["a"], [], ["c", "b"], None],
        "negative": [["b", "c"], None, [], ["a"]],
        "uncertain": [[], ["a"], [], ["c"]],
    }
    matrix = [[1, 0, 0], [U, X, X], [X, 1, 1], [0, X, U]]
    if kind == "names":
        assert find(lists) == (["a", "b", "c"], matrix)
        del lists["uncertain"]
        assert find(lists) == (["a", "b", "c"], [[1, 0, 0], [X, X, X], [X, 1, 1], [0, X, X]])
        return
    numbers = {
        name: pa.array([None if row is None else ["cba".index(label) for label in row] for row in rows], CLASSES)
        for name, rows in lists.items()
    }
    assert find(numbers, dict.fromkeys(lists, ["c", "b", "a"])) == (["c", "b", "a"], [row[::-1] for row in matrix])


def test_what_is_not_read_is_told(caplog):
    """A list goes before columns that may be anything."""
    with caplog.at_level("INFO", logger="halflabel"):
        table = {"tags": [["a"]], "image_id": [1], "boxes": [[[0.5]]], "split": ["train"]}
        assert find(table, absent="negative") == (["a"], [[1]])
    assert caplog.messages == ["t: not read: image_id, boxes"]
