"""Which recipe to recommend: judged on held-out training entries, never on the test split."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..metrics.entries import mean_defined
from ..metrics.intervals import mean_over_labels, percentile_interval, resample_ranking
from ..metrics.ranking import roc_auc
from ..model.labels import IGNORE_INDEX, UNCERTAIN, IntMatrix
from .compare_settings import Entrant

Floats = NDArray[np.float64]

FEW = 20
"""With fewer known entries per label than this, on average, cross-validation cannot tell recipes apart."""

SAMPLES = 200
"""How many resamples of the images an interval rests on."""

BY_AUROC = "mean of the AUROC of known entries and that of known yes against all other images"
BY_RULE = "rule of thumb"

# The losses from best to worst where only positives, or a handful of answers, are known: the measured table "Which loss
# for which kind of missing labels" in recipes/README.md, the mean of its columns "single positive" and "5 per label".
_FEW_ANSWERS = ("ll_r", "wan", "splc", "unknown: negative", "selective", "ll_ct", "bce", "em", "asl", "focal")


@dataclass(frozen=True)
class Verdict:
    """A recommended recipe: its name as it was given, a sentence that says why, and `BY_AUROC` or `BY_RULE`."""

    recipe: str
    reason: str
    by: str


def judge(logits: Floats, labels: IntMatrix, seed: int = 0) -> tuple[float, Floats]:
    """Measure held-out logits by what few known entries tell most reliably of a ranking.

    Average precision of few known entries is mostly chance; the area under the ROC curve is less so, and does not
    depend on how often the annotated images show a label. It is the mean of two. One is of known yes against known no.
    The other is of known yes against all other images: where it is chance which yes are known, it grows linearly with
    the true area (Menon et al. 2015, "Learning from Corrupted Binary Labels via Class-Probability Estimation"), and
    it is there without a known no, and rests on all images. Where one is undefined, the other counts alone.

    Args:
        logits: Shape (n, num_labels), each by a model that has not seen the image.
        labels: Same shape: 1, 0, or below 0 for unknown entries.
        seed: Of the resamples of the images.

    Returns:
        The mean over labels, NaN if undefined for all; and that of `SAMPLES` resamples, which are the same for all
        logits of the same images.
    """
    against_all = np.where(labels == UNCERTAIN, IGNORE_INDEX, labels == 1).astype(np.int8)
    kinds = (labels, against_all)
    value = mean_defined(np.array([mean_defined(roc_auc(logits, kind)) for kind in kinds]))
    resampled = [mean_over_labels(resample_ranking(logits, kind, SAMPLES, seed).roc_auc) for kind in kinds]
    return value, mean_over_labels(np.stack(resampled, axis=1))


def choose(
    entrants: Sequence[Entrant], known_per_label: float, judged: Mapping[str, Floats], resampled: Mapping[str, Floats]
) -> Verdict:
    """Recommend the recipe that is judged best, or, where too little is known to judge, by the rule of thumb.

    The best one is taken even where it does not stand clear of an earlier one, which the reason says. To prefer the
    earlier within one standard error was right in 9 of 12 settings of `tests/benchmarks/bench_compare.py`, the best in
    all, and in 23 against 33 of 36 for single seeds.

    Args:
        entrants: In the order in which they were given; of equals, the first is taken.
        known_per_label: How many known training entries a label has, on average.
        judged: By recipe, the values of `judge` per seed, shape (seeds,).
        resampled: By recipe, of the resamples, shape (seeds, samples).
    """
    values = {one.name: mean_defined(judged[one.name]) for one in entrants}
    if known_per_label < FEW:
        return _by_rule(entrants, f"{known_per_label:.3g} known entries per label are too few to cross-validate")
    if any(np.isnan(value) for value in values.values()):
        return _by_rule(entrants, "no label can be ranked on held-out entries")
    best, *others = sorted(values, key=lambda name: -values[name])
    reason = f"held-out AUROC {values[best]:.3f}"
    if others:
        low, high = percentile_interval(mean_over_labels((resampled[best] - resampled[others[0]]).T))
        clear = "" if low > 0 else ", not clearly"
        reason += f", {values[best] - values[others[0]]:.3f} above {others[0]}{clear} ({low:+.3f} to {high:+.3f})"
    return Verdict(best, reason, BY_AUROC)


def _by_rule(entrants: Sequence[Entrant], why: str) -> Verdict:
    """Take the recipe whose objective is the highest in the measured table."""
    objectives = {one.name: _objective(one) for one in entrants}
    best = min(objectives, key=lambda name: _FEW_ANSWERS.index(objectives[name]))
    reason = f"{why}; of these objectives {objectives[best]} did best with few answers, see recipes/README.md"
    return Verdict(best, reason, BY_RULE)


def _objective(entrant: Entrant) -> str:
    loss, unknown = entrant.recipe.model.loss, entrant.recipe.data.unknown
    return "unknown: negative" if (loss, unknown) == ("bce", "negative") else str(loss)
