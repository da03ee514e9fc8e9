import json
import re

import numpy as np
import pytest
import timm
from safetensors.torch import save_file
from sklearn.metrics import roc_auc_score

from halflabel.data.images import build_images
from halflabel.data.loading import load_images
from halflabel.studies import networks
from halflabel.studies.networks import BackboneFeatures, SourceData, load_backbones, train_and_predict
from halflabel.studies.transfer_advice import FOLDS, advise_transfer, rank_known
from halflabel.training.folds import cut_folds

NAMES = ["there", "drawn", "rare"]


def annotate(labels, groups=None):
    files = [f"{i}.png" for i in range(len(labels))]
    return build_images(files, files, np.asarray(labels, dtype=np.int8), NAMES, groups=groups)


def make(signal, seed, width=30, name="good"):
    """Features of which the pretrained ones hold a signal, (n,)."""
    rng = np.random.default_rng(seed)
    pretrained, random = rng.normal(size=(2, len(signal), width)).astype(np.float32)
    pretrained[:, 0] += 3 * signal
    return BackboneFeatures(name, "installed", pretrained, random, SourceData("in1k", 1_281_167), 1000)


@pytest.fixture
def planted():
    rng = np.random.default_rng(0)
    labels = (rng.random((150, 3)) < 0.4).astype(np.int8)
    labels[:, 2] = np.arange(150) < 3
    labels[rng.random((150, 3)) < 0.15] = -100
    labels[:3, 2] = 1
    return annotate(labels), {"good": make(labels[:, 0] == 1, 1)}


def test_each_label_gets_its_verdict(planted):
    images, features = planted
    advice = advise_transfer(images, features)
    assert (advice["verdict"], advice["best_backbone"], advice["budget"]) == ("helps", "good", "quick")
    assert {name: row["verdict"] for name, row in advice["labels"].items()} == {
        "there": "helps", "drawn": "no evidence", "rare": "not enough data to tell",
    }  # fmt: skip
    assert [row["backbone"] for row in advice["labels"].values()] == ["good", None, None]
    assert [row["trained"] for row in advice["labels"].values()] == [False] * 3
    rows = advice["backbones"]["good"]["labels"]
    assert (rows["rare"]["known"], rows["rare"]["positive"]) == ((images.labels[:, 2] >= 0).sum(), 3)
    assert "yes is known of 3 images or groups" in advice["labels"]["rare"]["sentence"]
    assert rows["rare"]["auroc"] is rows["rare"]["p_holm"] is None
    assert advice["backbones"]["good"]["source"]["verdict"] == "far more source images"
    assert [row["weights"] for row in advice["ranking"]] == ["pretrained", "random"]
    json.dumps(advice, allow_nan=False)


def test_of_several_backbones_the_better_one_is_named(planted):
    images, features = planted
    signal = images.labels[:, 0] == 1
    weak = make(0.4 * signal, 2, name="weak")
    failures = [{"backbone": "nope", "reason": "timm knows no backbone 'nope'"}]
    advice = advise_transfer(images, {"weak": weak, **features}, failures)
    assert (advice["best_backbone"], advice["labels"]["there"]["backbone"]) == ("good", "good")
    assert (advice["ranking"][0]["backbone"], advice["ranking"][0]["weights"]) == ("good", "pretrained")
    assert advice["failures"] == failures
    assert "corrected for 4 tests" in advice["labels"]["there"]["sentence"]  # two labels, two backbones


def test_pretrained_features_that_hold_less_than_random_ones_hurt(planted):
    images, features = planted
    good = features["good"]
    turned = BackboneFeatures("bad", "hub", good.random, good.pretrained, SourceData(None, None), 1)
    advice = advise_transfer(images, {"bad": turned})
    assert (advice["verdict"], advice["labels"]["there"]["verdict"]) == ("hurts", "hurts")
    assert advice["best_backbone"] is None


