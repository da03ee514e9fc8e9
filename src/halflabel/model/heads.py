"""What is put on a backbone: features of one network to one logit per label.

A new head is a class here and its name in `HEADS`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.utils.generic import maybe_autocast

from .errors import (
    FLAG,
    HalflabelError,
    Kind,
    check_arguments,
    did_you_mean,
    is_own,
    list_of,
    missing_part,
    number,
    one_of,
)

CHUNK = 1 << 21
"""How many numbers `Head.standardize_` holds at once in float64: 16 MiB."""

SMALL, START = 0.01, 0.1  # standard deviations of a last layer's first weights, and of the scores of a drawn vector

ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU}
_COUNT, _LAYERS, _DROPOUT = number(1, 1 << 16, whole=True), number(1, 64, whole=True), number(0, 1, below=True)
_POWER = number(0, 1, above=True)
_TEMPERATURE = Kind("", lambda value: value == "max" or number(0, above=True).fits(value))


class Head(nn.Module, ABC):
    """Features of one backbone to one logit per label; the features are standardised first.

    Mean and scale are 0 and 1 until `standardize_` sets them from training features; they are saved with the weights. A
    label's bias can start at the log-odds of its known positives (`set_prior_`), so that the weights need not learn how
    rare it is: with few known entries this decides the quality of a probe.

    A head computes in the precision of its own weights, also under autocast: float16 would overflow on large features.

    Every head takes `in_features`, the width of the features (of a position's, where it consumes positions),
    `num_labels`, and arguments of its own.

    Attributes:
        consumes: `"pooled"`: features of shape (batch, in_features); `"positions"`: (batch, positions, in_features).
        arguments: What else a subclass takes, and what each value may be.
        per_label: The tensors with a row for each label (or group of labels), by name, and the dimension of the rows.
        power: What features are raised to, sign kept, before they are standardised.
    """

    consumes: ClassVar[str] = "pooled"
    arguments: ClassVar[Mapping[str, Kind]] = {}
    per_label: ClassVar[Mapping[str, int]]
    power: float = 1.0
    feature_mean: Tensor
    feature_scale: Tensor

    def __init__(self, in_features: int, num_labels: int) -> None:
        """Make the standardisation for features of one width; a subclass adds its layers and resets all."""
        super().__init__()
        self.in_features, self.num_labels = in_features, num_labels
        self.register_buffer("feature_mean", torch.zeros(in_features))
        self.register_buffer("feature_scale", torch.ones(in_features))

    @property
    def label_bias(self) -> nn.Parameter:
        """The bias of the logits, shape (num_labels,)."""
        return self.get_parameter(next(name for name in self.per_label if name.endswith("bias")))

    @abstractmethod
    def compute_logits(self, features: Tensor) -> Tensor:
        """Map standardised features, shaped as the head consumes them, to logits of shape (batch, num_labels)."""

    def reset_parameters(self) -> None:
        """Start again: small random weights in the last layer, a bias of 0, no standardisation.

        Only functions of `torch.nn.init` are used: where a checkpoint holds a part of the head, `from_pretrained`
        makes them leave that part alone.
        """
        nn.init.zeros_(self.feature_mean)
        nn.init.ones_(self.feature_scale)
        nn.init.zeros_(self.label_bias)

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

        Positions count like images. The features are read twice, in chunks, and may be larger than memory (a tensor on
        a memory-mapped file); sums are in float64.

        Args:
            features: Shape (images, in_features) or (images, positions, in_features), as the head consumes.

        Raises:
            HalflabelError: If the shape is another, there are none, or one is not finite.
        """
        self._check(features, "images")
        if not features.numel():
            raise HalflabelError("there are no features to standardise by")
        parts, count = features.split(max(1, CHUNK // features[0].numel())), features.numel() // self.in_features

        def rows(part: Tensor) -> Tensor:
            return raise_features(part.cpu().double().reshape(-1, self.in_features), self.power)

        mean = torch.stack([rows(part).sum(dim=0) for part in parts]).sum(dim=0) / count
        squares = torch.stack([(rows(part) - mean).square_().sum(dim=0) for part in parts]).sum(dim=0)
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
        self.label_bias.copy_(torch.logit((positive.cpu().double() + 1) / (known.cpu().double() + 2)))

    @classmethod
    def check_arguments(cls, given: Mapping[str, Any] | None, name: str) -> None:
        """Refuse what is no mapping of `arguments` to values of their kinds; `name` is what messages call the head.

        Raises:
            HalflabelError: It names the value and the allowed ones.
        """
        if not isinstance(given, Mapping | None):
            raise HalflabelError(f"head_args is {given!r}, expected a mapping of names to values")
        check_arguments(f"head {name!r}", given or {}, cls.arguments)

    def rows_of_tensors(self, old: "Head", rows: Sequence[int | None]) -> Mapping[str, Sequence[int | None]] | None:
        """Return the rows that each tensor in `per_label` takes from the old head; None: that is not possible."""
        return dict.fromkeys(self.per_label, rows)

    def forward(self, features: Tensor) -> Tensor:
        """Map features, shaped as the head consumes them, to logits of shape (batch, num_labels).

        Raises:
            HalflabelError: If they have another shape.
        """
        self._check(features, "batch")
        with maybe_autocast(features.device.type, enabled=False):
            raised = raise_features(features.to(self.feature_mean.dtype), self.power)
            return self.compute_logits((raised - self.feature_mean) / self.feature_scale)


def raise_features(features: Tensor, power: float) -> Tensor:
    """Return sign(x) * |x|^power, which evens out features that are rarely but strongly active.

    The square root of pooled activations is the Hellinger map of image retrieval (Arandjelovic & Zisserman 2012; power
    normalisation, Perronnin et al. 2010). The slope is infinite at 0, so this is for features that are not trained.
    """
    return features if power == 1 else features.sign() * features.abs().pow(power)


class LinearHead(Head):
    """One linear layer: logit_i = w_i . x + b_i, where x is the standardised feature vector."""

    arguments: ClassVar = {"power": _POWER}
    per_label: ClassVar = {"linear.weight": 0, "linear.bias": 0}

    def __init__(self, in_features: int, num_labels: int, power: float = 1.0) -> None:
        """Build the head; `power`, in (0, 1], is what features are raised to first, see `raise_features`."""
        super().__init__(in_features, num_labels)
        self.power = power
        self.linear = nn.Linear(in_features, num_labels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights (normal, sd 0.01), zero the bias, and undo the standardisation."""
        super().reset_parameters()
        nn.init.normal_(self.linear.weight, 0.0, SMALL)

    def compute_logits(self, features: Tensor) -> Tensor:
        """Map standardised features of shape (batch, in_features) to logits of shape (batch, num_labels)."""
        logits: Tensor = self.linear(features)
        return logits


class MlpHead(LinearHead):
    """Several new layers, then a linear one: h <- dropout(activation(norm(W h + c))), logit_i = w_i . h + b_i."""

    arguments: ClassVar = {
        "layers": _LAYERS, "width": _COUNT, "dropout": _DROPOUT, "norm": one_of("layer", "batch", "none"),
        "activation": one_of(*ACTIVATIONS), "power": _POWER,
    }  # fmt: skip

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

        Own arguments:
            layers: Hidden layers, at least 1.
            width: Of each hidden layer, at least 1.
            dropout: Share of hidden values set to 0 in training, in [0, 1).
            norm: `"layer"`, `"batch"` or `"none"`.
            activation: A key of `ACTIVATIONS`.
            power: See `LinearHead`.
        """
        Head.__init__(self, in_features, num_labels)
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

    def reset_parameters(self) -> None:
        """Draw new weights: hidden ones as He et al. 2015, those of the last layer normal, sd 0.01; biases are 0."""
        super().reset_parameters()
        _reset_layers(self.hidden, lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu"))
        for layer in self.hidden:
            if isinstance(layer, _BatchNorm):
                for name, statistic in layer.named_buffers():
                    (nn.init.ones_ if name == "running_var" else nn.init.zeros_)(statistic)

    def compute_logits(self, features: Tensor) -> Tensor:
        """Map standardised features of shape (batch, in_features) to logits of shape (batch, num_labels)."""
        return super().compute_logits(self.hidden(features))


def _reset_layers(layers: Iterable[nn.Module], draw: Callable[[Tensor], Tensor]) -> None:
    """Draw the weights of linear layers, and set those of norms to 1 and all biases to 0."""
    for layer in layers:
        if isinstance(layer, nn.Linear | nn.LayerNorm | _BatchNorm):
            (draw if isinstance(layer, nn.Linear) else nn.init.ones_)(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class _BatchNorm(nn.BatchNorm1d):
    """BatchNorm that also takes a single image in training, which has no spread: by the running statistics."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training and len(input) == 1:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(input)


class PositionsHead(Head):
    """A head that reads the positions of an image, with a vector and a bias per label of its own."""

    consumes = "positions"
    weight: nn.Parameter
    bias: nn.Parameter

    def reset_parameters(self) -> None:
        """Draw new vectors (normal, scores of sd 0.1), zero the bias, and undo the standardisation."""
        super().reset_parameters()
        nn.init.normal_(self.weight, 0.0, START / self.weight.shape[-1] ** 0.5)


class CsraHead(PositionsHead):
    """Class-specific residual attention (Zhu & Wu, ICCV 2021, arXiv 2108.02456).

    Label i scores every position j with its own vector, s_ij = w_i . x_j, and adds to the mean score an attention
    that looks where the label scores highest:

        logit_i = b_i + sum over T of [ mean_j s_ij + lam * sum_j softmax_j(T s_ij) s_ij ]

    Each temperature T has its own vectors (the paper's multi-head form); `"max"` stands for an infinite T, whose
    attention is max_j s_ij. With lam = 0 this is a linear layer on the mean position. The vectors are used as they
    are, not scaled to length 1, so that the logits can start at the bias.
    """

    arguments: ClassVar = {"temperatures": list_of(_TEMPERATURE, "numbers above 0 or 'max'"), "lam": number(0)}
    per_label: ClassVar = {"weight": 1, "bias": 0}

    def __init__(
        self, in_features: int, num_labels: int, temperatures: Sequence[float | str] = (1.0,), lam: float = 0.1
    ) -> None:
        """Build the head.

        Own arguments:
            temperatures: Numbers above 0 or `"max"`; the paper has `[1, "max"]` and `[1, 2, 4, "max"]`.
            lam: Weight of the attention beside the mean, at least 0.
        """
        super().__init__(in_features, num_labels)
        self.temperatures = tuple(temperatures)
        self.lam = lam
        self.weight = nn.Parameter(torch.empty(len(self.temperatures), num_labels, in_features))
        self.bias = nn.Parameter(torch.empty(num_labels))
        self.reset_parameters()

    def compute_logits(self, features: Tensor) -> Tensor:
        """Map standardised features of shape (batch, positions, in_features) to logits (batch, num_labels)."""
        logits: Tensor = self.bias
        for temperature, weight in zip(self.temperatures, self.weight, strict=True):
            scores = F.linear(features, weight)  # (batch, positions, num_labels)
            if isinstance(temperature, str):
                attended = scores.amax(dim=1)
            else:
                attended = (torch.softmax(temperature * scores, dim=1) * scores).sum(dim=1)
            logits = logits + scores.mean(dim=1) + self.lam * attended
        return logits


class MlDecoderHead(PositionsHead):
    """ML-Decoder (Ridnik et al. 2021, arXiv 2111.12933): queries attend to the positions, each for a group of labels.

    With positions E = relu(W x + c) and K queries q_k of the same width, one decoder layer without self-attention:

        h_k = norm(q_k + multi_head_attention(q_k, E, E)),  a_k = norm(h_k + feed_forward(h_k))

    and a group of g = ceil(num_labels / K) labels reads each answer (group fully-connected pooling):

        logit_i = w_i . a_(i div g) + b_i

    So 10,000 labels cost 100 queries. K is at most `queries`, and no query is made that would have no label.
    """

    arguments: ClassVar = {
        **dict.fromkeys(("queries", "width", "feed_forward", "heads"), _COUNT), "dropout": _DROPOUT,
        "learn_queries": FLAG,
    }  # fmt: skip
    per_label: ClassVar = {"weight": 0, "bias": 0, "queries": 0}
    queries: Tensor

    def __init__(
        self,
        in_features: int,
        num_labels: int,
        queries: int = 100,
        width: int = 768,
        feed_forward: int = 2048,
        heads: int = 8,
        dropout: float = 0.1,
        learn_queries: bool = False,
    ) -> None:
        """Build the head; the defaults are those of the authors' code.

        Own arguments:
            queries: The largest number of queries, at least 1.
            width: Of queries and attention, a multiple of `heads`.
            feed_forward: Width of the feed-forward layer, at least 1.
            heads: Of the attention, at least 1.
            dropout: Share of values set to 0 in training, in [0, 1).
            learn_queries: Train the queries; else they stay as drawn, and the layer that reads them is trained.
        """
        super().__init__(in_features, num_labels)
        if width % heads:
            raise HalflabelError(f"ml_decoder: width is {width}, expected a multiple of heads, which is {heads}")
        self.group_size = -(-num_labels // min(queries, num_labels))
        drawn = torch.empty(-(-num_labels // self.group_size), width)
        if learn_queries:
            self.queries = nn.Parameter(drawn)
        else:
            self.register_buffer("queries", drawn)
        self.heads = heads
        self.embed = nn.Linear(in_features, width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)  # softmax over the positions would cancel a bias
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, feed_forward)
        self.contract = nn.Linear(feed_forward, width)
        self.feed_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.weight = nn.Parameter(torch.empty(num_labels, width))
        self.bias = nn.Parameter(torch.empty(num_labels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new weights: queries with sd 1, the labels' vectors so that scores have sd 0.1; biases are 0."""
        super().reset_parameters()
        nn.init.normal_(self.queries)
        _reset_layers(self.children(), nn.init.xavier_uniform_)

    def rows_of_tensors(self, old: Head, rows: Sequence[int | None]) -> Mapping[str, Sequence[int | None]] | None:
        """Let each label take along the query that answered it.

        That is possible where no two labels with different queries would now share one: always while there are no more
        labels than `queries`, and while appended labels leave the group size as it is.
        """
        assert isinstance(old, MlDecoderHead)
        queries: list[int | None] = [None] * len(self.queries)
        for label, row in enumerate(rows):
            if row is not None:
                group, query = label // self.group_size, row // old.group_size
                if queries[group] not in (None, query):
                    return None
                queries[group] = query
        return {"weight": rows, "bias": rows, "queries": queries}

    def compute_logits(self, features: Tensor) -> Tensor:
        """Map standardised features of shape (batch, positions, in_features) to logits (batch, num_labels)."""
        memory = F.relu(self.embed(features))
        questions = self.query(self.queries).expand(features.shape[0], -1, -1)  # `len` would be fixed in an export
        parts = (questions, self.key(memory), self.value(memory))  # each (batch, queries or positions, width)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        dropout = self.dropout.p if self.training else 0.0
        attended = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        attended = self.out(attended.transpose(1, 2).flatten(2))  # (batch, queries, width)
        hidden = self.attention_norm(self.queries + self.dropout(attended))
        fed = self.contract(self.dropout(F.relu(self.expand(hidden))))
        answers = self.feed_norm(hidden + self.dropout(fed))
        count, width = self.queries.shape
        missing = count * self.group_size - len(self.weight)  # in the last group
        groups = F.pad(self.weight, (0, 0, 0, missing)).view(count, self.group_size, width)
        logits = torch.einsum("bkd,kgd->bkg", answers, groups).flatten(1)
        return logits[:, : len(self.weight)] + self.bias


HEADS: dict[str, type[Head]] = {"linear": LinearHead, "mlp": MlpHead, "csra": CsraHead, "ml_decoder": MlDecoderHead}


def find_head(head: str | type[Head]) -> type[Head]:
    """Return a head by its key in `HEADS`; a class as it is.

    Raises:
        HalflabelError: If there is none of that name, with the nearest, or if it is no such class.
    """
    if isinstance(head, type) and issubclass(head, Head):
        return head
    if is_own(head):
        raise missing_part("head", str(head))
    if head not in HEADS:
        nearest = did_you_mean(str(head), HEADS)
        raise HalflabelError(f"unknown head {head!r}; it is one of {', '.join(HEADS)}, or a subclass of Head{nearest}")
    return HEADS[str(head)]
