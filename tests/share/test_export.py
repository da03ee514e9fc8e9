"""What every export shares, ONNX files, and plain timm checkpoints, loaded where there is no halflabel."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from hub_server import HubServer
from PIL import Image
from rounding import assert_computed_alike
from safetensors.torch import load_file, save_file
from torch import nn

import halflabel
from halflabel import HalflabelError
from halflabel.model.decisions import NEVER, DecisionRule
from halflabel.share.export import describe_decisions, export, plain_thresholds
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
    scale = [1.0, *rng.uniform(0.05, 4, 39), 1.0, 1.0, 1e-6]  # the last one's scores are all nearly 0.47
    shift = [0.0, *rng.normal(0, 2, 39), 9.0, -9.0, -0.1]
    rule = rule_of(scale, shift, thresholds)
    logits = rng.normal(0, 4, (500, len(scale)))
    plain, answers = plain_thresholds(rule), []
    for row in logits:
        for i, logit in enumerate(row):
            calibrated = 1 / (1 + math.exp(-(scale[i] * logit + shift[i])))
            answers.append(calibrated >= thresholds[i])
            assert (1 / (1 + math.exp(-logit)) >= plain[i]) == answers[-1]
    assert 0.2 < np.mean(answers) < 0.8
    assert plain[0] == pytest.approx(thresholds[0], abs=1e-12)
    assert plain[-1] == plain[-3] == NEVER
    assert plain[-2] == 0


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


def error_of(model, form, output):
    with pytest.raises(HalflabelError) as error:
        export(model, output, form)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def test_an_unknown_format_names_the_nearest(folder, tmp_path, capsys):
    assert main(["export", str(folder), "--format", "onxx", "--output", str(tmp_path / "out")]) == 2
    expected = "format 'onxx' is none of timm, onnx; did you mean onnx?"
    assert capsys.readouterr().err == f"halflabel: error: {expected}\n"
    assert error_of(str(folder), "onxx", tmp_path / "out") == expected
    assert not (tmp_path / "out").exists()


def test_a_folder_with_anything_else_in_it_stays_as_it_is(folder, tmp_path):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert "model is not empty and not an earlier timm export" in error_of(str(folder), "timm", folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    other = tmp_path / "out"
    export(str(folder), other, "timm")
    assert "not an earlier onnx export (config.json is in it)" in error_of(str(folder), "onnx", other)
    (other / "notes.txt").write_text("mine")
    assert "(notes.txt is in it): give another folder" in error_of(str(folder), "timm", other)
    assert "notes.txt is a file; a folder is needed there" in error_of(str(folder), "timm", other / "notes.txt")


def test_a_model_of_pickled_weights_alone_is_refused(folder, tmp_path):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert "safetensors" in error_of(str(folder), "timm", tmp_path / "out")
    assert not (tmp_path / "out").exists()


HEADS = {  # name: backbone, head, its arguments
    "linear": ("test_resnet", "linear", {}),
    "mlp": ("test_vit", "mlp", {"width": 16}),
    "csra": ("test_resnet", "csra", {"temperatures": [1, "max"], "lam": 0.3}),
    "ml_decoder": ("test_vit", "ml_decoder", {"width": 32, "feed_forward": 32, "heads": 2}),
}


def saved(folder, backbone="test_resnet", head="linear", head_args=None):
    model = halflabel.TimmMultiLabelForImageClassification.from_backbone(
        backbone, ["red", "blue", "green"], weights=None, head=head, head_args=head_args
    ).eval()
    processor = halflabel.TimmMultiLabelImageProcessor.from_backbone(model.backbone)
    with torch.no_grad():
        model.head.standardize_(model.extract_features(torch.randn(4, *processor.input_size)))
        model.head.label_bias.normal_()
    rule = {"scale": [2.0, 0.5, 1.0], "shift": [-1.0, 0.3, 0.0], "thresholds": [0.3, 0.6, 2.0]}
    model.config.decisions = DecisionRule.plain(3).to_dict() | rule
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor


SLOW = [pytest.param(case, marks=pytest.mark.slow) for case in ("mlp", "csra")]


@pytest.mark.parametrize("case", ["linear", "ml_decoder", *SLOW])
def test_logits_scores_and_decisions_are_the_models(case, tmp_path):
    import onnxruntime

    model, processor = saved(tmp_path / "model", *HEADS[case])
    checked = export(str(tmp_path / "model"), tmp_path / "out", "onnx")
    assert "batch size 1: " in checked
    assert "batch size 3: " in checked
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    assert (given.name, given.type, given.shape[1:]) == ("pixel_values", "tensor(float)", processor.input_size)
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 255, (90, 120, 3), dtype=np.uint8)) for _ in range(5)]
    labels = json.loads((tmp_path / "out" / "decisions.json").read_text())["labels"]
    for count in (1, 2, 5):
        pixels = processor(pictures[:count])["pixel_values"]
        with torch.inference_mode():
            expected = model(pixels).logits.double().numpy()
        logits, scores = session.run(["logits", "scores"], {"pixel_values": pixels.numpy()})
        np.testing.assert_allclose(logits, expected, atol=1e-4)
        rule = model.config.decision_rule
        np.testing.assert_allclose(scores, rule.scores(expected), atol=1e-5)
        yes = [[score >= label["threshold"] for score, label in zip(row, labels, strict=True)] for row in scores]
        assert yes == rule.decide(rule.scores(expected)).tolist()


def test_what_answers_otherwise_than_torch_is_not_left_behind(tmp_path, monkeypatch):
    saved(tmp_path / "model")
    monkeypatch.setattr("halflabel.share.export.ONNX_TOLERANCE", (-1.0, -1.0))
    with pytest.raises(
        HalflabelError, match="^onnxruntime, at batch size 1 of test_resnet, answers otherwise: scores differ by up to "
    ):
        export(str(tmp_path / "model"), tmp_path / "out", "onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("module", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_before_any_work(module, tmp_path, monkeypatch):
    saved(tmp_path / "model")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(HalflabelError, match=rf"^this format needs {module}: pip install 'halflabel\[onnx\]'$"):
        export(str(tmp_path / "model"), tmp_path / "out", "onnx")


def test_a_network_that_torch_cannot_export_is_named(tmp_path, monkeypatch):
    model, _ = saved(tmp_path / "model")

    def depends_on_values(self, pixels):
        return pixels[:, 0, 0, :96] if pixels.sum() > 0 else pixels[:, 1, 0, :96]

    monkeypatch.setattr(type(model), "extract_features", depends_on_values)
    with pytest.raises(HalflabelError, match="^test_resnet cannot be exported to ONNX: ") as error:
        export(str(tmp_path / "model"), tmp_path / "out", "onnx")
    assert len(str(error.value).splitlines()) == 1


NAMES = ["red", 'a "blue" <sign>', "Straße"]
CASES = {  # name: backbone, its arguments, settings of the processor
    "cnn": ("test_resnet", {}, {}),
    "lite0": ("tf_efficientnet_lite0", {}, {"input_size": [3, 64, 64], "crop_pct": 0.8, "interpolation": "bicubic"}),
    "by_token": ("test_vit", {}, {"crop_mode": "squash"}),
    "by_mean": ("test_vit", {"global_pool": "avg", "img_size": 96}, {"input_size": [3, 96, 96], "crop_mode": "border"}),
    "head_fc": ("test_convnext", {}, {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}),
    "conv": ("mobilenetv4_conv_small_050", {}, {"input_size": [3, 64, 64]}),
}
TAKER = """
import json, sys
import numpy as np, timm, torch
from PIL import Image
from huggingface_hub import HfApi
from timm.data import create_transform, resolve_model_data_config
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

