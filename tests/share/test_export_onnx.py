"""ONNX files against torch, on prepared pictures and at batch sizes that the export did not see."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import halflabel
from halflabel import HalflabelError
from halflabel.model.decisions import DecisionRule
from halflabel.share.export import export_model

CASES = {  # name: backbone, head, its arguments
    "linear": ("test_resnet", "linear", {}),
    "mlp": ("test_vit", "mlp", {"width": 16, "norm": "batch"}),
    "csra": ("test_resnet", "csra", {"temperatures": [1, "max"], "lam": 0.3}),
    "ml_decoder": ("test_vit", "ml_decoder", {"width": 32, "feed_forward": 32, "heads": 2}),
}


def saved(folder, backbone="test_resnet", head="linear", head_args=None):
    model = halflabel.TimmMultiLabelForImageClassification.from_backbone(
        backbone, ["red", "blue", "green"], weights=None, head=head, head_args=head_args
    ).eval()
    processor = halflabel.TimmMultiLabelImageProcessor.from_backbone(model.backbone)
    with torch.no_grad():
        model.head.standardize_(model.extract_features(torch.randn(4, *processor.input_size)))
        model.head.label_bias.normal_()
    rule = {"scale": [2.0, 0.5, 1.0], "shift": [-1.0, 0.3, 0.0], "thresholds": [0.3, 0.6, 2.0]}
    model.config.decisions = DecisionRule.plain(3).to_dict() | rule
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor


SLOW = [pytest.param(case, marks=pytest.mark.slow) for case in ("mlp", "csra")]


@pytest.mark.parametrize("case", ["linear", "ml_decoder", *SLOW])
def test_logits_scores_and_decisions_are_the_models(case, tmp_path):
    import onnxruntime

    model, processor = saved(tmp_path / "model", *CASES[case])
    checked = export_model(str(tmp_path / "model"), "onnx", tmp_path / "out")
    assert "batch size 1: " in checked
    assert "batch size 3: " in checked
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    assert (given.name, given.type, given.shape[1:]) == ("pixel_values", "tensor(float)", processor.input_size)
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 255, (90, 120, 3), dtype=np.uint8)) for _ in range(5)]
    labels = json.loads((tmp_path / "out" / "decisions.json").read_text())["labels"]
    for count in (1, 2, 5):
        pixels = processor(pictures[:count])["pixel_values"]
        with torch.inference_mode():
            expected = model(pixels).logits.double().numpy()
        logits, scores = session.run(["logits", "scores"], {"pixel_values": pixels.numpy()})
        np.testing.assert_allclose(logits, expected, atol=1e-4)
        rule = model.config.decision_rule
        np.testing.assert_allclose(scores, rule.scores(expected), atol=1e-5)
        yes = [[score >= label["threshold"] for score, label in zip(row, labels, strict=True)] for row in scores]
        assert yes == rule.decide(rule.scores(expected)).tolist()


def test_what_answers_otherwise_than_torch_is_not_left_behind(tmp_path, monkeypatch):
    saved(tmp_path / "model")
    monkeypatch.setattr("halflabel.share.export_onnx.TOLERANCE", -1.0)
    with pytest.raises(HalflabelError, match="onnxruntime answers otherwise than torch at batch size 1 "):
        export_model(str(tmp_path / "model"), "onnx", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("module", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_before_any_work(module, tmp_path, monkeypatch):
    saved(tmp_path / "model")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(HalflabelError, match=rf"^this format needs {module}: pip install 'halflabel\[onnx\]'$"):
        export_model(str(tmp_path / "model"), "onnx", tmp_path / "out")


def test_a_network_that_torch_cannot_export_is_named(tmp_path, monkeypatch):
    model, _ = saved(tmp_path / "model")

    def depends_on_values(self, pixels):
        return pixels[:, 0, 0, :96] if pixels.sum() > 0 else pixels[:, 1, 0, :96]

    monkeypatch.setattr(type(model), "extract_features", depends_on_values)
    with pytest.raises(HalflabelError, match="^test_resnet cannot be exported to ONNX: ") as error:
        export_model(str(tmp_path / "model"), "onnx", tmp_path / "out")
    assert len(str(error.value).splitlines()) == 1
