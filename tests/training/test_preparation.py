import numpy as np
import pytest
import torch
import yaml

from halflabel import (
    IGNORE_INDEX,
    UNCERTAIN,
    HalflabelError,
    TimmMultiLabelForImageClassification,
    TimmMultiLabelImageProcessor,
    count_labels,
)
from halflabel.data.pixels import PixelDataset
from halflabel.training.preparation import (
    TargetCounts,
    load_data,
    loss_configuration,
    make_datasets,
    prepare_data,
    report_labels,
    start_head,
    training_targets,
)
from halflabel.training.recipe import parse_policy, parse_recipe


def recipe(table, folder, **keys):
    base = {"data": str(table), "backbone": "test_resnet", "output_dir": str(folder / "out"), "use_cpu": True}
    (folder / "my.yaml").write_text(yaml.safe_dump({**base, **keys}))
    return parse_recipe(str(folder / "my.yaml"))


def test_hiding_depends_on_the_other_splits_alone(colour_table, tmp_path):
    images = load_data(recipe(colour_table, tmp_path, keep_labels=0.5, hide_seed=2, validation_share=0))
    test = images.column("split") == "test"
    assert (images.labels[test] != -100).all()
    shorter = load_data(
        recipe(colour_table, tmp_path, keep_labels=0.5, hide_seed=2, validation_share=0, max_test_images=3)
    )
    assert (shorter.of_split("train").labels == images.of_split("train").labels).all()


def test_a_missing_parameter_of_a_protocol_is_an_error(colour_table, tmp_path):
    with pytest.raises(HalflabelError, match="needs 'per_label'"):
        load_data(recipe(colour_table, tmp_path, hide_protocol="per_label"))


def test_no_known_entry_at_all_is_an_error_even_when_not_strict(colour_images):
    nothing = colour_images.with_labels(np.full_like(colour_images.labels, -100))
    with pytest.raises(HalflabelError, match="red, blue"):
        report_labels(count_labels(nothing.labels), ("red", "blue"), strict=False)


@pytest.mark.parametrize("cached", [True, False])
def test_the_head_starts_from_the_training_data(colour_table, tmp_path, tiny_model, cached):
    keys = {"freeze_backbone": True, "cache_features": cached, "unknown": "negative", "validation_share": 0.15}
    made = recipe(colour_table, tmp_path, **keys)
    data = prepare_data(made)
    processor = TimmMultiLabelImageProcessor.from_backbone(tiny_model.backbone)
    train = data.images.of_split("train")
    targets = training_targets(train.labels, train.label_space.names, made)
    sets = make_datasets(made, tiny_model, processor, data)
    start_head(tiny_model, sets["train"], data.target_counts(made))
    assert {split: len(part) for split, part in sets.items()} == {"train": 27, "validation": 5, "test": 16}
    assert (sets["train"].labels == targets).all()
    positive = (data.images.of_split("train").labels == 1).sum(axis=0)
    expected = torch.logit(torch.from_numpy((positive + 1) / (27 + 2)).float())  # unknown was taken as no: 27 known
    torch.testing.assert_close(tiny_model.head.linear.bias.detach(), expected)
    if cached:
        mean = sets["train"].features.mean(dim=0)
        torch.testing.assert_close(tiny_model.head.feature_mean, mean, rtol=1e-4, atol=1e-5)
    else:
        assert isinstance(sets["train"], PixelDataset)
        assert (tiny_model.head.feature_scale == 1).all()


NAMES = ["a", "b"]
LABELS = np.array([[1, 0], [IGNORE_INDEX, UNCERTAIN], [UNCERTAIN, IGNORE_INDEX]], np.int8)


@pytest.mark.parametrize(
    ("unknown", "uncertain", "second", "third"),
    [
        ("ignore", "ignore", [-100, -100], [-100, -100]),
        ("ignore", "negative", [-100, 0], [0, -100]),  # U-Zeros
        ("ignore", "positive", [-100, 1], [1, -100]),  # U-Ones: no blank turns positive by the way
        ("negative", "ignore", [0, -100], [-100, 0]),
        ("negative", {"b": "positive"}, [0, 1], [-100, 0]),
        ({"a": 1}, 0.75, [1, 0.75], [0.75, -100]),
    ],
)
def test_each_code_has_its_own_policy(unknown, uncertain, second, third):
    targets = training_targets(LABELS, NAMES, settings(unknown=unknown, uncertain=uncertain))
    assert targets.tolist() == [[1, 0], second, third]
    assert targets.dtype == (np.float32 if uncertain == 0.75 else np.int8)


