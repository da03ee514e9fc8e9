"""What two copies of one network may differ by.

Weights that lie at other addresses are multiplied by other kernels on some processors, and these round differently. So
the weights of a copy are compared exactly, and what it computes within a few roundings of float32.
"""

import torch

ROUNDINGS = 50 * torch.finfo(torch.float32).eps  # 6e-6 of the largest number


def assert_same_weights(one, other):
    """Every parameter and buffer is the same, bit for bit."""
    mine, theirs = one.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        assert torch.equal(tensor, theirs[name]), name


def assert_computed_alike(actual, expected):
    """Two tensors differ by rounding alone."""
    torch.testing.assert_close(actual, expected, rtol=ROUNDINGS, atol=ROUNDINGS * max(1.0, expected.abs().max().item()))
