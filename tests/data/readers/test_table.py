import gzip
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from halflabel import HalflabelError
from halflabel.data.images import write_table
from halflabel.data.loading import load_images, read_wide
from halflabel.data.source import Source


@pytest.fixture
def folder(tmp_path):
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    return tmp_path


ROWS = [
    {"file_name": "a.jpg", "car": 1, "dog": None, "split": "train", "group": "x"},
    {"file_name": "b.jpg", "car": 0, "dog": 1, "split": "test", "group": "y"},
    {"file_name": "c.jpg", "car": None, "dog": 0, "split": "val", "group": "x"},
]
MATRIX = [[1, -100], [0, 1], [-100, 0]]


def write(folder, ending, rows=ROWS):
    path, frame = folder / f"t.{ending}", pd.DataFrame(rows)
    if ending == "csv":
        frame.to_csv(path, index=False)
    elif ending == "tsv":
        frame.to_csv(path, index=False, sep="\t")
    elif ending.endswith(".gz"):
        text = frame.to_csv(index=False, sep="\t" if "tsv" in ending else ",")
        path.write_bytes(gzip.compress(text.encode()))
    elif ending == "parquet":
        frame.to_parquet(path)
    else:
        path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


@pytest.mark.parametrize("ending", ["csv", "tsv", "csv.gz", "tsv.gz", "parquet", "jsonl"])
def test_every_format_gives_the_same(folder, ending):
    images = load_images(write(folder, ending))
    assert images.labels.tolist() == MATRIX
    assert images.label_space.names == ("car", "dog")
    assert images.column("split").tolist() == ["train", "test", "validation"]
    assert images.column("group").tolist() == ["x", "y", "x"]
    assert images.dataset[0]["image"] == {"bytes": None, "path": str(folder / "a.jpg")}


def test_only_the_asked_labels_in_the_asked_order(folder):
    assert load_images(write(folder, "csv"), labels=["dog"]).labels.tolist() == [[-100], [1], [0]]


def test_pictures_may_lie_in_images_or_elsewhere(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    table = other / "t.csv"
    table.write_text("file_name,car\na.jpg,1\n")
    with pytest.raises(HalflabelError, match=r"t\.csv, row 2, column 'file_name': no image 'a\.jpg'"):
        load_images(table)
    assert len(load_images(table, image_folder=folder)) == 1
    (other / "images").mkdir()
    Image.new("RGB", (8, 8)).save(other / "images" / "a.jpg")
    assert len(load_images(table)) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file_name,car\na.jpg,1\nb.jpg,2\n", "row 3, column 'car': label value '2'"),
        (
            "file_name,car\na.jpg,1\nb.jpg,x\nc.jpg,y\n",
            r"row 3, column 'car': label value 'x'.*; row 4, column 'car': label value 'y'",
        ),
        ("file_name,car\na.jpg,1\nz.jpg,0\n", "row 3, column 'file_name': no image 'z.jpg'"),
        ("file_name,car,split\na.jpg,1,train\na.jpg,1,test\n", r"row 3.*already in row 2 \(train and test\)"),
        ("file_name,car,split\na.jpg,1,trian\n", "row 2, column 'split'.*did you mean train"),
        ("filename,car\na.jpg,1\n", "no column 'file_name'.*did you mean filename"),
        ("file_name,car,car\na.jpg,1,1\n", "'car' is given twice"),
        ("file_name,car\n", "no rows"),
        ("", "empty"),
        ("file_name,split\na.jpg,train\n", "no label columns"),
        ("file_name,car\n,1\n", "row 2.*it is empty"),
        ("file_name,car\n../a.jpg,1\n", "leaves the image folder"),
        (
            "file_name,car\na.jpg,1,2,3\nb.jpg\nz.jpg,x\n",
            "row 2: 4 cells, expected 2; row 3: 1 cells, expected 2; row 4, "
            "column 'car': label value 'x'.*; row 4, column 'file_name': no image 'z.jpg'",
        ),
        ("file_name,car\na.jpg,1\na.jpg,1\n", r"t\.csv, row 3, column 'file_name': 'a.jpg' is already in row 2$"),
        ("file_name,car\na.jpg,1\n./a.jpg,1\n", r"row 3, column 'file_name': './a.jpg' is already in row 2$"),
        ("file_name,car,split\na.jpg,1,\na.jpg,1,test\n", r"row 3.*already in row 2 \(none and test\)"),
        ("file_name,car\nA.jpg,1\n", "no image 'A.jpg' in"),
        ("file_name, car ,car\na.jpg,1,1\n", "row 1: column 'car' is given twice"),
        (",file_name,car\n0,a.jpg,1\n", r"column 1 has no name; take it out \(pandas: index=False\), or name"),
        ("file_name;car\na.jpg;1\n", "the cells seem to be separated by ';': a .csv has ',' there, a .tsv tabs"),
        (
            "file_name,comment\na.jpg,sharp\nb.jpg,\n",
            "row 2, column 'comment': label value 'sharp'.*"
            "; if 'comment' is no label, name the label columns by labels",
        ),
    ],
)
def test_faults_name_file_row_and_column(folder, text, message):
    (folder / "t.csv").write_text(text)
    with pytest.raises(HalflabelError, match=message) as error:
        load_images(folder / "t.csv")
    assert "t.csv" in str(error.value)
    assert "\n" not in str(error.value)


