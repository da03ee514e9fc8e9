import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from halflabel import HalflabelError
from halflabel.data.splitting import hide_labels
from halflabel.training.guesses import (
    ABSORPTION,
    FeatureBasis,
    Weighing,
    log_odds_beyond,
    make_pseudo_labels,
    mean_log_loss,
    neighbour_graph,
    propagate,
)
from halflabel.training.keys import PseudoLabelOptions

U, UNSURE = -100, -101


def planted(seed, weights, offsets, images=4000, share=0.5):
    """Answers drawn from a known weighing of normal evidence; what is not known is -100."""
    rng = np.random.default_rng(seed)
    evidence = [rng.normal(size=(images, len(offsets))) * 2 for _ in weights]
    logits = sum(w * one for w, one in zip(weights, evidence, strict=True)) + offsets
    answers = (rng.random(logits.shape) < expit(logits)).astype(int)
    known = rng.random(logits.shape) < share
    return evidence, np.where(known, answers, -100), known


def test_the_planted_weights_come_back():
    evidence, answers, known = planted(0, [0.7, 0.4], np.array([-1.0, 0.5, 0.0]))
    weighing = Weighing.fit(evidence, answers, known)
    np.testing.assert_allclose(weighing.weights, [0.7, 0.4], atol=0.06)
    np.testing.assert_allclose(weighing.offsets, [-1.0, 0.5, 0.0], atol=0.12)
    expected = expit(0.7 * evidence[0] + 0.4 * evidence[1] + [-1.0, 0.5, 0.0])
    np.testing.assert_allclose(weighing.scores(evidence), expected, atol=0.06)


def test_evidence_that_says_nothing_or_the_contrary_has_no_weight():
    evidence, answers, known = planted(1, [1.0, -0.5], np.array([0.0, 0.0]))
    assert Weighing.fit(evidence, answers, known).weights[1] == 0


def test_without_a_known_entry_the_model_alone_speaks():
    evidence, answers, known = planted(2, [1.0, 1.0], np.zeros(2), images=10)
    weighing = Weighing.fit(evidence, answers, np.zeros_like(known))
    np.testing.assert_array_equal(weighing.weights, [1, 0])
    np.testing.assert_array_equal(weighing.offsets, [0, 0])


def test_log_loss_is_that_of_logits_calibrated_on_the_known_entries():
    evidence, answers, known = planted(3, [0.5], np.array([0.7]))
    model = LogisticRegression(C=1e6).fit(evidence[0][known][:, None], answers[known])
    scores = model.predict_proba(evidence[0][known][:, None])[:, 1]
    expected = -np.mean(np.where(answers[known] == 1, np.log(scores), np.log(1 - scores)))
    assert mean_log_loss(evidence[0], answers, known) == pytest.approx(expected, abs=2e-4)


def test_log_odds_are_zero_at_the_prior_and_bounded():
    prior = np.array([0.2, 0.5])
    found = log_odds_beyond(np.array([[0.2, 0.5], [0.0, 1.0], [0.5, 0.75]]), prior)
    np.testing.assert_allclose(found[0], 0, atol=1e-12)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[2], [np.log(1) - np.log(0.25), np.log(3)])


def by_hand(features, neighbours):
    centred = features - features.mean(axis=0)
    n = len(centred)
    cosine = np.array([[a @ b / np.linalg.norm(a) / np.linalg.norm(b) for b in centred] for a in centred])
    graph = np.zeros((n, n))
    for i in range(n):
        others = [j for j in range(n) if j != i]
        for j in sorted(others, key=lambda j: -cosine[i, j])[:neighbours]:
            graph[i, j] = max(cosine[i, j], 0)
    return np.maximum(graph, graph.T)


def test_the_graph_joins_the_nearest_by_cosine():
    features = np.random.default_rng(0).normal(size=(30, 6)) + 3
    np.testing.assert_allclose(neighbour_graph(features, 4).toarray(), by_hand(features, 4), atol=1e-12)


def test_with_few_images_all_are_neighbours():
    features = np.random.default_rng(0).normal(size=(3, 6))
    np.testing.assert_allclose(neighbour_graph(features, 5).toarray(), by_hand(features, 2), atol=1e-12)
    assert neighbour_graph(features[:1], 5).nnz == 0


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 25), st.integers(1, 4), st.integers(0, 10_000))
def test_scores_solve_the_equations_of_the_random_walk(images, labels, seed):
    rng = np.random.default_rng(seed)
    graph = rng.random((images, images)) * (rng.random((images, images)) < 0.2)
    graph = np.triu(graph, 1) + np.triu(graph, 1).T
    codes = rng.choice([1, 0, -100, -101], size=(images, labels), p=[0.2, 0.2, 0.5, 0.1])
    scores = propagate(scipy.sparse.csr_matrix(graph), codes)
    for j in range(labels):
        known = codes[:, j] >= 0
        prior = ((codes[known, j] == 1).sum() + 1) / (known.sum() + 2)
        system = np.diag(graph.sum(axis=1) + ABSORPTION)[~known][:, ~known] - graph[~known][:, ~known]
        solved = np.linalg.solve(system, graph[~known][:, known] @ codes[known, j] + ABSORPTION * prior)
        np.testing.assert_allclose(scores[~known, j], solved, atol=5e-3)
        np.testing.assert_array_equal(scores[known, j], codes[known, j])


