import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_scores import CHOSEN_ON, UNSEEN, synthetic

from halflabel import DecisionRule, HalflabelError, fit_decisions
from halflabel.decide.decision_fitting import CALIBRATIONS
from halflabel.decide.thresholds import fit_thresholds
from halflabel.metrics.answers import precision
from halflabel.metrics.calibration import calibration_error


def draw(seed=0, rows=600, columns=5):
    rng = np.random.default_rng(seed)
    true = rng.normal(-0.5, 2, (rows, columns))
    labels = (rng.random(true.shape) < 1 / (1 + np.exp(-true))).astype(int)
    return 2.5 * true + 1, np.where(rng.random(true.shape) < 0.5, labels, -100)


def fit_each(fit, logits, labels):
    """Scale and shift of each label's known entries, (2, num_labels)."""
    pairs = zip(logits.T, labels.T, strict=True)
    return np.array([fit(z[y >= 0], y[y >= 0]) for z, y in pairs]).T


def keep(labels, column, answer, count):
    """Leave so many known entries with one answer."""
    labels[np.flatnonzero(labels[:, column] == answer)[count:], column] = -100


def test_each_label_gets_its_own_numbers_where_enough_is_known():
    logits, labels = draw()
    rule = fit_decisions(logits, labels, "f2")
    np.testing.assert_array_equal([rule.scale, rule.shift], fit_each(CALIBRATIONS["platt"], logits, labels))
    np.testing.assert_array_equal(rule.thresholds, fit_thresholds(rule.scores(logits), labels, "f2").values)
    assert (rule.calibration, rule.objective, rule.min_known) == ("platt", "f2", 10)
    assert rule.known == tuple((labels >= 0).sum(axis=0))
    assert rule.positives == tuple((labels == 1).sum(axis=0))
    assert not any(rule.pooled_calibration + rule.pooled_threshold + rule.unmet)
    assert fit_decisions(np.where(labels < 0, 1e9, logits), labels, "f2") == rule


def test_temperature_has_no_shift_and_none_is_the_plain_sigmoid():
    logits, labels = draw()
    rule = fit_decisions(logits, labels, "f1", "temperature")
    np.testing.assert_array_equal([rule.scale, rule.shift], fit_each(CALIBRATIONS["temperature"], logits, labels))
    rule = fit_decisions(logits, labels, "f1", "none")
    assert (set(rule.scale), set(rule.shift)) == ({1.0}, {0.0})
    assert rule.thresholds != DecisionRule.plain(5).thresholds


@pytest.mark.parametrize("objective", ["f1", "precision>=0.8", "recall>=0.9", "rate=0.3"])
def test_who_is_answered_with_yes_does_not_depend_on_the_calibration(objective):
    logits, labels = draw()
    rules = [fit_decisions(logits, labels, objective, one) for one in ("platt", "temperature", "none")]
    answers = [rule.decide(rule.scores(logits))[labels >= 0] for rule in rules]
    assert (answers[0] == answers[1]).all()
    assert (answers[0] == answers[2]).all()


def test_a_label_short_of_known_yes_takes_the_scale_of_its_pool_and_keeps_its_own_base_rate(monkeypatch):
    logits, labels = draw()
    keep(labels, 1, 1, 4)
    keep(labels, 3, 1, 7)
    labels[:, 4] = -100
    rule = fit_decisions(logits, labels)
    assert rule.pooled_calibration == rule.pooled_threshold == (False, True, False, True, True)
    known = labels[:, [1, 3]] >= 0
    scale, shift = CALIBRATIONS["platt"](logits[:, [1, 3]][known], labels[:, [1, 3]][known])
    assert rule.scale[1] == rule.scale[3] == rule.scale[4] == pytest.approx(scale)
    assert rule.shift[4] == pytest.approx(shift)  # nothing known: the pool's
    scores = rule.scores(logits)
    for j, positives in ((1, 4), (3, 7)):
        answers = labels[labels[:, j] >= 0, j]
        targets = np.where(answers == 1, (positives + 1) / (positives + 2), 1 / ((answers == 0).sum() + 2))
        assert scores[labels[:, j] >= 0, j].mean() == pytest.approx(targets.mean(), rel=1e-6)
    assert rule.scale[0] == fit_each(CALIBRATIONS["platt"], logits[:, :1], labels[:, :1])[0, 0]
    monkeypatch.setattr("halflabel.decide.pooling.MIN_KNOWN", 1)
    assert fit_decisions(logits, labels).pooled_calibration == (False, False, False, False, True)


