import numpy as np
import pytest
from PIL import Image

from halflabel import TimmMultiLabelImageProcessor
from halflabel.data.images import from_records
from halflabel.model.decisions import DecisionRule
from halflabel.share.image_plots import _choose, draw_contact_sheet, draw_examples, draw_heat_map
from halflabel.use.review import KINDS, find_disagreements


def test_partly_known_pictures_with_a_yes_are_chosen_each_of_another_kind():
    labels = np.array([[0, 0], [1, -100], [1, -100], [-100, 1], [-100, -100], [1, 1]])
    assert _choose(labels, 2) == [1, 3]
    assert len(_choose(labels, 99)) == 6


def test_a_picture_is_written_for_each_example(tiny_model, colour_images, tmp_path):
    processor = TimmMultiLabelImageProcessor.from_backbone(tiny_model.backbone)
    draw_examples(colour_images, tiny_model, processor, tmp_path / "e.png", columns=2)
    draw_examples(colour_images.select([0]), tiny_model, processor, tmp_path / "one.png", columns=2)
    with Image.open(tmp_path / "e.png") as two, Image.open(tmp_path / "one.png") as one:
        assert two.width > 1.8 * one.width
        assert len(set(np.asarray(two.convert("L")).ravel())) > 20


def test_the_bars_show_calibrated_scores(tiny_model, colour_images, tmp_path):
    """A shift of 20 makes every score 1: then there is more ink."""
    processor = TimmMultiLabelImageProcessor.from_backbone(tiny_model.backbone)
    ink = []
    for shift in (0.0, 20.0):
        tiny_model.config.decisions = DecisionRule.plain(2).to_dict() | {"shift": [shift] * 2}
        draw_examples(colour_images, tiny_model, processor, tmp_path / "e.png", columns=2)
        with Image.open(tmp_path / "e.png") as picture:
            ink.append((np.asarray(picture.convert("RGB")) == (0x22, 0x26, 0x2E)).all(axis=-1).sum())
    assert ink[1] > ink[0] + 500


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


def test_a_heat_map_colours_the_grey_picture_where_it_is_high():
    from matplotlib import colormaps

    heat = np.array([[0.0, 0.5, 1.0]], dtype=np.float32)
    view = Image.new("RGB", (3, 1), (30, 120, 60))
    grey = view.convert("L").getpixel((0, 0))
    shown = draw_heat_map(view, heat)
    for x, value in enumerate([0.0, 0.5, 1.0]):
        colour = colormaps["inferno"](value)
        for channel in range(3):
            mixed = (1 - 0.75 * value) * grey + 0.75 * value * 255 * colour[channel]
            assert abs(shown.getpixel((x, 0))[channel] - mixed) <= 0.51
