import json

import numpy as np
import pytest
import timm
from advice_examples import annotate, answer, make_features
from safetensors.torch import save_file

from halflabel.studies import multitask_training
from halflabel.studies.advice_data import advise_data
from halflabel.studies.backbone_features import load_backbones
from halflabel.studies.multitask_advice import MOST_LABELS, advise_multi_task
from halflabel.studies.network_comparison import summarise


@pytest.fixture(scope="module")
def planted():
    """Labels a and b lean on one large direction, and on a small one with opposed signs; c needs what b needs."""
    rng = np.random.default_rng(1)
    loud, soft, features = make_features(1500)
    logits = 2 * loud[:, 0] + 2 * soft[:, 0], 2 * loud[:, 0] - 2 * soft[:, 0], 2 * loud[:, 0] - 2 * soft[:, 0]
    columns = [answer(rng, logit) for logit in logits]
    rare = np.where(np.arange(1500) < 3, 1, 0)
    images = annotate(np.stack([*columns, rare], axis=1), ["a", "b", "c", "rare"])
    return images, features, advise_multi_task(images, features, advise_data(images)["balance"])


def test_conflict_and_sharing_are_told_with_their_numbers(planted):
    _, _, advice = planted
    pairs = {(row["a"], row["b"]): row for row in advice["shared_features"]["pairs"]}
    found = {frozenset(pair): row["verdict"] for pair, row in pairs.items()}
    assert found == {frozenset("ab"): "conflict", frozenset("ac"): "conflict", frozenset("bc"): "share features"}
    assert advice["verdict"] == advice["shared_features"]["verdict"] == "mixed"
    conflict = next(row for row in pairs.values() if row["verdict"] == "conflict")
    assert conflict["low"] < conflict["affinity"] < conflict["high"] < 0
    assert f"adds {-100 * conflict['affinity']:.2g} % to the loss" in advice["sentence"]
    assert (advice["labels"]["a"]["verdict"], advice["labels"]["a"]["number"]) == ("hurts", "2 of 2 pairs")
    assert advice["labels"]["b"]["verdict"] == advice["labels"]["c"]["verdict"] == "mixed"


def test_the_groups_part_what_conflicts_and_say_what_inference_costs(planted):
    groups = planted[2]["groups"]
    assert sorted(sorted(group) for group in groups["groups"]) == [["a"], ["b", "c"]]
    passes = {row["choice"]: row["backbone_passes"] for row in groups["choices"]}
    assert passes == {"all together": 1, "suggested": 2, "each alone": 3}
    worth = {row["choice"]: row["affinity"] for row in groups["choices"]}
    assert worth["suggested"] > max(worth["all together"], 0)
    assert worth["each alone"] == 0
    assert [row["parameters"] for row in groups["choices"]] == [1000, 2000, 3000]
    assert "2 passes" in groups["sentence"]


def test_a_label_with_three_positives_is_left_out_and_named(planted):
    _, _, advice = planted
    assert advice["labels"]["rare"]["verdict"] == "not enough data to tell"
    assert advice["left_out"] == {"too_few_answers": ["rare"], "beyond_the_best_known": 0}
    assert set(advice["shared_features"]["labels"]) == {"a", "b", "c"}
    json.dumps(advice, allow_nan=False)


def test_labels_drawn_at_random_give_no_evidence():
    rng = np.random.default_rng(0)
    _, _, features = make_features(300)
    images = annotate(rng.integers(0, 2, (300, 4)), list("abcd"))
    advice = advise_multi_task(images, features, advise_data(images)["balance"])
    assert advice["verdict"] == "no evidence"
    assert {row["verdict"] for row in advice["labels"].values()} == {"no evidence"}
    assert advice["groups"]["groups"] == [advice["shared_features"]["labels"]]


def test_capacity_is_how_wide_a_shared_layer_must_be(planted):
    capacity = planted[2]["capacity"]
    assert capacity["verdict"] == "big enough"
    assert capacity["features"] == 84
    assert capacity["ratio"] == pytest.approx(capacity["joint"] / capacity["single"])
    assert capacity["ratio"] <= 1.1
    assert all(row["ratio"] > 1.1 for row in capacity["tried"][:-1])
    assert f"layer of {capacity['units']} " in capacity["sentence"]
    losses = [row["joint"] for row in capacity["labels"].values()]
    assert np.mean(losses) == pytest.approx(capacity["joint"])


