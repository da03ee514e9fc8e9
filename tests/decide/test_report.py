import json

import numpy as np
import pytest
from sklearn.metrics import precision_score, recall_score

from halflabel import DecisionRule, fit_decisions
from halflabel.decide.report import decision_notes, describe_decisions, render_decisions, render_metrics
from halflabel.metrics.calibration import calibration_error
from halflabel.metrics.report import evaluate_scores
from halflabel.model.decisions import NEVER

NAMES = ["red", "blue", "green", "a label whose name is much longer than any table can show", "grey"]


@pytest.fixture
def entries():
    rng = np.random.default_rng(0)
    true = rng.normal(-0.5, 3, (500, 5))
    labels = (rng.random(true.shape) < 1 / (1 + np.exp(-true))).astype(int)
    labels = np.where(rng.random(true.shape) < 0.5, labels, -100)
    labels[np.flatnonzero(labels[:, 1] == 1)[3:], 1] = -100  # blue has three known yes
    true[:, 2] = rng.normal(0, 1, 500)  # nothing is known about green from its logits
    labels[:, 4] = -100
    return 2.5 * true, labels


def test_the_figures_are_those_of_the_rule_on_these_entries(entries):
    logits, labels = entries
    rule = fit_decisions(logits, labels, "f1")
    report = describe_decisions(rule, logits, labels, NAMES)
    decided, plain = rule.decide(rule.scores(logits)), DecisionRule.plain(5)
    before, after = (calibration_error(one.scores(logits), labels) for one in (plain, rule))
    for j, row in enumerate(report["labels"].values()):
        known = labels[:, j] >= 0
        assert (row["known"], row["positives"]) == (known.sum(), (labels[:, j] == 1).sum())
        assert (row["scale"], row["shift"], row["threshold"]) == (rule.scale[j], rule.shift[j], rule.thresholds[j])
        if j == 4:
            assert row["precision"] is row["recall"] is row["ECE"] is row["ECE_uncalibrated"] is None
            continue
        assert row["precision"] == pytest.approx(precision_score(labels[known, j], decided[known, j]))
        assert row["recall"] == pytest.approx(recall_score(labels[known, j], decided[known, j]))
        assert (row["ECE_uncalibrated"], row["ECE"]) == pytest.approx((before[j], after[j]))
    assert (report["ECE_uncalibrated"], report["ECE"]) == pytest.approx((np.nanmean(before), np.nanmean(after)))
    assert (report["objective"], report["calibration"], report["known_entries"]) == ("f1", "platt", (labels >= 0).sum())
    assert "NaN" not in json.dumps(report)


def test_labels_without_numbers_of_their_own_and_unmet_ones_are_named(entries):
    logits, labels = entries
    logits[:, 0] *= -1
    assert decision_notes(fit_decisions(logits, labels, "precision>=0.9"), NAMES) == [
        "calibrated together, having fewer than 10 known yes or no: blue, grey",
        "scored nearly alike everywhere, as a higher logit does not mean yes: red",
        "sharing a threshold, having too few known entries: blue, grey",
        "never answered with yes, as no threshold promises precision>=0.9: red, green",
    ]
    assert "always answered with yes, as no threshold promises recall>=0.999" in " ".join(
        decision_notes(fit_decisions(logits, labels, "recall>=0.999"), NAMES)
    )
    assert decision_notes(DecisionRule.plain(5), NAMES) == []


def test_the_text_says_what_was_measured_on_what_within_the_width_of_a_terminal(entries):
    logits, labels = entries
    rule = fit_decisions(logits, labels, "precision>=0.9")
    text = render_decisions(describe_decisions(rule, logits, labels, NAMES))
    lines = text.splitlines()
    assert all(len(line) < 120 for line in lines)
    assert lines[1].split()[:3] == ["red", str(rule.known[0]), str(rule.positives[0])]
    assert lines[3].split()[5:7] == ["never", "undefined"]
    assert lines[4].startswith("a label whose name is much ... ")
    assert lines[5].split()[-2:] == ["undefined", "undefined"]
    assert f"fitted and measured on the same {(labels >= 0).sum()} known entries" in text


def test_a_long_table_is_cut_and_counted():
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 1, (50, 60))
    rule = fit_decisions(logits, (logits > 0).astype(int))
    names = [f"label {i}" for i in range(60)]
    text = render_decisions(describe_decisions(rule, logits, (logits > 0).astype(int), names))
    assert "... and 20 more labels" in text
    assert "label 40" not in text


def measured(labels, thresholds=0.5, **more):
    scores = np.linspace(0.1, 0.9, np.size(labels)).reshape(np.shape(labels))
    names = [f"label {i}" for i in range(np.shape(labels)[1])]
    return {"split": "test", **evaluate_scores(scores, labels, names, thresholds), **more}


def test_a_line_per_label_and_the_means():
    lines = render_metrics(measured([[0, 1]] * 5 + [[1, 0]] * 5 + [[1, 1]] * 5, [0.000123, NEVER])).splitlines()
    assert lines[1].split() == ["test", "split", "known", "yes", "AP", "precision", "recall", "F1", "yes", "from"]
    assert lines[2].split() == ["label", "0", "15", "10", "1.000", "0.667", "1.000", "0.800", "0.000123"]
    assert lines[3].split()[-4:] == ["undefined", "0.000", "0.000", "never"]  # no yes is decided, so no precision
    assert lines[4].split()[0] == "mAP"


@pytest.mark.parametrize(
    ("answers", "told"),
    [([0] * 9 + [1] * 3, "3 yes: too few to judge"), ([0] * 4 + [1] * 9, "4 no: too few to judge")],
)
def test_perfect_scores_of_a_handful_are_not_shown(answers, told):
    line = render_metrics(measured([[answer] for answer in answers], ci=0.95)).splitlines()[2]
    assert line.endswith(told)
    assert "1.000" not in line


def test_undefined_is_a_word_and_a_long_list_is_cut():
    text = render_metrics(measured(np.ones((2, 300), int)))
    assert "undefined, for want of a known yes or a known no: label 0, label 1" in text
    assert "and 260 more labels" in text
    assert max(map(len, text.splitlines())) < 250


def test_all_images_are_not_called_a_split():
    assert "all images" in render_metrics(measured([[0], [1]], split="all"))
    assert render_metrics({"split": None}) == "no test split: nothing was measured"


def test_intervals_stand_where_they_are_defined():
    metrics = measured([[0, 1]] * 5 + [[1, 1]] * 5, mAP_interval=[0.25, 1.0])
    metrics["labels"]["label 0"]["AP_interval"] = [0.5, 1.0]
    metrics["labels"]["label 1"]["AP_interval"] = [None, None]
    lines = render_metrics(metrics).splitlines()
    assert lines[2].endswith("  AP 0.500 to 1.000")
    assert "AP" not in lines[3]
    assert lines[4].endswith("  0.250 to 1.000")
