from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from halflabel import HalflabelError
from halflabel.data.images import (
    FEATURES,
    AnnotatedImages,
    build_images,
    check_split,
    from_records,
    write_shards,
    write_table,
)
from halflabel.data.loading import load_images
from halflabel.model.labels import LabelSpace


def test_labels_can_be_replaced_and_selected(colour_images):
    flipped = np.where(colour_images.labels == 1, 0, colour_images.labels).astype(np.int8)
    changed = colour_images.with_labels(flipped)
    assert (changed.labels == flipped).all()
    assert changed.dataset["file_name"][:] == colour_images.dataset["file_name"][:]
    assert changed.dataset.features == colour_images.dataset.features
    assert (colour_images.select([5, 2]).labels == colour_images.labels[[5, 2]]).all()
    assert len(colour_images.of_split("test")) == 16


def test_labels_can_be_narrowed_and_reordered(colour_images):
    narrowed = colour_images.with_only(["blue", "red"])
    assert (narrowed.labels == colour_images.labels[:, ::-1]).all()
    with pytest.raises(HalflabelError, match="did you mean blue"):
        colour_images.with_only(["bleu"])


LABELS = np.array([[1, 0], [-100, -101], [0, 1]], np.int8)


def built(**texts):
    return build_images(["a", "b", "c"], ["/x/a", "/x/b", "/x/c"], LABELS, ["car", "dog"], **texts)


def test_pictures_on_disk_stay_there():
    images = built(splits=["train", "", "test"], groups=["g", "", "g"], sources=["s", "", ""])
    assert images.dataset.features == FEATURES
    assert images.dataset[:] == {
        "image": [{"bytes": None, "path": f"/x/{name}"} for name in "abc"],
        "file_name": ["a", "b", "c"], "split": ["train", "", "test"], "group": ["g", "", "g"], "source": ["s", "", ""],
    }  # fmt: skip
    assert images.labels.tolist() == LABELS.tolist()
    assert (
        built().column("split").tolist()
        == built().column("group").tolist()
        == built().column("source").tolist()
        == [""] * 3
    )


def test_records_hold_what_they_say():
    rows = [
        {"image": {"bytes": b"1", "path": None}, "labels": [1]},
        {"image": {"bytes": None, "path": "p"}, "labels": [-100], "split": "test"},
    ]
    images = from_records(iter(rows), ["x"])
    assert images.labels.tolist() == [[1], [-100]]
    assert images.column("split").tolist() == ["", "test"]
    assert images.dataset["image"][:] == [{"bytes": b"1", "path": None}, {"bytes": None, "path": "p"}]


def test_one_column_is_replaced_and_the_others_stay():
    images = built(splits=["train", "", "test"])
    changed = images.with_column("split", np.array(["a", "b", "c"], dtype=object))
    assert changed.dataset.features == FEATURES
    assert changed.column("split").tolist() == ["a", "b", "c"]
    assert changed.column("file_name").tolist() == ["a", "b", "c"]
    assert images.column("split").tolist() == ["train", "", "test"]
    assert images.select([2, 0]).with_column("group", ["x", "y"]).dataset[0] == {
        "image": {"bytes": None, "path": "/x/c"}, "file_name": "c", "split": "test", "group": "x", "source": ""
    }  # fmt: skip


def test_labels_of_another_shape_are_refused():
    with pytest.raises(HalflabelError, match=r"labels have shape \(3, 2\), expected \(images, num_labels\) \(3, 1\)"):
        AnnotatedImages(built().dataset, LabelSpace(["car"]), LABELS)
    with pytest.raises(HalflabelError, match=r"label value .*2.* at row 1, column 0"):
        built().with_labels(np.array([[1, 0], [2, 0], [0, 0]], np.int8))


