"""One set of label names that are HTML, templates, YAML, Markdown, formulas: from the table to everything written."""

import csv
import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import write_pictures
from huggingface_hub import ModelCard
from PIL import Image

from halflabel import TimmMultiLabelForImageClassification
from halflabel.data.images import AnnotatedImages
from halflabel.data.loading import load_images
from halflabel.model import backbones as weights
from halflabel.share import space
from halflabel.share.export import export
from halflabel.use.inference import open_model
from halflabel_cli import main

NAMES = [
    "<script>alert(1)</script>", "<img src=x onerror=alert(2)>", "{{ 7771 * 3 }}{% raw %}${7771*3}", "a|b",
    "**bold** [x](y)", "key: [value, *alias", "=cmd|' /C calc'!A0", "# head", "'quoted' \"twice\"",
    "$\\frac{$", "漢字 🦔 é", "null", "---", "@SUM(1)", "-1+2", "%s {} \\n", "0", "sign\u202egnp.exe",
]  # fmt: skip


class Page(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = set(), ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A table of 60 pictures with these labels; some entries are unknown."""
    folder = tmp_path_factory.mktemp("names")
    write_pictures(folder, 60, 40)
    rng = np.random.default_rng(0)
    with (folder / "t.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "split", *NAMES])
        for i in range(60):
            answers = rng.choice(["1", "0", ""], len(NAMES), p=[0.4, 0.4, 0.2])
            writer.writerow([f"{i:03d}.png", "train" if i < 20 else "test", *answers])
    return folder / "t.csv"


@pytest.fixture(scope="module")
def model(data, tmp_path_factory):
    """A model trained on it, with all that a run can write."""
    folder = tmp_path_factory.mktemp("run")
    recipe = {
        "backbone": "test_resnet", "weights": "none", "freeze_backbone": True, "cache_features": True, "use_cpu": True,
        "num_train_epochs": 1, "disable_tqdm": True, "report_to": "none", "data": str(data),
        "output_dir": str(folder / "model"), "feature_cache": "none", "plots": True, "decide": "f1", "ci": 0.9,
        "label_weight": {NAMES[0]: 2.0}, "unknown": {NAMES[3]: "negative"},
    }  # fmt: skip
    (folder / "r.yaml").write_text(yaml.safe_dump(recipe, allow_unicode=True), encoding="utf-8")
    assert main(["train", str(folder / "r.yaml")]) == 0
    return folder / "model"


def test_the_model_and_its_files_name_the_labels_as_they_are(model):
    assert TimmMultiLabelForImageClassification.from_pretrained(model).config.label_space.names == tuple(NAMES)
    for name in ("metrics.json", "card.json"):
        content = json.loads((model / name).read_text())
        assert list(content.get("labels") or content["training"]["labels"]) == NAMES
    assert yaml.safe_load((model / "recipe.yaml").read_text())["unknown"] == {NAMES[3]: "negative"}
    assert len(list((model / "plots").glob("*.png"))) >= 5


def test_the_card_shows_them_and_none_becomes_markup(model):
    card = ModelCard.load(model / "README.md")
    assert {f"AP of {name}" for name in NAMES} <= {result.metric_name for result in card.data.eval_results}
    body = re.sub(r"```.*?```", "", card.text, flags=re.DOTALL)
    assert "<script" not in body
    assert "<img" not in body
    assert "23313" not in body  # no template was run
    assert not re.search(r"(?<!\\)\*\*bold|(?<!\\)\[x\]\(y\)", body)
    assert main(["card", str(model)]) == 0


def test_every_table_of_scores_reads_back(model, data, tmp_path):
    names = ["file_name", "answered_yes", *NAMES]
    frames = {}
    for ending, read in (("csv", pd.read_csv), ("jsonl", lambda path: pd.read_json(path, lines=True, dtype=False)),
                         ("parquet", pd.read_parquet)):  # fmt: skip
        path = tmp_path / f"scores.{ending}"
        assert main(["predict", str(model), str(data.parent / "00*.png"), "--output", str(path)]) == 0
        frames[ending] = read(path)
        assert [str(name) for name in frames[ending].columns] == names
    values = [frame.iloc[:, 2:].to_numpy(dtype=float) for frame in frames.values()]
    assert np.allclose(values[0], values[2])
    assert np.allclose(values[1], values[2])
    yes = [list(row) for row in frames["parquet"]["answered_yes"]]
    joined = ["" if pd.isna(cell) else cell for cell in frames["csv"]["answered_yes"]]
    assert [
        [name.replace("\\|", "|") for name in re.split(r"(?<!\\)\|", cell)] if cell else [] for cell in joined
    ] == yes
    assert any("a|b" in row for row in yes) or all(frames["parquet"]["a|b"] < 0.5)


@pytest.mark.parametrize("output", ["t2.parquet", "shards/"])
def test_written_data_are_the_same_data(data, tmp_path, output):
    assert main(["data", str(data), "--output", f"{tmp_path}/{output}"]) == 0
    options = {"image_folder": str(data.parent)} if output.endswith("parquet") else {}
    before, after = load_images(str(data)), load_images({"path": f"{tmp_path}/{output}", **options})
    assert after.label_space == before.label_space
    assert by_file(after) == by_file(before)


def by_file(images: AnnotatedImages):
    return dict(zip(images.column("file_name"), images.labels.tolist(), strict=True))


def test_commands_that_measure_and_draw_take_them(model, data, tmp_path, capsys):
    source = [str(model), "--data", str(data)]
    assert main(["evaluate", *source, "--output", str(tmp_path / "m.json")]) == 0
    assert list(json.loads((tmp_path / "m.json").read_text())["labels"]) == NAMES
    assert main(["review", *source, "--output", str(tmp_path / "found")]) == 0
    assert set(pd.read_csv(tmp_path / "found" / "errors.csv", keep_default_na=False, dtype=str)["label"]) <= set(NAMES)
    assert main(["calibrate", *source, "--split", "train"]) == 0
    picture = str(data.parent / "000.png")
    why = ["--labels", *NAMES[:3], "--output", str(tmp_path / "why.png")]
    assert main(["explain", str(model), picture, *why]) == 0
    told = capsys.readouterr().out
    assert all(f"{name}: " in told for name in NAMES[:3])
    assert "\u202e" not in told
    assert r"sign\u202egnp.exe" in told
    for path in (tmp_path / "found" / "errors.png", tmp_path / "why.png"):
        with Image.open(path) as image:
            assert image.width > 300
    assert main(["data", str(data), "--plot", str(tmp_path / "data.png"), "--report", str(tmp_path / "r.json")]) == 0
    assert list(json.loads((tmp_path / "r.json").read_text())["labels"]) == NAMES


def test_the_demo_shows_them_as_text(model, data):
    saved = open_model(model)
    html, _ = space.answer(saved.model, saved.processor, str(data.parent / "000.png"))
    page = Page(html)
    assert page.tags == {"div", "span", "b"}
    assert all(name in page.text for name in NAMES)


def test_the_page_of_advise_shows_them_as_text(data, tmp_path):
    backbone = weights.create_backbone("test_resnet", None)
    torch.save(backbone.state_dict(), tmp_path / "w.pth")
    arguments = [
        "--backbone",
        "test_resnet",
        "--weights",
        str(tmp_path / "w.pth"),
        "--output",
        str(tmp_path / "advice"),
    ]
    assert main(["advise", str(data), *arguments]) == 0
    page = Page((tmp_path / "advice.html").read_text(encoding="utf-8"))
    assert "script" not in page.tags
    assert all(name in page.text for name in NAMES)
    json.loads((tmp_path / "advice.json").read_text())


def test_an_exported_model_names_them(model, tmp_path):
    export(model, tmp_path / "timm", "timm")
    config = json.loads((tmp_path / "timm" / "config.json").read_text())
    assert config["label_names"] == NAMES or list(config["id2label"].values()) == NAMES
