"""A network whose weights are finite and whose logits are not: every path says so, none answers no."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Trainer, TrainingArguments, pipeline

import halflabel
from halflabel import HalflabelError, MultiLabelTrainer, trainer_metrics
from halflabel.data.pixels import PixelDataset, collate
from halflabel_cli import main


@pytest.fixture(params=[torch.nan, torch.inf], ids=["nan", "inf"])
def broken_model(request, tiny_model, saved_model):
    """The folder of a model with a variance below 0, or weights that overflow; each of them is a finite number."""
    if np.isnan(request.param):
        tiny_model.backbone.bn1.running_var.fill_(-1.0)
    else:
        tiny_model.head.linear.weight.data.fill_(3e38)
        tiny_model.head.feature_scale.fill_(1e-30)
    tiny_model.save_pretrained(saved_model)
    return saved_model


BROKEN = r"the logit of label ('red'|'blue'|number 0) is -?(nan|inf) for "


@pytest.mark.parametrize(
    "command",
    [
        "predict {model} {pictures} --output scores.csv",
        "evaluate {model} --data {table}",
        "calibrate {model} --data {table} --split test",
        "review {model} --data {table} --output found",
        "explain {model} {picture} --output heat.png",
        "export {model} --format timm --output exported",
    ],
)
def test_commands_name_the_label_and_write_nothing(command, broken_model, colour_table, monkeypatch, capsys):
    folder = colour_table.parent
    monkeypatch.chdir(folder)
    places = {
        "model": broken_model,
        "pictures": folder / "00*.png",
        "picture": folder / "000.png",
        "table": colour_table,
    }
    assert main([word.format(**places) for word in command.split()]) == 2
    assert halflabel_error(capsys.readouterr().err, BROKEN)
    assert not (folder / "scores.csv").exists()
    assert not (folder / "heat.png").exists()


def halflabel_error(text, pattern):
    import re

    return re.search("halflabel: error: .*" + pattern, text)


def test_the_pipeline_and_the_python_functions(broken_model, colour_table):
    picture = str(colour_table.with_name("000.png"))
    classify = pipeline("multi-label-image-classification", broken_model)
    for image in (picture, Image.open(picture)):
        with pytest.raises(HalflabelError, match=BROKEN + "the picture"):
            classify(image)
    with pytest.raises(HalflabelError, match=BROKEN + picture):
        halflabel.predict(broken_model, [picture])


@pytest.mark.parametrize("kind", [MultiLabelTrainer, Trainer])
def test_evaluation_while_training_also_of_entries_that_nobody_knows(kind, broken_model, colour_images, tmp_path):
    loaded = halflabel.load(broken_model)
    unknown = colour_images.with_labels(np.full_like(colour_images.labels, -100))
    trainer = kind(
        model=loaded.model,
        args=TrainingArguments(tmp_path / "run", report_to="none", remove_unused_columns=False),
        data_collator=collate,
        eval_dataset=PixelDataset(unknown, loaded.processor.eval_transform()),
        compute_metrics=trainer_metrics,
    )
    with pytest.raises(HalflabelError, match=BROKEN):
        trainer.evaluate()
