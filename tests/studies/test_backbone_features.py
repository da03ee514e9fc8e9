import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from halflabel import HalflabelError
from halflabel.data.loading import load_images
from halflabel.model.image_processing_timm_multilabel import TimmMultiLabelImageProcessor, decode_image
from halflabel.studies.backbone_features import load_backbones


@pytest.fixture
def weight_file(tmp_path):
    torch.manual_seed(123)
    path = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), path)
    return path


def load(images, weights, folder=None, seed=0):
    loaded, failures = load_backbones(images, ["test_resnet"], str(weights), folder, seed, quiet=True)
    assert failures == []
    return loaded["test_resnet"]


def run_timm(images, model):
    """Features of each picture alone, straight from timm."""
    transform = TimmMultiLabelImageProcessor.from_backbone(model).eval_transform()
    rows = zip(images.dataset["image"], images.dataset["file_name"], strict=True)
    with torch.inference_mode():
        return torch.cat([model.eval()(transform(decode_image(*row))[None]) for row in rows]).numpy()


def test_features_are_those_of_timm_with_these_weights(colour_images, weight_file):
    few = colour_images.select(range(6))
    found = load(few, weight_file).pretrained
    model = timm.create_model(
        "test_resnet", num_classes=0, pretrained=True,
        pretrained_cfg_overlay={"file": str(weight_file), "num_classes": 0},
    )  # fmt: skip
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, run_timm(few, model), rtol=1e-4, atol=1e-5)


def test_random_weights_follow_from_the_seed_alone_and_leave_the_generator_as_it_was(
    colour_images, weight_file, tmp_path
):
    few = colour_images.select(range(4))
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    cache = tmp_path / "cache"
    once = load(few, weight_file, cache).random
    assert torch.equal(torch.rand(3), expected)
    again = load(few, weight_file, cache).random
    np.testing.assert_array_equal(once, again)
    assert len(list(cache.glob("*/shard-*"))) == 2  # of both kinds of weights, found again under the same keys
    assert not np.allclose(once, load(few, weight_file, seed=1).random)
    torch.manual_seed(0)
    np.testing.assert_allclose(
        once, run_timm(few, timm.create_model("test_resnet", num_classes=0)), rtol=1e-4, atol=1e-5
    )


def test_a_backbone_that_cannot_be_had_is_listed_and_the_others_go_on(colour_images, weight_file):
    few = colour_images.select(range(4))
    names = ["nope", "test_resnet", "test_vit", "test_resnet"]
    loaded, failures = load_backbones(few, names, str(weight_file), quiet=True)
    assert list(loaded) == ["test_resnet"]
    one = loaded["test_resnet"]
    assert one.pretrained.shape == one.random.shape == (4, 96)
    assert not np.allclose(one.pretrained, one.random)
    assert one.parameters == sum(p.numel() for p in timm.create_model("test_resnet", num_classes=0).parameters())
    assert (one.source.images, one.weights) == (None, str(weight_file))
    assert [failure["backbone"] for failure in failures] == ["nope", "test_vit"]
    assert "nope" in failures[0]["reason"]
    assert all("\n" not in failure["reason"] for failure in failures)


def test_a_network_whose_features_are_no_numbers_is_a_failure(colour_images, tmp_path):
    state = timm.create_model("test_resnet", num_classes=0).state_dict()
    state["conv1.0.weight"][:] = float("nan")
    save_file(state, tmp_path / "broken.safetensors")
    few = colour_images.select(range(4))
    loaded, failures = load_backbones(few, ["test_resnet"], str(tmp_path / "broken.safetensors"), quiet=True)
    assert loaded == {}
    assert failures == [
        {"backbone": "test_resnet", "reason": "its features with pretrained weights are NaN or infinite"}
    ]


def test_a_picture_that_cannot_be_read_is_no_fault_of_the_backbone(colour_table, weight_file):
    (colour_table.parent / "002.png").write_text("no picture")
    few = load_images([str(colour_table)]).select(range(4))
    with pytest.raises(HalflabelError, match=r"002\.png"):
        load_backbones(few, ["test_resnet"], str(weight_file), quiet=True)