try:
    import halflabel.model.labels
except ModuleNotFoundError:
    pass
else:
    sys.exit("halflabel is here")
root, cases = sys.argv[1], sys.argv[2:]
picture = Image.open(f"{root}/picture.jpg").convert("RGB")
arrays, answers = {}, {}


def take(case, timm_name, name):
    pixels = torch.from_numpy(np.load(f"{root}/{case.partition(' ')[0]}.npy"))
    plain = timm.create_model(timm_name, pretrained=True).eval()
    model = AutoModelForImageClassification.from_pretrained(name).eval()
    processor = AutoImageProcessor.from_pretrained(name)
    own = create_transform(**resolve_model_data_config(plain), is_training=False)
    with torch.inference_mode():
        arrays[f"{case}/timm"], arrays[f"{case}/transformers"] = plain(pixels), model(pixels).logits
    arrays[f"{case}/timm_pixels"] = own(picture)[None]
    arrays[f"{case}/transformers_pixels"] = processor(picture)["pixel_values"]
    classify = pipeline("image-classification", name, top_k=None)
    answers[case] = [
        type(model).__name__, model.config.problem_type, model.config.label2id, classify(f"{root}/picture.jpg")
    ]


for case in cases:
    take(case, f"local-dir:{root}/{case}", f"{root}/{case}")
