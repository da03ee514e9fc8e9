"""Measuring a model: its own decision rule counts, models are compared on the same entries, mistakes come first."""

import json
import logging
import os
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from sklearn.metrics import f1_score, precision_score
from transformers import AutoModelForImageClassification, TrainingArguments

from halflabel import DecisionRule, HalflabelError, MultiLabelTrainer, TimmMultiLabelImageProcessor, fit_decisions
from halflabel.data.loading import load_images
from halflabel.data.pixels import collate
from halflabel.model.losses import LOSSES
from halflabel.share.trained import train
from halflabel.use.evaluate import calibrate, evaluate, store_decisions
from halflabel.use.inference import choose_split, open_model, predict_logits
from halflabel.use.predict import predict
from halflabel.use.review import review

BASE = {
    "backbone": "test_resnet", "weights": "none", "freeze_backbone": True, "cache_features": True, "optim": "sgd",
    "num_train_epochs": 30, "learning_rate": 0.05, "per_device_train_batch_size": 8, "use_cpu": True,
    "disable_tqdm": True, "report_to": "none", "logging_strategy": "no", "validation_share": 0.4,
}  # fmt: skip


def run(table, folder, **keys):
    path = folder / "my.yaml"
    path.write_text(yaml.safe_dump({**BASE, "data": str(table), "output_dir": str(folder / "out"), **keys}))
    return train(path)


@pytest.fixture
def saved(tiny_model, tmp_path):
    torch.nn.init.normal_(tiny_model.head.linear.weight)
    tiny_model.save_pretrained(tmp_path / "model")
    TimmMultiLabelImageProcessor.from_backbone(tiny_model.backbone).save_pretrained(tmp_path / "model")
    return tiny_model, str(tmp_path / "model")


def test_precision_and_f1_are_those_at_the_models_thresholds(saved, colour_images, tmp_path):
    model, folder = saved
    stored = {"scale": [2.0, 0.5], "shift": [0.3, -1.0], "thresholds": [0.7, 0.3], "objective": "f1"}
    model.config.decisions = {**DecisionRule.plain(2).to_dict(), **stored}
    model.save_pretrained(folder)
    test = colour_images.of_split("test")
    logits = predict_logits(open_model(folder), test)
    found = evaluate(folder, colour_images, split="test")
    assert found["split"] == "test"
    for i, name in enumerate(("red", "blue")):
        yes = 1 / (1 + np.exp(-(stored["scale"][i] * logits[:, i] + stored["shift"][i]))) >= stored["thresholds"][i]
        assert found["labels"][name]["precision"] == pytest.approx(precision_score(test.labels[:, i], yes))
        assert found["labels"][name]["F1"] == pytest.approx(f1_score(test.labels[:, i], yes))


@pytest.mark.parametrize("loss", LOSSES)
def test_the_loss_that_a_model_was_trained_with_changes_no_measure(loss, saved, colour_images):
    model, folder = saved
    plain = evaluate(folder, colour_images)
    model.config.loss = loss
    model.save_pretrained(folder)
    assert evaluate(folder, colour_images) == plain


def test_data_without_splits_are_measured_whole_and_that_is_said(saved, colour_images, caplog):
    table = colour_images.with_column("split", [""] * len(colour_images))
    with caplog.at_level(logging.WARNING, "halflabel"):
        assert evaluate(saved[1], table, split="test")["split"] == "all"
    assert (
        "the data name no splits: all 48 images are taken, also any that the model was trained on; for others"
        in caplog.text
    )


def test_a_model_with_its_labels_in_another_order_is_no_different(saved, colour_images, tmp_path):
    model, folder = saved
    model.replace_head(["blue", "red"])
    model.save_pretrained(tmp_path / "turned")
    TimmMultiLabelImageProcessor.from_backbone(model.backbone).save_pretrained(tmp_path / "turned")
    found = evaluate(folder, colour_images, split="train", compare=str(tmp_path / "turned"))["comparison"]
    assert found["mAP_interval"] == [0, 0]
    assert found["mAP_A"] == found["mAP_B"]
    assert found["sentence"].startswith("no clear difference")


def test_a_label_that_the_data_lack_is_undefined_and_named_and_the_others_are_measured(saved, colour_images, caplog):
    whole = evaluate(saved[1], colour_images)
    with caplog.at_level(logging.WARNING, "halflabel"):
        found = evaluate(saved[1], colour_images.with_only(["red"]))
    assert found["labels"]["red"] == whole["labels"]["red"]
    assert (found["mAP"], found["undefined_labels"]) == (whole["labels"]["red"]["AP"], ["blue"])
    assert (found["labels"]["blue"]["known"], found["labels"]["blue"]["AP"]) == (0, None)
    assert "the data have no label 'blue', which" in caplog.text
    with pytest.raises(HalflabelError, match="the data have no label 'blue'"):
        calibrate(saved[1], colour_images.with_only(["red"]), split="train")


