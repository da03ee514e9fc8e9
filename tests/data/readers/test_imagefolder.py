import json

import pyarrow as pa
import pyarrow.parquet
import pytest

from halflabel import HalflabelError
from halflabel.data.readers.hub import find_metadata, read_imagefolder
from halflabel.data.source import Source

X = -100


@pytest.fixture
def folder(tmp_path):
    for name in ("a.jpg", "b.jpg", "c.jpg", "train/a.jpg", "test/a.jpg", "other/a.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def write(path, rows):
    if path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    elif path.suffix == ".parquet":
        pa.parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("\n".join([",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]))


def read(folder, **keys):
    return read_imagefolder(Source(str(folder), **keys))


def error_of(folder, **keys):
    with pytest.raises(HalflabelError) as error:
        read(folder, **keys)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_metadata_with_a_column_for_each_label(folder, ending):
    rows = [{"file_name": "b.jpg", "car": 1, "dog": ""}, {"file_name": "a.jpg", "car": 0, "dog": "yes"}]
    write(folder / f"metadata.{ending}", rows)
    images = read(folder)
    assert images.label_space.names == ("car", "dog")
    assert images.labels.tolist() == [[1, X], [0, 1]]
    assert images.column("file_name").tolist() == ["b.jpg", "a.jpg"]
    assert images.column("split").tolist() == ["", ""]
    assert images.dataset[0]["image"]["path"] == str(folder / "b.jpg")


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize(("absent", "code"), [("negative", 0), ("unknown", X)])
def test_metadata_with_a_list(folder, ending, absent, code):
    rows = [{"file_name": "a.jpg", "tags": None}, {"file_name": "b.jpg", "tags": ["dog", "car"]},
            {"file_name": "c.jpg", "tags": []}]  # fmt: skip
    write(folder / f"metadata.{ending}", rows)
    images = read(folder, absent=absent)
    assert images.label_space.names == ("car", "dog")
    assert images.labels.tolist() == [[X, X], [1, 1], [code, code]]
    assert "column 'tags' lists what is there" in error_of(folder)


def test_metadata_with_objects(folder):
    rows = [{"file_name": "a.jpg", "objects": {"bbox": [[302.0, 109.0, 73.0, 52.0]], "categories": ["cat"]}},
            {"file_name": "b.jpg", "objects": {"bbox": [], "categories": []}}]  # fmt: skip
    write(folder / "metadata.jsonl", rows)
    images = read(folder, absent="negative")
    assert images.label_space.names == ("cat",)
    assert images.labels.tolist() == [[1], [0]]


def test_splits_are_those_of_the_folders(folder):
    rows = [{"file_name": "train/a.jpg", "car": 1}, {"file_name": "test/a.jpg", "car": 0}]
    write(folder / "metadata.csv", rows)
    assert read(folder).column("split").tolist() == ["train", "test"]
    write(folder / "metadata.csv", [*rows, {"file_name": "other/a.jpg", "car": 1}])
    assert read(folder).column("split").tolist() == ["", "", ""]
    write(folder / "metadata.csv", [{**row, "split": split} for row, split in zip(rows, ("val", ""), strict=True)])
    assert read(folder).column("split").tolist() == ["validation", ""]


def test_each_split_folder_may_have_its_own_metadata(folder):
    write(folder / "train" / "metadata.csv", [{"file_name": "a.jpg", "car": 1}])
    write(folder / "test" / "metadata.jsonl", [{"file_name": "a.jpg", "dog": 0, "car": None}])
    write(folder / "other" / "metadata.csv", [{"file_name": "a.jpg", "car": 1}])
    assert find_metadata(folder) == [
        ("test", folder / "test" / "metadata.jsonl"), ("train", folder / "train" / "metadata.csv")
    ]  # fmt: skip
    images = read(folder)
    assert images.label_space.names == ("dog", "car")
    assert images.labels.tolist() == [[0, X], [X, 1]]
    assert images.column("split").tolist() == ["test", "train"]
    assert images.column("file_name").tolist() == ["test/a.jpg", "train/a.jpg"]
    assert [row["path"] for row in images.dataset["image"]] == [
        str(folder / name / "a.jpg") for name in ("test", "train")
    ]


def test_the_pictures_may_lie_elsewhere(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    write(other / "metadata.csv", [{"file_name": "a.jpg", "car": 1}])
    assert f"metadata.csv, row 2, column 'file_name': no image 'a.jpg' in {other}" in error_of(other)
    assert read(other, image_folder=str(folder)).labels.tolist() == [[1]]


def test_faults_are_told_at_once(folder):
    rows = [{"file_name": "a.jpg", "car": 2}, {"file_name": "../a.jpg", "car": 1}, {"file_name": "z.jpg", "car": 0}]
    write(folder / "metadata.csv", rows)
    assert error_of(folder) == (
        f"{folder / 'metadata.csv'}, row 2, column 'car': label value '2' is not 1, 0 or unknown (empty, NaN, -1); "
        f"row 3, column 'file_name': '../a.jpg' leaves the image folder {folder}; "
        f"row 4, column 'file_name': no image 'z.jpg' in {folder}; is image_folder right?"
    )
    write(folder / "metadata.csv", [{"image": "a.jpg", "car": 1}])
    assert "no column 'file_name'" in error_of(folder)


def test_none_and_several(folder):
    assert error_of(folder) == f"{folder}: no metadata.csv, metadata.jsonl or metadata.parquet"
    assert find_metadata(folder / "a.jpg") == find_metadata(folder / "nowhere") == []
    write(folder / "metadata.csv", [{"file_name": "a.jpg", "car": 1}])
    write(folder / "metadata.jsonl", [{"file_name": "a.jpg", "car": 1}])
    assert error_of(folder) == f"{folder}: several metadata files: metadata.csv, metadata.jsonl"
