import numpy as np
import pytest

from halflabel import IGNORE_INDEX, UNCERTAIN, HalflabelError
from halflabel.model.labels import count_labels
from halflabel.training.objective import TargetCounts, loss_configuration, prior_counts, training_targets
from halflabel.training.settings import RecipeArguments

NAMES = ["a", "b", "c"]
TARGETS = np.array([[1, 0, 1], [0, 0, IGNORE_INDEX], [0, 0, 1], [0, IGNORE_INDEX, IGNORE_INDEX]], np.int8)
COUNTS = TargetCounts.of(TARGETS)


def settings(**keys):
    return RecipeArguments(data=["x.csv"], backbone="test_resnet", **keys)


def test_automatic_pos_weight_is_negatives_over_positives_clipped():
    assert loss_configuration(settings(pos_weight="auto"), COUNTS, NAMES)["pos_weight"] == [3.0, 1.0, 1.0]
    many = np.array([[1]] + [[0]] * 99, np.int8)
    assert loss_configuration(settings(pos_weight="auto"), TargetCounts.of(many), ["a"])["pos_weight"] == [20.0]


def test_weights_are_given_by_label_or_for_all():
    made = loss_configuration(settings(pos_weight="2", label_weight='{"b": 0.5}'), COUNTS, NAMES)
    assert made["pos_weight"] == [2.0, 2.0, 2.0]
    assert made["label_weight"] == [1.0, 0.5, 1.0]
    with pytest.raises(HalflabelError, match="pos_weight: 'atuo' is not 'auto', a number"):
        loss_configuration(settings(pos_weight="atuo"), COUNTS, NAMES)
    with pytest.raises(HalflabelError, match="unknown label 'bb'; did you mean b"):
        loss_configuration(settings(label_weight='{"bb": 1}'), COUNTS, NAMES)


def test_the_prior_of_the_selective_loss_comes_from_the_targets():
    args = loss_configuration(settings(loss="selective"), COUNTS, NAMES)["loss_args"]
    assert args["prior"] == [0.25, 0.0, 0.5]  # c: two known yes and no known no, so 2 of 4 images at least
    assert loss_configuration(settings(loss="selective", loss_args='{"prior": null}'), COUNTS, NAMES)["loss_args"] == {
        "prior": None
    }


def test_the_head_starts_from_what_the_loss_takes_for_true():
    targets = TARGETS.copy()
    targets[3, 2] = UNCERTAIN
    known = prior_counts(TargetCounts.of(targets), "bce")
    assumed = prior_counts(TargetCounts.of(targets), "wan")
    assert known[0].tolist() == assumed[0].tolist() == [1, 0, 2]
    assert known[1].tolist() == [4, 3, 2]
    assert assumed[1].tolist() == [4, 4, 3]


@pytest.mark.parametrize("loss", ["bce", "wan"])
@pytest.mark.parametrize("policies", [{}, {"unknown": "negative"}, {"unknown": '{"b": 0.25}', "uncertain": "positive"}])
def test_counts_of_targets_follow_from_counts_of_labels(loss, policies):
    labels = np.random.default_rng(0).choice(np.array([1, 0, IGNORE_INDEX, UNCERTAIN], np.int8), (50, 3))
    chosen = settings(loss=loss, **policies)
    short = TargetCounts.from_labels(count_labels(labels), NAMES, chosen)
    whole = TargetCounts.of(training_targets(labels, NAMES, chosen))
    assert short.images == whole.images == 50
    for field in ("positive", "answered", "asked"):
        assert getattr(short, field).tolist() == getattr(whole, field).tolist()


def test_uncertain_entries_stay_apart_only_where_the_loss_uses_unknown_ones():
    labels = np.array([[UNCERTAIN, IGNORE_INDEX, 1]], np.int8)
    assert training_targets(labels, NAMES, settings()).tolist() == [[IGNORE_INDEX, IGNORE_INDEX, 1]]
    assert training_targets(labels, NAMES, settings(loss="wan")).tolist() == [[UNCERTAIN, IGNORE_INDEX, 1]]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"loss": "focall"}, "did you mean focal"),
        ({"loss": "asl", "loss_args": '{"gamma": 1}'}, "takes no argument 'gamma'"),
        ({"uncertain": "yes"}, "uncertain: 'yes' is none of"),
        ({"normalizer": "task"}, "did you mean tasks"),
    ],
)
def test_a_recipe_is_refused_before_any_data_is_read(keys, message):
    with pytest.raises(HalflabelError, match=message):
        settings(**keys)
