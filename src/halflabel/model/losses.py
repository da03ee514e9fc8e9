"""The losses per entry; a new one is a function and a record in `LOSSES`.

A loss takes, before arguments of its own,

- logits: z, shape (batch, num_labels), with p = sigmoid(z);
- targets: y, same shape, 0..1; those of a loss that uses unknown entries also `IGNORE_INDEX`;
- pos_weight: w, the factor of the positive term, shape (num_labels,); None: 1;
- epoch, if it depends on it: how many epochs are done;

and returns the losses of the entries, shape (batch, num_labels), unreduced. `objective.masked_loss` masks, weights,
sums and divides. No loss takes the log of a rounded probability, so values and gradients stay finite and a confidently
wrong entry keeps a gradient.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import FLAG, HalflabelError, Kind, check_arguments, did_you_mean, is_own, list_of, missing_part, number
from .labels import IGNORE_INDEX

TANGENT_START = 12.0
"""From this logit on a clipped negative term of `asl` goes on along its tangent, so that it keeps a gradient."""

_GIVEN_ELSEWHERE = ("logits", "targets", "pos_weight", "epoch")


def bce(logits: Tensor, targets: Tensor, pos_weight: Tensor | None = None, label_smoothing: float = 0.0) -> Tensor:
    """Binary cross-entropy: -(w y log p + (1 - y) log(1 - p)).

    Own arguments:
        label_smoothing: s in [0, 1): the target becomes (1 - s) y + s / 2.
    """
    if label_smoothing:
        targets = targets * (1 - label_smoothing) + label_smoothing / 2
    return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=pos_weight, reduction="none")


def focal(
    logits: Tensor,
    targets: Tensor,
    pos_weight: Tensor | None = None,
    gamma: float = 2.0,
    alpha: float | None = None,
) -> Tensor:
    """Focal loss: -(a w y (1-p)^g log p + (1-a) (1-y) p^g log(1-p)).

    From Lin et al. 2017, "Focal Loss for Dense Object Detection".

    Own arguments:
        gamma: g, at least 0; 0 gives binary cross-entropy.
        alpha: a in 0..1, the weight of positives against 1 - a of negatives; None: both 1.
    """
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

    Own arguments:
        gamma_pos: g+, at least 0.
        gamma_neg: g-, at least 0.
        clip: c in [0, 1), the probability below which a negative costs nothing.
        detach_focus: No gradient through (1-p)^g+ and p_m^g-.
    """
    log_p, log_not_p = F.logsigmoid(logits), F.logsigmoid(-logits)
    focus = torch.exp(gamma_pos * log_not_p)
    yes = targets if pos_weight is None else targets * pos_weight
    positive = -(focus.detach() if detach_focus else focus) * log_p
    if clip:
        negative = _clipped_negative(logits, gamma_neg, clip, detach_focus)
    else:
        focus = torch.exp(gamma_neg * log_p)
        negative = -(focus.detach() if detach_focus else focus) * log_not_p
    return yes * positive + (1 - targets) * negative


def _clipped_negative(logits: Tensor, gamma: float, clip: float, detach_focus: bool) -> Tensor:
    bounded = logits.clamp(max=TANGENT_START)
    clipped = (torch.sigmoid(bounded) - clip).clamp(min=0)
    if gamma >= 1:
        focus = clipped**gamma
    else:  # a power below 1 has no derivative at 0: keep 0 out of it
        counted = clipped > 0
        focus = torch.where(counted, torch.where(counted, clipped, 1) ** gamma, 0)
    term = -(focus.detach() if detach_focus else focus) * torch.log1p(-clipped)
    # d/dz of p_m^g (-log(1-p_m)) is p (1-p) (g p_m^(g-1) (-log(1-p_m)) + p_m^g / (1-p_m)); here at the tangent's start.
    p = 1 / (1 + math.exp(-TANGENT_START))
    top = max(p - clip, 0.0)
    through_focus = 0.0 if detach_focus or not top else gamma * top ** (gamma - 1) * -math.log1p(-top)
    slope = p * (1 - p) * (through_focus + top**gamma / (1 - top)) if top else 0.0
    return term + slope * (logits - bounded)


def wan(logits: Tensor, targets: Tensor, pos_weight: Tensor | None = None, weight: float | None = None) -> Tensor:
    """Weak assume negative: an unknown entry costs v (-log(1-p)).

    From Cole et al. 2021, "Multi-Label Learning from Single Positive Labels".

    Own arguments:
        weight: v, at least 0; None: 1 / (num_labels - 1), and 1 for a single label.
    """
    unknown, assumed = _assume_negative(targets)
    if weight is None:
        weight = 1 / max(logits.shape[1] - 1, 1)
    return torch.where(unknown, weight, 1.0) * bce(logits, assumed, pos_weight)


