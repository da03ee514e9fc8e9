import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from halflabel.training.feature_shards import MappedRows, Shard, write_shard

KEY = "k" * 32


def write(folder, first, features):
    write_shard(folder, KEY, [struct.pack(">QQ", 0, first + row) for row in range(len(features))], features)


def opened(folder):
    return sorted((Shard.open(path, KEY) for path in folder.glob("*.safetensors")), key=lambda shard: shard.keys)


def resident(kind):
    """Memory of this process in bytes, as /proc tells it."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(lines[kind].split()[0]) << 10


def test_a_shard_is_a_plain_safetensors_file(tmp_path):
    features = torch.randn(3, 2, 4)
    write(tmp_path, 0, features)
    (path,) = tmp_path.iterdir()
    stored = load_file(path)
    assert torch.equal(stored["features"], features)
    assert stored["keys"].shape == (3, 16)
    header = json.loads(path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")])
    assert header["__metadata__"]["made_by"] == KEY


def test_a_row_of_channels_last_features_comes_back_as_it_was(tmp_path):
    features = torch.randn(2, 5, 3).transpose(1, 2)
    write(tmp_path, 0, features)
    (shard,) = opened(tmp_path)
    assert shard.is_whole()
    assert torch.equal(shard.features, features)


@pytest.fixture
def rows(tmp_path):
    """Ten rows in two files, in another order than there: row i holds i."""
    for first, count in ((0, 4), (4, 6)):
        write(tmp_path, first, torch.arange(first, first + count).float()[:, None, None].expand(-1, 2, 3))
    where = [(int(i >= 4), i if i < 4 else i - 4) for i in range(10)]
    order = [3, 9, 0, 5, 5, 1]
    return MappedRows(opened(tmp_path), np.array([where[i] for i in order])), order


def test_rows_are_read_one_by_one_or_together(rows):
    mapped, order = rows
    assert mapped.shape == (6, 2, 3)
    assert [mapped[i].unique().item() for i in range(len(mapped))] == order
    assert mapped.gather()[:, 0, 0].tolist() == order
    assert mapped.gather(np.array([1, 1]))[:, 1, 2].tolist() == [9, 9]
    assert torch.equal(mapped.sample(), mapped.gather())


def test_a_sample_of_many_rows_is_spread_evenly(rows, monkeypatch):
    monkeypatch.setattr("halflabel.training.feature_shards._SAMPLE_BYTES", 3 * 2 * 3 * 4)
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
    for first in range(0, 512, 128):  # 128 MB in all
        write(tmp_path, first, torch.ones(128, 49, 1280))
    before = resident("RssAnon"), resident("RssFile")
    shards = opened(tmp_path)
    assert all(shard.is_whole() for shard in shards)
    mapped = MappedRows(shards, np.array([(i // 128, i % 128) for i in range(512)]))
    assert resident("RssFile") - before[1] < 24 << 20
    assert sum(mapped[i].sum().item() for i in range(0, 512, 50)) == 11 * width
    assert resident("RssAnon") - before[0] < 8 << 20  # what is read is the kernel's, to be dropped when it needs room
