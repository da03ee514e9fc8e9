"""Fast twins of `bce` and `asl` for the CPU: loss and gradient in one walk over pieces that fit the cache.

A training step is bound by memory here, not by arithmetic: the definitions in `known_losses` write a tensor of the
logits' size for every operation. The twins write one, the gradient. They use float arithmetic in place of boolean
masks, which is several times faster on a CPU, and check the labels on the way. Tests hold them equal.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .known_losses import TANGENT_START, clipped_slope
from .labels import IGNORE_INDEX

PIECE_ENTRIES = 1 << 18
PIECE_ROWS = 64  # the product of so many numbers in 0.5..1 stays far above float32's smallest
BUFFERS = 4

# (logits, targets, known, gradient, buffer) -> losses summed over the rows, shape (num_labels,). `known` is 1 or
# 0, and where it is 0 so are logits and targets. Fills `gradient`; may overwrite everything it is given.
Kernel = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def bce_kernel(label_smoothing: float = 0.0) -> Kernel:
    """Return the kernel of `known_losses.bce`."""

    def kernel(z: Tensor, y: Tensor, known: Tensor, gradient: Tensor, p: Tensor) -> Tensor:
        if label_smoothing:
            y.mul_(1 - label_smoothing).add_(known, alpha=label_smoothing / 2)
        torch.sigmoid(z, out=p)
        torch.mul(p, known, out=gradient).sub_(y)
        # The loss is relu(z) - y z - log max(p, 1-p). The last term needs a logarithm per column only: that of the
        # product of |p - known / 2| + 1/2, which is max(p, 1-p) where known and 1 elsewhere (p is 1/2 there).
        p.sub_(known, alpha=0.5).abs_().add_(0.5)
        rest = torch.clamp(z, min=0, out=known).addcmul_(z, y, value=-1)
        return rest.sum(dim=0).sub_(p.prod(dim=0).log_())

    return kernel


def asl_kernel(
    gamma_pos: float = 1.0, gamma_neg: float = 4.0, clip: float = 0.05, detach_focus: bool = False
) -> Kernel:
    """Return the kernel of `known_losses.asl` for a gamma_neg of at least 1."""
    slope = clipped_slope(gamma_neg, clip, detach_focus)
    highest = float(torch.tensor(TANGENT_START, dtype=torch.float64).sigmoid())

    def kernel(z: Tensor, y: Tensor, known: Tensor, gradient: Tensor, a: Tensor) -> Tensor:
        b = torch.empty_like(a)
        p = torch.sigmoid(z)
        not_p = torch.neg(p).add_(1)
        weight = known.sub_(y)  # of the negative term
        # Positive term: focus * cost with focus (1-p)^g+ and cost -log p; derivative -focus (1 - p + g+ p cost).
        cost = torch.nn.functional.logsigmoid(z).neg_()
        focus = _power(not_p, gamma_pos, a)
        torch.mul(focus, cost, out=b)
        losses = torch.mul(b, y)
        torch.mul(focus, not_p, out=gradient)
        if gamma_pos and not detach_focus:
            gradient.addcmul_(b, p, value=gamma_pos)
        gradient.mul_(y).neg_()
        # Negative term: p_m^g- * cost with cost -log(1-p_m); its derivative is
        # dp/dz (p_m^g- / (1-p_m) + g- p_m^(g- - 1) cost).
        if clip:
            losses.addcmul_(torch.clamp(z, min=TANGENT_START, out=a).sub_(TANGENT_START), weight, value=slope)
            p.clamp_(max=highest)
            rate = torch.neg(p, out=not_p).add_(1).mul_(p)  # dp/dz
            p.sub_(clip).clamp_(min=0)
            torch.neg(p, out=a)
            torch.log1p(a, out=cost).neg_()
            cost_rate = torch.div(rate, a.add_(1), out=a)
        else:
            cost.add_(z)  # -log(1-p) = z - log p
            cost_rate = a.copy_(p)
            rate = not_p.mul_(p)
        lower = _power(p, gamma_neg - 1, b)
        focus = p.mul_(lower)
        slopes = cost_rate.mul_(focus)
        if not detach_focus:
            slopes.addcmul_(rate.mul_(lower), cost, value=gamma_neg)
        gradient.addcmul_(slopes, weight)
        return losses.addcmul_(focus.mul_(cost), weight).sum(dim=0)

    return kernel


def _power(base: Tensor, exponent: float, out: Tensor) -> Tensor:
    """Return base ** exponent; small whole exponents by multiplication, which is many times faster."""
    if exponent not in (0, 1, 2, 3, 4):
        return torch.pow(base, exponent, out=out)
    out.copy_(base) if exponent else out.fill_(1)
    for _ in range(int(exponent) - 1):
        out.mul_(base)
    return out


class FusedLoss(torch.autograd.Function):
    """The sum over known entries of scale * loss, with its gradient made on the way.

    `apply(logits, labels, scale, kernel)`: logits and labels of shape (batch, num_labels), float and contiguous; scale
    of shape (num_labels,) or (). Returns the sum, and whether every label is in 0..1 or `IGNORE_INDEX`.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, scale: Tensor, kernel: Kernel) -> tuple[Tensor, Tensor]:  # noqa: ANN401
        """Walk over pieces of rows."""
        batch, columns = logits.shape
        rows = max(1, min(batch, PIECE_ROWS, PIECE_ENTRIES // max(columns, 1)))
        gradient = torch.empty_like(logits)
        buffers = logits.new_empty(BUFFERS, rows, columns)
        sums = torch.zeros(columns, dtype=torch.float64)
        extremes: list[Tensor] = []
        for start in range(0, batch, rows):
            labels_piece, out = labels[start : start + rows], gradient[start : start + rows]
            z, y, known, spare = buffers[:, : len(out)]
            torch.add(labels_piece, 1, out=known).clamp_(0, 1)
            torch.clamp(labels_piece, 0, 1, out=y)
            # -100 for a label in 0..1 and for one that is -100, else another number
            extremes += torch.aminmax(torch.sub(labels_piece, y, out=z).add_(known, alpha=IGNORE_INDEX))
            torch.mul(logits[start : start + rows], known, out=z)
            sums += kernel(z, y, known, out, spare)
            out.mul_(scale)
        ctx.save_for_backward(gradient)
        valid = (torch.stack(extremes) == IGNORE_INDEX).all() if extremes else torch.tensor(True)
        ctx.mark_non_differentiable(valid)
        return (sums * scale).sum().to(logits.dtype), valid

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None, None]:  # noqa: ANN401
        """Hand out the gradient; a factor of 1 costs no pass over it."""
        (gradient,) = ctx.saved_tensors
        return (gradient if outer[0] == 1 else gradient * outer[0]), None, None, None


class TracedBCE(torch.autograd.Function):
    """`bce`, masked and scaled, written for `torch.compile`: loss and gradient come out of one loop.

    `apply(logits, labels, scale, label_smoothing)` with valid labels; scale of shape (num_labels,) or ().
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, scale: Tensor, label_smoothing: float = 0.0) -> Tensor:  # noqa: ANN401
        """Compute both from one exponential."""
        known = labels != IGNORE_INDEX
        z, y = torch.where(known, logits, 0), torch.where(known, labels, 0)
        if label_smoothing:
            y = y * (1 - label_smoothing) + label_smoothing / 2
        small = torch.exp(-z.abs())
        p = torch.where(z >= 0, 1, small) / (1 + small)
        ctx.save_for_backward(torch.where(known, (p - y) * scale, 0))
        losses = torch.where(known, z.clamp(min=0) - y * z + torch.log1p(small), 0)
        return (losses.sum(dim=0) * scale).sum() if scale.ndim else losses.sum() * scale

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None, None]:  # noqa: ANN401
        """Hand out the gradient."""
        (gradient,) = ctx.saved_tensors
        return gradient * outer, None, None, None
