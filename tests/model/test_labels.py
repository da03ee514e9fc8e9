import numpy as np
import pytest

from halflabel import IGNORE_INDEX, UNCERTAIN, HalflabelError, LabelSpace, count_labels
from halflabel.model.labels import check_matrix, encode_value, evaluation_labels, uncertain_codes


@pytest.mark.parametrize("names", [[], [""], ["a", "a"], [" a"], [3]])
def test_bad_label_names_are_refused(names):
    with pytest.raises(HalflabelError):
        LabelSpace(names)


def test_unknown_label_shows_the_nearest():
    with pytest.raises(HalflabelError, match="did you mean traffic light"):
        LabelSpace(["traffic light", "car"]).index("trafic light")


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ([1, 1.0, "1", "true", "YES", True, np.int64(1), np.float32(1)], 1),
        ([0, 0.0, "0", "False", "no", False, np.int8(0)], 0),
        ([None, float("nan"), np.float64("nan"), "", " ", -1, "-1", "NaN", -100], IGNORE_INDEX),
    ],
)
def test_codes_of_yes_no_and_unknown(values, code):
    assert [encode_value(value) for value in values] == [code] * len(values)


@pytest.mark.parametrize("value", [2, 0.5, "maybe", "10", -2])
def test_other_values_are_refused_by_name(value):
    with pytest.raises(HalflabelError, match=str(value)):
        encode_value(value)


def test_counts_per_label():
    counts = count_labels([[1, 0], [1, -100], [-100, -100], [0, 0]])
    assert counts.known.tolist() == [3, 2]
    assert counts.positive.tolist() == [2, 0]
    assert counts.negative.tolist() == [1, 2]
    assert counts.known_fraction == 5 / 8
    assert np.isnan(count_labels(np.zeros((0, 2), int)).known_fraction)


def test_counts_of_more_rows_than_are_looked_at_together():
    labels = np.random.default_rng(0).choice(
        np.array([1, 0, -100, UNCERTAIN], np.int8), (1000, 3), p=[0.7, 0.1, 0.1, 0.1]
    )
    counts = count_labels(labels)
    assert counts.positive.tolist() == [sum(row[k] == 1 for row in labels.tolist()) for k in range(3)]
    assert counts.known.tolist() == [sum(row[k] in (0, 1) for row in labels.tolist()) for k in range(3)]
    assert counts.uncertain.tolist() == [sum(row[k] == UNCERTAIN for row in labels.tolist()) for k in range(3)]
    labels[700, 2] = 7
    with pytest.raises(HalflabelError, match="label value 7 at row 700, column 2"):
        count_labels(labels)


def test_a_matrix_names_its_first_wrong_entry():
    with pytest.raises(HalflabelError, match="2.* row 1, column 0"):
        check_matrix([[0, 1], [2, 1]])
    with pytest.raises(HalflabelError, match="shape"):
        check_matrix([1, 0])


@pytest.mark.parametrize("cell", ["-1", "-1.0", -1, -1.0, np.float64(-1), "?", " ? "])
def test_what_a_source_calls_uncertain_is_kept_apart_from_unknown(cell):
    codes = uncertain_codes([-1, "?"])
    assert encode_value(cell, codes) == UNCERTAIN
    assert encode_value("", codes) == IGNORE_INDEX
    assert encode_value(UNCERTAIN) == UNCERTAIN
    counts = count_labels([[1], [UNCERTAIN], [IGNORE_INDEX]])
    assert (counts.known[0], counts.uncertain[0]) == (1, 1)


@pytest.mark.parametrize("letter", ["\n", "\r", "\t", "\0", "\x1b", "\u2028", "\ud800"])
def test_a_label_name_of_several_lines_or_with_control_characters_is_refused(letter):
    with pytest.raises(HalflabelError, match="holds a line break or another control character"):
        LabelSpace([f"a{letter}b"])


def test_what_is_not_known_is_measured_as_unknown_and_known_answers_stay():
    labels = np.array([[1, 0, IGNORE_INDEX, UNCERTAIN]], dtype=np.int8)
    assert evaluation_labels(labels).tolist() == [[1, 0, IGNORE_INDEX, IGNORE_INDEX]]
    assert evaluation_labels(labels).dtype == np.int8


def test_labels_of_one_answer_are_named_with_it_and_those_of_none_or_both_are_not():
    counts = count_labels(np.array([[1, 0, IGNORE_INDEX, 1], [IGNORE_INDEX, 0, UNCERTAIN, 0]]))
    assert counts.one_answer(["a", "b", "c", "d"]) == ["a (yes)", "b (no)"]
