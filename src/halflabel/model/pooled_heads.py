"""Heads on the pooled feature vector of an image: a linear layer, alone or after several new layers."""

from typing import ClassVar

from torch import Tensor, nn

from .feature_head import FeatureHead

SMALL = 0.01
"""Standard deviation of the weights that the last layer starts from: logits hardly leave their bias."""

NORMS = ("layer", "batch", "none")
ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU}


class LinearHead(FeatureHead):
    """One linear layer: logit_i = w_i . x + b_i, where x is the standardised feature vector."""

    consumes = "pooled"
    per_label: ClassVar = {"linear.weight": 0, "linear.bias": 0}

    def __init__(self, in_features: int, num_labels: int, power: float = 1.0) -> None:
        """Build the head for features of one width.

        Args:
            in_features: Width of the features.
            num_labels: How many labels.
            power: What features are raised to first, sign kept, in (0, 1]; see `feature_head.raise_features`.
        """
        super().__init__(in_features, num_labels)
        self.power = power
        self.linear = nn.Linear(in_features, num_labels)
        self.reset_parameters()

    @property
    def label_bias(self) -> Tensor:
        """The bias of the logits, shape (num_labels,)."""
        return self.linear.bias

    def reset_parameters(self) -> None:
        """Draw new weights (normal, sd 0.01), zero the bias, and undo the standardisation."""
        super().reset_parameters()
        nn.init.normal_(self.linear.weight, 0.0, SMALL)
        nn.init.zeros_(self.linear.bias)

    def compute_logits(self, features: Tensor) -> Tensor:
        """Map standardised features of shape (batch, in_features) to logits of shape (batch, num_labels)."""
        logits: Tensor = self.linear(features)
        return logits


class MlpHead(FeatureHead):
    """Several new layers, then a linear one: h <- dropout(activation(norm(W h + c))), logit_i = w_i . h + b_i."""

    consumes = "pooled"
    per_label: ClassVar = LinearHead.per_label

    def __init__(
        self,
        in_features: int,
        num_labels: int,
        layers: int = 1,
        width: int = 512,
        dropout: float = 0.1,
        norm: str = "layer",
        activation: str = "gelu",
        power: float = 1.0,
    ) -> None:
        """Build the head.

        Args:
            in_features: Width of the features.
            num_labels: How many labels.
            layers: Hidden layers, at least 1.
            width: Of each hidden layer, at least 1.
            dropout: Share of hidden values set to 0 in training, in [0, 1).
            norm: `"layer"`, `"batch"` or `"none"`.
            activation: A key of `ACTIVATIONS`.
            power: What features are raised to first, sign kept, in (0, 1]; see `feature_head.raise_features`.
        """
        super().__init__(in_features, num_labels)
        self.power = power
        self.hidden = nn.Sequential()
        for i in range(layers):
            # BatchNorm subtracts any bias that stands before it
            self.hidden.append(nn.Linear(width if i else in_features, width, bias=norm != "batch"))
            if norm != "none":
                self.hidden.append(nn.LayerNorm(width) if norm == "layer" else _BatchNorm(width))
            self.hidden.extend([ACTIVATIONS[activation](), nn.Dropout(dropout)])
        self.linear = nn.Linear(width, num_labels)
        self.reset_parameters()

    @property
    def label_bias(self) -> Tensor:
        """The bias of the logits, shape (num_labels,)."""
        return self.linear.bias

    def reset_parameters(self) -> None:
        """Draw new weights: hidden ones as He et al. 2015, those of the last layer normal, sd 0.01; biases are 0."""
        super().reset_parameters()
        for layer in self.hidden:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
            elif isinstance(layer, nn.LayerNorm | _BatchNorm):
                nn.init.ones_(layer.weight)
                nn.init.zeros_(layer.bias)
            if isinstance(layer, _BatchNorm):
                layer.reset_statistics()
        nn.init.normal_(self.linear.weight, 0.0, SMALL)
        nn.init.zeros_(self.linear.bias)

    def compute_logits(self, features: Tensor) -> Tensor:
        """Map standardised features of shape (batch, in_features) to logits of shape (batch, num_labels)."""
        logits: Tensor = self.linear(self.hidden(features))
        return logits


class _BatchNorm(nn.BatchNorm1d):
    """BatchNorm that also takes a single image in training, which has no spread: by the running statistics."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training and len(input) == 1:
            return nn.functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        return super().forward(input)

    def reset_statistics(self) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        nn.init.zeros_(self.running_mean)
        nn.init.ones_(self.running_var)
        nn.init.zeros_(self.num_batches_tracked)
