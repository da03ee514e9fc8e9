import pytest
import timm
import torch
from safetensors.torch import save_file

from halflabel.model.backbones import INSTALLED, create_backbone, position_width, to_positions
from halflabel.model.errors import HalflabelError


@pytest.mark.parametrize("name", sorted(INSTALLED))
def test_installed_weights_fit_exactly(name):
    module = pytest.importorskip(INSTALLED[name][0], reason=f"needs {INSTALLED[name][2]}")
    path = next(v for k, v in vars(module).items() if k.endswith("ModelFile")).get_model_file_path()
    state, backbone = torch.load(path, weights_only=True), create_backbone(name, "installed")
    blocks = [block for stage in backbone.blocks for block in stage]
    pairs = {"_conv_stem": backbone.conv_stem, "_bn0": backbone.bn1, "_conv_head": backbone.conv_head}
    for i, block in enumerate(blocks):
        expanded = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_bn1": "bn2", "_project_conv": "conv_pwl", "_bn2": "bn3"}
        plain = {"_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
        for theirs, ours in {"_depthwise_conv": "conv_dw", **(expanded if hasattr(block, "bn3") else plain)}.items():
            pairs[f"_blocks.{i}.{theirs}"] = getattr(block, ours)
    for theirs, ours in pairs.items():
        for key, value in ours.state_dict().items():
            assert torch.equal(value, state[f"{theirs}.{key}"]), f"{theirs}.{key}"


def test_a_path_of_safetensors_or_of_a_timm_file(tmp_path):
    source = timm.create_model("test_resnet", num_classes=10)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    torch.save(source.state_dict(), tmp_path / "w.pth")
    for name in ("w.safetensors", "w.pth"):
        backbone = create_backbone("test_resnet", tmp_path / name)
        for key, value in backbone.state_dict().items():
            torch.testing.assert_close(value, source.state_dict()[key], rtol=0, atol=0)


class Evil:
    def __reduce__(self):
        return (open, ("evil.txt", "w"))


def test_a_pickle_is_not_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Evil()}, tmp_path / "w.pth")
    with pytest.raises(HalflabelError, match=r"w\.pth"):
        create_backbone("test_resnet", tmp_path / "w.pth")
    assert not (tmp_path / "evil.txt").exists()


def test_each_failure_names_the_other_ways(tmp_path):
    with pytest.raises(HalflabelError, match="Hub.*'installed'.*path") as hub:
        create_backbone("resnet18.a1_in1k", "hub")
    assert "\n" not in str(hub.value)
    with pytest.raises(HalflabelError, match="no installed weights for 'resnet18'.*hub.*path"):
        create_backbone("resnet18", "installed")
    with pytest.raises(HalflabelError, match="no such file"):
        create_backbone("test_resnet", tmp_path / "no.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(HalflabelError, match="no weights that fit 'test_resnet'"):
        create_backbone("test_resnet", tmp_path / "other.safetensors")


def test_no_weights_means_random_ones():
    torch.manual_seed(1)
    first = create_backbone("test_resnet", None).state_dict()
    torch.manual_seed(2)
    second = create_backbone("test_resnet", None).state_dict()
    assert any(not torch.equal(first[key], second[key]) for key in first)


TINY = {"depth": 1, "embed_dim": 48, "num_heads": 2}
STAGES = {"depths": [1, 1, 1, 1], "embed_dim": 24, "num_heads": [2, 2, 2, 2]}
# Backbone, its arguments, side of the pictures.
FAMILIES = [
    ("test_resnet", {}, 64),
    ("test_convnext", {}, 64),
    ("regnetx_002", {}, 64),
    ("mobilenetv3_small_050", {}, 64),  # the pooled vector is wider than the map
    ("test_maxvit", {}, 160),
    ("test_mambaout", {}, 64),  # channels last, pooled wider
    ("swin_tiny_patch4_window7_224", STAGES, 224),  # channels last
    ("test_vit", {}, 160),
    ("vit_little_patch16_reg4_gap_256", TINY, 256),
    ("vit_small_patch14_reg4_dinov2", {**TINY, "img_size": 112}, 112),
    ("deit_tiny_distilled_patch16_224", TINY, 224),
    ("vit_tiny_r_s16_p8_224", TINY, 224),  # a convolutional stem
    ("beit_base_patch16_224", TINY, 224),
    ("eva02_tiny_patch14_224", {"depth": 1}, 224),
    ("cait_xxs24_224", {"depth": 1}, 224),
]


@pytest.mark.parametrize(("name", "arguments", "side"), FAMILIES, ids=[name for name, *_ in FAMILIES])
def test_positions_are_those_of_timms_own_maps(name, arguments, side):
    backbone = timm.create_model(name, num_classes=0, **arguments).eval()
    pixels = torch.randn(1, 3, side, side)
    with torch.no_grad():
        positions = to_positions(backbone.forward_features(pixels), backbone)
        maps = backbone.forward_intermediates(pixels, indices=1, norm=True, output_fmt="NCHW", intermediates_only=True)
    torch.testing.assert_close(positions, maps[0].flatten(2).transpose(1, 2), rtol=1e-5, atol=1e-5)
    assert positions.shape[-1] == position_width(backbone)


@pytest.mark.parametrize("name", ["test_efficientnet", "volo_d1_224", "hiera_tiny_224", "levit_128s"])
def test_the_grid_is_whole(name):
    """Those that timm gives no such map of, or that are large: only shapes."""
    with torch.device("meta"):
        backbone = timm.create_model(name, num_classes=0).eval()
        side = backbone.pretrained_cfg["input_size"][-1]
        positions = to_positions(backbone.forward_features(torch.zeros(2, 3, side, side)), backbone)
    stride = {"volo_d1_224": 16, "levit_128s": 56}.get(name, 32)
    assert positions.shape == (2, (side // stride) ** 2, position_width(backbone))


@pytest.mark.parametrize("name", ["crossvit_tiny_240", "pit_ti_224", "efficientvim_m1"])
def test_backbones_without_one_map_are_refused(name):
    with torch.device("meta"):
        backbone = timm.create_model(name, num_classes=0)
    with pytest.raises(HalflabelError, match="gives no single map of positions: take head 'linear' or 'mlp'"):
        position_width(backbone)
