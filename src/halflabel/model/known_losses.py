"""Losses per entry that look at known labels only: binary cross-entropy, focal, asymmetric.

Each takes logits z of any real value and targets in 0..1, both of shape (batch, num_labels), and returns the
unreduced losses in the same shape. `losses.masked_loss` masks, weights and divides. Everything goes through
`logsigmoid`, never through the log of a rounded probability, so values and gradients stay finite and a confidently
wrong entry keeps a gradient.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

TANGENT_START = 12.0
"""From this logit on a clipped negative term goes on along its tangent; see `clipped_slope`."""


def bce(logits: Tensor, targets: Tensor, pos_weight: Tensor | None = None, label_smoothing: float = 0.0) -> Tensor:
    """Binary cross-entropy: -(w y log p + (1 - y) log(1 - p)) with p = sigmoid(z).

    Args:
        logits: Shape (batch, num_labels).
        targets: 0..1, same shape.
        pos_weight: w, shape (num_labels,); None: 1.
        label_smoothing: s in [0, 1): the target becomes (1 - s) y + s / 2.
    """
    if label_smoothing:
        targets = targets * (1 - label_smoothing) + label_smoothing / 2
    log_p = F.logsigmoid(logits)
    negative = 1 - targets
    positive = targets if pos_weight is None else targets * pos_weight
    # log(1 - p) = log p - z, so one logarithm serves both terms.
    return negative * logits - (positive + negative) * log_p


def focal(
    logits: Tensor,
    targets: Tensor,
    pos_weight: Tensor | None = None,
    gamma: float = 2.0,
    alpha: float | None = None,
) -> Tensor:
    """Focal loss: -(a w y (1-p)^g log p + (1-a) (1-y) p^g log(1-p)) (Lin et al. 2017, "Focal Loss for Dense Object Detection").

    Args:
        logits: Shape (batch, num_labels).
        targets: 0..1, same shape.
        pos_weight: w, shape (num_labels,); None: 1.
        gamma: g, at least 0; 0 gives binary cross-entropy.
        alpha: a in 0..1, the weight of positives against 1 - a of negatives; None: both 1.
    """  # noqa: E501
    log_p, log_not_p = F.logsigmoid(logits), F.logsigmoid(-logits)
    positive, negative = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
    yes = targets if pos_weight is None else targets * pos_weight
    easy_positive = torch.exp(gamma * log_not_p) * log_p
    easy_negative = torch.exp(gamma * log_p) * log_not_p
    return -(positive * yes * easy_positive + negative * (1 - targets) * easy_negative)


def asl(
    logits: Tensor,
    targets: Tensor,
    pos_weight: Tensor | None = None,
    gamma_pos: float = 1.0,
    gamma_neg: float = 4.0,
    clip: float = 0.05,
    detach_focus: bool = False,
) -> Tensor:
    """Asymmetric loss: -(w y (1-p)^g+ log p + (1-y) p_m^g- log(1-p_m)), p_m = max(p - c, 0).

    From Ridnik et al. 2021, "Asymmetric Loss For Multi-Label Classification". The clipped negative term is flat for a
    confidently wrong entry; beyond logit 12 it goes on along its tangent, so that such an entry still has a gradient.

    Args:
        logits: Shape (batch, num_labels).
        targets: 0..1, same shape.
        pos_weight: w, shape (num_labels,); None: 1.
        gamma_pos: g+, at least 0.
        gamma_neg: g-, at least 0.
        clip: c in [0, 1), the probability below which a negative costs nothing.
        detach_focus: No gradient through (1-p)^g+ and p_m^g-.
    """
    log_p, log_not_p = F.logsigmoid(logits), F.logsigmoid(-logits)
    focus = torch.exp(gamma_pos * log_not_p)
    yes = targets if pos_weight is None else targets * pos_weight
    positive = -(focus.detach() if detach_focus else focus) * log_p
    negative = _negative_term(logits, log_p, log_not_p, gamma_neg, clip, detach_focus)
    return yes * positive + (1 - targets) * negative


def _negative_term(
    logits: Tensor, log_p: Tensor, log_not_p: Tensor, gamma: float, clip: float, detach_focus: bool
) -> Tensor:
    if not clip:
        focus = torch.exp(gamma * log_p)
        return -(focus.detach() if detach_focus else focus) * log_not_p
    bounded = logits.clamp(max=TANGENT_START)
    clipped = (torch.sigmoid(bounded) - clip).clamp(min=0)
    counted = clipped > 0
    # A power below 1 has no derivative at 0: keep 0 out of it.
    focus = torch.where(counted, torch.where(counted, clipped, 1) ** gamma, 0)
    term = -(focus.detach() if detach_focus else focus) * torch.log1p(-clipped)
    return term + clipped_slope(gamma, clip, detach_focus) * (logits - bounded)


def clipped_slope(gamma: float, clip: float, detach_focus: bool) -> float:
    """Return the slope of the clipped negative term at logit 12, where its tangent takes over.

    d/dz of p_m^g (-log(1-p_m)) is p (1-p) (g p_m^(g-1) (-log(1-p_m)) + p_m^g / (1-p_m)); p (1-p) vanishes as z grows.
    """
    p = 1 / (1 + math.exp(-TANGENT_START))
    clipped = p - clip
    if clipped <= 0:
        return 0.0
    focus = 0.0 if detach_focus else gamma * clipped ** (gamma - 1) * -math.log1p(-clipped)
    return float(p * (1 - p) * (focus + clipped**gamma / (1 - clipped)))