@given(st.integers(0, 10**6), st.sampled_from(["platt", "temperature"]))
@settings(max_examples=30, deadline=None)
def test_a_calibration_never_changes_the_order_of_a_labels_scores(seed, calibration):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(0, 3, (120, 4)), rng.choice([0, 1, -100], (120, 4))  # half of the slopes are negative
    rule = fit_decisions(logits, labels, "f1", calibration)
    assert min(rule.scale) > 0
    order = np.argsort(logits, axis=0)
    assert (np.diff(np.take_along_axis(rule.scores(logits), order, axis=0), axis=0) >= 0).all()


def test_a_label_whose_logits_speak_against_it_is_scored_with_its_share_of_yes():
    logits, labels = draw()
    logits[:, 2] *= -1
    rule = fit_decisions(logits, labels)
    assert rule.pooled_calibration == (False, False, True, False, False)
    known = labels[:, 2] >= 0
    scores = rule.scores(logits)[known, 2]
    np.testing.assert_allclose(scores, (labels[known, 2] == 1).mean(), atol=0.01)
    assert len(np.unique(scores)) == len(np.unique(logits[known, 2]))  # the order is still there


def test_noise_gets_no_confident_score():
    """Whether the slope of a label without signal comes out above or below 0 is luck; neither may make it sure."""
    for seed in range(8):
        rng = np.random.default_rng(seed)
        logits, labels = rng.normal(0, 3, (1000, 2)), rng.integers(0, 2, (1000, 2))
        labels[:, 1] = rng.random(1000) < 1 / (1 + np.exp(-logits[:, 1]))
        rule = fit_decisions(logits, labels)
        assert calibration_error(rule.scores(logits), labels)[0] < 0.06


def test_nothing_known_of_one_kind_is_one_clear_line():
    logits, labels = draw(rows=20)
    for left, message in ((-100, "no entry is known to be yes"), (1, "no entry is known to be no"), (0, "to be yes")):
        with pytest.raises(HalflabelError, match=message):
            fit_decisions(logits, np.full_like(labels, left))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"objective": "precision>=1.2"}, "objective 'precision>=1.2' is none of"),
        ({"calibration": "plat"}, "calibration is 'plat', expected platt, temperature or none; did you mean platt"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(HalflabelError, match=message):
        fit_decisions(*draw(rows=20), **arguments)


@pytest.mark.parametrize("name", ["medium overlap", "easy and hard", "Laplace logits"])
def test_on_entries_held_out_scores_are_calibrated_and_the_precision_is_kept(name):
    design = (CHOSEN_ON | UNSEEN)[name]
    for seed in (1, 2):
        logits, labels, _ = synthetic(design, seed, shift=1.5)
        fit, test = slice(0, 10_000), slice(10_000, None)
        rule = fit_decisions(logits[fit], labels[fit], "precision>=0.9")
        scores = rule.scores(logits[test])
        assert calibration_error(DecisionRule.plain(20).scores(logits[test]), labels[test]).mean() > 0.04
        assert calibration_error(scores, labels[test]).mean() < 0.02
        enough = np.array(rule.positives) >= 200
        assert enough.sum() >= 10
        kept = precision(scores, labels[test], rule.thresholds)[enough]
        assert not np.isnan(kept).any()
        assert (kept >= 0.85).mean() >= 0.9


def test_a_temperature_is_enough_where_only_the_scale_is_wrong():
    logits, labels, _ = synthetic(CHOSEN_ON["medium overlap"], 3)
    rule = fit_decisions(logits[:10_000], labels[:10_000], calibration="temperature")
    assert calibration_error(rule.scores(logits[10_000:]), labels[10_000:]).mean() < 0.02
    assert math.isclose(1 / np.median(rule.scale), 2.5, rel_tol=0.1)
