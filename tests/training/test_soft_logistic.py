import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from halflabel.training.soft_logistic import FeatureBasis

PENALTY = 0.05


def made_up(rng, images, width, labels=3):
    features = rng.normal(size=(images, width)) * rng.uniform(0.5, 4, width) + rng.normal(size=width)
    features[:, 0] = 7.0  # a constant feature
    return (
        features,
        rng.uniform(size=(images, labels)),
        rng.uniform(size=(images, labels)) * (rng.random((images, labels)) < 0.7),
    )


def by_scikit_learn(features, targets, weights, penalty=PENALTY):
    """Every soft target is a yes of weight t and a no of weight 1 - t."""
    spread = features.std(axis=0)
    x = (features - features.mean(axis=0)) / np.where(spread > 1e-6, spread, 1)
    logits = []
    for t, w in zip(targets.T, weights.T, strict=True):
        model = LogisticRegression(C=1 / (penalty * features.shape[1]), tol=1e-8, max_iter=5000)
        answers = np.repeat([1, 0], len(x))
        model.fit(np.concatenate([x, x]), answers, sample_weight=np.concatenate([w * t, w * (1 - t)]))
        logits.append(model.decision_function(x))
    return np.stack(logits, axis=1)


@pytest.mark.parametrize(("images", "width"), [(40, 90), (120, 12)])
def test_it_finds_what_scikit_learn_finds_with_soft_weighted_targets(images, width):
    features, targets, weights = made_up(np.random.default_rng(images), images, width)
    found = FeatureBasis.of(features).fit(targets, weights, PENALTY).logits
    np.testing.assert_allclose(found, by_scikit_learn(features, targets, weights), atol=2e-2)


def test_views_share_the_weight_of_their_image_and_are_averaged():
    rng = np.random.default_rng(1)
    features, targets, weights = made_up(rng, 60, 20)
    targets, weights = targets[:20], weights[:20]
    found = FeatureBasis.of(features, views=3).fit(targets, weights, PENALTY).logits
    rows = by_scikit_learn(features, np.repeat(targets, 3, axis=0), np.repeat(weights, 3, axis=0) / 3)
    np.testing.assert_allclose(found, rows.reshape(20, 3, -1).mean(axis=1), atol=2e-2)


def test_what_has_no_weight_has_no_influence():
    rng = np.random.default_rng(2)
    features, targets, weights = made_up(rng, 50, 30)
    basis = FeatureBasis.of(features)
    other = np.where(weights == 0, -100.0, targets)
    np.testing.assert_array_equal(
        basis.fit(targets, weights, PENALTY).logits, basis.fit(other, weights, PENALTY).logits
    )


def test_a_label_that_nobody_answered_says_half():
    basis = FeatureBasis.of(np.random.default_rng(3).normal(size=(10, 4)))
    np.testing.assert_allclose(basis.fit(np.zeros((10, 1)), np.zeros((10, 1)), PENALTY).logits, 0, atol=1e-9)


def test_where_it_starts_does_not_matter():
    features, targets, weights = made_up(np.random.default_rng(4), 80, 40)
    basis = FeatureBasis.of(features)
    near = basis.fit(targets, weights, 5 * PENALTY)
    found = basis.fit(targets, weights, PENALTY, near).logits
    np.testing.assert_allclose(found, by_scikit_learn(features, targets, weights), atol=2e-2)
