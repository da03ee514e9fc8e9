from functools import partial

import pytest
from reading import error_of, write_files

from halflabel.data.loading import READERS, parse_sources
from halflabel.data.source import FEW, SHOWN, Faults, Source, leaves_folder, locate_images, parse_source, show


def test_a_path_alone_is_a_source():
    assert parse_source("x.csv") == Source("x.csv")
    assert parse_source(Source("x.csv")) == Source("x.csv")
    assert Source("x.csv").title == "x.csv"
    assert Source("x.csv", name="X").title == "X"


def test_every_key_of_a_mapping():
    given = {
        "path": "p", "format": "table", "name": "n", "image_folder": "i", "labels": ["a", 1],
        "label_map": {"a": "b", "c": None}, "absent": "unknown", "uncertain_values": [-1, "?"], "split": "val",
        "image_column": "im", "label_column": "objects.c", "descriptions": "d.csv", "allow_outside": True,
    }  # fmt: skip
    source = parse_source(given)
    assert (source.labels, source.uncertain_values, source.split) == (("a", "1"), ("-1", "?"), "validation")
    for key in set(given) - {"labels", "uncertain_values", "split"}:
        assert getattr(source, key) == given[key]
    empty = dict.fromkeys(("labels", "uncertain_values", "label_map", "split"))
    assert parse_source({"path": "p", **empty}) == Source("p")  # null is the default


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (7, "data: 7 is neither a path nor a mapping with a path"),
        ({}, "data: the source {} has no 'path'"),
        ({"path": ""}, "data: the source {'path': ''} has no 'path'"),
        ({"path": 3}, "data: the source {'path': 3} has no 'path'"),
        ({"path": "p", "lables": ["a"]}, "data: unknown key 'lables' of a source; did you mean labels, "),
        ({"path": "p", 3: 4}, "data: unknown key 3 of a source"),
        ({"path": "p", "labels": "car"}, "data: labels of p is 'car', expected a list"),
        ({"path": "p", "labels": 5}, "data: labels of p is 5, expected a list"),
        ({"path": "p", "uncertain_values": -1}, "data: uncertain_values of p is -1, expected a list"),
        ({"path": "p", "label_map": ["a"]}, "data: label_map of p is ['a'], expected a mapping"),
        ({"path": "p", "label_map": {False: "a"}}, "data: label_map of p has False: 'a', expected names (quote "),
        ({"path": "p", "label_map": {"a": True}}, "data: label_map of p has 'a': True, expected names"),
        ({"path": "p", "allow_outside": "no"}, "data: allow_outside of p is 'no', expected true or false"),
        ({"path": "p", "image_folder": 5}, "data: image_folder of p is 5, expected a text"),
        ({"path": "p", "split": 1}, "data: split of p is 1, expected a text"),
        ({"path": "p", "split": "trian"}, "split 'trian' is none of train, validation, test; did you mean train?"),
        ({"path": "p", "format": "tabel"},
         f"source p: format 'tabel' is none of street_scenes, {', '.join(READERS)}; did you mean table"),
        ({"path": "p", "absent": "no"}, "source p: absent 'no' is none of negative, unknown"),
        ({"path": "p", "absent": False}, "data: absent of p is False, expected a text"),
        ({"path": "p", "missing_images": "skpi"},
         "source p: missing_images 'skpi' is none of error, skip; did you mean skip?"),
    ],
)  # fmt: skip
def test_mappings_that_are_none(given, message):
    assert error_of(parse_sources, [given]).startswith(message)


def message(faults):
    return error_of(faults.raise_any)


def test_without_a_fault_nothing_is_raised():
    faults = Faults("t.csv")
    faults.hint("never told")
    faults.raise_any()
    assert len(faults) == 0


WHOLE = ("", "it is wrong")
LATE, EARLY = ("row 10, column 'car'", "late"), ("row 9", "early")
CELL = [("row 2, column 'car'", "not UTF-8"), ("row 2, column 'car'", "not a label"), ("row 2", "a"), ("row 2", "b")]


@pytest.mark.parametrize(
    ("added", "told"),
    [
        ([WHOLE], "t.csv: it is wrong; a hint"),
        ([LATE, EARLY, ("column 'dog'", "of no row")],
         "t.csv, column 'dog': of no row; row 9: early; row 10, column 'car': late; a hint"),
        (CELL, "t.csv, row 2, column 'car': not UTF-8; row 2: a; row 2: b; a hint"),  # only the first of a cell
    ],
)  # fmt: skip
def test_faults_are_told_in_the_order_of_rows_in_one_line(added, told):
    faults = Faults("t.csv")
    for where, text in added:
        faults.add(where, text)
        faults.hint("a hint")
    assert message(faults) == told


