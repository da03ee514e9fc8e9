import numpy as np
import pytest

from halflabel.decide.pooling import fit_labels, known_entries, pool_entries, scarce_groups

LABELS = np.array([[1, 0, -100], [0, -100, 1], [1, 1, 0], [-101, 0, 0]])
VALUES = np.arange(12, dtype=np.float32).reshape(4, 3)


def test_labels_short_of_yes_and_labels_short_of_no_are_pooled_apart(monkeypatch):
    labels = np.stack([np.repeat([1, 0], sizes) for sizes in ((3, 97), (96, 4), (2, 98), (50, 50))], axis=1)
    assert [group.tolist() for group in scarce_groups(labels)] == [[0, 2], [1]]
    monkeypatch.setattr("halflabel.decide.pooling.MIN_KNOWN", 1)
    assert scarce_groups(labels) == []


def test_a_pool_holds_the_known_entries_of_its_labels_and_of_all_where_these_are_too_few(monkeypatch):
    monkeypatch.setattr("halflabel.decide.pooling.MIN_KNOWN", 1)
    values, answers = pool_entries(LABELS, np.array([0, 2]), VALUES)
    assert (values.tolist(), answers.tolist()) == ([0, 3, 6, 5, 8, 11], [1, 0, 1, 1, 0, 0])
    monkeypatch.setattr("halflabel.decide.pooling.MIN_KNOWN", 4)
    values, answers = pool_entries(LABELS, np.array([0, 2]), VALUES)
    assert (values.tolist(), answers.tolist()) == ([0, 3, 6, 1, 7, 10, 5, 8, 11], [1, 0, 1, 0, 1, 0, 1, 0, 0])
    monkeypatch.setattr("halflabel.decide.pooling._POOLED", 4)
    assert pool_entries(LABELS, np.array([0, 1, 2]), VALUES)[0].tolist() == [0, 1, 5]  # every third of nine


@pytest.mark.parametrize("together", [2_000_000, 4])
def test_each_label_is_fitted_on_its_own_entries_or_on_those_of_its_group(together, monkeypatch):
    monkeypatch.setattr("halflabel.decide.pooling._COLUMN_ENTRIES", together)
    monkeypatch.setattr("halflabel.decide.pooling.MIN_KNOWN", 1)
    assert [label for label, _ in known_entries(np.array([2, 0]), LABELS, VALUES)] == [2, 0]
    values = np.where(LABELS < 0, np.nan, VALUES)
    fitted, pooled = fit_labels(lambda v, y: (v.sum(), y.sum()), LABELS, [np.array([0, 2])], values)
    assert fitted.tolist() == [[33, 18, 33], [3, 1, 3]]
    assert pooled.tolist() == [True, False, True]
