from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from killed_runs import halflabel
from reading import check, draw, error_of

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
from halflabel_cli import main


def test_labels_can_be_replaced_and_selected(colour_images):
    flipped = np.where(colour_images.labels == 1, 0, colour_images.labels).astype(np.int8)
    changed = colour_images.with_labels(flipped)
    assert (changed.labels == flipped).all()
    assert changed.dataset["file_name"][:] == colour_images.dataset["file_name"][:]
    assert changed.dataset.features == colour_images.dataset.features
    assert (colour_images.select([5, 2]).labels == colour_images.labels[[5, 2]]).all()
    assert len(colour_images.of_split("test")) == 16
    narrowed = colour_images.with_only(["blue", "red"])
    assert (narrowed.labels == colour_images.labels[:, ::-1]).all()
    assert "did you mean blue" in error_of(colour_images.with_only, ["bleu"])


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
    check(built(), split=[""] * 3, group=[""] * 3, source=[""] * 3)


def test_records_hold_what_they_say():
    rows = [
        {"image": {"bytes": b"1", "path": None}, "labels": [1]},
        {"image": {"bytes": None, "path": "p"}, "labels": [-100], "split": "test"},
    ]
    images = from_records(iter(rows), ["x"])
    check(images, labels=[[1], [-100]], split=["", "test"])
    assert images.dataset["image"][:] == [{"bytes": b"1", "path": None}, {"bytes": None, "path": "p"}]


def test_one_column_is_replaced_and_the_others_stay():
    images = built(splits=["train", "", "test"])
    changed = images.with_column("split", np.array(["a", "b", "c"], dtype=object))
    assert changed.dataset.features == FEATURES
    check(changed, split=["a", "b", "c"], file_name=["a", "b", "c"])
    check(images, split=["train", "", "test"])
    assert images.select([2, 0]).with_column("group", ["x", "y"]).dataset[0] == {
        "image": {"bytes": None, "path": "/x/c"}, "file_name": "c", "split": "test", "group": "x", "source": ""
    }  # fmt: skip


def test_labels_of_another_shape_are_refused():
    assert error_of(AnnotatedImages, built().dataset, LabelSpace(["car"]), LABELS) == (
        "labels have shape (3, 2), expected (images, num_labels) (3, 1)"
    )
    with pytest.raises(HalflabelError, match=r"label value .*2.* at row 1, column 0"):
        built().with_labels(np.array([[1, 0], [2, 0], [0, 0]], np.int8))


def test_splits_have_standard_names():
    validation = dict.fromkeys(("VAL", "valid", "dev", "validate", "validation"), "validation")
    for given, standard in {"train": "train", " Training ": "train", "test": "test", **validation}.items():
        assert check_split(given) == standard
    for given in ("", "trian", "all", "test2"):
        assert error_of(check_split, given).startswith(f"split {given!r} is none of train, validation, test")


@pytest.fixture
def images(tmp_path):
    """5 pictures in two folders, every kind of answer, splits and groups."""
    labels = np.array([[1, 0, -100], [-101, -100, 1], [0, 1, -101], [-100, -100, -100], [1, 1, 1]], np.int8)
    files = ["0.png", "deep/1.png", "2.png", "deep/3.png", "4.png"]
    draw(tmp_path / "p", *files)
    splits, groups = ["train", "test", "", "validation", "train"], ["g", "", "", "g", ""]
    rows = [
        {"image": {"path": str(tmp_path / "p" / file), "bytes": None}, "file_name": Path(file).name, "labels": row,
         "split": split, "group": group, "source": "s"}
        for file, row, split, group in zip(files, labels, splits, groups, strict=True)
    ]  # fmt: skip
    return from_records(rows, ["b", "a", "c d"])


def test_a_table_holds_every_answer(images, tmp_path):
    root = write_table(images, tmp_path / "t.parquet")
    assert root == tmp_path / "p"
    table = pyarrow.parquet.read_table(tmp_path / "t.parquet")
    assert table.column("b").to_pylist() == [1, -101, 0, None, 1]
    again = load_images(tmp_path / "t.parquet", image_folder=root)
    kept = {name: images.column(name).tolist() for name in ("split", "group")}
    check(again, names=("b", "a", "c d"), labels=images.labels.tolist(), **kept,
          file_name=["0.png", "deep/1.png", "2.png", "deep/3.png", "4.png"])  # fmt: skip


def test_shards_hold_pictures_and_every_answer(images, tmp_path):
    count = write_shards(images, tmp_path / "s", shard_bytes=1, quiet=True)
    files = sorted(path.name for path in (tmp_path / "s").iterdir())
    assert count == len(files) == 5
    assert (files[0], files[-1]) == ("test-00000-of-00001.parquet", "validation-00000-of-00001.parquet")
    again = load_images(str(tmp_path / "s"))
    again = again.select(again.column("file_name").tolist().index(f"{i}.png") for i in range(5))
    check(again, names=("b", "a", "c d"), labels=images.labels.tolist(),
          split=["train", "test", "train", "validation", "train"])  # fmt: skip
    for old, new in zip(images.dataset["image"], again.dataset["image"], strict=True):
        assert new["bytes"] == Path(old["path"]).read_bytes()


@pytest.mark.parametrize("kill_at", [(r"validation-00000", 1), (r"-00000\.parquet\.part", 2, "os.rename")])
def test_shards_whose_writing_was_killed_are_never_taken_for_whole(images, tmp_path, capsys, kill_at):
    table, shards = tmp_path / "t.parquet", tmp_path / "s"
    write_table(images, table)
    command = ["data", str(table), "--image_folder", str(tmp_path / "p"), "--quiet", "--output", f"{shards}/"]
    assert halflabel(command, tmp_path / "output.txt", kill_at=kill_at) == -9
    assert 0 < len(list(shards.glob("*.part"))) < 3
    assert main(["data", str(shards)]) == 2
    assert "the writing of these shards was stopped: remove them, and write them again" in capsys.readouterr().err
    if "os.rename" in kill_at:  # some have their names: nobody's files are removed unasked
        assert "holds Parquet files already" in error_of(write_shards, images, shards, quiet=True)
        return
    assert write_shards(images, shards, quiet=True) == len(list(shards.iterdir())) == 3
    assert len(load_images(str(shards))) == 5


def test_what_cannot_be_written(images, tmp_path):
    write_shards(images, tmp_path / "s", quiet=True)
    assert "holds Parquet files already" in error_of(write_shards, images, tmp_path / "s", quiet=True)
    embedded = load_images(str(tmp_path / "s"))
    assert "write shards instead" in error_of(write_table, embedded, tmp_path / "t.parquet")
    assert write_shards(embedded, tmp_path / "again", quiet=True) == 3
    (tmp_path / "p" / "4.png").unlink()
    with pytest.raises(HalflabelError, match=r"4\.png.*No such file"):
        write_shards(images, tmp_path / "gone", quiet=True)
