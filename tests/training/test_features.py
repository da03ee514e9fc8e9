import logging
import platform
import random
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import feature_run
import forked
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainingArguments

from halflabel import (
    HalflabelError,
    MultiLabelTrainer,
    TimmMultiLabelForImageClassification,
    TimmMultiLabelImageProcessor,
)
from halflabel.data.pixels import FeatureDataset, PixelDataset, collate
from halflabel.model.image_processing_timm_multilabel import decode_image
from halflabel.training import features
from halflabel.training.cache import MappedRows
from halflabel.training.features import Views, cached_features, keep_freed_memory, run_backbone


@pytest.fixture
def processor(tiny_model):
    return TimmMultiLabelImageProcessor.from_backbone(tiny_model.backbone)


@pytest.fixture
def views(colour_images, processor):
    return Views(PixelDataset(colour_images, processor.eval_transform()))


@pytest.fixture
def passes(tiny_model):
    """Count the images that pass the first layer, of each batch."""
    counted = []
    tiny_model.backbone.conv1[0].register_forward_hook(lambda layer, pixels, _: counted.append(len(pixels[0])))
    return counted


def cached(model, views, folder, **options):
    return cached_features(model, views, folder, quiet=True, **options)


def rows_on_disk(folder):
    return sum(len(load_file(path)["keys"]) for path in Path(folder).rglob("*.safetensors"))


