import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import minimize
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression

from halflabel import HalflabelError
from halflabel.decide import relation_fitting
from halflabel.decide.relation_fitting import calibrate_logits, fit_relations, relation_notes, relation_targets
from halflabel.metrics.calibration import log_loss
from halflabel.model.relations import Relations


def sigmoid(logits):
    return np.exp(-np.logaddexp(0, -logits))


def ising(rng, images, couplings, spread=1.0):
    """Draw labels of an Ising model whose fields the picture shows; give their exact marginal logits as well.

    Also the exact logit of every label given those of the others that `known` says, as a function.
    """
    labels = len(couplings)
    fields = rng.normal(-0.5, spread, (images, labels))
    states = np.array(list(itertools.product([0, 1], repeat=labels)))
    energy = fields @ states.T + np.einsum("si,ij,sj->s", states, couplings, states) / 2
    weight = np.exp(energy - energy.max(axis=1, keepdims=True))
    weight /= weight.sum(axis=1, keepdims=True)
    drawn = states[(weight.cumsum(axis=1) > rng.random((images, 1))).argmax(axis=1)]

    def exact(codes):
        agrees = ((codes[:, None] < 0) | (codes[:, None] == states)).all(axis=2) * weight
        yes = np.stack([(agrees * states[:, j]).sum(axis=1) for j in range(labels)], axis=1)
        with np.errstate(divide="ignore"):  # of what is known
            return np.log(yes) - np.log(agrees.sum(axis=1, keepdims=True) - yes)

    return exact(np.full(drawn.shape, -100)), drawn, exact


def hide(rng, labels, known):
    return np.where(rng.random(labels.shape) < known, labels, -100)


def matrix_of(relations):
    matrix = np.zeros((relations.num_labels,) * 2)
    for one, other, weight in zip(relations.first, relations.second, relations.weights, strict=True):
        matrix[one, other] = matrix[other, one] = weight
    return matrix


COUPLINGS = np.array([[0, 1.2, 0, -0.8], [1.2, 0, 0, 0], [0, 0, 0, 0.9], [-0.8, 0, 0.9, 0]])


def test_the_couplings_of_an_ising_model_are_recovered():
    rng = np.random.default_rng(0)
    logits, labels, _ = ising(rng, 12_000, COUPLINGS)
    found = matrix_of(fit_relations(logits, hide(rng, labels, 0.6)))
    np.testing.assert_allclose(found, COUPLINGS, atol=0.2)


def test_most_of_what_the_true_model_gains_from_known_labels_is_gained():
    rng = np.random.default_rng(1)
    logits, labels, _ = ising(rng, 6000, 2 * COUPLINGS)
    relations = fit_relations(logits, hide(rng, labels, 0.6))
    logits, labels, exact = ising(rng, 6000, 2 * COUPLINGS)
    codes = hide(rng, labels, 0.5)
    rest = np.where(codes < 0, labels, -100)
    before, after, best = (
        np.mean(log_loss(sigmoid(np.where(codes < 0, one, 0)), rest))
        for one in (logits, relations.apply(logits, codes), exact(codes))
    )
    assert before - best > 0.03
    assert after < before - 0.8 * (before - best)


def test_of_two_labels_that_exclude_one_another_one_denies_the_other():
    rng = np.random.default_rng(2)
    logits, labels, _ = ising(rng, 12_000, np.array([[0, -20.0, 0], [-20.0, 0, 0], [0, 0, 0]]))
    assert not (labels[:, 0] & labels[:, 1]).any()
    relations = fit_relations(logits, hide(rng, labels, 0.5))
    (score,) = sigmoid(relations.apply([[-0.5, -0.5, -0.5]], [[1, -100, -100]]))
    assert score[0] == 1
    assert score[1] < sigmoid(-0.5) / 3
    assert score[2] == pytest.approx(sigmoid(-0.5), abs=0.03)


def test_a_label_that_is_part_of_another_one_follows_from_it():
    rng = np.random.default_rng(3)
    fields = rng.normal(0, 1, 6000)
    whole = rng.random(6000) < sigmoid(fields)
    part = whole & (rng.random(6000) < 0.5)
    labels = np.stack([whole, part], axis=1).astype(int)
    logits = np.stack([fields, np.log(1 / (2 / sigmoid(fields) - 1))], axis=1)
    relations = fit_relations(logits, hide(rng, labels, 0.7))
    whole_given_part, part_without_whole = (
        sigmoid(relations.apply([[0.0, -1.1]], [codes]))[0] for codes in ([-100, 1], [0, -100])
    )
    assert whole_given_part[0] > 0.9
    assert part_without_whole[1] < 0.1


