"""Does it make sense to train these labels together? The three conditions, measured on a backbone's features.

Multi-task learning pays where tasks share low-level features, have similar amounts of data, and share a network that is
big enough. The first is measured by `affinity`, the second by `advice_data`, the third by `joint_adapter`; a `full`
budget trains networks both ways, and what they show, be it nothing, goes before what the features hint at.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.images import AnnotatedImages
from ..metrics.entries import Floats
from ..metrics.report import json_ready
from ..model.errors import shortlist
from ..model.labels import IGNORE_INDEX, IntMatrix, count_labels
from .advice_data import MIN_IMAGES, NOT_ENOUGH, enough_answers
from .affinity import Affinity, Trunk, make_trunks, measure_affinity
from .backbone_features import BackboneFeatures
from .grouped_folds import draw_folds, number_groups
from .joint_adapter import train_adapters
from .label_groups import MOST_EXACT, suggest_groups, total_worth
from .multitask_training import train_both_ways
from .network_comparison import CI, HELPS, HURTS, NO_EVIDENCE, summarise

MOST_LABELS, MOST_TRAINED = 24, 8
"""So many labels are compared in pairs, and so many are trained on their own: those of which most is known."""

NOT_APPLICABLE = "not applicable"
SHARE, CONFLICT = "share features", "conflict"
_WORDS = {SHARE: HELPS, CONFLICT: HURTS, NO_EVIDENCE: NO_EVIDENCE}
BIG_ENOUGH, _ENOUGH = "big enough", 1.1


def advise_multi_task(
    images: AnnotatedImages,
    features: BackboneFeatures | None,
    balance: Mapping[str, Any],
    budget: str = "quick",
    seed: int = 0,
    quiet: bool = False,
) -> dict[str, Any]:
    """Say whether the labels should be trained together, as a dict for JSON; what is undefined is None.

    Args:
        images: The images that the features are of.
        features: Those of the backbone that is to be shared; None: no backbone could be had.
        balance: What `advice_data.advise_data` found about the labels' amounts of data.
        budget: `quick`: on the features; `full`: also trains networks both ways.
        seed: Of the folds and the trainings.
        quiet: Show no progress bars.

    Returns:
        `verdict` (helps, hurts, mixed, no evidence, not enough data to tell, not applicable) and `sentence`; `labels`
        with a verdict each; `left_out`; the three conditions `shared_features`, `balance` and `capacity`; `groups`, the
        groups of labels that are suggested, with the choices and their cost; and `training` with a `full` budget.
    """
    names, groups = images.label_space.names, number_groups(images.column("group"))
    chosen, left_out = _choose(images.labels, names, groups)
    reason = _what_is_missing(len(images), len(names), len(chosen), features)
    advice: dict[str, Any] = {"budget": budget, "left_out": left_out, "balance": dict(balance)}
    if reason or features is None:
        verdict = NOT_APPLICABLE if len(names) == 1 else NOT_ENOUGH
        nothing = dict.fromkeys(("backbone", "shared_features", "capacity", "groups", "training"))
        told = {name: {"verdict": verdict, "number": None, "sentence": f"{name}: {verdict}"} for name in names}
        return {"verdict": verdict, "sentence": reason, "labels": told, **advice, **nothing}
    labels = np.where(images.labels >= 0, images.labels, IGNORE_INDEX).astype(np.int8)[:, chosen]
    shown = [names[column] for column in chosen]
    folds = draw_folds(labels, groups, seed)
    trunks = make_trunks(features.pretrained, seed)
    affinity = measure_affinity(trunks, labels, folds, groups)
    shared, worth = _describe_affinity(affinity, shown)
    advice |= {"backbone": features.name, "shared_features": shared}
    training = None
    if budget != "full":
        advice["capacity"] = _describe_adapters(trunks, labels, shown, features.pretrained.shape[1])
    else:
        part = images.with_only(shown[:MOST_TRAINED])
        training = train_both_ways(part, (features.name, features.weights), folds, groups, seed, quiet)
        training["left_out"] = len(names) - len(part.label_space)
        advice["capacity"] = _describe_networks(training["labels"], features.name)
    advice |= {"groups": _describe_groups(worth, shown, features.parameters), "training": training}
    told = _conclude_labels(names, shared["pairs"], training)
    verdict, sentence = _conclude(shared, training)
    return {"verdict": verdict, "sentence": sentence, "labels": told, **advice}


def _choose(labels: IntMatrix, names: Sequence[str], groups: NDArray[np.intp]) -> tuple[list[int], dict[str, Any]]:
    """Return the columns to compare, in order of what is known of the rarer answer, and what is left out."""
    enough = enough_answers(labels, groups) if len(labels) else np.zeros(len(names), dtype=bool)
    counts = count_labels(labels)
    order = np.argsort(-np.minimum(counts.positive, counts.negative), kind="stable")
    able = [int(column) for column in order if enough[column]]
    few = [name for name, found in zip(names, enough, strict=True) if not found]
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


def _describe_affinity(affinity: Affinity, names: Sequence[str]) -> tuple[dict[str, Any], Floats]:
    """Return condition (a) for JSON, and what each pair is worth: its affinity where that is sure, else 0."""
    count = len(names) * (len(names) - 1) // 2
    low, high = affinity.intervals(count, CI)
    worth = np.where((low > 0) | (high < 0), affinity.pair, 0.0)
    rows: list[dict[str, Any]] = []
    for a, b in itertools.combinations(range(len(names)), 2):
        verdict = SHARE if low[a, b] > 0 else CONFLICT if high[a, b] < 0 else NO_EVIDENCE
        rows.append(
            {
                "a": names[a], "b": names[b], "verdict": verdict,
                "affinity": json_ready(affinity.pair[a, b]),
                "low": json_ready(low[a, b]), "high": json_ready(high[a, b]),
                "a_to_b": json_ready(affinity.of[a, b]), "b_to_a": json_ready(affinity.of[b, a]),
                "cosine": json_ready(affinity.cosine[a, b]),
            }
        )  # fmt: skip
    rows.sort(key=lambda row: (row["verdict"] == NO_EVIDENCE, -abs(row["affinity"] or 0.0)))
    by_verdict = {word: [row for row in rows if row["verdict"] == word] for word in (SHARE, CONFLICT, NO_EVIDENCE)}
    verdict = summarise(_WORDS[row["verdict"]] for row in rows)
    sentence = (
        f"{len(by_verdict[SHARE])} of {count} pairs of labels need the same features, "
        f"{len(by_verdict[CONFLICT])} conflict, {len(by_verdict[NO_EVIDENCE])} cannot be told"
    )
    strongest = [_say_pair(by_verdict[word][0]) for word in (SHARE, CONFLICT) if by_verdict[word]]
    return {
        "verdict": verdict, "sentence": "; ".join([sentence, *strongest]), "ci": CI, "tests": count, "pairs": rows,
        "labels": list(names), "groups": affinity.groups,
        "affinity": [[json_ready(value) for value in row] for row in affinity.of],
    }, worth  # fmt: skip


def _say_pair(row: Mapping[str, Any]) -> str:
    change = 100 * row["affinity"]
    ends = sorted((abs(100 * row["low"]), abs(100 * row["high"])))
    effect = "takes {:.2g} % off" if change > 0 else "adds {:.2g} % to"
    return (
        f"{row['a']} and {row['b']} {row['verdict']}: a small step on one {effect.format(abs(change))} the loss of "
        f"the other ({ends[0]:.2g} to {ends[1]:.2g})"
    )


def _describe_adapters(trunks: Sequence[Trunk], labels: IntMatrix, names: Sequence[str], width: int) -> dict[str, Any]:
    """Return condition (c) for JSON: how wide a layer must be that the labels share, on features of a width."""
    tried = []
    for trunk in trunks:
        joint, single = (train_adapters(trunk, labels, together) for together in (True, False))
        tried.append((trunk.given.shape[1], _compare_losses(names, joint, single)))
        if tried[-1][1]["ratio"] <= _ENOUGH:
            break
    units, found = tried[-1]
    enough = found["ratio"] <= _ENOUGH
    need = f"a shared layer of {units} numbers is {'enough' if enough else 'too narrow'}: {_say_losses(found)}"
    return {
        "verdict": BIG_ENOUGH if enough else NO_EVIDENCE, "sentence": f"{need}; the backbone has {width} features",
        "units": units, "features": width, "tried": [{"units": n, "ratio": one["ratio"]} for n, one in tried], **found,
    }  # fmt: skip


def _describe_networks(rows: Mapping[str, Mapping[str, Any]], backbone: str) -> dict[str, Any]:
    """Return condition (c) for JSON, of trained networks."""
    joint, single = (np.array([row["training_loss"][way] for row in rows.values()]) for way in ("joint", "single"))
    found = _compare_losses(list(rows), joint, single)
    # Under one step budget a network for all labels also learns each of them slower, however big it is.
    enough = found["ratio"] <= _ENOUGH
    told = f"is {BIG_ENOUGH}" if enough else "is too small, or learns slower together"
    sentence = f"{backbone}, trained, {told}: {_say_losses(found)}"
    return {"verdict": BIG_ENOUGH if enough else NO_EVIDENCE, "sentence": sentence, **found}


def _compare_losses(names: Sequence[str], joint: Floats, single: Floats) -> dict[str, Any]:
    rows = {name: {"joint": float(a), "single": float(b)} for name, a, b in zip(names, joint, single, strict=True)}
    mean = float(joint.mean()), float(single.mean())
    return {"joint": mean[0], "single": mean[1], "ratio": mean[0] / mean[1], "labels": rows}


def _say_losses(found: Mapping[str, Any]) -> str:
    return (
        f"mean training loss {found['joint']:.3f} together, {found['single']:.3f} alone, "
        f"{found['ratio']:.2f} times as much (up to {_ENOUGH:g} times is enough)"
    )


def _describe_groups(worth: Floats, names: Sequence[str], parameters: int) -> dict[str, Any]:
    """Return the groups that are suggested, and the choices: what they are worth and what inference costs.

    Args:
        worth: Of each pair, (num_labels, num_labels).
        names: Of the labels.
        parameters: Of a backbone, of which each group has its own.
    """
    everyone, alone = [list(range(len(names)))], [[column] for column in range(len(names))]
    suggested = suggest_groups(worth)
    choices: list[dict[str, Any]] = [
        {
            "choice": choice, "backbone_passes": len(groups), "parameters": len(groups) * parameters,
            "affinity": total_worth(worth, groups),
            "groups": [[names[column] for column in group] for group in groups],
        }
        for choice, groups in (("all together", everyone), ("suggested", suggested), ("each alone", alone))
    ]  # fmt: skip
    if len(suggested) == 1:
        sentence = (
            f"train these {len(names)} labels together: no pair conflicts surely; one pass of the backbone an image"
        )
    else:
        told = "; ".join(shortlist(group, 4) for group in choices[1]["groups"])
        sentence = f"train {len(suggested)} groups apart: {told}; {len(suggested)} passes of the backbone an image"
    return {
        "sentence": sentence, "groups": choices[1]["groups"], "choices": choices,
        "search": "every partition" if len(names) <= MOST_EXACT else "joined greedily",
        "objective": "the sum, over pairs within a group, of those affinities whose interval excludes 0; "
        "the fewest groups of those with the largest sum",
    }  # fmt: skip


def _conclude_labels(
    names: Sequence[str], pairs: Sequence[Mapping[str, Any]], training: Mapping[str, Any] | None
) -> dict[str, dict[str, Any]]:
    """Return a verdict for each label, and the number that it rests on: of the trainings, else of its pairs."""
    told: dict[str, dict[str, Any]] = {}
    for name in names:
        own = [row for row in pairs if name in (row["a"], row["b"])]
        trained = training["labels"].get(name) if training else None
        if trained and trained["auroc"]:
            number = f"AUROC {trained['auroc']['gain']:+.3f}"
            told[name] = {"verdict": trained["verdict"], "number": number, "sentence": trained["sentence"]}
        elif not own:
            told[name] = {"verdict": NOT_ENOUGH, "number": None, "sentence": f"{name}: {NOT_ENOUGH}"}
        else:
            verdict = summarise(_WORDS[row["verdict"]] for row in own)
            best = max(own, key=lambda row: (row["verdict"] != NO_EVIDENCE, abs(row["affinity"] or 0.0)))
            reason = _say_pair(best) if best["verdict"] != NO_EVIDENCE else f"none of {len(own)} pairs tells"
            number = f"{sum(row['verdict'] != NO_EVIDENCE for row in own)} of {len(own)} pairs"
            told[name] = {"verdict": verdict, "number": number, "sentence": f"{name}: {verdict}: {reason}"}
    return told


def _conclude(shared: Mapping[str, Any], training: Mapping[str, Any] | None) -> tuple[str, str]:
    """Return verdict and sentence: those of the trainings, else those of the pairs."""
    rows = [row for row in training["labels"].values() if row["auroc"] is not None] if training else []
    if not rows:
        return shared["verdict"], shared["sentence"]
    gain = f"networks were trained both ways: mean gain in AUROC {np.mean([row['auroc']['gain'] for row in rows]):+.3f}"
    clear = [row["sentence"] for row in rows if row["verdict"] in (HELPS, HURTS)]
    told = f"{gain}; {shortlist(clear, 2)}" if clear else f"{gain}, clear for no label; {shared['sentence']}"
    return summarise(row["verdict"] for row in rows), told
