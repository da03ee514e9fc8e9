"""Pseudo-labels: calibrated guesses at unknown entries, and how often such guesses are right where we know.

Every known entry is hidden once, in one of several folds; what is said of it then, by a probe on the features and by
its neighbours in feature space, is the like of what is said of entries that are truly unknown. From these the evidence
is weighed, the precision of the pseudo-labels measured, and the round that foretells best is kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..model.errors import HalflabelError, did_you_mean, number
from ..model.labels import IGNORE_INDEX
from .evidence import FeatureBasis, Fit, Weighing, log_odds_beyond, mean_log_loss, neighbour_graph, propagate

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
        names = cls.__dataclass_fields__
        for name in given or {}:
            if name not in names:
                raise HalflabelError(
                    f"pseudo_args takes no {name!r}; it takes {', '.join(names)}{did_you_mean(name, names)}"
                )
        options = cls(**(given or {}))
        whole = number(1, whole=True)
        kinds = {"neighbours": whole, "confidence": number(0.5, 1, below=True), "rounds": whole,
                 "folds": number(2, whole=True)}  # fmt: skip
        for name, kind in kinds.items():
            kind.check(f"pseudo_args: {name}", getattr(options, name))
        return options


@dataclass(frozen=True)
class Round:
    """What a round guessed, and how good guesses of its kind are at known entries that were hidden from it.

    Attributes:
        yes: Pseudo-labels that lean to yes.
        no: Pseudo-labels that lean to no.
        precision: Share of right answers where a hidden known entry would have got a pseudo-label; None: there is none.
        hidden: How many hidden known entries that rests on.
        log_loss: Of the guesses at all hidden known entries, in nats.
        probe_log_loss: Of a probe trained on the pseudo-labels, too, at known entries that were hidden from all of it.
        weights: Of the probe's and of the neighbours' evidence.
    """

    yes: int
    no: int
    precision: float | None
    hidden: int
    log_loss: float
    probe_log_loss: float
    weights: tuple[float, ...]


@dataclass(frozen=True)
class PseudoLabels:
    """The targets to train on, and how they came about.

    Attributes:
        targets: Shape (n, num_labels): known entries as they were, pseudo-labels in [0, 1], else negative codes.
        rounds: What each round found.
        kept: The number of the round that the targets are of, from 1; 0: none made known entries better foretold than
            training on known entries alone, so the targets are the labels.
        known_log_loss: Of a probe that is trained on known entries alone, at hidden ones.
        without: Numbers of the labels without pseudo-labels, for want of known yes or no.
    """

    targets: NDArray[np.float32]
    rounds: tuple[Round, ...] = ()
    kept: int = 0
    known_log_loss: float | None = None
    without: tuple[int, ...] = ()

    def to_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """Return all but the targets as plain values, labels by name."""
        return {
            "kept_round": self.kept,
            "known_only_log_loss": self.known_log_loss,
            "rounds": [asdict(one) | {"weights": list(one.weights)} for one in self.rounds],
            "labels_without": [names[j] for j in self.without],
        }


def make_pseudo_labels(
    features: NDArray[np.floating],
    labels: NDArray[np.int8],
    options: PseudoLabelOptions | None = None,
    views: int = 1,
    seed: int = 0,
) -> PseudoLabels:
    """Guess unknown entries from the features and from what is known.

    Self-training (Yarowsky 1995) on evidence that is weighed by hidden known entries, as in stacking (Wolpert 1992).
    Deterministic for a seed.

    Args:
        features: Shape (n * views, width), pooled and untouched by training; all views of an image in a row.
        labels: Shape (n, num_labels): 1, 0, `IGNORE_INDEX`; an `UNCERTAIN` entry is neither guessed nor learned from.
        options: See `PseudoLabelOptions`.
        views: Rows per image.
        seed: Of the folds.

    Returns:
        The targets and the report. Without an unknown entry, the labels themselves.
    """
    options = options or PseudoLabelOptions()
    plain = labels.astype(np.float32)
    counts = np.minimum((labels == 1).sum(axis=0), (labels == 0).sum(axis=0))
    able = counts >= LEAST
    without = tuple(int(j) for j in np.flatnonzero(~able))
    if not (labels == IGNORE_INDEX).any() or not able.any():
        return PseudoLabels(plain, without=without)
    chains = _Chains(features, labels[:, able], options, views, seed)
    rounds, found = [], []
    for turn in range(1, options.rounds + 1):
        one, targets = chains.run(turn)
        rounds.append(one)
        found.append(targets)
        if turn > 1 and (one.precision or 0) < (rounds[-2].precision or 0):
            break  # guesses of guesses have become worse
    best = int(np.argmin([one.probe_log_loss for one in rounds]))
    kept = best + 1 if rounds[best].probe_log_loss < chains.known_log_loss else 0
    if kept:
        plain[:, able] = found[best]
    return PseudoLabels(plain, tuple(rounds), kept, chains.known_log_loss, without)


@dataclass
class _Chains:
    """The same self-training once for all that is known, and once without each fold of it.

    Attributes:
        logits: Of the probe, shape (folds + 1, n, num_labels): chain k has not seen the entries of fold k; the last
            chain has seen all.
    """

    features: NDArray[np.floating]
    labels: NDArray[np.int8]
    options: PseudoLabelOptions
    views: int
    seed: int
    logits: Matrix = field(init=False)
    known_log_loss: float = field(init=False)

    def __post_init__(self) -> None:
        """Fit the first probes, on known entries alone, and spread these over the graph."""
        self.known = self.labels >= 0
        self.fold = _draw_folds(self.labels, self.options.folds, self.seed)
        self.basis = FeatureBasis.of(self.features, self.views)
        self.seen = [np.where(self.fold == k, IGNORE_INDEX, self.labels) for k in range(self.options.folds)]
        self.seen.append(self.labels)
        means = self.features.reshape(len(self.labels), self.views, -1).mean(axis=1)
        graph = neighbour_graph(means, self.options.neighbours)
        self.nearby = np.stack([log_odds_beyond(propagate(graph, seen), _prior(seen)) for seen in self.seen])
        candidates = {penalty: self._fit([seen.astype(np.float64) for seen in self.seen], penalty)
                      for penalty in PENALTIES}  # fmt: skip
        losses = {penalty: self._log_loss(logits) for penalty, logits in candidates.items()}
        self.penalty = min(losses, key=lambda penalty: losses[penalty])
        self.logits, self.known_log_loss = candidates[self.penalty], losses[self.penalty]

    def run(self, number: int) -> tuple[Round, NDArray[np.float32]]:
        """Weigh the evidence, guess, and train the next probes on the guesses."""
        sources = [self._hidden(self.logits), self._hidden(self.nearby)]
        weighing = Weighing.fit(sources, self.labels, self.known)
        scores = np.stack([weighing.scores(pair) for pair in zip(self.logits, self.nearby, strict=True)])
        hidden = self._cross_weighed(sources)
        share = number / self.options.rounds
        targets = []
        for one, seen in zip(scores, self.seen, strict=True):
            targets.append(np.where(self._sure(one, seen == IGNORE_INDEX, share), one, seen))
        sure, right = self._judge(hidden, share)
        self.logits = self._fit(targets, self.penalty)
        guessed = (self.labels == IGNORE_INDEX) & (targets[-1] >= 0)
        truth = self.labels[self.known]
        loss = -np.where(truth == 1, np.log(hidden[self.known]), np.log1p(-hidden[self.known])).mean()
        found = Round(
            yes=int((guessed & (targets[-1] >= 0.5)).sum()),
            no=int((guessed & (targets[-1] < 0.5)).sum()),
            precision=float(right / sure) if sure else None,
            hidden=sure,
            log_loss=float(loss),
            probe_log_loss=self._log_loss(self.logits),
            weights=tuple(float(weight) for weight in weighing.weights),
        )
        return found, targets[-1].astype(np.float32)

    def _cross_weighed(self, sources: Sequence[Matrix]) -> Matrix:
        """Return the scores of hidden known entries, weighed for each fold as the other folds say."""
        scores = np.full(self.known.shape, 0.5)
        for k in range(self.options.folds):
            own = self.fold == k
            weighing = Weighing.fit(sources, self.labels, self.known & ~own)
            scores[own] = weighing.scores(sources)[own]
        return scores

    def _sure(self, scores: Matrix, candidates: Mask, share: float) -> Mask:
        """Return which candidates get a pseudo-label: sure enough, and among the surest share of their label's."""
        chance = np.maximum(scores, 1 - scores)
        sure = candidates & (chance >= self.options.confidence)
        limit = np.floor(share * candidates.sum(axis=0)).astype(int)
        rank = np.argsort(np.argsort(-np.where(sure, chance, -1.0), axis=0, kind="stable"), axis=0, kind="stable")
        return np.asarray(sure & (rank < limit))

    def _judge(self, hidden: Matrix, share: float) -> tuple[int, int]:
        """Count the known entries that, hidden, would get a pseudo-label, and those where it would be right."""
        sure = np.zeros_like(self.known)
        for k in range(self.options.folds):
            sure |= self._sure(hidden, self.fold == k, share)
        return int(sure.sum()), int((sure & ((hidden >= 0.5) == (self.labels == 1))).sum())

    def _hidden(self, values: Matrix) -> Matrix:
        """Return for each entry what the chain says that has not seen it; shape (n, num_labels)."""
        chain = np.where(self.known, self.fold, self.options.folds)
        found: Matrix = np.take_along_axis(values, chain[None], axis=0)[0]
        return found

    def _fit(self, targets: Sequence[Matrix], penalty: float) -> Matrix:
        """Fit every chain's probe; the one that has seen all comes first, and the others start from it."""
        fits: list[Fit] = []
        for one in reversed(targets):
            fits.append(self.basis.fit(one, (one >= 0).astype(np.float64), penalty, fits[0] if fits else None))
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


def _prior(labels: NDArray[Any]) -> Matrix:
    known = labels >= 0
    return np.asarray((np.where(known, labels, 0).sum(axis=0) + 1) / (known.sum(axis=0) + 2))
