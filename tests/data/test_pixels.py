import random

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import TrainingArguments

from halflabel import MultiLabelTrainer, TimmMultiLabelImageProcessor
from halflabel.data.images import from_records
from halflabel.data.pixels import FeatureDataset, PixelDataset, collate, draw_seed, drawing, inspect_pictures
from halflabel.model.labels import evaluation_labels


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


@pytest.mark.parametrize("persistent", [False, True])
def test_augmentation_follows_from_seed_epoch_and_image_and_not_from_the_workers(
    colour_images, tiny_model, tmp_path, persistent
):
    """The batches of two epochs through the Trainer's own loader, which tells the data set its epoch."""
    transform = TimmMultiLabelImageProcessor.from_backbone(tiny_model.backbone).train_transform()
    tiny_model.freeze_backbone()

    def batches(workers, seed=0, resume=None, save=False):
        seen = []

        class Look(MultiLabelTrainer):
            def compute_loss(self, model, inputs, *arguments, **keywords):
                seen.append(inputs["pixel_values"].clone())
                return super().compute_loss(model, inputs, *arguments, **keywords)

        dataset = PixelDataset(colour_images, transform, evaluation_labels(colour_images.labels), seed=seed)
        arguments = TrainingArguments(
            output_dir=tmp_path / "run", num_train_epochs=2, per_device_train_batch_size=16, report_to="none", seed=5,
            use_cpu=True, disable_tqdm=True, remove_unused_columns=False, dataloader_pin_memory=False,
            save_strategy="steps" if save else "no", save_steps=2, dataloader_num_workers=workers,
            dataloader_persistent_workers=persistent and workers > 0,
        )  # fmt: skip
        Look(tiny_model, arguments, collate, dataset).train(resume)
        return seen

    alone = batches(0, save=True)
    assert len(alone) == 6
    for one, other in zip(alone, batches(2), strict=True):
        assert torch.equal(one, other)
    resumed = batches(2, resume=str(tmp_path / "run" / "checkpoint-2"))  # within the first epoch
    for one, other in zip(alone[2:], resumed, strict=True):
        assert torch.equal(one, other)
    for other in (batches(0, seed=1)[0], alone[3]):
        assert not any((picture == other).flatten(1).all(dim=1).any() for picture in alone[0])


def draw():
    return random.random(), np.random.random(), float(torch.rand(()))  # noqa: NPY002


def test_what_is_drawn_follows_from_the_seed_and_leaves_no_trace():
    torch.manual_seed(1)
    random.seed(2)
    np.random.seed(3)  # noqa: NPY002
    expected = draw()
    torch.manual_seed(1)
    random.seed(2)
    np.random.seed(3)  # noqa: NPY002
    with drawing(7):
        first = draw()
    assert draw() == expected
    with drawing(7):
        assert draw() == first
    with drawing(8):
        assert all(one != other for one, other in zip(draw(), first, strict=True))


def test_every_seed_turn_and_image_has_a_seed_of_its_own():
    seeds = {draw_seed(seed, turn, what) for seed in range(5) for turn in range(5) for what in (*range(30), "a", "b")}
    assert len(seeds) == 5 * 5 * 32
    assert all(0 <= seed < 2**32 for seed in seeds)
