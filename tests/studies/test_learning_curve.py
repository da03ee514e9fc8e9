import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from halflabel.studies import learning_curve
from halflabel.studies.feature_probe import probe
from halflabel.studies.learning_curve import learning_curves
from halflabel.studies.ranking_influence import ranks_within


@pytest.fixture
def planted():
    """Two networks: the answer to label 0 is plain in the first one's features; label 1 has 4 positives."""
    rng = np.random.default_rng(0)
    labels = np.stack([rng.random(120) < 0.5, np.arange(120) < 4], axis=1).astype(np.int8)
    labels[:30, 0] = -100
    noise = rng.normal(size=(2, 120, 25)).astype(np.float32)
    noise[0, :, 0] += 3 * (labels[:, 0] == 1)
    folds = np.arange(120) % 5
    return {"pretrained": noise[0], "random": noise[1]}, labels, folds


def test_the_curve_rises_to_what_the_probe_on_all_entries_gives(planted):
    features, labels, folds = planted
    with_all = {kind: probe(matrix, labels, folds).predictions for kind, matrix in features.items()}
    curve, rare = learning_curves(features, with_all, labels, np.arange(120), folds)
    assert rare is None
    assert curve["n"] == [8, 16, 32, 64, 72]  # four fifths of 90 known entries
    known = labels[:, 0] >= 0
    for kind in features:
        ranks = ranks_within(with_all[kind], folds)
        assert curve[kind][-1] == pytest.approx(roc_auc_score(labels[known, 0], ranks[known, 0]))
        assert len(curve[f"{kind}_low"]) == len(curve[f"{kind}_high"]) == len(curve[kind]) == 5
        assert all(low <= value <= high for low, value, high in zip(
            curve[f"{kind}_low"], curve[kind], curve[f"{kind}_high"], strict=True
        ))  # fmt: skip
    assert curve["pretrained"][0] + 0.1 < curve["pretrained"][-1]
    assert curve["pretrained"][0] > 0.6
    assert max(curve["random"]) < 0.7
    assert curve["pretrained_low"][-1] > 0.7


def test_of_many_labels_those_with_the_most_answers_get_a_curve(planted, monkeypatch):
    features, labels, folds = planted
    labels = np.stack([labels[:, 0], np.arange(120) % 2, np.arange(120) % 4 == 0], axis=1).astype(np.int8)
    monkeypatch.setattr(learning_curve, "MOST_CURVES", 2)
    with_all = {kind: probe(matrix, labels, folds).predictions for kind, matrix in features.items()}
    curves = learning_curves(features, with_all, labels, np.arange(120), folds)
    assert [curve is None for curve in curves] == [False, False, True]


def test_the_same_seed_gives_the_same_curve(planted):
    features, labels, folds = planted
    with_all = {kind: probe(matrix, labels, folds).predictions for kind, matrix in features.items()}
    once, again, other = (
        learning_curves(features, with_all, labels, np.arange(120), folds, seed)[0] for seed in (0, 0, 1)
    )
    assert once == again
    assert once["random"][:-1] != other["random"][:-1]
    assert once["random"][-1] == other["random"][-1]
