import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halflabel import DecisionRule, HalflabelError
from halflabel.model.decisions import NEVER
from halflabel.model.relations import Relations, answer

PAIRS = {"num_labels": 4, "first": (0, 1, 0), "second": (2, 2, 3), "weights": (1.5, -0.5, 2.0)}
RELATIONS = Relations(**PAIRS)


def one_by_one(relations, logits, codes):
    """The formula of the docstring, an entry at a time."""
    matrix = np.zeros((relations.num_labels, relations.num_labels))
    for one, other, weight in zip(relations.first, relations.second, relations.weights, strict=True):
        matrix[one, other] = matrix[other, one] = weight
    result = np.empty(logits.shape)
    for i in range(len(logits)):
        for j in range(relations.num_labels):
            result[i, j] = logits[i, j]
            for k in range(relations.num_labels):
                if k != j and codes[i, k] >= 0:
                    result[i, j] += matrix[j, k] * (codes[i, k] - 1 / (1 + math.exp(-logits[i, k])))
            if codes[i, j] >= 0:
                result[i, j] = math.inf if codes[i, j] == 1 else -math.inf
    return result


@st.composite
def cases(draw):
    labels = draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    pairs = [pair for pair in zip(*np.triu_indices(labels, 1), strict=True) if rng.random() < 0.6]
    first, second = (tuple(int(pair[side]) for pair in pairs) for side in (0, 1))
    relations = Relations(labels, first, second, tuple(rng.normal(0, 2, len(pairs)).tolist()))
    shape = (draw(st.integers(0, 7)), labels)
    return relations, rng.normal(0, 3, shape), rng.choice([0, 1, -100, -101], shape)


@given(cases())
@settings(max_examples=60, deadline=None)
def test_each_entry_follows_the_formula(case):
    relations, logits, codes = case
    result = relations.apply(logits, codes)
    assert result.shape == logits.shape
    np.testing.assert_allclose(result, one_by_one(relations, logits, codes), rtol=1e-9, atol=1e-9)


