import json

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from halflabel.data.images import build_images
from halflabel.studies.held_out import (
    Comparison,
    Estimate,
    Measured,
    holm,
    judge,
    measurable,
    rank_networks,
    ranks_within,
    summarise,
)

NAMES, KINDS = ["easy", "hard", "rare"], ("pretrained", "random")


def annotate(labels, groups=None):
    files = [f"{i}.png" for i in range(len(labels))]
    return build_images(files, files, labels, [f"label {i}" for i in range(labels.shape[1])], groups=groups)


def draw(seed=0, images=200, help_by=2.0):
    """Scores of a good and of a bad network; label `rare` has 3 positives and is not measurable."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((images, 3)) < 0.4).astype(np.int8)
    labels[:, 2] = np.arange(images) < 3
    labels[rng.random((images, 3)) < 0.2] = -100
    signal = np.where(labels == 1, 1.0, 0.0)
    good, bad = help_by * signal + rng.normal(size=labels.shape), 0.5 * signal + rng.normal(size=labels.shape)
    return good, bad, measurable(labels, np.arange(images))


def compare(first, second, labels, groups=None):
    groups = np.arange(len(labels)) if groups is None else groups
    return Comparison.of(*(Measured.of(one, labels, groups, 2.25) for one in (first, second)), KINDS, NAMES)


# folds and groups


def test_images_without_a_group_are_groups_of_their_own():
    groups = annotate(np.ones((5, 1), np.int8), ["a", "", "b", "a", ""]).groups
    assert groups[0] == groups[3]
    assert len(set(groups)) == 4
    assert groups.max() == 3


def test_a_label_answered_in_few_groups_is_not_measurable():
    labels = np.zeros((100, 3), dtype=np.int8)
    labels[:3, 0] = 1
    labels[:40, 1] = 1
    labels[::2, 2] = 1
    assert (measurable(labels, np.arange(100)) >= 0).all(axis=0).tolist() == [False, True, True]
    assert (measurable(labels, np.arange(100) // 10) >= 0).all(axis=0).tolist() == [False, False, True]


def test_ranks_are_taken_within_label_and_part_and_nan_stays():
    scores = np.array([[1.0, np.nan], [3.0, 5.0], [3.0, 4.0], [1000.0, 1.0], [2000.0, np.nan]])
    ranks = ranks_within(scores, np.array([0, 0, 0, 1, 1]))
    np.testing.assert_allclose(ranks[:, 0], [1 / 6, 4 / 6, 4 / 6, 1 / 4, 3 / 4])
    np.testing.assert_allclose(ranks[:, 1], [np.nan, 3 / 4, 1 / 4, 1 / 2, np.nan])


# how sure a measure is


def test_the_standard_error_is_the_spread_over_new_data_and_inflated():
    rng = np.random.default_rng(1)
    found = []
    for _ in range(150):
        labels = (rng.random((300, 1)) < 0.3).astype(np.int8)
        found.append(Measured.of(labels + rng.normal(size=(300, 1)), labels, np.arange(300), 1.0))
    for measure in ("auroc", "ap"):
        estimates = [one.estimate(column=0, measure=measure) for one in found]
        spread = np.std([one.value for one in estimates])
        assert np.mean([one.error for one in estimates]) == pytest.approx(spread, rel=0.15)
    inflated = Measured(found[0].auroc, found[0].ap, found[0].resampled, found[0].seen, 2.25)
    assert inflated.estimate().error == pytest.approx(1.5 * found[0].estimate().error)


def test_a_picture_that_stands_there_five_times_in_a_group_makes_nothing_surer():
    good, _, labels = draw()
    groups = np.repeat(np.arange(200), 5)
    once = Measured.of(good, labels, np.arange(200), 1.0).estimate()
    copied = np.repeat(good, 5, axis=0), np.repeat(labels, 5, axis=0)
    grouped, apart = (Measured.of(*copied, which, 1.0).estimate() for which in (groups, np.arange(1000)))
    assert (grouped.value, grouped.error) == pytest.approx((once.value, once.error))
    assert apart.error == pytest.approx(once.error / np.sqrt(5), rel=0.15)


def test_interval_and_p_value_are_students():
    found = Estimate(0.7, 0.1, 9)
    low, high = found.interval()
    assert (low + high) / 2 == pytest.approx(0.7)
    assert stats.t.cdf((high - 0.7) / 0.1, 9) == pytest.approx(0.975)
    assert found.p_value(0.5) == pytest.approx(2 * (1 - stats.t.cdf(2, 9)))
    assert (Estimate(0.0, 0.0, 9).p_value(), Estimate(0.2, 0.0, 9).p_value()) == (1, 0)


def test_holm_multiplies_the_smallest_by_the_number_of_tests_the_next_by_one_less_and_keeps_the_order():
    np.testing.assert_allclose(holm([0.04, 0.001, 0.03, 0.5]), [0.09, 0.004, 0.09, 0.5])
    assert holm([]).shape == (0,)


# comparisons


def test_values_are_those_of_scikit_learn_on_the_known_entries():
    good, bad, labels = draw()
    found = compare(good, bad, labels)
    assert found.labels["rare"] is None
    means = []
    for column, name in enumerate(NAMES[:2]):
        known = labels[:, column] >= 0
        for key, oracle in (("auroc", roc_auc_score), ("ap", average_precision_score)):
            values = [oracle(labels[known, column], scores[known, column]) for scores in (good, bad)]
            row = found.labels[name][key]
            assert (row["pretrained"], row["random"]) == pytest.approx(values)
            assert row["difference"] == pytest.approx(values[0] - values[1])
            assert row["low"] < row["difference"] < row["high"]
            assert row["pretrained_low"] < row["pretrained"] <= row["pretrained_high"] <= 1
            means += [values] if key == "auroc" else []
    assert (found.mean["pretrained"], found.mean["random"]) == pytest.approx(np.mean(means, axis=0))
    assert found.mean["difference"] == pytest.approx(found.mean["pretrained"] - found.mean["random"])


def test_a_network_that_is_better_helps_and_exchanged_it_hurts():
    good, bad, labels = draw()
    forth, back = compare(good, bad, labels), compare(bad, good, labels)
    judge([forth])
    judge([back])
    assert (forth.verdict(), back.verdict()) == ("helps", "hurts")
    row = forth.labels["easy"]
    assert row["p"] == max(row["p_difference"], row["p_chance"]) < row["p_holm"] < 0.05
    assert f"{row['auroc']['pretrained']:.2f} with pretrained weights" in row["sentence"]
    assert "corrected for 2 tests" in row["sentence"]
    json.dumps(forth.labels, allow_nan=False)
    alone = row["p_holm"]
    judge([forth, *[compare(*draw(2, help_by=1.0))] * 5])
    assert row["p_holm"] > alone


def test_better_than_a_network_that_errs_is_no_praise_unless_better_than_chance():
    good, _, labels = draw()
    found = compare(np.random.default_rng(5).normal(size=labels.shape), -good, labels)
    judge([found])
    assert found.labels["easy"]["p_difference"] < 1e-3
    assert found.labels["easy"]["verdict"] == "no evidence"


def test_where_nothing_is_measured_nothing_is_said():
    good, bad, labels = draw()
    none = np.full_like(labels, -100)
    found = compare(good, bad, none)
    assert set(found.labels.values()) == {None}
    assert (found.mean, found.sentence(), found.verdict()) == (
        None, "no label has enough tested answers", "not enough data to tell",
    )  # fmt: skip
    assert rank_networks({("x", "random"): Measured.of(good, none, np.arange(200), 1.0)})[0] == []


def test_networks_are_ranked_by_their_mean_auroc_with_paired_distances_to_the_best():
    good, bad, labels = draw()
    scores = {("x", "pretrained"): good, ("x", "random"): bad, ("y", "pretrained"): good + 1e-9 * bad}
    rows, told = rank_networks({key: Measured.of(one, labels, np.arange(200), 2.25) for key, one in scores.items()})
    assert rows[-1]["weights"] == "random"
    found = compare(good, bad, labels).mean
    assert rows[-1]["auroc"] == pytest.approx(found["random"])
    assert rows[-1]["behind"] == pytest.approx({key: found[key] for key in ("difference", "low", "high")}, abs=1e-6)
    assert [row["auroc"] for row in rows] == sorted((row["auroc"] for row in rows), reverse=True)
    assert told.startswith("best: ")
    assert "not told apart from it: " in told
    assert "random" not in told


@pytest.mark.parametrize(
    ("verdicts", "overall"),
    [
        (["helps", "no evidence"], "helps"),
        (["hurts", "no evidence"], "hurts"),
        (["hurts", "helps", "no evidence"], "mixed"),
        (["no evidence", "not enough data to tell"], "no evidence"),
        (["not enough data to tell"], "not enough data to tell"),
        ([], "not enough data to tell"),
    ],
)
def test_verdicts_of_labels_amount_to_one(verdicts, overall):
    assert summarise(verdicts) == overall
