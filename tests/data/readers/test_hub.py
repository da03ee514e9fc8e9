import json
from io import BytesIO

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from datasets import ClassLabel, Features, List, Value
from PIL import Image

from halflabel import HalflabelError
from halflabel.data.images import from_records, write_shards
from halflabel.data.readers.hub import (
    find_image_column,
    find_metadata,
    load,
    open_parts,
    read_datasets,
    read_imagefolder,
)
from halflabel.data.source import Source

X, U = -100, -101


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def picture(number, name=None):
    content = BytesIO()
    Image.new("RGB", (8, 8), (number, 0, 0)).save(content, "PNG")
    return {"bytes": content.getvalue(), "path": name}


def dataset_of(count=3, image="image", features=None, **columns):
    kinds = Features({image: datasets.Image(), **(features or {})})
    rows = {image: [picture(i, f"{i}.png") for i in range(count)], **columns}
    if features is None:
        return datasets.Dataset.from_dict(rows).cast_column(image, datasets.Image())
    return datasets.Dataset.from_dict(rows, features=kinds)


def read(path, **keys):
    return read_datasets(Source(str(path), **keys))


def error_of(path, **keys):
    with pytest.raises(HalflabelError) as error:
        read(path, **keys)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def test_a_saved_data_set(tmp_path):
    saved = dataset_of(car=[1, 0, None], dog=[True, None, False])
    saved.save_to_disk(tmp_path / "d")
    images = read(tmp_path / "d")
    assert images.label_space.names == ("car", "dog")
    assert images.labels.tolist() == [[1, 1], [0, X], [X, 0]]
    assert images.column("file_name").tolist() == ["0.png", "1.png", "2.png"]
    assert images.column("split").tolist() == images.column("group").tolist() == ["", "", ""]
    assert [row["bytes"] for row in images.dataset["image"]] == [picture(i)["bytes"] for i in range(3)]


def test_saved_splits(tmp_path):
    parts = {
        "train": dataset_of(2, car=[1, 0]),
        "validation": dataset_of(1, car=[None]),
        "extra": dataset_of(1, car=[1]),
    }
    parts["validation"] = parts["validation"].cast_column("car", Value("int64"))
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "d")
    images = read(tmp_path / "d")
    assert images.labels.tolist() == [[1], [0], [X], [1]]
    assert images.column("split").tolist() == ["train", "train", "validation", ""]


def test_splits_that_do_not_fit_together(tmp_path):
    parts = {"train": dataset_of(1, car=[1]), "test": dataset_of(1, car=["yes"])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "d")
    assert error_of(tmp_path / "d").startswith(f"data '{tmp_path / 'd'}' cannot be loaded as a data set: ")


def test_parquet_files_whose_names_say_the_split(tmp_path):
    (tmp_path / "data").mkdir()
    dataset_of(2, car=[1, 0]).to_parquet(tmp_path / "data" / "train-00000-of-00002.parquet")
    dataset_of(1, car=[1]).to_parquet(tmp_path / "data" / "train-00001-of-00002.parquet")
    dataset_of(1, car=[0]).to_parquet(tmp_path / "data" / "test-00000-of-00001.parquet")
    images = read(tmp_path)
    assert images.labels.tolist() == [[1], [0], [1], [0]]
    assert images.column("split").tolist() == ["train", "train", "train", "test"]
    one = read(tmp_path / "data" / "test-00000-of-00001.parquet")
    assert one.labels.tolist() == [[0]]


def test_a_column_of_splits_goes_before_the_file_s(tmp_path):
    data = dataset_of(3, car=[1, 0, 1], split=["val", "", None], group=["g", None, ""], file_name=["x", "y", "z"])
    data.to_parquet(tmp_path / "train-00000-of-00001.parquet")
    images = read(tmp_path)
    assert images.label_space.names == ("car",)
    assert images.column("split").tolist() == ["validation", "train", "train"]
    assert images.column("group").tolist() == ["g", "", ""]
    assert images.column("file_name").tolist() == ["x", "y", "z"]


