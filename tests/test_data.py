import io

import numpy as np
import pytest
import torch
from PIL import Image

from halflabel import HalflabelError
from halflabel.data import FeatureDataset, PixelDataset, assign_splits, collate, decode_image
from halflabel.sources import from_records


def images_of(count, split="", groups=None):
    return from_records(
        (
            {"image": {"path": f"{i}", "bytes": None}, "file_name": f"{i}", "labels": [i % 2], "split": split,
             "group": groups[i] if groups else ""}
            for i in range(count)
        ),
        ["a"],
    )  # fmt: skip


def test_groups_stay_together_and_shares_are_kept():
    images = images_of(300, groups=[str(i // 5) for i in range(300)])
    cut = assign_splits(images, 0.25, 0.2, seed=1)
    splits, groups = cut.column("split"), cut.column("group")
    for group in set(groups):
        assert len(set(splits[groups == group])) == 1
    assert (splits == "test").mean() == pytest.approx(0.2, abs=0.01)
    assert (splits == "validation").mean() == pytest.approx(0.25 * 0.8, abs=0.02)
    assert (splits == assign_splits(images, 0.25, 0.2, seed=1).column("split")).all()
    assert (splits != assign_splits(images, 0.25, 0.2, seed=2).column("split")).any()


def test_given_splits_are_kept_and_validation_comes_from_train_only():
    records = images_of(40).dataset.remove_columns("split").add_column("split", ["train"] * 30 + ["test"] * 10)
    images = type(images_of(1))(records, images_of(1).label_space)
    cut = assign_splits(images, 0.2, 0.5, seed=0).column("split")
    assert (cut[30:] == "test").all()
    assert (cut[:30] == "validation").sum() == 6
    assert (cut[:30] == "test").sum() == 0
    assert (assign_splits(images, 0, 0, seed=0).column("split") == images.column("split")).all()


def test_a_share_out_of_range_and_no_training_image():
    with pytest.raises(HalflabelError, match="validation_share is 1"):
        assign_splits(images_of(4), 1, 0, 0)
    with pytest.raises(HalflabelError, match="no image is left to train on"):
        assign_splits(images_of(4, split="test"), 0.1, 0.1, 0)


def test_collate_gives_float_labels_with_the_ignore_index():
    dataset = FeatureDataset(torch.zeros(2, 3), np.array([[1, -100], [0, 1]], np.int8))
    batch = collate([dataset[0], dataset[1]])
    assert batch["labels"].dtype == torch.float32
    assert batch["labels"].tolist() == [[1.0, -100.0], [0.0, 1.0]]
    assert batch["features"].shape == (2, 3)


def encoded(picture, **options):
    content = io.BytesIO()
    picture.save(content, options.pop("format", "PNG"), **options)
    return {"bytes": content.getvalue(), "path": "p"}


def test_exif_orientation_is_applied():
    picture = Image.new("RGB", (40, 20))
    exif = picture.getexif()
    exif[0x0112] = 6  # turned by a quarter
    assert decode_image(encoded(picture, format="JPEG", exif=exif)).size == (20, 40)


@pytest.mark.parametrize("content", [b"", b"no picture", None])
def test_an_unreadable_picture_is_named(content, tmp_path):
    record = {"bytes": content, "path": str(tmp_path / "gone.jpg")}
    with pytest.raises(HalflabelError, match=r"image photo\.jpg cannot be read"):
        decode_image(record, "photo.jpg")


def test_a_truncated_picture_is_named():
    record = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)), format="JPEG")
    record["bytes"] = record["bytes"][: len(record["bytes"]) // 2]
    with pytest.raises(HalflabelError, match="cannot be read"):
        decode_image(record, "half.jpg")


def test_pixels_and_labels_of_one_row(colour_images):
    dataset = PixelDataset(colour_images, lambda picture: torch.tensor(picture.size))
    assert len(dataset) == 48
    assert dataset[3]["pixel_values"].tolist() == [48, 48]
    assert (dataset[3]["labels"] == colour_images.labels[3]).all()
