"""The one place that masks, weights, sums and divides a loss.

What the sum is divided by depends on the labels alone, so a step gives the same update whether it is computed at once,
in pieces, or on several devices. Arithmetic is in float32; float64 stays float64.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .errors import HalflabelError, one_of, part_name
from .labels import IGNORE_INDEX, UNCERTAIN
from .losses import Loss, bce, find_loss

NORMALIZERS = ("labels", "images", "tasks")
"""What the sum of a loss is divided by:

- `labels`: the number of entries;
- `images`: the number of images m, the textbook (1/m) sum_i sum_j L(yhat_j, y_j);
- `tasks`: each label's mean over its entries, then the mean over the labels that have any.
"""
_PIECE = 1 << 18  # entries that stay in a core's cache
_NO_LABEL = f"a label of the batch is neither in 0..1 nor {IGNORE_INDEX} (unknown)"


def check_normalizer(normalizer: str) -> None:
    """Refuse what is not in `NORMALIZERS` with a `HalflabelError` that names those."""
    one_of(*NORMALIZERS).check("normalizer", normalizer)


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


def _check_values(labels: Tensor, loss: Loss) -> None:
    """Refuse a value that is no label, NaN included. A compiled graph cannot name the place, and says only that."""
    valid = ((labels >= 0) & (labels <= 1)) | (labels == IGNORE_INDEX)
    if loss.uses_unknown:
        valid = valid | (labels == UNCERTAIN)
    if torch.compiler.is_compiling():
        torch._assert_async(valid.all(), _NO_LABEL)
    elif not bool(valid.all()):
        row, column = (~valid).nonzero()[0].tolist()
        value = labels[row, column].item()
        hint = "; apply a policy to uncertain entries first" if value == UNCERTAIN else ""
        raise HalflabelError(
            f"label value {value} at row {row}, column {column} of the batch "
            f"is neither in 0..1 nor {IGNORE_INDEX} (unknown){hint}"
        )


def _known(labels: Tensor) -> Tensor:
    """Return 1 for a label in 0..1 and 0 for `IGNORE_INDEX`, as floats: on CPUs booleans are several times slower."""
    return (labels + 1).clamp_(0, 1)


def takes_part(labels: Tensor, loss: Loss) -> Tensor:
    """Return where an entry belongs to the loss.

    With `bce`, `focal` and `asl` these are the known entries, and an unknown one changes neither the value nor any
    gradient. The other losses learn from unknown entries too; in them every entry takes part that is not `UNCERTAIN`,
    one they reject or ignore with the weight 0.
    """
    return labels != (UNCERTAIN if loss.uses_unknown else IGNORE_INDEX)


def count_items(labels: Tensor, loss: str | Loss = "bce") -> Tensor:
    """Count what any normalizer divides by; the counts of pieces of a step add up to those of the whole.

    Args:
        labels: Shape (batch, num_labels).
        loss: A key of `LOSSES`, or a record.

    Returns:
        int64 of shape (num_labels + 1,): per label the entries that take part, then the number of images.
    """
    record = find_loss(loss)
    part = takes_part(labels, record) if record.uses_unknown else _known(labels)
    per_label = part.sum(dim=0).long()
    return torch.cat([per_label, per_label.new_full((1,), len(labels))])


def masked_loss(
    logits: Tensor,
    labels: Tensor,
    loss: str | Loss | Callable[..., Tensor] = "bce",
    normalizer: str = "labels",
    num_items_in_batch: Tensor | int | float | None = None,
    pos_weight: Tensor | None = None,
    label_weight: Tensor | None = None,
    epoch: int = 0,
    **loss_args: Any,  # noqa: ANN401 - those of the loss
) -> Tensor:
    """Sum a loss over the entries that take part, see `takes_part`, and divide.

    Args:
        logits: Shape (batch, num_labels).
        labels: Same shape, float: 0..1 where known, `IGNORE_INDEX` where unknown.
        loss: A key of `LOSSES`, a record, or a function of the signature of those in `LOSSES`.
        normalizer: What the sum is divided by, see `NORMALIZERS`.
        num_items_in_batch: The counts of the whole optimizer step on all devices: what `count_items` returns, summed,
            or for `labels` with bce, focal or asl the number of known entries. None: this batch's own.
        pos_weight: Factor of the positive term, shape (num_labels,). The counts do not depend on it.
        label_weight: Factor of a label's loss, shape (num_labels,). The counts do not depend on it.
        epoch: Epochs that are done, for the losses that use it.
        loss_args: Keyword arguments of the loss.

    Returns:
        A scalar. A batch in which no entry takes part gives 0 with zero gradients.

    Raises:
        HalflabelError: On a wrong loss, normalizer or argument, labels of another shape or type or with a value that is
            none (NaN included), or a single number for `num_items_in_batch` where more counts are needed.
    """
    record = find_loss(loss)
    record.check(part_name(loss), loss_args, logits.shape[-1])
    check_normalizer(normalizer)
    _check_form(logits, labels)
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    labels = labels.to(logits.dtype)
    counts = count_items(labels, record) if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
    scale = label_scale(counts.to(logits), record, normalizer, logits.shape[1])
    scale = scale if label_weight is None else scale * label_weight.to(logits)
    if record.function is bce and pos_weight is None:
        value, valid = cast(tuple[Tensor, Tensor], PlainBCE.apply(logits, labels, scale, **loss_args))
        if torch.compiler.is_compiling():
            torch._assert_async(valid, _NO_LABEL)
            return value
        if bool(valid & value.isfinite()):
            return value
    _check_values(labels, record)
    return (sum_losses(logits, labels, record, pos_weight, epoch, **loss_args) * scale).sum()


def sum_losses(
    logits: Tensor,
    labels: Tensor,
    loss: str | Loss | Callable[..., Tensor] = "bce",
    pos_weight: Tensor | None = None,
    epoch: int = 0,
    **loss_args: Any,  # noqa: ANN401 - those of the loss
) -> Tensor:
    """Return each label's sum of a loss over the entries that take part, shape (num_labels,), for who divides later.

    The arguments are those of `masked_loss`, which has checked them.
    """
    record = find_loss(loss)
    if record.uses_epoch:
        loss_args = {**loss_args, "epoch": epoch}
    part = takes_part(labels, record)
    if not record.uses_unknown:
        # Masked before the loss as well: an infinite logit at an unknown entry must not make 0 * inf.
        logits, labels = torch.where(part, logits, 0), torch.where(part, labels, 0)
    weight = None if pos_weight is None else pos_weight.to(logits)
    return torch.where(part, record.function(logits, labels, weight, **loss_args), 0).sum(dim=0)


class PlainBCE(torch.autograd.Function):
    """`bce` without weights, masked and summed, with its gradient made beside it.

    Most runs compute it at every step, and autograd would walk over the whole matrix a dozen times more.
    `apply(logits, labels, scale, label_smoothing)`, scale of shape (num_labels,) or (), returns the sum over known
    entries of scale * bce, and whether all labels are in 0..1 or `IGNORE_INDEX`.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's own contract
        logits: Tensor,
        labels: Tensor,
        scale: Tensor,
        label_smoothing: float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        """Work on the whole where it is compiled, else on a few rows at a time, which stay in a core's cache."""
        if torch.compiler.is_compiling():
            losses, slopes, valid = _bce_and_slope(logits, labels, label_smoothing)
            ctx.save_for_backward(slopes * scale)
            return (losses.sum(dim=0) * scale).sum() if scale.ndim else losses.sum() * scale, valid
        gradient, sums, valids = torch.empty_like(logits), logits.new_zeros(len(labels.T)), []
        rows = max(1, _PIECE // max(labels.shape[1], 1))
        for z, y, out in zip(logits.split(rows), labels.split(rows), gradient.split(rows), strict=True):
            losses, slopes, valid = _bce_and_slope(z, y, label_smoothing)
            torch.mul(slopes, scale, out=out)
            sums += losses.sum(dim=0)
            valids.append(valid)
        ctx.save_for_backward(gradient)
        valid = torch.stack(valids).all() if valids else torch.tensor(True)
        ctx.mark_non_differentiable(valid)
        return (sums * scale).sum(), valid

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None, None]:  # noqa: ANN401
        """Hand out the gradient; a factor of 1 costs no pass over it."""
        (gradient,) = ctx.saved_tensors
        plain = not torch.compiler.is_compiling() and bool(outer[0] == 1)
        return (gradient if plain else gradient * outer[0]), None, None, None


