"""One network for all labels against one for each: trained for as long, from the same seeds, on the same images."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.images import AnnotatedImages
from ..metrics.entries import Floats
from ..model.errors import shortlist
from ..model.labels import IGNORE_INDEX, IntMatrix
from .advice_data import NOT_ENOUGH
from .affinity import mean_known_loss
from .fine_tuning_advice import EPOCHS, RUNS, TUNING_INFLATION, number_runs, train_and_predict
from .network_comparison import CI, HELPS, HURTS, NO_EVIDENCE, compare_pair, measured
from .ranking_influence import holm, ranks_within

log = logging.getLogger(__name__)

WAYS = ("joint", "single")


def train_both_ways(
    images: AnnotatedImages,
    weights: tuple[str, str],
    folds: NDArray[np.intp],
    groups: NDArray[np.intp],
    seed: int = 0,
    quiet: bool = False,
) -> dict[str, Any]:
    """Fine-tune one network on all labels, and one on each label alone; several runs, each with its own test folds.

    Args:
        images: Pictures with the labels that are compared, at least two; their splits do not count.
        weights: A timm name, and where its weights come from.
        folds: The fold of each image.
        groups: The number of each image's group.
        seed: Of the first run; the next has the next. Both ways share it.
        quiet: Show no progress bars.

    Returns:
        As a dict for JSON `epochs`, `runs`, `trainings`, and per label `auroc` and `ap` of both ways with the gain
        (joint minus single) and its interval, `training_loss` of both, and a verdict.
    """
    names, run_of = images.label_space.names, number_runs(folds)
    scores = {way: np.full(images.labels.shape, np.nan) for way in WAYS}
    losses = {way: np.zeros((RUNS, len(names))) for way in WAYS}
    for run in range(RUNS):
        tested = run_of == run
        part = images.with_column("split", np.where(tested, "test", "train"))
        for way, together in (("joint", [names]), ("single", [(name,) for name in names])):
            columns = []
            for some in together:
                log.info("run %d of %d: a network for %s", run + 1, RUNS, shortlist(some))
                only = part.with_only(some)
                columns.append(train_and_predict(only, *weights, EPOCHS, seed + run, quiet, everywhere=True))
            logits = np.concatenate(columns, axis=1)
            scores[way][tested] = logits[tested]
            losses[way][run] = mean_known_loss(logits[~tested], images.labels[~tested])
    known = np.where((run_of >= 0)[:, None], images.labels, IGNORE_INDEX).astype(np.int8)
    ranks = {way: ranks_within(np.where(known >= 0, values, np.nan), run_of) for way, values in scores.items()}
    rows = compare_ways(ranks, known, names, groups)
    for column, name in enumerate(names):
        rows[name]["training_loss"] = {way: float(losses[way][:, column].mean()) for way in WAYS}
    return {"epochs": EPOCHS, "runs": RUNS, "trainings": RUNS * (len(names) + 1), "labels": rows}


def compare_ways(
    scores: dict[str, Floats], labels: IntMatrix, names: Sequence[str], groups: NDArray[np.intp]
) -> dict[str, dict[str, Any]]:
    """Compare both ways on tested entries, label by label, with verdicts that are corrected for the number of labels.

    Args:
        scores: Of `joint` and `single`, each of shape (n, num_labels); larger means more likely yes.
        labels: Same shape: 1, 0, or below 0 for entries that are not known or not tested.
        names: Of the labels.
        groups: The number of each image's group.
    """
    compared: dict[str, dict[str, Any]] = {name: {"auroc": None, "ap": None, "p": None} for name in names}
    for column, name in enumerate(names):
        rows = measured(labels, groups, column)
        if rows is None:
            continue
        yes = labels[rows, column] == 1
        both = [scores[way][rows, column] for way in WAYS]
        for key, (joint, single, gain) in compare_pair(both, yes, groups[rows], TUNING_INFLATION).items():
            low, high = gain.interval(CI)
            compared[name][key] = {
                "joint": joint.value, "single": single.value, "gain": gain.value, "low": low, "high": high,
            }  # fmt: skip
            if key == "auroc":
                compared[name]["p"] = gain.p_value()
    tested = [name for name in names if compared[name]["p"] is not None]
    for name, corrected in zip(tested, holm([compared[name]["p"] for name in tested]), strict=True):
        compared[name]["p_holm"] = float(corrected)
    return {name: _judge(name, row) for name, row in compared.items()}


def _judge(name: str, row: dict[str, Any]) -> dict[str, Any]:
    if row["p"] is None:
        return {**row, "p_holm": None, "verdict": NOT_ENOUGH, "sentence": f"{name}: {NOT_ENOUGH}"}
    auroc = row["auroc"]
    verdict = NO_EVIDENCE
    if row["p_holm"] < 1 - CI:
        verdict = HELPS if auroc["gain"] > 0 else HURTS
    sentence = (
        f"{name}: training together {'gives ' if verdict == NO_EVIDENCE else ''}{verdict}: AUROC {auroc['joint']:.2f} "
        f"together, {auroc['single']:.2f} alone, gain {auroc['gain']:+.3f} "
        f"({auroc['low']:+.3f} to {auroc['high']:+.3f})"
    )
    return {**row, "verdict": verdict, "sentence": sentence}
