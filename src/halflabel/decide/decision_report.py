"""What a fitted decision rule does on the entries it was fitted on, as numbers and as text."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..metrics.measures import calibration_error, evaluate_scores, mean_defined
from ..model.decisions import DecisionRule, sigmoid, yes_from
from ..model.errors import shortlist

_SHOWN = 40  # labels in the table
_WIDEST_NAME = 30


def measure_rule(
    rule: DecisionRule, logits: ArrayLike, labels: ArrayLike, label_names: Sequence[str], ci: float | None = None
) -> dict[str, Any]:
    """Measure what a rule makes of logits; the result can be written as JSON.

    Args:
        rule: The rule.
        logits: Shape (n, num_labels).
        labels: Same shape: 1, 0, or below 0 for unknown and uncertain entries.
        label_names: The names of the columns.
        ci: As for `metrics.evaluate_scores`.

    Returns:
        What `metrics.evaluate_scores` says of the calibrated scores at the rule's thresholds; each label's `scale` and
        `shift` stand beside its `threshold`, so that the numbers say which rule they are of.
    """
    report = evaluate_scores(rule.scores(logits), labels, label_names, rule.thresholds, ci)
    for row, scale, shift in zip(report["labels"].values(), rule.scale, rule.shift, strict=True):
        row |= {"scale": scale, "shift": shift}
    return report


def describe_decisions(
    rule: DecisionRule, logits: ArrayLike, labels: ArrayLike, label_names: Sequence[str]
) -> dict[str, Any]:
    """Measure a rule; the result can be written as JSON.

    Args:
        rule: The rule.
        logits: Shape (n, num_labels).
        labels: Same shape: 1, 0, or below 0 for unknown and uncertain entries.
        label_names: The names of the columns.

    Returns:
        What `measure_rule` says; `calibration`, `objective`, `notes` (see `decision_notes`) and `ECE_uncalibrated` (the
        mean of the plain sigmoid's); for each label also `pooled_calibration`, `pooled_threshold`, `unmet` and
        `ECE_uncalibrated`. None stands for undefined.
    """
    report = measure_rule(rule, logits, labels, label_names)
    plain = calibration_error(sigmoid(logits), labels)
    for i, row in enumerate(report["labels"].values()):
        for name in ("pooled_calibration", "pooled_threshold", "unmet"):
            row[name] = getattr(rule, name)[i]
        row["ECE_uncalibrated"] = float(plain[i]) if row["known"] else None
    return {
        **report,
        "calibration": rule.calibration,
        "objective": rule.objective,
        "notes": decision_notes(rule, label_names),
        "ECE_uncalibrated": mean_defined(plain),
    }


def decision_notes(rule: DecisionRule, label_names: Sequence[str]) -> list[str]:
    """Name the labels that did not get numbers of their own, or whose objective is not met; a line for each reason."""
    positive, known = np.array(rule.positives), np.array(rule.known)
    scarce = np.minimum(positive, known - positive) < rule.min_known
    pooled, unmet = np.array(rule.pooled_calibration), np.array(rule.unmet)
    safe = "never" if str(rule.objective).startswith("precision") else "always"
    reasons = {
        f"calibrated together, having fewer than {rule.min_known} known yes or no": pooled & scarce,
        "scored nearly alike everywhere, as a higher logit does not mean yes": pooled & ~scarce,
        "sharing a threshold, having too few known entries": np.array(rule.pooled_threshold),
        f"{safe} answered with yes, as no threshold promises {rule.objective}": unmet,
    }
    return [
        f"{reason}: {shortlist(name for name, one in zip(label_names, those, strict=True) if one)}"
        for reason, those in reasons.items()
        if those.any()
    ]


def render_decisions(report: Mapping[str, Any]) -> str:
    """Return what `describe_decisions` found as a table and sentences.

    Lines have fewer than 120 columns, unless a sentence names labels that are long.
    """
    rows = list(report["labels"].items())
    width = max(len("label"), *(min(len(name), _WIDEST_NAME) for name, _ in rows[:_SHOWN]))
    lines = [
        f"{'label':{width}} {'known':>7} {'yes':>7} {'scale':>8} {'shift':>8} {'threshold':>9} {'precision':>9} "
        f"{'recall':>9} {'ECE before':>10} {'after':>9}"
    ]
    for name, row in rows[:_SHOWN]:
        short = name if len(name) <= width else name[: width - 3] + "..."
        threshold = yes_from(row["threshold"])
        lines.append(
            f"{short:{width}} {row['known']:7} {row['positives']:7} {row['scale']:8.3f} {row['shift']:8.3f} "
            f"{threshold:>9} {number(row['precision']):>9} {number(row['recall']):>9} "
            f"{number(row['ECE_uncalibrated']):>10} {number(row['ECE']):>9}"
        )
    if len(rows) > _SHOWN:
        lines.append(f"... and {len(rows) - _SHOWN} more labels")
    return "\n".join(
        [
            *lines,
            *report["notes"],
            f"calibration {report['calibration']}, thresholds for {report['objective']}",
            f"fitted and measured on the same {report['known_entries']} known entries: measure them on others as well",
        ]
    )


def number(value: float | None) -> str:
    """Return three decimals, or the word for None, which stands for a measure that is not defined."""
    return "undefined" if value is None else f"{value:.3f}"
