import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halflabel import HalflabelError
from halflabel.decide.thresholds import fit_thresholds, parse_objective
from halflabel.metrics.answers import f_score, recall
from halflabel.model.decisions import NEVER


def draw(seed, rows=80, columns=3, levels=1000, known=0.6):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels + 1, (rows, columns)) / levels  # few levels: many ties
    labels = (rng.random((rows, columns)) < scores ** rng.uniform(0.5, 2, columns)).astype(int)
    return scores, np.where(rng.random((rows, columns)) < known, labels, -100)


def fit_each(*arguments):
    """Fit a threshold of its own for every label with a known yes and a known no."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("halflabel.decide.pooling.MIN_KNOWN", 1)
        return fit_thresholds(*arguments)


def columns_of(scores, labels):
    """Give each label's column, its known scores and its known labels."""
    for j in range(labels.shape[1]):
        known = labels[:, j] >= 0
        yield j, scores[known, j], labels[known, j]


def lower_bound(hits, tries, expected):
    """Wilson's lower bound of a share at 80 %, with twenty expected entries added: the smaller root."""
    z, hits, tries = 0.8416, hits + 20 * expected, tries + 20
    share = hits / tries
    middle = share + z**2 / (2 * tries)
    return (middle - z * math.sqrt(share * (1 - share) / tries + z**2 / (4 * tries**2))) / (1 + z**2 / tries)


def test_an_objective_is_read():
    assert parse_objective("f1") == ("f", 1)
    assert parse_objective("F0.5") == ("f", 0.5)
    assert parse_objective("precision>=0.9") == ("precision", 0.9)
    assert parse_objective(" recall >= .95 ") == ("recall", 0.95)
    assert parse_objective("rate=0.05") == ("rate", 0.05)


@pytest.mark.parametrize(
    "text",
    ["precision>=1.2", "precision>=1", "recall>=0", "recall>0.9", "rate=1", "f0", "f", "f-1", "f1x", "accuracy", ""],
)
def test_an_objective_that_cannot_be_is_one_line_with_those_that_can(text):
    with pytest.raises(HalflabelError, match="none of f1 .*precision>=X, recall>=X and rate=X") as error:
        parse_objective(text)
    assert repr(text) in str(error.value)


@given(st.integers(0, 10**6), st.sampled_from([3, 20, 1000]), st.sampled_from(["f1", "f0.5", "f2"]))
@settings(max_examples=60, deadline=None)
def test_no_other_threshold_has_a_better_f_score(seed, levels, objective):
    scores, labels = draw(seed, levels=levels)
    beta = float(objective[1:])
    fitted = fit_each(scores, labels, objective)
    found = f_score(scores, labels, fitted.values, beta)
    assert not fitted.unmet.any()
    for j, s, y in columns_of(scores, labels):
        if not fitted.pooled[j]:
            best = max(f_score(s[:, None], y[:, None], cut, beta)[0] for cut in set(s))
            assert found[j] == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("kind", ["precision", "recall"])
@given(st.integers(0, 10**6), st.sampled_from([5, 50, 1000]), st.sampled_from([0.5, 0.6, 0.8, 0.9, 0.95, 0.99]))
@settings(max_examples=60, deadline=None)
def test_one_is_promised_by_its_lower_bound_and_the_other_is_as_high_as_that_allows(kind, seed, levels, share):
    scores, labels = draw(seed, rows=200, levels=levels)
    fitted = fit_each(scores, labels, f"{kind}>={share}")
    for j, s, y in columns_of(scores, labels):

        def other(cut, s=s, y=y):
            """The recall that goes with a precision, or the precision that goes with a recall."""
            return (y[s >= cut] == 1).sum() / ((y == 1).sum() if kind == "precision" else (s >= cut).sum())

        allowed = []
        for cut in sorted(set(s)):
            yes = s >= cut
            tries, expected = (
                (yes.sum(), s[yes].mean()) if kind == "precision" else ((y == 1).sum(), s[yes].sum() / s.sum())
            )
            if lower_bound((y[yes] == 1).sum(), tries, expected) >= share:
                allowed.append(cut)
        assert fitted.unmet[j] == (not allowed)
        if not allowed:
            assert fitted.values[j] == (NEVER if kind == "precision" else 0)
        elif kind == "precision":
            assert ((s >= fitted.values[j]) == (s >= allowed[0])).all()
        else:
            assert other(fitted.values[j]) == pytest.approx(max(map(other, allowed)), abs=1e-12)


