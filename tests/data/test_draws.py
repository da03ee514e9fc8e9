import random

import numpy as np
import torch

from halflabel.data.pixels import draw_seed, drawing


def draw():
    return random.random(), np.random.random(), float(torch.rand(()))  # noqa: NPY002


def test_what_is_drawn_follows_from_the_seed_and_leaves_no_trace():
    torch.manual_seed(1)
    random.seed(2)
    np.random.seed(3)  # noqa: NPY002
    expected = draw()
    torch.manual_seed(1)
    random.seed(2)
    np.random.seed(3)  # noqa: NPY002
    with drawing(7):
        first = draw()
    assert draw() == expected
    with drawing(7):
        assert draw() == first
    with drawing(8):
        assert all(one != other for one, other in zip(draw(), first, strict=True))


def test_every_seed_turn_and_image_has_a_seed_of_its_own():
    seeds = {draw_seed(seed, turn, what) for seed in range(5) for turn in range(5) for what in (*range(30), "a", "b")}
    assert len(seeds) == 5 * 5 * 32
    assert all(0 <= seed < 2**32 for seed in seeds)
