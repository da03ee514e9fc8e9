"""Pseudo-labels: calibrated guesses at unknown entries, and how often such guesses are right where we know.

Every known entry is hidden once, in one of several folds; what is said of it then, by a probe on the features and by
its neighbours in feature space, is the like of what is said of entries that are truly unknown. From these the evidence
is weighed, the precision of the pseudo-labels measured, and the round that foretells best is kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..model.errors import HalflabelError, did_you_mean, number
from ..model.heads import raise_features
from ..model.labels import IGNORE_INDEX
from .evidence import (
    FeatureBasis,
    Fit,
    Weighing,
    log_odds_beyond,
    mean_log_loss,
    neighbour_graph,
    propagate,
    smoothed_share,
)

Matrix = NDArray[np.float64]
Mask = NDArray[np.bool_]

PENALTIES = (0.01, 0.04, 0.16)
"""What the probe's ridge penalty per feature is chosen from, by the log loss of hidden known entries."""

LEAST = 2
"""A label needs this many known yes and as many known no, or it gets no pseudo-labels."""


@dataclass(frozen=True)
class PseudoLabelOptions:
    """How pseudo-labels are made.

    Attributes:
        neighbours: Of an image in the graph.
        confidence: An entry is guessed where its answer has at least this chance, in [0.5, 1).
        rounds: How often a probe is trained on the guesses and guesses again; round r of R may guess at r / R of each
            label's unknown entries, the surest ones.
        folds: In how many parts the known entries are hidden, at least 2.
    """

    neighbours: int = 5
    confidence: float = 0.75
    rounds: int = 2
    folds: int = 5

    @classmethod
    def of(cls, given: Mapping[str, Any] | None) -> "PseudoLabelOptions":
        """Read the mapping of a recipe.

        Raises:
            HalflabelError: On an unknown name, or a value out of range.
        """
        for name, value in (given or {}).items():
            if name not in _RANGES:
                taken = f"it takes {', '.join(_RANGES)}{did_you_mean(name, _RANGES)}"
                raise HalflabelError(f"pseudo_args takes no {name!r}; {taken}")
            _RANGES[name].check(f"pseudo_args: {name}", value)
        return cls(**(given or {}))


_COUNT = number(1, whole=True)
_RANGES = {
    "neighbours": _COUNT, "confidence": number(0.5, 1, below=True), "rounds": _COUNT, "folds": number(2, whole=True),
}  # fmt: skip


def pool(features: Any, power: float) -> NDArray[np.float32]:  # noqa: ANN401 - a tensor, or rows on disk
    """Return one vector per row: the mean over positions where the head consumes these."""
    if isinstance(features, torch.Tensor) and features.ndim == 2:
        pooled = features.float()
    else:
        pooled = torch.stack([features[row].float().mean(dim=0) for row in range(len(features))])
    return np.asarray(raise_features(pooled, power))


