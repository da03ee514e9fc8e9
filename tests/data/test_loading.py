import gzip
import json
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from halflabel import HalflabelError
from halflabel.data.images import build_images, write_shards, write_table
from halflabel.data.loading import READERS, Reader, find_format, load_images, load_sources, parse_sources
from halflabel.data.source import Source

X, U = -100, -101


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture
def folder(tmp_path):
    for i, name in enumerate("abcd"):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / f"{name}.png")
    (tmp_path / "cars.csv").write_text("file_name,car,dog,split\na.png,1,,train\nb.png,0,?,train\nc.png,,1,test\n")
    (tmp_path / "signs.csv").write_text("file_name,sign,Car\nb.png,1,0\nd.png,0,-1\n")
    return tmp_path


def error_of(data, **keys):
    with pytest.raises(HalflabelError) as error:
        load_images(data, **keys)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def test_one_source(folder):
    path = str(folder / "cars.csv")
    images = load_images(path, uncertain_values=["?"])
    assert images.label_space.names == ("car", "dog")
    assert images.labels.tolist() == [[1, X], [0, U], [X, 1]]
    assert images.column("source").tolist() == [path] * 3
    assert images.column("split").tolist() == ["train", "train", "test"]


def test_the_keys_of_a_source(folder):
    source = {"path": str(folder / "cars.csv"), "name": "cars", "labels": ["dog", "car"], "uncertain_values": ["?"],
              "label_map": {"car": "vehicle"}, "split": "validation"}  # fmt: skip
    images = load_images(source, uncertain_values=["ignored: the source says its own"])
    assert images.label_space.names == ("dog", "vehicle")
    assert images.labels.tolist() == [[X, 1], [U, 0], [1, X]]
    assert images.column("source").tolist() == ["cars"] * 3
    assert images.column("split").tolist() == ["validation"] * 3


def test_several_sources_become_one(folder):
    given = [
        {"path": str(folder / "cars.csv"), "name": "C", "uncertain_values": ["?"]},
        {"path": str(folder / "signs.csv"), "name": "S", "label_map": {"Car": "car"}},
    ]
    images = load_images(given)
    assert images.label_space.names == ("car", "dog", "sign")
    assert images.labels.tolist() == [[1, X, X], [0, U, 1], [X, 1, X], [X, X, 0]]
    assert images.column("source").tolist() == ["C", "C + S", "C", "S"]
    only = load_images(given, labels=["sign", "car"])
    assert only.label_space.names == ("sign", "car")
    assert only.labels.tolist() == [[X, 1], [1, 0], [X, X], [0, X]]
    assert "unknown label 'sing'; did you mean sign" in error_of(given, labels=["sing"])


def test_other_columns_may_hold_anything_where_labels_are_named(folder):
    (folder / "notes.csv").write_text("file_name,car,van,comment\na.png,1,0,nice\nd.png,0,,\n")
    path = str(folder / "notes.csv")
    assert "if 'comment' is no label, name the label columns by labels" in error_of(path)
    assert load_images(path, labels=["van"]).labels.tolist() == [[0], [X]]
    renamed = {"path": path, "label_map": {"van": "car"}}
    assert load_images(renamed, labels=["car"]).labels.tolist() == [[1], [X]]
    images = load_images([renamed, str(folder / "signs.csv")], labels=["sign", "car"])
    assert images.labels.tolist() == [[X, 1], [0, X], [1, X]]
    assert "unknown label 'vna'; did you mean van" in error_of(path, labels=["vna"])


def test_contradictions_between_sources(folder):
    (folder / "other.csv").write_text("file_name,car\na.png,0\n")
    given = [{"path": str(folder / "cars.csv"), "uncertain_values": ["?"]}, str(folder / "other.csv")]
    assert error_of(given).startswith("data: 'a.png': 'car' is 1 and 0 (1 in ")
    assert load_images(given, contradictions="unknown").labels[0].tolist() == [X, X]
    assert load_images(given, contradictions="first").labels[0].tolist() == [1, X]
    images, report = load_sources(parse_sources(given), contradictions="first")
    assert (len(images), report.joined, len(report.contradictions)) == (3, 1, 1)


def test_limits_take_the_first_images_of_each_split(folder):
    def kept(**limits):
        return load_images(str(folder / "cars.csv"), uncertain_values=["?"], **limits).column("file_name").tolist()

    assert kept(max_train_images=1) == ["a.png", "c.png"]
    assert kept(max_test_images=0) == ["a.png", "b.png"]
    assert kept(max_train_images=0, max_test_images=9) == ["c.png"]
    assert len(load_images(str(folder / "signs.csv"), max_train_images=1)) == 1  # without a split they are for training


