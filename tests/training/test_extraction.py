import random

import numpy as np
import pytest
import torch

from halflabel import TimmMultiLabelImageProcessor
from halflabel.data.pixels import PixelDataset
from halflabel.model.errors import HalflabelError
from halflabel.model.image_processing_timm_multilabel import decode_image
from halflabel.training.extraction import run_backbone
from halflabel.training.feature_views import Views


@pytest.fixture
def processor(tiny_model):
    return TimmMultiLabelImageProcessor.from_backbone(tiny_model.backbone)


@pytest.fixture
def views(colour_images, processor):
    return Views(PixelDataset(colour_images, processor.eval_transform()))


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
    import halflabel

    model = halflabel.TimmMultiLabelForImageClassification.from_backbone("test_resnet", ["a"], None, head="csra")
    found = features_of(model.to(torch.bfloat16), views, range(3))
    assert found.shape == (3, 25, model.head.in_features)
    assert found.dtype == torch.float32


def test_a_picture_that_cannot_be_read_is_named(tiny_model, views, colour_table):
    (colour_table.parent / "030.png").write_bytes(b"no picture")
    threads = torch.get_num_threads()
    with pytest.raises(HalflabelError, match="image 030.png cannot be read"):
        features_of(tiny_model, views)
    assert torch.get_num_threads() == threads