def test_an_ignored_uncertain_entry_is_kept_apart_for_losses_that_use_unknown_ones_alone():
    assert (training_targets(LABELS, NAMES, settings()) == np.where(LABELS == UNCERTAIN, IGNORE_INDEX, LABELS)).all()
    assert (training_targets(LABELS, NAMES, settings(loss="wan")) == LABELS).all()


def test_words_and_numbers():
    assert parse_policy("unknown", "0.5", NAMES) == [0.5, 0.5]
    for wrong in ("negativ", 2, -0.1, None, float("nan")):
        with pytest.raises(HalflabelError, match="unknown: .*is none of ignore, negative, positive or a target"):
            parse_policy("unknown", wrong, NAMES)
    with pytest.raises(HalflabelError, match="did you mean negative"):
        parse_policy("unknown", "negativ", NAMES)
    with pytest.raises(HalflabelError, match="unknown label 'c'"):
        parse_policy("uncertain", {"c": "positive"}, NAMES)


THREE = ["a", "b", "c"]
TARGETS = np.array([[1, 0, 1], [0, 0, IGNORE_INDEX], [0, 0, 1], [0, IGNORE_INDEX, IGNORE_INDEX]], np.int8)


def settings(**keys):
    return parse_recipe("linear_probe", {"data": "x.csv", "backbone": "test_resnet", **keys})


def counts_of(labels, **keys):
    return TargetCounts.of(count_labels(labels), list("abc")[: labels.shape[1]], settings(**keys))


COUNTS = counts_of(TARGETS)


def test_automatic_pos_weight_is_negatives_over_positives_clipped():
    assert loss_configuration(settings(pos_weight="auto"), COUNTS, THREE)["pos_weight"] == [3.0, 1.0, 1.0]
    many = np.array([[1]] + [[0]] * 99, np.int8)
    assert loss_configuration(settings(pos_weight="auto"), counts_of(many), ["a"])["pos_weight"] == [20.0]


def test_weights_are_given_by_label_or_for_all():
    made = loss_configuration(settings(pos_weight="2", label_weight='{"b": 0.5}'), COUNTS, THREE)
    assert made["pos_weight"] == [2.0, 2.0, 2.0]
    assert made["label_weight"] == [1.0, 0.5, 1.0]
    with pytest.raises(HalflabelError, match="pos_weight: 'atuo' is not 'auto', a number"):
        loss_configuration(settings(pos_weight="atuo"), COUNTS, THREE)
    with pytest.raises(HalflabelError, match="unknown label 'bb'; did you mean b"):
        loss_configuration(settings(label_weight='{"bb": 1}'), COUNTS, THREE)


def test_the_prior_of_the_selective_loss_comes_from_the_targets():
    args = loss_configuration(settings(loss="selective"), COUNTS, THREE)["loss_args"]
    assert args["prior"] == [0.25, 0.0, 0.5]  # c: two known yes and no known no, so 2 of 4 images at least
    assert loss_configuration(settings(loss="selective", loss_args='{"prior": null}'), COUNTS, THREE)["loss_args"] == {
        "prior": None
    }


@pytest.mark.parametrize(("loss", "entries"), [("bce", [4, 3, 2]), ("wan", [4, 4, 3])])
def test_the_head_starts_from_what_the_loss_takes_for_true(loss, entries):
    targets = TARGETS.copy()
    targets[3, 2] = UNCERTAIN
    model = TimmMultiLabelForImageClassification.from_backbone("test_resnet", THREE, weights=None, loss=loss)
    start_head(model, None, counts_of(targets, loss=loss))
    expected = torch.logit((torch.tensor([1.0, 0, 2]) + 1) / (torch.tensor(entries) + 2))
    torch.testing.assert_close(model.head.linear.bias.detach(), expected)


@pytest.mark.parametrize("loss", ["bce", "wan"])
@pytest.mark.parametrize("policies", [{}, {"unknown": "negative"}, {"unknown": '{"b": 0.25}', "uncertain": "positive"}])
def test_counts_of_targets_follow_from_counts_of_labels(loss, policies):
    labels = np.random.default_rng(0).choice(np.array([1, 0, IGNORE_INDEX, UNCERTAIN], np.int8), (50, 3))
    chosen = settings(loss=loss, **policies)
    counts, targets = TargetCounts.of(count_labels(labels), THREE, chosen), training_targets(labels, THREE, chosen)
    assert counts.images == 50
    np.testing.assert_allclose(counts.positive, np.where(targets >= 0, targets, 0).sum(axis=0))
    assert counts.answered.tolist() == (targets >= 0).sum(axis=0).tolist()
    assert counts.asked.tolist() == (targets != UNCERTAIN).sum(axis=0).tolist()
