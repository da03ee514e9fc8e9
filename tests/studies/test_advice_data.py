import json
import math

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import matthews_corrcoef

from halflabel.data.images import build_images
from halflabel.studies import advice_data
from halflabel.studies.advice_data import advise_data


def annotate(labels, groups=None, names=None):
    labels = np.asarray(labels, dtype=np.int8)
    files = [f"{i}.png" for i in range(len(labels))]
    names = names or [chr(97 + i) for i in range(labels.shape[1])]
    return build_images(files, files, labels, names, groups=groups)


@pytest.fixture
def labels():
    rng = np.random.default_rng(0)
    a = rng.random(300) < 0.4
    b = np.where(rng.random(300) < 0.9, a, ~a)  # mostly as a
    c = ~a & (rng.random(300) < 0.5)  # never with a
    d = rng.random(300) < 0.5
    labels = np.stack([a, b, c, d], axis=1).astype(np.int8)
    labels[rng.random((300, 4)) < 0.3] = -100
    labels[:5, 3] = -101
    return labels


def test_counts_are_those_of_an_explicit_loop(labels):
    advice = advise_data(annotate(labels))
    assert (advice["images"], advice["groups"], advice["verdict"]) == (300, 300, "enough")
    assert advice["sentence"] == "300 images; 4 of 4 labels have enough known answers"
    for i, name in enumerate("abcd"):
        column = labels[:, i].tolist()
        row = advice["labels"][name]
        assert (row["known"], row["positive"]) == (sum(v in (0, 1) for v in column), column.count(1))
        assert (row["negative"], row["uncertain"]) == (column.count(0), column.count(-101))
        assert (row["positive_groups"], row["negative_groups"]) == (row["positive"], row["negative"])


def test_pairs_count_rows_where_both_are_known(labels):
    advice = advise_data(annotate(labels))
    assert advice["pairs_left_out"] == 0
    assert len(advice["pairs"]) == 6
    for pair in advice["pairs"]:
        a, b = (labels[:, "abcd".index(pair[key])] for key in "ab")
        both = (a >= 0) & (b >= 0)
        assert pair["both_known"] == both.sum()
        assert pair["both_yes"] == ((a == 1) & (b == 1)).sum()
        assert pair["phi"] == pytest.approx(matthews_corrcoef(a[both], b[both]))
        for key, given in (("b_given_a", 1), ("b_given_not_a", 0)):
            rows = both & (a == given)
            yes = int((b[rows] == 1).sum())
            interval = binomtest(yes, int(rows.sum())).proportion_ci(0.95, method="wilson")
            assert (pair[key]["yes"], pair[key]["of"]) == (yes, rows.sum())
            assert pair[key]["rate"] == pytest.approx(yes / rows.sum())
            assert (pair[key]["low"], pair[key]["high"]) == pytest.approx((interval.low, interval.high), abs=1e-6)
    found = {(pair["a"], pair["b"]): pair["relation"] for pair in advice["pairs"]}
    assert found[("a", "b")] == "appear together"
    assert found[("a", "c")] == "exclude each other"
    assert found[("a", "d")] == "no clear relation"
    assert (advice["pairs"][0]["a"], advice["pairs"][0]["b"]) == ("a", "b")  # of which the data are surest


def test_labels_that_nobody_answers_together_are_told(labels):
    labels[::2, 0] = -100
    labels[1::2, 1] = -100
    advice = advise_data(annotate(labels[:, :3]))
    last = advice["pairs"][-1]
    assert (last["a"], last["b"], last["relation"], last["both_known"]) == ("a", "b", "never asked together", 0)
    assert (last["phi"], last["b_given_a"]["rate"], last["b_given_a"]["low"]) == (None, None, None)
    assert advice["co_annotation"] == {
        "pairs": 3,
        "never_together": 1,
        "sentence": "2 of 3 pairs of labels were asked together on some image; most clearly, a and c exclude each "
        f"other (phi {advice['pairs'][0]['phi']:+.2f})",
    }


