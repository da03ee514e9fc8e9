import numpy as np
import pytest
from PIL import Image

from halflabel.data.images import from_records
from halflabel.share.contact_sheet import draw_contact_sheet
from halflabel.use.disagreements import KINDS, find_disagreements

RED_PICTURE, GREY_TILE = (190, 0, 0), (215, 218, 224)


@pytest.fixture
def images(tmp_path):
    for name, colour in (("red", "#be0000"), ("blue", "#0000be")):
        Image.new("RGB", (60, 30), colour).save(tmp_path / f"{name}.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    names = ["red", "blue", "broken"]
    rows = [
        {"image": {"path": str(tmp_path / f"{n}.png"), "bytes": None}, "file_name": n, "labels": [0]} for n in names
    ]
    return from_records(rows, ["sign with $ and ñ" * 9])


def has(picture, colour, box=None):
    return (np.abs(np.asarray(picture.crop(box)).astype(int) - colour).max(axis=-1) <= 1).mean()


def sheet(images, scores, path, **options):
    table = find_disagreements(scores, images.labels, images.column("file_name"), images.label_space.names, 0.5)
    draw_contact_sheet(table, images, path, **options)
    with Image.open(path) as picture:
        return picture.convert("RGB")


def test_thumbnails_are_those_of_the_listed_rows_in_their_order(images, tmp_path):
    picture = sheet(images, [[0.8], [0.9], [0.1]], tmp_path / "new" / "a.png", about="3 images of split test")
    first, second = picture.crop((0, 0, 200, picture.height)), picture.crop((200, 0, 400, picture.height))
    assert has(first, (0, 0, 190)) > 0.01
    assert has(first, (190, 0, 0)) == 0
    assert has(second, (190, 0, 0)) > 0.01
    assert has(picture, GREY_TILE) == 0


def test_the_whole_picture_is_shown(images, tmp_path):
    """Twice as wide as high: it fills the width of its square and half of the height."""
    picture = np.asarray(sheet(images, [[0.8], [0.1], [0.1]], tmp_path / "a.png")).astype(int)
    red = np.abs(picture - RED_PICTURE).max(axis=-1) <= 1
    rows, columns = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
    assert len(columns) == pytest.approx(2 * len(rows), abs=2)


def test_an_unreadable_picture_is_a_grey_tile_with_the_reason(images, tmp_path):
    picture = sheet(images, [[0.1], [0.1], [0.9]], tmp_path / "a.png")
    assert has(picture, GREY_TILE) > 0.01
    tile = np.argwhere((np.asarray(picture) == GREY_TILE).all(axis=-1))
    (top, left), (bottom, right) = tile.min(axis=0), tile.max(axis=0)
    assert np.asarray(picture.crop((left, top, right, bottom)).convert("L")).min() < 80  # something is written on it


def test_every_kind_has_its_block_and_many_entries_more_rows(colour_images, tmp_path):
    images = colour_images.with_only(["red"]).select(range(9)).with_labels(np.zeros((9, 1), np.int8))
    few = sheet(images, [[0.9]] * 6 + [[0.1]] * 3, tmp_path / "few.png")
    more = sheet(images, [[0.9]] * 9, tmp_path / "more.png")
    assert more.width == few.width
    assert more.height - few.height > 180
    assert 180 + len(KINDS) * 20 < few.height < 180 * len(KINDS)  # a kind without entries takes no row of thumbnails