def test_where_the_pictures_are(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    (folder / "signs.csv").rename(other / "signs.csv")
    path = str(other / "signs.csv")
    assert "no image 'b.png'" in error_of(path)
    assert len(load_images(path, image_folder=str(folder))) == 2
    assert len(load_images({"path": path, "image_folder": str(folder)}, image_folder="/nowhere")) == 2
    assert error_of(path, image_folder="/nowhere") == "image_folder '/nowhere': no such folder"


def test_what_halflabel_writes_says_where_each_image_came_from(folder):
    sources = [
        {"path": str(folder / "cars.csv"), "name": "C", "uncertain_values": ["?"]},
        {"path": str(folder / "signs.csv"), "name": "S"},
    ]
    images = load_images(sources)
    root = write_table(images, folder / "all.parquet")
    write_shards(images, folder / "shards", quiet=True)
    again = load_images(str(folder / "all.parquet"), image_folder=str(root))
    assert again.labels.tolist() == images.labels.tolist()
    assert again.column("source").tolist() == images.column("source").tolist() == ["C", "C + S", "C", "S"]
    shards = load_images(str(folder / "shards"))
    assert sorted(shards.column("source")) == ["C", "C", "C + S", "S"]
    named = load_images({"path": str(folder / "all.parquet"), "name": "all", "image_folder": str(root)})
    assert named.column("source").tolist() == ["all"] * 4


def test_the_embedded_scenes():
    images = load_images("street_scenes", max_train_images=2, max_test_images=1)
    assert images.column("split").tolist() == ["train", "train", "test"]
    assert images.column("source").tolist() == ["street_scenes"] * 3


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
    assert find_format(str(folder / name)) == form


def test_the_long_form_in_parquet(folder):
    table = datasets.Dataset.from_dict({"file_name": ["a.png"], "label": ["car"], "value": [1]})
    table.to_parquet(str(folder / "t.parquet"))
    assert find_format(str(folder / "t.parquet")) == "long"
    assert load_images(str(folder / "t.parquet")).labels.tolist() == [[1]]


def test_the_format_of_a_folder_is_found(folder):
    def make(name, file, text=""):
        (folder / name / file).parent.mkdir(parents=True)
        (folder / name / file).write_text(text)
        return find_format(str(folder / name))

    assert make("f1", "metadata.csv") == "imagefolder"
    assert make("f2", "train/metadata.jsonl") == "imagefolder"
    assert make("f3", "metadata.parquet") == "imagefolder"
    assert make("f4", "dataset_dict.json") == "datasets"
    assert make("f5", "state.json") == "datasets"
    assert make("f6", "train-00000-of-00001.parquet") == "datasets"
    assert make("f7", "data/train-00000-of-00001.parquet") == "datasets"
    assert find_format("street_scenes") == "street_scenes"
    assert find_format("owner/name") == "datasets"


def test_paths_of_no_format(folder):
    (folder / "t.txt").write_text("x")
    (folder / "t.json").write_text("{}")
    (folder / "empty").mkdir()
    both = folder / "both"
    both.mkdir()
    for name in ("metadata.csv", "train.parquet"):
        (both / name).write_text("")
    assert error_of(str(folder / "t.txt")).startswith(
        f"{folder / 't.txt'}: no known format; a table ends in .csv, .csv.gz, "
    )
    assert "t.json: a JSON file, but not of COCO or LVIS" in error_of(str(folder / "t.json"))
    assert error_of(str(folder / "empty")).startswith(
        f"{folder / 'empty'}: no known format; an image folder has metadata.csv"
    )
    assert error_of(str(both)) == f"{both}: it could be imagefolder, datasets; say which by format"
    assert error_of(str(folder / "no.csv")) == f"{folder / 'no.csv'}: no such file"
    assert error_of("./nowhere") == "./nowhere: no such file or folder"
    assert "did you mean street_scenes" in error_of("streetscenes")
    for path in ("x" * 5000, "y" * 5000 + "/x", "z" * 5000 + ".csv", "nul\0.csv", "nul\0"):
        assert path[:1] in error_of(path)
    assert error_of([]) == "data names no source"


def test_a_format_that_is_said_goes_before_one_that_is_found(folder):
    (folder / "t.csv").write_text("file_name,label,value\na.png,1,0\n")
    assert load_images({"path": str(folder / "t.csv"), "format": "table"}).label_space.names == ("label", "value")


def test_every_kind_of_source_through_one_door(folder):
    """The same two answers from each format."""
    (folder / "wide.csv").write_text("file_name,car\na.png,1\nb.png,0\n")
    (folder / "long.csv").write_text("file_name,label,value\na.png,car,1\nb.png,car,0\n")
    (folder / "train-annotations.csv").write_text("ImageID,LabelName,Confidence\na,car,1\nb,car,0\n")
    meta = folder / "meta"
    meta.mkdir()
    for name in "ab":
        (folder / f"{name}.png").rename(meta / f"{name}.png")
    lines = [{"file_name": "a.png", "tags": ["car"]}, {"file_name": "b.png", "tags": []}]
    (meta / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    saved = datasets.Dataset.from_dict({"image": [str(meta / "a.png"), str(meta / "b.png")], "car": [True, False]})
    saved.cast_column("image", datasets.Image()).save_to_disk(folder / "saved")
    for path in ("wide.csv", "long.csv", "train-annotations.csv", "meta", "saved"):
        images = load_images({"path": str(folder / path), "absent": "negative"}, image_folder=str(meta))
        assert (images.label_space.names, images.labels.tolist()) == (("car",), [[1], [0]])


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
    assert images.label_space.names == ("7", "mixed", "more")
    assert images.labels.tolist() == [[1, 1, X], [0, 0, X], [X, 1, X], [1, 0, U]]
    assert images.column("split").tolist() == ["train", "validation", "", "test"]
    assert images.column("group").tolist() == ["5", "5", "6", "7"]
    assert images.column("source").tolist() == ["data frame"] * 4
    assert [record["path"] for record in images.dataset["image"]] == [str(folder / name) for name in names]


def test_a_data_frame_with_options_and_faults(folder):
    long = pd.DataFrame({"file_name": ["a.png", "b.png"], "label": "car", "value": [1, 0]})
    images = load_images({"path": long, "name": "L", "label_map": {"car": "van"}}, folder)
    assert (images.label_space.names, images.labels.tolist()) == (("van",), [[1], [0]])
    assert images.column("source").tolist() == ["L", "L"]
    both = load_images([long, str(folder / "signs.csv")], str(folder))
    assert both.label_space.names == ("car", "sign", "Car")
    wrong = pd.DataFrame({"file_name": ["a.png", "z.png"], "car": [1, 2]})
    assert error_of(wrong, image_folder=folder) == (
        "data frame, row 2, column 'car': label value 2 is not 1, 0 or unknown (empty, NaN, -1); "
        f"row 2, column 'file_name': no image 'z.png' in {folder}; is image_folder right?"
    )
    assert error_of(wrong.rename(columns={"file_name": "file"})).startswith("data frame: no column 'file_name'")
    assert error_of(wrong.iloc[:0]) == "data frame: the table has no rows"
    assert error_of(wrong.set_axis(["x", "x"], axis=1)) == "data frame: column 'x' is given twice"
    assert "is not UTF-8" in error_of(wrong.assign(file_name=pd.Series(["\ud800", "a.png"], dtype=object)))


def test_annotated_images_are_a_source(folder):
    cars, signs = load_images(str(folder / "cars.csv"), uncertain_values=["?"]), str(folder / "signs.csv")
    again = load_images(cars)
    assert again.labels.tolist() == cars.labels.tolist()
    assert again.column("source").tolist() == cars.column("source").tolist()
    named = load_images([{"path": cars, "name": "C", "labels": ["dog"]}, signs], labels=["sign", "dog"])
    assert named.labels.tolist() == [[X, X], [1, U], [X, 1], [0, X]]
    assert named.column("source").tolist() == ["C", f"C + {signs}", "C", signs]


def test_pictures_that_cannot_be_read_are_left_out_if_asked(folder, caplog):
    (folder / "b.png").write_bytes(b"nothing")
    path = str(folder / "signs.csv")
    assert (len(load_images(path)), load_images(path).skipped) == (2, ())
    images = load_images(path, bad_images="skip")
    assert images.column("file_name").tolist() == ["d.png"]
    assert len(images.skipped) == 1
    assert "b.png" in images.skipped[0]
    assert f"left out: {images.skipped[0]}" in caplog.text
    assert load_images(images, bad_images="skip").skipped == images.skipped
    assert error_of(path, bad_images="skpi") == "bad_images is 'skpi', expected error or skip"
