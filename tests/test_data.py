import numpy as np
import torch
from PIL import Image

from halflabel.data import FeatureDataset, PixelDataset, collate, inspect_pictures
from halflabel.sources import from_records


def test_collate_gives_float_labels_with_the_ignore_index():
    dataset = FeatureDataset(torch.zeros(2, 3), np.array([[1, -100], [0, 1]], np.int8))
    batch = collate([dataset[0], dataset[1]])
    assert batch["labels"].dtype == torch.float32
    assert batch["labels"].tolist() == [[1.0, -100.0], [0.0, 1.0]]
    assert batch["features"].shape == (2, 3)


def test_pixels_and_labels_of_one_row(colour_images):
    dataset = PixelDataset(colour_images, lambda picture: torch.tensor(picture.size))
    assert len(dataset) == 48
    assert dataset[3]["pixel_values"].tolist() == [48, 48]
    assert (dataset[3]["labels"] == colour_images.labels[3]).all()


def test_the_same_rows_as_another_transform_shows_them(colour_images):
    dataset = PixelDataset(colour_images, lambda picture: torch.tensor(picture.size))
    other = dataset.with_transform(lambda picture: torch.tensor(picture.getpixel((0, 0))), None)
    assert other[3]["pixel_values"].tolist() == list(
        Image.open(colour_images.dataset[3]["image"]["path"]).getpixel((0, 0))
    )
    assert (other[3]["labels"] == dataset[3]["labels"]).all()
    assert dataset[3]["pixel_values"].tolist() == [48, 48]


def test_a_jpeg_is_decoded_no_larger_than_asked(tmp_path):
    Image.new("RGB", (400, 300)).save(tmp_path / "a.jpg")
    record = {"image": {"bytes": None, "path": str(tmp_path / "a.jpg")}, "file_name": "a.jpg", "labels": [1]}
    images = from_records([record], ["red"])
    sizes = [
        PixelDataset(images, lambda picture: torch.tensor(picture.size), shortest_side=side)[0]["pixel_values"].tolist()
        for side in (None, 100)
    ]
    assert sizes == [[400, 300], [200, 150]]


def test_inspection_tells_size_format_and_mode_or_what_is_wrong(tmp_path):
    Image.new("L", (30, 20)).save(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_bytes(b"no picture")
    records = [
        {"image": {"bytes": None, "path": str(tmp_path / name)}, "file_name": name, "labels": [1]}
        for name in ("a.png", "b.jpg", "gone.png")
    ]
    first, second, third = inspect_pictures(from_records(records, ["red"]), quiet=True)
    assert first == {"size": (30, 20), "format": "PNG", "mode": "L"}
    assert second == {"error": "image b.jpg cannot be read: it is not a picture of a known format"}
    assert third["error"].startswith("image gone.png cannot be read: ")
