"""One shape from every family of backbones, held against timm's own intermediate features."""

import pytest
import timm
import torch

from halflabel.model.errors import HalflabelError
from halflabel.model.feature_maps import position_width, prefix_tokens, to_positions

TINY = {"depth": 1, "embed_dim": 48, "num_heads": 2}
STAGES = {"depths": [1, 1, 1, 1], "embed_dim": 24, "num_heads": [2, 2, 2, 2]}
# Backbone, its arguments, side of the pictures, tokens before those of the positions.
FAMILIES = [
    ("test_resnet", {}, 64, 0),
    ("test_convnext", {}, 64, 0),
    ("regnetx_002", {}, 64, 0),
    ("mobilenetv3_small_050", {}, 64, 0),  # the pooled vector is wider than the map
    ("test_maxvit", {}, 160, 0),
    ("test_mambaout", {}, 64, 0),  # channels last, pooled wider
    ("swin_tiny_patch4_window7_224", STAGES, 224, 0),  # channels last
    ("test_vit", {}, 160, 1),
    ("vit_little_patch16_reg4_gap_256", TINY, 256, 4),
    ("vit_small_patch14_reg4_dinov2", {**TINY, "img_size": 112}, 112, 5),
    ("deit_tiny_distilled_patch16_224", TINY, 224, 2),
    ("vit_tiny_r_s16_p8_224", TINY, 224, 1),  # a convolutional stem
    ("beit_base_patch16_224", TINY, 224, 1),
    ("eva02_tiny_patch14_224", {"depth": 1}, 224, 1),
    ("cait_xxs24_224", {"depth": 1}, 224, 1),
]


@pytest.mark.parametrize(("name", "arguments", "side", "prefix"), FAMILIES, ids=[name for name, *_ in FAMILIES])
def test_positions_are_those_of_timms_own_maps(name, arguments, side, prefix):
    backbone = timm.create_model(name, num_classes=0, **arguments).eval()
    pixels = torch.randn(1, 3, side, side)
    with torch.no_grad():
        positions = to_positions(backbone.forward_features(pixels), backbone)
        maps = backbone.forward_intermediates(pixels, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True)
    torch.testing.assert_close(positions, maps[0].flatten(2).transpose(1, 2), rtol=1e-5, atol=1e-5)
    assert positions.shape[-1] == position_width(backbone)
    assert prefix_tokens(backbone) == prefix


@pytest.mark.parametrize("name", ["test_efficientnet", "volo_d1_224", "hiera_tiny_224", "coat_lite_tiny", "levit_128s"])
def test_the_grid_is_whole(name):
    """Those that timm gives no such map of, or that are large: only shapes."""
    with torch.device("meta"):
        backbone = timm.create_model(name, num_classes=0).eval()
        side = backbone.pretrained_cfg["input_size"][-1]
        positions = to_positions(backbone.forward_features(torch.zeros(2, 3, side, side)), backbone)
    stride = {"volo_d1_224": 16, "levit_128s": 56}.get(name, 32)
    assert positions.shape == (2, (side // stride) ** 2, position_width(backbone))


@pytest.mark.parametrize("name", ["crossvit_tiny_240", "pit_ti_224", "coat_tiny", "efficientvim_m1"])
def test_backbones_without_one_map_are_refused(name):
    with torch.device("meta"):
        backbone = timm.create_model(name, num_classes=0)
    with pytest.raises(HalflabelError, match="gives no single map of positions: take head 'linear' or 'mlp'"):
        position_width(backbone)
