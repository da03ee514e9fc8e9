"""A model measured on an annotated split: numbers, intervals and pictures, also beside another model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .bootstrap import check_confidence
from .contact_sheet import draw_contact_sheet
from .decision_report import measure_rule
from .decisions import DecisionRule
from .disagreements import about_splits, find_disagreements
from .errors import HalflabelError, shortlist
from .figures import check_drawing
from .inference import choose_split, load_model, split_logits
from .labels import LabelCounts
from .metrics import compare_scores
from .processes import process_state
from .sources import AnnotatedImages
from .summary_plots import draw_metrics

CI = 0.95


def evaluate_model(
    name: str,
    images: AnnotatedImages,
    split: str,
    batch_size: int = 32,
    fast_decode: bool = True,
    ci: float | None = None,
    plots: Path | None = None,
    compare: str | None = None,
) -> dict[str, Any]:
    """Measure a model's calibrated scores and its decisions on one split; the layout is that of `metrics.json`.

    Args:
        name: A model's folder or Hub name.
        images: Pictures with labels.
        split: What to measure on; where the data name no splits: all, and `split` in the result says so.
        batch_size: Pictures at once.
        fast_decode: Decode a JPEG no larger than the transform needs.
        ci: The confidence of bootstrap intervals, like 0.95; None: no intervals.
        plots: The folder for pictures of what was measured, see `draw_measured`; None: none are drawn.
        compare: Another model, for the same labels in any order; `comparison` then holds the paired differences (that
            model minus this one), with intervals of confidence `ci` (None: 0.95), and a `sentence`.

    Raises:
        HalflabelError: If the split is empty, or the data and the models have different labels.
    """
    if ci is not None:
        check_confidence(ci)
    if plots is not None:
        check_drawing()
    loaded = load_model(name)
    names, rule = loaded[0].config.label_space.names, loaded[0].config.decision_rule
    other, order = None, []
    if compare is not None:
        other = load_model(compare)
        order = _same_labels(name, names, compare, other[0].config.label_space.names)
    chosen, split = choose_split(name, loaded[0], images, split)
    logits = split_logits(*loaded, chosen, batch_size, fast_decode)
    metrics = measure_rule(rule, logits, chosen.labels, names, ci)
    if plots is not None and process_state().is_main_process:
        draw_measured(plots, logits, chosen.labels, names, rule, metrics)
    if other is not None:
        theirs = split_logits(*other, chosen, batch_size, fast_decode)[:, order]
        found = compare_scores(logits, theirs, chosen.labels, ci or CI)
        metrics["comparison"] = {
            "with": compare,
            "sentence": found.sentence(name, str(compare)),
            **found.to_dict(names),
        }
    return {"split": split, **metrics}


def draw_measured(
    folder: Path,
    logits: ArrayLike,
    labels: ArrayLike,
    label_names: Sequence[str],
    rule: DecisionRule,
    metrics: Mapping[str, Any],
    log_history: Sequence[Mapping[str, Any]] | None = None,
    counts: LabelCounts | None = None,
) -> None:
    """Draw what was measured, see `summary_plots.draw_metrics`.

    Args:
        folder: Where to; it is made.
        logits: Shape (n, num_labels).
        labels: Same shape: 1, 0, or below 0 for unknown and uncertain entries.
        label_names: The names of the columns.
        rule: Gives the calibrated scores and the thresholds.
        metrics: What was measured; its intervals are drawn where it has some.
        log_history: The run's, for its learning curve.
        counts: What was known in training.
    """
    rows = [row.get("AP_interval") for row in metrics["labels"].values()]
    ends = None if None in rows else np.array(rows, dtype=np.float64).T
    draw_metrics(folder, rule.scores(logits), labels, label_names, rule.thresholds, ends, log_history, counts)


def find_errors(
    name: str,
    images: AnnotatedImages,
    split: str | None,
    limit: int,
    output: Path,
    batch_size: int = 32,
    fast_decode: bool = True,
) -> str:
    """Write what `disagreements.find_disagreements` lists as `errors.csv`, and a contact sheet as `errors.png`.

    Args:
        name: A model's folder or Hub name.
        images: Pictures with labels.
        split: Which of them; None: all.
        limit: The most entries of each kind.
        output: The folder to write to.
        batch_size: Pictures at once.
        fast_decode: Decode a JPEG no larger than the transform needs.

    Returns:
        A sentence on what was looked at.

    Raises:
        HalflabelError: As `evaluate_model`.
    """
    if limit < 1:
        raise HalflabelError(f"limit is {limit!r}, expected at least 1")
    model, processor = load_model(name)
    chosen, _ = choose_split(name, model, images, split)
    logits = split_logits(model, processor, chosen, batch_size, fast_decode)
    about = about_splits(chosen.column("split").tolist())
    if process_state().is_main_process:
        rule, names = model.config.decision_rule, model.config.label_space.names
        files = chosen.column("file_name").tolist()
        table = find_disagreements(rule.scores(logits), chosen.labels, files, names, rule.thresholds, limit)
        output.mkdir(parents=True, exist_ok=True)
        table.drop(columns="row").to_csv(output / "errors.csv", index=False)
        draw_contact_sheet(table, chosen, output / "errors.png", about)
    return about


def _same_labels(name: str, names: Sequence[str], other: str, others: Sequence[str]) -> list[int]:
    """Return the columns of the other model's labels in the first one's order."""
    differing = set(names) ^ set(others)
    if differing:
        raise HalflabelError(f"{name} and {other} answer different labels, only one of them {shortlist(differing)}")
    return [others.index(label) for label in names]
