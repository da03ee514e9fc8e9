"""What was measured, as a table for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..model.decisions import yes_from
from ..model.errors import shortlist
from .decision_report import number

_SHOWN = 40  # labels; the file has all of them
_MEASURES = ("AP", "precision", "recall", "F1")
_MASKED, _AS_NO = "mAP, unknown entries masked", "mAP, unknown taken as no"


def render_metrics(metrics: Mapping[str, Any]) -> str:
    """Return, a line per label, known entries, positives, AP and decisions; then the means, and what is undefined.

    Args:
        metrics: The content of `metrics.json`.
    """
    if not metrics.get("split"):
        return "no test split: nothing was measured"
    of = "all images" if metrics["split"] == "all" else f"{metrics['split']} split"
    rows = list(metrics["labels"].items())
    width = max(len(name) for name in (*metrics["labels"], _MASKED))
    head = (
        f"{of:{width}} {'known':>7} {'yes':>7} {'AP':>10} {'precision':>10} {'recall':>10} {'F1':>10} {'yes from':>10}"
    )
    lines = ["", head]
    for name, row in rows[:_SHOWN]:
        values = [*(number(row[measure]) for measure in _MEASURES), yes_from(row["threshold"])]
        measured = " ".join(f"{value:>10}" for value in values)
        interval = _interval("  AP ", row.get("AP_interval"))
        lines.append(f"{name:{width}} {row['known']:7} {row['positives']:7} {measured}{interval}")
    if len(rows) > _SHOWN:
        lines.append(f"... and {len(rows) - _SHOWN} more labels: metrics.json, or --output of evaluate, has all")
    rival, space = metrics.get("unknown_as_negative"), f"{'':15}"
    interval = _interval("  ", metrics.get("mAP_interval"))
    lines.append(f"{_MASKED if rival else 'mAP':{width}} {space} {number(metrics['mAP']):>10}{interval}")
    if rival:
        lines.append(f"{_AS_NO:{width}} {space} {number(rival['mAP']):>10}")
    if metrics["undefined_labels"]:
        names = shortlist(metrics["undefined_labels"])
        lines.append(f"undefined, for want of a known yes or a known no: {names}")
    if comparison := metrics.get("comparison"):
        lines.append(comparison["sentence"])
    return "\n".join(lines)


def _interval(start: str, ends: Sequence[float | None] | None) -> str:
    return "" if ends is None or None in ends else f"{start}{ends[0]:.3f} to {ends[1]:.3f}"
