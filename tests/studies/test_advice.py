import json

import numpy as np
import pytest
import timm
from safetensors.torch import save_file

from halflabel import HalflabelError
from halflabel.studies.advice import advise


@pytest.fixture
def weight_file(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), path)
    return str(path)


def test_test_pictures_are_left_out_and_a_backbone_that_cannot_be_had_is_listed(colour_images, weight_file):
    advice = advise(colour_images, backbone=["test_resnet", "nope"], weights=weight_file)
    assert (advice["images"], advice["test_images_left_out"]) == (32, 16)
    assert advice["data"]["images"] == advice["transfer"]["images"] == 32
    assert list(advice["transfer"]["backbones"]) == ["test_resnet"]
    assert [row["backbone"] for row in advice["transfer"]["failures"]] == ["nope"]
    assert advice["multi_task"]["backbone"] == "test_resnet"
    json.dumps(advice, allow_nan=False)


def test_what_stands_in_the_test_split_changes_nothing(colour_images, weight_file):
    labels = colour_images.labels.copy()
    labels[colour_images.column("split") == "test"] = 1
    once, again = (advise(images, backbone=["test_resnet"], weights=weight_file) for images in
                   (colour_images, colour_images.with_labels(labels)))  # fmt: skip
    assert once == again


@pytest.mark.parametrize("case", ["few", "unknown", "no backbone"])
def test_where_nothing_can_be_measured_no_network_is_run_and_the_advice_says_so(colour_images, weight_file, case):
    images, backbones = colour_images, ["test_resnet"]
    if case == "few":
        images = images.select(range(15))
    elif case == "unknown":
        images = images.with_labels(np.full_like(images.labels, -100))
    else:
        backbones = ["nope"]
    advice = advise(images, backbone=backbones, weights=weight_file)
    for part in ("transfer", "multi_task"):
        assert advice[part]["verdict"] == "not enough data to tell"
    assert {row["verdict"] for row in advice["transfer"]["labels"].values()} == {"not enough data to tell"}
    assert bool(advice["transfer"]["failures"]) == (case == "no backbone")
    reason = {"few": "15 images", "unknown": "0 of 2 labels", "no backbone": "no backbone could be loaded"}[case]
    assert reason in advice["multi_task"]["sentence"]


def test_mistakes_are_told(colour_images, weight_file):
    with pytest.raises(HalflabelError, match="budget 'quik' is none of quick, full; did you mean quick"):
        advise(colour_images, backbone=["test_resnet"], weights=weight_file, budget="quik")
    with pytest.raises(HalflabelError, match="no backbone is given"):
        advise(colour_images, backbone=[], weights=weight_file)
    with pytest.raises(HalflabelError, match="no image outside the split 'test'"):
        advise(colour_images.of_split("test"), backbone=["test_resnet"], weights=weight_file)


def test_data_is_loaded_as_the_command_loads_it(colour_table, weight_file):
    (colour_table.parent / "031.png").write_text("no picture")
    keywords = {"backbone": "test_resnet", "weights": weight_file}
    with pytest.raises(HalflabelError, match=r"031\.png"):
        advise([str(colour_table)], **keywords)
    advice = advise(str(colour_table), bad_images="skip", **keywords)
    assert (advice["images"], len(advice["unreadable"]), advice["backbones"]) == (31, 1, ["test_resnet"])