@given(cases(), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_the_order_of_the_labels_does_not_matter(case, random):
    relations, logits, codes = case
    order = list(range(relations.num_labels))
    random.shuffle(order)
    moved = relations.take(order).apply(logits[:, order], codes[:, order])
    np.testing.assert_allclose(moved, relations.apply(logits, codes)[:, order], rtol=1e-9, atol=1e-9)


def test_without_a_given_answer_every_logit_comes_back_bit_for_bit():
    rng = np.random.default_rng(0)
    logits = np.concatenate([rng.normal(0, 30, (50, 4)), [[0.0, -0.0, 1e-30, -1e30]]])
    for nothing in (-100, -101):
        assert RELATIONS.apply(logits, np.full(logits.shape, nothing)).tobytes() == logits.tobytes()
    single = logits.astype(np.float32)
    assert (RELATIONS.apply(single, np.full(logits.shape, -100)).astype(np.float32) == single).all()


def test_an_answer_touches_only_the_labels_that_it_is_related_to():
    logits = np.random.default_rng(1).normal(0, 2, (20, 4))
    codes = np.full(logits.shape, -100)
    codes[:, 3] = 1
    result = RELATIONS.apply(logits, codes)
    assert (result[:, 1:3] == logits[:, 1:3]).all()
    assert (result[:, 0] > logits[:, 0]).all()


def test_what_the_picture_shows_anyway_is_no_evidence_and_what_it_denies_is_all_the_more():
    moved = [RELATIONS.apply([[0.0, 0.0, logit, 0.0]], [[-100, -100, 1, -100]])[0, 0] for logit in (40.0, 0.0, -40.0)]
    assert moved == pytest.approx([0.0, 0.75, 1.5])


def test_the_arguments_are_not_changed():
    logits, codes = np.zeros((2, 4)), np.ones((2, 4), dtype=np.int8)
    RELATIONS.apply(logits, codes)
    assert (logits == 0).all()
    assert (codes == 1).all()


def test_many_images_are_worked_on_in_pieces(monkeypatch):
    rng = np.random.default_rng(2)
    logits, codes = rng.normal(0, 2, (50, 4)), rng.choice([0, 1, -100], (50, 4))
    whole = RELATIONS.apply(logits, codes)
    monkeypatch.setattr("halflabel.model.relations._AT_ONCE", 20)
    assert (RELATIONS.apply(logits, codes) == whole).all()


def test_a_given_entry_is_answered_as_given_whatever_the_threshold():
    thresholds = {"scale": [2.0] * 4, "shift": [0.5] * 4, "thresholds": [NEVER, 0.0, 0.5, 0.5]}
    rule = DecisionRule.from_dict(DecisionRule.plain(4).to_dict() | thresholds, 4)
    logits = np.array([[-1.0, 1.0, 0.3, -2.0]])
    codes = np.array([[1, 0, -100, -100]])
    scores, decisions = answer(rule, logits, RELATIONS, codes)
    assert scores[0, :2].tolist() == [1.0, 0.0]
    assert decisions[0, :2].tolist() == [True, False]
    calibrated = one_by_one(RELATIONS, 2 * logits + 0.5, codes)[0, 2:]
    np.testing.assert_allclose(scores[0, 2:], 1 / (1 + np.exp(-calibrated)), rtol=1e-12)
    assert decisions[0, 2:].tolist() == (scores[0, 2:] >= 0.5).tolist()


def test_without_given_answers_scores_and_decisions_are_those_of_the_rule():
    rule = DecisionRule.plain(4)
    logits = np.random.default_rng(3).normal(0, 2, (9, 4))
    for arguments in ((), (RELATIONS,), (RELATIONS, np.full(logits.shape, -100))):
        scores, decisions = answer(rule, logits, *arguments)
        assert scores.tobytes() == rule.scores(logits).tobytes()
        assert (decisions == rule.decide(scores)).all()


def test_given_answers_need_relations():
    with pytest.raises(HalflabelError, match="no relations between labels.*relations: true"):
        answer(DecisionRule.plain(4), np.zeros((1, 4)), None, np.ones((1, 4), dtype=int))


def test_the_file_gives_back_the_same_relations():
    third = Relations(3, (0,), (2,), (1 / 3,))
    for relations in (RELATIONS, third, Relations(5, (), (), ())):
        stored = json.loads(json.dumps(relations.to_dict()))
        assert Relations.from_dict(stored, relations.num_labels) == relations


def test_other_labels_keep_the_relations_of_those_that_stay():
    taken = RELATIONS.take([2, None, 0])
    assert taken == Relations(3, (0,), (2,), (1.5,))
    assert RELATIONS.take([1, 3]) == Relations(2, (), (), ())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"first": [0, 1]}, r"second is \(2, 2, 3\), expected a list of 2 values"),
        ({"weights": 1.0}, "weights is 1.0, expected a list of 3 values"),
        ({"second": [2, 2, 4]}, r"the pair \(0, 4\) is not of two rising columns below 4"),
        ({"first": [2, 1, 0]}, r"the pair \(2, 2\)"),
        ({"first": [0, True, 0]}, r"the pair \(True, 2\)"),
        ({"first": [0, 0, 0]}, "a pair stands twice"),
        ({"weights": [1.0, math.nan, 2.0]}, "weights holds nan, expected a finite number"),
        ({"num_labels": -1}, "num_labels is -1, expected a count"),
        ({"num_labels": 5}, "fitted for 5 labels, not these 4"),
        ({"wieghts": []}, "unknown key 'wieghts'; did you mean weights"),
    ],
)
def test_faults_of_a_file_are_named(changes, message):
    with pytest.raises(HalflabelError, match=message):
        Relations.from_dict(RELATIONS.to_dict() | changes, 4)


def test_a_missing_key_and_a_file_that_is_no_mapping_are_named():
    stored = RELATIONS.to_dict()
    del stored["second"]
    with pytest.raises(HalflabelError, match="relations: second is missing"):
        Relations.from_dict(stored, 4)
    with pytest.raises(HalflabelError, match=r"relations is \[1\], expected a mapping"):
        Relations.from_dict([1], 4)


@pytest.mark.parametrize(
    ("logits", "codes", "message"),
    [
        (np.zeros((2, 3)), np.zeros((2, 3), dtype=int), "expected .* with 4 labels for both"),
        (np.zeros((2, 4)), np.zeros((1, 4), dtype=int), r"shape \(2, 4\) and given entries \(1, 4\)"),
        (np.zeros(4), np.zeros(4, dtype=int), "labels have shape"),
        (np.zeros((1, 4)), np.full((1, 4), 2), "label value 2"),
    ],
)
def test_wrong_arguments_are_named(logits, codes, message):
    with pytest.raises(HalflabelError, match=message):
        RELATIONS.apply(logits, codes)
