"""The objective: `LOSSES` per entry, and the one place that masks, weights and divides.

A loss is a function `(logits, targets, pos_weight, ...) -> (batch, num_labels)`, unreduced. `masked_loss` sums it over
the entries that take part and divides by a count that depends on the labels alone, so a step gives the same update
whether it is computed at once, in pieces, or on several devices. Arithmetic is in float32 (float64 stays float64).
"""

from typing import Any, cast

import torch
from torch import Tensor

from .errors import HalflabelError
from .fused_losses import FusedLoss, Kernel, TracedBCE, asl_kernel, bce_kernel
from .labels import IGNORE_INDEX, UNCERTAIN
from .loss_arguments import EPOCH_DEPENDENT, LEARN_FROM_UNKNOWN, LOSSES, NORMALIZERS, check_loss, check_normalizer

__all__ = ["LEARN_FROM_UNKNOWN", "LOSSES", "NORMALIZERS", "check_labels", "count_items", "masked_loss", "takes_part"]


def check_labels(logits: Tensor, labels: Tensor, loss: str = "bce") -> None:
    """Refuse labels that no loss can be computed from.

    Args:
        logits: Shape (batch, num_labels).
        labels: What is said to be labels.
        loss: Those that learn from unknown entries also accept `UNCERTAIN`, which takes no part in them.

    Raises:
        HalflabelError: On a shape that differs from the logits', on integer labels, and on any value outside 0..1
            that is not `IGNORE_INDEX` (NaN included); the value is named.
    """
    _check_form(logits, labels)
    if not bool(_valid(labels, loss).all()):
        _raise_fault(labels, loss)


def _raise_fault(labels: Tensor, loss: str) -> None:
    row, column = (~_valid(labels, loss)).nonzero()[0].tolist()
    value = labels[row, column].item()
    hint = "; apply a policy to uncertain entries first" if value == UNCERTAIN else ""
    raise HalflabelError(
        f"label value {value} at row {row}, column {column} of the batch "
        f"is neither in 0..1 nor {IGNORE_INDEX} (unknown){hint}"
    )


def _valid(labels: Tensor, loss: str) -> Tensor:
    valid = ((labels >= 0) & (labels <= 1)) | (labels == IGNORE_INDEX)  # NaN fails every comparison
    return valid | (labels == UNCERTAIN) if loss in LEARN_FROM_UNKNOWN else valid


def _check_form(logits: Tensor, labels: Tensor) -> None:
    if labels.shape != logits.shape or labels.ndim != 2:
        raise HalflabelError(
            f"labels have shape {tuple(labels.shape)}, logits {tuple(logits.shape)}; "
            "both must be (batch, num_labels), and the same"
        )
    if not labels.is_floating_point():
        raise HalflabelError(
            f"labels are {labels.dtype}, expected a float tensor of 1.0, 0.0 and {float(IGNORE_INDEX)} (unknown)"
        )


def takes_part(labels: Tensor, loss: str) -> Tensor:
    """Return where an entry belongs to the loss: where it is known, or not `UNCERTAIN` if unknown ones are used too."""
    return labels != (UNCERTAIN if loss in LEARN_FROM_UNKNOWN else IGNORE_INDEX)


def count_items(labels: Tensor, loss: str = "bce") -> Tensor:
    """Count what any normalizer divides by; the counts of pieces of a step add up to those of the whole.

    Args:
        labels: Shape (batch, num_labels).
        loss: A key of `LOSSES`.

    Returns:
        int64 of shape (num_labels + 1,): per label the entries that take part, then the number of images.
    """
    if loss in LEARN_FROM_UNKNOWN:
        per_label = takes_part(labels, loss).sum(dim=0)
    else:  # 1 for a label in 0..1 and 0 for `IGNORE_INDEX`; several times faster on a CPU than to count booleans
        per_label = (labels + 1).clamp_(0, 1).sum(dim=0).long()
    return torch.cat([per_label, per_label.new_tensor([len(labels)])])


