import gzip
import json
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
import reading
from reading import check, draw, write_files

from halflabel.data.images import build_images, write_shards, write_table
from halflabel.data.loading import READERS, Reader, find_format, load_images, load_sources, parse_sources
from halflabel.data.source import Source

X, U = -100, -101
error_of = partial(reading.error_of, load_images)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture
def folder(tmp_path):
    return write_files(draw(tmp_path, *(f"{name}.png" for name in "abcd")), {
        "cars.csv": "file_name,car,dog,split\na.png,1,,train\nb.png,0,?,train\nc.png,,1,test\n",
        "signs.csv": "file_name,sign,Car\nb.png,1,0\nd.png,0,-1\n",
    })  # fmt: skip


@pytest.fixture
def cars(folder):
    return {"path": str(folder / "cars.csv"), "name": "C", "uncertain_values": ["?"]}


@pytest.fixture
def signs(folder):
    return {"path": str(folder / "signs.csv"), "name": "S"}


def format_of(path):
    return find_format(Source(path))


def test_one_source(folder):
    path = str(folder / "cars.csv")
    images = load_images(path, uncertain_values=["?"])
    check(images, names=("car", "dog"), labels=[[1, X], [0, U], [X, 1]], source=[path] * 3,
          split=["train", "train", "test"])  # fmt: skip


def test_the_keys_of_a_source(cars):
    source = {**cars, "labels": ["dog", "car"], "label_map": {"car": "vehicle"}, "split": "validation"}
    images = load_images(source, uncertain_values=["ignored: the source says its own"])
    check(images, names=("dog", "vehicle"), labels=[[X, 1], [U, 0], [1, X]], source=["C"] * 3,
          split=["validation"] * 3)  # fmt: skip


def test_several_sources_become_one(cars, signs):
    given = [cars, {**signs, "label_map": {"Car": "car"}}]
    check(load_images(given), names=("car", "dog", "sign"), labels=[[1, X, X], [0, U, 1], [X, 1, X], [X, X, 0]],
          source=["C", "C + S", "C", "S"])  # fmt: skip
    only = load_images(given, labels=["sign", "car"])
    check(only, names=("sign", "car"), labels=[[X, 1], [1, 0], [X, X], [0, X]])
    assert "unknown label 'sing'; did you mean sign" in error_of(given, labels=["sing"])


def test_other_columns_may_hold_anything_where_labels_are_named(folder):
    write_files(folder, {"notes.csv": "file_name,car,van,comment\na.png,1,0,nice\nd.png,0,,\n"})
    path = str(folder / "notes.csv")
    assert "if 'comment' is no label, name the label columns by labels" in error_of(path)
    check(load_images(path, labels=["van"]), labels=[[0], [X]])
    renamed = {"path": path, "label_map": {"van": "car"}}
    check(load_images(renamed, labels=["car"]), labels=[[1], [X]])
    check(load_images([renamed, str(folder / "signs.csv")], labels=["sign", "car"]), labels=[[X, 1], [0, X], [1, X]])
    assert "unknown label 'vna'; did you mean van" in error_of(path, labels=["vna"])


def test_contradictions_between_sources(folder, cars):
    write_files(folder, {"other.csv": "file_name,car\na.png,0\n"})
    given = [cars, str(folder / "other.csv")]
    assert error_of(given).startswith("data: 'a.png': 'car' is 1 and 0 (1 in ")
    assert load_images(given, contradictions="unknown").labels[0].tolist() == [X, X]
    images, report = load_sources(parse_sources(given), contradictions="first")
    assert images.labels[0].tolist() == [1, X]
    assert (len(images), report.joined, len(report.contradictions)) == (3, 1, 1)


def test_limits_take_the_first_images_of_each_split(cars, signs):
    for limits, kept in (
        ({"max_train_images": 1}, ["a.png", "c.png"]),
        ({"max_test_images": 0}, ["a.png", "b.png"]),
        ({"max_train_images": 0, "max_test_images": 9}, ["c.png"]),
    ):
        check(load_images(cars, **limits), file_name=kept)
    assert len(load_images(signs, max_train_images=1)) == 1  # without a split they are for training