def test_an_image_without_neighbours_has_the_prior():
    graph = scipy.sparse.csr_matrix(np.array([[0, 1.0, 0], [1.0, 0, 0], [0, 0, 0]]))
    scores = propagate(graph, np.array([[1], [-100], [-100]]))
    assert scores[1, 0] > 0.9
    assert scores[2, 0] == pytest.approx(2 / 3)


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


def guess(features, labels, seed=0, **options):
    return make_pseudo_labels(features, labels, "abcd"[: labels.shape[1]], PseudoLabelOptions(**options), seed=seed)


def blobs(seed, images=600, labels=3, width=20, noise=1.0):
    """Images in clusters; a cluster has one answer to each question."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(12, width)) * 1.5
    answers = rng.integers(0, 2, size=(12, labels))
    of = rng.integers(0, 12, size=images)
    return centres[of] + noise * rng.normal(size=(images, width)), answers[of].astype(np.int8)


def test_known_entries_stay_and_what_nobody_could_tell_stays_out():
    features, truth = blobs(0)
    labels = hide_labels(truth, keep=0.2, seed=0)
    labels[:50, 1] = UNSURE
    targets, found = guess(features, labels)
    known = labels >= 0
    assert found["kept_round"]
    np.testing.assert_array_equal(targets[known], labels[known])
    np.testing.assert_array_equal(targets[:50, 1], UNSURE)
    guessed = (labels == U) & (targets >= 0)
    assert guessed.sum() > 500
    assert ((targets[guessed] >= 0.75) | (targets[guessed] <= 0.25)).all()


def test_the_reported_precision_is_the_true_one():
    """Over several draws; a single one has the sampling error of some hundred hidden entries."""
    reported, true = [], []
    for seed in range(6):
        features, truth = blobs(seed, images=900, noise=2.2)
        labels = hide_labels(truth, keep=0.25, seed=seed)
        targets, found = guess(features, labels, rounds=1)
        if found["kept_round"]:
            guessed = (labels == U) & (targets >= 0)
            reported.append(found["rounds"][0]["precision"])
            true.append(((targets >= 0.5) == truth)[guessed].mean())
    assert len(true) >= 4
    assert 0.7 < np.mean(true) < 0.99
    assert np.mean(reported) == pytest.approx(np.mean(true), abs=0.03)
    np.testing.assert_allclose(reported, true, atol=0.06)


def test_labels_drawn_at_random_are_not_foretold():
    """Whoever lets a known entry's own answer into its evidence finds precision here."""
    rng = np.random.default_rng(4)
    features = rng.normal(size=(400, 60))
    labels = hide_labels(rng.integers(0, 2, size=(400, 4)).astype(np.int8), keep=0.5, seed=0)
    targets, found = guess(features, labels)
    assert all(one["log_loss"] > 0.68 for one in found["rounds"])  # ln 2 = 0.693 is what a coin has
    assert found["known_only_log_loss"] > 0.68


def test_nothing_unknown_leaves_the_labels():
    features, truth = blobs(1)
    targets, found = guess(features, truth)
    np.testing.assert_array_equal(targets, truth)
    assert not found["rounds"]


def test_a_label_with_known_yes_only_gets_no_pseudo_labels():
    features, truth = blobs(2)
    labels = hide_labels(truth, keep=0.3, seed=0)
    labels[labels[:, 2] == 0, 2] = U
    targets, found = guess(features, labels)
    assert found["labels_without"] == ["c"]
    np.testing.assert_array_equal(targets[:, 2], labels[:, 2])
    assert (targets[:, :2] >= 0).mean() > 0.5
    single = hide_labels(truth, "single_positive", seed=0)
    assert guess(features, single)[1]["labels_without"] == ["a", "b", "c"]


def test_later_rounds_guess_more_and_a_round_that_is_worse_is_not_kept():
    features, truth = blobs(7, noise=2.0)
    labels = hide_labels(truth, keep=0.15, seed=0)
    targets, found = guess(features, labels, rounds=4)
    sizes = [one["yes"] + one["no"] for one in found["rounds"]]
    assert sizes == sorted(sizes)
    losses = [found["known_only_log_loss"], *(one["probe_log_loss"] for one in found["rounds"])]
    assert found["kept_round"] == int(np.argmin(losses))


def test_the_seed_decides():
    features, truth = blobs(8)
    labels = hide_labels(truth, keep=0.2, seed=0)
    first, again = guess(features, labels, seed=3), guess(features, labels, seed=3)
    np.testing.assert_array_equal(first[0], again[0])
    assert first[1] == again[1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"neighbors": 3}, "takes no 'neighbors'; it takes neighbours, .*did you mean neighbours"),
        ({"confidence": 0.3}, "confidence is 0.3, expected a number of at least 0.5 and below 1"),
        ({"neighbours": 0}, "neighbours is 0, expected a whole number of at least 1"),
        ({"rounds": 0}, "rounds is 0"),
        ({"folds": True}, "folds is True"),
    ],
)
def test_options_are_checked(given, message):
    with pytest.raises(HalflabelError, match=message):
        PseudoLabelOptions.of(given)
