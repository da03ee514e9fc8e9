"""What every export shares: the folder, the JSON beside the weights, the command line."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import halflabel
from halflabel import HalflabelError
from halflabel.model.decisions import NEVER, DecisionRule
from halflabel.share.export import describe_decisions, export_model, plain_thresholds
from halflabel_cli import main


@pytest.fixture
def folder(tiny_model, tmp_path):
    """A saved model."""
    tiny_model.save_pretrained(tmp_path / "model")
    halflabel.TimmMultiLabelImageProcessor.from_backbone(tiny_model.backbone).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def rule_of(scale, shift, thresholds):
    plain = DecisionRule.plain(len(scale)).to_dict()
    rows = {"scale": list(scale), "shift": list(shift), "thresholds": list(thresholds), "calibration": "platt"}
    return DecisionRule.from_dict(plain | rows, len(scale))


def test_plain_thresholds_give_the_rules_answers_from_scores_without_calibration():
    rng = np.random.default_rng(0)
    thresholds = [*rng.uniform(0.01, 0.99, 40), NEVER, 0.0, 0.5]
    scale = [*rng.uniform(0.05, 4, 40), 1.0, 1.0, 1e-6]  # the last one's scores are all nearly 0.47
    shift = [*rng.normal(0, 2, 40), 9.0, -9.0, -0.1]
    rule = rule_of(scale, shift, thresholds)
    logits = rng.normal(0, 4, (500, len(scale)))
    plain, answers = plain_thresholds(rule), []
    for row in logits:
        for i, logit in enumerate(row):
            calibrated = 1 / (1 + math.exp(-(scale[i] * logit + shift[i])))
            answers.append(calibrated >= thresholds[i])
            assert (1 / (1 + math.exp(-logit)) >= plain[i]) == answers[-1]
    assert 0.2 < np.mean(answers) < 0.8
    assert plain[-1] == plain[-3] == NEVER
    assert plain[-2] == 0


def test_without_calibration_the_threshold_is_its_own_plain_one():
    assert plain_thresholds(rule_of([1.0], [0.0], [0.3]))[0] == pytest.approx(0.3, abs=1e-12)


def test_the_json_says_how_pictures_are_prepared_and_answers_given(tiny_model):
    tiny_model.config.decisions = rule_of([2.0, 1.0], [-1.0, 0.5], [0.25, NEVER]).to_dict()
    processor = halflabel.TimmMultiLabelImageProcessor(input_size=(3, 64, 96), crop_pct=0.9, crop_mode="squash")
    said = json.loads(json.dumps(describe_decisions(tiny_model, processor)))
    assert (said["calibration"], said["objective"]) == ("platt", None)
    assert said["preprocessing"] == {
        "input_size": [3, 64, 96], "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 0.9,
        "crop_mode": "squash",
    }  # fmt: skip
    red, blue = said["labels"]
    # 1 / (1 + exp(-(2 z - 1))) = 1/4 where 2 z - 1 = -ln 3
    at = 1 / (1 + math.exp(-(1 - math.log(3)) / 2))
    assert red == {
        "label": "red", "scale": 2.0, "shift": -1.0, "threshold": 0.25, "plain_threshold": pytest.approx(at, abs=1e-12)
    }  # fmt: skip
    assert (blue["label"], blue["threshold"], blue["plain_threshold"]) == ("blue", NEVER, NEVER)


def test_the_command_line_writes_says_what_it_checked_and_replaces_an_earlier_export(folder, tmp_path, capsys):
    command = ["export", str(folder), "--format", "timm", "--output", str(tmp_path / "deep" / "out")]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "loaded again by timm and by transformers: scores differ by at most " in out
    assert f"written: {tmp_path / 'deep' / 'out'}" in out
    first = load_file(tmp_path / "deep" / "out" / "model.safetensors")
    state = load_file(folder / "model.safetensors")
    save_file(
        {**state, "head.linear.bias": state["head.linear.bias"] + 1}, folder / "model.safetensors", {"format": "pt"}
    )
    assert main(command) == 0
    again = load_file(tmp_path / "deep" / "out" / "model.safetensors")
    torch.testing.assert_close(again["fc.bias"], first["fc.bias"] + 1)
    assert sorted(path.name for path in (tmp_path / "deep").rglob("*")) == [
        "config.json", "decisions.json", "model.safetensors", "out"
    ]  # fmt: skip


def error_of(*arguments):
    with pytest.raises(HalflabelError) as error:
        export_model(*arguments)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def test_an_unknown_format_names_the_nearest(folder, tmp_path, capsys):
    assert main(["export", str(folder), "--format", "onxx", "--output", str(tmp_path / "out")]) == 2
    expected = "halflabel: error: unknown format 'onxx'; it is one of timm, onnx; did you mean onnx?\n"
    assert capsys.readouterr().err == expected
    assert not (tmp_path / "out").exists()


def test_a_folder_with_anything_else_in_it_stays_as_it_is(folder, tmp_path):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert "model is not empty and not an earlier timm export" in error_of(str(folder), "timm", folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    other = tmp_path / "out"
    export_model(str(folder), "timm", other)
    assert "not an earlier onnx export (config.json is in it)" in error_of(str(folder), "onnx", other)
    (other / "notes.txt").write_text("mine")
    assert "(notes.txt is in it): give another folder" in error_of(str(folder), "timm", other)
    assert "notes.txt is a file; a folder is needed there" in error_of(str(folder), "timm", other / "notes.txt")


def test_a_model_of_pickled_weights_alone_is_refused(folder, tmp_path):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert "safetensors" in error_of(str(folder), "timm", tmp_path / "out")
    assert not (tmp_path / "out").exists()
