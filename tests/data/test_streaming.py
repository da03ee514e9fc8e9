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
from reading import error_of
from safetensors.torch import load_file

import halflabel.training.trainer
from halflabel import HalflabelError
from halflabel.data.images import FEATURES, write_shards
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


def test_a_label_that_is_called_source_does_not_disappear(tmp_path):
    content = io.BytesIO()
    Image.new("RGB", (4, 4)).save(content, "PNG")
    rows = {
        "image": [{"bytes": content.getvalue(), "path": "a.png"}] * 9,
        "car": [1, 0, 1] * 3,
        "source": [1, 0, None] * 3,
    }
    features = datasets.Features(
        {"image": datasets.Image(), "car": datasets.Value("int8"), "source": datasets.Value("int8")}
    )
    (tmp_path / "s").mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "s" / "train.parquet")
    for read in (lambda source: open_stream([source]), load_images):
        assert "column 'source': it holds answers" in error_of(read, Source(str(tmp_path / "s")))
    assert open_stream([Source(str(tmp_path / "s"), labels=("car",))]).label_space.names == ("car",)
    assert open_stream([Source(str(tmp_path / "s"), labels=("source", "car"))]).counts["train"].known.tolist() == [6, 9]


def recipe(data, folder, overrides=(), **keys):
    keys = {**BASE, "data": str(data), "output_dir": str(folder / "out"), **keys}
    (folder / "my.yaml").write_text(yaml.safe_dump(keys))
    return parse_recipe(str(folder / "my.yaml"), overrides)


def mean_colour(picture):
    return torch.from_numpy(np.asarray(picture).mean(axis=(0, 1)))


def rows_of(stream, transform=mean_colour, stream_seed=0, buffer_size=4, **keys):
    prepare = PrepareRows(stream, transform, lambda codes: codes, **keys)
    return stream.training_rows(prepare, stream_seed, buffer_size)


def take(rows, count, workers=0):
    """Return what is drawn of the first rows, as a loader with so many processes gives them."""
    loader = torch.utils.data.DataLoader(rows, batch_size=None, num_workers=workers)
    return [tuple(np.round(row["pixel_values"].numpy(), 6)) for row, _ in zip(loader, range(count), strict=False)]


def test_the_stream_holds_every_training_image_with_its_labels(shards, colour_images):
    stream = open_stream([Source(str(shards))])
    train_images = colour_images.of_split("train")
    assert stream.label_space.names == ("red", "blue")
    counts = stream.counts["train"]
    assert (counts.images, stream.counts["test"].images) == (32, 16)
    assert counts.positive.tolist() == (train_images.labels == 1).sum(axis=0).tolist()
    assert counts.negative.tolist() == (train_images.labels == 0).sum(axis=0).tolist()
    iterator = iter(rows_of(stream, buffer_size=10))
    seen = [next(iterator) for _ in range(64)]
    seen = [(tuple(np.round(row["pixel_values"].numpy(), 6)), tuple(row["labels"])) for row in seen]
    expected = Counter(
        (tuple(np.round(np.asarray(Image.open(row["image"]["path"])).mean(axis=(0, 1)), 6)), tuple(labels))
        for row, labels in zip(train_images.dataset, train_images.labels, strict=True)
    )
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
    first = [take(rows_of(stream, stream_seed=seed), 32) for seed in (1, 1, 2)]
    assert first[0] == first[1] != first[2]
    assert len(set(take(rows_of(stream), 24, workers=2))) == 24  # two workers reading the same rows would give 12


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
    resumed = train(recipe(shards, tmp_path, overrides, output_dir=str(again), **keys)).folder
    third = load_file(resumed / "model.safetensors")
    assert all(torch.equal(first[key], third[key]) for key in first)