def test_wrong_label_column_shows_the_nearest(folder):
    with pytest.raises(HalflabelError, match="no label column 'cars'; did you mean car"):
        load_images({"path": str(write(folder, "csv")), "labels": ["cars"]})


FAULTY = [
    {"file_name": "a.jpg", "car": 1},
    {"file_name": "b.jpg", "car": 0.5},
    {"file_name": "gone.jpg", "car": 0},
]


@pytest.mark.parametrize(("ending", "first"), [("csv", 2), ("tsv", 2), ("csv.gz", 2), ("parquet", 1), ("jsonl", 1)])
def test_faults_are_told_alike_in_every_format(folder, ending, first):
    path = write(folder, ending, FAULTY)
    shown = "0.5" if ending == "parquet" else "'0.5'"
    with pytest.raises(HalflabelError) as error:
        load_images(path)
    assert str(error.value) == (
        f"{path}, row {first + 1}, column 'car': label value {shown} is not 1, 0 or unknown (empty, NaN, -1); "
        f"row {first + 2}, column 'file_name': no image 'gone.jpg' in {folder}; is image_folder right?"
    )


OUTSIDE = ["../{0}/a.jpg", "{1}/a.jpg", "x/../../{0}/a.jpg"]


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
@pytest.mark.parametrize("name", [*OUTSIDE, "..\\\\{0}\\\\a.jpg", "C:\\\\a.jpg"])
def test_paths_that_leave_the_folder_are_refused(folder, ending, name):
    name = name.format(folder.name, folder)
    path = write(folder, ending, [{"file_name": name, "car": 1}])
    with pytest.raises(HalflabelError) as error:
        load_images(path)
    assert f"column 'file_name': {name!r} leaves the image folder {folder}" in str(error.value)


@pytest.mark.parametrize("name", OUTSIDE)
def test_paths_may_leave_the_folder_where_that_is_allowed(folder, name):
    (folder / "x").mkdir()
    path = write(folder, "csv", [{"file_name": name.format(folder.name, folder), "car": 1}])
    images = read_wide(Source(str(path), allow_outside=True))
    assert (folder / "a.jpg").samefile(images.dataset[0]["image"]["path"])


def test_every_code_of_a_cell(folder):
    yes, no = ["1", "1.0", "true", "TRUE", "yes", "Yes"], ["0", "0.0", "false", "False", "no", "NO"]
    unknown = ["", "nan", "NaN", "null", "None", "-1", "-1.0", "NA", "n/a", " "]
    text = "file_name,a,b,c\n" + "".join(
        f"{i}.jpg,{yes[i % 6]},{no[i % 6]},{unknown[i]}\n" for i in range(len(unknown))
    )
    for i in range(len(unknown)):
        (folder / f"{i}.jpg").touch()
    (folder / "t.csv").write_text(text)
    assert load_images(folder / "t.csv").labels.tolist() == [[1, 0, -100]] * 10


