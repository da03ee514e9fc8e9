import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from halflabel.studies.network_comparison import compare_networks, judge, rank_networks, summarise

NAMES = ["easy", "hard", "rare"]


def draw(seed=0, images=200, help_by=2.0):
    """Scores of a good and of a bad network; label `rare` has 3 positives."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((images, 3)) < 0.4).astype(np.int8)
    labels[:, 2] = np.arange(images) < 3
    labels[rng.random((images, 3)) < 0.2] = -100
    signal = np.where(labels == 1, 1.0, 0.0)
    both = {
        "pretrained": help_by * signal + rng.normal(size=labels.shape),
        "random": 0.5 * signal + rng.normal(size=labels.shape),
    }
    return both, labels, np.arange(images)


def test_values_are_those_of_scikit_learn_on_the_known_entries():
    both, labels, groups = draw()
    found = compare_networks(both, labels, NAMES, groups, 2.25)
    assert found.labels["rare"] is None
    means = {}
    for column, name in enumerate(NAMES[:2]):
        known = labels[:, column] >= 0
        for key, oracle in (("auroc", roc_auc_score), ("ap", average_precision_score)):
            values = [oracle(labels[known, column], both[kind][known, column]) for kind in ("pretrained", "random")]
            row = found.labels[name][key]
            assert (row["pretrained"], row["random"]) == pytest.approx(values)
            assert row["difference"] == pytest.approx(values[0] - values[1])
            assert row["low"] < row["difference"] < row["high"]
            assert row["pretrained_low"] < row["pretrained"] <= row["pretrained_high"] <= 1
            means.setdefault(key, []).append(values)
    assert (found.mean["pretrained"], found.mean["random"]) == pytest.approx(np.mean(means["auroc"], axis=0))
    assert found.mean["difference"] == pytest.approx(found.mean["pretrained"] - found.mean["random"])


def test_a_network_that_is_better_helps_and_exchanged_it_hurts():
    both, labels, groups = draw()
    exchanged = {"pretrained": both["random"], "random": both["pretrained"]}
    forth, back = (compare_networks(scores, labels, NAMES, groups, 2.25) for scores in (both, exchanged))
    judge([forth])
    judge([back])
    assert [forth.labels[name]["verdict"] for name in NAMES[:2]] == ["helps"] * 2
    assert [back.labels[name]["verdict"] for name in NAMES[:2]] == ["hurts"] * 2
    row = forth.labels["easy"]
    assert row["p"] == max(row["p_difference"], row["p_chance"]) < row["p_holm"] < 0.05
    assert f"{row['auroc']['pretrained']:.2f} with pretrained weights" in row["sentence"]
    assert "corrected for 2 tests" in row["sentence"]
    json.dumps(forth.labels, allow_nan=False)


def test_better_than_a_network_that_errs_is_no_praise_unless_better_than_chance():
    both, labels, groups = draw()
    rng = np.random.default_rng(5)
    noise = rng.normal(size=labels.shape)
    found = compare_networks({"pretrained": noise, "random": -both["pretrained"]}, labels, NAMES, groups, 2.25)
    judge([found])
    row = found.labels["easy"]
    assert row["p_difference"] < 1e-3
    assert row["verdict"] == "no evidence"


def test_more_tests_are_corrected_for():
    first, second = (compare_networks(*_swap(draw(seed, help_by=1.0)), 2.25) for seed in (1, 2))
    judge([first])
    alone = first.labels["easy"]["p_holm"]
    judge([first, *[second] * 5])
    assert first.labels["easy"]["p_holm"] > alone


def _swap(drawn):
    both, labels, groups = drawn
    return both, labels, NAMES, groups


def test_answers_from_few_groups_measure_nothing():
    both, labels, _ = draw()
    found = compare_networks(both, labels, NAMES, np.arange(200) // 25, 2.25)
    assert set(found.labels.values()) == {None}
    assert found.mean is None
    assert found.sentence() == "no label has enough tested answers"
    assert rank_networks({"x": both}, labels, np.arange(200) // 25, 2.25)[0] == []


def test_networks_are_ranked_by_their_mean_auroc_with_paired_distances_to_the_best():
    both, labels, groups = draw()
    twin = {"pretrained": both["pretrained"] + 1e-9 * both["random"]}
    rows, told = rank_networks({"x": both, "y": twin}, labels, groups, 2.25)
    assert rows[-1]["weights"] == "random"
    found = compare_networks(both, labels, NAMES, groups, 2.25).mean
    assert rows[-1]["auroc"] == pytest.approx(found["random"])
    behind = {key: rows[-1]["behind"][key] for key in ("difference", "low", "high")}
    assert behind == pytest.approx({key: found[key] for key in behind}, abs=1e-6)
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
