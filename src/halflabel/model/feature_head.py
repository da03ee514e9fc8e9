"""What every head does: it standardises its features, starts from what is known, and lets labels keep their rows."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from transformers.utils.generic import maybe_autocast

from .errors import HalflabelError

CHUNK = 1 << 21
"""How many numbers `FeatureHead.standardize_` holds at once in float64: 16 MiB."""


class FeatureHead(nn.Module, ABC):
    """Features of one backbone to one logit per label; the features are standardised first.

    The mean and scale are 0 and 1 until `standardize_` sets them from training features; they are saved with the
    weights. A bias per label can start at the log-odds of its known positives (`set_prior_`), so that the weights need
    not learn how rare a label is: with few known entries this decides the quality of a probe.

    A head computes in the precision of its own weights, also under autocast: it is small beside the backbone, and
    float16 would overflow on large features. Features of another type (cached in float16) are converted.

    Attributes:
        consumes: `"pooled"`: features of shape (batch, in_features); `"positions"`: (batch, positions, in_features).
        per_label: The tensors with a row for each label (or group of labels), by name, and the dimension of the rows.
        power: What features are raised to, sign kept, before they are standardised.
    """

    consumes: ClassVar[str]
    per_label: ClassVar[Mapping[str, int]]
    power: float = 1.0
    feature_mean: Tensor
    feature_scale: Tensor

    def __init__(self, in_features: int, num_labels: int) -> None:
        """Make the standardisation for features of one width; a subclass adds its layers and resets all."""
        super().__init__()
        self.in_features = in_features
        self.num_labels = num_labels
        self.register_buffer("feature_mean", torch.zeros(in_features))
        self.register_buffer("feature_scale", torch.ones(in_features))

    @property
    @abstractmethod
    def label_bias(self) -> Tensor:
        """The bias of the logits, shape (num_labels,)."""

    @abstractmethod
    def compute_logits(self, features: Tensor) -> Tensor:
        """Map standardised features to logits of shape (batch, num_labels)."""

    def reset_parameters(self) -> None:
        """Start again: small random weights in the last layer, a bias of 0, no standardisation.

        Only functions of `torch.nn.init` are used: where a checkpoint holds a part of the head, `from_pretrained`
        makes them leave that part alone.
        """
        nn.init.zeros_(self.feature_mean)
        nn.init.ones_(self.feature_scale)

    def _check(self, features: Tensor, first: str) -> None:
        shape = (first, self.in_features) if self.consumes == "pooled" else (first, "positions", self.in_features)
        if features.ndim != len(shape) or features.shape[-1] != self.in_features:
            expected = "(" + ", ".join(map(str, shape)) + ")"
            raise HalflabelError(
                f"{type(self).__name__} takes features of shape {expected}, got {tuple(features.shape)}"
            )

    @torch.no_grad()
    def standardize_(self, features: Tensor) -> None:
        """Take mean and standard deviation from training features; a constant feature gets scale 1.

        Positions count like images. The features are read once, in chunks, and may be larger than memory (a tensor
        on a memory-mapped file); means and squared deviations of chunks are combined in float64 (Chan et al. 1979).

        Args:
            features: Shape (images, in_features) or (images, positions, in_features), as the head consumes.

        Raises:
            HalflabelError: If the shape is another, there are none, or one is not finite.
        """
        self._check(features, "images")
        if not features.numel():
            raise HalflabelError("there are no features to standardise by")
        count, mean, squares = 0, torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        for part in features.split(max(1, CHUNK // features[0].numel())):
            rows = self._raise(part.cpu().double().reshape(-1, self.in_features))
            own = rows.mean(dim=0)
            step, both = own - mean, count + len(rows)
            squares = squares + (rows - own).square_().sum(dim=0) + step**2 * (count * len(rows) / both)
            mean, count = mean + step * (len(rows) / both), both
        if not torch.isfinite(squares).all():
            raise HalflabelError("the features to standardise by are not finite (inf or nan) for some image")
        spread = (squares / count).sqrt()
        self.feature_mean.copy_(mean)
        self.feature_scale.copy_(torch.where(spread > 1e-6, spread, 1.0))

    @torch.no_grad()
    def set_prior_(self, positive: Tensor, known: Tensor) -> None:
        """Set the bias to log-odds (positive + 1) / (known + 2) from known training counts, shape (num_labels,) each.

        The added 1 and 2 (Laplace's rule) keep a label without a known positive or negative finite.
        """
        self.label_bias.copy_(torch.logit((positive.double() + 1) / (known.double() + 2)))

    @torch.no_grad()
    def take_labels_(self, old: "FeatureHead", rows: Sequence[int | None]) -> bool:
        """Continue another head: what all labels share, and the rows of labels that it has.

        Args:
            old: The head of which this one is to be the successor.
            rows: For each label of this head its number in the old one; None: it is new and stays as drawn.

        Returns:
            False where the heads differ in kind, in `power` or in the size of a layer: then only the standardisation is
            taken, and that only from a head that consumes the same features in the same power.
        """
        alike = self.consumes == old.consumes and self.power == old.power
        if alike:
            self.feature_mean.copy_(old.feature_mean)
            self.feature_scale.copy_(old.feature_scale)
        mine, theirs = self.state_dict(), old.state_dict()  # the tensors themselves, detached
        if not alike or type(self) is not type(old) or _shared(mine, self.per_label) != _shared(theirs, self.per_label):
            return False
        sources = self.rows_of_tensors(old, rows)
        if sources is None:
            return False
        for name, value in mine.items():
            if name in sources:
                dim, device = self.per_label[name], theirs[name].device
                new = torch.tensor([i for i, row in enumerate(sources[name]) if row is not None], dtype=torch.long)
                kept = torch.tensor([row for row in sources[name] if row is not None], dtype=torch.long)
                taken = theirs[name].index_select(dim, kept.to(device))
                value.index_copy_(dim, new.to(value.device), taken.to(value.device, value.dtype))
            else:
                value.copy_(theirs[name])
        return True

    def rows_of_tensors(
        self, old: "FeatureHead", rows: Sequence[int | None]
    ) -> Mapping[str, Sequence[int | None]] | None:
        """Return the rows that each tensor in `per_label` takes from the old head; None: that is not possible."""
        return dict.fromkeys(self.per_label, rows)

    def forward(self, features: Tensor) -> Tensor:
        """Map features, shaped as the head consumes them, to logits of shape (batch, num_labels).

        Raises:
            HalflabelError: If they have another shape.
        """
        self._check(features, "batch")
        with maybe_autocast(features.device.type, enabled=False):
            raised = self._raise(features.to(self.feature_mean.dtype))
            return self.compute_logits((raised - self.feature_mean) / self.feature_scale)

    def _raise(self, features: Tensor) -> Tensor:
        return features if self.power == 1 else raise_features(features, self.power)


def raise_features(features: Tensor, power: float) -> Tensor:
    """Return sign(x) * |x|^power, which evens out features that are rarely but strongly active.

    The square root of pooled activations is the Hellinger map of image retrieval (Arandjelovic & Zisserman 2012; power
    normalisation, Perronnin et al. 2010). The slope is infinite at 0, so this is for features that are not trained.
    """
    return features.sign() * features.abs().pow(power)


def _shared(state: Mapping[str, Tensor], per_label: Mapping[str, int]) -> dict[str, list[int]]:
    """Return the shape of every tensor; the dimension of its rows is left out."""
    shapes = {name: list(value.shape) for name, value in state.items()}
    for name, dim in per_label.items():
        del shapes.get(name, [0] * (dim + 1))[dim]
    return shapes
