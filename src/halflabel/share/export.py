"""A model in a format that others read, and beside it, as JSON, how pictures are prepared and what the answers are."""

import copy
import importlib
import json
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors import SafetensorError
from timm.models import save_for_hf
from torch import Tensor, nn
from transformers import TimmWrapperForImageClassification

from ..data.files import put_in_place
from ..model.decisions import NEVER, DecisionRule, check_logits, sigmoid
from ..model.errors import HalflabelError, did_you_mean, reason_of
from ..model.heads import LinearHead
from ..model.image_processing_timm_multilabel import TimmMultiLabelImageProcessor
from ..model.modeling_timm_multilabel import TimmMultiLabelForImageClassification
from ..use.inference import Name, SavedModel, open_model

DECISIONS = "decisions.json"
ONNX_TOLERANCE, TIMM_TOLERANCE = (1e-4, 1e-4), (1e-5, 4e-5)
"""How far scores may be from the model's, and logits as a share of the largest or of 1."""
BATCH_SIZES = (1, 3)
_RULE = (
    "score = 1 / (1 + exp(-(scale * logit + shift))); the answer is yes where score >= threshold, so that a threshold "
    "of 2.0 means never. The same answers from scores without calibration, 1 / (1 + exp(-logit)): yes where they are "
    ">= plain_threshold."
)


