import json

import numpy as np
import pytest
import timm
from advice_examples import annotate, answer, make_features
from safetensors.torch import save_file

from halflabel.studies import networks, transfer_advice
from halflabel.studies.advice_data import advise_data
from halflabel.studies.multitask_advice import MOST_LABELS, advise_multi_task, held_out_together
from halflabel.studies.networks import held_out_probe, load_backbones
from halflabel.training.folds import cut_folds
from halflabel.training.guesses import FeatureBasis


def advise(images, features, **options):
    return advise_multi_task(images, features, advise_data(images)["balance"], **options)


def make(logits, unknown=0.2, seed=1):
    rng = np.random.default_rng(seed)
    columns = [answer(rng, logit, unknown) for logit in logits]
    return annotate(np.stack(columns, axis=1), [chr(97 + i) for i in range(len(columns))])


def test_labels_with_few_answers_that_need_the_same_help_one_another():
    _, soft, features = make_features(800)
    images = make([2 * soft[:, 0]] * 5, unknown=0.85, seed=0)
    advice = advise(images, features)
    shared = advice["shared_features"]
    assert (advice["verdict"], shared["verdict"], advice["backbone"]) == ("helps", "helps", "good")
    assert "probes together and alone: mean AUROC" in advice["sentence"]
    assert shared["sentence"] in advice["sentence"]
    row = shared["labels"]["a"]
    assert advice["labels"]["a"]["number"] == f"AUROC {row['auroc']['difference']:+.3f}"
    assert advice["labels"]["a"]["sentence"] == row["sentence"]
    assert "corrected for 5 tests" in row["sentence"]
    assert advice["capacity"]["tried"][-1]["width"] == 1
    assert advice["capacity"]["verdict"] == "big enough"
    json.dumps(advice, allow_nan=False)


def test_labels_that_need_features_of_their_own_do_not_and_need_a_wider_layer():
    loud, soft, features = make_features(800)
    advice = advise(make([3 * part for part in (*loud.T, *soft.T)]), features)
    assert advice["verdict"] != "helps"
    assert advice["capacity"]["tried"][-1]["width"] > 2
    assert "numbers that 6 labels share is enough" in advice["capacity"]["sentence"]
    losses = [one["loss"] for one in advice["capacity"]["tried"]]
    assert losses == sorted(losses, reverse=True)


def test_of_labels_drawn_at_random_nothing_is_claimed():
    claimed = 0
    for seed in range(12):
        _, _, features = make_features(150, seed)
        claimed += advise(make([np.zeros(150)] * 3, seed=seed), features)["verdict"] != "no evidence"
    assert claimed <= 2


def test_what_is_said_of_a_fold_does_not_depend_on_its_answers_and_all_directions_are_the_probes_themselves():
    _, soft, features = make_features(120)
    images = make([soft[:, 0], soft[:, 0], soft[:, 1]])
    basis, folds = FeatureBasis.of(features.pretrained), cut_folds(images, 5, 0)
    own, other = folds == 3, images.labels.copy()
    other[own] = np.where(other[own] >= 0, 1 - other[own], other[own])
    for width in (None, 2):
        found, changed = (held_out_together(basis, one, folds, width) for one in (images.labels, other))
        np.testing.assert_array_equal(found[own], changed[own])
    alone = held_out_probe(basis, images.labels, folds)
    np.testing.assert_allclose(held_out_together(basis, images.labels, folds, 3), alone, atol=1e-4)
    assert np.linalg.matrix_rank(np.diff(held_out_together(basis, images.labels, folds, 1)[own], axis=0), 1e-5) == 1


def test_of_many_labels_those_of_which_most_is_known_are_compared():
    rng = np.random.default_rng(0)
    _, _, features = make_features(60)
    labels = rng.integers(0, 2, (60, MOST_LABELS + 4)).astype(np.int8)
    labels[:, 0] = 0
    labels[:30, 1:4] = -100
    images = annotate(labels, [f"label {i}" for i in range(labels.shape[1])])
    advice = advise(images, features)
    assert len(advice["shared_features"]["labels"]) == MOST_LABELS
    assert advice["left_out"] == {"too_few_answers": ["label 0"], "beyond_the_best_known": 3}
    assert advice["labels"]["label 0"]["verdict"] == advice["labels"]["label 1"]["verdict"] == "not enough data to tell"


@pytest.mark.parametrize(
    ("count", "columns", "with_features", "verdict", "why"),
    [
        (60, 1, True, "not applicable", "there is a single label"),
        (19, 2, True, "not enough data to tell", "there are 19 images"),
        (60, 2, False, "not enough data to tell", "no backbone could be loaded"),
    ],
)
def test_what_cannot_be_told_is_said_with_its_reason(count, columns, with_features, verdict, why):
    rng = np.random.default_rng(0)
    images = annotate(rng.integers(0, 2, (count, columns)), [f"label {i}" for i in range(columns)])
    advice = advise(images, make_features(count)[2] if with_features else None)
    assert advice["verdict"] == verdict
    assert why in advice["sentence"]
    assert {row["verdict"] for row in advice["labels"].values()} == {verdict}
    assert advice["shared_features"] is advice["capacity"] is advice["training"] is None


def test_one_label_with_answers_is_not_enough():
    labels = np.random.default_rng(0).integers(0, 2, (60, 2))
    labels[:, 1] = 0
    assert (
        "1 of 2 labels have enough known answers"
        in advise(annotate(labels, ["a", "b"]), make_features(60)[2])["sentence"]
    )


def test_the_full_budget_trains_both_ways_and_its_numbers_decide(colour_images, tmp_path, monkeypatch):
    trained = []

    def train(part, *given):
        trained.append((part, given))
        return np.random.default_rng(len(trained)).normal(size=part.of_split("test").labels.shape)

    monkeypatch.setattr(networks, "train_and_predict", train)
    weights = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), weights)
    features, _ = load_backbones(colour_images, ["test_resnet"], str(weights), quiet=True)
    advice = advise(colour_images, features["test_resnet"], budget="full", seed=5)
    assert advice["training"]["trainings"] == len(trained) == 6
    folds = cut_folds(colour_images.with_only(list(advice["training"]["labels"])), transfer_advice.FOLDS, 5)
    for number, (part, given) in enumerate(trained):
        run = number % 2
        np.testing.assert_array_equal(part.column("split") == "test", folds // 2 == run)
        assert given == ("test_resnet", str(weights), networks.EPOCHS, 5 + run)
        assert len(part.label_space) == (2 if number < 2 else 1)
    assert advice["sentence"].startswith("networks trained together and alone: mean AUROC")
    for name, row in advice["training"]["labels"].items():
        assert advice["labels"][name]["sentence"] == row["sentence"]
    json.dumps(advice, allow_nan=False)