def test_labels_drawn_at_random_are_no_evidence():
    claimed = 0
    for seed in range(12):
        labels = (np.random.default_rng(100 + seed).random((60, 3)) < (0.5, 0.3, 0.5)).astype(np.int8)
        groups = [str(i // 2) for i in range(60)]
        advice = advise_transfer(annotate(labels, groups), {"good": make(np.zeros(60), seed, 15)}, seed=seed)
        claimed += advice["verdict"] != "no evidence"
    assert claimed <= 2  # of 12; one in twenty is allowed, and three of 12 would have a chance of 2 %


def test_pictures_that_stand_in_a_group_do_not_speak_for_one_another():
    """Each picture 8 times, with features that tell the group and nothing else: by memory all would be right."""
    rng = np.random.default_rng(3)
    labels = np.repeat((rng.random((40, 3)) < 0.5).astype(np.int8), 8, axis=0)
    features = make(np.zeros(320), 0)
    features.pretrained[:] = np.repeat(rng.normal(size=(40, 30)), 8, axis=0)
    groups = [str(i // 8) for i in range(320)]
    assert advise_transfer(annotate(labels, groups), {"good": features})["verdict"] == "no evidence"
    assert advise_transfer(annotate(labels), {"good": features})["verdict"] == "helps"


@pytest.mark.parametrize(
    ("images", "value", "why"),
    [(19, None, "there are 19 images, at least 20 are needed"), (60, -100, "no label has enough known answers")],
)
def test_too_few_images_or_answers_are_said_to_be_so(images, value, why):
    labels = np.random.default_rng(0).integers(0, 2, (images, 3)) if value is None else np.full((images, 3), value)
    advice = advise_transfer(annotate(labels), {"good": make(np.zeros(images), 0)})
    assert advice["verdict"] == "not enough data to tell"
    assert advice["sentence"] == f"not enough data to tell: {why}"
    assert {row["verdict"] for row in advice["labels"].values()} == {"not enough data to tell"}
    assert (advice["ranking"], advice["backbones"], advice["fine_tuning"]) == ([], {}, None)
    json.dumps(advice, allow_nan=False)


def test_without_a_backbone_the_failures_are_left(planted):
    images, _ = planted
    failures = [{"backbone": "nope", "reason": "unknown"}]
    advice = advise_transfer(images, {}, failures)
    assert advice["sentence"] == "not enough data to tell: no backbone could be loaded"
    assert advice["failures"] == failures


def test_the_full_budget_also_trains_and_corrects_for_all_tests(colour_images, tmp_path, monkeypatch):
    monkeypatch.setattr(networks, "EPOCHS", 1)
    weights = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), weights)
    features, _ = load_backbones(colour_images, ["test_resnet"], str(weights), quiet=True)
    advice = advise_transfer(colour_images, features, budget="full")
    tuned = advice["fine_tuning"]
    rows = tuned["backbones"]["test_resnet"]["labels"]
    assert set(rows) == {"red", "blue"}
    measured = [row for row in (*rows.values(), *advice["backbones"]["test_resnet"]["labels"].values()) if row["auroc"]]
    assert len(measured) > 2
    assert all(f"corrected for {len(measured)} tests" in row["sentence"] for row in measured)
    for name, told in advice["labels"].items():
        source = tuned if told["trained"] else advice
        assert told["auroc"] == source["backbones"]["test_resnet"]["labels"][name]["auroc"]
        assert told["verdict"] == source["backbones"]["test_resnet"]["labels"][name]["verdict"]
    assert {row["weights"] for row in tuned["ranking"]} == {"pretrained", "random"}
    assert re.search(r"test_resnet: mean AUROC [01]\.\d\d trained, [01]\.\d\d probed, difference", tuned["sentence"])
    labels = colour_images.labels
    folds = cut_folds(colour_images, FOLDS, seed=0)
    assert tuned["tested_images"] == ((labels >= 0).any(axis=1) & (folds < 4)).sum()
    # The second run once more, on a table that lacks the answers which it is tested on.
    second = np.isin(folds, (2, 3))
    part = colour_images.with_column("split", np.where(second, "test", "train"))
    part = part.with_labels(np.where(second[:, None], -100, labels))
    again = train_and_predict(part, "test_resnet", str(weights), 1, seed=1)
    whole = np.full(labels.shape, np.nan)
    whole[second] = again
    run = np.isin(folds, (0, 1))
    first = colour_images.with_column("split", np.where(run, "test", "train"))
    whole[run] = train_and_predict(first, "test_resnet", str(weights), 1, seed=0)
    tested = np.where((folds < 4)[:, None], labels, -100)
    ranks = rank_known(whole, tested, np.where(folds < 4, folds // 2, -1))
    red = tested[:, 0] >= 0
    assert rows["red"]["auroc"]["pretrained"] == pytest.approx(roc_auc_score(tested[red, 0], ranks[red, 0]))
    json.dumps(advice, allow_nan=False)


@pytest.mark.slow
def test_on_rendered_scenes_the_features_of_photographs_help():
    images = load_images(["street_scenes"]).of_split("train").select(range(320))
    features, failures = load_backbones(images, ["tf_efficientnet_lite0"], "installed", quiet=True)
    assert failures == []
    advice = advise_transfer(images, features)
    assert advice["verdict"] == "helps"
    assert advice["labels"]["car"]["verdict"] == "helps"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_on_photographs_with_labels_drawn_at_random_nothing_is_claimed(road_signs):
    images = load_images([str(road_signs)]).of_split("train").select(range(240))
    features, _ = load_backbones(images, ["tf_efficientnet_lite0"], "installed", quiet=True)
    claimed = 0
    for seed in range(100):
        shuffled = images.labels[np.random.default_rng(seed).permutation(len(images))]
        claimed += advise_transfer(images.with_labels(shuffled), features, seed=seed)["verdict"] != "no evidence"
    assert claimed <= 5