def test_a_second_run_does_not_touch_the_backbone_and_gets_the_same_bits(tiny_model, views, passes, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    first = cached(tiny_model, views, tmp_path / "cache", title="features of train")
    assert sum(passes) == 48
    passes.clear()
    second = cached(tiny_model, views, tmp_path / "cache", title="features of train")
    assert not passes
    assert torch.equal(first, second)
    assert torch.equal(first, cached(tiny_model, views, None))
    assert "features of train: 0 of 48 are in" in caplog.text
    assert "features of train: 48 of 48 are in" in caplog.text


def test_order_and_split_do_not_matter(tiny_model, colour_images, processor, views, passes, tmp_path):
    first = cached(tiny_model, views, tmp_path / "cache")
    passes.clear()
    order = np.random.default_rng(0).permutation(48)[:30]
    part = Views(PixelDataset(colour_images.select(order), processor.eval_transform()))
    assert torch.equal(cached(tiny_model, part, tmp_path / "cache"), first[order])
    assert not passes


def test_a_data_set_that_grew_costs_its_new_pictures(tiny_model, colour_images, processor, views, tmp_path):
    part = Views(PixelDataset(colour_images.select(range(45)), processor.eval_transform()))
    cached(tiny_model, part, tmp_path / "cache")
    assert rows_on_disk(tmp_path / "cache") == 45
    cached(tiny_model, views, tmp_path / "cache")
    sizes = sorted(len(load_file(path)["keys"]) for path in (tmp_path / "cache").rglob("*.safetensors"))
    assert sizes == [3, 45]


def test_a_picture_that_is_there_twice_is_computed_once(tiny_model, colour_images, processor, tmp_path):
    twice = Views(PixelDataset(colour_images.select([4, 9, 4]), processor.eval_transform()))
    found = cached(tiny_model, twice, tmp_path / "cache")
    assert rows_on_disk(tmp_path / "cache") == 2
    assert torch.equal(found[0], found[2])


def test_other_weights_and_another_precision_share_nothing(tiny_model, views, passes, tmp_path):
    first = cached(tiny_model, views, tmp_path / "cache")
    tiny_model.backbone.conv1[0].weight.data.mul_(2)
    passes.clear()
    second = cached(tiny_model, views, tmp_path / "cache")
    assert sum(passes) == 48
    assert not torch.equal(first, second)
    cached(tiny_model.to(torch.bfloat16), views, tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_a_changed_picture_is_computed_again(tiny_model, views, colour_table, tmp_path):
    first = cached(tiny_model, views, tmp_path / "cache")
    (colour_table.parent / "003.png").write_bytes((colour_table.parent / "005.png").read_bytes())
    second = cached(tiny_model, views, tmp_path / "cache")
    assert rows_on_disk(tmp_path / "cache") == 49
    assert [i for i in range(48) if not torch.equal(first[i], second[i])] == [3]
    torch.testing.assert_close(second[3], first[5])


def test_fewer_views_are_of_use_to_more(tiny_model, colour_images, processor, tmp_path, caplog):
    caplog.set_level(logging.INFO)

    def of(number):
        both = [PixelDataset(colour_images, make()) for make in (processor.eval_transform, processor.train_transform)]
        return cached(tiny_model, Views(*both, views=number), tmp_path / "cache")

    one, three = of(1), of(3)
    assert rows_on_disk(tmp_path / "cache") == 3 * 48
    assert "features: 48 of 144 (48 images in 3 views) are in" in caplog.text
    assert torch.equal(three[::3], one)
    assert torch.equal(of(2), three.reshape(48, 3, -1)[:, :2].reshape(96, -1))


def test_positions_stay_on_disk(views, tmp_path, monkeypatch):
    monkeypatch.setattr(features, "SHARD_ROWS", 10)
    model = TimmMultiLabelForImageClassification.from_backbone("test_resnet", ["red", "blue"], None, head="csra")
    rows = cached(model, views, tmp_path / "cache", batch_size=5)
    assert isinstance(rows, MappedRows)
    in_memory = cached(model, views, None)
    assert rows.shape == in_memory.shape == (48, 25, model.head.in_features)
    assert torch.equal(torch.stack(list(rows)), in_memory)
    model.head.standardize_(FeatureDataset(rows, views.sources[0].labels).sample())
    torch.testing.assert_close(model.head.feature_mean, in_memory.mean(dim=(0, 1)), rtol=1e-4, atol=1e-5)
    assert rows_on_disk(tmp_path / "cache") == 48
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) > 2


def test_no_pictures(tiny_model, colour_images, processor):
    none = PixelDataset(colour_images.select([]), processor.eval_transform())
    with pytest.raises(HalflabelError, match="features of test: there are no pictures"):
        cached(tiny_model, Views(none), None, title="features of test")


def test_a_folder_that_cannot_be_written_to_is_known_before_the_work(tiny_model, views, passes, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HalflabelError, match="set feature_cache to another folder, or to none"):
        cached(tiny_model, views, tmp_path / "file" / "cache")
    assert not passes


def test_a_damaged_shard_is_made_again(tiny_model, views, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(features, "SHARD_ROWS", 16)
    first = cached(tiny_model, views, tmp_path / "cache", batch_size=4)
    path = sorted((tmp_path / "cache").rglob("*.safetensors"))[0]
    path.write_bytes(path.read_bytes()[:-9])
    second = cached(tiny_model, views, tmp_path / "cache", batch_size=4)
    assert torch.equal(first, second)
    assert rows_on_disk(tmp_path / "cache") == 48
    assert [record.levelname for record in caplog.records if record.levelname != "INFO"] == ["WARNING"]


def printed_features(text):
    """Return the shape and hash of the features of each folder."""
    return re.findall(r"rank \d: (\(.*\) \w+)", text)


def test_a_killed_run_keeps_its_finished_shards(colour_table, tmp_path):
    cache = tmp_path / "cache"
    outputs = [tmp_path / f"output.{i}" for i in range(3)]
    process = forked.start(feature_run.print_features, colour_table, 8, 0.2, cache, output=outputs[0])
    while not list(cache.rglob("*.safetensors")):
        assert process.is_alive(), outputs[0].read_text()
        time.sleep(0.01)
    process.kill()
    process.join()
    kept = {path: path.stat().st_mtime_ns for path in sorted(cache.rglob("*.safetensors"))}
    assert 8 <= rows_on_disk(cache) < 96
    # Two at once go on: neither disturbs the other, and what was there stays as it is.
    both = [
        forked.start(feature_run.print_features, colour_table, 8, 0.01, cache, output=output) for output in outputs[1:]
    ]
    for process, output in zip(both, outputs[1:], strict=True):
        process.join()
        assert process.exitcode == 0, output.read_text()
    found = [hashed for output in outputs[1:] for hashed in printed_features(output.read_text())]
    assert all(path.stat().st_mtime_ns == before for path, before in kept.items())
    model, views = feature_run.make(colour_table)
    model.extract_features = None  # all is there, also for a third process
    rows = cached_features(model, views, cache, quiet=True)
    assert found == [f"{tuple(rows.shape)} {feature_run.hash_rows(rows)}"] * 2


def test_two_devices_share_the_work(colour_table, tmp_path):
    arguments = colour_table, 1000, 0, tmp_path / "cache", None
    printed = forked.in_two_processes(feature_run.print_features, *arguments, folder=tmp_path)
    found = printed_features("".join(printed))
    assert len(found) == 4
    assert len(set(found)) == 1
    sizes = [len(load_file(path)["keys"]) for path in (tmp_path / "cache").rglob("*.safetensors")]
    assert len(sizes) == 2
    assert sum(sizes) == 96
    assert min(sizes) > 24


def test_every_epoch_shows_the_next_view_of_each_image():
    rows = torch.arange(12.0).reshape(12, 1)  # four images in three views
    dataset = FeatureDataset(rows, np.zeros((4, 2), np.int8), views=3)
    shown = []
    for epoch in range(4):
        dataset.set_epoch(epoch)
        shown.append([int(dataset[i]["features"]) for i in range(len(dataset))])
    assert shown == [[0, 4, 8, 9], [1, 5, 6, 10], [2, 3, 7, 11], [0, 4, 8, 9]]
    assert dataset.sample() is rows


def test_rows_and_labels_must_fit():
    with pytest.raises(HalflabelError, match=r"12 rows of features do not fit 4 images in 2 view\(s\)"):
        FeatureDataset(torch.zeros(12, 1), np.zeros((4, 2), np.int8), views=2)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_trainer_shows_another_view_in_each_epoch(tiny_model, tmp_path, workers):
    width = tiny_model.head.in_features
    rows = torch.arange(3.0).repeat(4)[:, None].expand(12, width)  # row = view
    dataset = FeatureDataset(rows, np.ones((4, 2), np.float32), views=3)
    shown = []
    tiny_model.freeze_backbone()
    tiny_model.head.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0][:, 0].tolist()))
    arguments = TrainingArguments(
        output_dir=tmp_path / "run", num_train_epochs=3, per_device_train_batch_size=4, report_to="none", use_cpu=True,
        save_strategy="no", disable_tqdm=True, remove_unused_columns=False, dataloader_pin_memory=False,
        train_sampling_strategy="sequential", dataloader_num_workers=workers,
        dataloader_persistent_workers=workers > 0,
    )  # fmt: skip
    MultiLabelTrainer(tiny_model, arguments, collate, dataset).train()
    assert shown == [[0, 1, 2, 0], [1, 2, 0, 1], [2, 0, 1, 2]]


