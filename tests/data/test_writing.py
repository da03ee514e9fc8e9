from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from halflabel import HalflabelError
from halflabel.data.images import from_records, write_shards, write_table
from halflabel.data.loading import load_images


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
