import errno
import os
import pickle
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from bad_files import change_in_secret
from safetensors.torch import load_file

from halflabel import TimmMultiLabelForImageClassification, TimmMultiLabelImageProcessor
from halflabel.data.images import from_records
from halflabel.data.pixels import PixelDataset
from halflabel.model.errors import HalflabelError
from halflabel.training.cache import (
    FeatureFolder,
    MappedRows,
    backbone_parts,
    hash_parts,
    hash_weights,
    open_mapped,
    row_keys,
)


def keys_of(first, count):
    return [bytes([number]) * 16 for number in range(first, first + count)]


def rows_of(first, count, *shape):
    return torch.arange(first, first + count).float().reshape(-1, *[1] * len(shape)).expand(count, *shape)


@pytest.fixture
def folder(tmp_path):
    return FeatureFolder(tmp_path, {"backbone": "net"})


@pytest.fixture
def filled(folder):
    """Two shards of 4 rows."""
    folder.prepare()
    for first in (0, 4):
        folder.write(keys_of(first, 4), rows_of(first, 4, 3))
    return folder


def reopened(folder):
    return FeatureFolder(folder.path.parent, {"backbone": "net"})


def shards(folder):
    return sorted(folder.path.glob("*.safetensors"))


def damage(path: Path, kind: str) -> None:
    content = bytearray(path.read_bytes())
    if kind == "truncated":
        del content[-5:]
    elif kind == "empty":
        content.clear()
    elif kind == "garbage":
        content[:] = os.urandom(len(content))
    elif kind == "features":
        content[-80] ^= 1  # before the 64 bytes of keys
    elif kind == "keys":
        content[-1] ^= 1
    elif kind == "zeros":
        content[-100:] = bytes(100)
    path.write_bytes(content)


def test_rows_are_found_by_their_keys_whatever_the_order(filled):
    found = reopened(filled).find([*keys_of(5, 3), *keys_of(1, 1), *keys_of(100, 1)])
    assert set(found) == {*keys_of(5, 3), *keys_of(1, 1)}
    for key, (shard, row) in found.items():
        assert open_mapped(shard, "features")[row].tolist() == [key[0]] * 3


def test_a_folder_that_does_not_exist_has_no_rows(folder):
    assert folder.find(keys_of(0, 4)) == {}
    assert not folder.path.exists()


def test_the_folder_says_what_it_is(filled):
    text = (filled.path / "about.json").read_text()
    assert "may be deleted at any time" in text
    assert '"backbone": "net"' in text


def test_a_name_with_slashes_stays_one_folder(tmp_path):
    folder = FeatureFolder(tmp_path, {"backbone": "hf-hub:timm/net"})
    assert folder.path.parent == tmp_path
    assert folder.path.name.startswith("hf-hub-timm-net-")


@pytest.mark.parametrize("kind", ["truncated", "empty", "garbage", "features", "keys", "zeros"])
def test_a_damaged_shard_is_removed_with_one_warning(filled, caplog, kind):
    damage(shards(filled)[0], kind)
    found = reopened(filled).find(keys_of(0, 8))
    assert len(found) == 4
    assert len(shards(filled)) == 1
    (record,) = caplog.records
    assert "damaged file(s) of features are made again" in record.getMessage()
    assert "\n" not in record.getMessage()
    caplog.clear()
    assert len(reopened(filled).find(keys_of(0, 8))) == 4
    assert not caplog.records


def test_several_damaged_shards_make_one_warning(filled, caplog):
    for path, kind in zip(shards(filled), ("truncated", "garbage"), strict=True):
        damage(path, kind)
    assert reopened(filled).find(keys_of(0, 8)) == {}
    (record,) = caplog.records
    assert record.getMessage().startswith("2 damaged")


def test_a_shard_of_another_backbone_is_not_used(filled, tmp_path, caplog):
    other = FeatureFolder(tmp_path, {"backbone": "net", "weights": "others"})
    other.prepare()
    shards(filled)[0].rename(other.path / shards(filled)[0].name)
    assert other.find(keys_of(0, 8)) == {}
    assert "its bytes are not those that were written" in caplog.text


def test_a_shard_is_read_through_once_and_only_where_its_rows_are_wanted(filled, monkeypatch):
    named, name = [], FeatureFolder._name
    monkeypatch.setattr(FeatureFolder, "_name", lambda *given: named.append(1) or name(*given))
    folder = reopened(filled)
    assert folder.find(keys_of(50, 2)) == {}
    assert not named
    for _ in range(3):
        assert len(folder.find(keys_of(0, 8))) == 8
    assert len(named) == 2


def test_the_same_rows_are_one_file(filled):
    before = shards(filled)
    reopened(filled).write(keys_of(0, 4), rows_of(0, 4, 3))
    assert shards(filled) == before


