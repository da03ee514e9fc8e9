"""All measures of a set of known entries, in the layout of `metrics.json`."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..model.errors import HalflabelError
from ..model.labels import LabelSpace
from .calibration_metrics import brier_of, calibration_error_of, log_loss_of
from .known_scores import Floats, KnownScores, mean_defined, ratio
from .ranking_metrics import pooled_average_precision, rank_labels
from .threshold_metrics import decision_counts, decision_means, f_from_counts


def build_report(chunks: Iterable[KnownScores], label_names: Sequence[str], thresholds: Floats) -> dict[str, Any]:
    """Measure known entries; `metrics.evaluate_scores` says what is in the result.

    Args:
        chunks: All labels' known entries, a chunk of labels at a time; scores are probabilities.
        label_names: Distinct names of all labels, in order.
        thresholds: One per label.
    """
    parts, groups = [], []
    for known in chunks:
        counts = np.stack([known.counts, known.yeses.sizes])
        calibration = np.stack([brier_of(known), log_loss_of(known), calibration_error_of(known)])
        parts.append(np.concatenate([counts, rank_labels(known), decision_counts(known, thresholds), calibration]))
        groups.append((known.noes.scores, known.yeses.scores))
    count, positives, ap, auroc, tp, fp, fn, brier, log_loss, ece = np.concatenate(parts, axis=1)
    measures = {
        "AP": ap,
        "AUROC": auroc,
        "precision": ratio(tp, tp + fp),
        "recall": ratio(tp, tp + fn),
        "F1": f_from_counts(tp, fp, fn),
        "Brier": brier,
        "log_loss": log_loss,
        "ECE": ece,
    }
    means = {
        "mAP": mean_defined(ap),
        "mAUROC": mean_defined(auroc),
        "mAP_weighted": float(ratio(np.nansum(ap * positives), positives[~np.isnan(ap)].sum())),
        "micro_AP": pooled_average_precision(groups),
        **decision_means(tp, fp, fn),
        **{name: mean_defined(measures[name]) for name in ("Brier", "log_loss", "ECE")},
    }
    undefined = {
        name: [label for label, value in zip(label_names, values, strict=True) if math.isnan(value)]
        for name, values in measures.items()
    }
    return {
        **{name: json_number(value) for name, value in means.items()},
        "undefined_labels": undefined["AP"],
        "undefined": {name: {"count": len(labels), "labels": labels} for name, labels in undefined.items()},
        "known_entries": int(count.sum()),
        "labels": {
            label: {
                **{name: json_number(values[i]) for name, values in measures.items()},
                "threshold": float(thresholds[i]),
                "known": int(count[i]),
                "positives": int(positives[i]),
            }
            for i, label in enumerate(label_names)
        },
    }


def check_names(label_names: Sequence[str], num_labels: int) -> tuple[str, ...]:
    """Return the label names.

    Raises:
        HalflabelError: If there are not as many as labels, or they are no distinct names.
    """
    names = LabelSpace(label_names).names
    if len(names) != num_labels:
        raise HalflabelError(f"{len(names)} label names for {num_labels} labels; give one for each column")
    return names


def json_number(value: float) -> float | None:
    """Return None for NaN, which JSON cannot hold."""
    return None if math.isnan(value) else float(value)
