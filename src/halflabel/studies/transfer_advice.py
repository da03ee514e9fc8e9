"""Does transfer make sense here? Probes on pretrained features against the same networks with random weights."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.images import AnnotatedImages
from ..metrics.entries import Floats
from ..model.labels import IGNORE_INDEX, IntMatrix, count_labels
from ..training.folds import cut_folds
from ..training.guesses import FeatureBasis
from .advice_data import MIN_IMAGES
from .held_out import (
    CI,
    HELPS,
    HURTS,
    MIN_GROUPS,
    NO_EVIDENCE,
    NOT_ENOUGH,
    Comparison,
    Measured,
    count_answering,
    judge,
    measurable,
    rank_networks,
    ranks_within,
    say,
    summarise,
)
from .networks import EPOCHS, RUN_FOLDS, RUNS, BackboneFeatures, held_out_probe, held_out_training, number_runs

KINDS = ("pretrained", "random")
FOLDS = 5
INFLATION = 1 + FOLDS / (FOLDS - 1)
"""Of the variance, where every fold is tested once; see `held_out`."""

TUNING_INFLATION = 1 + RUNS * RUN_FOLDS / (FOLDS - RUN_FOLDS)


def advise_transfer(
    images: AnnotatedImages,
    features: Mapping[str, BackboneFeatures],
    failures: Sequence[Mapping[str, str]] = (),
    budget: str = "quick",
    seed: int = 0,
) -> dict[str, Any]:
    """Measure per label and backbone what pretraining is worth, as a dict for JSON; what is undefined is None.

    Args:
        images: The images that the features are of.
        features: By backbone, see `networks.load_backbones`.
        failures: Backbones that could not be had; they are listed.
        budget: `quick`: probes on the features; `full`: also trains each network from pretrained and random weights.
        seed: Of the folds and the trainings.

    Returns:
        `verdict` (helps, hurts, mixed, no evidence, not enough data to tell) with a `sentence`; `labels` with a verdict
        and the `auroc` that it rests on, `trained` or probed; `backbones` with all that was measured of each label; the
        `ranking` of all networks; and `fine_tuning` where that was asked for.
    """
    groups, names = images.groups, images.label_space.names
    labels = measurable(images.labels, groups)
    advice = {
        "images": len(images), "groups": len(np.unique(groups)), "folds": FOLDS, "ci": CI, "budget": budget,
        "failures": [dict(failure) for failure in failures],
    }  # fmt: skip
    missing = "" if features else "no backbone could be loaded"
    if len(images) < MIN_IMAGES:
        missing = f"there are {len(images)} images, at least {MIN_IMAGES} are needed"
    elif not (labels >= 0).any():
        missing = "no label has enough known answers"
    if missing:
        return advice | _conclude(images, groups, {}, None, missing)
    folds = cut_folds(images.with_labels(labels), FOLDS, seed)
    ranks = {
        (name, kind): rank_known(held_out_probe(FeatureBasis.of(getattr(one, kind)), labels, folds), labels, folds)
        for name, one in features.items()
        for kind in KINDS
    }
    probed = {network: Measured.of(scores, labels, groups, INFLATION) for network, scores in ranks.items()}
    compared = {name: _compare(probed, name, names) for name in features}
    tuned = None
    if budget == "full":
        weights = {name: one.weights for name, one in features.items()}
        tuned = _fine_tune(images, weights, ranks, labels, folds, groups, seed)
    judge([*compared.values(), *(tuned["backbones"].values() if tuned else ())])
    described = {
        name: _describe(compared[name], name, images, groups) | {
            "weights": one.weights, "parameters": one.parameters, "width": one.pretrained.shape[1],
            "source": one.source.relate(len(images)),
        }
        for name, one in features.items()
    }  # fmt: skip
    if tuned:
        tuned["backbones"] = {
            name: _describe(one, f"{name}, trained", images, groups) for name, one in tuned["backbones"].items()
        }
    ranking, told = rank_networks(probed)
    return advice | _conclude(images, groups, described, tuned) | {"ranking": ranking, "ranking_sentence": told}


def rank_known(logits: Floats, labels: IntMatrix, parts: NDArray[np.intp]) -> Floats:
    """Return the rank of each known entry among those of its label and part, see `ranks_within`."""
    return ranks_within(np.where(labels >= 0, logits, np.nan), parts)


def _compare(networks: Mapping[tuple[str, str], Measured], name: str, names: Sequence[str]) -> Comparison:
    return Comparison.of(networks[name, "pretrained"], networks[name, "random"], KINDS, names)


def _fine_tune(
    images: AnnotatedImages,
    backbones: Mapping[str, str],
    probed: Mapping[tuple[str, str], Floats],
    labels: IntMatrix,
    folds: NDArray[np.intp],
    groups: NDArray[np.intp],
    seed: int,
) -> dict[str, Any]:
    """Train whole networks from pretrained and from random weights, on the same pictures in the same order.

    Returns:
        For JSON, but for `backbones`, which holds a `Comparison` each.
    """
    start, run_of, names = time.monotonic(), number_runs(folds), images.label_space.names
    images = images.with_labels(labels)
    scores = {
        (name, kind): held_out_training(images, name, weights if kind == "pretrained" else None, run_of, seed)
        for name, weights in backbones.items()
        for kind in KINDS
    }
    known = measurable(np.where((run_of >= 0)[:, None], labels, np.int8(IGNORE_INDEX)), groups)
    trained = {
        network: Measured.of(rank_known(found, known, run_of), known, groups, TUNING_INFLATION)
        for network, found in scores.items()
    }
    ranking, told = rank_networks(trained)
    for name in backbones:
        probe = Measured.of(probed[name, "pretrained"], known, groups, TUNING_INFLATION)
        kinds = ("trained", "probed")
        over_probe = Comparison.of(trained[name, "pretrained"], probe, kinds, names).mean
        if over_probe is not None:
            told += f"; {name}: mean {say(over_probe, kinds)}"
    tested_images = int((labels[run_of >= 0] >= 0).any(axis=1).sum())
    return {
        "epochs": EPOCHS, "runs": RUNS, "tested_images": tested_images, "seconds": time.monotonic() - start,
        "backbones": {name: _compare(trained, name, names) for name in backbones},
        "ranking": ranking, "sentence": f"after {EPOCHS} epochs, {RUNS} runs each: {told}",
    }  # fmt: skip


def _describe(compared: Comparison, title: str, images: AnnotatedImages, groups: NDArray[np.intp]) -> dict[str, Any]:
    """Return what was measured of each label, without values where nothing was, and what is known of it."""
    counts, labels = count_labels(images.labels), {}
    for column, (name, row) in enumerate(compared.labels.items()):
        if row is None:
            keys = ("auroc", "ap", "p_difference", "p_chance", "p", "p_holm")
            row = {**dict.fromkeys(keys), "verdict": NOT_ENOUGH, "sentence": _nothing(images, groups, column)}
        labels[name] = row | {"known": int(counts.known[column]), "positive": int(counts.positive[column])}
    verdict = compared.verdict()
    told = f"{title}: {verdict}; {compared.sentence()}"
    return {"verdict": verdict, "sentence": told, "mean": compared.mean, "labels": labels}


def _nothing(images: AnnotatedImages, groups: NDArray[np.intp], column: int) -> str:
    (yes,), (no,) = count_answering(images.labels[:, [column]], groups)
    return (
        f"{images.label_space.names[column]}: {NOT_ENOUGH}: yes is known of {yes} images or groups, no of {no}; "
        f"{MIN_GROUPS} of either must be there to be tested"
    )


def _conclude(
    images: AnnotatedImages,
    groups: NDArray[np.intp],
    described: dict[str, dict[str, Any]],
    tuning: dict[str, Any] | None,
    missing: str = "",
) -> dict[str, Any]:
    """Return the verdicts over all backbones; what was trained goes before what was probed.

    Args:
        images: The images.
        groups: The number of each image's group.
        described: By backbone, what the probes found.
        tuning: What the trainings found, if there were any.
        missing: Why nothing could be measured.
    """
    measured = [tuning["backbones"], described] if tuning else [described]
    labels = {
        name: _conclude_label(name, measured, _nothing(images, groups, column))
        for column, name in enumerate(images.label_space.names)
    }
    verdict = summarise(row["verdict"] for row in labels.values())
    sentence = f"{verdict}: {missing}" if missing else "; ".join(one["sentence"] for one in described.values())
    best = None
    for backbones in reversed(measured):
        helped = [name for name, one in backbones.items() if one["verdict"] == HELPS]
        if helped:
            best = max(helped, key=lambda name: backbones[name]["mean"]["pretrained"])
            sentence = backbones[best]["sentence"]
    return {
        "verdict": verdict, "sentence": sentence, "best_backbone": best, "labels": labels, "backbones": described,
        "ranking": [], "ranking_sentence": "", "fine_tuning": tuning,
    }  # fmt: skip


def _conclude_label(name: str, measured: Sequence[Mapping[str, Mapping[str, Any]]], nothing: str) -> dict[str, Any]:
    """Return the first verdict that says something, of the backbone with the highest AUROC among those of it."""
    for wanted in ((HELPS, HURTS), (NO_EVIDENCE,)):
        for backbones in measured:
            rows = {backbone: one["labels"][name] for backbone, one in backbones.items()}
            for verdict in wanted:
                found = [backbone for backbone, row in rows.items() if row["verdict"] == verdict]
                if found:
                    best = max(found, key=lambda backbone: rows[backbone]["auroc"]["pretrained"])
                    trained = len(measured) > 1 and backbones is measured[0]
                    return {
                        "verdict": verdict, "backbone": best if verdict == HELPS else None, "trained": trained,
                        "auroc": rows[best]["auroc"],
                        "sentence": f"{rows[best]['sentence']} ({best}{', trained' if trained else ''})",
                    }  # fmt: skip
    return {"verdict": NOT_ENOUGH, "backbone": None, "trained": False, "auroc": None, "sentence": nothing}
