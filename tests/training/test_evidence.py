import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from halflabel.training.evidence import Weighing, log_odds_beyond, mean_log_loss


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
