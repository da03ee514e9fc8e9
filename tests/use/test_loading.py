"""A model is loaded once and asked: the same answers as the functions give by name."""

import numpy as np
import pytest
import torch

from halflabel import HalflabelError, TimmMultiLabelForImageClassification, TimmMultiLabelImageProcessor
from halflabel.model.heads import LinearHead
from halflabel.use.evaluate import evaluate
from halflabel.use.loading import load
from halflabel.use.predict import predict


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


class OwnHead(LinearHead):
    """A head of a program's own."""


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
