import itertools

import numpy as np
import pytest

from halflabel.studies.label_groups import MOST_EXACT, suggest_groups, total_worth


def symmetric(count, seed):
    worth = np.random.default_rng(seed).normal(size=(count, count)).round(1)
    return (worth + worth.T) / 2


def all_assignments(count):
    for marks in itertools.product(range(count), repeat=count):
        groups = [[label for label in range(count) if marks[label] == mark] for mark in range(count)]
        yield [group for group in groups if group]


@pytest.mark.parametrize("seed", range(5))
def test_few_labels_are_grouped_as_well_as_can_be(seed):
    worth = symmetric(5, seed)
    best = max(total_worth(worth, groups) for groups in all_assignments(5))
    assert total_worth(worth, suggest_groups(worth)) == pytest.approx(best)


def test_total_worth_counts_each_pair_within_a_group_once():
    worth = symmetric(4, 0)
    assert total_worth(worth, [[0, 2, 3], [1]]) == pytest.approx(worth[0, 2] + worth[0, 3] + worth[2, 3])


@pytest.mark.parametrize("count", [4, MOST_EXACT + 6])
def test_without_a_conflict_all_stay_together(count):
    assert suggest_groups(np.zeros((count, count))) == [list(range(count))]


@pytest.mark.parametrize("size", [2, 7])
def test_two_camps_that_conflict_are_parted(size):
    camp = np.repeat([0, 1], size)
    worth = np.where(camp[:, None] == camp, 0.5, -0.5)
    assert suggest_groups(worth) == [list(range(size)), list(range(size, 2 * size))]


def test_one_label_against_all_others_is_alone_also_among_many():
    worth = np.zeros((12, 12))
    worth[3], worth[:, 3] = -1, -1
    assert [3] in suggest_groups(worth)
    assert len(suggest_groups(worth)) == 2