@pytest.mark.parametrize(
    ("count", "rest"), [(SHOWN, ""), (SHOWN + 1, "; and 1 more fault"), (300, "; and 280 more faults")]
)
def test_twenty_are_shown_and_the_rest_counted(count, rest):
    one_by_one, at_once = Faults("t"), Faults("t")
    for row in range(count):
        one_by_one.add(f"row {row + 2}", "x" * row)
    at_once.add_rows(range(count), lambda row: (f"row {row + 2}", "x" * row))
    assert len(one_by_one) == len(at_once) == count
    assert message(one_by_one) == message(at_once)
    assert message(at_once) == "t, " + "; ".join(f"row {row + 2}: {'x' * row}" for row in range(SHOWN)) + rest


def test_of_one_kind_five_are_shown_so_that_others_are_seen():
    faults = Faults("t")
    faults.add_rows(range(80), lambda row: (f"row {row + 2}, column 'who'", f"label value 'ann {row}' is wrong"))
    faults.add("row 90, column 'split'", "it is none of train, validation, test")
    shown = message(faults)
    assert shown.count("label value") == 5
    assert "'ann 4'" in shown
    assert shown.endswith("; row 90, column 'split': it is none of train, validation, test; and 75 more faults")


def test_the_first_rows_are_shown_whichever_column_they_were_found_in():
    faults = Faults("t")
    for column in ("a", "b"):
        faults.add_rows(range(100), lambda row, column=column: (f"row {row + 2}, column {column!r}", "x"))
    shown = message(faults)
    assert shown.count("row 2,") == shown.count("row 6,") == 2
    assert "row 7," not in shown
    assert shown.endswith("; and 190 more faults")


def test_a_long_value_is_shortened():
    assert show("ab") == "'ab'"
    assert len(show("x" * 100_000)) < 200
    assert "\n" not in show("a\nb")


@pytest.mark.parametrize(
    "name",
    ["../a.jpg", "x/../../a.jpg", "/a.jpg", "..", "..\\a.jpg", "x\\..\\..\\a.jpg", "\\a.jpg", "C:\\a.jpg", "c:a.jpg",
     "C:/a.jpg", "\\\\server\\share\\a.jpg", "//server/share/a.jpg"],
)  # fmt: skip
def test_names_that_leave_the_folder(name):
    assert leaves_folder(name)


@pytest.mark.parametrize(
    "name", ["a.jpg", "x/a.jpg", "a..jpg", "..a.jpg", "x/...jpg", "12:30.jpg", "", "ä b.jpg", "~a.jpg"]
)
def test_names_that_stay(name):
    assert not leaves_folder(name)


@pytest.mark.parametrize("count", [2, FEW + 5])
def test_images_are_located_in_small_and_in_large_folders(tmp_path, count):
    names = [f"deep/{i}.jpg" for i in range(count)]
    write_files(tmp_path, dict.fromkeys(names[1:], ""))
    faults = Faults("t.csv")
    paths = locate_images(tmp_path, names, "row {}".format, faults)
    assert paths == [str(tmp_path / name) for name in names]
    assert message(faults) == f"t.csv, row 0: no image 'deep/0.jpg' in {tmp_path}; is image_folder right?"


def test_a_folder_is_no_image(tmp_path):
    (tmp_path / "a.jpg").mkdir()
    faults = Faults("t")
    names = ["a.jpg", "", "a.jpg/b.jpg", "nul\0.jpg", "x" * 5000, "y" * 5000 + "/a.jpg"]
    locate_images(tmp_path, names, "row {}".format, faults)
    assert len(faults) == 6


def test_outside_only_where_it_is_allowed(tmp_path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "a.jpg").touch()
    locate = partial(locate_images, tmp_path / "inner", where="row {}".format)
    for name in ("../a.jpg", str(tmp_path / "a.jpg")):
        refused, allowed = Faults("t"), Faults("t")
        locate([name], faults=refused)
        assert f"row 0: {name!r} leaves the image folder {tmp_path / 'inner'}" in message(refused)
        (path,) = locate([name], faults=allowed, allow_outside=True)
        allowed.raise_any()
        assert (tmp_path / "a.jpg").samefile(path)
