import io
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

import halflabel.training.trainer
from halflabel import HalflabelError
from halflabel.data.images import write_shards
from halflabel.data.loading import load_images
from halflabel.data.source import Source
from halflabel.data.streaming import PrepareRows, open_stream
from halflabel.share.trained import train
from halflabel.training.recipe import parse_recipe

BASE = {
    "backbone": "test_resnet", "weights": "none", "freeze_backbone": True, "optim": "sgd", "learning_rate": 0.05,
    "per_device_train_batch_size": 4, "use_cpu": True, "disable_tqdm": True, "report_to": "none", "streaming": True,
}  # fmt: skip


@pytest.fixture
def shards(colour_table):
    """The 48 pictures of the colour table with their splits, in shards of about 8."""
    images = load_images(colour_table)
    size = colour_table.parent.joinpath("000.png").stat().st_size
    folder = colour_table.parent / "shards"
    write_shards(images, folder, shard_bytes=8 * size, quiet=True)
    return folder


def recipe(data, folder, overrides=(), **keys):
    keys = {**BASE, "data": str(data), "output_dir": str(folder / "out"), **keys}
    (folder / "my.yaml").write_text(yaml.safe_dump(keys))
    return parse_recipe(str(folder / "my.yaml"), overrides)


def mean_colour(picture):
    return torch.from_numpy(np.asarray(picture).mean(axis=(0, 1)))


def test_the_stream_holds_every_training_image_with_its_labels(shards, colour_images):
    stream = open_stream([Source(str(shards))])
    train_images = colour_images.of_split("train")
    assert stream.label_space.names == ("red", "blue")
    counts = stream.counts["train"]
    assert (counts.images, stream.counts["test"].images) == (32, 16)
    assert counts.positive.tolist() == (train_images.labels == 1).sum(axis=0).tolist()
    assert counts.negative.tolist() == (train_images.labels == 0).sum(axis=0).tolist()
    rows = stream.training_rows(PrepareRows(stream, mean_colour, lambda codes: codes), seed=0, buffer_size=10)
    iterator = iter(rows)
    passes = [[next(iterator) for _ in range(32)] for _ in range(2)]
    expected = Counter(
        (tuple(np.round(np.asarray(Image.open(row["image"]["path"])).mean(axis=(0, 1)), 6)), tuple(labels))
        for row, labels in zip(train_images.dataset, train_images.labels, strict=True)
    )
    seen = [(tuple(np.round(row["pixel_values"].numpy(), 6)), tuple(row["labels"])) for part in passes for row in part]
    assert Counter(seen[:32]) == Counter(seen[32:]) == expected
    assert seen[:32] != seen[32:]


def test_validation_and_test_images_are_held_as_a_table_would_give_them(shards, colour_images):
    held = open_stream([Source(str(shards))]).collect({"validation": None, "test": None, "train": 3})
    truth = colour_images.of_split("test")
    assert (held.of_split("test").labels == truth.labels).all()
    assert held.of_split("test").column("file_name").tolist() == truth.column("file_name").tolist()
    assert Image.open(io.BytesIO(held.of_split("test").dataset[0]["image"]["bytes"])).size == (48, 48)
    assert (held.of_split("train").labels == colour_images.of_split("train").labels[:3]).all()


def test_workers_share_the_shards_and_the_seed_fixes_the_order(shards):
    stream = open_stream([Source(str(shards))])

    def first(count, seed, workers=0):
        rows = stream.training_rows(PrepareRows(stream, mean_colour, lambda codes: codes), seed, buffer_size=4)
        loader = torch.utils.data.DataLoader(rows, batch_size=None, num_workers=workers)
        return [tuple(np.round(row["pixel_values"].numpy(), 6)) for row, _ in zip(loader, range(count), strict=False)]

    assert first(32, 1) == first(32, 1)
    assert first(32, 1) != first(32, 2)
    assert len(set(first(24, 1, workers=2))) == 24  # two workers reading the same rows would give 12


