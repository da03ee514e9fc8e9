import numpy as np
import pytest

from halflabel.studies import grouped_folds
from halflabel.studies.grouped_folds import FOLDS, draw_folds, number_groups


@pytest.fixture
def labels():
    return np.random.default_rng(0).choice([1, 0, -100], (200, 3), p=[0.15, 0.6, 0.25]).astype(np.int8)


def test_images_without_a_group_are_groups_of_their_own():
    groups = number_groups(np.array(["a", "", "b", "a", ""], dtype=object))
    assert groups[0] == groups[3]
    assert len(set(groups)) == 4
    assert groups.max() == 3


def test_no_group_is_in_two_folds_and_every_image_is_in_one(labels):
    groups = np.random.default_rng(1).integers(0, 60, 200)
    groups = np.unique(groups, return_inverse=True)[1]
    folds = draw_folds(labels, groups)
    assert set(folds) == set(range(FOLDS))
    assert all(len(set(folds[groups == group])) == 1 for group in set(groups))


def test_yes_and_no_of_each_label_are_spread_evenly(labels):
    folds = draw_folds(labels, np.arange(200))
    for column in range(3):
        for answer in (0, 1):
            counts = np.bincount(folds[labels[:, column] == answer], minlength=FOLDS)
            assert np.abs(counts - counts.mean()).max() <= 0.2 * counts.mean() + 1
    np.testing.assert_array_equal(folds, draw_folds(labels, np.arange(200)))
    assert (folds != draw_folds(labels, np.arange(200), seed=1)).any()


def test_where_stratifying_would_take_too_long_chance_shares_out_whole_groups(labels, monkeypatch):
    monkeypatch.setattr(grouped_folds, "_MOST_ENTRIES", 10)
    groups = np.repeat(np.arange(100), 2)
    folds = draw_folds(labels, groups)
    assert (folds[::2] == folds[1::2]).all()
    assert np.bincount(folds).tolist() == [40] * FOLDS
