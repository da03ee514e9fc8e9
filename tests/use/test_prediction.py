from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from halflabel import DecisionRule, HalflabelError
from halflabel.model.decisions import NEVER
from halflabel.use.inference import load_model
from halflabel.use.prediction import find_images, predict_files


@pytest.fixture
def pictures(colour_table):
    return [str(path) for path in sorted(colour_table.parent.glob("*.png"))]


def test_scores_are_the_models_own_in_the_order_of_the_files(saved_model, pictures):
    frame, skipped = predict_files(saved_model, pictures[:7], batch_size=3)
    model, processor = load_model(saved_model)
    with torch.no_grad():
        pixels = processor([Image.open(path) for path in pictures[:7]])["pixel_values"]
        scores = model(pixels).logits.sigmoid()
    assert skipped == []
    assert frame["file_name"].tolist() == pictures[:7]
    np.testing.assert_allclose(frame[["red", "blue"]].to_numpy(), scores.numpy(), rtol=1e-4)


def test_a_subset_of_labels(saved_model, pictures):
    frame, _ = predict_files(saved_model, pictures[:2], labels=["blue"])
    assert list(frame.columns) == ["file_name", "answered_yes", "blue"]
    with pytest.raises(HalflabelError, match="did you mean blue"):
        predict_files(saved_model, pictures[:2], labels=["blu"])


def test_an_unreadable_file_is_reported_and_the_others_are_scored(saved_model, pictures, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_text("not a picture")
    frame, skipped = predict_files(saved_model, [pictures[0], bad, pictures[1]])
    assert len(frame) == 2
    assert len(skipped) == 1
    assert "bad.png" in skipped[0]
    frame, skipped = predict_files(saved_model, [bad])
    assert list(frame.columns) == ["file_name", "answered_yes", "red", "blue"]
    assert len(frame) == 0


def test_stored_decisions_are_applied_also_to_a_subset_of_labels(tiny_model, saved_model, pictures):
    plain, _ = predict_files(saved_model, pictures[:6])
    assert plain["answered_yes"].tolist() == [
        [name for name in ("red", "blue") if row[name] >= 0.5] for _, row in plain.iterrows()
    ]
    middle = float(plain["blue"].median())
    shift = -2 * np.log(middle / (1 - middle))
    rule = DecisionRule.plain(2).to_dict() | {"scale": [1.0, 2.0], "shift": [0.0, shift], "thresholds": [NEVER, 0.5]}
    tiny_model.config.decisions = rule
    tiny_model.save_pretrained(saved_model)
    frame, _ = predict_files(saved_model, pictures[:6], labels=["blue", "red"])
    logits = np.log(plain["blue"] / (1 - plain["blue"]))
    np.testing.assert_allclose(frame["blue"], 1 / (1 + np.exp(-2 * logits - shift)), rtol=1e-6)
    np.testing.assert_allclose(frame["red"], plain["red"], rtol=1e-6)
    assert frame["answered_yes"].tolist() == [["blue"] if score >= 0.5 else [] for score in frame["blue"]]
    assert len({str(names) for names in frame["answered_yes"]}) == 2


def test_folder_glob_and_files(pictures, tmp_path):
    folder = Path(pictures[0]).parent
    (folder / "notes.txt").write_text("x")
    assert find_images([str(folder)]) == pictures
    assert find_images([str(folder / "00*.png")]) == pictures[:10]
    assert find_images([pictures[1], f"{folder}/./{Path(pictures[0]).name}", pictures[1]]) == [pictures[1], pictures[0]]
    (folder / "inner.png").mkdir()
    for name in ("inner.png/z.PNG", "inner.png/a.jpg"):
        (folder / name).write_bytes(b"")
    assert find_images([f"{folder}/"]) == [*pictures, f"{folder}/inner.png/a.jpg", f"{folder}/inner.png/z.PNG"]
    with pytest.raises(HalflabelError, match="no pictures"):
        find_images([str(folder / "*.tif")])
