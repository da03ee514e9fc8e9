"""A model's decision rule, fitted on an annotated data set and stored in the model's folder."""

import json
import os
from pathlib import Path
from typing import Any

from transformers.utils import CONFIG_NAME

from ..data.files import write_whole
from ..data.images import AnnotatedImages
from ..decide.decision_fitting import check_fitting, fit_decisions
from ..decide.report import describe_decisions
from ..model.decisions import DecisionRule
from ..model.errors import HalflabelError
from ..training.features import process_state
from .inference import choose_split, load_model, split_logits


def calibrate_model(
    name: str,
    images: AnnotatedImages,
    split: str = "validation",
    objective: str = "f1",
    calibration: str = "platt",
    batch_size: int = 32,
    fast_decode: bool = True,
) -> dict[str, Any]:
    """Fit calibration and thresholds on one split and store them in the model's `config.json`; weights stay untouched.

    Args:
        name: A model's folder.
        images: Pictures with labels.
        split: What to fit on; where the data name no splits: all. Not what the model is to be measured on.
        objective: See `thresholds.parse_objective`.
        calibration: See `decision_fitting.fit_decisions`.
        batch_size: Pictures at once.
        fast_decode: Decode a JPEG no larger than the transform needs.

    Returns:
        What `decision_report.describe_decisions` says of the new rule on the entries it was fitted on, and `split`.

    Raises:
        HalflabelError: As `evaluate_model` and `fit_decisions`, and if the model is not in a folder.
    """
    check_fitting(objective, calibration)
    if not (Path(name) / CONFIG_NAME).is_file():
        raise HalflabelError(f"decisions are stored in a model's {CONFIG_NAME}, and {name!r} is no folder that has one")
    if not os.access(name, os.W_OK):
        raise HalflabelError(f"{name} cannot be written to, and decisions are stored there")
    splits = images.column("split")
    if split not in splits and (splits != "").any():
        raise HalflabelError(
            f"the data have no image in split {split!r}: give pictures that the model was not trained on, "
            "or train with decide, which uses those that training keeps for validation"
        )
    model, processor = load_model(name)
    chosen, split = choose_split(name, model, images, split)
    logits = split_logits(model, processor, chosen, batch_size, fast_decode)
    rule = fit_decisions(logits, chosen.labels, objective, calibration)
    if process_state().is_main_process:
        store_decisions(Path(name), rule)
    return {"split": split, **describe_decisions(rule, logits, chosen.labels, model.config.label_space.names)}


def store_decisions(folder: Path, rule: DecisionRule) -> None:
    """Put a rule into a model's `config.json`: wholly or, where writing fails, not at all; nothing else changes."""
    path = folder / CONFIG_NAME
    content = json.loads(path.read_text(encoding="utf-8"))
    content["decisions"] = rule.to_dict()
    write_whole(path, json.dumps(content, indent=2, sort_keys=True) + "\n")
