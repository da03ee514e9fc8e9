"""A model with any head as one ONNX file, held against torch by onnxruntime."""

import importlib
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..model.errors import HalflabelError, reason_of
from ..model.image_processing_timm_multilabel import TimmMultiLabelImageProcessor
from ..model.modeling_timm_multilabel import TimmMultiLabelForImageClassification

ONNX_FILES = ("model.onnx",)
TOLERANCE = 1e-4
"""How far scores may be apart, and logits as a share of the largest; 1 counts as the smallest largest one."""
BATCH_SIZES = (1, 3)


def write_onnx(
    model: TimmMultiLabelForImageClassification, processor: TimmMultiLabelImageProcessor, folder: Path
) -> str:
    """Write `model.onnx` and run it.

    Its input is `pixel_values`, float32 (batch, channels, height, width) as the processor gives them, for any batch
    size. Its outputs are `logits` and `scores`, both (batch, num_labels): the scores are calibrated, 0..1, those of
    the pipeline and of `halflabel predict`, to be compared with the thresholds in `decisions.json`.

    Args:
        model: In evaluation mode and float32, with any head.
        processor: The model's.
        folder: An empty one.

    Returns:
        A line about what was compared.

    Raises:
        HalflabelError: If onnx, onnxscript or onnxruntime are not installed, if torch cannot export the backbone, or
            if onnxruntime answers otherwise than torch.
    """
    _check_installed()
    network = _WithScores(model).eval()
    path, size = folder / ONNX_FILES[0], processor.input_size
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter about itself
            torch.onnx.export(
                network, (torch.zeros(2, *size),), path,
                input_names=["pixel_values"], output_names=["logits", "scores"],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                dynamo=True, external_data=False, verbose=False,
            )  # fmt: skip
    except Exception as error:  # whatever a step of the exporter makes of a layer it does not know
        raise HalflabelError(
            f"{model.config.backbone} cannot be exported to ONNX: {reason_of(error.__cause__ or error)}"
        ) from error
    return _compare(network, path, size)


def _check_installed() -> None:
    for module in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise HalflabelError(f"this format needs {module}: pip install 'halflabel[onnx]'") from error


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


def _compare(network: _WithScores, path: Path, size: list[int]) -> str:
    """Run the file by onnxruntime at several batch sizes and hold it against torch."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    lines, generator = [], torch.Generator().manual_seed(0)
    for batch_size in BATCH_SIZES:
        pixels = torch.randn(batch_size, *size, generator=generator)
        with torch.inference_mode():
            logits, scores = (output.numpy() for output in network(pixels))
        onnx_logits, onnx_scores = session.run(["logits", "scores"], {"pixel_values": pixels.numpy()})
        largest = max(1.0, float(np.abs(logits).max()))
        most = max(float(np.abs(onnx_logits - logits).max()) / largest, float(np.abs(onnx_scores - scores).max()))
        if not most <= TOLERANCE:  # also where it is NaN
            raise HalflabelError(
                f"onnxruntime answers otherwise than torch at batch size {batch_size} (by {most:.2g}, allowed is "
                f"{TOLERANCE:.0e}): {network.model.config.backbone} cannot be exported to ONNX as it is"
            )
        lines.append(f"batch size {batch_size}: {most:.1e}")
    return f"onnxruntime against torch, largest difference (allowed {TOLERANCE:.0e}): {', '.join(lines)}"