def test_a_rate_is_the_share_of_known_entries_answered_with_yes():
    scores, labels = draw(1, rows=2000)
    fitted = fit_thresholds(scores, labels, "rate=0.05")
    for j, s, _ in columns_of(scores, labels):
        shares = [abs((s >= cut).mean() - 0.05) for cut in set(s)]
        assert abs((s >= fitted.values[j]).mean() - 0.05) == pytest.approx(min(shares), abs=1e-12)


def test_a_rate_needs_no_known_yes_but_enough_known_entries():
    scores = np.linspace(0, 1, 200)[:, None].repeat(3, axis=1)
    labels = np.full((200, 3), -100)
    labels[:, 0], labels[:10, 1] = 0, 0
    fitted = fit_thresholds(scores, labels, "rate=0.05")
    assert fitted.pooled.tolist() == [False, True, True]
    assert (scores[:, 0] >= fitted.values[0]).sum() == 10


def test_a_threshold_lies_midway_between_scores_and_between_neighbouring_floats_at_the_upper():
    labels = np.array([[1], [1], [0], [0]])
    assert fit_each([[0.9], [0.7], [0.3], [0.1]], labels, "f1").values.tolist() == [0.5]
    assert fit_each([[0.9], [0.7], [0.3], [0.1]], [[1], [1], [1], [0]], "f1").values.tolist() == [pytest.approx(0.2)]
    above = np.nextafter(0.5, 1)
    assert fit_each([[above], [above], [0.5], [0.5]], labels, "f1").values.tolist() == [above]


def test_labels_with_few_known_entries_share_the_threshold_of_their_pool_or_of_all_labels():
    scores, labels = draw(2, rows=400, columns=6)
    for j in (1, 4):  # few yes
        labels[np.flatnonzero(labels[:, j] == 1)[6:], j] = -100
    labels[np.flatnonzero(labels[:, 5] == 0)[3:], 5] = -100  # few no, also in the pool
    labels[:, 2] = -100

    def together(columns):
        known = labels[:, columns] >= 0
        return fit_thresholds(scores[:, columns][known][:, None], labels[:, columns][known][:, None], "f1").values[0]

    fitted = fit_thresholds(scores, labels, "f1")
    assert fitted.pooled.tolist() == [False, True, True, False, True, True]
    assert fitted.values[1] == fitted.values[2] == fitted.values[4] == together([1, 2, 4])
    assert fitted.values[5] == together([*range(6)])
    assert fitted.values[0] == together([0])


def test_what_cannot_be_promised_gets_the_safe_answer_and_says_so():
    rng = np.random.default_rng(4)
    scores, labels = rng.random((300, 2)), rng.integers(0, 2, (300, 2))  # scores that know nothing
    precise = fit_thresholds(scores * 0.1, labels, "precision>=0.9")
    assert precise.values.tolist() == [NEVER, NEVER]
    assert precise.unmet.all()
    sure = fit_thresholds(scores[:40], labels[:40], "recall>=0.999")  # 20 positives cannot show that much
    assert sure.values.tolist() == [0, 0]
    assert sure.unmet.all()
    assert recall(scores[:40], labels[:40], sure.values).tolist() == [1, 1]
    labels = (rng.random((500, 1)) < 0.3).astype(int)
    scores = rng.uniform(0.2, 0.4, (500, 1))
    scores[np.flatnonzero(labels)[0]] = 0.41  # the highest score happens to be a yes: one lucky yes is no precision
    assert fit_thresholds(scores, labels, "precision>=0.9").unmet.all()


def test_unknown_entries_count_for_nothing_and_chunks_change_nothing(monkeypatch):
    scores, labels = draw(6, columns=7)
    for objective in ("f1", "precision>=0.7", "recall>=0.8", "rate=0.2"):
        expected = fit_each(scores, labels, objective)
        filled = np.where(labels < 0, np.nan, scores)
        with monkeypatch.context() as patch:
            patch.setattr("halflabel.decide.pooling._COLUMN_ENTRIES", 100)
            for one, other in zip(fit_each(filled, labels, objective), expected, strict=True):
                np.testing.assert_array_equal(one, other)


def test_bad_arguments():
    with pytest.raises(HalflabelError, match="probabilities in 0..1"):
        fit_thresholds([[2.0], [0.1]], [[1], [0]], "f1")
    with pytest.raises(HalflabelError, match="known entries, a yes and a no"):
        fit_thresholds([[0.2], [0.1]], [[1], [-100]], "f1")
    with pytest.raises(HalflabelError, match="known entries"):
        fit_thresholds([[0.2], [0.1]], [[-100], [-100]], "rate=0.5")
    with pytest.raises(HalflabelError, match="must agree"):
        fit_thresholds([[0.2], [0.1]], [[1], [0]], "f1", probabilities=[[0.1]])
