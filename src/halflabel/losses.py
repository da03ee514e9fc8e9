"""The objective: a loss per entry, then one place that masks, weights and divides.

A loss is a function `(logits, targets) -> (batch, num_labels)`, unreduced; `masked_loss` sums it over the known
entries and divides. All arithmetic is in float32 (float64 stays float64) through `logsigmoid`.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import HalflabelError, did_you_mean
from .labels import IGNORE_INDEX

NORMALIZERS = ("labels", "images", "tasks")


def bce(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy per entry: -(y log p + (1 - y) log(1 - p)) with p = sigmoid(logit).

    Args:
        logits: Any real number, shape (batch, num_labels).
        targets: 0..1, same shape.

    Returns:
        Shape (batch, num_labels), each at least 0; finite with a non-vanishing gradient at any finite logit.
    """
    # -(y log p + (1 - y) log(1 - p)) = (1 - y) z - log sigmoid(z), without a log of a rounded probability.
    return (1 - targets) * logits - F.logsigmoid(logits)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"bce": bce}


def check_labels(logits: Tensor, labels: Tensor) -> None:
    """Refuse labels that no loss can be computed from.

    Raises:
        HalflabelError: On a shape that differs from the logits', on integer labels, and on any value outside 0..1
            that is not `IGNORE_INDEX` (NaN included); the value is named.
    """
    if labels.shape != logits.shape:
        raise HalflabelError(f"labels have shape {tuple(labels.shape)}, logits {tuple(logits.shape)}; they must agree")
    if not labels.is_floating_point():
        raise HalflabelError(
            f"labels are {labels.dtype}, expected a float tensor of 1.0, 0.0 and {float(IGNORE_INDEX)} (unknown)"
        )
    wrong = ~(((labels >= 0) & (labels <= 1)) | (labels == IGNORE_INDEX))  # NaN fails every comparison
    if bool(wrong.any()):
        row, column = wrong.nonzero()[0].tolist()
        raise HalflabelError(
            f"label value {labels[row, column].item()} at row {row}, column {column} of the batch "
            f"is neither in 0..1 nor {IGNORE_INDEX} (unknown)"
        )


def masked_loss(
    logits: Tensor,
    labels: Tensor,
    loss: str = "bce",
    normalizer: str = "labels",
    num_items_in_batch: Tensor | int | float | None = None,
) -> Tensor:
    """Sum a loss over the known entries and divide; an unknown entry changes neither the value nor any gradient.

    Args:
        logits: Shape (batch, num_labels).
        labels: Same shape, float: 0..1 where known, `IGNORE_INDEX` where unknown.
        loss: A key of `LOSSES`.
        normalizer: What the sum is divided by:
            `labels`: the number of known entries;
            `images`: the number of images m, the textbook (1/m) sum_i sum_j L(yhat_j, y_j) over known entries;
            `tasks`: each label's mean over its known entries, then the mean over the labels that have any.
        num_items_in_batch: The number of known entries in all micro-batches of the step and on all devices, as the
            Trainer counts it; only for `labels`. None: this batch's own.

    Returns:
        A scalar of at least 0. A batch without any known entry gives 0 with zero gradients.

    Raises:
        HalflabelError: On an unknown loss or normalizer, or on labels that `check_labels` refuses.
    """
    if loss not in LOSSES:
        raise HalflabelError(f"unknown loss {loss!r}; it is one of {', '.join(LOSSES)}{did_you_mean(loss, LOSSES)}")
    check_normalizer(normalizer)
    check_labels(logits, labels)
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    known = labels != IGNORE_INDEX
    targets = torch.where(known, labels, 0).to(logits.dtype)
    # Masked before the loss as well: an infinite logit at an unknown entry must not make 0 * inf.
    entries = torch.where(known, LOSSES[loss](torch.where(known, logits, 0), targets), 0)
    if normalizer == "tasks":
        counts = known.sum(dim=0)
        per_task = entries.sum(dim=0) / counts.clamp(min=1)
        return per_task.sum() / (counts > 0).sum().clamp(min=1)
    if normalizer == "images":
        return entries.sum() / max(len(logits), 1)
    count = known.sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch, device=logits.device)
    return entries.sum() / count.clamp(min=1)


def check_normalizer(normalizer: str) -> None:
    """Refuse a normalizer that does not exist.

    Raises:
        HalflabelError: It names the allowed ones.
    """
    if normalizer not in NORMALIZERS:
        nearest = did_you_mean(normalizer, NORMALIZERS)
        raise HalflabelError(f"unknown normalizer {normalizer!r}; it is one of {', '.join(NORMALIZERS)}{nearest}")
