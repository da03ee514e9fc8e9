import pytest
import torch

from halflabel import TimmMultiLabelForImageClassification, TimmMultiLabelImageProcessor
from halflabel.data.images import from_records
from halflabel.data.pixels import PixelDataset
from halflabel.model.errors import HalflabelError
from halflabel.training.feature_keys import backbone_parts, hash_parts, hash_weights, row_keys


def keys(pixels, *arguments):
    return [key for keys in row_keys(pixels, *arguments) for key in keys]


@pytest.fixture
def processor(tiny_model):
    return TimmMultiLabelImageProcessor.from_backbone(tiny_model.backbone)


@pytest.fixture
def pixels(colour_images, processor):
    return PixelDataset(colour_images, processor.eval_transform())


def test_every_picture_has_a_key_of_its_own(pixels):
    assert len(set(keys(pixels))) == 48
    assert keys(pixels) == keys(pixels)


def test_order_split_and_labels_do_not_matter(pixels, colour_images, processor):
    chosen = colour_images.select([7, 3]).with_column("split", ["test", ""])
    chosen = chosen.with_labels(1 - chosen.labels.clip(0, 1))
    all_keys = keys(pixels)
    assert keys(PixelDataset(chosen, processor.eval_transform())) == [all_keys[7], all_keys[3]]


def test_a_changed_picture_has_another_key(pixels, colour_table):
    before = keys(pixels)
    (colour_table.parent / "003.png").write_bytes((colour_table.parent / "004.png").read_bytes())
    after = keys(pixels)
    assert [i for i in range(48) if before[i] != after[i]] == [3]


def test_embedded_pictures_are_known_by_their_bytes(processor, colour_table):
    def embedded(folder, numbers):
        records = [
            {
                "image": {"bytes": (colour_table.parent / f"{n:03d}.png").read_bytes(), "path": f"{folder}/{n}"},
                "labels": [0],
            }
            for n in numbers
        ]
        return keys(PixelDataset(from_records(records, ["red"]), processor.eval_transform()))

    first, second, again = embedded("a", [1, 2, 1])
    assert first == again != second
    assert embedded("b", [2]) == [second]


@pytest.mark.parametrize("change", ["crop_pct", "mean", "train", "shortest_side", "pillow", "function"])
def test_what_changes_pixels_changes_keys(pixels, colour_images, processor, change, monkeypatch):
    transform, side, before = processor.eval_transform(), None, keys(pixels)
    if change in ("crop_pct", "mean"):
        setattr(processor, change, 0.5 if change == "crop_pct" else [0.1, 0.2, 0.3])
        transform = processor.eval_transform()
    elif change == "train":
        transform = processor.train_transform()
    elif change == "shortest_side":
        side = 64
    elif change == "function":
        transform = lambda picture: torch.zeros(3, 8, 8)  # noqa: E731
        other = lambda picture: torch.ones(3, 8, 8)  # noqa: E731
        assert keys(PixelDataset(colour_images, transform)) != keys(PixelDataset(colour_images, other))
    else:
        monkeypatch.setattr("halflabel.training.feature_keys.version", lambda name: "0")
    assert not set(before) & set(keys(PixelDataset(colour_images, transform, None, side)))


def test_views_differ_by_number_seed_and_name_and_the_first_by_none(pixels, colour_images):
    views = list(row_keys(pixels, range(3)))
    assert len({key for keys in views for key in keys}) == 3 * 48
    other = list(row_keys(pixels, range(3), 1))
    assert [a[0] == b[0] for a, b in zip(views, other, strict=True)] == [True] * 48
    assert not {key for keys in views for key in keys[1:]} & {key for keys in other for key in keys[1:]}
    renamed = colour_images.with_column("file_name", [f"x{i}" for i in range(48)])
    moved = next(iter(row_keys(PixelDataset(renamed, pixels.transform), range(3))))
    assert moved[0] == views[0][0]
    assert moved[1] != views[0][1]


def test_a_missing_picture_is_named(pixels, colour_table):
    (colour_table.parent / "003.png").unlink()
    with pytest.raises(HalflabelError, match="image 003.png cannot be read"):
        keys(pixels)


def test_a_picture_without_bytes_and_path_is_named(processor):
    images = from_records([{"image": {"bytes": b"", "path": None}, "file_name": "x", "labels": [0]}], ["red"])
    dataset = images.dataset.map(lambda row: {"image": {"bytes": None, "path": None}})
    pixels = PixelDataset(images, processor.eval_transform())
    pixels.dataset = dataset
    with pytest.raises(HalflabelError, match="image x cannot be read: there are neither bytes nor a path"):
        keys(pixels)


def model_of(**arguments):
    torch.manual_seed(0)
    arguments = {"backbone": "test_resnet", "label_names": ["a"], "weights": None, **arguments}
    return TimmMultiLabelForImageClassification.from_backbone(**arguments)


def key(model):
    return hash_parts(backbone_parts(model))


def test_the_backbone_key_does_not_depend_on_labels_or_on_the_kind_of_pooled_head():
    assert key(model_of()) == key(model_of(label_names=["b", "c"], head="mlp"))


@pytest.mark.parametrize(
    "change",
    [
        {"backbone": "test_resnet.r160_in1k"},
        {"backbone_args": {"drop_rate": 0.5}},
        {"head": "csra"},
        {"weights": "one"},
        {"buffer": "one"},
        {"stride": 1},
        {"dtype": torch.bfloat16},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_changes_features_changes_the_backbone_key(change):
    (what, value), model = next(iter(change.items())), model_of()
    before = key(model)
    if what in ("backbone", "backbone_args", "head"):
        model = model_of(**change)
    elif what == "weights":
        next(model.backbone.parameters()).data.view(-1)[0] += 1e-3
    elif what == "buffer":
        model.backbone.bn1.running_mean[0] += 1e-3
    elif what == "stride":
        model.backbone.conv1[0].stride = (value, value)
    else:
        model = model.to(value)
    assert key(model) != before


def test_weights_are_the_same_in_another_memory_layout():
    model = model_of()
    before = hash_weights(model.backbone)
    assert hash_weights(model.to(memory_format=torch.channels_last).backbone) == before