def test_a_label_that_the_model_does_not_answer_is_named_and_left_out(saved, colour_images, caplog):
    more = colour_images.with_unknown(["green"])
    with caplog.at_level(logging.WARNING, "halflabel"):
        assert evaluate(saved[1], more)["labels"] == evaluate(saved[1], colour_images)["labels"]
    assert "the data also have 'green', which" in caplog.text


def test_models_for_different_labels_are_not_compared(saved, colour_images, tmp_path):
    model, folder = saved
    model.replace_head(["red"])
    model.save_pretrained(tmp_path / "one")
    TimmMultiLabelImageProcessor.from_backbone(model.backbone).save_pretrained(tmp_path / "one")
    with pytest.raises(HalflabelError, match="different labels, only one of them blue"):
        evaluate(folder, colour_images, split="train", compare=str(tmp_path / "one"))


def test_a_wrong_annotation_is_the_first_on_the_list(colour_table, tmp_path):
    lines = colour_table.read_text().splitlines()
    name, red, *rest = lines[40].split(",")  # a test picture
    lines[40] = ",".join([name, str(1 - int(red)), *rest])
    result = run(colour_table, tmp_path)
    colour_table.write_text("\n".join(lines) + "\n")
    found = review(result.folder, load_images(colour_table), split="test", limit=1)
    assert found.about == "16 images of split test"
    kind = "known no, looks yes" if red == "1" else "known yes, looks no"
    first = found.table[found.table["kind"] == kind].iloc[0]
    assert (first["file_name"], first["label"]) == (name, "red")


def test_a_recipe_decides_by_what_its_validation_split_knows(colour_table, tmp_path, monkeypatch):
    seen = {}

    def record(logits, labels, *rest):
        seen.update(logits=logits, labels=labels, rest=rest)
        return fit_decisions(logits, labels, *rest)

    monkeypatch.setattr("halflabel.training.run.fit_decisions", record)
    result = run(colour_table, tmp_path, decide="f2", calibration="temperature", ci=0.9, plots=True)
    assert seen["labels"].shape == (13, 2)  # 40 % of the 32 training pictures; none of the 16 of test
    assert seen["rest"] == ("f2", "temperature")
    stored = json.loads((result.folder / "config.json").read_text())["decisions"]
    assert stored == fit_decisions(seen["logits"], seen["labels"], "f2", "temperature").to_dict()
    assert [row["threshold"] for row in result.metrics["labels"].values()] == stored["thresholds"]
    assert len(result.metrics["mAP_interval"]) == 2
    assert (result.folder / "plots" / "learning_curve.png").is_file()
    again = evaluate(str(result.folder), load_images(colour_table), split="test", ci=0.9)
    assert again["labels"]["red"]["F1"] == pytest.approx(result.metrics["labels"]["red"]["F1"], abs=1e-6)


def test_without_validation_yes_is_a_score_of_one_half_and_that_is_said(colour_table, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "halflabel"):
        keys = {"validation_share": 0, "num_train_epochs": 1, "cache_features": False}
        result = run(colour_table, tmp_path, decide="f1", **keys)
    assert "no held-out yes and no to fit thresholds on" in caplog.text
    assert {row["threshold"] for row in result.metrics["labels"].values()} == {0.5}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"decide": "precision>=1.2"}, "objective 'precision>=1.2' is none of"),
        ({"decide": "f1", "calibration": "isotonic"}, "calibration is 'isotonic', expected platt, temperature or none"),
        ({"ci": 95}, "ci is 95"),
    ],
)
def test_what_cannot_be_decided_stops_before_training(colour_table, tmp_path, keys, message):
    with pytest.raises(HalflabelError, match=message):
        run(colour_table, tmp_path, **keys)
    assert not (tmp_path / "out").exists()


def test_pictures_that_cannot_be_drawn_are_refused_before_training(colour_table, tmp_path, monkeypatch):
    monkeypatch.setattr("halflabel.share.plots.find_spec", lambda name: None)
    with pytest.raises(HalflabelError, match=r"pip install 'halflabel\[plots\]'"):
        run(colour_table, tmp_path, plots=True)
    assert not (tmp_path / "out").exists()


def test_a_run_without_a_test_split_still_draws_how_it_learned(colour_table, tmp_path):
    kept = [line for line in colour_table.read_text().splitlines() if not line.endswith(",test")]
    colour_table.write_text("\n".join(kept) + "\n")
    result = run(colour_table, tmp_path, plots=True, test_share=0, num_train_epochs=1)
    assert result.metrics["split"] is None
    assert sorted(path.name for path in (result.folder / "plots").iterdir()) == ["coverage.png", "learning_curve.png"]
    run(colour_table, tmp_path, test_share=0, num_train_epochs=1)
    assert not (result.folder / "plots").exists()  # the earlier run's