def em(logits: Tensor, targets: Tensor, pos_weight: Tensor | None = None, alpha: float = 0.1) -> Tensor:
    """Entropy maximisation: an unknown entry costs -a H(p), H(p) = -(p log p + (1-p) log(1-p)).

    From Zhou et al. 2022, "Acknowledging the Unknown for Multi-Label Learning with Single Positive Labels" (its
    entropy-maximisation loss; the asymmetric pseudo-labels are not part of it). A value is at least -a log 2.

    Own arguments:
        alpha: a, at least 0.
    """
    unknown, assumed = _assume_negative(targets)
    p = logits.sigmoid()
    negative_entropy = p * F.logsigmoid(logits) + (1 - p) * F.logsigmoid(-logits)
    return torch.where(unknown, alpha * negative_entropy, bce(logits, assumed, pos_weight))


def splc(
    logits: Tensor, targets: Tensor, pos_weight: Tensor | None = None, epoch: int = 0, threshold: float = 0.6
) -> Tensor:
    """Self-paced correction: unknown as negative; from the second epoch on, unknown with p > t as positive.

    From Zhang et al. 2021, "Simple and Robust Loss Design for Multi-Label Learning with Missing Labels", over binary
    cross-entropy; meant for data where only positives were annotated.

    Own arguments:
        threshold: t in 0..1.
    """
    unknown, assumed = _assume_negative(targets)
    if epoch >= 1:
        assumed = torch.where(unknown & (logits.detach().sigmoid() > threshold), 1, assumed)
    return bce(logits, assumed, pos_weight)


def ll_r(
    logits: Tensor, targets: Tensor, pos_weight: Tensor | None = None, epoch: int = 0, delta: float = 0.002
) -> Tensor:
    """Large-loss rejection: unknown as negative, without the k unknown entries whose loss is the largest.

    From Kim et al. 2022, "Large Loss Matters in Weakly Supervised Multi-Label Classification". k is the share
    delta * epoch of the batch's unknown entries, rounded up, so it ranks within one micro-batch: with accumulated
    gradients each piece drops its own.

    Own arguments:
        delta: Growth of the share per epoch, in 0..1 (the paper's 0.2 %).
    """
    unknown, assumed = _assume_negative(targets)
    large = _largest_share(logits, unknown, min(delta * epoch, 1.0))
    return torch.where(large, 0, bce(logits, assumed, pos_weight))


def ll_ct(
    logits: Tensor, targets: Tensor, pos_weight: Tensor | None = None, epoch: int = 0, delta: float = 0.002
) -> Tensor:
    """Large-loss temporary correction: like `ll_r`, but the k entries count as positive for this step.

    From Kim et al. 2022; the arguments are those of `ll_r`.
    """
    unknown, assumed = _assume_negative(targets)
    large = _largest_share(logits, unknown, min(delta * epoch, 1.0))
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

    Own arguments:
        gamma_pos: Focusing of known positives, at least 0; see `asl`.
        gamma_neg: Focusing of known negatives.
        gamma_unknown: Focusing of unknown entries; None: gamma_neg.
        clip: Probability margin of the negative term, in [0, 1).
        prior: Share of images that have the label, num_labels values in 0..1; None: no label is ignored by its prior.
        prior_threshold: The prior above which a label's unknown entries are ignored.
        topk: Unknown entries ignored per image, on average over the batch.
        detach_focus: No gradient through the focusing weights.
    """
    unknown, assumed = _assume_negative(targets)
    entries = asl(logits, assumed, pos_weight, gamma_pos, gamma_neg, clip, detach_focus)
    if gamma_unknown is not None and gamma_unknown != gamma_neg:
        other = asl(logits, assumed, pos_weight, gamma_pos, gamma_unknown, clip, detach_focus)
        entries = torch.where(unknown, other, entries)
    ignored = _largest(logits, unknown, topk * len(logits))
    if prior is not None:
        common = torch.tensor(prior, device=logits.device) > prior_threshold
        ignored = ignored | (unknown & common)
    return torch.where(ignored, 0, entries)


def _assume_negative(targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return where targets are unknown, and the targets with 0 in place of what is not known."""
    return targets == IGNORE_INDEX, targets.clamp(min=0)


def _largest_share(logits: Tensor, among: Tensor, share: float) -> Tensor:
    """Return a mask of a share, rounded up, of the largest logits among some entries."""
    count = torch.ceil(among.sum().cpu().double() * share)  # not every device has float64
    return _largest(logits, among, math.ceil(share * among.numel()), count.to(logits.device, torch.int64))