def test_training_on_a_stream_learns_and_leaves_a_whole_model(shards, tmp_path):
    keys = {"max_steps": 60, "eval_strategy": "steps", "eval_steps": 30, "per_device_train_batch_size": 8}
    result = train(recipe(shards, tmp_path, **keys))
    assert result.metrics["split"] == "test"
    assert result.metrics["labels"]["red"]["known"] == 16
    assert result.metrics["mAP"] > 0.8
    card = (tmp_path / "out" / "README.md").read_text()
    known = [int(row.split("|")[2]) for row in card.splitlines() if row.startswith(("| red", "| blue"))]
    assert sum(known) == 51  # of 64 training entries a fifth is unknown
    assert (tmp_path / "out" / "examples.png").is_file()


def test_the_same_steps_again_and_resumed_give_the_same_model(shards, tmp_path):
    keys = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "save_total_limit": 2}
    whole = train(recipe(shards, tmp_path, **keys)).folder
    again = train(recipe(shards, tmp_path, output_dir=str(tmp_path / "again"), **keys)).folder
    first, second = (load_file(folder / "model.safetensors") for folder in (whole, again))
    assert all(torch.equal(first[key], second[key]) for key in first)
    (again / "metrics.json").unlink()
    overrides = ["--resume_from_checkpoint", str(again / "checkpoint-3")]
    third = load_file(
        train(recipe(shards, tmp_path, overrides, output_dir=str(again), **keys)).folder / "model.safetensors"
    )
    assert all(torch.equal(first[key], third[key]) for key in first)


def test_a_picture_is_augmented_alike_whoever_reads_it_and_anew_in_each_pass(shards):
    def noise(picture):
        return torch.rand(4) + 10 * mean_colour(picture)[:1].round()

    stream = open_stream([Source(str(shards))])

    def two_passes(seed, workers):
        rows = stream.training_rows(PrepareRows(stream, noise, lambda codes: codes, seed=seed), 1, buffer_size=4)
        loader = torch.utils.data.DataLoader(rows, batch_size=None, num_workers=workers)
        return [tuple(row["pixel_values"].tolist()) for row, _ in zip(loader, range(64), strict=False)]

    alone, shared = two_passes(0, 0), two_passes(0, 2)
    assert len(set(alone)) == 64  # a second pass draws anew
    assert len(set(alone) & set(shared)) >= 56  # of two workers one may be some rows ahead at the end
    assert not set(alone) & set(two_passes(1, 0))


def test_a_loss_that_changes_with_the_epochs_counts_passes(shards, tmp_path, monkeypatch):
    seen = []
    original = halflabel.training.trainer.TellEpoch.on_step_begin

    def spy(self, args, state, control, model=None, **kwargs):
        original(self, args, state, control, model=model, **kwargs)
        seen.append(model.epoch)

    monkeypatch.setattr(halflabel.training.trainer.TellEpoch, "on_step_begin", spy)
    train(recipe(shards, tmp_path, max_steps=20, loss="ll_r"))
    assert seen == [step * 4 // 32 for step in range(20)]


def test_split_column_and_policies_hold_in_a_stream(tmp_path):
    label = datasets.ClassLabel(names=["cat", "dog", "cow"])
    features = datasets.Features(
        {"picture": datasets.Image(), "split": datasets.Value("string"), "tags": datasets.List(label)}
    )
    rows = {
        "picture": [Image.new("RGB", (8, 8), (i * 20, 0, 0)) for i in range(8)],
        "split": ["train", "test", "", "validation", "train", "test", "train", ""],
        "tags": [[0], [1], [], [2], [0, 1], [0], [1], [2]],
    }
    (tmp_path / "d").mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "d" / "train-00000-of-00001.parquet")
    with pytest.raises(HalflabelError, match="absent: negative"):
        open_stream([Source(str(tmp_path / "d"))])
    source = Source(str(tmp_path / "d"), absent="unknown", label_map={"cow": None, "dog": "hound"})
    stream = open_stream([source], labels=["hound", "cat"])
    assert {split: counts.images for split, counts in stream.counts.items()} == {"train": 5, "test": 2, "validation": 1}
    assert stream.collect({"train": None}).labels.tolist() == [[-100, 1], [-100, -100], [1, 1], [1, -100], [-100, -100]]
    assert stream.collect({"test": None}).labels.tolist() == [[1, -100], [-100, 1]]
    rows = stream.training_rows(PrepareRows(stream, mean_colour, lambda codes: codes), seed=0, buffer_size=1)
    iterator = iter(rows)
    seen = sorted(int(next(iterator)["pixel_values"][0]) for _ in range(5))
    assert seen == [0, 40, 80, 120, 140]


