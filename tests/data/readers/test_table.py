import gzip
import json
from functools import partial

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
import reading
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reading import check, draw, error_of, write_files

from halflabel.data.images import write_table
from halflabel.data.loading import load_images
from halflabel.data.readers.label_files import read_wide
from halflabel.data.source import Source

fault = partial(reading.fault, read_wide)
NO_LABEL = "is not 1, 0 or unknown (empty, NaN, -1)"


@pytest.fixture
def folder(tmp_path):
    return draw(tmp_path, "a.jpg", "b.jpg", "c.jpg")


ROWS = [
    {"file_name": "a.jpg", "car": 1, "dog": None, "split": "train", "group": "x"},
    {"file_name": "b.jpg", "car": 0, "dog": 1, "split": "test", "group": "y"},
    {"file_name": "c.jpg", "car": None, "dog": 0, "split": "val", "group": "x"},
]
MATRIX = [[1, -100], [0, 1], [-100, 0]]


def write(folder, ending, rows=ROWS):
    path, frame = folder / f"t.{ending}", pd.DataFrame(rows)
    if ending == "parquet":
        frame.to_parquet(path)
    elif ending == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows))
    else:
        text = frame.to_csv(index=False, sep="\t" if "tsv" in ending else ",").encode()
        path.write_bytes(gzip.compress(text) if ending.endswith(".gz") else text)
    return path


@pytest.mark.parametrize("name", ["source", "group"])
@pytest.mark.parametrize("imagefolder", [False, True])
def test_a_label_that_is_called_like_another_column_does_not_disappear(folder, name, imagefolder):
    path = folder / "metadata.csv"
    path.write_text(f"file_name,car,{name}\na.jpg,1,1\nb.jpg,1,0\nc.jpg,0,\n")
    source = folder if imagefolder else path
    told = error_of(load_images, source)
    assert f"column '{name}': it holds answers, and says of a picture what belongs together" in told
    assert "if it is a label, name the label columns by labels" in told
    named = load_images({"path": source, "labels": ["car", name]})
    check(named, names=("car", name), labels=[[1, 1], [1, 0], [0, -100]], group=[""] * 3, source=[str(source)] * 3)
    check(load_images({"path": source, "label_map": {name: "dog"}}), names=("car", "dog"), labels=named.labels.tolist())
    path.write_text(path.read_text().replace(",1\n", ",x\n"))  # a word: it was meant so
    check(load_images(source), names=("car",), **{name: ["x", "0", str(source) if name == "source" else ""]})


FAULTY = [
    {"file_name": "a.jpg", "car": 1},
    {"file_name": "b.jpg", "car": 0.5},
    {"file_name": "gone.jpg", "car": 0},
]


@pytest.mark.parametrize("ending", ["csv", "tsv", "csv.gz", "tsv.gz", "parquet", "jsonl"])
def test_every_format_gives_the_same_and_tells_the_same(folder, ending):
    images = load_images(write(folder, ending))
    check(images, labels=MATRIX, names=("car", "dog"), split=["train", "test", "validation"], group=["x", "y", "x"],
          paths=[str(folder / name) for name in ("a.jpg", "b.jpg", "c.jpg")])  # fmt: skip
    first = 1 if ending in ("parquet", "jsonl") else 2
    shown = "0.5" if ending == "parquet" else "'0.5'"
    assert fault(write(folder, ending, FAULTY)) == (
        f", row {first + 1}, column 'car': label value {shown} {NO_LABEL}; "
        f"row {first + 2}, column 'file_name': no image 'gone.jpg' in {folder}; is image_folder right?"
    )


def test_only_the_asked_labels_in_the_asked_order(folder):
    path = str(write(folder, "csv"))
    check(load_images(path, labels=["dog"]), labels=[[-100], [1], [0]])
    assert fault(path, labels=("cars",)) == ": no label column 'cars'; did you mean car?"
    assert fault(path, labels=("car", "car")).startswith(": label names given more than once: car")