def make_pseudo_labels(
    features: NDArray[np.floating],
    labels: NDArray[np.int8],
    names: Sequence[str],
    options: PseudoLabelOptions,
    views: int = 1,
    seed: int = 0,
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """Guess unknown entries from the features and from what is known.

    Self-training (Yarowsky 1995) on evidence that is weighed by hidden known entries, as in stacking (Wolpert 1992).
    Deterministic for a seed.

    Args:
        features: Shape (n * views, width), pooled and untouched by training; all views of an image in a row.
        labels: Shape (n, num_labels): 1, 0, `IGNORE_INDEX`; an `UNCERTAIN` entry is neither guessed nor learned from.
        names: The labels.
        options: See `PseudoLabelOptions`.
        views: Rows per image.
        seed: Of the folds.

    Returns:
        Targets of shape (n, num_labels): known entries as they were, pseudo-labels in [0, 1], else negative codes; and
        a report for JSON: `rounds`, see `_Chains.run`; `kept_round`, the number of the round that the targets are of,
        from 1, or 0 where none made known entries better foretold than training on known entries alone, so that the
        targets are the labels; `known_only_log_loss`, of a probe that is trained on known entries alone, at hidden
        ones; and `labels_without`, which get no pseudo-labels for want of known yes or no.
    """
    able = np.minimum((labels == 1).sum(axis=0), (labels == 0).sum(axis=0)) >= LEAST
    without = [name for name, enough in zip(names, able, strict=True) if not enough]
    targets = labels.astype(np.float32)
    rounds: list[dict[str, Any]] = []
    found = []
    report: dict[str, Any] = {"kept_round": 0, "known_only_log_loss": None, "rounds": rounds, "labels_without": without}
    if not (labels == IGNORE_INDEX).any() or not able.any():
        return targets, report
    chains = _Chains(features, labels[:, able], options, views, seed)
    for turn in range(1, options.rounds + 1):
        one, guessed = chains.run(turn)
        rounds.append(one)
        found.append(guessed)
        if turn > 1 and (one["precision"] or 0) < (rounds[-2]["precision"] or 0):
            break  # guesses of guesses have become worse
    report["known_only_log_loss"] = chains.known_log_loss
    best = int(np.argmin([one["probe_log_loss"] for one in rounds]))
    if rounds[best]["probe_log_loss"] < chains.known_log_loss:
        report["kept_round"], targets[:, able] = best + 1, found[best]
    return targets, report


class _Chains:
    """The same self-training once for all that is known, and once without each fold of it.

    Attributes:
        logits: Of the probe, shape (folds + 1, n, num_labels): chain k has not seen the entries of fold k; the last
            chain has seen all.
        nearby: What the neighbours say beyond each label's prior, in log-odds; the same shape.
        known_log_loss: Of the first probes, on known entries that were hidden from them.
    """

    def __init__(
        self,
        features: NDArray[np.floating],
        labels: NDArray[np.int8],
        options: PseudoLabelOptions,
        views: int,
        seed: int,
    ) -> None:
        """Fit the first probes, on known entries alone, and spread these over the graph."""
        self.labels, self.known, self.options = labels, labels >= 0, options
        self.fold = _draw_folds(labels, options.folds, seed)
        self.seen = [*(np.where(self.fold == k, IGNORE_INDEX, labels) for k in range(options.folds)), labels]
        graph = neighbour_graph(features.reshape(len(labels), views, -1).mean(axis=1), options.neighbours)
        spread = (log_odds_beyond(propagate(graph, seen), smoothed_share(seen, seen >= 0)) for seen in self.seen)
        self.nearby = np.stack(list(spread))
        self.basis = FeatureBasis.of(features, views)
        tried = {penalty: self._fit(self.seen, penalty) for penalty in PENALTIES}
        losses = {penalty: self._log_loss(logits) for penalty, logits in tried.items()}
        self.penalty, self.known_log_loss = min(losses.items(), key=lambda item: item[1])
        self.logits = tried[self.penalty]

    def run(self, turn: int) -> tuple[dict[str, Any], NDArray[np.float32]]:
        """Weigh the evidence, guess, and train the next probes on the guesses.

        Returns:
            What the round found, and the targets. Found are the numbers of pseudo-labels that lean to `yes` and to
            `no`; the `precision`, which is the share of right answers where a hidden known entry would have got a
            pseudo-label, None without one, and how many `hidden` ones it rests on; the `log_loss` in nats of the
            guesses at all hidden known entries; the `probe_log_loss` of a probe trained on the pseudo-labels, too, at
            known entries that were hidden from all of it; and the `weights` of the probe's and of the neighbours' word.
        """
        sources = [self._hidden(self.logits), self._hidden(self.nearby)]
        weighing, share = Weighing.fit(sources, self.labels, self.known), turn / self.options.rounds
        targets = []
        for *pair, seen in zip(self.logits, self.nearby, self.seen, strict=True):
            scores = weighing.scores(pair)
            targets.append(np.where(self._sure(scores, seen == IGNORE_INDEX, share), scores, seen))
        hidden, sure = self._judge(sources, share)
        self.logits = self._fit(targets, self.penalty)
        guessed = (self.labels == IGNORE_INDEX) & (targets[-1] >= 0)
        right = sure & ((hidden >= 0.5) == (self.labels == 1))
        found = {
            "yes": int((guessed & (targets[-1] >= 0.5)).sum()),
            "no": int((guessed & (targets[-1] < 0.5)).sum()),
            "precision": float(right.sum() / sure.sum()) if sure.any() else None,
            "hidden": int(sure.sum()),
            "log_loss": float(-np.log(np.where(self.labels == 1, hidden, 1 - hidden)[self.known]).mean()),
            "probe_log_loss": self._log_loss(self.logits),
            "weights": weighing.weights.tolist(),
        }
        return found, targets[-1].astype(np.float32)

    def _judge(self, sources: Sequence[Matrix], share: float) -> tuple[Matrix, Mask]:
        """Return scores of hidden known entries, weighed as the other folds say, and which would get pseudo-labels."""
        scores, sure = np.full(self.known.shape, 0.5), np.zeros_like(self.known)
        for k in range(self.options.folds):
            own = self.fold == k
            scores[own] = Weighing.fit(sources, self.labels, self.known & ~own).scores(sources)[own]
            sure |= self._sure(scores, own, share)
        return scores, sure

    def _sure(self, scores: Matrix, candidates: Mask, share: float) -> Mask:
        """Return which candidates get a pseudo-label: sure enough, and among the surest share of their label's."""
        chance = np.maximum(scores, 1 - scores)
        sure = candidates & (chance >= self.options.confidence)
        limit = np.floor(share * candidates.sum(axis=0)).astype(int)
        rank = np.argsort(np.argsort(-np.where(sure, chance, -1.0), axis=0, kind="stable"), axis=0, kind="stable")
        return np.asarray(sure & (rank < limit))

    def _hidden(self, values: Matrix) -> Matrix:
        """Return for each entry what the chain says that has not seen it; shape (n, num_labels)."""
        chain = np.where(self.known, self.fold, self.options.folds)
        found: Matrix = np.take_along_axis(values, chain[None], axis=0)[0]
        return found

    def _fit(self, targets: Sequence[Matrix], penalty: float) -> Matrix:
        """Fit every chain's probe; the one that has seen all comes first, and the others start from it."""
        fits: list[Fit] = []
        for one in reversed(targets):
            known = (one >= 0).astype(np.float64)
            fits.append(self.basis.fit(one.astype(np.float64), known, penalty, fits[0] if fits else None))
        return np.stack([fit.logits for fit in reversed(fits)])

    def _log_loss(self, logits: Matrix) -> float:
        return mean_log_loss(self._hidden(logits), self.labels, self.known)


def _draw_folds(labels: NDArray[np.int8], folds: int, seed: int) -> NDArray[np.int64]:
    """Deal the known yes and the known no of each label out evenly; unknown entries are in fold -1."""
    rng = np.random.default_rng(seed)
    fold = np.full(labels.shape, -1)
    for j in range(labels.shape[1]):
        for answer in (1, 0):
            rows = rng.permutation(np.flatnonzero(labels[:, j] == answer))
            fold[rows, j] = (np.arange(len(rows)) + rng.integers(folds)) % folds
    return fold