def test_a_split_column_may_be_a_class(tmp_path):
    kinds = {"car": Value("int64"), "split": ClassLabel(names=["dev", "test"])}
    dataset_of(3, features=kinds, car=[1, 0, 1], split=[0, 1, None]).save_to_disk(tmp_path / "d")
    assert read(tmp_path / "d").column("split").tolist() == ["validation", "test", ""]


OBJECTS = [
    {"bbox": [[0.0, 0, 1, 1]], "category": [1]},
    {"bbox": [], "category": []},
    {"bbox": [[0.0, 0, 1, 1]] * 2, "category": [0, 1]},
]
KINDS = ClassLabel(names=["cat", "dog"])


@pytest.mark.parametrize(
    ("kind", "cells", "expected"),
    [
        (List(KINDS), [[1], [], [0, 1]], [[0, 1], [0, 0], [1, 1]]),
        (datasets.Sequence(KINDS), [[1], None, [0, 1]], [[0, 1], [X, X], [1, 1]]),
        (List(KINDS, length=1), [[1], [0], [1]], [[0, 1], [1, 0], [0, 1]]),
        (List(Value("string")), [["dog"], [], ["cat", "dog"]], [[0, 1], [0, 0], [1, 1]]),
        ({"bbox": List(List(Value("float32"))), "category": List(KINDS)}, OBJECTS, [[0, 1], [0, 0], [1, 1]]),
        (datasets.Sequence({"bbox": List(Value("float32")), "category": KINDS}),
         OBJECTS, [[0, 1], [0, 0], [1, 1]]),
        (List({"bbox": List(Value("float32")), "category": KINDS}),
         [[{"bbox": b, "category": c} for b, c in zip(row["bbox"], row["category"], strict=True)] for row in OBJECTS],
         [[0, 1], [0, 0], [1, 1]]),
        (KINDS, [1, 0, None], [[0, 1], [1, 0], [X, X]]),
    ],
    ids=["list", "sequence", "list of one", "names", "objects", "sequence of objects", "list of objects", "class"],
)  # fmt: skip
def test_lists_and_classes(tmp_path, kind, cells, expected):
    dataset_of(features={"what": kind}, what=cells).save_to_disk(tmp_path / "d")
    images = read(tmp_path / "d", absent="negative")
    assert images.label_space.names == ("cat", "dog")
    assert images.labels.tolist() == expected


def test_yes_and_no_as_classes(tmp_path):
    kinds = {"a": ClassLabel(names=["no", "yes"]), "b": ClassLabel(names=["present", "absent"])}
    dataset_of(features=kinds, a=[0, 1, None], b=[0, None, 1]).save_to_disk(tmp_path / "d")
    images = read(tmp_path / "d")
    assert images.label_space.names == ("a", "b")
    assert images.labels.tolist() == [[0, 1], [1, X], [X, 0]]


def test_the_image_column(tmp_path):
    data = dataset_of(1, image="photo", car=[1])
    data.save_to_disk(tmp_path / "one")
    assert read(tmp_path / "one").dataset[0]["image"]["bytes"] == picture(0)["bytes"]
    both = data.add_column("mask", [picture(9)]).cast_column("mask", datasets.Image())
    both.save_to_disk(tmp_path / "two")
    assert error_of(tmp_path / "two") == (
        f"{tmp_path / 'two'}: it has the image columns photo, mask: say which by image_column"
    )
    images = read(tmp_path / "two", image_column="mask")
    assert images.label_space.names == ("car",)
    assert images.dataset[0]["image"]["bytes"] == picture(9)["bytes"]
    assert error_of(tmp_path / "two", image_column="msak").endswith(": no image column 'msak'; did you mean mask?")
    datasets.Dataset.from_dict({"car": [1]}).save_to_disk(tmp_path / "none")
    assert error_of(tmp_path / "none") == f"{tmp_path / 'none'}: it has no image column"