def test_pictures_may_lie_in_images_or_elsewhere(folder, tmp_path_factory):
    other = write_files(tmp_path_factory.mktemp("other"), {"t.csv": "file_name,car\na.jpg,1\n"})
    assert ", row 2, column 'file_name': no image 'a.jpg'" in fault(other / "t.csv")
    assert len(load_images(other / "t.csv", image_folder=folder)) == 1
    draw(other, "images/a.jpg")
    assert len(load_images(other / "t.csv")) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file_name,car\na.jpg,1\nb.jpg,x\nc.jpg,y\n",
         f", row 3, column 'car': label value 'x' {NO_LABEL}; row 4, column 'car': label value 'y' {NO_LABEL}"),
        ("file_name,car,split\na.jpg,1,train\na.jpg,1,test\n",
         ", row 3, column 'file_name': 'a.jpg' is already in row 2 (train and test)"),
        ("file_name,car,split\na.jpg,1,\na.jpg,1,test\n",
         ", row 3, column 'file_name': 'a.jpg' is already in row 2 (none and test)"),
        ("file_name,car\na.jpg,1\na.jpg,1\n", ", row 3, column 'file_name': 'a.jpg' is already in row 2"),
        ("file_name,car\na.jpg,1\n./a.jpg,1\n", ", row 3, column 'file_name': './a.jpg' is already in row 2"),
        ("file_name,car,split\na.jpg,1,trian\n",
         ", row 2, column 'split': split 'trian' is none of train, validation, test; did you mean train?"),
        ("filename,car\na.jpg,1\n", ": no column 'file_name'; its columns are filename, car; did you mean filename?"),
        ("file_name,split\na.jpg,train\n", ": no label columns beside file_name, split"),
        ("file_name,car\n,1\n", ", row 2, column 'file_name': it is empty"),
        ("file_name,car\na.jpg,1,2,3\nb.jpg\nz.jpg,x\n",
         ", row 2: 4 cells, expected 2; row 3: 1 cells, expected 2; row 4, column 'car': label value 'x' "
         f"{NO_LABEL}; row 4, column 'file_name': no image 'z.jpg'"),
        ("file_name,car\nA.jpg,1\n", ", row 2, column 'file_name': no image 'A.jpg' in"),
        (",file_name,car\n0,a.jpg,1\n", ": column 1 has no name; take it out (pandas: index=False), or name"),
        ("file_name;car\na.jpg;1\n", "the cells seem to be separated by ';': a .csv has ',' there, a .tsv tabs"),
        ("file_name,comment\na.jpg,sharp\nb.jpg,\n",
         f", row 2, column 'comment': label value 'sharp' {NO_LABEL}; "
         "if 'comment' is no label, name the label columns by labels"),
    ],
)  # fmt: skip
def test_faults_name_file_row_and_column(folder, text, message):
    write_files(folder, {"t.csv": text})
    assert message in fault(folder / "t.csv")


OUTSIDE = ["../{0}/a.jpg", "{1}/a.jpg", "x/../../{0}/a.jpg"]


@pytest.mark.parametrize("name", [*OUTSIDE, "..\\\\{0}\\\\a.jpg", "C:\\\\a.jpg"])
def test_paths_that_leave_the_folder_are_refused_unless_that_is_allowed(folder, name):
    (folder / "x").mkdir()
    shown = name.format(folder.name, folder)
    for ending in ("csv", "parquet", "jsonl"):
        path = write(folder, ending, [{"file_name": shown, "car": 1}])
        assert f"column 'file_name': {shown!r} leaves the image folder {folder}" in fault(path)
    if name in OUTSIDE:
        images = read_wide(Source(str(path), allow_outside=True))
        assert (folder / "a.jpg").samefile(images.dataset[0]["image"]["path"])


def test_every_code_of_a_cell(folder):
    yes, no = ["1", "1.0", "true", "TRUE", "yes", "Yes"], ["0", "0.0", "false", "False", "no", "NO"]
    unknown = ["", "nan", "NaN", "null", "None", "-1", "-1.0", "NA", "n/a", " "]
    rows = "".join(f"{i}.jpg,{yes[i % 6]},{no[i % 6]},{cell}\n" for i, cell in enumerate(unknown))
    write_files(folder, {f"{i}.jpg": "" for i in range(10)} | {"t.csv": f"file_name,a,b,c\n{rows}"})
    check(load_images(folder / "t.csv"), labels=[[1, 0, -100]] * 10)


