import math

import numpy as np
import pytest
from scipy.linalg import null_space
from scipy.optimize import minimize
from scipy.stats import multivariate_normal
from sklearn.linear_model import LinearRegression, Ridge

from halflabel import HalflabelError
from halflabel.studies.transferability import LinearEvidence, contrasts, held_out_h_score, log_me


def planted(rows, width, seed=0, noise=0.5):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, width)) * rng.uniform(0.2, 3, width)
    return features, features @ rng.normal(size=width) / math.sqrt(width) + noise * rng.normal(size=rows)


def search_evidence(features, target):
    """Maximise the density of y over both precisions, from many starts."""

    def loss(logs):
        weights, noise = np.exp(np.clip(logs, -25, 25))
        covariance = np.eye(len(target)) / noise + features @ features.T / weights
        return -multivariate_normal(cov=covariance, allow_singular=False).logpdf(target)

    starts = [(a, b) for a in (-3, 0, 3) for b in (-2, 1, 4)]
    options = {"xatol": 1e-10, "fatol": 1e-12, "maxiter": 4000, "maxfev": 4000}
    return -min(minimize(loss, start, method="Nelder-Mead", options=options).fun for start in starts)


@pytest.mark.parametrize(("rows", "width"), [(14, 40), (40, 6), (12, 12)], ids=["rows<width", "rows>width", "equal"])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_evidence_is_the_greatest_that_a_direct_search_finds(rows, width, seed):
    features, target = planted(rows, width, seed)
    assert LinearEvidence(features).fit(target).log_evidence == pytest.approx(
        search_evidence(features, target), abs=1e-6
    )


@pytest.mark.parametrize(("rows", "width"), [(15, 30), (30, 4)])
def test_log_me_is_the_evidence_of_what_the_mean_does_not_explain_per_row(rows, width):
    features, target = planted(rows, width, 3)
    labels = (target > 0).astype(np.int8)[:, None]
    basis = null_space(np.ones((1, rows))).T  # any orthonormal basis of what is left without the mean
    expected = search_evidence(basis @ features, basis @ labels[:, 0].astype(float)) / (rows - 1)
    assert log_me(features, labels)[0] == pytest.approx(expected, abs=1e-6)
    assert log_me(7 * features + 100, labels)[0] == pytest.approx(expected, abs=1e-6)


def test_log_me_takes_known_rows_only_and_is_undefined_without_both_answers():
    features, target = planted(40, 10)
    labels = np.stack([target > 0, target > 0, target > 99, target > 0], axis=1).astype(np.int8)
    labels[::3, 1] = -100
    labels[:, 3] = -101
    values = log_me(features, labels)
    known = labels[:, 1] >= 0
    assert values[1] == pytest.approx(log_me(features[known], labels[known][:, [1]])[0], abs=1e-9)
    assert values[1] != pytest.approx(values[0], abs=1e-3)
    assert np.isnan(values[2:]).all()


@pytest.mark.parametrize(("rows", "width"), [(15, 30), (30, 4)])
def test_the_weights_are_those_of_ridge_regression_with_the_penalty_that_was_found(rows, width):
    features, target = planted(rows, width)
    found = LinearEvidence(features).fit(target)
    ridge = Ridge(alpha=found.penalty, fit_intercept=False, solver="svd").fit(features, target)
    np.testing.assert_allclose(found.weights, ridge.coef_, atol=1e-8)


def test_on_contrasts_it_is_ridge_regression_with_a_free_intercept():
    features, target = planted(20, 6)
    found = LinearEvidence(contrasts(features + 5)).fit(contrasts(target - 3))
    np.testing.assert_allclose(found.weights, Ridge(alpha=found.penalty, solver="svd").fit(features, target).coef_)


def test_features_of_zeros_get_no_weight_and_a_target_of_zeros_is_refused():
    nothing = LinearEvidence(np.zeros((5, 3))).fit([1.0, -1, 1, -1, 1])
    np.testing.assert_array_equal(nothing.weights, 0)
    assert nothing.log_evidence == pytest.approx(-2.5 * (math.log(2 * math.pi) + 1))
    with pytest.raises(HalflabelError, match="0 throughout"):
        LinearEvidence(np.eye(3)).fit(np.zeros(3))


def test_of_features_that_speak_for_the_answer_log_me_is_larger():
    features, target = planted(60, 200)
    labels = (target > 0).astype(np.int8)[:, None]
    noise = np.random.default_rng(9).normal(size=features.shape)
    assert log_me(features, labels)[0] > log_me(noise, labels)[0] + 0.05


def test_the_h_score_of_least_squares_in_its_own_sample_is_the_published_one():
    features, target = planted(50, 5, noise=1.0)
    answers = (target > 0.3).astype(float)
    means = np.stack([features[answers == answer].mean(axis=0) for answer in answers]) - features.mean(axis=0)
    published = np.trace(np.linalg.pinv(np.cov(features.T, bias=True)) @ (means.T @ means / 50))
    predicted = LinearRegression().fit(features, answers).predict(features)
    assert held_out_h_score(predicted, np.full(50, answers.mean()), answers) == pytest.approx(published)


def test_the_h_score_is_0_for_the_mean_answer_and_below_for_worse():
    answers = np.array([1, 0, 0, 1])
    baseline = np.full(4, 0.5)
    assert held_out_h_score(baseline, baseline, answers) == 0
    assert held_out_h_score(1 - answers, baseline, answers) == -3
    assert held_out_h_score(answers, baseline, answers) == 1