def test_labels_that_have_nothing_to_do_with_one_another_are_not_harmed():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        logits, labels, _ = ising(rng, 400, np.zeros((5, 5)))
        relations = fit_relations(logits, hide(rng, labels, 0.4))
        logits, labels, _ = ising(rng, 4000, np.zeros((5, 5)))
        codes = hide(rng, labels, 0.5)
        rest = np.where(codes < 0, labels, -100)
        before, after = (
            np.mean(log_loss(sigmoid(np.where(codes < 0, one, 0)), rest))
            for one in (logits, relations.apply(logits, codes))
        )
        assert after < before + 0.002


def test_of_many_unrelated_labels_few_pairs_are_kept():
    rng = np.random.default_rng(4)
    logits, labels, _ = ising(rng, 3000, COUPLINGS)
    others = rng.normal(-1, 1, (3000, 96))
    logits = np.concatenate([logits, others], axis=1)
    labels = np.concatenate([labels, rng.random(others.shape) < sigmoid(others)], axis=1)
    relations = fit_relations(logits, hide(rng, labels, 0.7))
    assert len(relations.weights) < 200  # of 4950
    found = matrix_of(relations)
    np.testing.assert_allclose(found[:4, :4][COUPLINGS != 0], COUPLINGS[COUPLINGS != 0], atol=0.5)
    assert np.abs(found[4:]).max() < 0.6


def test_labels_never_known_together_have_no_relation():
    rng = np.random.default_rng(5)
    logits, labels, _ = ising(rng, 4000, np.array([[0, 3.0, 3.0], [3.0, 0, 3.0], [3.0, 3.0, 0]]))
    codes = np.where(
        rng.random((4000, 1)) < 0.5, labels * [1, 0, 0] + [0, -100, -100], labels * [0, 1, 1] + [-100, 0, 0]
    )
    relations = fit_relations(logits, codes)
    assert (relations.first, relations.second) == ((1,), (2,))
    codes[:4] = labels[:4]
    assert len(fit_relations(logits, codes).weights) == 1  # together in four images is too rarely
    assert fit_relations(logits[:, :1], labels[:, :1]) == Relations(1, (), (), ())
    assert fit_relations(logits, np.full(labels.shape, -100)) == Relations(3, (), (), ())


def loss_by_loops(weights, deviation, logits, codes):
    """Half the summed log loss of all known entries, and the prior, an entry at a time."""
    matrix, total = np.zeros((3, 3)), 0.0
    for (one, other), weight in zip(itertools.combinations(range(3), 2), weights, strict=True):
        matrix[one, other] = matrix[other, one] = weight
    for row, known in zip(logits, codes, strict=True):
        for j in range(3):
            if known[j] < 0:
                continue
            logit = row[j]
            for k in range(3):
                if k != j and known[k] >= 0:
                    logit += matrix[j, k] * (known[k] - 1 / (1 + np.exp(-row[k])))
            total += np.log1p(np.exp(logit)) - known[j] * logit
    return total / 2 + (np.array(weights) ** 2).sum() / (2 * deviation**2)


def bayes_factor(slope, curvature, deviation):
    """How much likelier the entries of a pair are with a weight from the prior than without, integrated numerically."""
    peak = slope / (curvature + 1 / deviation**2)
    return quad(lambda w: np.exp(slope * w - curvature * w**2 / 2) * norm.pdf(w, scale=deviation), peak - 9, peak + 9)[
        0
    ]


def test_a_weight_is_the_most_probable_one_times_the_probability_of_a_relation():
    rng = np.random.default_rng(6)
    logits, labels, _ = ising(rng, 150, np.array([[0, 1.5, -2.0], [1.5, 0, 0.7], [-2.0, 0.7, 0]]))
    codes = hide(rng, labels, 0.7)
    surprise = np.where(codes >= 0, codes - sigmoid(logits), 0)
    pairs = list(itertools.combinations(range(3), 2))
    evidence, expected = 2 * 3.0, np.zeros(3)  # no relations at all: half of the prior, beside 2 shares x 3 deviations
    for deviation in (0.5, 1.0, 2.0):
        best = minimize(loss_by_loops, np.zeros(3), (deviation, logits, codes), tol=1e-9).x
        factors = []
        for one, other in pairs:
            product = surprise[:, one] * surprise[:, other]
            factors.append(bayes_factor(product.sum(), (product**2).sum(), deviation))
        for share, related in itertools.product((1, 0.25), itertools.product([False, True], repeat=3)):
            odds = np.prod([share * f if there else 1 - share for f, there in zip(factors, related, strict=True)])
            evidence += odds
            expected += odds * np.array(related) * best
    relations = fit_relations(logits, codes)
    assert list(zip(relations.first, relations.second, strict=True)) == pairs
    np.testing.assert_allclose(relations.weights, expected / evidence, rtol=1e-4)
    assert 0.05 < min(np.abs(relations.weights) / np.abs(best)) < 0.9  # not all of them are sure


