import json
import math

import numpy as np
import pytest
import torch

from halflabel import DecisionRule, HalflabelError
from halflabel.model.decisions import NEVER, sigmoid

FITTED = {
    "scale": (0.5, 2.0, 1.0),
    "shift": (-1.0, 0.25, 0.0),
    "thresholds": (0.3, NEVER, 0.0),
    "calibration": "platt",
    "objective": "precision>=0.9",
    "min_known": 10,
    "known": (100, 40, 12),
    "positives": (20, 3, 12),
    "pooled_calibration": (False, True, True),
    "pooled_threshold": (False, True, False),
    "unmet": (False, True, False),
}
RULE = DecisionRule(**FITTED)


def stored(**changes):
    return {**json.loads(json.dumps(RULE.to_dict())), **changes}


def test_scores_are_the_sigmoid_of_the_scaled_and_shifted_logit():
    logits = torch.randn(4, 5, 3, dtype=torch.float64) * 10
    expected = (logits * torch.tensor(RULE.scale) + torch.tensor(RULE.shift)).sigmoid()
    np.testing.assert_allclose(RULE.scores(logits.numpy()), expected.numpy(), rtol=1e-12)
    assert RULE.scores(np.float32([[1, 2, 3]])).dtype == np.float64


def test_without_a_fitted_rule_the_score_is_the_sigmoid_and_yes_starts_at_a_half():
    rule = DecisionRule.plain(2)
    assert rule.scores([[0.0, math.log(3)]]).tolist() == [[0.5, 0.75]]
    assert rule.decide([[0.5, np.nextafter(0.5, 0)]]).tolist() == [[True, False]]
    assert (rule.calibration, rule.objective) == ("none", None)


def test_extreme_logits_do_not_overflow():
    with np.errstate(over="raise", invalid="raise"):
        assert sigmoid([-1e300, -800.0, 0.0, 800.0, 1e300]).tolist() == [0, 0, 0.5, 1, 1]


def test_a_score_at_the_threshold_is_a_yes_and_never_is_never():
    scores = np.array([[0.3, 1.0, 0.0], [0.2999, 0.0, 1.0]])
    assert RULE.decide(scores).tolist() == [[True, False, True], [False, False, True]]


def test_the_file_gives_back_the_same_rule():
    third = DecisionRule(**{**FITTED, "scale": (1 / 3, 0.1, math.pi)})
    for rule in (RULE, third, DecisionRule.plain(5)):
        assert DecisionRule.from_dict(json.loads(json.dumps(rule.to_dict())), len(rule.scale)) == rule


def test_rows_follow_their_labels_and_a_new_label_is_plain():
    rule = RULE.take([2, None, 0])
    assert rule.scale == (1.0, 1.0, 0.5)
    assert rule.thresholds == (0.0, 0.5, 0.3)
    assert rule.positives == (12, 0, 20)
    assert rule.pooled_calibration == (True, False, False)
    assert (rule.objective, rule.min_known) == ("precision>=0.9", 10)
    assert RULE.take([0, 1, 2]) == RULE


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scale": [1.0, 1.0]}, "fitted for 2 labels|shift holds 3 values for 2 labels"),
        ({"shift": [0.0] * 4}, "shift holds 4 values for 3 labels"),
        ({"scale": [1.0, 0.0, 1.0]}, "scale holds 0.0, expected a number above 0"),
        ({"shift": [0.0, math.nan, 0.0]}, "shift holds nan, expected a finite number"),
        ({"thresholds": [0.5, 1.5, 0.5]}, "thresholds holds 1.5, expected a number in 0..1, or 2.0 for never"),
        ({"thresholds": ["0.5"] * 3}, "thresholds holds '0.5'"),
        ({"known": [1, 2, -3]}, "known holds -3, expected a count"),
        ({"positives": [1.5, 0, 0]}, "positives holds 1.5"),
        ({"unmet": [0, 1, 0]}, "unmet holds 0, expected true or false"),
        ({"scale": 3}, "scale is 3, expected a list"),
        ({"calibration": None}, "calibration is None, expected a word"),
        ({"min_known": "many"}, "min_known is 'many', expected a count"),
        ({"treshold": 1}, "unknown key 'treshold'; did you mean thresholds"),
    ],
)
def test_a_fault_in_the_file_is_one_clear_line(changes, message):
    with pytest.raises(HalflabelError, match=message) as error:
        DecisionRule.from_dict(stored(**changes), 3)
    assert str(error.value).startswith("decisions")
    assert len(str(error.value).splitlines()) == 1


def test_a_rule_of_other_labels_or_with_a_part_missing_is_refused():
    with pytest.raises(HalflabelError, match="fitted for 3 labels, not these 4"):
        DecisionRule.from_dict(stored(), 4)
    content = stored()
    del content["shift"]
    with pytest.raises(HalflabelError, match="shift is missing"):
        DecisionRule.from_dict(content, 3)