@pytest.mark.parametrize(
    ("given", "standard"),
    [("train", "train"), (" Training ", "train"), ("VAL", "validation"), ("valid", "validation"), ("dev", "validation"),
     ("validate", "validation"), ("validation", "validation"), ("test", "test")],
)  # fmt: skip
def test_splits_have_standard_names(given, standard):
    assert check_split(given) == standard


@pytest.mark.parametrize("given", ["", "trian", "all", "test2"])
def test_other_splits_are_refused(given):
    with pytest.raises(HalflabelError, match=f"split {given!r} is none of train, validation, test"):
        check_split(given)


@pytest.fixture
def images(tmp_path):
    """5 pictures in two folders, every kind of answer, splits and groups."""
    (tmp_path / "p" / "deep").mkdir(parents=True)
    labels = np.array([[1, 0, -100], [-101, -100, 1], [0, 1, -101], [-100, -100, -100], [1, 1, 1]], np.int8)
    rows = []
    for i, row in enumerate(labels):
        path = tmp_path / "p" / ("deep" if i % 2 else ".") / f"{i}.png"
        Image.new("RGB", (8, 8), (40 * i, 0, 0)).save(path)
        rows.append({"image": {"path": str(path), "bytes": None}, "file_name": f"{i}.png", "labels": row,
                     "split": ["train", "test", "", "validation", "train"][i], "group": ["g", "", "", "g", ""][i],
                     "source": "s"})  # fmt: skip
    return from_records(rows, ["b", "a", "c d"])


def test_a_table_holds_every_answer(images, tmp_path):
    root = write_table(images, tmp_path / "t.parquet")
    assert root == tmp_path / "p"
    table = pyarrow.parquet.read_table(tmp_path / "t.parquet")
    assert table.column("b").to_pylist() == [1, -101, 0, None, 1]
    again = load_images(tmp_path / "t.parquet", image_folder=root)
    assert again.label_space.names == ("b", "a", "c d")
    assert (again.labels == images.labels).all()
    for name in ("split", "group"):
        assert again.column(name).tolist() == images.column(name).tolist()
    assert again.column("file_name").tolist() == ["0.png", "deep/1.png", "2.png", "deep/3.png", "4.png"]


def test_shards_hold_pictures_and_every_answer(images, tmp_path):
    count = write_shards(images, tmp_path / "s", shard_bytes=1, quiet=True)
    files = sorted(path.name for path in (tmp_path / "s").iterdir())
    assert count == len(files) == 5
    assert files[0] == "test-00000-of-00001.parquet"
    assert files[-1] == "validation-00000-of-00001.parquet"
    again = load_images(str(tmp_path / "s"))
    order = [again.column("file_name").tolist().index(f"{i}.png") for i in range(5)]
    assert again.label_space.names == ("b", "a", "c d")
    assert (again.labels[order] == images.labels).all()
    assert again.column("split")[order].tolist() == ["train", "test", "train", "validation", "train"]
    for i in range(5):
        assert again.dataset[order[i]]["image"]["bytes"] == (Path(images.dataset[i]["image"]["path"]).read_bytes())


def test_a_folder_with_shards_is_not_written_into(images, tmp_path):
    write_shards(images, tmp_path / "s", quiet=True)
    with pytest.raises(HalflabelError, match="holds Parquet files already"):
        write_shards(images, tmp_path / "s", quiet=True)


def test_pictures_that_are_not_files_need_shards(images, tmp_path):
    write_shards(images, tmp_path / "s", quiet=True)
    embedded = load_images(str(tmp_path / "s"))
    with pytest.raises(HalflabelError, match="write shards instead"):
        write_table(embedded, tmp_path / "t.parquet")
    assert write_shards(embedded, tmp_path / "again", quiet=True) == 3


def test_a_picture_that_vanished_is_named(images, tmp_path):
    (tmp_path / "p" / "4.png").unlink()
    with pytest.raises(HalflabelError, match=r"4\.png.*No such file"):
        write_shards(images, tmp_path / "s", quiet=True)
