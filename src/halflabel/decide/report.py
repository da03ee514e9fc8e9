"""What a decision rule does on known entries, and what was measured of a model: as numbers, and as text to read."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..metrics.calibration import calibration_error
from ..metrics.entries import mean_defined
from ..metrics.report import evaluate_scores, json_ready
from ..model.decisions import DecisionRule, sigmoid, yes_from
from ..model.errors import shortlist

_SHOWN = 40  # labels in a table
_WIDEST_NAME = 30
_FEW = 5  # known yes, or known no, of which a measure says nothing
_MASKED, _AS_NO = "mAP, unknown entries masked", "mAP, unknown taken as no"


def measure_rule(
    rule: DecisionRule,
    logits: ArrayLike,
    labels: ArrayLike,
    label_names: Sequence[str],
    ci: float | None = None,
    groups: NDArray[np.intp] | None = None,
) -> dict[str, Any]:
    """Measure what a rule makes of logits; the result can be written as JSON.

    Args:
        rule: The rule.
        logits: Shape (n, num_labels).
        labels: Same shape: 1, 0, or below 0 for unknown and uncertain entries.
        label_names: The names of the columns.
        ci: As for `metrics.evaluate_scores`.
        groups: Likewise.

    Returns:
        What `metrics.evaluate_scores` says of the calibrated scores at the rule's thresholds; each label's `scale` and
        `shift` stand beside its `threshold`, so that the numbers say which rule they are of.
    """
    report = evaluate_scores(rule.scores(logits), labels, label_names, rule.thresholds, ci, groups=groups)
    for row, scale, shift in zip(report["labels"].values(), rule.scale, rule.shift, strict=True):
        row |= {"scale": scale, "shift": shift}
    return report


def describe_decisions(
    rule: DecisionRule, logits: ArrayLike, labels: ArrayLike, label_names: Sequence[str]
) -> dict[str, Any]:
    """Measure a rule on the entries it was fitted on; arguments are those of `measure_rule`.

    Returns:
        What `measure_rule` says; `calibration`, `objective`, `notes` (see `decision_notes`) and `ECE_uncalibrated` (the
        mean of the plain sigmoid's); for each label also `pooled_calibration`, `pooled_threshold`, `unmet` and
        `ECE_uncalibrated`. None stands for undefined.
    """
    report = measure_rule(rule, logits, labels, label_names)
    plain = calibration_error(sigmoid(logits), labels)
    for i, row in enumerate(report["labels"].values()):
        row |= {name: getattr(rule, name)[i] for name in ("pooled_calibration", "pooled_threshold", "unmet")}
        row["ECE_uncalibrated"] = json_ready(plain[i])
    return {
        **report,
        "calibration": rule.calibration,
        "objective": rule.objective,
        "notes": decision_notes(rule, label_names),
        "ECE_uncalibrated": json_ready(mean_defined(plain)),
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
    labels = report["labels"]
    names = [name if len(name) <= _WIDEST_NAME else name[: _WIDEST_NAME - 3] + "..." for name in labels]
    widths = (max(len("label"), *map(len, names[:_SHOWN])), 7, 7, 8, 8, 9, 9, 9, 10, 9)
    head = ("label", "known", "yes", "scale", "shift", "threshold", "precision", "recall", "ECE before", "after")
    lines = [_line(widths, head)]
    for name, row in list(zip(names, labels.values(), strict=True))[:_SHOWN]:
        shown = ("scale", "shift", "precision", "recall", "ECE_uncalibrated", "ECE")
        scale, shift, *measured = (number(row[key]) for key in shown)
        lines.append(
            _line(widths, (name, row["known"], row["positives"], scale, shift, yes_from(row["threshold"]), *measured))
        )
    if len(labels) > _SHOWN:
        lines.append(f"... and {len(labels) - _SHOWN} more labels")
    return "\n".join(
        [
            *lines,
            *report["notes"],
            f"calibration {report['calibration']}, thresholds for {report['objective']}",
            f"fitted and measured on the same {report['known_entries']} known entries: measure them on others as well",
        ]
    )


def render_metrics(metrics: Mapping[str, Any]) -> str:
    """Return, a line per label, known entries, positives, AP and decisions; then the means, and what is undefined.

    Args:
        metrics: The content of `metrics.json`.
    """
    if not metrics.get("split"):
        return "no test split: nothing was measured"
    of = "all images" if metrics["split"] == "all" else f"{metrics['split']} split"
    labels, rival = metrics["labels"], metrics.get("unknown_as_negative")
    widths = (max(len(name) for name in (*labels, _MASKED)), 7, 7, 10, 10, 10, 10, 10)
    lines = ["", _line(widths, (of, "known", "yes", "AP", "precision", "recall", "F1", "yes from"))]
    for name, row in list(labels.items())[:_SHOWN]:
        lines.append(_measured_line(widths, name, row))
    if len(labels) > _SHOWN:
        lines.append(f"... and {len(labels) - _SHOWN} more labels: metrics.json, or --output of evaluate, has all")
    mean = _line(widths, (_MASKED if rival else "mAP", "", "", number(metrics["mAP"])))
    lines.append(mean + _interval("  ", metrics.get("mAP_interval")))
    if rival:
        lines.append(_line(widths, (_AS_NO, "", "", number(rival["mAP"]))))
    if metrics["undefined_labels"]:
        names = shortlist(metrics["undefined_labels"])
        lines.append(f"undefined, for want of a known yes or a known no: {names}")
    if comparison := metrics.get("comparison"):
        lines.append(comparison["sentence"])
    return "\n".join(lines)


def _measured_line(widths: Sequence[int], name: str, row: Mapping[str, Any]) -> str:
    counted = (name, row["known"], row["positives"])
    if few := too_few(row):
        return _line(widths, counted) + f"  {few}"
    measured = (number(row[measure]) for measure in ("AP", "precision", "recall", "F1"))
    return _line(widths, (*counted, *measured, yes_from(row["threshold"]))) + _interval("  AP ", row.get("AP_interval"))


def too_few(row: Mapping[str, Any]) -> str:
    """Say of a label's measures, like "3 yes: too few to judge", that they mean nothing; "" where they do.

    What is undefined for want of a known yes or a known no is told as that.
    """
    for word, count in (("yes", row["positives"]), ("no", row["known"] - row["positives"])):
        if 0 < count < _FEW and row["AP"] is not None:
            return f"{count} {word}: too few to judge"
    return ""


def number(value: float | None) -> str:
    """Return three decimals, or the word for None, which stands for a measure that is not defined."""
    return "undefined" if value is None else f"{value:.3f}"


def _line(widths: Sequence[int], cells: Sequence[Any]) -> str:
    """Return a line of a table, perhaps of its first columns only; all but the first are on the right of theirs."""
    others = zip(cells[1:], widths[1:], strict=False)
    return " ".join([f"{cells[0]:{widths[0]}}", *(f"{cell:>{width}}" for cell, width in others)])


def _interval(start: str, ends: Sequence[float | None] | None) -> str:
    return "" if ends is None or None in ends else f"{start}{ends[0]:.3f} to {ends[1]:.3f}"
