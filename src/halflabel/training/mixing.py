"""Mixing the images of a training batch, with targets that say no more than what is known of the images.

What is mixed are pixels, or features of a frozen backbone. Who is mixed with whom, and by how much, follows from what
is in the batch: neither the number of loading processes nor a break in the run changes it.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import xxhash
from torch import Tensor
from torch.distributions import Beta

from ..data.draws import drawing
from ..model.errors import HalflabelError, did_you_mean
from ..model.labels import IGNORE_INDEX, UNCERTAIN
from ..model.loss_arguments import LEARN_FROM_UNKNOWN


def draw_rows(batch: int, images: int) -> Tensor:
    """Draw for each image of a batch which others it is mixed with: never itself, none twice.

    Returns:
        int64 of shape (batch, images), fewer columns where the batch is smaller; the first is the image itself.
    """
    order = torch.randperm(batch)
    rows = torch.stack([order.roll(-shift) for shift in range(min(images, batch))], dim=1)
    return rows[order.argsort()]


def blend_targets(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """Return the convex combination of two images' targets.

    Args:
        first: Shape (batch, num_labels): 0..1, `IGNORE_INDEX` or `UNCERTAIN`.
        second: Likewise.
        share: How much of the mixture the first is, in 0..1, shape (batch, 1).

    Returns:
        share * first + (1 - share) * second where both are known; `IGNORE_INDEX` where both are unknown. Where only
        one is known the mixture has some of its label but nobody can say how much: `UNCERTAIN`.
    """
    blend = torch.lerp(second, first, share)  # unlike the sum of products it never leaves 0..1 by rounding
    neither = (first == IGNORE_INDEX) & (second == IGNORE_INDEX)
    return torch.where((first >= 0) & (second >= 0), blend, torch.where(neither, IGNORE_INDEX, UNCERTAIN))


def join_targets(targets: Tensor) -> Tensor:
    """Return the union (logical or) of several images' targets.

    Args:
        targets: Shape (batch, images, num_labels): 0..1, `IGNORE_INDEX` or `UNCERTAIN`.

    Returns:
        Shape (batch, num_labels): 1 where any image is a sure yes, whatever the others are; 0 where all are no; the
        probability that at least one is yes, 1 - prod(1 - t), where all are known and some are soft. Else
        `IGNORE_INDEX` where those that are known are no, and `UNCERTAIN` where something speaks for yes.
    """
    union = 1 - (1 - targets.clamp(min=0)).prod(dim=1)
    blank = ((targets == IGNORE_INDEX) | (targets == 0)).all(dim=1)
    decided = (targets == 1).any(dim=1) | (targets >= 0).all(dim=1)
    return torch.where(decided, union, torch.where(blank, IGNORE_INDEX, UNCERTAIN))


def draw_boxes(share: Tensor, height: int, width: int) -> Tensor:
    """Draw a box for each image that covers about 1 - share of it, centred anywhere, cut off at the border.

    Args:
        share: In 0..1, shape (batch,).
        height: In pixels.
        width: In pixels.

    Returns:
        bool of shape (batch, 1, height, width), true inside.
    """
    side = (1 - share).sqrt()
    inside = []
    for pixels in (height, width):
        centre, half = torch.rand(len(share)) * pixels, side * pixels / 2
        place = torch.arange(pixels)
        first, end = (centre - half).round(), (centre + half).round()
        inside.append((place >= first[:, None]) & (place < end[:, None]))
    return (inside[0][:, :, None] & inside[1][:, None, :])[:, None]


def mixup(inputs: Tensor, targets: Tensor, alpha: float = 0.2) -> tuple[Tensor, Tensor]:
    """Blend each image with another one (Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization").

    Args:
        inputs: Shape (batch, ...).
        targets: Shape (batch, num_labels), see `blend_targets`.
        alpha: The shares are drawn from Beta(alpha, alpha); above 0.
    """
    other = draw_rows(len(inputs), 2)[:, -1]
    share = Beta(alpha, alpha).sample((len(inputs), 1))
    mixed = torch.lerp(inputs[other], inputs, share.view(-1, *[1] * (inputs.ndim - 1)))
    return mixed, blend_targets(targets, targets[other], share)


def cutmix(inputs: Tensor, targets: Tensor, alpha: float = 1.0) -> tuple[Tensor, Tensor]:
    """Paste a box of another image into each (Yun et al. 2019, "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features").

    Args:
        inputs: Pixels of shape (batch, channels, height, width).
        targets: Shape (batch, num_labels), see `blend_targets`; the share is that of the pixels which stay.
        alpha: The shares are drawn from Beta(alpha, alpha), before boxes are cut off at the border; above 0.
    """  # noqa: E501
    other = draw_rows(len(inputs), 2)[:, -1]
    box = draw_boxes(Beta(alpha, alpha).sample((len(inputs),)), *inputs.shape[-2:])
    share = 1 - box.float().mean(dim=(1, 2, 3))
    return torch.where(box, inputs[other], inputs), blend_targets(targets, targets[other], share[:, None])


def logicmix(inputs: Tensor, targets: Tensor, images: int = 2) -> tuple[Tensor, Tensor]:
    """Average images and join what they show (Chong et al. 2024, "Free Performance Gain from Mixing Multiple Partially Labeled Samples in Multi-label Image Classification").

    A known yes stays a yes beside whatever is unknown, so this mixing keeps more known entries than the others do.

    Args:
        inputs: Shape (batch, ...).
        targets: Shape (batch, num_labels), see `join_targets`.
        images: How many are averaged, at least 2.
    """  # noqa: E501
    rows = draw_rows(len(inputs), images)
    mixed = torch.stack([inputs[column] for column in rows.T]).mean(dim=0)
    return mixed, join_targets(targets[rows])


MIXINGS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {"mixup": mixup, "cutmix": cutmix, "logicmix": logicmix}
_RANGES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "alpha": ("a number above 0", lambda value: 0 < value < math.inf),
    "images": ("a whole number of at least 2", lambda value: value >= 2 and value == int(value)),
    "probability": ("a number above 0 and at most 1", lambda value: 0 < value <= 1),
}


def check_mixing(mixing: str, mixing_args: Mapping[str, Any] | None = None) -> None:
    """Refuse a mixing that does not exist, or arguments that are not its own.

    Raises:
        HalflabelError: It names the value and the allowed ones.
    """
    if mixing not in MIXINGS:
        raise HalflabelError(f"mixing: {mixing!r} is none of {', '.join(MIXINGS)}{did_you_mean(mixing, MIXINGS)}")
    allowed = ["probability", *list(inspect.signature(MIXINGS[mixing]).parameters)[2:]]
    for name, value in (mixing_args or {}).items():
        if name not in allowed:
            nearest = did_you_mean(name, allowed)
            raise HalflabelError(
                f"mixing {mixing!r} takes no argument {name!r}; it takes {', '.join(allowed)}{nearest}"
            )
        text, right = _RANGES[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not right(value):
            raise HalflabelError(f"mixing {mixing!r}: {name} is {value!r}, expected {text}")


class MixingCollator:
    """Collate a training batch, then replace some of its images by mixtures with others of the batch.

    The counts of a step are those of the mixed targets. A loss that learns from unknown entries goes on learning from
    those that are unknown in the mixture and for which no image speaks; any other entry that is not known takes no
    part in it, since a yes in half of a mixture must not be assumed to be a no.
    """

    def __init__(
        self,
        collate: Callable[[Sequence[Mapping[str, Any]]], dict[str, Tensor]],
        mixing: str,
        loss: str,
        probability: float = 0.5,
        **mixing_args: Any,  # noqa: ANN401 - those of the mixing
    ) -> None:
        """Say what is mixed how.

        Args:
            collate: Gives `pixel_values` or `features`, and `labels`.
            mixing: A key of `MIXINGS`.
            loss: A key of `loss_arguments.LOSSES`.
            probability: How likely an image becomes a mixture, in (0, 1].
            mixing_args: Keyword arguments of the mixing.

        Raises:
            HalflabelError: If `check_mixing` refuses them.
        """
        check_mixing(mixing, {"probability": probability, **mixing_args})
        self.collate = collate
        self.mixing = mixing
        self.learns_from_unknown = loss in LEARN_FROM_UNKNOWN
        self.probability = probability
        self.mixing_args = mixing_args

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Return the batch."""
        batch = self.collate(items)
        key = "features" if "features" in batch else "pixel_values"
        # Other pictures, other crops and another order are other bytes, so that no two batches draw the same.
        with drawing(xxhash.xxh32_intdigest(batch[key].contiguous().numpy().data)):
            inputs, labels = MIXINGS[self.mixing](batch[key], batch["labels"], **self.mixing_args)
            mixed = torch.rand(len(labels)) < self.probability
        if not self.learns_from_unknown:
            labels = labels.masked_fill(labels == UNCERTAIN, IGNORE_INDEX)
        batch["labels"] = torch.where(mixed[:, None], labels, batch["labels"])
        batch[key] = torch.where(mixed.view(-1, *[1] * (inputs.ndim - 1)), inputs, batch[key])
        return batch
