import errno
import os
import time
from pathlib import Path

import pytest
import torch

from halflabel.model.errors import HalflabelError
from halflabel.training.feature_cache import FeatureFolder


def keys_of(first, count):
    return [bytes([number]) * 16 for number in range(first, first + count)]


def rows_of(first, count, *shape):
    return torch.arange(first, first + count).float().reshape(-1, *[1] * len(shape)).expand(count, *shape)


@pytest.fixture
def folder(tmp_path):
    return FeatureFolder(tmp_path, "net", {"backbone": "net"}, "k" * 32)


@pytest.fixture
def filled(folder):
    """Two shards of 4 rows."""
    folder.prepare()
    for first in (0, 4):
        folder.write(keys_of(first, 4), rows_of(first, 4, 3))
    return folder


def reopened(folder, key="k" * 32):
    return FeatureFolder(folder.path.parent, "net", {"backbone": "net"}, key)


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
        assert shard.features[row].tolist() == [key[0]] * 3


def test_a_folder_that_does_not_exist_has_no_rows(folder):
    assert folder.find(keys_of(0, 4)) == {}
    assert not folder.path.exists()


def test_the_folder_says_what_it_is(filled):
    text = (filled.path / "about.json").read_text()
    assert "may be deleted at any time" in text
    assert '"backbone": "net"' in text


def test_a_name_with_slashes_stays_one_folder(tmp_path):
    folder = FeatureFolder(tmp_path, "hf-hub:timm/net", {}, "k" * 32)
    assert folder.path == tmp_path / f"hf-hub-timm-net-{'k' * 16}"


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
    other = FeatureFolder(tmp_path, "net", {}, "o" * 32)
    other.prepare()
    shards(filled)[0].rename(other.path / shards(filled)[0].name)
    assert other.find(keys_of(0, 8)) == {}
    assert "not of this backbone" in caplog.text


def test_a_shard_whose_rows_nobody_wants_is_not_read(filled, monkeypatch):
    monkeypatch.setattr("halflabel.training.feature_shards.Shard.is_whole", lambda shard: pytest.fail("read"))
    assert reopened(filled).find(keys_of(50, 2)) == {}


def test_a_shard_is_read_through_once(filled, monkeypatch):
    read = []
    monkeypatch.setattr("halflabel.training.feature_shards.Shard.is_whole", lambda shard: read.append(shard) or True)
    folder = reopened(filled)
    for _ in range(3):
        assert len(folder.find(keys_of(0, 8))) == 8
    assert len(read) == 2


def test_the_same_rows_are_one_file(filled):
    before = shards(filled)
    reopened(filled).write(keys_of(0, 4), rows_of(0, 4, 3))
    assert shards(filled) == before


def test_mapped_rows_outlive_their_file(filled):
    found = filled.find(keys_of(0, 8))
    for path in shards(filled):
        path.unlink()
    assert [found[key][0].features[found[key][1]][0].item() for key in keys_of(0, 8)] == list(range(8))


def test_a_full_disk_is_told_in_one_line_and_leaves_nothing_half_written(filled, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("halflabel.training.feature_shards.os.fsync", full)
    with pytest.raises(HalflabelError, match=r"kept in .*net-k+ \(No space left on device\): set feature_cache"):
        filled.write(keys_of(8, 4), rows_of(8, 4, 3))
    assert not list(filled.path.glob(".*.part"))
    assert len(shards(filled)) == 2


def test_a_folder_that_cannot_be_made_is_told_in_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        HalflabelError, match=r"cannot be kept in .*file.* \(Not a directory\): set feature_cache"
    ) as told:
        FeatureFolder(tmp_path / "file", "net", {}, "k" * 32).prepare()
    assert "\n" not in str(told.value)


def test_only_old_rests_of_killed_processes_are_removed(filled):
    old, new = filled.path / ".a.part", filled.path / ".b.part"
    for rest in (old, new):
        rest.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    filled.prepare()
    assert (old.exists(), new.exists()) == (False, True)
    assert len(reopened(filled).find(keys_of(0, 8))) == 8