def test_training_on_drops_thresholds_of_the_old_weights(saved, tmp_path, caplog):
    model, _ = saved
    model.config.decisions = {**DecisionRule.plain(2).to_dict(), "thresholds": [0.2, 0.8], "objective": "f1"}
    arguments = TrainingArguments(str(tmp_path / "t"), num_train_epochs=1, report_to="none", use_cpu=True,
                                  disable_tqdm=True, save_strategy="no", remove_unused_columns=False)  # fmt: skip
    rows = [{"features": torch.zeros(96), "labels": np.array([1, 0], np.int8)}] * 4
    with caplog.at_level(logging.WARNING, "halflabel"):
        MultiLabelTrainer(model, arguments, collate, rows).train()
    assert model.config.decisions is None
    assert "calibrate again" in caplog.text


@pytest.fixture
def folder(saved_model):
    return Path(saved_model)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_rule_is_fitted_on_the_split_and_stored_and_nothing_else_changes(folder, colour_images):
    before = contents(folder)
    report = calibrate(folder, colour_images, split="train", objective="f2", calibration="temperature")
    after = contents(folder)
    stored = open_model(folder)
    train, _ = choose_split(stored, colour_images, "train")
    logits = predict_logits(stored, train)
    assert stored.model.config.decision_rule == fit_decisions(logits, train.labels, "f2", "temperature")
    assert set(after) == set(before)
    assert [name for name in before if before[name] != after[name]] == ["config.json"]
    old, new = (json.loads(files["config.json"]) for files in (before, after))
    assert {**new, "decisions": None} == old
    assert (report["split"], report["objective"], report["calibration"]) == ("train", "f2", "temperature")
    assert report["known_entries"] == (train.labels >= 0).sum()


def test_what_is_stored_is_what_predict_and_evaluate_then_use(folder, colour_images, colour_table):
    calibrate(folder, colour_images, split="train")
    files = sorted(colour_table.parent.glob("*.png"))[32:]
    frame = predict(folder, files)
    rule = open_model(folder).model.config.decision_rule
    assert rule != DecisionRule.plain(2)
    scores = frame[["red", "blue"]].to_numpy()
    expected = [[name for name, yes in zip(("red", "blue"), row, strict=True) if yes] for row in rule.decide(scores)]
    assert frame["answered_yes"].tolist() == expected
    metrics = evaluate(folder, colour_images)
    truth = colour_images.of_split("test").labels
    for j, name in enumerate(("red", "blue")):
        assert metrics["labels"][name]["threshold"] == rule.thresholds[j]
        assert metrics["labels"][name]["Brier"] == pytest.approx(((scores[:, j] - truth[:, j]) ** 2).mean(), rel=1e-4)


def test_a_second_fit_starts_from_the_logits_again(folder, colour_images):
    first = calibrate(folder, colour_images, split="train")
    assert calibrate(folder, colour_images, split="train") == first


def test_the_rule_survives_loading_and_saving(folder, colour_images, tmp_path):
    calibrate(folder, colour_images, split="train")
    model = AutoModelForImageClassification.from_pretrained(folder)
    model.save_pretrained(tmp_path / "copy")
    again = AutoModelForImageClassification.from_pretrained(tmp_path / "copy")
    assert again.config.decision_rule == model.config.decision_rule != DecisionRule.plain(2)


def test_a_split_without_a_known_entry_is_one_clear_line_and_leaves_the_model_as_it_is(folder, colour_images):
    before = contents(folder)
    colour_images.labels[:] = -100
    with pytest.raises(HalflabelError, match="no entry is known to be yes") as error:
        calibrate(folder, colour_images, split="train")
    assert len(str(error.value).splitlines()) == 1
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"objective": "precision>=1.2"}, "objective 'precision>=1.2' is none of"),
        ({"calibration": "plat"}, "did you mean platt"),
        ({"model": "somebody/model"}, "'somebody/model' is no folder that has one"),
        ({"split": "validation"}, "no image in split 'validation'"),
    ],
)
def test_mistakes_are_named(folder, colour_images, arguments, message):
    with pytest.raises(HalflabelError, match=message):
        calibrate(**{"model": folder, "data": colour_images, "split": "train", **arguments})


def test_a_write_that_fails_leaves_the_old_file(folder, monkeypatch):
    before = contents(folder)

    def full(self, *arguments, **keys):
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="no space"):
        store_decisions(folder, DecisionRule.plain(2))
    assert contents(folder) == before


def test_the_file_keeps_its_permissions(folder):
    os.chmod(folder / "config.json", 0o640)
    store_decisions(folder, DecisionRule.plain(2))
    assert stat.S_IMODE((folder / "config.json").stat().st_mode) == 0o640
    assert np.isfinite(open_model(folder).model.config.decision_rule.scores([[0.0, 1.0]])).all()
