"""A model on annotated pictures: measured, also beside another model, and its decision rule fitted and stored."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from transformers.utils import CONFIG_NAME

from ..data.files import write_whole
from ..data.images import AnnotatedImages
from ..data.loading import load_images
from ..decide.decision_fitting import check_fitting, fit_decisions
from ..decide.report import describe_decisions, measure_rule
from ..metrics.comparison import compare_scores
from ..metrics.entries import Floats
from ..metrics.intervals import check_confidence
from ..model.decisions import DecisionRule
from ..model.errors import HalflabelError, shortlist
from ..training.features import process_state
from .inference import Name, SavedModel, choose_split, open_model, predict_logits

CI = 0.95


@dataclass(frozen=True)
class Measured:
    """What was measured of a model: in the layout of `metrics.json`, and of what.

    Logits and labels have shape (n, num_labels); a label is 1, 0, or below 0 for unknown and uncertain entries.
    """

    metrics: dict[str, Any]
    logits: Floats
    labels: NDArray[Any]
    rule: DecisionRule


def evaluate(
    model: Name | SavedModel,
    data: Any,  # noqa: ANN401 - whatever `load_images` takes
    *,
    split: str | None = "test",
    ci: float | None = CI,
    compare: Name | SavedModel | None = None,
    batch_size: int = 32,
    fast_decode: bool = True,
    **source: Any,  # noqa: ANN401
) -> dict[str, Any]:
    """Measure a model's calibrated scores and its decisions on one split.

    Args:
        model: A folder, a Hub name, or what is open already.
        data: Annotated pictures, see `load_images`.
        split: What to measure on; where the data name no splits, or for None: all, and `split` in the result says so.
        ci: The confidence of bootstrap intervals over whole groups of pictures; None: no intervals.
        compare: Another model, for the same labels in any order; `comparison` then holds the paired differences (that
            model minus this one), with intervals of confidence `ci` (None: 0.95), and a `sentence`.
        batch_size: Pictures at once.
        fast_decode: Decode a JPEG no larger than the transform needs.
        source: Other arguments of `load_images`; with `bad_images="skip"` the result counts `skipped_images`.

    Returns:
        What `decide.report.measure_rule` says, `split`, and in `data` where the pictures came from. A label of the
        model that the data lack is unknown there: its measures are undefined, and `undefined_labels` names it.

    Raises:
        HalflabelError: If the split is empty, the data have none of the labels, or the models have different ones.
    """
    images = load_images(data, **source)
    measured = measure(model, images, split, batch_size, fast_decode, ci, compare)
    counted = {"skipped_images": len(images.skipped)} if source.get("bad_images") == "skip" else {}
    return {"data": list(dict.fromkeys(images.column("source"))), **measured.metrics, **counted}


def measure(
    model: Name | SavedModel,
    images: AnnotatedImages,
    split: str | None,
    batch_size: int = 32,
    fast_decode: bool = True,
    ci: float | None = CI,
    compare: Name | SavedModel | None = None,
) -> Measured:
    """Measure a model on pictures that are loaded; arguments and errors are those of `evaluate`."""
    if ci is not None:
        check_confidence(ci)
    saved = open_model(model)
    names, rule = saved.label_names, saved.model.config.decision_rule
    other, order = None, []
    if compare is not None:
        other = open_model(compare)
        differing = set(names) ^ set(other.label_names)
        if differing:
            which = shortlist(sorted(differing))
            raise HalflabelError(f"{saved.name} and {other.name} answer different labels, only one of them {which}")
        order = [other.label_names.index(label) for label in names]
    chosen, split = choose_split(saved, images, split)
    logits = predict_logits(saved, chosen, batch_size, fast_decode)
    groups = chosen.groups
    metrics = measure_rule(rule, logits, chosen.labels, names, ci, groups)
    if other is not None:
        theirs = predict_logits(other, chosen, batch_size, fast_decode)[:, order]
        found = compare_scores(logits, theirs, chosen.labels, ci or CI, groups=groups)
        sentence = found.sentence(saved.name, other.name)
        metrics["comparison"] = {"with": other.name, "sentence": sentence, **found.to_dict(names)}
    return Measured({"split": split, **metrics}, logits, chosen.labels, rule)


def calibrate(
    model: Name | SavedModel,
    data: Any,  # noqa: ANN401 - whatever `load_images` takes
    *,
    split: str = "validation",
    objective: str = "f1",
    calibration: str = "platt",
    batch_size: int = 32,
    fast_decode: bool = True,
    **source: Any,  # noqa: ANN401
) -> dict[str, Any]:
    """Fit calibration and thresholds on one split and store them in the model's `config.json`; weights stay untouched.

    The model is a folder, or what was opened from one. `split` is what to fit on, and not what the model is to be
    measured on. For `objective` see `thresholds.parse_objective`, for `calibration` `decision_fitting.fit_decisions`,
    for the other arguments `evaluate`. `halflabel.calibrate` also renders the card again, see `share.trained`.

    Returns:
        What `decide.report.describe_decisions` says of the new rule on the entries it was fitted on, and `split`.

    Raises:
        HalflabelError: As `evaluate` and `fit_decisions`, if the data lack a label, whose thresholds would be lost, and
            if the model is not in a folder.
    """
    check_fitting(objective, calibration)
    name = model.name if isinstance(model, SavedModel) else str(model)
    if not Path(name, CONFIG_NAME).is_file():
        raise HalflabelError(f"decisions are stored in a model's {CONFIG_NAME}, and {name!r} is no folder that has one")
    if not os.access(name, os.W_OK):
        raise HalflabelError(f"{name} cannot be written to, and decisions are stored there")
    images = load_images(data, **source)
    splits = images.column("split")
    if split not in splits and (splits != "").any():
        raise HalflabelError(
            f"the data have no image in split {split!r}: give pictures that the model was not trained on, "
            "or train with decide, which uses those that training keeps for validation"
        )
    saved = open_model(model)
    chosen, taken = choose_split(saved, images, split, every_label=True)
    logits = predict_logits(saved, chosen, batch_size, fast_decode)
    rule = fit_decisions(logits, chosen.labels, objective, calibration)
    if process_state().is_main_process:
        store_decisions(Path(name), rule)
    saved.model.config.decisions = rule.to_dict()
    return {"split": taken, **describe_decisions(rule, logits, chosen.labels, saved.label_names)}


def store_decisions(folder: Path, rule: DecisionRule) -> None:
    """Put a rule into a model's `config.json`: wholly or, where writing fails, not at all; nothing else changes."""
    path = folder / CONFIG_NAME
    content = json.loads(path.read_text(encoding="utf-8"))
    content["decisions"] = rule.to_dict()
    write_whole(path, json.dumps(content, indent=2, sort_keys=True) + "\n")