def test_an_image_nobody_annotated_stays(folder):
    (folder / "t.csv").write_text("file_name,car,dog\na.jpg,,\nb.jpg,1,0\n")
    assert load_images(folder / "t.csv").labels.tolist() == [[-100, -100], [1, 0]]


def test_mixed_cells_of_json_lines(folder):
    cells = [1, "yes", True, 0, "no", False, None, -1, "", 0.5, {"a": 1}, [1], "maybe", 2, 1.0]
    for i in range(len(cells)):
        (folder / f"{i}.jpg").touch()
    rows = [{"file_name": f"{i}.jpg", "car": cell} for i, cell in enumerate(cells)]
    good = [row for row in rows if row["car"] not in (0.5, {"a": 1}, [1], "maybe", 2)]
    path = write(folder, "jsonl", good)
    assert load_images(path).labels[:, 0].tolist() == [1, 1, 1, 0, 0, 0, -100, -100, -100, 1]
    path = write(folder, "jsonl", rows)
    with pytest.raises(HalflabelError) as error:
        load_images(path)
    wrong = {10: "0.5", 11: '{"a": 1}', 12: "[1]", 13: "maybe", 14: "2"}
    told = [
        f"row {row}, column 'car': label value {cell!r} is not 1, 0 or unknown (empty, NaN, -1)"
        for row, cell in wrong.items()
    ]
    assert str(error.value) == f"{path}, " + "; ".join(told)


def test_a_key_that_a_json_line_lacks_is_unknown(folder):
    path = write(
        folder, "jsonl", [{"file_name": "a.jpg"}, {"car": 1, "file_name": "b.jpg"}, {"file_name": "c.jpg", "dog": 0}]
    )
    images = load_images(path)
    assert images.label_space.names == ("car", "dog")
    assert images.labels.tolist() == [[-100, -100], [1, -100], [-100, 0]]


def test_rows_are_numbered_as_in_an_editor(folder):
    (folder / "x,\ny.jpg").touch()
    (folder / "t.csv").write_text('file_name,car\r\n"x,\ny.jpg",1\r\n\r\nb.jpg,2\r\n')
    with pytest.raises(HalflabelError, match=r"t\.csv, row 5, column 'car': label value '2'"):
        load_images(folder / "t.csv")
    (folder / "t.csv").write_text('file_name,car\r\n"x,\ny.jpg",1\r\n\r\nb.jpg,0\r\n')
    assert load_images(folder / "t.csv").column("file_name").tolist() == ["x,\ny.jpg", "b.jpg"]


def test_a_hundred_faults_in_one_line(folder):
    (folder / "t.csv").write_text("file_name,car\n" + "".join(f"{i}.jpg,x\n" for i in range(100)))
    with pytest.raises(HalflabelError) as error:
        load_images(folder / "t.csv")
    assert str(error.value).count("label value 'x'") == 5
    assert str(error.value).count("no image") == 5
    assert "; and 190 more faults; if 'car' is no label" in str(error.value)


def test_the_label_names_are_checked_with_the_file_named(folder):
    (folder / "t.csv").write_text("file_name,car\na.jpg,1\n")
    with pytest.raises(HalflabelError, match=r"t\.csv: label names given more than once: car"):
        load_images({"path": str(folder / "t.csv"), "labels": ["car", "car"]})


def test_other_columns_may_hold_anything_where_labels_are_named(folder):
    (folder / "t.csv").write_bytes(b"file_name,note,car\na.jpg,\xff\0,1\nb.jpg,,0\n")
    assert load_images(folder / "t.csv", labels=["car"]).labels.tolist() == [[1], [0]]
    with pytest.raises(HalflabelError, match=r"row 2, column 'note': b'\\xff\\x00' is not UTF-8"):
        load_images(folder / "t.csv")