def broken(folder, count):
    """Shards whose training pictures include some that cannot be read."""
    label = datasets.ClassLabel(names=["red", "blue"])
    features = datasets.Features(
        {"image": datasets.Image(), "file_name": datasets.Value("string"),
         **{name: datasets.List(label) for name in ("positive", "negative", "uncertain")}}
    )  # fmt: skip
    good = folder / "good.png"
    Image.new("RGB", (32, 32), "red").save(good)
    content = [b"no picture" if i < count else good.read_bytes() for i in range(12)]
    rows = {
        "image": [{"bytes": one, "path": None} for one in content],
        "file_name": [f"{i}.png" for i in range(12)],
        "positive": [[i % 2] for i in range(12)],
        "negative": [[1 - i % 2] for i in range(12)],
        "uncertain": [[]] * 12,
    }
    (folder / "d").mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / "d" / "train-00000-of-00001.parquet")
    return folder / "d"


def test_bad_images_of_a_stream_are_an_error_or_left_out_and_listed(tmp_path):
    data = broken(tmp_path, 3)
    with pytest.raises(HalflabelError, match=r"image \d\.png cannot be read"):
        train(recipe(data, tmp_path, max_steps=6))
    (tmp_path / "other").mkdir()
    result = train(recipe(data, tmp_path / "other", max_steps=9, bad_images="skip"))
    assert result.metrics["skipped_images"] == 3
    lines = (result.folder / "skipped_images.txt").read_text().splitlines()
    assert sorted(line.split()[1] for line in lines) == ["0.png", "1.png", "2.png"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "streaming needs max_steps"),
        ({"max_steps": 4, "cache_features": True}, "cache_features does not go with streaming"),
        ({"max_steps": 4, "keep_labels": 0.5}, "keep_labels does not go with streaming"),
        ({"max_steps": 4, "shuffle_buffer": 0}, "shuffle_buffer is 0"),
    ],
)
def test_what_a_stream_cannot_do_is_said_before_anything_is_read(tmp_path, keys, message):
    with pytest.raises(HalflabelError, match=message):
        recipe("nowhere/", tmp_path, **keys)


def test_other_sources_are_refused_with_the_way_out(colour_table, shards, tmp_path):
    with pytest.raises(HalflabelError, match="this is table; halflabel data .* --output shards/"):
        open_stream([Source(str(colour_table))])
    with pytest.raises(HalflabelError, match="streaming takes one source"):
        open_stream([Source(str(shards)), Source(str(shards))])
    (tmp_path / "empty").mkdir()
    datasets.Dataset.from_dict({"a": [1]}).to_parquet(tmp_path / "empty" / "train.parquet")
    with pytest.raises(HalflabelError, match="no image column"):
        open_stream([Source(str(tmp_path / "empty"))])
    with pytest.raises(HalflabelError, match="no training rows"):
        open_stream([Source(str(shards), split="test")])


def test_two_processes_share_the_shards_and_train_together(shards, tmp_path):
    keys = {"data": str(shards), "output_dir": str(tmp_path / "out"), "max_steps": 1}
    (tmp_path / "my.yaml").write_text(yaml.safe_dump({**BASE, **keys}))
    script = Path(__file__).parents[1] / "helpers" / "stream_of_process.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
               str(script), str(tmp_path / "my.yaml"), str(tmp_path)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (set((tmp_path / f"{rank}.txt").read_text().split()) for rank in range(2))
    assert len(first) == len(second) == 8
    assert not first & second
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["split"] == "test"


def test_shards_read_without_streaming_are_the_table(shards, colour_images):
    images = load_images(str(shards))
    order = np.argsort(images.column("file_name"))
    assert (images.labels[order] == colour_images.labels).all()
    assert (images.column("split")[order] == colour_images.column("split")).all()