def test_of_many_labels_the_surest_pairs_are_listed_and_the_rest_is_counted(monkeypatch):
    rng = np.random.default_rng(1)
    labels = rng.choice([1, 0, -100], (80, 30), p=[0.2, 0.4, 0.4]).astype(np.int8)
    labels[:, 29] = labels[:, 4]  # across blocks
    names = [f"label {i}" for i in range(30)]
    whole = advise_data(annotate(labels, names=names))
    monkeypatch.setattr(advice_data, "_BLOCK", 7)
    monkeypatch.setattr(advice_data, "MOST_PAIRS", 50)
    advice = advise_data(annotate(labels, names=names))
    assert (len(advice["pairs"]), advice["pairs_left_out"]) == (50, 30 * 29 // 2 - 50)
    assert advice["pairs"] == whole["pairs"][:50]
    assert (advice["pairs"][0]["a"], advice["pairs"][0]["b"], advice["pairs"][0]["phi"]) == ("label 4", "label 29", 1)


def test_a_label_with_three_positives_is_not_enough_and_one_in_few_groups_neither():
    labels = np.zeros((100, 3), dtype=np.int8)
    labels[:3, 0] = 1
    labels[:40, 1] = 1
    labels[::2, 2] = 1
    groups = [str(i // 10) for i in range(100)]
    advice = advise_data(annotate(labels, groups))
    rows = advice["labels"]
    assert [rows[name]["verdict"] for name in "ab"] == ["not enough data to tell"] * 2
    assert rows["a"]["sentence"] == "a: 3 yes and 97 no, in 1 and 10 groups; at least 10 of either are needed"
    assert (rows["b"]["learnable"], rows["b"]["positive_groups"]) == (False, 4)
    assert rows["c"]["verdict"] == "can be learned, measured only roughly"
    assert advice["sentence"] == (
        "100 images; 1 of 3 labels have enough known answers, too few are known of a (3 yes, 97 no), b (40 yes, 60 no)"
    )


def test_the_half_width_is_that_of_simulated_aurocs():
    labels = np.zeros((160, 1), dtype=np.int8)
    labels[:60] = 1
    half = advise_data(annotate(labels))["labels"]["a"]["auroc_half_width"]
    rng, areas = np.random.default_rng(0), []
    for _ in range(4000):  # scores whose AUROC is 0.8
        yes, no = rng.normal(math.sqrt(2) * 0.8416212, 1, 60), rng.normal(size=100)
        areas.append((yes[:, None] > no).mean())
    assert half == pytest.approx(1.96 * np.std(areas), rel=0.1)


def test_balance_compares_the_largest_and_the_smallest_amount():
    labels = np.full((220, 2), -100, dtype=np.int8)
    labels[:, 0] = 1
    labels[:22, 1] = 0
    balance = advise_data(annotate(labels))["balance"]
    assert (balance["largest"], balance["smallest"]) == ({"label": "a", "known": 220}, {"label": "b", "known": 22})
    assert (balance["ratio"], balance["verdict"]) == (10, "similar")
    labels[21, 1] = -100
    assert advise_data(annotate(labels))["balance"]["verdict"] == "unequal"
    equal = advise_data(annotate(labels[:10]))["balance"]
    assert (equal["ratio"], equal["sentence"]) == (1, "10 known answers of each label")
    labels[:, 1] = -100
    none = advise_data(annotate(labels))["balance"]
    assert (none["ratio"], none["verdict"]) == (None, "unequal")


@pytest.mark.parametrize("images", [0, 1, 19])
def test_few_images_and_unknown_labels_are_said_to_tell_nothing(images):
    few = advise_data(annotate(np.ones((images, 2))))
    assert (few["verdict"], few["images"]) == ("not enough data to tell", images)
    assert f"{images} images" in few["sentence"]
    unknown = advise_data(annotate(np.full((images + 20, 2), -100)))
    assert unknown["verdict"] == unknown["balance"]["verdict"] == "not enough data to tell"
    assert unknown["labels"]["a"]["auroc_half_width"] is None
    json.dumps([few, unknown], allow_nan=False)


def test_a_single_label_has_no_pairs():
    advice = advise_data(annotate(np.ones((30, 1))))
    assert (advice["pairs"], advice["co_annotation"]["sentence"]) == ([], "there is a single label, and no pair")
