import json

import pandas as pd
import pytest

from halflabel import HalflabelError
from halflabel.sources import load_source, read_table

from PIL import Image  # isort: skip


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


def write(folder, ending):
    path, frame = folder / f"t.{ending}", pd.DataFrame(ROWS)
    if ending == "csv":
        frame.to_csv(path, index=False)
    elif ending == "tsv":
        frame.to_csv(path, index=False, sep="\t")
    elif ending == "parquet":
        frame.to_parquet(path)
    else:
        path.write_text("\n".join(json.dumps(row) for row in ROWS))
    return path


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet", "jsonl"])
def test_every_format_gives_the_same(folder, ending):
    images = read_table(write(folder, ending))
    assert images.labels.tolist() == MATRIX
    assert images.label_space.names == ("car", "dog")
    assert images.column("split").tolist() == ["train", "test", "validation"]
    assert images.column("group").tolist() == ["x", "y", "x"]
    assert images.dataset[0]["image"] == {"bytes": None, "path": str(folder / "a.jpg")}


def test_only_the_asked_labels_in_the_asked_order(folder):
    assert read_table(write(folder, "csv"), labels=["dog"]).labels.tolist() == [[-100], [1], [0]]


def test_pictures_may_lie_in_images_or_elsewhere(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    table = other / "t.csv"
    table.write_text("file_name,car\na.jpg,1\n")
    with pytest.raises(HalflabelError, match=r"t\.csv, row 2, column 'file_name': no image 'a\.jpg'"):
        read_table(table)
    assert len(read_table(table, image_folder=folder)) == 1
    (other / "images").mkdir()
    Image.new("RGB", (8, 8)).save(other / "images" / "a.jpg")
    assert len(read_table(table)) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file_name,car\na.jpg,1\nb.jpg,2\n", "row 3, column 'car': label value '2'"),
        ("file_name,car\na.jpg,1\nb.jpg,x\nc.jpg,y\n", r"row 3.*and 1 more such fault"),
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
        ("file_name,car\na.jpg,1,2,3\nb.jpg\n", "row 2|cannot be read"),
    ],
)
def test_faults_name_file_row_and_column(folder, text, message):
    (folder / "t.csv").write_text(text)
    with pytest.raises(HalflabelError, match=message) as error:
        read_table(folder / "t.csv")
    assert "t.csv" in str(error.value)
    assert "\n" not in str(error.value)


def test_wrong_label_column_shows_the_nearest(folder):
    with pytest.raises(HalflabelError, match="no label column 'cars'; did you mean car"):
        read_table(write(folder, "csv"), labels=["cars"])


@pytest.mark.parametrize("name", ["none.csv", "t.xlsx", "streetscenes", "bad.parquet", "bad.jsonl"])
def test_sources_that_are_none(folder, name):
    (folder / "bad.parquet").write_bytes(b"nothing")
    (folder / "bad.jsonl").write_text("{nothing")
    with pytest.raises(HalflabelError):
        load_source(str(folder / name) if "." in name else name)


def test_limits_take_the_first_of_each_split(folder):
    images = load_source(str(write(folder, "csv")), max_train_images=1, max_test_images=0)
    assert images.column("split").tolist() == ["train", "validation"]


def test_the_road_sign_table(road_signs):
    images = read_table(road_signs)
    test = images.of_split("test")
    assert (len(images), len(test)) == (877, 264)
    assert (test.labels == 1).sum(axis=0).tolist() == [31, 27, 206, 52]


def test_declared_cells_are_uncertain(folder):
    (folder / "u.csv").write_text("file_name,car\na.jpg,-1\nb.jpg,\n")
    assert read_table(folder / "u.csv").labels.tolist() == [[-100], [-100]]
    assert read_table(folder / "u.csv", uncertain_values=["-1"]).labels.tolist() == [[-101], [-100]]