@pytest.mark.parametrize(
    ("count", "columns", "verdict", "says"),
    [
        (100, 1, "not applicable", "single label"),
        (15, 3, "not enough data to tell", "15 images, at least 20"),
        (100, 2, "not enough data to tell", "0 of 2 labels"),
    ],
)
def test_what_cannot_be_measured_is_said(count, columns, verdict, says):
    labels = np.random.default_rng(0).integers(0, 2, (count, columns))
    images = annotate(np.full_like(labels, -100) if says.startswith("0 of") else labels, list("abc")[:columns])
    advice = advise_multi_task(images, make_features(count)[2], advise_data(images)["balance"])
    assert advice["verdict"] == verdict
    assert says in advice["sentence"]
    assert advice["shared_features"] is advice["groups"] is advice["capacity"] is advice["training"] is None
    assert {row["verdict"] for row in advice["labels"].values()} == {verdict}


def test_without_a_backbone_it_says_so():
    images = annotate(np.random.default_rng(0).integers(0, 2, (60, 2)), ["a", "b"])
    advice = advise_multi_task(images, None, advise_data(images)["balance"])
    assert (advice["verdict"], advice["sentence"]) == ("not enough data to tell", "no backbone could be loaded")


def test_of_many_labels_those_best_known_are_compared_and_the_others_counted():
    rng = np.random.default_rng(0)
    _, _, features = make_features(200)
    labels = (rng.random((200, 60)) < 0.4).astype(np.int8)
    for column in range(60):  # the last labels are known best
        labels[rng.random(200) < (59 - column) / 100, column] = -100
    images = annotate(labels, [f"label {i}" for i in range(60)])
    advice = advise_multi_task(images, features, advise_data(images)["balance"])
    assert len(advice["shared_features"]["labels"]) == MOST_LABELS
    assert advice["left_out"]["beyond_the_best_known"] == 60 - MOST_LABELS
    assert len(advice["shared_features"]["pairs"]) == MOST_LABELS * (MOST_LABELS - 1) // 2
    assert len(advice["labels"]) == 60
    rarer = np.minimum((labels == 1).sum(axis=0), (labels == 0).sum(axis=0))
    chosen = [int(name.split()[1]) for name in advice["shared_features"]["labels"]]
    assert rarer[chosen].min() >= np.delete(rarer, chosen).max()


def test_full_trains_both_ways_and_its_losses_tell_the_capacity(colour_images, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(multitask_training, "EPOCHS", 1)
    path = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), path)
    features, _ = load_backbones(colour_images, ["test_resnet"], str(path), quiet=True)
    balance = advise_data(colour_images)["balance"]
    advice = advise_multi_task(colour_images, features["test_resnet"], balance, "full", quiet=True)
    training = advice["training"]
    assert (training["trainings"], training["left_out"]) == (6, 0)
    losses = [row["training_loss"] for row in training["labels"].values()]
    assert advice["capacity"]["joint"] == pytest.approx(np.mean([loss["joint"] for loss in losses]))
    assert advice["capacity"]["sentence"].startswith("test_resnet, trained, is ")
    enough = advice["capacity"]["ratio"] <= 1.1
    assert advice["capacity"]["verdict"] == ("big enough" if enough else "no evidence")
    assert "networks were trained both ways" in advice["sentence"]
    measured = {name: row for name, row in training["labels"].items() if row["auroc"]}
    assert measured
    for name, row in measured.items():  # whatever the pairs say
        told = advice["labels"][name]
        assert (told["verdict"], told["number"]) == (row["verdict"], f"AUROC {row['auroc']['gain']:+.3f}")
    assert advice["verdict"] == summarise(row["verdict"] for row in measured.values())
    assert capsys.readouterr().out == ""
    json.dumps(advice, allow_nan=False)
