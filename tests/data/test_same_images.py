import os

import numpy as np
import pytest

from halflabel import HalflabelError
from halflabel.data.images import build_images, from_records
from halflabel.data.merging import SAMPLE, same_images


def files(*paths):
    return build_images([p.name for p in paths], [str(p) for p in paths], np.zeros((len(paths), 1), np.int8), ["x"])


def embedded(*contents):
    rows = [{"image": {"bytes": c, "path": None}, "file_name": "e", "labels": [0]} for c in contents]
    return from_records(rows, ["x"])


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


def test_equal_content_is_the_same_picture(write):
    a, b, c, d = write("a", b"one"), write("b", b"two"), write("c", b"one"), write("d", b"three")
    assert same_images([files(a, b), files(c, d)]).tolist() == [0, 1, 0, 3]
    assert same_images([files(a, b, c, d)]).tolist() == [0, 1, 0, 3]


@pytest.mark.parametrize("place", [0, SAMPLE, 3 * SAMPLE - 1])
def test_pictures_of_equal_size_differ_by_any_byte(write, place):
    content = bytearray(b"x" * 3 * SAMPLE)
    content[place] = 0
    a, b, c = write("a", b"x" * 3 * SAMPLE), write("b", bytes(content)), write("c", bytes(content))
    assert same_images([files(a, b, c)]).tolist() == [0, 1, 1]


def test_the_same_file_by_whatever_path(write, tmp_path):
    a = write("a", b"one")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(a)
    os.link(a, tmp_path / "hard")
    detour = tmp_path / "folder" / ".." / "a"
    assert same_images([files(a), files(detour), files(tmp_path / "link", tmp_path / "hard")]).tolist() == [0] * 4


def test_being_the_same_carries_over(write, tmp_path):
    """Row 2 is row 1's file, and has row 0's content."""
    a, b = write("a", b"one"), write("b", b"one")
    (tmp_path / "link").symlink_to(b)
    assert same_images([files(a), files(b), files(tmp_path / "link")]).tolist() == [0, 0, 0]
    assert same_images([embedded(b"one"), files(b), files(tmp_path / "link")]).tolist() == [0, 0, 0]


def test_embedded_pictures_and_files_compare(write):
    parts = [embedded(b"one", b"two", b"one"), files(write("a", b"two"), write("b", b"three"))]
    assert same_images(parts).tolist() == [0, 1, 0, 1, 4]


def test_empty_files_are_not_the_same_picture(write):
    assert same_images([embedded(b"", b""), files(write("a", b""), write("b", b""))]).tolist() == [0, 1, 2, 3]


def test_only_a_selection_is_looked_at(write):
    images = files(write("a", b"one"), write("b", b"two"), write("c", b"one")).select([2, 1])
    assert same_images([images, embedded(b"two", b"one")]).tolist() == [0, 1, 1, 0]


def test_what_cannot_be_read_is_named(write, tmp_path):
    with pytest.raises(HalflabelError, match=r"image 'gone\.png' cannot be read \(No such file or directory\)"):
        same_images([files(tmp_path / "gone.png")])
    url = from_records([{"image": {"bytes": None, "path": "zip://a.png::x.zip"}, "labels": [0]}] * 2, ["x"])
    assert same_images([url]).tolist() == [0, 0]