def test_a_picture_is_augmented_alike_whoever_reads_it_and_anew_in_each_pass(shards):
    def noise(picture):
        return torch.rand(4) + 10 * mean_colour(picture)[:1].round()

    stream = open_stream([Source(str(shards))])

    alone = take(rows_of(stream, noise, seed=0), 64)
    assert len(set(alone)) == 64  # a second pass draws anew
    # of two workers one may be some rows ahead at the end
    assert len(set(alone) & set(take(rows_of(stream, noise, seed=0), 64, workers=2))) >= 56
    assert not set(alone) & set(take(rows_of(stream, noise, seed=1), 64))


def test_a_loss_that_changes_with_the_epochs_counts_passes(shards, tmp_path, monkeypatch):
    seen = []
    original = halflabel.training.trainer.TellEpoch.on_step_begin

    def spy(self, args, state, control, model=None, **kwargs):
        original(self, args, state, control, model=model, **kwargs)
        seen.append(model.epoch)

    monkeypatch.setattr(halflabel.training.trainer.TellEpoch, "on_step_begin", spy)
    train(recipe(shards, tmp_path, max_steps=20, loss="ll_r"))
    assert seen == [step * 4 // 32 for step in range(20)]


def write_rows(folder, features, rows):
    (folder / "d").mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / "d" / "train-00000-of-00001.parquet")
    return folder / "d"


def test_split_column_and_policies_hold_in_a_stream(tmp_path):
    label = datasets.ClassLabel(names=["cat", "dog", "cow"])
    features = datasets.Features(
        {"picture": datasets.Image(), "split": datasets.Value("string"), "tags": datasets.List(label)}
    )
    data = str(write_rows(tmp_path, features, {
        "picture": [Image.new("RGB", (8, 8), (i * 20, 0, 0)) for i in range(8)],
        "split": ["train", "test", "", "validation", "train", "test", "train", ""],
        "tags": [[0], [1], [], [2], [0, 1], [0], [1], [2]],
    }))  # fmt: skip
    assert "absent: negative" in error_of(open_stream, [Source(data)])
    source = Source(data, absent="unknown", label_map={"cow": None, "dog": "hound"})
    stream = open_stream([source], labels=["hound", "cat"])
    assert {split: counts.images for split, counts in stream.counts.items()} == {"train": 5, "test": 2, "validation": 1}
    assert stream.collect({"train": None}).labels.tolist() == [[-100, 1], [-100, -100], [1, 1], [1, -100], [-100, -100]]
    assert stream.collect({"test": None}).labels.tolist() == [[1, -100], [-100, 1]]
    assert sorted(int(pixels[0]) for pixels in take(rows_of(stream, buffer_size=1), 5)) == [0, 40, 80, 120, 140]


def test_bad_images_of_a_stream_are_an_error_or_left_out_and_listed(tmp_path):
    label = datasets.ClassLabel(names=["red", "blue"])
    lists = {name: datasets.List(label) for name in ("positive", "negative", "uncertain")}
    features = datasets.Features({**FEATURES, "image": datasets.Image(), **lists})
    good = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(good, "PNG")
    data = write_rows(tmp_path, features, {
        "image": [{"bytes": b"no picture" if i < 3 else good.getvalue(), "path": None} for i in range(12)],
        "file_name": [f"{i}.png" for i in range(12)],
        **{name: [""] * 12 for name in ("split", "group", "source")},
        "positive": [[i % 2] for i in range(12)], "negative": [[1 - i % 2] for i in range(12)], "uncertain": [[]] * 12,
    })  # fmt: skip
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
    assert message in error_of(recipe, "nowhere/", tmp_path, **keys)


def test_other_sources_are_refused_with_the_way_out(colour_table, shards, tmp_path):
    (tmp_path / "empty").mkdir()
    datasets.Dataset.from_dict({"a": [1]}).to_parquet(tmp_path / "empty" / "train.parquet")
    way_out = f"this is table; halflabel data {colour_table} --output shards/"
    for sources, message in (
        ([Source(str(colour_table))], way_out),
        ([Source(str(shards))] * 2, "streaming takes one source"),
        ([Source(str(tmp_path / "empty"))], "no image column"),
        ([Source(str(shards), split="test")], "no training rows"),
    ):
        assert message in error_of(open_stream, sources)


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