HfApi().create_repo("alice/plain")
HfApi().upload_folder(repo_id="alice/plain", folder_path=f"{root}/{cases[0]}")
take(f"{cases[0]} hub", "hf-hub:alice/plain", "alice/plain")
np.savez(f"{root}/taken.npz", **arrays)
json.dump(answers, open(f"{root}/taken.json", "w"))
"""


def make(backbone, arguments, settings):
    """A model whose features are far from standardised and whose head answers with logits of some size."""
    model = halflabel.TimmMultiLabelForImageClassification.from_backbone(
        backbone, NAMES, weights=None, backbone_args=arguments or None
    ).eval()
    processor = halflabel.TimmMultiLabelImageProcessor.from_backbone(model.backbone)
    for key, value in settings.items():
        setattr(processor, key, value)
    with torch.no_grad():
        light = torch.linspace(-2, 2, 8).view(-1, 1, 1, 1)
        model.head.standardize_(model.extract_features(light * torch.rand(8, *processor.input_size)))
        model.head.linear.weight.normal_(0, 0.1)
        model.head.linear.bias.normal_()
    return model, processor


@pytest.fixture(scope="module")
def taken(tmp_path_factory):
    """What somebody without halflabel gets: arrays, answers of the pipeline, and the models they should be those of."""
    root, models = tmp_path_factory.mktemp("taken"), {}
    rng, side = np.random.default_rng(1), np.linspace(0, 255, 230)
    pixels = np.stack(
        [np.add.outer(side[:170], side) / 2, rng.uniform(0, 255, (170, 230)), np.tile(side, (170, 1))], -1
    )
    Image.fromarray(pixels.astype(np.uint8)).save(root / "picture.jpg")
    torch.manual_seed(2)
    for case, (backbone, arguments, settings) in CASES.items():
        model, processor = models[case] = make(backbone, arguments, settings)
        model.save_pretrained(root / f"{case}_model")
        processor.save_pretrained(root / f"{case}_model")
        export(str(root / f"{case}_model"), root / case, "timm")
        np.save(root / f"{case}.npy", torch.rand(3, *processor.input_size).numpy())
    libraries = str(Path(timm.__file__).parents[1])
    hub = HubServer()
    environment = {
        **os.environ, "PYTHONPATH": libraries, "HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_alice", "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(root / "hf"),
    }  # fmt: skip
    try:  # -S leaves an editable install of halflabel out
        done = subprocess.run(
            [sys.executable, "-S", "-c", TAKER, str(root), *CASES],
            env=environment,
            cwd=root,
            capture_output=True,
            text=True,
        )
    finally:
        hub.stop()
    assert done.returncode == 0, done.stderr[-3000:]
    return models, np.load(root / "taken.npz"), json.loads((root / "taken.json").read_text()), root


EVERY = [*CASES, "cnn hub"]


@pytest.mark.parametrize("case", EVERY)
@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_logits_are_the_models(taken, case, library):
    models, arrays, _, root = taken
    name = case.partition(" ")[0]
    with torch.inference_mode():
        expected = models[name][0](torch.from_numpy(np.load(root / f"{name}.npy"))).logits.numpy()
    assert np.abs(expected).max() > 0.5
    assert_computed_alike(torch.from_numpy(arrays[f"{case}/{library}"]), torch.from_numpy(expected))


@pytest.mark.parametrize("case", EVERY)
@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_pictures_are_prepared_as_our_processor_does_to_the_last_bit(taken, case, library):
    models, arrays, _, root = taken
    expected = models[case.partition(" ")[0]][1](Image.open(root / "picture.jpg"))["pixel_values"].numpy()
    np.testing.assert_array_equal(arrays[f"{case}/{library}_pixels"], expected)


@pytest.mark.parametrize("case", EVERY)
def test_the_vanilla_pipeline_gives_every_label_its_sigmoid(taken, case):
    models, _, answers, root = taken
    model, processor = models[case.partition(" ")[0]]
    kind, problem, numbers, scores = answers[case]
    assert (kind, problem) == ("TimmWrapperForImageClassification", "multi_label_classification")
    assert numbers == {name: i for i, name in enumerate(NAMES)}
    with torch.inference_mode():
        logits = model(**processor(Image.open(root / "picture.jpg"))).logits[0]
    expected = dict(zip(NAMES, logits.double().sigmoid().tolist(), strict=True))
    assert {answer["label"]: answer["score"] for answer in scores} == pytest.approx(expected, abs=1e-5)


def refusal(model, processor, folder):
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    with pytest.raises(HalflabelError) as error:
        export(str(folder / "model"), folder / "out", "timm")
    assert not (folder / "out").exists()
    assert len(list(folder.iterdir())) == 1
    return str(error.value)


def test_a_head_on_a_power_of_the_features_is_refused(tiny_model, tmp_path):
    tiny_model.replace_head(["red"], head="linear", power=0.5)
    processor = halflabel.TimmMultiLabelImageProcessor.from_backbone(tiny_model.backbone)
    told = refusal(tiny_model, processor, tmp_path)
    assert told.startswith(
        "a plain timm checkpoint knows no power of features, and this head's is 0.5: use --format onnx"
    )


def test_another_head_is_refused_with_what_to_do(tiny_model, tmp_path):
    tiny_model.replace_head(["red"], head="csra")
    processor = halflabel.TimmMultiLabelImageProcessor.from_backbone(tiny_model.backbone)
    assert refusal(tiny_model, processor, tmp_path) == (
        "a plain timm checkpoint holds a linear head, not the head 'csra': use --format onnx, or share the model as "
        "it is, which loads with trust_remote_code=True"
    )


def test_a_backbone_whose_classifier_is_something_else_in_timm_is_refused(tmp_path):
    tiny = {"depth": 1, "embed_dim": 48, "num_heads": 2, "img_size": 64, "patch_size": 8}
    model, processor = make("deit_tiny_distilled_patch16_224", tiny, {"input_size": [3, 64, 64]})
    assert "is not one linear layer on the pooled features: use --format onnx" in refusal(model, processor, tmp_path)


def test_pictures_of_a_size_that_the_network_does_not_take_are_refused(tmp_path):
    tiny = {"depth": 1, "embed_dim": 48, "num_heads": 2, "img_size": 64, "patch_size": 8}
    model, processor = make("vit_tiny_patch16_224", tiny, {"input_size": [3, 64, 64]})
    processor.input_size = [3, 96, 96]
    said = refusal(model, processor, tmp_path)
    assert said.startswith("vit_tiny_patch16_224 cannot be written as a timm checkpoint: Requested image size (96, 96)")


def test_other_answers_are_refused(tmp_path):
    """Features that all but vanish beside their mean, which the model rounds and folded weights do not."""
    model, processor = make("test_resnet", {}, {})
    nn.init.constant_(model.head.feature_mean, 1e7)
    nn.init.constant_(model.head.feature_scale, 1e2)
    with torch.no_grad():
        model.head.linear.weight[:, ::2] = 0.1  # the means cancel
        model.head.linear.weight[:, 1::2] = -0.1
    assert "timm's own test_resnet answers otherwise: scores differ by up to " in refusal(model, processor, tmp_path)
