import json
from dataclasses import replace

import pytest
import torch

from halflabel import HalflabelError
from halflabel.model.labels import LabelSpace
from halflabel.use.evaluate import evaluate
from halflabel.use.inference import open_model


def test_evaluation_checks_labels_and_split(saved_model, colour_images):
    assert evaluate(saved_model, colour_images, split="train")["labels"]["red"]["known"] < 32
    with pytest.raises(HalflabelError, match="no image in split 'validation'"):
        evaluate(saved_model, colour_images, split="validation")
    with pytest.raises(HalflabelError, match="no label 'red', 'blue', which"):
        evaluate(saved_model, replace(colour_images, label_space=LabelSpace(["rot", "blau"])))


def test_models_that_are_none(tmp_path):
    with pytest.raises(HalflabelError, match="cannot be loaded"):
        open_model(str(tmp_path / "nowhere"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(HalflabelError, match="'vit' model, not one of halflabel"):
        open_model(str(tmp_path))


def test_a_folder_that_holds_models_is_none_and_says_which_it_holds(saved_model, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "probe").symlink_to(saved_model)
    with pytest.raises(HalflabelError, match=r"holds no config.json: .* finished run, like \S*runs/probe$"):
        open_model(str(tmp_path / "runs"))
    with pytest.raises(
        HalflabelError, match=r"there is no such folder; did you mean \S*/runs/probe\?; a name on the Hub is"
    ):
        open_model(str(tmp_path / "runs" / "prob"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        HalflabelError, match=r"there is no such folder \(did you mean runs/probe\?\), and from the Hub: "
    ):
        open_model("runs/prob")
    (tmp_path / "labels.csv").touch()
    with pytest.raises(HalflabelError, match="it is a file: give the folder of a model"):
        open_model(str(tmp_path / "labels.csv"))


def test_a_pickled_model_is_refused(saved_model, tmp_path):
    from pathlib import Path

    (Path(saved_model) / "model.safetensors").unlink()
    torch.save({}, Path(saved_model) / "pytorch_model.bin")
    with pytest.raises(HalflabelError, match="has no model.safetensors, only pytorch_model.bin: a pickle can run any"):
        open_model(saved_model)
