import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score

from halflabel.studies.feature_probe import probe, probe_few
from halflabel.studies.ranking_influence import ranks_within
from halflabel.studies.transferability import LinearEvidence, contrasts


@pytest.fixture
def planted():
    """Features of which the first tells label 0, and none tells label 1; a third of the entries is not known."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(150, 40)).astype(np.float32)
    labels = np.stack([features[:, 0] > 0, rng.random(150) < 0.4], axis=1).astype(np.int8)
    labels[rng.random((150, 2)) < 0.3] = -100
    features[:, 7] = 5  # tells nothing, and has no deviation
    return features, labels, np.arange(150) % 5


def test_a_prediction_is_ridge_regression_on_the_known_entries_of_the_other_folds(planted):
    features, labels, folds = planted
    found = probe(features, labels, folds)
    train, test = folds != 2, folds == 2
    scale = features[train].std(axis=0, dtype=float)
    scaled = (features - features[train].mean(axis=0, dtype=float)) / np.where(scale > 1e-12, scale, 1)
    for label in range(2):
        rows = train & (labels[:, label] >= 0)
        penalty = LinearEvidence(contrasts(scaled[rows])).fit(contrasts(labels[rows, label])).penalty
        expected = Ridge(alpha=penalty).fit(scaled[rows], labels[rows, label]).predict(scaled[test])
        known = labels[test, label] >= 0
        np.testing.assert_allclose(found.predictions[test, label][known], expected[known], atol=1e-6)
        np.testing.assert_allclose(found.baseline[test, label][known], labels[rows, label].mean())
    np.testing.assert_array_equal(np.isnan(found.predictions), labels < 0)


def test_it_finds_what_is_there_and_nothing_else(planted):
    features, labels, folds = planted
    found = probe(features, labels, folds)
    known, ranks = labels >= 0, ranks_within(found.predictions, folds)
    areas = [roc_auc_score(labels[known[:, j], j], ranks[known[:, j], j]) for j in range(2)]
    assert areas[0] > 0.8
    assert areas[1] == pytest.approx(0.5, abs=0.2)


def test_what_is_predicted_does_not_depend_on_the_answers_in_its_own_fold(planted):
    features, labels, folds = planted
    other = labels.copy()
    own = folds == 3
    other[own] = np.where(labels[own] >= 0, 1 - labels[own], labels[own])
    for found, changed in (
        (probe(features, labels, folds), probe(features, other, folds)),
        (probe_few(features, labels, folds, {16: 1})[16][0], probe_few(features, other, folds, {16: 1})[16][0]),
    ):
        np.testing.assert_array_equal(found.predictions[own], changed.predictions[own])
        assert not np.array_equal(found.predictions[~own], changed.predictions[~own], equal_nan=True)


def test_a_label_that_is_answered_one_way_only_is_not_predicted(planted):
    features, labels, folds = planted
    labels[:, 1] = 0
    found = probe(features, labels, folds)
    assert np.isnan(found.predictions[:, 1]).all()
    assert not np.isnan(found.predictions[labels[:, 0] >= 0, 0]).any()


def test_few_entries_are_drawn_with_both_answers_and_the_same_for_every_network(planted):
    features, labels, folds = planted
    labels[:, 1] = np.where(labels[:, 1] == 1, 0, labels[:, 1])
    labels[:20, 1] = np.where(np.arange(20) < 6, 1, 0)  # rare
    found = probe_few(features, labels, folds, {8: 3, 1000: 1})
    assert [len(found[8]), len(found[1000])] == [3, 1]
    for one in found[8]:
        shares = one.baseline[labels[:, 1] >= 0, 1]
        np.testing.assert_allclose(shares, 1 / 8)  # of 8 entries, at least one is yes
    np.testing.assert_allclose(found[1000][0].predictions, probe(features, labels, folds).predictions, atol=1e-6)
    again = probe_few(features, labels, folds, {8: 3})
    np.testing.assert_array_equal(again[8][2].predictions, found[8][2].predictions)
    assert not np.array_equal(found[8][0].predictions, found[8][1].predictions, equal_nan=True)
    other = probe_few(2 - features, labels, folds, {8: 1})  # mirrored weights, on the same rows
    np.testing.assert_allclose(other[8][0].predictions, found[8][0].predictions, atol=1e-5)
