import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from sklearn.metrics import roc_auc_score

from halflabel import HalflabelError
from halflabel.data.loading import load_images
from halflabel.model.image_processing_timm_multilabel import TimmMultiLabelImageProcessor, decode_image
from halflabel.studies.networks import find_source_data, held_out_probe, load_backbones, train_and_predict
from halflabel.training.guesses import FeatureBasis


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


@pytest.fixture
def planted():
    """Features of which the first tells label 0, and none tells label 1; a third of the entries is not known."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(150, 40)).astype(np.float32)
    labels = np.stack([features[:, 0] > 0, rng.random(150) < 0.4], axis=1).astype(np.int8)
    labels[rng.random((150, 2)) < 0.3] = -100
    return FeatureBasis.of(features), labels, np.arange(150) % 5


def test_a_probe_finds_what_is_there_and_nothing_else(planted):
    basis, labels, folds = planted
    logits, known = held_out_probe(basis, labels, folds), labels >= 0
    areas = [roc_auc_score(labels[known[:, j], j], logits[known[:, j], j]) for j in range(2)]
    assert areas[0] > 0.8
    assert areas[1] == pytest.approx(0.5, abs=0.2)


def test_what_a_probe_says_does_not_depend_on_the_answers_in_its_own_fold(planted):
    basis, labels, folds = planted
    own, other = folds == 3, labels.copy()
    other[own] = np.where(labels[own] >= 0, 1 - labels[own], labels[own])
    found, changed = (held_out_probe(basis, one, folds) for one in (labels, other))
    np.testing.assert_array_equal(found[own], changed[own])
    assert (found[~own] != changed[~own]).any()


def test_a_training_depends_on_its_seed_and_on_nothing_that_was_drawn_before(colour_images):
    images = colour_images.with_column("split", ["test"] * 12 + ["train"] * 36)
    torch.manual_seed(3)
    once, again = (train_and_predict(images, "test_resnet", None, 1, seed=2) for _ in range(2))
    assert once.shape == (12, 2)
    np.testing.assert_array_equal(once, again)


@pytest.mark.parametrize(
    ("name", "images"),
    [
        ("tf_efficientnet_lite0", 1_281_167),  # timm's default tag is in1k
        ("resnet50.a1_in1k", 1_281_167),
        ("vit_base_patch16_224.augreg_in21k", 14_197_122),
        ("convnext_base.fb_in22k_ft_in1k", 14_197_122),  # the larger of the two
        ("vit_base_patch16_clip_224.laion2b_ft_in12k_in1k", 2_300_000_000),
        ("vit_small_patch14_dinov2.lvd142m", 142_000_000),
    ],
)
def test_the_number_of_source_images_follows_from_the_tag(name, images):
    assert find_source_data(name, "hub").images == images


def test_what_is_not_known_is_said_to_be_so(tmp_path):
    for source in (find_source_data("sam2_hiera_tiny.fb_r896", "hub"), find_source_data("resnet50", str(tmp_path))):
        found = source.relate(500)
        assert (found["images"], found["ratio"], found["verdict"]) == (None, None, "unknown")
        assert "not known" in found["sentence"]


def test_ten_times_as_many_source_images_are_far_more():
    source = find_source_data("resnet50.a1_in1k", "hub")
    assert source.relate(1000)["ratio"] == pytest.approx(1281.167)
    assert source.relate(128_116)["verdict"] == "far more source images"
    assert source.relate(128_117)["verdict"] == "not far more source images"
    assert "1,281,167 images (a1_in1k), 1,281 times the 1,000 target images" in source.relate(1000)["sentence"]
    assert source.relate(0)["ratio"] is None
