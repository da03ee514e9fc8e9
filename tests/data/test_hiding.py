import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halflabel import HalflabelError, LabelSpace, hide_labels

FULL = np.random.default_rng(0).integers(0, 2, (400, 6))
SPACE = LabelSpace(list("abcdef"))
GROUPS = {"x": ["a", "b"], "y": ["c", "d", "e", "f"]}
CALLS = {
    "random": {"keep": 0.3},
    "single_positive": {},
    "per_label": {"per_label": 7},
    "by_group": {"groups": GROUPS, "label_space": SPACE},
}


@pytest.mark.parametrize("protocol", CALLS)
def test_seeded_and_only_hides(protocol):
    once = hide_labels(FULL, protocol, seed=3, **CALLS[protocol])
    assert (once == hide_labels(FULL, protocol, seed=3, **CALLS[protocol])).all()
    assert (once != hide_labels(FULL, protocol, seed=4, **CALLS[protocol])).any()
    assert (once[once != -100] == FULL[once != -100]).all()


@given(st.integers(0, 1000), st.sampled_from(sorted(CALLS)))
@settings(max_examples=40, deadline=None)
def test_hiding_never_adds_knowledge(seed, protocol):
    rng = np.random.default_rng(seed)
    labels = rng.choice([0, 1, -100], (20, 6))
    hidden = hide_labels(labels, protocol, seed=seed, **CALLS[protocol])
    assert ((hidden == labels) | (hidden == -100)).all()


def test_random_keeps_the_asked_share():
    kept = (hide_labels(FULL, "random", keep=0.3) != -100).mean()
    assert abs(kept - 0.3) < 4 * np.sqrt(0.3 * 0.7 / FULL.size)  # four standard errors of a binomial share
    assert (hide_labels(FULL, keep=1) == FULL).all()
    assert (hide_labels(FULL, keep=0) == -100).all()


def test_single_positive_keeps_one_yes_and_no_no():
    hidden = hide_labels(FULL, "single_positive")
    assert ((hidden == 1).sum(axis=1) == FULL.any(axis=1)).all()
    assert not (hidden == 0).any()


def test_per_label_keeps_so_many_of_each_kind_or_all():
    labels = FULL.copy()
    labels[:, 0] = 0
    labels[:3, 0] = 1
    hidden = hide_labels(labels, "per_label", per_label=7)
    assert (hidden == 1).sum(axis=0).tolist() == [3, 7, 7, 7, 7, 7]
    assert (hidden == 0).sum(axis=0).tolist() == [7] * 6


def test_by_group_keeps_whole_groups():
    known = hide_labels(FULL, "by_group", groups=GROUPS, label_space=SPACE) != -100
    first, second = known[:, :2].all(axis=1), known[:, 2:].all(axis=1)
    assert (first ^ second).all()
    assert (known.sum(axis=1) == np.where(first, 2, 4)).all()
    assert 0.35 < first.mean() < 0.65


@pytest.mark.parametrize(
    ("protocol", "arguments", "message"),
    [
        ("randm", {"keep": 0.3}, "did you mean random"),
        ("random", {}, "needs 'keep'"),
        ("random", {"keep": 1.5}, "0 to 1"),
        ("random", {"keep": 0.5, "per_label": 3}, "does not belong"),
        ("per_label", {"per_label": 0}, "at least 1"),
        ("by_group", {"groups": {"x": ["q"]}, "label_space": SPACE}, "unknown label 'q'"),
        ("by_group", {"groups": GROUPS}, "label_space"),
    ],
)
def test_bad_requests(protocol, arguments, message):
    with pytest.raises(HalflabelError, match=message):
        hide_labels(FULL, protocol, **arguments)
