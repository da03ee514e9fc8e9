import numpy as np
import pytest

from halflabel import IGNORE_INDEX, UNCERTAIN, HalflabelError
from halflabel.training.policies import apply_policies, parse_policy

NAMES = ["a", "b"]
LABELS = np.array([[1, 0], [IGNORE_INDEX, UNCERTAIN], [UNCERTAIN, IGNORE_INDEX]], np.int8)


@pytest.mark.parametrize(
    ("unknown", "uncertain", "second", "third"),
    [
        ("ignore", "ignore", [-100, -100], [-100, -100]),
        ("ignore", "negative", [-100, 0], [0, -100]),  # U-Zeros
        ("ignore", "positive", [-100, 1], [1, -100]),  # U-Ones: no blank turns positive by the way
        ("negative", "ignore", [0, -100], [-100, 0]),
        ("negative", {"b": "positive"}, [0, 1], [-100, 0]),
        ({"a": 1}, 0.75, [1, 0.75], [0.75, -100]),
    ],
)
def test_each_code_has_its_own_policy(unknown, uncertain, second, third):
    targets = apply_policies(LABELS, NAMES, unknown, uncertain)
    assert targets.tolist() == [[1, 0], second, third]
    assert targets.dtype == (np.float32 if uncertain == 0.75 else np.int8)


def test_an_ignored_uncertain_entry_is_kept_apart_for_losses_that_use_unknown_ones():
    assert (apply_policies(LABELS, NAMES, keep_uncertain=True) == LABELS).all()


def test_words_and_numbers():
    assert parse_policy("unknown", "0.5", NAMES) == [0.5, 0.5]
    for wrong in ("negativ", 2, -0.1, None, float("nan")):
        with pytest.raises(HalflabelError, match="unknown: .*is none of ignore, negative, positive or a target"):
            parse_policy("unknown", wrong, NAMES)
    with pytest.raises(HalflabelError, match="did you mean negative"):
        parse_policy("unknown", "negativ", NAMES)
    with pytest.raises(HalflabelError, match="unknown label 'c'"):
        parse_policy("uncertain", {"c": "positive"}, NAMES)