def test_a_wide_table_becomes_parquet_and_comes_back_the_same(folder):
    text = (
        "file_name,stop sign,car,ä,split,group,source\n"
        "a.jpg,1,?,,train,g1,team 1\nb.jpg,0,,?,test,,\nimages/c.jpg,,?,0,val,g1,team 2\nd.jpg,,,,,,\n"
    )
    (folder / "images").mkdir()
    for name in ("d.jpg", "images/c.jpg"):
        (folder / name).touch()
    (folder / "t.csv").write_text(text, encoding="utf-8")
    images = load_images(folder / "t.csv", uncertain_values=["?"])
    assert images.labels.tolist() == [[1, -101, -100], [0, -100, -101], [-100, -101, 0], [-100, -100, -100]]
    again = load_images(folder / "new" / "t.parquet", write_table(images, folder / "new" / "t.parquet"))
    assert again.label_space == images.label_space
    assert again.labels.tolist() == images.labels.tolist()
    assert again.dataset.features == images.dataset.features
    assert again.dataset[:] == images.dataset[:]
    once_more = load_images(folder / "t2.parquet", write_table(again, folder / "t2.parquet"))
    first, second = (pa.parquet.read_table(folder / name) for name in ("new/t.parquet", "t2.parquet"))
    assert first.equals(second)
    assert once_more.dataset[:] == images.dataset[:]


CODES = st.sampled_from([1, 0, -100, -101])


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(CODES, CODES), min_size=1, max_size=3), st.sampled_from(["csv", "parquet", "jsonl"]))
def test_any_answers_come_back_from_any_format(folder, answers, ending):
    cell = {1: 1, 0: 0, -100: None, -101: "?" if ending != "parquet" else -101}
    rows = [{"file_name": f"{'abc'[i]}.jpg", "x": cell[x], "y": cell[y]} for i, (x, y) in enumerate(answers)]
    images = load_images(write(folder, ending, rows), uncertain_values=["?"])
    assert images.labels.tolist() == [list(row) for row in answers]
    again = load_images(folder / "again.parquet", write_table(images, folder / "again.parquet"))
    assert np.array_equal(again.labels, images.labels)


WORDS = ["file_name", "split", "a.jpg", "b.jpg", "../a.jpg", "1", "x", ",", ",", "\n", "\n", '"', "\0", "é"]


def rows_or_line(path):
    try:
        return len(load_images(path)), ""
    except HalflabelError as error:
        return 0, str(error)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(WORDS), max_size=25).map("".join))
def test_any_table_gives_images_or_one_line(folder, text):
    (folder / "t.csv").write_text("file_name,car\n" + text)
    rows, line = rows_or_line(folder / "t.csv")
    assert len(line.splitlines()) == (0 if rows else 1)
    assert rows or line.startswith(str(folder / "t.csv"))


@pytest.mark.parametrize("name", ["none.csv", "t.xlsx", "streetscenes", "bad.parquet", "bad.jsonl"])
def test_sources_that_are_none(folder, name):
    (folder / "bad.parquet").write_bytes(b"nothing")
    (folder / "bad.jsonl").write_text("{nothing")
    with pytest.raises(HalflabelError):
        load_images(str(folder / name) if "." in name else name)


def test_limits_take_the_first_of_each_split(folder):
    images = load_images(str(write(folder, "csv")), max_train_images=1, max_test_images=0)
    assert images.column("split").tolist() == ["train", "validation"]


def test_the_road_sign_table(road_signs):
    images = load_images(road_signs)
    test = images.of_split("test")
    assert (len(images), len(test)) == (877, 264)
    assert (test.labels == 1).sum(axis=0).tolist() == [31, 27, 206, 52]


def test_declared_cells_are_uncertain(folder):
    (folder / "u.csv").write_text("file_name,car\na.jpg,-1\nb.jpg,\n")
    assert load_images(folder / "u.csv").labels.tolist() == [[-100], [-100]]
    assert load_images(folder / "u.csv", uncertain_values=["-1"]).labels.tolist() == [[-101], [-100]]
