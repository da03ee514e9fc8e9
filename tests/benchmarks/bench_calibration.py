"""Calibration error and kept promises on entries held out, over seeds and designs of synthetic scores.

    python tests/benchmarks/bench_calibration.py [--seeds 20] [--first 1000]

20,000 rows, 20 labels of prevalence 0.02 to 0.5, half of the entries known, true logits times 2.5 (and moved by 1.5):
fitted on the known entries of one half of the rows, measured on those of the other. Then labels with few positives: the
log-loss with a calibration of their own, and with the pooled one, over that of a constant score.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

from synthetic_scores import CHOSEN_ON, UNSEEN, synthetic

from halflabel import fit_decisions
from halflabel.decide import pooling
from halflabel.metrics.answers import f_score, precision, recall
from halflabel.metrics.calibration import calibration_error, log_loss

PRECISION, REACHED, MIN_POSITIVES = 0.9, 0.85, 200
SETS = (("scaled", "temperature", 0), ("scaled", "platt", 0), ("shifted", "platt", 1.5))
FEW = (1, 3, 6, 10, 20, 40, 80)


def halves(matrix):
    return matrix[: len(matrix) // 2], matrix[len(matrix) // 2 :]


def errors(design, seed, calibration, shift):
    """Mean and largest calibration error of the labels, before and after."""
    logits, labels, _ = synthetic(design, seed, shift=shift)
    (fit, test), (known, held_out) = halves(logits), halves(labels)
    rules = (fit_decisions(fit, known, "f1", one) for one in ("none", calibration))
    measured = [calibration_error(rule.scores(test), held_out) for rule in rules]
    return [value for one in measured for value in (one.mean(), one.max())]


def ideal_thresholds(design):
    """The lowest logit above which the precision is kept among 100,000 complete rows; infinite where there is none."""
    logits, _, labels = synthetic(design, 0, rows=100_000)
    order = np.argsort(-logits, axis=0)
    reached = np.cumsum(np.take_along_axis(labels, order, axis=0), axis=0) / np.arange(1, len(logits) + 1)[:, None]
    kept = reached >= PRECISION
    kept[:50] = False  # too few to tell
    last = len(kept) - 1 - np.argmax(kept[::-1], axis=0)
    lowest = np.take_along_axis(logits, np.take_along_axis(order, last[None], axis=0), axis=0)[0]
    return np.where(kept.any(axis=0), lowest, np.inf)


def promises(design, seed, ideal):
    """Of labels with enough positives that can reach the precision: the share that does, of all (a label without a yes
    does not) and of those with a yes; the same with the ideal thresholds; recall; all labels' share.
    """
    logits, labels, _ = synthetic(design, seed)
    (fit, test), (known, held_out) = halves(logits), halves(labels)
    rule = fit_decisions(fit, known, f"precision>={PRECISION}")
    enough = (known == 1).sum(axis=0) >= MIN_POSITIVES
    able = enough & np.isfinite(ideal)
    scores = rule.scores(test)
    reached = precision(scores, held_out, rule.thresholds)
    best = precision(test, held_out, np.minimum(ideal, 1e300))
    says_yes = able & ~np.isnan(reached)
    return [
        (reached[able] >= REACHED).mean(),
        (reached[says_yes] >= REACHED).mean(),
        (best[able] >= REACHED).mean(),
        recall(scores, held_out, rule.thresholds)[able].mean(),
        recall(test, held_out, np.minimum(ideal, 1e300))[able].mean(),
        able.sum() / enough.sum(),
    ]


def few_positives(seeds, shift_of_rare):
    """Per number of positives: log-loss over that of a constant score, and F1; both with own numbers and pooled."""
    prevalence = np.geomspace(5e-4, 0.3, 200)
    rows = {edge: [] for edge in FEW}
    for seed in seeds:
        shift = shift_of_rare * np.log(np.minimum(1 / prevalence - 1, 50))
        scale = np.exp(np.random.default_rng(seed).normal(np.log(2.5), 0.25, len(prevalence)))
        logits, labels, complete = synthetic(CHOSEN_ON["medium overlap"], seed, 12_000, scale, shift, prevalence)
        fit, known, test, truth = logits[:3000], labels[:3000], logits[3000:], complete[3000:]
        positives = (known == 1).sum(axis=0)
        constant = log_loss(np.broadcast_to(truth.mean(axis=0), truth.shape), truth)
        for_each = []
        for pooling.MIN_KNOWN in (1, 10**9):
            rule = fit_decisions(fit, known, "f1")
            scores = rule.scores(test)
            for_each += [log_loss(scores, truth) / constant, f_score(scores, truth, rule.thresholds)]
        pooling.MIN_KNOWN = 10
        place = np.searchsorted(FEW, positives, "right") - 1
        for i in np.flatnonzero((place >= 0) & truth.any(axis=0)):
            rows[FEW[place[i]]].append([one[i] for one in for_each])
    return rows


def spread(values):
    return f"{np.nanmin(values):.3f} {np.nanmedian(values):.3f} {np.nanmax(values):.3f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=1000)
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.seeds)
    print(f"min, median, max over {len(seeds)} seeds")
    for name, design in (CHOSEN_ON | UNSEEN).items():
        print(f"\n{name}{' (unseen)' if name in UNSEEN else ''}")
        for what, calibration, shift in SETS:
            found = np.array([errors(design, seed, calibration, shift) for seed in seeds]).T
            before, worst_before, after, worst_after = (spread(one) for one in found)
            print(f"  ECE {what:8} {calibration:11} mean {before} -> {after}   worst {worst_before} -> {worst_after}")
        ideal = ideal_thresholds(design)
        *shares, own_recall, ideal_recall, able = np.array([promises(design, seed, ideal) for seed in seeds]).T
        print(f"  precision>={PRECISION}: possible for {able.mean():.2f} of the labels, recall {own_recall.mean():.3f} "
              f"of {ideal_recall.mean():.3f}; {REACHED} is reached by")  # fmt: skip
        for whose, share in zip(("all", "those with a yes", "all, at ideal thresholds"), shares, strict=True):
            print(f"    {whose:25} {spread(share)}")
    for shift_of_rare, what in ((0, "scaled"), (1, "scaled, rare labels moved up as by a weight of positives")):
        print(f"\nfew positives, {what}: log-loss own, pooled; F1 own, pooled")
        for edge, rows in few_positives(seeds[:5], shift_of_rare).items():
            means = np.nanmean(np.array(rows), axis=0)
            print(f"  from {edge:3} positives: {means[0]:.3f} {means[2]:.3f}; {means[1]:.3f} {means[3]:.3f}")


if __name__ == "__main__":
    main()
