"""Does transfer make sense here? Probes on pretrained features against the same networks with random weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.images import AnnotatedImages
from ..model.labels import IGNORE_INDEX, IntMatrix, count_labels
from .advice_data import MIN_GROUPS, MIN_IMAGES, NOT_ENOUGH, count_answering, enough_answers
from .backbone_features import BackboneFeatures
from .feature_probe import HeldOut, probe
from .fine_tuning_advice import EPOCHS, RUNS, TUNING_INFLATION, Tuned, fine_tune
from .grouped_folds import FOLDS, draw_folds, number_groups
from .learning_curve import learning_curves
from .network_comparison import (
    CI,
    HELPS,
    HURTS,
    INFLATION,
    KINDS,
    NO_EVIDENCE,
    Comparison,
    compare_networks,
    judge,
    rank_networks,
    summarise,
)
from .ranking_influence import ranks_within
from .transferability import held_out_h_score, log_me


def advise_transfer(
    images: AnnotatedImages,
    features: Mapping[str, BackboneFeatures],
    failures: Sequence[Mapping[str, str]] = (),
    budget: str = "quick",
    seed: int = 0,
    quiet: bool = False,
) -> dict[str, Any]:
    """Measure per label and backbone what pretraining is worth, as a dict for JSON; what is undefined is None.

    Args:
        images: The images that the features are of.
        features: By backbone, see `backbone_features.load_backbones`.
        failures: Backbones that could not be had; they are listed.
        budget: `quick`: probes on the features; `full`: also trains each network from pretrained and random weights.
        seed: Of the folds, the draws and the trainings.
        quiet: Show no progress bars.

    Returns:
        `verdict` (helps, hurts, mixed, no evidence, not enough data to tell) with a `sentence`; `labels` with a verdict
        and the `auroc` that it rests on, `trained` or probed; `backbones` with all that was measured of each label; the
        `ranking` of all networks; and `fine_tuning` where that was asked for.
    """
    groups, names = number_groups(images.column("group")), images.label_space.names
    advice = {
        "images": len(images), "groups": len(np.unique(groups)), "folds": FOLDS, "ci": CI, "budget": budget,
        "failures": [dict(failure) for failure in failures],
    }  # fmt: skip
    labels = np.where((images.labels >= 0) & enough_answers(images.labels, groups), images.labels, IGNORE_INDEX)
    nothing = {name: _nothing(name, images, groups)["sentence"] for name in names}
    missing = _what_is_missing(len(images), labels, features)
    if missing:
        return advice | _conclude({}, None, nothing, missing)
    labels = labels.astype(np.int8)
    folds = draw_folds(labels, groups, seed)
    probed = {
        name: {kind: probe(getattr(one, kind), labels, folds) for kind in KINDS} for name, one in features.items()
    }
    ranks = {
        name: {kind: ranks_within(found.predictions, folds) for kind, found in both.items()}
        for name, both in probed.items()
    }
    compared = {name: compare_networks(both, labels, names, groups, INFLATION) for name, both in ranks.items()}
    tuned = None
    if budget == "full":
        weights = {name: one.weights for name, one in features.items()}
        tuned = fine_tune(images, weights, labels, folds, groups, seed, quiet)
    judge([*compared.values(), *(tuned.comparisons.values() if tuned else ())])
    described = {}
    for name, one in features.items():
        described[name] = _describe_backbone(one, compared[name], images, groups)
        _add_details(described[name]["labels"], one, probed[name], labels, groups, folds, seed)
    ranking, told = rank_networks(ranks, labels, groups, INFLATION)
    for row in ranking:
        details = described[row["backbone"]]["labels"].values()
        for key in ("log_me", "h_score"):
            row[key] = float(np.mean([one[key][row["weights"]] for one in details if one[key]]))
    concluded = _conclude(described, _describe_tuning(tuned, images, groups), nothing)
    return advice | concluded | {"ranking": ranking, "ranking_sentence": told}


def _what_is_missing(images: int, labels: NDArray[Any], features: Mapping[str, Any]) -> str:
    """Say why nothing can be measured; empty where something can."""
    if images < MIN_IMAGES:
        return f"there are {images} images, at least {MIN_IMAGES} are needed"
    if not (labels >= 0).any():
        return "no label has enough known answers"
    return "" if features else "no backbone could be loaded"


def _describe_backbone(
    one: BackboneFeatures, compared: Comparison, images: AnnotatedImages, groups: NDArray[np.intp]
) -> dict[str, Any]:
    verdict = summarise(row["verdict"] for row in compared.labels.values() if row is not None)
    return {
        "verdict": verdict,
        "sentence": f"{one.name}: {verdict}; {compared.sentence()}",
        "weights": one.weights,
        "parameters": one.parameters,
        "width": one.pretrained.shape[1],
        "mean": compared.mean,
        "source": one.source.relate(len(images)),
        "labels": _describe_labels(compared, images, groups),
    }


def _describe_labels(compared: Comparison, images: AnnotatedImages, groups: NDArray[np.intp]) -> dict[str, Any]:
    """Return what was measured of each label, without values where nothing was, and what is known of it."""
    counts = count_labels(images.labels)
    described = {}
    for (name, row), known, positive in zip(compared.labels.items(), counts.known, counts.positive, strict=True):
        found = row or _nothing(name, images, groups)
        described[name] = {**found, "known": int(known), "positive": int(positive)}
    return described


def _nothing(name: str, images: AnnotatedImages, groups: NDArray[np.intp]) -> dict[str, Any]:
    column = images.label_space.index(name)
    (yes,), (no,) = count_answering(images.labels[:, [column]], groups)
    sentence = (
        f"{name}: {NOT_ENOUGH}: yes is known of {yes} images or groups, no of {no}; "
        f"{MIN_GROUPS} of either must be there to be tested"
    )
    keys = ("auroc", "ap", "p_difference", "p_chance", "p", "p_holm")
    return {**dict.fromkeys(keys), "verdict": NOT_ENOUGH, "sentence": sentence}


def _add_details(
    rows: dict[str, dict[str, Any]],
    one: BackboneFeatures,
    probed: Mapping[str, HeldOut],
    labels: IntMatrix,
    groups: NDArray[np.intp],
    folds: NDArray[np.intp],
    seed: int,
) -> None:
    """Add the scores of transferability and the learning curve of each label."""
    evidence = {kind: log_me(getattr(one, kind), labels) for kind in KINDS}
    curves = learning_curves(
        {kind: getattr(one, kind) for kind in KINDS}, {kind: probed[kind].predictions for kind in KINDS},
        labels, groups, folds, seed,
    )  # fmt: skip
    for column, row in enumerate(rows.values()):
        row |= {"log_me": None, "h_score": None, "curve": None}
        if row["auroc"] is not None:
            known = labels[:, column] >= 0
            answers = labels[known, column]
            row |= {
                "log_me": {kind: float(evidence[kind][column]) for kind in KINDS},
                "h_score": {
                    kind: held_out_h_score(found.predictions[known, column], found.baseline[known, column], answers)
                    for kind, found in probed.items()
                },
                "curve": curves[column],
            }


def _describe_tuning(tuned: Tuned | None, images: AnnotatedImages, groups: NDArray[np.intp]) -> dict[str, Any] | None:
    if tuned is None:
        return None
    backbones = {}
    for name, compared in tuned.comparisons.items():
        verdict = summarise(row["verdict"] for row in compared.labels.values() if row is not None)
        backbones[name] = {
            "verdict": verdict,
            "sentence": f"{name}, trained: {verdict}; {compared.sentence()}",
            "mean": compared.mean,
            "labels": _describe_labels(compared, images, groups),
        }
    ranking, told = rank_networks(tuned.ranks, tuned.labels, groups, TUNING_INFLATION)
    tested = int((tuned.labels >= 0).any(axis=1).sum())
    return {
        "epochs": EPOCHS, "runs": RUNS, "tested_images": tested, "seconds": tuned.seconds, "backbones": backbones,
        "ranking": ranking, "sentence": f"after {EPOCHS} epochs, {RUNS} runs each: {told}",
    }  # fmt: skip


def _conclude(
    described: dict[str, dict[str, Any]], tuning: dict[str, Any] | None, nothing: Mapping[str, str], missing: str = ""
) -> dict[str, Any]:
    """Return the verdicts over all backbones; what was trained goes before what was probed.

    Args:
        described: By backbone, what the probes found.
        tuning: What the trainings found, if there were any.
        nothing: By label, what is said where too little is known of it.
        missing: Why nothing could be measured.
    """
    measured = [tuning["backbones"], described] if tuning else [described]
    labels = {name: _conclude_label(name, measured, sentence) for name, sentence in nothing.items()}
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
