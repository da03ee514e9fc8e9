"""Which labels to train together: groups that keep what helps, part what conflicts, and are as few as that allows."""

from collections.abc import Iterator, Sequence

import numpy as np

from ..metrics.entries import Floats

MOST_EXACT = 8
"""Up to so many labels all partitions are looked at: 4,140 of 8 labels, but 115,975 of 10."""

Groups = list[list[int]]


def suggest_groups(worth: Floats) -> Groups:
    """Partition labels so that the worth of the pairs within groups is as large as can be; the fewest groups of those.

    Args:
        worth: What training two labels together is worth, symmetric, (num_labels, num_labels); 0 where nothing is
            known. The diagonal does not count.

    Returns:
        Groups of columns, in order. Of at most `MOST_EXACT` labels the best; of more, groups are joined as long as
        that takes nothing away, those first whose pairs are worth most on average.
    """
    apart = [[label] for label in range(len(worth))]
    if len(worth) <= MOST_EXACT:
        return max(_partitions(len(worth)), key=lambda groups: (round(total_worth(worth, groups), 12), -len(groups)))
    return sorted(sorted(group) for group in _join(worth, apart))


def total_worth(worth: Floats, groups: Sequence[Sequence[int]]) -> float:
    """Add up the worth of all pairs within groups."""
    return float(sum(np.triu(worth[np.ix_(group, group)], 1).sum() for group in groups))


def _partitions(count: int) -> Iterator[Groups]:
    if not count:
        yield []
        return
    for groups in _partitions(count - 1):
        for place in range(len(groups)):
            yield [[*group, count - 1] if i == place else group for i, group in enumerate(groups)]
        yield [*groups, [count - 1]]


def _join(worth: Floats, groups: Groups) -> Groups:
    between = worth.copy()
    np.fill_diagonal(between, -np.inf)
    sizes = np.ones(len(groups))
    while len(groups) > 1:
        mean = between / np.outer(sizes, sizes)
        a, b = sorted(divmod(int(mean.argmax()), len(groups)))
        if mean[a, b] < 0:
            break
        between[a] += between[b]
        between[:, a] = between[a]
        between[a, a] = -np.inf
        between = np.delete(np.delete(between, b, axis=0), b, axis=1)
        sizes[a] += sizes[b]
        sizes = np.delete(sizes, b)
        groups = [[*groups[a], *groups[b]] if i == a else group for i, group in enumerate(groups) if i != b]
    return groups