def _bce_and_slope(z: Tensor, labels: Tensor, label_smoothing: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return binary cross-entropy and its derivative, both 0 where unknown, and whether all labels are labels.

    An infinite logit of an unknown entry makes NaN of the first, but in a compiled graph, where `where` costs nothing.
    """
    if torch.compiler.is_compiling():
        known = labels != IGNORE_INDEX
        z, y = torch.where(known, z, 0), torch.where(known, labels, 0)
        valid = ((y >= 0) & (y <= 1)).all()
        y = y * (1 - label_smoothing) + label_smoothing / 2
        small = torch.exp(-z.abs())
        p = torch.where(z >= 0, 1, small) / (1 + small)
        losses = torch.where(known, z.clamp(min=0) - y * z + torch.log1p(small), 0)
        return losses, torch.where(known, p - y, 0), valid
    share, y = _known(labels), labels.clamp(0, 1)
    # A label in 0..1 leaves 0 - 100 * 1, an unknown one -100 - 100 * 0, and nothing else leaves -100.
    valid = (labels - y).add_(share, alpha=IGNORE_INDEX).sub_(IGNORE_INDEX).abs_().sum() == 0
    if label_smoothing:
        y.mul_(1 - label_smoothing).add_(share, alpha=label_smoothing / 2)
    z = z * share
    p = z.sigmoid()
    slopes = (p * share).sub_(y)
    # log(1 + e^-|z|) = -log max(p, 1-p), the log of a number in 1/2..1, of which rounding takes 6e-8 at most.
    rest = p.sub_(0.5).abs_().add_(0.5).log_()
    return (z.clamp(min=0).addcmul_(z, y, value=-1).sub_(rest)).mul_(share), slopes, valid


def label_scale(counts: Tensor, loss: Loss, normalizer: str, num_labels: int) -> Tensor:
    """Return what each label's sum is multiplied by, shape (num_labels,) or (); `counts` as in `masked_loss`."""
    counts = counts.reshape(-1)  # several devices in one process get theirs with a leading axis
    if counts.numel() == 1:
        if normalizer != "labels" or loss.uses_unknown:
            raise HalflabelError(
                f"loss {loss.function.__name__!r} with normalizer {normalizer!r} needs counts that the "
                "stock Trainer does not make; train it with halflabel.MultiLabelTrainer"
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