def test_an_image_nobody_annotated_stays(folder):
    write_files(folder, {"t.csv": "file_name,car,dog\na.jpg,,\nb.jpg,1,0\n"})
    check(load_images(folder / "t.csv"), labels=[[-100, -100], [1, 0]])


def test_mixed_cells_of_json_lines(folder):
    cells = [1, "yes", True, 0, "no", False, None, -1, "", 0.5, {"a": 1}, [1], "maybe", 2, 1.0]
    write_files(folder, {f"{i}.jpg": "" for i in range(len(cells))})
    rows = [{"file_name": f"{i}.jpg", "car": cell} for i, cell in enumerate(cells)]
    codes = [[1], [1], [1], [0], [0], [0], [-100], [-100], [-100], [1]]
    check(load_images(write(folder, "jsonl", rows[:9] + rows[14:])), labels=codes)
    wrong = {10: "0.5", 11: '{"a": 1}', 12: "[1]", 13: "maybe", 14: "2"}
    told = [f"row {row}, column 'car': label value {cell!r} {NO_LABEL}" for row, cell in wrong.items()]
    assert fault(write(folder, "jsonl", rows)) == ", " + "; ".join(told)


def test_a_key_that_a_json_line_lacks_is_unknown(folder):
    rows = [{"file_name": "a.jpg"}, {"car": 1, "file_name": "b.jpg"}, {"file_name": "c.jpg", "dog": 0}]
    check(load_images(write(folder, "jsonl", rows)), names=("car", "dog"), labels=[[-100, -100], [1, -100], [-100, 0]])


def test_rows_are_numbered_as_in_an_editor(folder):
    text = 'file_name,car\r\n"x,\ny.jpg",1\r\n\r\nb.jpg,{}\r\n'
    write_files(folder, {"x,\ny.jpg": "", "t.csv": text.format(2)})
    assert fault(folder / "t.csv").startswith(", row 5, column 'car': label value '2'")
    write_files(folder, {"t.csv": text.format(0)})
    check(load_images(folder / "t.csv"), file_name=["x,\ny.jpg", "b.jpg"])


def test_other_columns_may_hold_anything_where_labels_are_named(folder):
    write_files(folder, {"t.csv": b"file_name,note,car\na.jpg,\xff\0,1\nb.jpg,,0\n"})
    check(load_images(folder / "t.csv", labels=["car"]), labels=[[1], [0]])
    assert r"row 2, column 'note': b'\xff\x00' is not UTF-8" in fault(folder / "t.csv")


def test_a_wide_table_becomes_parquet_and_comes_back_the_same(folder):
    text = (
        "file_name,stop sign,car,ä,split,group,source\n"
        "a.jpg,1,?,,train,g1,team 1\nb.jpg,0,,?,test,,\nimages/c.jpg,,?,0,val,g1,team 2\nd.jpg,,,,,,\n"
    )
    write_files(folder, {"d.jpg": "", "images/c.jpg": "", "t.csv": text})
    images = load_images(folder / "t.csv", uncertain_values=["?"])
    check(images, labels=[[1, -101, -100], [0, -100, -101], [-100, -101, 0], [-100, -100, -100]])
    last, tables = images, []
    for path in (folder / "new" / "t.parquet", folder / "t2.parquet"):
        last = load_images(path, write_table(last, path))
        check(last, names=images.label_space.names, labels=images.labels.tolist())
        assert last.dataset.features == images.dataset.features
        assert last.dataset[:] == images.dataset[:]
        tables.append(pa.parquet.read_table(path))
    assert tables[0].equals(tables[1])


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


def test_the_road_sign_table(road_signs):
    images = load_images(road_signs)
    test = images.of_split("test")
    assert (len(images), len(test)) == (877, 264)
    assert (test.labels == 1).sum(axis=0).tolist() == [31, 27, 206, 52]


def test_declared_cells_are_uncertain(folder):
    write_files(folder, {"u.csv": "file_name,car\na.jpg,-1\nb.jpg,\n"})
    check(load_images(folder / "u.csv"), labels=[[-100], [-100]])
    check(load_images(folder / "u.csv", uncertain_values=["-1"]), labels=[[-101], [-100]])