def export(model: Name | SavedModel, output: Name, format: str) -> str:  # noqa: A002 - the name of the option
    """Write a halflabel model in a format that needs no halflabel.

    Args:
        model: A folder, a Hub name, or what is open already.
        output: A folder. It is made; where it holds an export of the same format, and nothing else, that is replaced.
            It also gets `decisions.json`; see `describe_decisions`.
        format: `"timm"`: see `write_timm`; `"onnx"`: see `write_onnx`.

    Returns:
        A line about how what was written was checked.

    Raises:
        HalflabelError: On another format, on a folder with other files in it, or as the writers do. The folder is then
            as it was.
    """
    if format not in FORMATS:
        raise HalflabelError(f"format {format!r} is none of {', '.join(FORMATS)}{did_you_mean(format, FORMATS)}")
    write, files = FORMATS[format]
    folder = Path(output)
    _check_folder(folder, format, {*files, DECISIONS})
    saved = open_model(model)
    network = nn.Module.float(nn.Module.cpu(copy.deepcopy(saved.model)))
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as place:
            checked = write(network, saved.processor, Path(place))
            decisions = describe_decisions(network, saved.processor)
            (Path(place) / DECISIONS).write_text(json.dumps(decisions, indent=1, ensure_ascii=False) + "\n", "utf-8")
            folder.mkdir(exist_ok=True)
            put_in_place({Path(place) / file: folder / file for file in (*files, DECISIONS)})
    except (OSError, SafetensorError) as error:
        raise HalflabelError(f"{folder} cannot be written ({reason_of(error)}); is the disk full?") from error
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

    `preprocessing` has the keys of timm's data configuration, `labels` a row for each label in the order of the logits.
    """
    rule, keys = model.config.decision_rule, ("label", "scale", "shift", "threshold", "plain_threshold")
    columns = model.config.label_space.names, rule.scale, rule.shift, rule.thresholds, plain_thresholds(rule)
    return {
        "rule": _RULE,
        "calibration": rule.calibration,
        "objective": rule.objective,
        "preprocessing": processor.data_config,
        "labels": [dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True)],
    }


def plain_thresholds(rule: DecisionRule) -> tuple[float, ...]:
    """Return per label the threshold of the plain sigmoid at which the rule's answer turns to yes.

    The scale is above 0, so that sigmoid(scale z + shift) >= t where z >= (logit(t) - shift) / scale. Answers are the
    rule's but for the rounding of scores: those of logits above 17 are 1 in float32. A threshold that this rounds to 1
    in float64 is `NEVER`.
    """
    threshold, scale, shift = np.array([rule.thresholds, rule.scale, rule.shift])
    with np.errstate(divide="ignore", invalid="ignore"):
        plain = sigmoid((np.log(threshold) - np.log1p(-threshold) - shift) / scale)
    return tuple(np.where(plain < 1, plain, NEVER).tolist())  # also NaN, of a threshold above 1, is never reached


def write_onnx(
    model: TimmMultiLabelForImageClassification, processor: TimmMultiLabelImageProcessor, folder: Path
) -> str:
    """Write `model.onnx` and hold it against torch by onnxruntime.

    Its input is `pixel_values`, float32 (batch, channels, height, width) as the processor gives them, for any batch
    size. Its outputs are `logits` and `scores`, both (batch, num_labels): the scores are calibrated, 0..1, those of
    the pipeline and of `halflabel predict`, to be compared with the thresholds in `decisions.json`.

    Raises:
        HalflabelError: If onnx, onnxscript or onnxruntime are not installed, if torch cannot export the backbone, or
            if onnxruntime answers otherwise than torch.
    """
    for module in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise HalflabelError(f"this format needs {module}: pip install 'halflabel[onnx]'") from error
    network = _WithScores(model).eval()
    path, size = folder / "model.onnx", processor.input_size
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter about itself
            torch.onnx.export(
                network, (torch.zeros(2, *size),), path,
                input_names=["pixel_values"], output_names=["logits", "scores"],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                dynamo=True, external_data=False, verbose=False,
            )  # fmt: skip
    except OSError:
        raise
    except Exception as error:  # whatever a step of the exporter makes of a layer it does not know
        raise HalflabelError(
            f"{model.config.backbone} cannot be exported to ONNX: {reason_of(error.__cause__ or error)}"
        ) from error
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    lines, generator = [], torch.Generator().manual_seed(0)
    for batch_size in BATCH_SIZES:
        pixels = torch.randn(batch_size, *size, generator=generator)
        with torch.inference_mode():
            expected = network(pixels)
        found = map(torch.from_numpy, session.run(["logits", "scores"], {"pixel_values": pixels.numpy()}))
        of = f"onnxruntime, at batch size {batch_size} of {model.config.backbone},"
        lines.append(f"batch size {batch_size}: {_compare(of, tuple(found), expected, ONNX_TOLERANCE):.1e}")
    return f"onnxruntime against torch, scores differ by at most (allowed {ONNX_TOLERANCE[0]:.0e}): {', '.join(lines)}"


def _compare(of: str, found: Sequence[Tensor], expected: Sequence[Tensor], most: tuple[float, float]) -> float:
    """Return by how much scores differ from the model's, each given behind its logits.

    Raises:
        HalflabelError: If they or the logits differ by more than is allowed, or are not finite.
    """
    check_logits(expected[0])
    logits, scores = (float((one - other).abs().max()) for one, other in zip(found, expected, strict=True))
    logits /= max(1.0, float(expected[0].abs().max()))
    if not (logits <= most[1] and scores <= most[0]):
        raise HalflabelError(
            f"{of} answers otherwise: scores differ by up to {scores:.1e} (allowed {most[0]:.0e}), logits by "
            f"{logits:.1e} of the largest; export it in the other format, or share the model as it is"
        )
    return scores


class _WithScores(nn.Module):
    """The model and its calibration: pixels to logits and scores."""

    scale: Tensor
    shift: Tensor

    def __init__(self, model: TimmMultiLabelForImageClassification) -> None:
        super().__init__()
        rule = model.config.decision_rule
        self.model = model
        self.register_buffer("scale", torch.tensor(rule.scale))
        self.register_buffer("shift", torch.tensor(rule.shift))

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        logits: Tensor = self.model(pixel_values=pixel_values, return_dict=False)[0]
        return logits, torch.sigmoid(logits * self.scale + self.shift)


def write_timm(
    model: TimmMultiLabelForImageClassification, processor: TimmMultiLabelImageProcessor, folder: Path
) -> str:
    """Write `config.json` and `model.safetensors` that timm and vanilla transformers load, and read them back.

    `timm.create_model("local-dir:FOLDER", pretrained=True)`, from the Hub `"hf-hub:..."`, and transformers'
    `AutoModelForImageClassification` answer with the model's logits; scores are then the plain sigmoid's, and
    `decisions.json` has the calibration. They prepare an RGB picture as the processor does, to the last bit, but decode
    a large JPEG whole, and make black, not white, of what is transparent.

    Raises:
        HalflabelError: If the head is not linear in the plain features, if timm's own classifier of this backbone is
            not one linear layer, or if what was written answers otherwise than the model.
    """
    instead = "use --format onnx, or share the model as it is, which loads with trust_remote_code=True"
    if not isinstance(model.head, LinearHead):
        raise HalflabelError(
            f"a plain timm checkpoint holds a linear head, not the head {model.config.head!r}: {instead}"
        )
    if model.head.power != 1:
        raise HalflabelError(
            f"a plain timm checkpoint knows no power of features, and this head's is {model.head.power}: {instead}"
        )
    plain = _as_timm(model, model.head)
    try:
        save_for_hf(plain, str(folder), safe_serialization=True, data_config=processor.data_config)
    except ValueError as error:  # of timm: pictures of another size than the network's, an argument JSON cannot hold
        raise HalflabelError(f"{model.config.backbone} cannot be written as a timm checkpoint: {error}") from error
    _complete_config(folder / "config.json", model.config.label_space.names)
    pixels = torch.randn(2, *processor.input_size, generator=torch.Generator().manual_seed(0))
    scores, most = 0.0, TIMM_TOLERANCE
    with torch.inference_mode():
        logits = model(pixel_values=pixels).logits
        by_timm = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()(pixels)
        by_transformers = TimmWrapperForImageClassification.from_pretrained(folder).eval()(pixels).logits
    for found in (by_timm, by_transformers):
        of = f"timm's own {model.config.backbone}"
        scores = max(scores, _compare(of, (found, found.sigmoid()), (logits, logits.sigmoid()), most))
    return f"loaded again by timm and by transformers: scores differ by at most {scores:.1e} (allowed {most[0]:.0e})"


@torch.no_grad()
def _as_timm(model: TimmMultiLabelForImageClassification, head: LinearHead) -> Any:  # noqa: ANN401 - a timm network
    """Return timm's own network of the architecture, with the model's backbone and the head as its classifier.

    Its standardisation is folded in: W' = W / s and b' = b - W' m, so that W' x + b' = W (x - m) / s + b.
    """
    config = model.config
    arguments = {**(config.backbone_args or {}), "num_classes": len(config.label_space)}
    plain: Any = timm.create_model(config.backbone, **arguments).eval()
    weight = head.linear.weight.double() / head.feature_scale.double()
    bias = head.linear.bias.double() - weight @ head.feature_mean.double()
    classifier = plain.get_classifier()
    layer = isinstance(classifier, nn.Linear | nn.Conv2d) and classifier.bias is not None
    if not layer or classifier.weight.numel() != weight.numel():
        raise HalflabelError(
            f"timm's classifier of {config.backbone} is not one linear layer on the pooled features: use --format onnx"
        )
    plain.load_state_dict(model.backbone.state_dict(), strict=False)  # `_compare` finds whatever were missing
    classifier.weight.copy_(weight.view_as(classifier.weight))
    classifier.bias.copy_(bias)
    return plain


def _complete_config(path: Path, names: tuple[str, ...]) -> None:
    """Add what transformers needs, and take away what keeps its wrapper from loading."""
    config = json.loads(path.read_text(encoding="utf-8"))
    # The wrapper passes the number of classes itself, and a second one would be a TypeError.
    config["model_args"].pop("num_classes", None)
    config |= {
        "architectures": [TimmWrapperForImageClassification.__name__],
        "model_type": "timm_wrapper",
        "problem_type": "multi_label_classification",  # its pipeline then uses the sigmoid
        "label_names": list(names),
        "id2label": dict(enumerate(names)),
        "label2id": {name: i for i, name in enumerate(names)},
    }
    path.write_text(json.dumps(config, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


_Writer = Callable[[TimmMultiLabelForImageClassification, TimmMultiLabelImageProcessor, Path], str]
FORMATS: dict[str, tuple[_Writer, Sequence[str]]] = {
    "timm": (write_timm, ("config.json", "model.safetensors")),
    "onnx": (write_onnx, ("model.onnx",)),
}
