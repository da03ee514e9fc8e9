import random

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from transformers import AutoImageProcessor

from halflabel import HalflabelError, TimmMultiLabelConfig, TimmMultiLabelImageProcessor


@pytest.fixture
def processor():
    return TimmMultiLabelImageProcessor.from_backbone(timm.create_model("tf_efficientnet_lite0"))


def picture(mode="RGB", size=(300, 200)):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def test_the_backbones_own_settings_and_timms_own_transform(processor):
    assert processor.mean == [0.5] * 3
    assert processor.input_size == [3, 224, 224]
    model = timm.create_model("tf_efficientnet_lite0")
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    torch.testing.assert_close(processor(picture())["pixel_values"][0], transform(picture()), rtol=0, atol=0)


def test_round_trip_through_the_auto_class(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    TimmMultiLabelConfig(label_names=["a"]).save_pretrained(tmp_path)
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    assert isinstance(loaded, TimmMultiLabelImageProcessor)
    assert loaded.data_config == processor.data_config


def test_fused_normalisation_is_timms_for_any_mean_and_std():
    settings = {"mean": (0.48, 0.457, 0.408), "std": (0.268, 0.261, 0.275)}
    transform = timm.data.create_transform((3, 224, 224), interpolation="bicubic", crop_pct=0.875, **settings)
    ours = TimmMultiLabelImageProcessor(**settings)(picture())["pixel_values"][0]
    torch.testing.assert_close(ours, transform(picture()), rtol=0, atol=0)
    assert ours.is_contiguous()


def test_a_picture_handed_in_is_treated_as_a_decoded_file_is(processor):
    turned = picture(size=(60, 40))
    turned.getexif()[0x0112] = 6
    torch.testing.assert_close(
        processor(turned)["pixel_values"], processor(picture(size=(60, 40)).rotate(-90, expand=True))["pixel_values"]
    )
    assert turned.size == (60, 40)  # the caller's own picture is left alone
    clear = Image.new("RGBA", (60, 40), (0, 0, 0, 0))
    torch.testing.assert_close(
        processor(clear)["pixel_values"], processor(Image.new("RGB", (60, 40), "white"))["pixel_values"]
    )
    deep = Image.fromarray(np.full((40, 60), 257 * 100, np.uint16))
    torch.testing.assert_close(
        processor(deep)["pixel_values"], processor(Image.new("L", (60, 40), 100))["pixel_values"]
    )


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK"])
def test_other_modes_become_rgb(processor, mode):
    assert processor(picture(mode))["pixel_values"].shape == (1, 3, 224, 224)


def test_lists_arrays_and_tensors(processor):
    array = np.asarray(picture())
    batch = processor([picture(), picture()])["pixel_values"]
    assert batch.shape == (2, 3, 224, 224)
    torch.testing.assert_close(processor(array)["pixel_values"], batch[:1])
    torch.testing.assert_close(processor(torch.from_numpy(array.copy()).permute(2, 0, 1))["pixel_values"], batch[:1])


def test_a_jpeg_keeps_a_quarter_more_than_the_evaluation_transform_needs(processor):
    assert processor.needed_side() == 320  # resized to 256
    assert processor.needed_side(training=True) == 366  # 224 / sqrt(0.5 * 3 / 4), rounded up


def test_a_training_view_has_the_values_of_timms_own_steps(processor):
    plain = timm.data.create_transform(**processor.data_config, is_training=True, scale=(0.5, 1.0), color_jitter=0.2)
    views = []
    for transform in (processor.train_transform(), plain):
        random.seed(3)
        torch.manual_seed(3)
        views.append(transform(picture()))
    torch.testing.assert_close(*views, rtol=0, atol=0)
    assert views[0].std() > 0


def test_training_crops_keep_at_least_half_the_picture(processor):
    scale = next(t.scale for t in processor.train_transform().transforms if hasattr(t, "scale"))
    assert min(scale) == 0.5


def test_bad_input(processor):
    with pytest.raises(HalflabelError, match="uint8"):
        processor(np.zeros((20, 20, 3), dtype=np.float32))
    with pytest.raises(HalflabelError, match="did you mean crop_pct"):
        TimmMultiLabelImageProcessor(crop_pc=0.9)
    with pytest.raises(HalflabelError, match="do_resize"):
        processor(picture(), do_resize=False)
    with pytest.raises(HalflabelError, match="'pt'"):
        processor(picture(), return_tensors="np")


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size", [(50_000, 1), (1, 50_000), (1, 1), (3, 2000)])
def test_lines_and_dots_become_inputs_too(mode, size):
    processor = TimmMultiLabelImageProcessor(input_size=(3, 96, 96), crop_mode=mode)
    pixels = processor(Image.new("RGB", size, (255, 0, 0)))["pixel_values"][0]
    assert pixels.shape == (3, 96, 96)
    assert (pixels[:, 48, 48] - torch.tensor([1.0, -1.0, -1.0])).abs().max() < 1e-6


def test_of_a_long_strip_the_middle_is_seen_where_timm_sees_it():
    strip = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 4000, 3), dtype=np.uint8))
    ours = TimmMultiLabelImageProcessor(input_size=(3, 96, 96), crop_pct=0.9)(strip)["pixel_values"][0]
    whole = timm.data.create_transform(
        (3, 96, 96), interpolation="bicubic", crop_pct=0.9, mean=(0.5,) * 3, std=(0.5,) * 3
    )
    assert (ours - whole(strip)).abs().mean() < 0.05  # of a range of 2: resized by 1/100 of a pixel's difference


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"input_size": [3, 10**6, 10**6]}, "input_size is"),
        ({"input_size": [3, 224]}, "input_size is"),
        ({"input_size": "224"}, "input_size is '224'"),
        ({"std": [0.5, 0.5, 0]}, "std is"),
        ({"mean": [float("nan")] * 3}, "mean is"),
        ({"crop_pct": 0}, "crop_pct is 0, expected 0.1 to 2"),
        ({"crop_mode": ["center"]}, "crop_mode is"),
        ({"interpolation": "best"}, "interpolation is 'best', expected nearest"),
    ],
)
def test_settings_of_which_no_transform_can_be_made(setting, message):
    with pytest.raises(HalflabelError, match=message):
        TimmMultiLabelImageProcessor(**setting)