def test_pictures_that_are_files(tmp_path):
    folder, outside = tmp_path / "d", tmp_path / "b.png"
    folder.mkdir()
    for path in (folder / "a.png", outside):
        Image.new("RGB", (8, 8)).save(path)
    paths = [str(folder / "a.png"), str(folder / "gone.png"), None, str(outside), str(folder / ".." / "b.png"), "a.png"]
    features = Features({"image": datasets.Image(), "car": Value("int64")})
    records = [{"bytes": None, "path": path} for path in paths]
    table = pa.table({"image": records, "car": [1, 0, 1, 0, 1, 0]}, schema=features.arrow_schema)
    pa.parquet.write_table(table, folder / "train.parquet")
    assert error_of(folder, name="d") == (
        f"d, row 2, column 'image': no image {paths[1]!r}; row 3, column 'image': no picture; "
        f"row 4, column 'image': {paths[3]!r} leaves the data set's folder; "
        f"row 5, column 'image': {paths[4]!r} leaves the data set's folder; "
        "row 6, column 'image': 'a.png' leaves the data set's folder"
    )
    pa.parquet.write_table(table.take([0, 3]), folder / "train.parquet")
    images = read(folder, allow_outside=True)
    assert [row["path"] for row in images.dataset["image"]] == [paths[0], paths[3]]
    assert images.column("file_name").tolist() == ["a.png", paths[3]]


def test_faults_are_told_at_once(tmp_path):
    dataset_of(3, car=["1", "2", "x"], split=["train", "tets", ""]).save_to_disk(tmp_path / "d")
    assert error_of(tmp_path / "d", name="cars") == (
        "cars, row 2, column 'car': label value '2' is not 1, 0 or unknown (empty, NaN, -1); "
        "row 2, column 'split': split 'tets' is none of train, validation, test; did you mean test?; "
        "row 3, column 'car': label value 'x' is not 1, 0 or unknown (empty, NaN, -1)"
    )
    dataset_of(1).save_to_disk(tmp_path / "bare")
    assert error_of(tmp_path / "bare") == f"{tmp_path / 'bare'}: no label columns"


def test_what_is_no_data_set(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "state.json").write_text("{")
    (tmp_path / "bad.parquet").write_bytes(b"nothing")
    for path in (tmp_path / "empty", tmp_path / "broken", tmp_path / "bad.parquet", "nobody/nothing-at-all"):
        assert error_of(path).startswith(f"data '{path}' cannot be loaded as a data set: ")


def test_label_names_are_checked(tmp_path):
    kinds = {"kind": ClassLabel(names=["cat ", "dog", "owl"])}
    dataset_of(1, features=kinds, kind=[0]).save_to_disk(tmp_path / "d")
    assert error_of(tmp_path / "d").startswith(f"{tmp_path / 'd'}: label name 'cat ' is not")


def test_an_image_folder_through_the_library(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "tags": ["x"]}\n')
    images = read(tmp_path, absent="unknown")
    assert images.label_space.names == ("x",)
    assert images.labels.tolist() == [[1]]
    assert images.column("file_name").tolist() == ["a.png"]