def masked_loss(
    logits: Tensor,
    labels: Tensor,
    loss: str = "bce",
    normalizer: str = "labels",
    num_items_in_batch: Tensor | int | float | None = None,
    pos_weight: Tensor | None = None,
    label_weight: Tensor | None = None,
    epoch: int = 0,
    **loss_args: Any,  # noqa: ANN401 - those of the loss
) -> Tensor:
    """Sum a loss over the entries that take part, and divide.

    With `bce`, `focal` and `asl` these are the known entries, and an unknown one changes neither the value nor any
    gradient. The other losses learn from unknown entries too; in them every entry takes part that is not `UNCERTAIN`,
    one they reject or ignore with the weight 0.

    Args:
        logits: Shape (batch, num_labels).
        labels: Same shape, float: 0..1 where known, `IGNORE_INDEX` where unknown.
        loss: A key of `LOSSES`.
        normalizer: What the sum is divided by:
            `labels`: the number of entries;
            `images`: the number of images m, the textbook (1/m) sum_i sum_j L(yhat_j, y_j);
            `tasks`: each label's mean over its entries, then the mean over the labels that have any.
        num_items_in_batch: The counts of the whole optimizer step on all devices: what `count_items` returns, summed.
            For `labels` with bce, focal or asl also the number of known entries, as the Trainer counts it by itself.
            None: this batch's own.
        pos_weight: Factor of the positive term, shape (num_labels,). The counts do not depend on it.
        label_weight: Factor of a label's loss, shape (num_labels,). The counts do not depend on it.
        epoch: Epochs that are done, for `ll_r`, `ll_ct` and `splc`.
        loss_args: Keyword arguments of the loss.

    Returns:
        A scalar. A batch in which no entry takes part gives 0 with zero gradients.

    Raises:
        HalflabelError: On an unknown loss, normalizer or argument, on labels that `check_labels` refuses, or on a
            single number for `num_items_in_batch` where other counts are needed.
    """
    check_loss(loss, loss_args, logits.shape[-1])
    check_normalizer(normalizer)
    _check_form(logits, labels)
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    labels = labels.to(logits.dtype)
    if num_items_in_batch is None and torch.compiler.is_compiling() and normalizer == "labels":
        scale = 1 / takes_part(labels, loss).sum().clamp(min=1)  # one number: compiled, it joins the loss's own loop
    else:
        counts = count_items(labels, loss) if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
        scale = _scale(counts.to(logits), loss, normalizer, logits.shape[1])
    if label_weight is not None:
        scale = scale * label_weight.to(logits)
    if loss in EPOCH_DEPENDENT:
        loss_args = {**loss_args, "epoch": epoch}
    return _sum(logits, labels, loss, scale, None if pos_weight is None else pos_weight.to(logits), loss_args)


def _sum(
    logits: Tensor, labels: Tensor, loss: str, scale: Tensor, pos_weight: Tensor | None, loss_args: dict[str, Any]
) -> Tensor:
    """Return the sum of scale * loss over the entries that take part; scale of shape (num_labels,) or ()."""
    if pos_weight is None and logits.device.type == "cpu" and not torch.compiler.is_compiling():
        kernel = _kernel(loss, loss_args)
        if kernel is not None:
            value, valid = cast(tuple[Tensor, Tensor], FusedLoss.apply(logits, labels, scale, kernel))
            if bool(valid & value.isfinite()):
                return value
    if not bool(_valid(labels, loss).all()):  # not a call of check_labels: compiled, this is one loop with the count
        _raise_fault(labels, loss)
    if loss == "bce" and pos_weight is None and torch.compiler.is_compiling():
        return cast(Tensor, TracedBCE.apply(logits, labels, scale, loss_args.get("label_smoothing", 0.0)))
    part = takes_part(labels, loss)
    if loss not in LEARN_FROM_UNKNOWN:
        # Masked before the loss as well: an infinite logit at an unknown entry must not make 0 * inf.
        logits, targets = torch.where(part, logits, 0), torch.where(part, labels, 0)
    else:
        targets = labels
    entries = torch.where(part, LOSSES[loss](logits, targets, pos_weight, **loss_args), 0)
    return (entries.sum(dim=0) * scale).sum() if scale.ndim else entries.sum() * scale


def _scale(counts: Tensor, loss: str, normalizer: str, num_labels: int) -> Tensor:
    """Return what each label's sum is multiplied by, shape (num_labels,) or ()."""
    counts = counts.reshape(-1)  # several devices in one process get theirs with a leading axis
    if counts.numel() == 1:
        if normalizer != "labels" or loss in LEARN_FROM_UNKNOWN:
            raise HalflabelError(
                f"loss {loss!r} with normalizer {normalizer!r} needs counts the stock Trainer does not make; "
                "train it with halflabel.MultiLabelTrainer"
            )
        return 1 / counts[0].clamp(min=1)
    if counts.numel() != num_labels + 1:
        raise HalflabelError(f"num_items_in_batch holds {counts.numel()} counts, expected {num_labels + 1}")
    per_label, images = counts[:-1], counts[-1]
    if normalizer == "labels":
        return 1 / per_label.sum().clamp(min=1)
    if normalizer == "images":
        return 1 / images.clamp(min=1)
    return 1 / (per_label.clamp(min=1) * (per_label > 0).sum().clamp(min=1))


def _kernel(loss: str, loss_args: dict[str, Any]) -> Kernel | None:
    """Return the fused twin of a loss, if it has one for these arguments."""
    if loss == "bce":
        return bce_kernel(**loss_args)
    if loss == "asl" and loss_args.get("gamma_neg", 4.0) >= 1:
        return asl_kernel(**loss_args)
    return None