def features_of(model, views, rows=None, **options):
    return torch.cat(list(run_backbone(model, views, rows or range(len(views)), quiet=True, **options)))


def test_features_are_the_plain_ones_in_the_order_of_the_rows(tiny_model, views, colour_images, processor):
    rows = [17, 3, 40, 3, 0]
    found = features_of(tiny_model.train(), views, rows, batch_size=2)
    pixels = [processor(decode_image(colour_images.dataset[row]["image"]))["pixel_values"] for row in rows]
    with torch.no_grad():
        plain = tiny_model.eval().extract_features(torch.cat(pixels))
    assert found.dtype == torch.float32
    assert (found - plain).abs().max() <= 1e-5 * plain.abs().max()
    assert not found.is_inference()


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 64}, {"workers": 2}])
def test_batches_and_workers_do_not_matter(tiny_model, views, options):
    torch.testing.assert_close(features_of(tiny_model, views, **options), features_of(tiny_model, views, batch_size=7))


def test_torch_keeps_its_threads_and_no_random_number_is_used(tiny_model, colour_images, processor):
    both = [PixelDataset(colour_images, make()) for make in (processor.eval_transform, processor.train_transform)]
    threads, states = (
        torch.get_num_threads(),
        [torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()],
    )
    for workers in (0, 1):
        features_of(tiny_model, Views(*both, views=2), range(8), workers=workers)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    np.testing.assert_array_equal(np.random.get_state()[1], states[2])


