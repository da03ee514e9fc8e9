"""Losses per entry that also learn from unknown labels.

Each takes logits z and targets of shape (batch, num_labels), where a target is 0..1 if known and `IGNORE_INDEX` if
unknown, and returns the unreduced losses in that shape. A known entry always costs its binary cross-entropy (or
asymmetric loss): what these losses assume, reject or flip are unknown entries only, never a known negative.
An uncertain entry (`UNCERTAIN`) takes no part; `losses.masked_loss` gives it the weight 0.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .known_losses import asl, bce
from .labels import IGNORE_INDEX


def _split(targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return where targets are unknown, and the targets with 0 in place of what is not known."""
    return targets == IGNORE_INDEX, targets.clamp(min=0)


def wan(logits: Tensor, targets: Tensor, pos_weight: Tensor | None = None, weight: float | None = None) -> Tensor:
    """Weak assume negative: an unknown entry costs v (-log(1-p)) (Cole et al. 2021, "Multi-Label Learning from Single Positive Labels").

    Args:
        logits: Shape (batch, num_labels).
        targets: 0..1, or `IGNORE_INDEX`; same shape.
        pos_weight: Weight of the positive term, shape (num_labels,); None: 1.
        weight: v, at least 0; None: 1 / (num_labels - 1), and 1 for a single label.
    """  # noqa: E501
    unknown, assumed = _split(targets)
    if weight is None:
        weight = 1 / max(logits.shape[1] - 1, 1)
    return torch.where(unknown, weight, 1.0) * bce(logits, assumed, pos_weight)


def em(logits: Tensor, targets: Tensor, pos_weight: Tensor | None = None, alpha: float = 0.1) -> Tensor:
    """Entropy maximisation: an unknown entry costs -a H(p), H(p) = -(p log p + (1-p) log(1-p)).

    From Zhou et al. 2022, "Acknowledging the Unknown for Multi-Label Learning with Single Positive Labels" (its
    entropy-maximisation loss; the asymmetric pseudo-labels are not part of it). A value is at least -a log 2.

    Args:
        logits: Shape (batch, num_labels).
        targets: 0..1, or `IGNORE_INDEX`; same shape.
        pos_weight: Weight of the positive term, shape (num_labels,); None: 1.
        alpha: a, at least 0.
    """
    unknown, assumed = _split(targets)
    p = logits.sigmoid()
    negative_entropy = p * F.logsigmoid(logits) + (1 - p) * F.logsigmoid(-logits)
    return torch.where(unknown, alpha * negative_entropy, bce(logits, assumed, pos_weight))


def splc(
    logits: Tensor, targets: Tensor, pos_weight: Tensor | None = None, epoch: int = 0, threshold: float = 0.6
) -> Tensor:
    """Self-paced correction: unknown as negative; from the second epoch on, unknown with p > t as positive.

    From Zhang et al. 2021, "Simple and Robust Loss Design for Multi-Label Learning with Missing Labels", over binary
    cross-entropy; meant for data where only positives were annotated.

    Args:
        logits: Shape (batch, num_labels).
        targets: 0..1, or `IGNORE_INDEX`; same shape.
        pos_weight: Weight of the positive term, shape (num_labels,); None: 1.
        epoch: Epochs that are done.
        threshold: t in 0..1.
    """
    unknown, assumed = _split(targets)
    if epoch >= 1:
        taken = unknown & (logits.detach().sigmoid() > threshold)
        assumed = torch.where(taken, 1, assumed)
    return bce(logits, assumed, pos_weight)


