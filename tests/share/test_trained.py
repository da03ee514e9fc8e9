"""A recipe run from a program, and a model that is loaded: what they tell, and what they are good for afterwards."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from halflabel import HalflabelError, TimmMultiLabelForImageClassification, TimmMultiLabelImageProcessor
from halflabel.data.loading import load_images
from halflabel.model.heads import LinearHead
from halflabel.model.losses import LOSSES
from halflabel.share.trained import load, train
from halflabel.training.recipe import parse_recipe
from halflabel.use.evaluate import evaluate
from halflabel.use.predict import predict

KEYS = {
    "backbone": "test_resnet", "weights": "none", "optim": "sgd", "num_train_epochs": 2, "learning_rate": 0.05,
    "per_device_train_batch_size": 8, "use_cpu": True, "disable_tqdm": True, "report_to": "none",
}  # fmt: skip


@pytest.fixture
def keys(tmp_path):
    return {**KEYS, "output_dir": str(tmp_path / "out")}


def test_a_table_a_frame_and_loaded_pictures_are_the_same_run(colour_table, keys, tmp_path):
    frame, folder = pd.read_csv(colour_table), str(colour_table.parent)
    given = [(str(colour_table), None), (frame, folder), (load_images(colour_table), None)]
    runs = [train("linear_probe", data, image_folder=at, **keys) for data, at in given]
    assert runs[0].metrics == runs[1].metrics == runs[2].metrics
    assert "data given by a program" in (runs[2].folder / "README.md").read_text()
    table = runs[2].predict(f"{folder}/*.png")
    assert table["file_name"].size == 48
    measured = runs[2].evaluate(colour_table)
    assert measured["mAP"] == pytest.approx(runs[2].metrics["mAP"])
    assert measured["data"] == [str(colour_table)]
    assert runs[1].evaluate(frame, image_folder=folder)["mAP"] == pytest.approx(measured["mAP"])


def test_a_run_draws_what_it_measured_and_its_card_shows_it(colour_table, keys):
    run = train("linear_probe", str(colour_table), **keys)
    assert json.loads((run.folder / "metrics.json").read_text()) == run.metrics
    assert not (run.folder / "plots").exists()
    files = run.plot()
    assert [file.parent for file in files] == [run.folder / "plots"] * 5
    assert "](plots/average_precision.png)" in (run.folder / "README.md").read_text()
    again = train("linear_probe", str(colour_table), **keys, resume_from_checkpoint="true")  # it is finished: loaded
    assert again.metrics == run.metrics
    assert again.evaluate(colour_table)["mAP"] == pytest.approx(run.metrics["mAP"])
    with pytest.raises(HalflabelError, match="was trained before: draw it with"):
        again.plot()


def test_a_parsed_recipe_takes_other_keys(colour_table, keys):
    recipe = parse_recipe("linear_probe", {**keys, "data": "nowhere.csv"})
    run = train(recipe, str(colour_table), num_train_epochs=1)
    resolved = yaml.safe_load((run.folder / "recipe.yaml").read_text())
    assert (resolved["data"], resolved["num_train_epochs"]) == ([str(colour_table)], 1)


class OwnHead(LinearHead):
    """A head of a program's own."""


def own_loss(*given):
    """A loss of a program's own."""
    return LOSSES["bce"].function(*given)


def test_parts_of_a_programs_own_are_told_on_the_card_and_taken_on(colour_table, keys):
    keys |= {"head": OwnHead, "loss": own_loss}
    run = train("linear_probe", colour_table, **keys)
    card = (run.folder / "README.md").read_text()
    assert "Head: `OwnHead`, code of the program that trained it." in card
    assert "Loss: `own_loss`, code of the program that trained it." in card
    finished = train("linear_probe", colour_table, **keys, resume_from_checkpoint="true")
    assert isinstance(finished.model.head, OwnHead)


def test_a_loaded_model_answers_as_its_name_does(saved_model, colour_table):
    model = load(saved_model)
    assert load(model) is model
    assert str(model.folder) == saved_model
    assert model.evaluate(colour_table) == evaluate(saved_model, colour_table)
    table = model.predict(colour_table.parent)
    assert table.equals(predict(saved_model, colour_table.parent))
    assert len(model.review(colour_table, split="test", limit=2).table)
    assert [one.label for one in model.explain(table["file_name"][0], ["blue"]).labels] == ["blue"]


def test_a_rule_that_is_fitted_is_stored_and_decides_at_once(saved_model, colour_table):
    model = load(saved_model)
    model.calibrate(colour_table, split="train", objective="recall>=0.5")
    again = load(saved_model)
    assert model.model.config.decision_rule == again.model.config.decision_rule
    assert model.model.config.decision_rule.objective == "recall>=0.5"
    model.calibrate(colour_table, split="train", objective="f1")
    assert again.model.config.decision_rule != model.model.config.decision_rule


def test_parts_of_a_programs_own_are_given_again(colour_table, tmp_path):
    model = TimmMultiLabelForImageClassification.from_backbone(
        "test_resnet", ["red", "blue"], weights=None, head=OwnHead
    )
    torch.nn.init.normal_(model.head.linear.weight)
    model.save_pretrained(tmp_path / "own")
    TimmMultiLabelImageProcessor.from_backbone(model.backbone).save_pretrained(tmp_path / "own")
    with pytest.raises(HalflabelError, match="head OwnHead is code of your own, .* give it from Python, head=OwnHead"):
        load(tmp_path / "own")
    loaded = load(tmp_path / "own", head=OwnHead)
    assert isinstance(loaded.model.head, OwnHead)
    picture = next(colour_table.parent.glob("*.png"))
    scores = loaded.predict(picture)[["red", "blue"]].to_numpy()
    with torch.no_grad():
        expected = model.eval()(**loaded.processor(str(picture))).logits.sigmoid()
    np.testing.assert_allclose(scores, expected.numpy(), rtol=1e-4)
