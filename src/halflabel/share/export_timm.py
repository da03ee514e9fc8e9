"""A model with a linear head as a plain timm checkpoint, which transformers' own TimmWrapper classes read as well."""

import json
from pathlib import Path

import timm
import torch
from timm.models import save_for_hf
from torch import Tensor, nn
from transformers import TimmWrapperForImageClassification

from ..model.errors import HalflabelError
from ..model.heads import LinearHead
from ..model.image_processing_timm_multilabel import TimmMultiLabelImageProcessor
from ..model.modeling_timm_multilabel import TimmMultiLabelForImageClassification

TIMM_FILES = ("config.json", "model.safetensors")
TOLERANCE = 1e-5
"""How far scores may be apart; logits four times that (the sigmoid is at most 1/4 steep), or that of the largest."""


def write_timm(
    model: TimmMultiLabelForImageClassification, processor: TimmMultiLabelImageProcessor, folder: Path
) -> str:
    """Write `config.json` and `model.safetensors` that timm and vanilla transformers load, and read them back.

    `timm.create_model("local-dir:FOLDER", pretrained=True)`, from the Hub `"hf-hub:..."`, and transformers'
    `AutoModelForImageClassification` answer with the model's logits; scores are then the plain sigmoid's, and
    `decisions.json` has the calibration. Their own preparation of an RGB picture is the processor's, to the last bit:
    both are timm's evaluation transform of the same settings. What differs comes before it: halflabel's pipeline and
    `halflabel predict` decode a large JPEG no larger than is needed, and make white, not black, of what is transparent.

    Args:
        model: In evaluation mode and float32, with a linear head.
        processor: The model's.
        folder: An empty one.

    Returns:
        A line about what was compared.

    Raises:
        HalflabelError: If the head is not linear in the plain features, if timm's own classifier of this backbone is
            not one linear layer, or if what was written answers otherwise than the model.
    """
    if not isinstance(model.head, LinearHead):
        raise HalflabelError(
            f"a plain timm checkpoint holds a linear head, not the head {model.config.head!r}: use --format onnx, "
            "or share the model as it is, which loads with trust_remote_code=True"
        )
    if model.head.power != 1:
        raise HalflabelError(
            f"a plain timm checkpoint knows no power of features, and this head's is {model.head.power}: use --format "
            "onnx, or share the model as it is, which loads with trust_remote_code=True"
        )
    plain = _as_timm(model, model.head)
    try:
        save_for_hf(plain, str(folder), safe_serialization=True, data_config=processor.data_config)
    except ValueError as error:  # of timm: pictures of another size than the network's, an argument JSON cannot hold
        raise HalflabelError(f"{model.config.backbone} cannot be written as a timm checkpoint: {error}") from error
    _complete_config(folder / "config.json", model.config.label_space.names)
    pixels = torch.randn(2, *processor.input_size, generator=torch.Generator().manual_seed(0))
    return _compare(model, folder, pixels)


@torch.no_grad()
def _as_timm(model: TimmMultiLabelForImageClassification, head: LinearHead) -> nn.Module:
    """Return timm's own network of the architecture, with the model's backbone and the head as its classifier."""
    config = model.config
    arguments = {**(config.backbone_args or {}), "num_classes": len(config.label_space)}
    plain: nn.Module = timm.create_model(config.backbone, **arguments).eval()
    weight, bias = _fold_standardisation(head)
    classifier = plain.get_classifier()  # type: ignore[operator]
    layer = isinstance(classifier, nn.Linear | nn.Conv2d) and classifier.bias is not None
    if not layer or classifier.weight.numel() != weight.numel():
        raise HalflabelError(
            f"timm's classifier of {config.backbone} is not one linear layer on the pooled features: use --format onnx"
        )
    plain.load_state_dict(model.backbone.state_dict(), strict=False)  # `_compare` finds whatever were missing
    classifier.weight.copy_(weight.view_as(classifier.weight))
    classifier.bias.copy_(bias)
    return plain


def _fold_standardisation(head: LinearHead) -> tuple[Tensor, Tensor]:
    """Return float64 W' = W / s and b' = b - W' m, so that W' x + b' = W (x - m) / s + b."""
    weight = head.linear.weight.double() / head.feature_scale.double()
    return weight, head.linear.bias.double() - weight @ head.feature_mean.double()


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


@torch.inference_mode()
def _compare(model: TimmMultiLabelForImageClassification, folder: Path, pixels: Tensor) -> str:
    """Load what was written by both libraries and hold it against the model."""
    expected = model(pixel_values=pixels).logits
    by_timm = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()(pixels)
    by_transformers = TimmWrapperForImageClassification.from_pretrained(folder).eval()(pixels).logits
    read = torch.stack([by_timm, by_transformers])
    logits = float((read - expected).abs().max()) / max(1.0, float(expected.abs().max()))
    scores = float((read.sigmoid() - expected.sigmoid()).abs().max())
    if not (logits <= 4 * TOLERANCE and scores <= TOLERANCE):  # also where one is NaN
        raise HalflabelError(
            f"timm's own {model.config.backbone} answers otherwise: scores differ by up to {scores:.1e} (allowed "
            f"{TOLERANCE:.0e}), logits by {logits:.1e} of the largest; use --format onnx"
        )
    return f"loaded again by timm and by transformers: scores differ by at most {scores:.1e} (allowed {TOLERANCE:.0e})"
