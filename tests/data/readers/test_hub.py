import json
from functools import partial
from io import BytesIO

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from datasets import ClassLabel, Features, List, Value
from PIL import Image
from reading import check, draw, error_of, write_files

from halflabel.data.images import from_records, write_shards
from halflabel.data.readers.hub import find_metadata, open_parts, read_datasets, read_imagefolder
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


def test_a_saved_data_set(tmp_path):
    saved = dataset_of(car=[1, 0, None], dog=[True, None, False])
    saved.save_to_disk(tmp_path / "d")
    images = read(tmp_path / "d")
    empty = ["", "", ""]
    check(images, names=("car", "dog"), labels=[[1, 1], [0, X], [X, 0]], split=empty, group=empty,
          file_name=["0.png", "1.png", "2.png"])  # fmt: skip
    assert [row["bytes"] for row in images.dataset["image"]] == [picture(i)["bytes"] for i in range(3)]
    stream = open_parts(Source(str(tmp_path / "d")), streaming=True)[""]
    assert [(row["car"], row["dog"]) for row in stream] == [(1, True), (0, None), (None, False)]


def test_saved_splits(tmp_path):
    nobody = dataset_of(1, car=[None]).cast_column("car", Value("int64"))
    parts = {"train": dataset_of(2, car=[1, 0]), "validation": nobody, "extra": dataset_of(1, car=[1])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "d")
    check(read(tmp_path / "d"), labels=[[1], [0], [X], [1]], split=["train", "train", "validation", ""])
    parts = {"train": dataset_of(1, car=[1]), "test": dataset_of(1, car=["yes"])}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "e")
    told = error_of(read, tmp_path / "e")  # splits that do not fit together
    assert told.startswith(f"data '{tmp_path / 'e'}' cannot be loaded as a data set: ")


def test_parquet_files_whose_names_say_the_split(tmp_path):
    (tmp_path / "data").mkdir()
    for name, cars in {"train-00000-of-00002": [1, 0], "train-00001-of-00002": [1], "test-00000-of-00001": [0]}.items():
        dataset_of(len(cars), car=cars).to_parquet(tmp_path / "data" / f"{name}.parquet")
    check(read(tmp_path), labels=[[1], [0], [1], [0]], split=["train", "train", "train", "test"])
    check(read(tmp_path / "data" / "test-00000-of-00001.parquet"), labels=[[0]])


def test_a_column_of_splits_goes_before_the_file_s(tmp_path):
    data = dataset_of(3, car=[1, 0, 1], split=["val", "", None], group=["g", None, ""], file_name=["x", "y", "z"])
    data.to_parquet(tmp_path / "train-00000-of-00001.parquet")
    images = read(tmp_path)
    check(images, names=("car",), split=["validation", "train", "train"], group=["g", "", ""],
          file_name=["x", "y", "z"])  # fmt: skip
    kinds = {"car": Value("int64"), "split": ClassLabel(names=["dev", "test"])}
    dataset_of(3, features=kinds, car=[1, 0, 1], split=[0, 1, None]).save_to_disk(tmp_path / "d")
    check(read(tmp_path / "d"), split=["validation", "test", ""])


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
    check(read(tmp_path / "d", absent="negative"), names=("cat", "dog"), labels=expected)


def test_yes_and_no_as_classes(tmp_path):
    kinds = {"a": ClassLabel(names=["no", "yes"]), "b": ClassLabel(names=["present", "absent"])}
    dataset_of(features=kinds, a=[0, 1, None], b=[0, None, 1]).save_to_disk(tmp_path / "d")
    check(read(tmp_path / "d"), names=("a", "b"), labels=[[0, 1], [1, X], [X, 0]])


def test_the_image_column(tmp_path):
    data = dataset_of(1, image="photo", car=[1])
    data.save_to_disk(tmp_path / "one")
    assert read(tmp_path / "one").dataset[0]["image"]["bytes"] == picture(0)["bytes"]
    two = tmp_path / "two"
    data.add_column("mask", [picture(9)]).cast_column("mask", datasets.Image()).save_to_disk(two)
    assert error_of(read, two) == f"{two}: it has the image columns photo, mask: say which by image_column"
    images = read(two, image_column="mask")
    check(images, names=("car",))
    assert images.dataset[0]["image"]["bytes"] == picture(9)["bytes"]
    assert error_of(read, two, image_column="msak") == f"{two}: no image column 'msak'; did you mean mask?"
    datasets.Dataset.from_dict({"car": [1]}).save_to_disk(tmp_path / "none")
    assert error_of(read, tmp_path / "none") == f"{tmp_path / 'none'}: it has no image column"


def test_pictures_that_are_files(tmp_path):
    draw(tmp_path, "d/a.png", "b.png")
    folder, outside = tmp_path / "d", tmp_path / "b.png"
    paths = [str(folder / "a.png"), str(folder / "gone.png"), None, str(outside), str(folder / ".." / "b.png"), "a.png"]
    features = Features({"image": datasets.Image(), "car": Value("int64")})
    records = [{"bytes": None, "path": path} for path in paths]
    table = pa.table({"image": records, "car": [1, 0, 1, 0, 1, 0]}, schema=features.arrow_schema)
    pa.parquet.write_table(table, folder / "train.parquet")
    assert error_of(read, folder, name="d") == (
        f"d, row 2, column 'image': no image {paths[1]!r}; row 3, column 'image': no picture; "
        f"row 4, column 'image': {paths[3]!r} leaves the data set's folder; "
        f"row 5, column 'image': {paths[4]!r} leaves the data set's folder; "
        "row 6, column 'image': 'a.png' leaves the data set's folder"
    )
    pa.parquet.write_table(table.take([0, 3]), folder / "train.parquet")
    check(read(folder, allow_outside=True), paths=[paths[0], paths[3]], file_name=["a.png", paths[3]])


