import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from halflabel import TimmMultiLabelImageProcessor
from halflabel.data.pixels import PixelDataset
from halflabel.model.errors import HalflabelError
from halflabel.training.feature_views import Views


@pytest.fixture
def make_views(tiny_model, colour_images):
    processor = TimmMultiLabelImageProcessor.from_backbone(tiny_model.backbone)

    def make(views=3, seed=0, images=colour_images):
        plain = PixelDataset(images, processor.eval_transform())
        return Views(plain, PixelDataset(images, processor.train_transform()), views, seed)

    return make


@pytest.mark.parametrize("views", [0, -1])
def test_there_is_at_least_one_view(make_views, views):
    with pytest.raises(HalflabelError, match=f"views is {views}, expected at least 1"):
        make_views(views)


def test_several_views_need_a_training_transform(make_views):
    with pytest.raises(HalflabelError, match="views is 2, but there is no training transform"):
        Views(make_views().sources[0], views=2)


def test_view_0_is_that_of_evaluation_and_the_others_are_drawn(make_views):
    views = make_views()
    pixels = views.load([15, 16, 17])  # image 5
    assert torch.equal(pixels[0], views.sources[0][5]["pixel_values"])
    assert not torch.equal(pixels[0], pixels[1])
    assert not torch.equal(pixels[1], pixels[2])
    assert len(views) == len(views.keys()) == 3 * 48


def test_draws_depend_on_seed_view_and_picture_alone(make_views, colour_images):
    views = make_views()
    rows = list(range(0, 144, 5))
    alone = torch.cat([views.load([row]) for row in rows])
    torch.manual_seed(1)
    assert torch.equal(views.load(rows), alone)
    # Image 7 of all is image 0 of this part, which also has more views.
    assert torch.equal(make_views(5, images=colour_images.select([7])).load([2]), views.load([7 * 3 + 2]))
    assert not torch.equal(make_views(seed=1).load([1]), views.load([1]))


def test_threads_draw_what_one_would(make_views):
    views, start = make_views(), threading.Barrier(4)
    alone = views.load(range(24))

    def load(first):
        start.wait()
        return views.load(range(first, 24, 4))

    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(load, range(4)))
    assert all(torch.equal(part, alone[first::4]) for first, part in enumerate(parts))


def test_a_picture_is_decoded_once_for_all_drawn_views(make_views, monkeypatch):
    from halflabel.training import feature_views

    decoded, decode = [], feature_views.decode_image
    monkeypatch.setattr(feature_views, "decode_image", lambda *a: decoded.append(a[1]) or decode(*a))
    make_views(4).load(range(8))
    assert decoded == ["000.png", "000.png", "001.png", "001.png"]
    assert make_views(1).keys() == make_views(4).keys()[::4]
