"""One narrow layer trained for all labels at once, against one for each label alone: how wide must a shared one be?

The layer is the trunk of `affinity`, trained with the heads on it. A ridge on both makes this multi-task feature
learning (Argyriou, Evgeniou and Pontil 2008, "Convex multi-task feature learning").
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from ..metrics.entries import Floats
from .affinity import Trunk, fit_heads, mean_known_loss

_STEPS, _RATE, _RIDGE = 150, 0.02, 0.1


def train_adapters(trunk: Trunk, labels: NDArray[Any], joint: bool) -> Floats:
    """Train a trunk, at first as it is given, and heads on it; the loss of a label is the mean over its known entries.

    Args:
        trunk: Of n images.
        labels: Shape (n, num_labels): 1, 0, or below 0 for unknown entries.
        joint: One trunk for all labels; False: one for each, with the same steps from the same start.

    Returns:
        Each label's mean cross-entropy over the known entries it was trained on, (num_labels,); NaN without any.
    """
    known = labels >= 0
    answers, share = np.where(known, labels, 0), known / np.maximum(known.sum(axis=0), 1)
    heads = fit_heads(trunk, labels)
    layers = np.zeros((1 if joint else labels.shape[1], trunk.addable.shape[1], trunk.given.shape[1]))
    parts = [layers, heads.weight.T.copy(), heads.bias.copy()]
    first, second = ([np.zeros_like(part) for part in parts] for _ in range(2))
    for step in range(1, _STEPS + 1):
        for part, slope, mean, square in zip(parts, _slopes(trunk, answers, share, parts), first, second, strict=True):
            mean += 0.1 * (slope - mean)  # Adam (Kingma and Ba 2015) on all images at once
            square += 0.001 * (slope**2 - square)
            part -= _RATE * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    return mean_known_loss(_logits(trunk, parts), labels)


def _logits(trunk: Trunk, parts: list[Floats]) -> Floats:
    layers, weight, bias = parts
    added = np.matmul(layers, weight[:, :, None])[:, :, 0]  # (num_labels, rank): a layer is linear
    logits: Floats = trunk.given @ weight.T + trunk.addable @ added.T + bias
    return logits


def _slopes(trunk: Trunk, answers: NDArray[Any], share: Floats, parts: list[Floats]) -> list[Floats]:
    """Return the gradient of the loss, summed over labels, at the layers, the heads and their biases."""
    layers, weight, _ = parts
    rest = (expit(_logits(trunk, parts)) - answers) * share
    wanted = (trunk.addable.T @ rest).T
    if len(layers) == 1:
        at_layers, at_weight = (wanted.T @ weight)[None], wanted @ layers[0]
    else:
        at_layers = wanted[:, :, None] * weight[:, None, :]
        at_weight = np.matmul(wanted[:, None, :], layers)[:, 0]
    return [at_layers + _RIDGE * layers, at_weight + (trunk.given.T @ rest).T + _RIDGE * weight, rest.sum(axis=0)]
