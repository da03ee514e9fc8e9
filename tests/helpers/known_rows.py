"""Random scores and labels, and what another library measures on each label's known rows."""

import math

import numpy as np


def random_case(seed, rows, columns, levels, dtype=np.float64):
    """Scores in 0..1 and labels; few levels: many ties."""
    rng = np.random.default_rng(seed)
    scores = (rng.integers(0, levels + 1, (rows, columns)) / levels).astype(dtype)
    return scores, rng.choice([0, 1, -100, -101], (rows, columns), p=rng.dirichlet([1, 1, 0.5, 0.5]))


def of_known_rows(metric, scores, labels, both=False):
    """metric(answers, scores) of each label; NaN where nothing is known or, if it needs both, an answer is missing."""
    out = []
    for y, p in zip(np.asarray(labels).T, np.asarray(scores).T, strict=True):
        known = y >= 0
        defined = {0, 1} <= set(y[known].tolist()) if both else known.any()
        out.append(metric(y[known], p[known]) if defined else math.nan)
    return np.array(out)