def test_faults_are_told_at_once(tmp_path):
    dataset_of(3, car=["1", "2", "x"], split=["train", "tets", ""]).save_to_disk(tmp_path / "d")
    assert error_of(read, tmp_path / "d", name="cars") == (
        "cars, row 2, column 'car': label value '2' is not 1, 0 or unknown (empty, NaN, -1); "
        "row 2, column 'split': split 'tets' is none of train, validation, test; did you mean test?; "
        "row 3, column 'car': label value 'x' is not 1, 0 or unknown (empty, NaN, -1)"
    )
    dataset_of(1).save_to_disk(tmp_path / "bare")
    assert error_of(read, tmp_path / "bare") == f"{tmp_path / 'bare'}: no label columns"
    kinds = {"kind": ClassLabel(names=["cat ", "dog", "owl"])}
    dataset_of(1, features=kinds, kind=[0]).save_to_disk(tmp_path / "names")
    assert error_of(read, tmp_path / "names").startswith(f"{tmp_path / 'names'}: label name 'cat ' is not")


def test_what_is_no_data_set(tmp_path):
    (tmp_path / "empty").mkdir()
    write_files(tmp_path, {"broken/state.json": "{", "bad.parquet": "nothing"})
    for path in (tmp_path / "empty", tmp_path / "broken", tmp_path / "bad.parquet", "nobody/nothing-at-all"):
        assert error_of(read, path).startswith(f"data '{path}' cannot be loaded as a data set: ")


def test_an_image_folder_through_the_library(tmp_path):
    write_files(draw(tmp_path, "a.png"), {"metadata.jsonl": '{"file_name": "a.png", "tags": ["x"]}\n'})
    check(read(tmp_path, absent="unknown"), names=("x",), labels=[[1]], file_name=["a.png"])


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


@pytest.fixture
def folder(tmp_path):
    names = ("a.jpg", "b.jpg", "c.jpg", "train/a.jpg", "test/a.jpg", "other/a.jpg")
    return write_files(tmp_path, dict.fromkeys(names, ""))


def write(path, rows):
    if path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    elif path.suffix == ".parquet":
        pa.parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("\n".join([",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]))


def read_folder(folder, **keys):
    return read_imagefolder(Source(str(folder), **keys))


folder_error = partial(error_of, read_folder)


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_metadata_with_a_column_for_each_label(folder, ending):
    rows = [{"file_name": "b.jpg", "car": 1, "dog": ""}, {"file_name": "a.jpg", "car": 0, "dog": "yes"}]
    write(folder / f"metadata.{ending}", rows)
    check(
        read_folder(folder), names=("car", "dog"), labels=[[1, X], [0, 1]], file_name=["b.jpg", "a.jpg"],
        split=["", ""], paths=[str(folder / "b.jpg"), str(folder / "a.jpg")],
    )  # fmt: skip


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_metadata_with_a_list_or_objects(folder, ending):
    rows = [{"file_name": "a.jpg", "tags": None}, {"file_name": "b.jpg", "tags": ["dog", "car"]},
            {"file_name": "c.jpg", "tags": []}]  # fmt: skip
    write(folder / f"metadata.{ending}", rows)
    for absent, code in (("negative", 0), ("unknown", X)):
        check(read_folder(folder, absent=absent), names=("car", "dog"), labels=[[X, X], [1, 1], [code, code]])
    assert "column 'tags' lists what is there" in folder_error(folder)
    rows = [{"file_name": "a.jpg", "objects": {"bbox": [[302.0, 109.0, 73.0, 52.0]], "categories": ["cat"]}},
            {"file_name": "b.jpg", "objects": {"bbox": [], "categories": []}}]  # fmt: skip
    write(folder / f"metadata.{ending}", rows)
    check(read_folder(folder, absent="negative"), names=("cat",), labels=[[1], [0]])


def test_splits_are_those_of_the_folders(folder):
    rows = [{"file_name": "train/a.jpg", "car": 1}, {"file_name": "test/a.jpg", "car": 0}]
    split_rows = [{**row, "split": split} for row, split in zip(rows, ("val", ""), strict=True)]
    for written, splits in (
        (rows, ["train", "test"]),
        ([*rows, {"file_name": "other/a.jpg", "car": 1}], ["", "", ""]),
        (split_rows, ["validation", ""]),
    ):
        write(folder / "metadata.csv", written)
        check(read_folder(folder), split=splits)


def test_each_split_folder_may_have_its_own_metadata(folder):
    write(folder / "train" / "metadata.csv", [{"file_name": "a.jpg", "car": 1}])
    write(folder / "test" / "metadata.jsonl", [{"file_name": "a.jpg", "dog": 0, "car": None}])
    write(folder / "other" / "metadata.csv", [{"file_name": "a.jpg", "car": 1}])
    assert find_metadata(folder) == [
        ("test", folder / "test" / "metadata.jsonl"), ("train", folder / "train" / "metadata.csv")
    ]  # fmt: skip
    files = ["test/a.jpg", "train/a.jpg"]
    check(read_folder(folder), names=("dog", "car"), labels=[[0, X], [X, 1]], split=["test", "train"],
          file_name=files, paths=[str(folder / name) for name in files])  # fmt: skip


def test_the_pictures_may_lie_elsewhere(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    write(other / "metadata.csv", [{"file_name": "a.jpg", "car": 1}])
    assert f"metadata.csv, row 2, column 'file_name': no image 'a.jpg' in {other}" in folder_error(other)
    check(read_folder(other, image_folder=str(folder)), labels=[[1]])


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