def _largest(logits: Tensor, among: Tensor, most: int, count: Tensor | None = None) -> Tensor:
    """Return a mask of the largest logits among some entries: `count` of them, or where it is not given `most`.

    Where there are no more all are masked. The loss of an entry taken as negative grows with its logit, so the largest
    logits are the largest losses. Nothing that is done depends on values, so that it can be compiled as a whole.
    """
    candidates = logits.detach().masked_fill(~among, -torch.inf).flatten()
    places = candidates.topk(min(most, len(candidates))).indices
    chosen = torch.zeros_like(among).flatten()
    chosen[places] = True if count is None else torch.arange(len(places), device=logits.device) < count
    return chosen.view_as(among) & among


@dataclass(frozen=True)
class Loss:
    """A loss, and what the rest of the package needs to know of it; a new one is a function and such a record.

    Attributes:
        function: `(logits, targets, pos_weight, ...) -> (batch, num_labels)`, unreduced. Of a loss that uses unknown
            entries targets may be `IGNORE_INDEX`, and what it returns for `UNCERTAIN` does not matter.
        arguments: Its own arguments, and what each may be; None: any that the function takes.
        uses_unknown: Unknown entries take part; of other losses they change nothing.
        uses_epoch: It takes `epoch`, the number of epochs that are done.
        assumes_negative: It takes most unknown entries for "no", so that a head best starts from such a share of yes.
    """

    function: Callable[..., Tensor]
    arguments: Mapping[str, Kind] | None = None
    uses_unknown: bool = False
    uses_epoch: bool = False
    assumes_negative: bool = False

    def check(self, name: str, given: Mapping[str, Any], num_labels: int | None = None) -> None:
        """Refuse arguments that are not its own; `name` is what messages call it.

        Raises:
            HalflabelError: It names the value and the allowed ones.
        """
        if not given:  # in a compiled graph no signature can be read
            return
        taken = self.arguments
        if taken is None:
            anything = Kind("anything", lambda value: True)
            names = inspect.signature(self.function).parameters
            taken = {key: anything for key in names if key not in _GIVEN_ELSEWHERE}
        check_arguments(f"loss {name!r}", given, taken)
        prior = given.get("prior")
        if prior is not None and num_labels not in (None, len(prior)):
            raise HalflabelError(f"loss {name!r}: prior is {prior!r}, expected a list of {num_labels} numbers")


_FOCUS, _SHARE = number(0), number(0, 1)
_CLIP = number(0, 1, below=True)
_SELECTIVE = {
    "gamma_pos": _FOCUS, "gamma_neg": _FOCUS, "gamma_unknown": _FOCUS.or_none(), "clip": _CLIP,
    "prior": list_of(_SHARE, "numbers from 0 to 1").or_none(), "prior_threshold": _SHARE, "topk": number(0, whole=True),
    "detach_focus": FLAG,
}  # fmt: skip
LOSSES: dict[str, Loss] = {
    "bce": Loss(bce, {"label_smoothing": _CLIP}),
    "focal": Loss(focal, {"gamma": _FOCUS, "alpha": _SHARE.or_none()}),
    "asl": Loss(asl, {"gamma_pos": _FOCUS, "gamma_neg": _FOCUS, "clip": _CLIP, "detach_focus": FLAG}),
    "selective": Loss(selective, _SELECTIVE, uses_unknown=True, assumes_negative=True),
    "ll_r": Loss(ll_r, {"delta": _SHARE}, uses_unknown=True, uses_epoch=True, assumes_negative=True),
    "ll_ct": Loss(ll_ct, {"delta": _SHARE}, uses_unknown=True, uses_epoch=True, assumes_negative=True),
    "splc": Loss(splc, {"threshold": _SHARE}, uses_unknown=True, uses_epoch=True, assumes_negative=True),
    "em": Loss(em, {"alpha": _SHARE}, uses_unknown=True),
    "wan": Loss(wan, {"weight": _FOCUS.or_none()}, uses_unknown=True, assumes_negative=True),
}


def find_loss(loss: str | Loss | Callable[..., Tensor]) -> Loss:
    """Return a loss by its key in `LOSSES`, or a function's record.

    Raises:
        HalflabelError: If there is none of that name; the nearest are shown.
    """
    if isinstance(loss, Loss):
        return loss
    if callable(loss):
        return Loss(loss)
    if is_own(loss):
        raise missing_part("loss", loss)
    if loss not in LOSSES:
        raise HalflabelError(f"unknown loss {loss!r}; it is one of {', '.join(LOSSES)}{did_you_mean(loss, LOSSES)}")
    return LOSSES[loss]
