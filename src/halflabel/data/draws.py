"""Random draws that follow from a seed alone, whatever was drawn before, in whichever process."""

import contextlib
import random
import threading
from collections.abc import Iterator

import numpy as np
import torch
import xxhash

_DRAWING = threading.Lock()


def draw_seed(seed: int, turn: int, what: int | str) -> int:
    """Return the seed of the draws for one image, 32 bits.

    It follows from its arguments alone, so that the draws do not depend on the order, on the folder, on the split, or
    on how many processes draw.

    Args:
        seed: Of the run.
        turn: The epoch, or the number of the view.
        what: The image: its name or its place in the data set.
    """
    return xxhash.xxh32_intdigest(f"{seed}|{turn}|{what}".encode())


@contextlib.contextmanager
def drawing(seed: int) -> Iterator[None]:
    """Seed the generators that transforms draw from, one thread at a time, and put them back as they were."""
    with _DRAWING:
        before = random.getstate(), np.random.get_state(), torch.default_generator.get_state()  # noqa: NPY002
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which would reach for the accelerator too
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])  # noqa: NPY002
            torch.default_generator.set_state(before[2])