def test_positions_and_half_precision(views):
    model = TimmMultiLabelForImageClassification.from_backbone("test_resnet", ["a"], None, head="csra")
    found = features_of(model.to(torch.bfloat16), views, range(3))
    assert found.shape == (3, 25, model.head.in_features)
    assert found.dtype == torch.float32


def test_a_picture_that_cannot_be_read_is_named(tiny_model, views, colour_table):
    (colour_table.parent / "030.png").write_bytes(b"no picture")
    threads = torch.get_num_threads()
    with pytest.raises(HalflabelError, match="image 030.png cannot be read"):
        features_of(tiny_model, views)
    assert torch.get_num_threads() == threads


@pytest.fixture
def make_views(tiny_model, colour_images):
    processor = TimmMultiLabelImageProcessor.from_backbone(tiny_model.backbone)

    def make(views=3, seed=0, images=colour_images):
        plain = PixelDataset(images, processor.eval_transform())
        return Views(plain, PixelDataset(images, processor.train_transform()), views, seed)

    return make


def test_view_0_is_that_of_evaluation_and_the_others_are_drawn(make_views):
    views = make_views()
    pixels = views[[15, 16, 17]]  # image 5
    assert torch.equal(pixels[0], views.sources[0][5]["pixel_values"])
    assert not torch.equal(pixels[0], pixels[1])
    assert not torch.equal(pixels[1], pixels[2])
    assert len(views) == len(views.keys()) == 3 * 48


def test_draws_depend_on_seed_view_and_picture_alone(make_views, colour_images):
    views = make_views()
    rows = list(range(0, 144, 5))
    alone = torch.cat([views[[row]] for row in rows])
    torch.manual_seed(1)
    assert torch.equal(views[rows], alone)
    # Image 7 of all is image 0 of this part, which also has more views.
    assert torch.equal(make_views(5, images=colour_images.select([7]))[[2]], views[[7 * 3 + 2]])
    assert not torch.equal(make_views(seed=1)[[1]], views[[1]])


def test_threads_draw_what_one_would(make_views):
    views, start = make_views(), threading.Barrier(4)
    alone = views[range(24)]

    def load(first):
        start.wait()
        return views[range(first, 24, 4)]

    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(load, range(4)))
    assert all(torch.equal(part, alone[first::4]) for first, part in enumerate(parts))


def test_a_picture_is_decoded_once_for_all_drawn_views(make_views, monkeypatch):
    decoded, decode = [], features.decode_image
    monkeypatch.setattr(features, "decode_image", lambda *a: decoded.append(a[1]) or decode(*a))
    make_views(4)[range(8)]
    assert decoded == ["000.png", "000.png", "001.png", "001.png"]
    assert make_views(1).keys() == make_views(4).keys()[::4]


def test_off_switch(monkeypatch):
    monkeypatch.setenv("HALFLABEL_KEEP_MEMORY", "0")
    assert keep_freed_memory() is False


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_set_on_glibc(monkeypatch):
    monkeypatch.delenv("HALFLABEL_KEEP_MEMORY", raising=False)
    assert keep_freed_memory() is True
