import numpy as np
import pytest
from sklearn.metrics import log_loss

from halflabel.studies.affinity import Trunk, fit_heads, make_trunks
from halflabel.studies.joint_adapter import train_adapters


def problem(labels=6, count=300, seed=0):
    """As many labels as directions; each needs its own."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, 20)) * np.linspace(2, 1, 20)
    logits = 3 * features[:, -labels:]
    answers = (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.int8)
    answers[rng.random(answers.shape) < 0.3] = -100
    return features, answers


def test_one_label_is_trained_the_same_both_ways():
    features, labels = problem(1)
    trunk = make_trunks(features)[0]
    assert train_adapters(trunk, labels, True) == pytest.approx(train_adapters(trunk, labels, False))


def test_labels_of_their_own_do_not_know_of_one_another():
    features, labels = problem(3)
    trunk = make_trunks(features)[1]
    alone = [train_adapters(trunk, labels[:, [i]], False)[0] for i in range(3)]
    assert train_adapters(trunk, labels, False) == pytest.approx(alone)


def test_a_layer_that_is_too_narrow_costs_training_loss_and_a_wide_one_does_not():
    features, labels = problem(8)
    narrow, *_, wide = make_trunks(features)
    assert (narrow.given.shape[1], wide.given.shape[1]) == (2, 8)
    ratio = [train_adapters(t, labels, True).mean() / train_adapters(t, labels, False).mean() for t in (narrow, wide)]
    assert ratio[0] > 1.3
    assert ratio[1] < 1.1


def test_training_lowers_the_loss_of_known_entries_below_that_of_the_heads_alone():
    features, labels = problem(3)
    trunk = make_trunks(features)[0]
    heads = fit_heads(trunk, labels)
    logits = trunk.given @ heads.weight + heads.bias
    before = [
        log_loss(labels[known, i], 1 / (1 + np.exp(-logits[known, i]))) for i, known in enumerate((labels >= 0).T)
    ]
    assert (train_adapters(trunk, labels, True) < before).all()


def test_a_label_without_a_known_answer_is_undefined():
    features, labels = problem(2)
    labels[:, 1] = -100
    found = train_adapters(make_trunks(features)[0], labels, True)
    assert np.isfinite(found[0])
    assert np.isnan(found[1])


def test_what_is_unknown_does_not_matter():
    features, labels = problem(2)
    trunk = make_trunks(features)[0]
    known = labels[:, 0] >= 0
    part = Trunk(trunk.given[known], trunk.addable[known])
    assert train_adapters(trunk, labels[:, :1], True) == pytest.approx(train_adapters(part, labels[known, :1], True))