def test_one_pair_is_a_logistic_regression_of_scikit_learn(monkeypatch):
    """Without an image's own evidence (logit 0) both sides are one regression without an intercept."""
    monkeypatch.setattr(relation_fitting, "PRIOR_DEVIATIONS", (1.0,))
    rng = np.random.default_rng(7)
    labels = rng.integers(0, 2, (800, 1)) ^ (rng.random((800, 2)) < [0, 0.2])
    relations = fit_relations(np.zeros(labels.shape), labels)
    x, y = (labels - 0.5)[:, ::-1].ravel()[:, None], labels.ravel()
    expected = LogisticRegression(C=0.5, fit_intercept=False, tol=1e-10).fit(x, y).coef_[0, 0]  # C=0.5: half the loss
    assert relations.weights == pytest.approx((expected,), rel=1e-5)


@given(st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_the_order_of_images_and_labels_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    logits, labels, _ = ising(rng, 300, COUPLINGS)
    codes = hide(rng, labels, 0.6)
    images, order = rng.permutation(300), rng.permutation(4)
    moved = fit_relations(logits[images][:, order], codes[images][:, order])
    np.testing.assert_allclose(
        matrix_of(moved), matrix_of(fit_relations(logits, codes))[np.ix_(order, order)], atol=1e-4
    )


def test_how_the_sums_are_computed_does_not_matter(monkeypatch):
    rng = np.random.default_rng(11)
    logits, labels, _ = ising(rng, 500, COUPLINGS)
    codes = hide(rng, labels, 0.5)
    usual = fit_relations(logits, codes)
    monkeypatch.setattr(relation_fitting, "_MOST_IN_DESIGN", 0)
    monkeypatch.setattr(relation_fitting, "_DENSE", 1.0)
    other = fit_relations(logits, codes)
    assert (other.first, other.second) == (usual.first, usual.second)
    np.testing.assert_allclose(other.weights, usual.weights, rtol=1e-5)


def test_logits_of_unknown_entries_do_not_count():
    rng = np.random.default_rng(8)
    logits, labels, _ = ising(rng, 500, COUPLINGS)
    codes = hide(rng, labels, 0.5)
    assert fit_relations(np.where(codes >= 0, logits, np.nan), codes) == fit_relations(logits, codes)


def test_soft_targets_keep_what_is_known_and_are_nearer_to_the_truth_than_the_picture_alone():
    rng = np.random.default_rng(9)
    logits, labels, _ = ising(rng, 3000, 2 * COUPLINGS)
    codes = hide(rng, labels, 0.5)
    raw = 3 * logits + 1  # overconfident: it is calibrated inside
    targets = relation_targets(raw, codes)
    assert (targets[codes >= 0] == codes[codes >= 0]).all()
    hidden = np.where(codes < 0, labels, -100)
    gain = log_loss(sigmoid(calibrate_logits(raw, codes)), hidden) - log_loss(targets, hidden)
    assert (gain > 0.01).all()
    assert np.abs(np.where(codes < 0, targets - labels, 0).sum(axis=0) / (codes < 0).sum(axis=0)).max() < 0.03


def test_calibrated_logits_are_log_odds():
    rng = np.random.default_rng(10)
    logits = rng.normal(0, 2, (4000, 3))
    labels = (rng.random(logits.shape) < sigmoid(logits)).astype(int)
    np.testing.assert_allclose(calibrate_logits(3 * logits + 1, labels), logits, rtol=0.1, atol=0.2)


def test_the_strongest_relations_are_named():
    relations = Relations(3, (0, 0, 1), (1, 2, 2), (2.44, -1.0, 0.05))
    assert relation_notes(relations, ["car", "stop sign", "tree"]) == [
        "labels that go together (log odds): car and stop sign (+2.4)",
        "labels that speak against one another (log odds): car and tree (-1.0)",
    ]
    assert relation_notes(Relations(3, (), (), ()), ["a", "b", "c"]) == []


def test_wrong_arguments_are_named():
    with pytest.raises(HalflabelError, match="they must agree"):
        fit_relations(np.zeros((3, 2)), np.zeros((3, 3), dtype=int))
    with pytest.raises(HalflabelError, match="NaN or infinite"):
        fit_relations(np.full((3, 2), np.nan), np.zeros((3, 2), dtype=int))
    with pytest.raises(HalflabelError, match="no entry is known to be yes"):
        relation_targets(np.zeros((3, 2)), np.zeros((3, 2), dtype=int))