def test_shards_that_halflabel_writes_come_back_the_same(tmp_path):
    labels = np.array([[1, 0, X], [U, X, 0], [X, X, X], [0, 1, U]], np.int8)
    rows = [{"image": picture(i), "file_name": f"{i}.png", "labels": labels[i], "split": ["train", "test"][i % 2],
             "group": "ab"[i // 2], "source": "s"} for i in range(4)]  # fmt: skip
    images = from_records(rows, ["z", "a", "m"])
    write_shards(images, tmp_path / "s", shard_bytes=1, quiet=True)
    again = read(tmp_path / "s")
    assert again.label_space == images.label_space
    order = np.argsort(again.column("file_name"))
    assert again.labels[order].tolist() == labels.tolist()
    for name in ("split", "group", "source"):
        assert again.column(name)[order].tolist() == images.column(name).tolist()
    assert [again.dataset[int(i)]["image"]["bytes"] for i in order] == [picture(i)["bytes"] for i in range(4)]
    features = load(Source(str(tmp_path / "s"))).features
    assert find_image_column(Source("s"), features) == "image"


def test_a_stream_of_a_saved_data_set(tmp_path):
    dataset_of(2, car=[1, 0]).save_to_disk(tmp_path / "d")
    assert [row["car"] for row in open_parts(Source(str(tmp_path / "d")), streaming=True)[""]] == [1, 0]


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


def read_folder(folder, **keys):
    return read_imagefolder(Source(str(folder), **keys))


def folder_error(folder, **keys):
    with pytest.raises(HalflabelError) as error:
        read_folder(folder, **keys)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_metadata_with_a_column_for_each_label(folder, ending):
    rows = [{"file_name": "b.jpg", "car": 1, "dog": ""}, {"file_name": "a.jpg", "car": 0, "dog": "yes"}]
    write(folder / f"metadata.{ending}", rows)
    images = read_folder(folder)
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
    images = read_folder(folder, absent=absent)
    assert images.label_space.names == ("car", "dog")
    assert images.labels.tolist() == [[X, X], [1, 1], [code, code]]
    assert "column 'tags' lists what is there" in folder_error(folder)


def test_metadata_with_objects(folder):
    rows = [{"file_name": "a.jpg", "objects": {"bbox": [[302.0, 109.0, 73.0, 52.0]], "categories": ["cat"]}},
            {"file_name": "b.jpg", "objects": {"bbox": [], "categories": []}}]  # fmt: skip
    write(folder / "metadata.jsonl", rows)
    images = read_folder(folder, absent="negative")
    assert images.label_space.names == ("cat",)
    assert images.labels.tolist() == [[1], [0]]


def test_splits_are_those_of_the_folders(folder):
    rows = [{"file_name": "train/a.jpg", "car": 1}, {"file_name": "test/a.jpg", "car": 0}]
    write(folder / "metadata.csv", rows)
    assert read_folder(folder).column("split").tolist() == ["train", "test"]
    write(folder / "metadata.csv", [*rows, {"file_name": "other/a.jpg", "car": 1}])
    assert read_folder(folder).column("split").tolist() == ["", "", ""]
    write(folder / "metadata.csv", [{**row, "split": split} for row, split in zip(rows, ("val", ""), strict=True)])
    assert read_folder(folder).column("split").tolist() == ["validation", ""]


def test_each_split_folder_may_have_its_own_metadata(folder):
    write(folder / "train" / "metadata.csv", [{"file_name": "a.jpg", "car": 1}])
    write(folder / "test" / "metadata.jsonl", [{"file_name": "a.jpg", "dog": 0, "car": None}])
    write(folder / "other" / "metadata.csv", [{"file_name": "a.jpg", "car": 1}])
    assert find_metadata(folder) == [
        ("test", folder / "test" / "metadata.jsonl"), ("train", folder / "train" / "metadata.csv")
    ]  # fmt: skip
    images = read_folder(folder)
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
    assert f"metadata.csv, row 2, column 'file_name': no image 'a.jpg' in {other}" in folder_error(other)
    assert read_folder(other, image_folder=str(folder)).labels.tolist() == [[1]]


def test_faults_of_a_folder_are_told_at_once(folder):
    rows = [{"file_name": "a.jpg", "car": 2}, {"file_name": "../a.jpg", "car": 1}, {"file_name": "z.jpg", "car": 0}]
    write(folder / "metadata.csv", rows)
    assert folder_error(folder) == (
        f"{folder / 'metadata.csv'}, row 2, column 'car': label value '2' is not 1, 0 or unknown (empty, NaN, -1); "
        f"row 3, column 'file_name': '../a.jpg' leaves the image folder {folder}; "
        f"row 4, column 'file_name': no image 'z.jpg' in {folder}; is image_folder right?"
    )
    write(folder / "metadata.csv", [{"image": "a.jpg", "car": 1}])
    assert "no column 'file_name'" in folder_error(folder)


def test_none_and_several(folder):
    assert folder_error(folder) == f"{folder}: no metadata.csv, metadata.jsonl or metadata.parquet"
    assert find_metadata(folder / "a.jpg") == find_metadata(folder / "nowhere") == []
    write(folder / "metadata.csv", [{"file_name": "a.jpg", "car": 1}])
    write(folder / "metadata.jsonl", [{"file_name": "a.jpg", "car": 1}])
    assert folder_error(folder) == f"{folder}: several metadata files: metadata.csv, metadata.jsonl"
