"""What lies in the cache of features is used again, and only where it is the same."""

import feature_run
import forked
import numpy as np
import pytest
import torch
from PIL import Image

from halflabel import HalflabelError, TimmMultiLabelForImageClassification, TimmMultiLabelImageProcessor
from halflabel.data.pixels import PixelDataset
from halflabel.training.feature_shards import FeatureDataset
from halflabel.training.feature_views import Views
from halflabel.training.features import cached_features, extract_features


@pytest.fixture
def model(tiny_model):
    tiny_model.freeze_backbone()
    return tiny_model


@pytest.fixture
def run(model, tmp_path, monkeypatch):
    """Return features through the cache, and how many rows the backbone computed for it."""
    computed = []
    monkeypatch.setattr(
        "halflabel.training.network_threads.fold_batch_norms", lambda model, pixels: model
    )  # it runs pictures too

    def run(images, views=1, seed=0, folder=tmp_path / "cache", network=model):
        computed.clear()
        hook = network.backbone.conv1.register_forward_hook(lambda _, inputs, __: computed.append(len(inputs[0])))
        processor = TimmMultiLabelImageProcessor.from_backbone(network.backbone)
        plain, augmented = (PixelDataset(images, t) for t in (processor.eval_transform(), processor.train_transform()))
        features = cached_features(network, Views(plain, augmented, views, seed), folder, quiet=True)
        hook.remove()
        return features, sum(computed)

    return run


def test_a_second_run_computes_nothing_and_gives_the_same_bits(run, colour_images, model):
    first, computed = run(colour_images)
    second, again = run(colour_images)
    assert (computed, again) == (48, 0)
    assert torch.equal(first, second)
    plain = PixelDataset(colour_images, TimmMultiLabelImageProcessor.from_backbone(model.backbone).eval_transform())
    torch.testing.assert_close(first, extract_features(model, plain, quiet=True), rtol=1e-5, atol=1e-5)
    assert run(colour_images, folder=None)[1] == 48


def test_order_and_growth_cost_only_what_is_new(run, colour_images):
    some, computed = run(colour_images.select(range(40)))
    assert computed == 40
    order = np.random.default_rng(0).permutation(48)
    everything, computed = run(colour_images.select(order))
    assert computed == 8
    for place, image in enumerate(order):
        if image < 40:
            assert torch.equal(everything[place], some[image])


@pytest.mark.parametrize("change", ["weights", "picture", "transform"])
def test_what_is_no_longer_the_same_is_computed_again(run, colour_images, model, change, monkeypatch):
    before, _ = run(colour_images)
    if change == "weights":
        with torch.no_grad():
            next(model.backbone.parameters()).add_(0.1)
    elif change == "picture":
        Image.new("RGB", (48, 48), "lime").save(colour_images.dataset[5]["image"]["path"])
    else:
        model.backbone.pretrained_cfg["mean"] = model.backbone.default_cfg["mean"] = (0.1, 0.2, 0.3)
    after, computed = run(colour_images)
    assert computed == (1 if change == "picture" else 48)
    assert not torch.equal(before[5], after[5])


def test_views_are_drawn_the_same_way_and_shown_in_turn(run, colour_images):
    images = colour_images.select(range(6))
    one, _ = run(images)
    three, computed = run(images, views=3)
    assert computed == 12  # the evaluation view was there
    assert torch.equal(three[::3], one)
    assert not torch.equal(three[1], three[2])
    again, _ = run(images, views=3, folder=None)
    torch.testing.assert_close(again, three, rtol=1e-5, atol=1e-5)
    other, _ = run(images, views=3, seed=1, folder=None)
    assert not torch.allclose(other[1::3], three[1::3], atol=1e-3)
    dataset = FeatureDataset(three, np.zeros((6, 2), np.int8), views=3)
    shown = []
    for epoch in range(3):
        dataset.set_epoch(epoch)
        shown.append([next(i for i in range(3) if torch.equal(dataset[4]["features"], three[12 + i]))])
    assert sorted(sum(shown, [])) == [0, 1, 2]


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty"])
def test_a_damaged_shard_is_made_again_with_a_warning(run, colour_images, tmp_path, damage, caplog):
    first, _ = run(colour_images)
    (shard,) = (tmp_path / "cache").rglob("shard-*.safetensors")
    content = shard.read_bytes()
    shard.write_bytes(
        {"cut": content[: len(content) // 2], "garbage": content[:-8] + b"\xff" * 8, "empty": b""}[damage]
    )
    with caplog.at_level("WARNING", logger="halflabel"):
        again, computed = run(colour_images)
    assert computed == 48
    assert torch.equal(first, again)
    assert "made again" in caplog.text
    assert run(colour_images)[1] == 0


def test_positions_stay_on_disk_and_come_row_by_row(run, colour_images, tmp_path):
    network = TimmMultiLabelForImageClassification.from_backbone("test_resnet", ["a"], weights=None, head="csra")
    network.freeze_backbone()
    rows, computed = run(colour_images, network=network)
    assert computed == 48
    assert not isinstance(rows, torch.Tensor)
    held, _ = run(colour_images, network=network, folder=None)
    assert held.ndim == 3
    torch.testing.assert_close(torch.stack([rows[i] for i in range(48)]), held, rtol=1e-5, atol=1e-5)
    dataset = FeatureDataset(rows, np.zeros((48, 1), np.int8))
    network.head.standardize_(dataset.sample())
    mean = held.double().mean(dim=(0, 1)).float()
    torch.testing.assert_close(network.head.feature_mean, mean, rtol=1e-4, atol=1e-5)


def test_a_killed_run_keeps_its_finished_shards(run, colour_images, colour_table, tmp_path, model):
    """The process kills itself after the first of six shards."""
    model.save_pretrained(tmp_path / "model")
    arguments = tmp_path / "model", colour_table, tmp_path / "cache"
    process = forked.start(feature_run.die_after_a_shard, *arguments, output=tmp_path / "output.txt")
    process.join()
    assert process.exitcode == -9, (tmp_path / "output.txt").read_text()
    _, computed = run(colour_images)
    assert computed == 40


def test_a_folder_that_cannot_be_written_to_says_which_key_to_set(run, colour_images, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HalflabelError, match="set feature_cache to another folder"):
        run(colour_images, folder=tmp_path / "file" / "cache")
    with pytest.raises(HalflabelError, match="views is 0"):
        run(colour_images, views=0)