def ll_r(
    logits: Tensor, targets: Tensor, pos_weight: Tensor | None = None, epoch: int = 0, delta: float = 0.002
) -> Tensor:
    """Large-loss rejection: unknown as negative, without the k unknown entries whose loss is the largest.

    From Kim et al. 2022, "Large Loss Matters in Weakly Supervised Multi-Label Classification". k is the share
    delta * epoch of the batch's unknown entries, rounded up, so it ranks within one micro-batch: with accumulated
    gradients each piece drops its own.

    Args:
        logits: Shape (batch, num_labels).
        targets: 0..1, or `IGNORE_INDEX`; same shape.
        pos_weight: Weight of the positive term, shape (num_labels,); None: 1.
        epoch: Epochs that are done.
        delta: Growth of the share per epoch, in 0..1 (the paper's 0.2 %).
    """
    unknown, assumed = _split(targets)
    large = _largest(logits, unknown, math.ceil(min(delta * epoch, 1.0) * int(unknown.sum())))
    return torch.where(large, 0, bce(logits, assumed, pos_weight))


def ll_ct(
    logits: Tensor, targets: Tensor, pos_weight: Tensor | None = None, epoch: int = 0, delta: float = 0.002
) -> Tensor:
    """Large-loss temporary correction: like `ll_r`, but the k entries count as positive for this step.

    From Kim et al. 2022; the arguments are those of `ll_r`.
    """
    unknown, assumed = _split(targets)
    large = _largest(logits, unknown, math.ceil(min(delta * epoch, 1.0) * int(unknown.sum())))
    return bce(logits, torch.where(large, 1, assumed), pos_weight)


def selective(
    logits: Tensor,
    targets: Tensor,
    pos_weight: Tensor | None = None,
    gamma_pos: float = 0.0,
    gamma_neg: float = 1.0,
    gamma_unknown: float | None = None,
    clip: float = 0.0,
    prior: Sequence[float] | None = None,
    prior_threshold: float = 0.05,
    topk: int = 5,
    detach_focus: bool = False,
) -> Tensor:
    """Class-aware selective loss over the partial asymmetric loss.

    From Ben-Baruch et al. 2022, "Multi-label Classification with Partial Annotations using Class-aware Selective
    Loss". Unknown counts as negative, except that it is ignored for labels whose prior exceeds a threshold, and for
    the topk * batch unknown entries that look most likely. It ranks within one micro-batch.

    Args:
        logits: Shape (batch, num_labels).
        targets: 0..1, or `IGNORE_INDEX`; same shape.
        pos_weight: Weight of the positive term, shape (num_labels,); None: 1.
        gamma_pos: Focusing of known positives, at least 0; see `known_losses.asl`.
        gamma_neg: Focusing of known negatives.
        gamma_unknown: Focusing of unknown entries; None: gamma_neg.
        clip: Probability margin of the negative term, in [0, 1).
        prior: Share of images that have the label, num_labels values in 0..1; None: no label is ignored by its prior.
        prior_threshold: The prior above which a label's unknown entries are ignored.
        topk: Unknown entries ignored per image, on average over the batch.
        detach_focus: No gradient through the focusing weights.
    """
    unknown, assumed = _split(targets)
    entries = asl(logits, assumed, pos_weight, gamma_pos, gamma_neg, clip, detach_focus)
    if gamma_unknown is not None and gamma_unknown != gamma_neg:
        other = asl(logits, assumed, pos_weight, gamma_pos, gamma_unknown, clip, detach_focus)
        entries = torch.where(unknown, other, entries)
    ignored = _largest(logits, unknown, topk * len(logits))
    if prior is not None:
        common = torch.tensor(prior, device=logits.device) > prior_threshold
        ignored = ignored | (unknown & common)
    return torch.where(ignored, 0, entries)


def _largest(logits: Tensor, among: Tensor, k: int) -> Tensor:
    """Return a mask of the k largest logits among some entries, or of all these where there are no more than k.

    The loss of an entry taken as negative grows with its logit, so the largest logits are the largest losses.
    """
    k = min(k, int(among.sum()))
    if not k:
        return torch.zeros_like(among)
    candidates = logits.detach().masked_fill(~among, -torch.inf).flatten()
    chosen = torch.zeros_like(among).flatten()
    chosen[candidates.topk(k).indices] = True
    return chosen.view_as(among) & among
