"""What is put on a backbone: modules from features to one logit per label."""

import torch
from torch import Tensor, nn

from .errors import HalflabelError, did_you_mean


class LinearHead(nn.Module):
    """One linear layer on the pooled feature vector, which it first standardises.

    The mean and scale are 0 and 1 until `standardize_` sets them from training features; they are saved with the
    weights. The bias can start at the log-odds of each label's known positives (`set_prior_`), so that the weights
    need not learn how rare a label is: with few known entries this decides the quality of a probe.

    Attributes:
        consumes: `"pooled"`: features of shape (batch, in_features).
    """

    consumes = "pooled"
    feature_mean: Tensor
    feature_scale: Tensor

    def __init__(self, in_features: int, num_labels: int) -> None:
        """Build the head for features of one width."""
        super().__init__()
        self.in_features = in_features
        self.linear = nn.Linear(in_features, num_labels)
        self.register_buffer("feature_mean", torch.zeros(in_features))
        self.register_buffer("feature_scale", torch.ones(in_features))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw new weights (normal, sd 0.01), zero the bias, and undo the standardisation."""
        self.linear.weight.normal_(0.0, 0.01)
        self.linear.bias.zero_()
        self.feature_mean.zero_()
        self.feature_scale.fill_(1.0)

    @torch.no_grad()
    def standardize_(self, features: Tensor) -> None:
        """Take mean and standard deviation from training features of shape (n, in_features); a constant one gets 1."""
        spread = features.std(dim=0, correction=0)
        self.feature_mean.copy_(features.mean(dim=0))
        self.feature_scale.copy_(torch.where(spread > 1e-6, spread, 1.0))

    @torch.no_grad()
    def set_prior_(self, positive: Tensor, known: Tensor) -> None:
        """Set the bias to log-odds (positive + 1) / (known + 2) from known training counts, shape (num_labels,) each.

        The added 1 and 2 (Laplace's rule) keep a label without a known positive or negative finite.
        """
        self.linear.bias.copy_(torch.logit((positive.double() + 1) / (known.double() + 2)))

    def forward(self, features: Tensor) -> Tensor:
        """Map features of shape (batch, in_features) to logits of shape (batch, num_labels)."""
        logits: Tensor = self.linear((features - self.feature_mean) / self.feature_scale)
        return logits


HEADS: dict[str, type[LinearHead]] = {"linear": LinearHead}


def check_head(name: str) -> None:
    """Refuse a head that does not exist.

    Raises:
        HalflabelError: It names the allowed ones.
    """
    if name not in HEADS:
        raise HalflabelError(f"unknown head {name!r}; it is one of {', '.join(HEADS)}{did_you_mean(name, HEADS)}")
