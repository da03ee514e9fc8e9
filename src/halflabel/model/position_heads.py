"""Heads that attend over the positions of an image: class-specific residual attention, and the ML-Decoder."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .feature_head import FeatureHead

START = 0.1
"""Standard deviation, roughly, of the scores that a label's drawn vector gives: logits hardly leave their bias."""


class CsraHead(FeatureHead):
    """Class-specific residual attention (Zhu & Wu, ICCV 2021, arXiv 2108.02456).

    Label i scores every position j with its own vector, s_ij = w_i . x_j, and adds to the mean score an attention
    that looks where the label scores highest:

        logit_i = b_i + sum over T of [ mean_j s_ij + lam * sum_j softmax_j(T s_ij) s_ij ]

    Each temperature T has its own vectors (the paper's multi-head form); `"max"` stands for an infinite T, whose
    attention is max_j s_ij. With lam = 0 this is a linear layer on the mean position. The vectors are used as they
    are, not scaled to length 1, so that the logits can start at the bias.
    """

    consumes = "positions"
    per_label: ClassVar = {"weight": 1, "bias": 0}

    def __init__(
        self, in_features: int, num_labels: int, temperatures: Sequence[float | str] = (1.0,), lam: float = 0.1
    ) -> None:
        """Build the head.

        Args:
            in_features: Width of a position's features.
            num_labels: How many labels.
            temperatures: One for each head: numbers above 0, or `"max"`. The paper's choice for two heads is
                `[1, "max"]`, for four `[1, 2, 4, "max"]`.
            lam: Weight of the attention beside the mean, at least 0.
        """
        super().__init__(in_features, num_labels)
        self.temperatures = tuple(temperatures)
        self.lam = lam
        self.weight = nn.Parameter(torch.empty(len(self.temperatures), num_labels, in_features))
        self.bias = nn.Parameter(torch.empty(num_labels))
        self.reset_parameters()

    @property
    def label_bias(self) -> Tensor:
        """The bias of the logits, shape (num_labels,)."""
        return self.bias

    def reset_parameters(self) -> None:
        """Draw new weights (normal, scores of sd 0.1), zero the bias, and undo the standardisation."""
        super().reset_parameters()
        nn.init.normal_(self.weight, 0.0, START / self.weight.shape[-1] ** 0.5)
        nn.init.zeros_(self.bias)

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


class MlDecoderHead(FeatureHead):
    """ML-Decoder (Ridnik et al. 2021, arXiv 2111.12933): queries attend to the positions, each for a group of labels.

    With positions E = relu(W x + c) and K queries q_k of the same width, one decoder layer without self-attention:

        h_k = norm(q_k + multi_head_attention(q_k, E, E)),  a_k = norm(h_k + feed_forward(h_k))

    and a group of g = ceil(num_labels / K) labels reads each answer (group fully-connected pooling):

        logit_i = w_i . a_(i div g) + b_i

    So 10,000 labels cost 100 queries. K is at most the number of labels, and at most `queries`; a query that would
    have no label is not made.
    """

    consumes = "positions"
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

        Args:
            in_features: Width of a position's features.
            num_labels: How many labels.
            queries: The largest number of queries, at least 1.
            width: Of queries and attention, a multiple of `heads`.
            feed_forward: Width of the feed-forward layer, at least 1.
            heads: Of the attention, at least 1.
            dropout: Share of values set to 0 in training, in [0, 1).
            learn_queries: Train the queries; else they stay as drawn, and the layer that reads them is trained.
        """
        super().__init__(in_features, num_labels)
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

    @property
    def label_bias(self) -> Tensor:
        """The bias of the logits, shape (num_labels,)."""
        return self.bias

    def reset_parameters(self) -> None:
        """Draw new weights: queries with sd 1, the labels' vectors so that scores have sd 0.1; biases are 0."""
        super().reset_parameters()
        nn.init.normal_(self.queries)
        for layer in (self.embed, self.query, self.key, self.value, self.out, self.expand, self.contract):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        for norm in (self.attention_norm, self.feed_norm):
            nn.init.ones_(norm.weight)
            nn.init.zeros_(norm.bias)
        nn.init.normal_(self.weight, 0.0, START / self.weight.shape[-1] ** 0.5)
        nn.init.zeros_(self.bias)

    def rows_of_tensors(
        self, old: FeatureHead, rows: Sequence[int | None]
    ) -> Mapping[str, Sequence[int | None]] | None:
        """Let each label take along the query that answered it.

        That is possible where no two labels with different queries would now share one: always while there are no
        more labels than `queries`, since each then has its own, and while appended labels leave the group size as it
        is.
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

    def _split(self, values: Tensor) -> Tensor:
        """Cut (..., length, width) into heads: (..., heads, length, width / heads)."""
        parts: Tensor = values.unflatten(-1, (self.heads, -1))
        return parts.transpose(-3, -2)

    def compute_logits(self, features: Tensor) -> Tensor:
        """Map standardised features of shape (batch, positions, in_features) to logits (batch, num_labels)."""
        memory = F.relu(self.embed(features))
        images = features.shape[0]  # `len` would fix the number of images in an export
        query = self._split(self.query(self.queries)).expand(images, -1, -1, -1)
        attended = F.scaled_dot_product_attention(
            query,
            self._split(self.key(memory)),
            self._split(self.value(memory)),
            dropout_p=self.dropout.p if self.training else 0.0,
        )
        attended = self.out(attended.transpose(1, 2).flatten(2))  # (batch, queries, width)
        hidden = self.attention_norm(self.queries + self.dropout(attended))
        fed = self.contract(self.dropout(F.relu(self.expand(hidden))))
        answers = self.feed_norm(hidden + self.dropout(fed))
        count, width = self.queries.shape
        missing = count * self.group_size - len(self.weight)  # in the last group
        groups = F.pad(self.weight, (0, 0, 0, missing)).view(count, self.group_size, width)
        logits = torch.einsum("bkd,kgd->bkg", answers, groups).flatten(1)
        return logits[:, : len(self.weight)] + self.bias
