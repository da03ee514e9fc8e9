import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForImageClassification

from halflabel import DecisionRule, HalflabelError, TimmMultiLabelImageProcessor, fit_decisions
from halflabel.use.evaluation import evaluate_model
from halflabel.use.inference import choose_split, load_model, split_logits
from halflabel.use.model_calibration import calibrate_model, store_decisions
from halflabel.use.prediction import predict_files


@pytest.fixture
def saved(tiny_model, tmp_path):
    folder = tmp_path / "model"
    tiny_model.save_pretrained(folder)
    TimmMultiLabelImageProcessor.from_backbone(tiny_model.backbone).save_pretrained(folder)
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_rule_is_fitted_on_the_split_and_stored_and_nothing_else_changes(saved, colour_images):
    before = contents(saved)
    report = calibrate_model(str(saved), colour_images, "train", "f2", "temperature")
    after = contents(saved)
    model, processor = load_model(str(saved))
    train, _ = choose_split(str(saved), model, colour_images, "train")
    logits = split_logits(model, processor, train, 32, True)
    assert model.config.decision_rule == fit_decisions(logits, train.labels, "f2", "temperature")
    assert set(after) == set(before)
    assert [name for name in before if before[name] != after[name]] == ["config.json"]
    old, new = (json.loads(files["config.json"]) for files in (before, after))
    assert {**new, "decisions": None} == old
    assert (report["split"], report["objective"], report["calibration"]) == ("train", "f2", "temperature")
    assert report["known_entries"] == (train.labels >= 0).sum()


def test_what_is_stored_is_what_predict_and_evaluate_then_use(saved, colour_images, colour_table):
    calibrate_model(str(saved), colour_images, "train")
    files = sorted(colour_table.parent.glob("*.png"))[32:]
    frame, _ = predict_files(str(saved), files)
    model, _ = load_model(str(saved))
    rule = model.config.decision_rule
    assert rule != DecisionRule.plain(2)
    scores = frame[["red", "blue"]].to_numpy()
    expected = [[name for name, yes in zip(("red", "blue"), row, strict=True) if yes] for row in rule.decide(scores)]
    assert frame["answered_yes"].tolist() == expected
    metrics = evaluate_model(str(saved), colour_images, "test").metrics
    truth = colour_images.of_split("test").labels
    for j, name in enumerate(("red", "blue")):
        assert metrics["labels"][name]["threshold"] == rule.thresholds[j]
        assert metrics["labels"][name]["Brier"] == pytest.approx(((scores[:, j] - truth[:, j]) ** 2).mean(), rel=1e-4)


def test_a_second_fit_starts_from_the_logits_again(saved, colour_images):
    first = calibrate_model(str(saved), colour_images, "train")
    assert calibrate_model(str(saved), colour_images, "train") == first


def test_the_rule_survives_loading_and_saving(saved, colour_images, tmp_path):
    calibrate_model(str(saved), colour_images, "train")
    model = AutoModelForImageClassification.from_pretrained(saved)
    model.save_pretrained(tmp_path / "copy")
    again = AutoModelForImageClassification.from_pretrained(tmp_path / "copy")
    assert again.config.decision_rule == model.config.decision_rule != DecisionRule.plain(2)


def test_a_split_without_a_known_entry_is_one_clear_line_and_leaves_the_model_as_it_is(saved, colour_images):
    before = contents(saved)
    colour_images.labels[:] = -100
    with pytest.raises(HalflabelError, match="no entry is known to be yes") as error:
        calibrate_model(str(saved), colour_images, "train")
    assert len(str(error.value).splitlines()) == 1
    assert contents(saved) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"objective": "precision>=1.2"}, "objective 'precision>=1.2' is none of"),
        ({"calibration": "plat"}, "did you mean platt"),
        ({"name": "somebody/model"}, "'somebody/model' is no folder that has one"),
        ({"split": "validation"}, "no image in split 'validation'"),
    ],
)
def test_mistakes_are_named(saved, colour_images, arguments, message):
    with pytest.raises(HalflabelError, match=message):
        calibrate_model(**{"name": str(saved), "images": colour_images, "split": "train", **arguments})


def test_other_labels_than_the_models_are_named(saved, colour_images):
    with pytest.raises(HalflabelError, match="the data have no label 'blue'"):
        calibrate_model(str(saved), colour_images.with_only(["red"]), "train")


def test_a_write_that_fails_leaves_the_old_file(saved, monkeypatch):
    before = contents(saved)

    def full(self, *arguments, **keys):
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="no space"):
        store_decisions(saved, DecisionRule.plain(2))
    assert contents(saved) == before


def test_the_file_keeps_its_permissions(saved):
    os.chmod(saved / "config.json", 0o640)
    store_decisions(saved, DecisionRule.plain(2))
    assert stat.S_IMODE((saved / "config.json").stat().st_mode) == 0o640
    assert np.isfinite(load_model(str(saved))[0].config.decision_rule.scores([[0.0, 1.0]])).all()
