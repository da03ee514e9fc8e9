import json

import numpy as np
import pytest
import torch
from known_rows import of_known_rows
from sklearn.metrics import average_precision_score

from halflabel import HalflabelError
from halflabel.metrics.comparison import compare_scores


def scores_of(labels, noise, seed):
    rng = np.random.default_rng(seed)
    return np.clip((labels == 1) + noise * rng.normal(size=labels.shape), 0, 1).round(2)


@pytest.fixture
def labels():
    labels = np.random.default_rng(0).choice([0, 1, -100], (80, 3), p=[0.5, 0.2, 0.3])
    labels[:, 1] = np.where(np.arange(80) == 5, 1, 0)  # one positive: a third of the resamples lack it
    labels[:, 2] = np.where(labels[:, 2] == 1, -100, labels[:, 2])  # none: undefined
    return labels


def test_equal_to_scikit_learn_on_the_same_drawn_rows_for_both(labels):
    a, b = scores_of(labels, 0.8, 1), scores_of(labels, 0.6, 2)
    found = compare_scores(a, b, labels, ci=0.9, samples=60, seed=3)

    def measure(scores, rows=slice(None)):
        return of_known_rows(average_precision_score, scores[rows], labels[rows], both=True)

    rng = np.random.default_rng(3)
    draws = [rng.integers(0, 80, 80) for _ in range(60)]
    difference = np.array([measure(b, rows) - measure(a, rows) for rows in draws])
    defined = [column[~np.isnan(column)] for column in difference.T]
    np.testing.assert_allclose(found.ap_a, measure(a), atol=1e-12)
    np.testing.assert_allclose(found.ap_b, measure(b), atol=1e-12)
    assert found.undefined_resamples.tolist() == [60 - len(values) for values in defined]
    assert found.undefined_resamples.tolist()[::2] == [0, 60]
    for j in (0, 1):
        np.testing.assert_allclose(found.ap_interval[:, j], np.quantile(defined[j], [0.05, 0.95]), atol=1e-12)
    assert np.isnan(found.ap_interval[:, 2]).all()
    means = [row[~np.isnan(row)].mean() for row in difference]
    np.testing.assert_allclose(found.map_interval, np.quantile(means, [0.05, 0.95]), atol=1e-12)
    assert found.map_b - found.map_a == pytest.approx((found.ap_b - found.ap_a)[:2].mean())
    assert (found.ci, found.samples, found.images) == (0.9, 60, 80)


def test_a_model_is_not_better_than_itself(labels):
    same = compare_scores(scores_of(labels, 0.8, 1), scores_of(labels, 0.8, 1), labels, samples=50)
    np.testing.assert_array_equal(same.map_interval, [0, 0])
    assert same.sentence("one", "two") == (
        "no clear difference: the mAP of two minus that of one is +0.000 (95 % interval +0.000 to +0.000) on 80 images"
    )


def test_the_better_model_is_named_whichever_comes_first(labels):
    good, bad = scores_of(labels, 0.1, 1), scores_of(labels, 3.0, 2)
    forth, back = (compare_scores(*pair, labels, samples=200) for pair in ((bad, good), (good, bad)))
    low, high = forth.map_interval
    assert low > 0
    gain = f"{forth.map_b - forth.map_a:+.3f} (95 % interval {low:.3f} to {high:.3f}) on 80 images"
    assert forth.sentence("bad", "good") == f"good has a higher mAP than bad: {gain}"
    assert back.sentence("good", "bad") == f"good has a higher mAP than bad: {gain}"
    np.testing.assert_allclose(back.map_interval, [-high, -low])


def test_where_nothing_is_defined_nothing_is_claimed():
    nothing = compare_scores(torch.zeros(4, 2), torch.zeros(4, 2), np.full((4, 2), -100), samples=5)
    assert nothing.sentence() == "A and B cannot be compared: no label has both a known yes and a known no"
    assert nothing.to_dict(["x", "y"])["mAP_interval"] == [None, None]


def test_its_dictionary_is_json_with_a_row_per_label(labels):
    found = compare_scores(scores_of(labels, 0.8, 1), scores_of(labels, 0.6, 2), labels, samples=40)
    written = json.loads(json.dumps(found.to_dict(["car", "dog", "cat"]), allow_nan=False))
    assert written["mAP_difference"] == pytest.approx(written["mAP_B"] - written["mAP_A"])
    assert written["mAP_interval"] == list(found.map_interval)
    assert (written["images"], written["samples"], written["ci"]) == (80, 40, 0.95)
    assert written["labels"]["car"] == {
        "AP_A": found.ap_a[0],
        "AP_B": found.ap_b[0],
        "AP_difference": pytest.approx(found.ap_b[0] - found.ap_a[0]),
        "AP_interval": list(found.ap_interval[:, 0]),
        "undefined_resamples": 0,
    }
    assert written["labels"]["cat"]["AP_interval"] == [None, None]
    with pytest.raises(HalflabelError, match="2 label names for 3 labels; give one for each column"):
        found.to_dict(["car", "dog"])


def test_bad_arguments():
    one = np.array([[0.5, 0.5]])
    with pytest.raises(HalflabelError, match="scores have shape"):
        compare_scores(one, one.T, [[1, 0]])
    with pytest.raises(HalflabelError, match="ci is 95, expected a confidence between 0 and 1, like 0.95"):
        compare_scores(one, one, [[1, 0]], ci=95)
