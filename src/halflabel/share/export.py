"""A model in a format that others read, and beside it, as JSON, how pictures are prepared and what the answers are."""

import json
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..model.decisions import NEVER, DecisionRule, sigmoid
from ..model.errors import HalflabelError, did_you_mean
from ..model.image_processing_timm_multilabel import TimmMultiLabelImageProcessor
from ..model.modeling_timm_multilabel import TimmMultiLabelForImageClassification
from ..use.inference import load_model
from .export_onnx import ONNX_FILES, write_onnx
from .export_timm import TIMM_FILES, write_timm

DECISIONS = "decisions.json"
_Writer = Callable[[TimmMultiLabelForImageClassification, TimmMultiLabelImageProcessor, Path], str]
FORMATS: dict[str, tuple[_Writer, Sequence[str]]] = {
    "timm": (write_timm, TIMM_FILES),
    "onnx": (write_onnx, ONNX_FILES),
}
_RULE = (
    "score = 1 / (1 + exp(-(scale * logit + shift))); the answer is yes where score >= threshold, so that a threshold "
    "of 2.0 means never. The same answers from scores without calibration, 1 / (1 + exp(-logit)): yes where they are "
    ">= plain_threshold."
)


def export_model(name: str, format_name: str, folder: Path) -> str:
    """Write a halflabel model in a format that needs no halflabel.

    Args:
        name: The model's folder or Hub name.
        format_name: `"timm"`: see `export_timm.write_timm`; `"onnx"`: see `export_onnx.write_onnx`.
        folder: It is made; where it holds an export of the same format, and nothing else, that is replaced. It also
            gets `decisions.json`; see `describe_decisions`.

    Returns:
        A line about how what was written was checked.

    Raises:
        HalflabelError: On another format, on a folder with other files in it, or as the writers do. The folder is then
            as it was.
    """
    if format_name not in FORMATS:
        raise HalflabelError(
            f"unknown format {format_name!r}; it is one of {', '.join(FORMATS)}{did_you_mean(format_name, FORMATS)}"
        )
    write, files = FORMATS[format_name]
    _check_folder(folder, format_name, {*files, DECISIONS})
    model, processor = load_model(name)
    nn.Module.float(model)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as place:
        checked = write(model, processor, Path(place))
        decisions = describe_decisions(model, processor)
        (Path(place) / DECISIONS).write_text(json.dumps(decisions, indent=1, ensure_ascii=False) + "\n", "utf-8")
        folder.mkdir(exist_ok=True)
        for file in (*files, DECISIONS):
            os.replace(Path(place) / file, folder / file)
    return checked


def _check_folder(folder: Path, format_name: str, files: set[str]) -> None:
    if folder.exists() and not folder.is_dir():
        raise HalflabelError(f"{folder} is a file; a folder is needed there")
    present = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if present and not (DECISIONS in present and present <= files):
        others = sorted(present - files) or sorted(present)
        raise HalflabelError(
            f"{folder} is not empty and not an earlier {format_name} export ({others[0]} is in it): give another folder"
        )


def describe_decisions(
    model: TimmMultiLabelForImageClassification, processor: TimmMultiLabelImageProcessor
) -> dict[str, Any]:
    """Return what somebody without halflabel needs to prepare pictures and to answer yes or no.

    Returns:
        `rule`: in words and a formula, how to answer; `calibration` and `objective`, see `DecisionRule`;
        `preprocessing`: the keys of timm's data configuration; `labels`: for each, in the order of the logits, its
        `label`, `scale`, `shift`, `threshold`, and `plain_threshold`, see `plain_thresholds`.
    """
    rule = model.config.decision_rule
    rows = zip(
        model.config.label_space.names, rule.scale, rule.shift, rule.thresholds, plain_thresholds(rule), strict=True
    )
    return {
        "rule": _RULE,
        "calibration": rule.calibration,
        "objective": rule.objective,
        "preprocessing": processor.data_config,
        "labels": [
            dict(zip(("label", "scale", "shift", "threshold", "plain_threshold"), row, strict=True)) for row in rows
        ],
    }


def plain_thresholds(rule: DecisionRule) -> tuple[float, ...]:
    """Return per label the threshold of the plain sigmoid at which the rule's answer turns to yes.

    The scale is above 0, so that sigmoid(scale z + shift) >= t where z >= (logit(t) - shift) / scale. Answers are the
    rule's but for the rounding of scores: those of logits above 17 are 1 in float32. A threshold that this rounds to 1
    in float64 is `NEVER`.
    """
    return tuple(
        _plain_threshold(threshold, scale, shift)
        for threshold, scale, shift in zip(rule.thresholds, rule.scale, rule.shift, strict=True)
    )


def _plain_threshold(threshold: float, scale: float, shift: float) -> float:
    if threshold in (0, NEVER):
        return threshold
    logit = math.inf if threshold == 1 else math.log(threshold) - math.log1p(-threshold)
    plain = float(sigmoid((logit - shift) / scale))
    return plain if plain < 1 else NEVER
