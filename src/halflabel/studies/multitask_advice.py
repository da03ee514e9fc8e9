"""Does it make sense to train these labels together? The three conditions, measured on a backbone's features.

Multi-task learning pays where tasks share low-level features, have similar amounts of data, and share a network that is
big enough. The first is measured by probes that share a layer, the second by `advice_data`, the third by how narrow
that layer may be; a `full` budget trains networks both ways, and what they show, be it nothing, goes before what the
features hint at.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.images import AnnotatedImages
from ..metrics.entries import Floats
from ..model.errors import shortlist
from ..model.labels import IGNORE_INDEX, IntMatrix, count_labels
from ..training.folds import cut_folds
from ..training.guesses import FeatureBasis, mean_log_loss
from .advice_data import MIN_IMAGES
from .held_out import HELPS, HURTS, NO_EVIDENCE, NOT_ENOUGH, Comparison, Measured, judge, measurable
from .networks import EPOCHS, PENALTY, RUNS, BackboneFeatures, held_out_probe, held_out_training, number_runs
from .transfer_advice import FOLDS, INFLATION, TUNING_INFLATION, rank_known

MOST_LABELS, MOST_TRAINED = 24, 8
"""So many labels are compared on features, and so many are trained on their own: those of which most is known."""

NOT_APPLICABLE = "not applicable"
BIG_ENOUGH, _ENOUGH = "big enough", 1.1
WAYS = ("together", "alone")


def advise_multi_task(
    images: AnnotatedImages,
    features: BackboneFeatures | None,
    balance: Mapping[str, Any],
    budget: str = "quick",
    seed: int = 0,
) -> dict[str, Any]:
    """Say whether the labels should be trained together, as a dict for JSON; what is undefined is None.

    Args:
        images: The images that the features are of.
        features: Those of the backbone that is to be shared; None: no backbone could be had.
        balance: What `advice_data.advise_data` found about the labels' amounts of data.
        budget: `quick`: on the features; `full`: also trains networks both ways.
        seed: Of the folds and the trainings.

    Returns:
        `verdict` (helps, hurts, mixed, no evidence, not enough data to tell, not applicable) and `sentence`; `labels`
        with a verdict each; `left_out`; the three conditions `shared_features`, `balance` and `capacity`; and
        `training` with a `full` budget.
    """
    names, groups = images.label_space.names, images.groups
    chosen, left_out = _choose(measurable(images.labels, groups), names)
    reason = _what_is_missing(len(images), len(names), len(chosen), features)
    advice: dict[str, Any] = {"budget": budget, "left_out": left_out, "balance": dict(balance)}
    if reason or features is None:
        verdict = NOT_APPLICABLE if len(names) == 1 else NOT_ENOUGH
        nothing = dict.fromkeys(("backbone", "shared_features", "capacity", "training"))
        told = {name: {"verdict": verdict, "number": None, "sentence": f"{name}: {verdict}"} for name in names}
        return {"verdict": verdict, "sentence": reason, "labels": told, **advice, **nothing}
    images = images.with_only([names[column] for column in chosen])
    images = images.with_labels(np.where(images.labels >= 0, images.labels, np.int8(IGNORE_INDEX)))
    folds, basis = cut_folds(images, FOLDS, seed), FeatureBasis.of(features.pretrained)
    labels, shown = images.labels, images.label_space.names
    alone = held_out_probe(basis, labels, folds)
    together = held_out_together(basis, labels, folds)
    shared = compare_ways(together, alone, labels, folds, groups, INFLATION, shown)
    trained = _train_both_ways(images, features, folds, groups, seed) if budget == "full" else None
    judge([shared, *([trained] if trained else [])])
    told = {name: _conclude_label(name, shared, trained) for name in names}
    deciding = trained if trained and trained.mean else shared
    clear = [row["sentence"] for row in deciding.labels.values() if row and row["verdict"] in (HELPS, HURTS)]
    how = "networks trained" if deciding is trained else "probes"
    sentence = (
        f"{how} together and alone: {deciding.sentence()}; {shortlist(clear, 2) if clear else 'clear for no label'}"
    )
    return {
        "verdict": _overall(deciding), "sentence": sentence, "labels": told, **advice, "backbone": features.name,
        "shared_features": _describe(shared), "capacity": _describe_capacity(alone, basis, labels, folds),
        "training": None if trained is None else _describe(trained) | {
            "epochs": EPOCHS, "runs": RUNS, "trainings": RUNS * (len(trained.labels) + 1),
            "left_out": len(names) - len(trained.labels),
        },
    }  # fmt: skip


def _choose(labels: IntMatrix, names: Sequence[str]) -> tuple[list[int], dict[str, Any]]:
    """Return the columns to compare, in order of what is known of the rarer answer, and what is left out."""
    counts = count_labels(labels)
    order = np.argsort(-np.minimum(counts.positive, counts.negative), kind="stable")
    able = [int(column) for column in order if counts.known[column]]
    few = [name for name, known in zip(names, counts.known, strict=True) if not known]
    return able[:MOST_LABELS], {"too_few_answers": few, "beyond_the_best_known": len(able[MOST_LABELS:])}


def _what_is_missing(images: int, names: int, chosen: int, features: BackboneFeatures | None) -> str:
    """Say why nothing can be measured; empty where something can."""
    if names == 1:
        return "there is a single label, and nothing to train it together with"
    if images < MIN_IMAGES:
        return f"there are {images} images, at least {MIN_IMAGES} are needed"
    if chosen < 2:
        return f"{chosen} of {names} labels have enough known answers, at least 2 are needed"
    return "" if features is not None else "no backbone could be loaded"


def held_out_together(
    basis: FeatureBasis, labels: IntMatrix, folds: NDArray[np.intp], width: int | None = None
) -> Floats:
    """As `held_out_probe`, of probes that share a layer: what one label needs is more easily had if others need it.

    The weights of the labels' own probes are a matrix; its singular vectors are the directions of the features that the
    labels need, the largest those that many of them need. Where labels share a layer, each singular value s is shrunk
    to s^3 / (s^2 + the mean of s^2): what is needed by many stays, what a single label's few answers seem to say of its
    own is taken back (multi-task learning as a matrix of low rank: Argyriou, Evgeniou and Pontil 2008, "Convex
    multi-task feature learning").

    Args:
        basis: The features of n images.
        labels: Shape (n, num_labels).
        folds: The fold of each image, shape (n,).
        width: Instead let through the so many largest directions as they are, and nothing else.

    Returns:
        Logits of shape (n, num_labels).
    """
    logits, targets = np.empty(labels.shape), labels.astype(np.float64)
    for fold in np.unique(folds):
        tested = folds == fold
        own = basis.fit(targets, ((labels >= 0) & ~tested[:, None]).astype(np.float64), PENALTY)
        directions, sizes, needs = np.linalg.svd(own.axes, full_matrices=False)
        kept = sizes**3 / (sizes**2 + (sizes**2).mean()) if width is None else sizes * (np.arange(len(sizes)) < width)
        logits[tested] = basis.rows[tested] @ (directions * kept @ needs) + own.bias
    return logits


def compare_ways(
    together: Floats,
    alone: Floats,
    labels: IntMatrix,
    parts: NDArray[np.intp],
    groups: NDArray[np.intp],
    inflation: float,
    names: Sequence[str],
) -> Comparison:
    """Compare both ways on held-out entries, label by label; the verdicts come with `judge`.

    Args:
        together: Shape (n, num_labels); larger means more likely yes.
        alone: Same shape.
        labels: Same shape: 1, 0, or below 0 for entries that are not known or not tested.
        parts: Which images were scored by the same model, shape (n,).
        groups: The number of each image's group.
        inflation: Of the variance, see `held_out`.
        names: Of the labels.
    """
    first, second = (
        Measured.of(rank_known(one, labels, parts), labels, groups, inflation) for one in (together, alone)
    )
    return Comparison.of(first, second, WAYS, names)


def _train_both_ways(
    images: AnnotatedImages,
    features: BackboneFeatures,
    folds: NDArray[np.intp],
    groups: NDArray[np.intp],
    seed: int,
) -> Comparison:
    """Fine-tune one network on all labels, and one on each label alone; several runs, each with its own test folds."""
    names, run_of = images.label_space.names[:MOST_TRAINED], number_runs(folds)
    images = images.with_only(names)
    together, *alone = (
        held_out_training(images.with_only(some), features.name, features.weights, run_of, seed)
        for some in (names, *((name,) for name in names))
    )
    labels = np.where((run_of >= 0)[:, None], images.labels, np.int8(IGNORE_INDEX))
    known = measurable(labels, groups)
    return compare_ways(together, np.concatenate(alone, axis=1), known, run_of, groups, TUNING_INFLATION, names)


def _overall(compared: Comparison) -> str:
    """Return the verdict on all labels: that of their mean where it is clear, since each gains or loses little."""
    if compared.mean is not None and compared.mean["low"] * compared.mean["high"] > 0:
        return HELPS if compared.mean["difference"] > 0 else HURTS
    return compared.verdict()


def _describe(compared: Comparison) -> dict[str, Any]:
    nothing = {"auroc": None, "ap": None, "p_holm": None, "verdict": NOT_ENOUGH}
    labels = {
        name: nothing | {"sentence": f"{name}: {NOT_ENOUGH}"} if row is None else row
        for name, row in compared.labels.items()
    }
    return {"verdict": _overall(compared), "sentence": compared.sentence(), "labels": labels}


def _describe_capacity(
    alone: Floats, basis: FeatureBasis, labels: IntMatrix, folds: NDArray[np.intp]
) -> dict[str, Any]:
    """Return condition (c) for JSON: how wide a layer must be that the labels share."""
    count, known = labels.shape[1], labels >= 0
    target, tried = mean_log_loss(alone, labels, known), []
    for width in sorted({min(2**power, count) for power in range(6)}):
        loss = mean_log_loss(held_out_together(basis, labels, folds, width), labels, known)
        tried.append({"width": width, "loss": loss})
        if loss <= _ENOUGH * target:
            break
    enough = loss <= _ENOUGH * target
    sentence = (
        f"a layer of {width} number{'s' * (width > 1)} that {count} labels share is "
        f"{'enough' if enough else 'too narrow'}: log loss on held-out entries {loss:.3f} through it, {target:.3f} "
        f"from all {basis.width} features (up to {_ENOUGH:g} times is enough)"
    )
    verdict = BIG_ENOUGH if enough else NO_EVIDENCE
    return {"verdict": verdict, "sentence": sentence, "features": basis.width, "loss": target, "tried": tried}


def _conclude_label(name: str, shared: Comparison, trained: Comparison | None) -> dict[str, Any]:
    """Return a label's verdict and the number that it rests on: of the trainings, else of the probes."""
    for compared in (trained, shared):
        row = compared.labels.get(name) if compared else None
        if row is not None:
            number = f"AUROC {row['auroc']['difference']:+.3f}"
            return {"verdict": row["verdict"], "number": number, "sentence": row["sentence"]}
    return {"verdict": NOT_ENOUGH, "number": None, "sentence": f"{name}: {NOT_ENOUGH}"}
