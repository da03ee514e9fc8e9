import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from halflabel import DecisionRule, HalflabelError, TimmMultiLabelImageProcessor
from halflabel.decisions import NEVER
from halflabel.evaluation import evaluate_model
from halflabel.inference import find_images, load_model, predict_files, write_scores


@pytest.fixture
def saved(tiny_model, tmp_path):
    folder = tmp_path / "model"
    tiny_model.save_pretrained(folder)
    TimmMultiLabelImageProcessor.from_backbone(tiny_model.backbone).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def pictures(colour_table):
    return sorted(colour_table.parent.glob("*.png"))


def test_scores_are_the_models_own_in_the_order_of_the_files(saved, pictures):
    frame, skipped = predict_files(saved, pictures[:7], batch_size=3)
    model, processor = load_model(saved)
    with torch.no_grad():
        pixels = processor([Image.open(path) for path in pictures[:7]])["pixel_values"]
        scores = model(pixels).logits.sigmoid()
    assert skipped == []
    assert frame["file_name"].tolist() == [str(path) for path in pictures[:7]]
    np.testing.assert_allclose(frame[["red", "blue"]].to_numpy(), scores.numpy(), rtol=1e-4)


def test_a_subset_of_labels(saved, pictures):
    frame, _ = predict_files(saved, pictures[:2], labels=["blue"])
    assert list(frame.columns) == ["file_name", "answered_yes", "blue"]
    with pytest.raises(HalflabelError, match="did you mean blue"):
        predict_files(saved, pictures[:2], labels=["blu"])


def test_an_unreadable_file_is_reported_and_the_others_are_scored(saved, pictures, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_text("not a picture")
    frame, skipped = predict_files(saved, [pictures[0], bad, pictures[1]])
    assert len(frame) == 2
    assert len(skipped) == 1
    assert "bad.png" in skipped[0]
    frame, skipped = predict_files(saved, [bad])
    assert list(frame.columns) == ["file_name", "answered_yes", "red", "blue"]
    assert len(frame) == 0


def test_stored_decisions_are_applied_also_to_a_subset_of_labels(tiny_model, saved, pictures):
    plain, _ = predict_files(saved, pictures[:6])
    assert plain["answered_yes"].tolist() == [
        [name for name in ("red", "blue") if row[name] >= 0.5] for _, row in plain.iterrows()
    ]
    middle = float(plain["blue"].median())
    shift = -2 * np.log(middle / (1 - middle))
    rule = DecisionRule.plain(2).to_dict() | {"scale": [1.0, 2.0], "shift": [0.0, shift], "thresholds": [NEVER, 0.5]}
    tiny_model.config.decisions = rule
    tiny_model.save_pretrained(saved)
    frame, _ = predict_files(saved, pictures[:6], labels=["blue", "red"])
    logits = np.log(plain["blue"] / (1 - plain["blue"]))
    np.testing.assert_allclose(frame["blue"], 1 / (1 + np.exp(-2 * logits - shift)), rtol=1e-6)
    np.testing.assert_allclose(frame["red"], plain["red"], rtol=1e-6)
    assert frame["answered_yes"].tolist() == [["blue"] if score >= 0.5 else [] for score in frame["blue"]]
    assert len({str(names) for names in frame["answered_yes"]}) == 2


def test_who_is_answered_with_yes_reads_back_from_every_format(tmp_path):
    yes = [["red", "stop sign"], [], ["red"]]
    frame = pd.DataFrame({"file_name": list("abc"), "answered_yes": yes, "red": [0.9, 0.1, 0.8]})
    for ending in ("csv", "jsonl", "parquet"):
        write_scores(frame, tmp_path / f"s.{ending}")
    assert [list(one) for one in pd.read_parquet(tmp_path / "s.parquet")["answered_yes"]] == yes
    assert pd.read_json(tmp_path / "s.jsonl", lines=True)["answered_yes"].tolist() == yes
    read = pd.read_csv(tmp_path / "s.csv", keep_default_na=False)["answered_yes"]
    assert read.tolist() == ["red|stop sign", "", "red"]
    assert read.str.get_dummies()["red"].tolist() == [1, 0, 1]
    assert frame["answered_yes"].tolist() == yes


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_each_output_format_reads_back(tmp_path, ending):
    frame = pd.DataFrame({"file_name": ["a", "b"], "red": [0.25, 1 / 3]})
    path = tmp_path / "deep" / f"s.{ending}"
    write_scores(frame, path)
    read = {"csv": pd.read_csv, "parquet": pd.read_parquet, "jsonl": lambda p: pd.read_json(p, lines=True)}[ending]
    pd.testing.assert_frame_equal(read(path), frame, rtol=1e-12)
    with pytest.raises(HalflabelError, match="xlsx"):
        write_scores(frame, tmp_path / "s.xlsx")


def test_folder_glob_and_files(pictures, tmp_path):
    folder = pictures[0].parent
    (folder / "notes.txt").write_text("x")
    assert find_images([str(folder)]) == pictures
    assert find_images([str(folder / "00*.png")]) == pictures[:10]
    assert find_images([str(pictures[1]), str(pictures[0]), str(pictures[1])]) == [pictures[1], pictures[0]]
    with pytest.raises(HalflabelError, match="no pictures"):
        find_images([str(folder / "*.tif")])


def test_evaluation_checks_labels_and_split(saved, colour_images):
    assert evaluate_model(saved, colour_images, "train")["labels"]["red"]["known"] < 32
    with pytest.raises(HalflabelError, match="no image in split 'validation'"):
        evaluate_model(saved, colour_images, "validation")
    with pytest.raises(HalflabelError, match="no label 'blue'"):
        evaluate_model(saved, colour_images.with_only(["red"]), "test")


def test_models_that_are_none(tmp_path):
    with pytest.raises(HalflabelError, match="cannot be loaded"):
        load_model(str(tmp_path / "nowhere"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(HalflabelError, match="'vit' model, not one of halflabel"):
        load_model(str(tmp_path))


def test_a_pickled_model_is_refused(saved, tmp_path):
    from pathlib import Path

    (Path(saved) / "model.safetensors").unlink()
    torch.save({}, Path(saved) / "pytorch_model.bin")
    with pytest.raises(HalflabelError, match="has no model.safetensors, only pytorch_model.bin: a pickle can run any"):
        load_model(saved)