def test_where_the_pictures_are(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    (folder / "signs.csv").rename(other / "signs.csv")
    path = str(other / "signs.csv")
    assert "no image 'b.png'" in error_of(path)
    assert len(load_images(path, image_folder=str(folder))) == 2
    assert len(load_images({"path": path, "image_folder": str(folder)}, image_folder="/nowhere")) == 2
    assert error_of(path, image_folder="/nowhere") == "image_folder '/nowhere': no such folder"


def test_what_halflabel_writes_says_where_each_image_came_from(folder, cars, signs):
    images = load_images([cars, signs])
    root = write_table(images, folder / "all.parquet")
    write_shards(images, folder / "shards", quiet=True)
    table = {"path": str(folder / "all.parquet"), "image_folder": str(root)}
    check(load_images(table), labels=images.labels.tolist(), source=["C", "C + S", "C", "S"])
    assert sorted(load_images(str(folder / "shards")).column("source")) == ["C", "C", "C + S", "S"]
    check(load_images({**table, "name": "all"}), source=["all"] * 4)


def test_the_embedded_scenes():
    images = load_images("street_scenes", max_train_images=2, max_test_images=1)
    check(images, split=["train", "train", "test"], source=["street_scenes"] * 3)


WIDE, LONG = "file_name,car\na.png,1\n", "file_name,label,value\na.png,car,1\n"
OPEN = "ImageID,Source,LabelName,Confidence\na,verification,/m/car,1\n"
CHEXPERT = "Path,Edema,Pneumonia,Fracture,Atelectasis\na.png,1.0,,-1.0,0.0\n"
MIMIC = "subject_id,study_id,Edema,Pneumonia,Fracture,Atelectasis\n1,2,1.0,,-1.0,0.0\n"


@pytest.mark.parametrize(
    ("name", "text", "form"),
    [
        ("t.csv", WIDE, "table"), ("t.tsv", WIDE.replace(",", "\t"), "table"), ("T.CSV", WIDE, "table"),
        ("t.csv.gz", WIDE, "table"), ("t.jsonl", '\n{"file_name": "a.png", "car": 1}', "table"),
        ("t.csv", LONG, "long"), ("t.csv.gz", LONG, "long"), ("t.csv", "\ufeff" + LONG.replace("\n", "\r\n"), "long"),
        ("t.jsonl", '{"value": 1, "label": "car", "file_name": "a.png"}', "long"),
        ("train-annotations.csv", OPEN, "open_images"), ("train.csv", CHEXPERT, "chexpert"),
        ("m.csv.gz", MIMIC, "chexpert"),
        ("t.csv", '"file_name","a,b","label"\n', "table"), ("t.csv", "", "table"), ("t.jsonl", "{", "table"),
    ],
)  # fmt: skip
def test_the_format_of_a_table_is_found(folder, name, text, form):
    content = text.encode()
    (folder / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert format_of(str(folder / name)) == form


def test_the_long_form_in_parquet(folder):
    table = datasets.Dataset.from_dict({"file_name": ["a.png"], "label": ["car"], "value": [1]})
    table.to_parquet(str(folder / "t.parquet"))
    assert format_of(str(folder / "t.parquet")) == "long"
    check(load_images(str(folder / "t.parquet")), labels=[[1]])


@pytest.mark.parametrize(
    ("file", "form"),
    [
        ("metadata.csv", "imagefolder"), ("train/metadata.jsonl", "imagefolder"), ("metadata.parquet", "imagefolder"),
        ("dataset_dict.json", "datasets"), ("state.json", "datasets"), ("train-00000-of-00001.parquet", "datasets"),
        ("data/train-00000-of-00001.parquet", "datasets"),
    ],
)  # fmt: skip
def test_the_format_of_a_folder_is_found(tmp_path, file, form):
    assert format_of(str(write_files(tmp_path, {file: ""}))) == form


def test_paths_of_no_format(folder):
    (folder / "empty").mkdir()
    write_files(folder, {"t.txt": "x", "t.json": "{}", "both/metadata.csv": "", "both/train.parquet": ""})
    for name, told in {
        "t.txt": ": no known format; a table ends in .csv, .csv.gz, ",
        "t.json": ": a JSON file, but not of COCO or LVIS",
        "empty": ": no known format; an image folder has metadata.csv",
        "both": ": it could be imagefolder, datasets; say which by format",
        "no.csv": ": no such file",
    }.items():
        assert error_of(str(folder / name)).startswith(f"{folder / name}{told}")
    assert (format_of("street_scenes"), format_of("owner/name")) == ("street_scenes", "datasets")
    assert error_of("./nowhere") == "./nowhere: no such file or folder"
    assert "did you mean street_scenes" in error_of("streetscenes")
    for path in ("x" * 5000, "y" * 5000 + "/x", "z" * 5000 + ".csv", "nul\0.csv", "nul\0"):
        assert path[:1] in error_of(path)
    assert error_of([]) == "data names no source"


def test_a_format_that_is_said_goes_before_one_that_is_found(folder):
    write_files(folder, {"t.csv": "file_name,label,value\na.png,1,0\n"})
    check(load_images({"path": str(folder / "t.csv"), "format": "table"}), names=("label", "value"))


def test_every_kind_of_source_through_one_door(tmp_path):
    """The same two answers from each format."""
    meta = draw(tmp_path / "meta", "a.png", "b.png")
    lines = [{"file_name": "a.png", "tags": ["car"]}, {"file_name": "b.png", "tags": []}]
    write_files(tmp_path, {
        "wide.csv": "file_name,car\na.png,1\nb.png,0\n",
        "long.csv": "file_name,label,value\na.png,car,1\nb.png,car,0\n",
        "train-annotations.csv": "ImageID,LabelName,Confidence\na,car,1\nb,car,0\n",
        "meta/metadata.jsonl": "\n".join(map(json.dumps, lines)),
    })  # fmt: skip
    saved = datasets.Dataset.from_dict({"image": [str(meta / "a.png"), str(meta / "b.png")], "car": [True, False]})
    saved.cast_column("image", datasets.Image()).save_to_disk(tmp_path / "saved")
    for path in ("wide.csv", "long.csv", "train-annotations.csv", "meta", "saved"):
        images = load_images({"path": str(tmp_path / path), "absent": "negative"}, image_folder=str(meta))
        check(images, names=("car",), labels=[[1], [0]])


def test_a_source_object_may_be_given(folder):
    assert parse_sources(Source("x.csv")) == [Source("x.csv")]
    assert parse_sources(["a", {"path": "b"}], "folder", ["?"]) == [
        Source("a", image_folder="folder", uncertain_values=("?",)),
        Source("b", image_folder="folder", uncertain_values=("?",)),
    ]


def test_missing_pictures_are_skipped_only_where_the_reader_can(folder):
    told = error_of({"path": str(folder / "cars.csv"), "missing_images": "skip"})
    assert told == f"{folder / 'cars.csv'}: missing_images: skip works for Open Images only, and this is table"


def test_a_reader_of_another_format_is_one_record(folder, monkeypatch):
    def read(source):
        files = Path(source.path).read_text().split()
        return build_images(files, [str(folder / file) for file in files], np.ones((len(files), 1), np.int8), ["car"])

    (folder / "cars.names").write_text("a.png b.png")
    assert "no known format" in error_of(str(folder / "cars.names"))
    monkeypatch.setitem(READERS, "names", Reader("names", lambda source: source.path.endswith(".names"), read))
    assert load_images(str(folder / "cars.names")).labels.tolist() == [[1], [1]]
    assert load_images({"path": str(folder / "cars.names"), "format": "names", "labels": ["car"]}).labels.all()


@pytest.mark.parametrize("absolute", [False, True])
def test_a_data_frame(folder, absolute):
    names = [f"{name}.png" for name in "abcd"]
    files = [folder / name if absolute else name for name in names]
    columns = {
        "file_name": files, "split": pd.Categorical(["train", "val", None, "test"]), 7: [1, 0, None, 1],
        "mixed": [1, 0.0, True, "no"],
        "more": pd.Series([None, np.nan, pd.NA, "?"], dtype=object), "group": [5, 5, 6, 7],
    }  # fmt: skip
    frame = pd.DataFrame(columns).set_axis([3, 3, 9, 9])
    images = load_images(frame, None if absolute else folder, uncertain_values=["?"])
    check(
        images, names=("7", "mixed", "more"), labels=[[1, 1, X], [0, 0, X], [X, 1, X], [1, 0, U]],
        split=["train", "validation", "", "test"], group=["5", "5", "6", "7"], source=["data frame"] * 4,
        paths=[str(folder / name) for name in names],
    )  # fmt: skip


def test_a_data_frame_with_options_and_faults(folder):
    long = pd.DataFrame({"file_name": ["a.png", "b.png"], "label": "car", "value": [1, 0]})
    images = load_images({"path": long, "name": "L", "label_map": {"car": "van"}}, folder)
    check(images, names=("van",), labels=[[1], [0]], source=["L", "L"])
    check(load_images([long, str(folder / "signs.csv")], str(folder)), names=("car", "sign", "Car"))
    wrong = pd.DataFrame({"file_name": ["a.png", "z.png"], "car": [1, 2]})
    assert error_of(wrong, image_folder=folder) == (
        "data frame, row 2, column 'car': label value 2 is not 1, 0 or unknown (empty, NaN, -1); "
        f"row 2, column 'file_name': no image 'z.png' in {folder}; is image_folder right?"
    )
    assert error_of(wrong.rename(columns={"file_name": "file"})).startswith("data frame: no column 'file_name'")
    assert error_of(wrong.iloc[:0]) == "data frame: the table has no rows"
    assert error_of(wrong.set_axis(["x", "x"], axis=1)) == "data frame: column 'x' is given twice"
    assert "is not UTF-8" in error_of(wrong.assign(file_name=pd.Series(["\ud800", "a.png"], dtype=object)))


def test_annotated_images_are_a_source(cars, signs):
    images = load_images(cars)
    check(load_images(images), labels=images.labels.tolist(), source=["C"] * 3)
    named = load_images([{"path": images, "name": "D", "labels": ["dog"]}, signs], labels=["sign", "dog"])
    check(named, labels=[[X, X], [1, U], [X, 1], [0, X]], source=["D", "D + S", "D", "S"])


def test_pictures_that_cannot_be_read_are_left_out_if_asked(folder, caplog):
    (folder / "b.png").write_bytes(b"nothing")
    path = str(folder / "signs.csv")
    assert (len(load_images(path)), load_images(path).skipped) == (2, ())
    images = load_images(path, bad_images="skip")
    check(images, file_name=["d.png"])
    (line,) = images.skipped
    assert "b.png" in line
    assert f"left out: {line}" in caplog.text
    assert load_images(images, bad_images="skip").skipped == (line,)
    assert error_of(path, bad_images="skpi") == "bad_images is 'skpi', expected error or skip"