def test_mapped_rows_outlive_their_file(filled):
    mapped = MappedRows(shards(filled), np.array([(0, 0), (1, 0)]))
    for path in shards(filled):
        path.unlink()
    assert sorted(mapped[row][0].item() for row in range(2)) == [0, 4]


def test_a_full_disk_is_told_in_one_line_and_leaves_nothing_half_written(filled, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("halflabel.data.files.os.fsync", full)
    with pytest.raises(HalflabelError, match=r"kept in .*net-\w+ \(No space left on device\): set feature_cache"):
        filled.write(keys_of(8, 4), rows_of(8, 4, 3))
    assert not list(filled.path.glob(".*.part"))
    assert len(shards(filled)) == 2


def test_a_folder_that_cannot_be_made_is_told_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        HalflabelError, match=r"cannot be kept in .*file.* \(Not a directory\): set feature_cache"
    ) as told:
        FeatureFolder(tmp_path / "file", {"backbone": "net"}).prepare()
    assert "\n" not in str(told.value)


def test_only_old_rests_of_killed_processes_are_removed(filled):
    old, new = filled.path / ".a.part", filled.path / ".b.part"
    for rest in (old, new):
        rest.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    filled.prepare()
    assert (old.exists(), new.exists()) == (False, True)
    assert len(reopened(filled).find(keys_of(0, 8))) == 8


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


def test_a_picture_that_was_changed_in_secret_has_another_key(pixels, colour_table):
    before = keys(pixels)
    change_in_secret(colour_table.parent / "003.png")
    assert [i for i, (old, new) in enumerate(zip(before, keys(pixels), strict=True)) if old != new] == [3]


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
        monkeypatch.setattr("halflabel.training.cache.version", lambda name: "0")
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


def write(folder, first, features):
    """Write one shard; return its path."""
    made = FeatureFolder(folder, {"backbone": "net"})
    made.prepare()
    made.write([struct.pack(">QQ", 0, first + row) for row in range(len(features))], features)
    return made.find([struct.pack(">QQ", 0, first)]).popitem()[1][0]


def resident(kind):
    """Memory of this process in bytes, as /proc tells it."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(lines[kind].split()[0]) << 10


def test_a_shard_is_a_plain_safetensors_file_also_of_channels_last_features(tmp_path):
    features = torch.randn(2, 5, 3).transpose(1, 2)
    stored = load_file(write(tmp_path, 0, features))
    assert torch.equal(stored["features"], features)
    assert stored["keys"].shape == (2, 16)


@pytest.fixture
def rows(tmp_path):
    """Ten rows in two files, in another order than there: row i holds i."""
    shards = [write(tmp_path, first, rows_of(first, count, 2, 3)) for first, count in ((0, 4), (4, 6))]
    where = [(int(i >= 4), i if i < 4 else i - 4) for i in range(10)]
    order = [3, 9, 0, 5, 5, 1]
    return MappedRows(shards, np.array([where[i] for i in order])), order


def test_rows_are_read_one_by_one_or_together(rows):
    mapped, order = rows
    assert mapped.shape == (6, 2, 3)
    assert [mapped[i].unique().item() for i in range(len(mapped))] == order
    assert mapped.gather()[:, 0, 0].tolist() == order
    assert mapped.gather(np.array([1, 1]))[:, 1, 2].tolist() == [9, 9]
    assert torch.equal(mapped.sample(), mapped.gather())


def test_a_sample_of_many_rows_is_spread_evenly(rows, monkeypatch):
    monkeypatch.setattr("halflabel.training.cache._SAMPLE_BYTES", 3 * 2 * 3 * 4)
    mapped, order = rows
    assert mapped.sample()[:, 0, 0].tolist() == [order[0], order[2], order[5]]


def test_rows_are_sent_to_another_process_without_their_memory(rows):
    mapped, order = rows
    sent = pickle.dumps(mapped)
    assert len(sent) < 2000
    assert pickle.loads(sent).gather()[:, 0, 0].tolist() == order


@pytest.mark.slow  # other tests of the process would count
def test_opening_a_large_shard_takes_no_memory(tmp_path):
    if not Path("/proc/self/status").is_file():
        pytest.skip("needs Linux")
    width = 49 * 1280
    shards = [write(tmp_path, first, torch.ones(128, 49, 1280)) for first in range(0, 512, 128)]  # 128 MB in all
    before = resident("RssAnon"), resident("RssFile")
    assert FeatureFolder(tmp_path, {"backbone": "net"}).find([struct.pack(">QQ", 0, i) for i in range(512)])
    mapped = MappedRows(shards, np.array([(i // 128, i % 128) for i in range(512)]))
    assert resident("RssFile") - before[1] < 24 << 20
    assert sum(mapped[i].sum().item() for i in range(0, 512, 50)) == 11 * width
    assert resident("RssAnon") - before[0] < 8 << 20  # what is read is the kernel's, to be dropped when it needs room
