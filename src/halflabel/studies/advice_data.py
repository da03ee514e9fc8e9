"""What the annotations themselves say: how much is known of each label, is that alike, which labels go together.

Images of one group (a patient, a video) count once where the question is how sure something can be.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_array

from ..data.images import AnnotatedImages
from ..metrics.answers import phi
from ..metrics.intervals import wilson_interval
from ..metrics.report import json_ready
from ..model.errors import shortlist
from ..model.labels import IntMatrix, count_labels
from .held_out import MIN_GROUPS, NOT_ENOUGH, count_answering

MIN_IMAGES = 20
"""Below so many images nothing is measured."""

MOST_PAIRS = 200
"""How many pairs of labels are listed."""

TOGETHER, APART = "appear together", "exclude each other"
_TYPICAL_AUROC, _ROUGH = 0.8, 0.1
_SIMILAR = 10.0
_Z = 1.959964  # of a 95 % interval
_BLOCK = 256  # labels paired with all others at once


def advise_data(images: AnnotatedImages) -> dict[str, Any]:
    """Say what the annotations can carry, as a dict for JSON; what is undefined is None.

    Args:
        images: Any number; only what is known counts.

    Returns:
        `images`, `groups`, `verdict`, `sentence`; `labels` (what is known, and whether it is enough to learn and to
        measure), `balance` (of the labels' amounts), `pairs` (co-annotation and co-occurrence, those first of which
        the data are surest, with 95 % Wilson intervals), `pairs_left_out`, `co_annotation`.
    """
    labels, names = images.labels, images.label_space.names
    groups = images.groups
    rows = _describe_labels(labels, names, groups)
    few, lacking = len(images) < MIN_IMAGES, [name for name, row in rows.items() if not row["learnable"]]
    enough = len(names) - len(lacking)
    sentence = f"{len(images)} images; {enough} of {len(names)} labels have enough known answers"
    if lacking and enough:
        told = (f"{name} ({rows[name]['positive']} yes, {rows[name]['negative']} no)" for name in lacking)
        sentence += f", too few are known of {shortlist(told, 3)}"
    pairs, left_out, co_annotation = _describe_pairs(labels, names)
    return {
        "images": len(images),
        "groups": int(groups.max() + 1) if len(groups) else 0,
        "verdict": NOT_ENOUGH if few or not enough else "enough",
        "sentence": sentence + (f"; fewer than {MIN_IMAGES} images tell nothing" if few else ""),
        "labels": rows,
        "balance": _describe_balance(labels, names),
        "pairs": pairs,
        "pairs_left_out": left_out,
        "co_annotation": co_annotation,
    }


def _describe_labels(labels: IntMatrix, names: tuple[str, ...], groups: NDArray[np.intp]) -> dict[str, Any]:
    counts = count_labels(labels)
    yes, no = count_answering(labels, groups)
    described = {}
    for i, name in enumerate(names):
        half = _auroc_half_width(int(yes[i]), int(no[i]))
        learnable = min(yes[i], no[i]) >= MIN_GROUPS
        measurable = bool(learnable and half is not None and half <= _ROUGH)
        verdict = "enough" if measurable else "can be learned, measured only roughly" if learnable else NOT_ENOUGH
        told = f"{name}: {counts.positive[i]} yes and {counts.negative[i]} no"
        if (yes[i], no[i]) != (counts.positive[i], counts.negative[i]):
            told += f", in {yes[i]} and {no[i]} groups"
        if learnable:
            told += f"; an AUROC of {_TYPICAL_AUROC} would be known to ±{half:.2f}"
        else:
            told += f"; at least {MIN_GROUPS} of either are needed"
        described[name] = {
            "known": int(counts.known[i]),
            "positive": int(counts.positive[i]),
            "negative": int(counts.negative[i]),
            "uncertain": int(counts.uncertain[i]),
            "positive_groups": int(yes[i]),
            "negative_groups": int(no[i]),
            "auroc_half_width": half,
            "learnable": bool(learnable),
            "measurable": measurable,
            "verdict": verdict,
            "sentence": told,
        }
    return described


def _auroc_half_width(positives: int, negatives: int) -> float | None:
    """Half of the 95 % interval of an AUROC of 0.8 (Hanley and McNeil 1982); None without both answers."""
    if not positives or not negatives:
        return None
    area = _TYPICAL_AUROC
    of_positives = (positives - 1) * (area / (2 - area) - area**2)
    of_negatives = (negatives - 1) * (2 * area**2 / (1 + area) - area**2)
    return _Z * math.sqrt((area * (1 - area) + of_positives + of_negatives) / (positives * negatives))


def _describe_balance(labels: IntMatrix, names: tuple[str, ...]) -> dict[str, Any]:
    known = count_labels(labels).known
    large, small = int(known.argmax()), int(known.argmin())
    ratio = float(known[large] / known[small]) if known[small] else None
    if not known[large]:
        verdict, sentence = NOT_ENOUGH, "no label has a known answer"
    else:
        verdict = "similar" if ratio is not None and ratio <= _SIMILAR else "unequal"
        if ratio == 1:
            sentence = f"{known[large]} known answers of each label"
        else:
            sentence = (
                f"{names[large]} has {known[large]} known answers, {names[small]} has {known[small]}"
                + (f": {ratio:.1f} times as many" if ratio is not None else "")
                + f"; up to {_SIMILAR:.0f} times is taken for similar"
            )
    return {
        "largest": {"label": names[large], "known": int(known[large])},
        "smallest": {"label": names[small], "known": int(known[small])},
        "ratio": ratio,
        "verdict": verdict,
        "sentence": sentence,
    }


def _describe_pairs(labels: IntMatrix, names: tuple[str, ...]) -> tuple[list[dict[str, Any]], int, dict[str, Any]]:
    """Return the pairs that are listed, how many are not, and what all of them amount to."""
    # Kept as columns of what is there: of many labels few are answered yes in one image.
    answered = [csc_array((labels == answer).astype(np.int32)) for answer in (1, 0)]
    kept = np.empty((0, 7))  # strength, labels a and b, and the counts of yes-yes, yes-no, no-yes, no-no
    never = 0
    for start in range(0, len(names), _BLOCK):
        block = [matrix[:, start : start + _BLOCK].T for matrix in answered]
        counts = np.stack([(mine @ other).toarray() for mine in block for other in answered], axis=-1)
        a, b = np.nonzero(np.arange(len(names)) > np.arange(start, start + counts.shape[0])[:, None])
        found = counts[a, b].astype(np.float64)
        never += int((found.sum(axis=1) == 0).sum())
        strength = np.nan_to_num(np.abs(phi(found)) * np.sqrt(found.sum(axis=1)), nan=0.0)
        strength[found.sum(axis=1) == 0] = -1
        kept = np.concatenate([kept, np.column_stack([strength, a + start, b, found])])
        kept = kept[np.argsort(-kept[:, 0], kind="stable")[:MOST_PAIRS]]
    total = len(names) * (len(names) - 1) // 2
    together = f"{total - never} of {total} pairs of labels were asked together on some image"
    if not total:
        together = "there is a single label, and no pair"
    described = [_describe_pair(names[int(a)], names[int(b)], found) for _, a, b, *found in kept]
    clear = next((pair for pair in described if pair["relation"] in (TOGETHER, APART)), None)
    if clear is not None and clear["phi"] is not None:
        together += f"; most clearly, {clear['a']} and {clear['b']} {clear['relation']} (phi {clear['phi']:+.2f})"
    summary = {"pairs": total, "never_together": never, "sentence": together}
    return described, total - len(described), summary


def _describe_pair(a: str, b: str, counts: list[float]) -> dict[str, Any]:
    both, first, second, neither = (int(count) for count in counts)
    with_a, without_a = _rate(both, both + first), _rate(second, second + neither)
    relation = "no clear relation"
    if not sum(counts):
        relation = "never asked together"
    elif with_a["low"] is not None and without_a["low"] is not None:
        if with_a["low"] > without_a["high"]:
            relation = TOGETHER
        elif with_a["high"] < without_a["low"]:
            relation = APART
    return {
        "a": a,
        "b": b,
        "both_known": int(sum(counts)),
        "both_yes": both,
        "phi": json_ready(float(phi(counts))),
        "b_given_a": with_a,
        "b_given_not_a": without_a,
        "relation": relation,
    }


def _rate(yes: int, of: int) -> dict[str, Any]:
    low, high = (json_ready(float(end)) for end in wilson_interval(yes, of))
    return {"yes": yes, "of": of, "rate": yes / of if of else None, "low": low, "high": high}
