"""Plain timm checkpoints, loaded by timm and by transformers in a process that has no halflabel."""

import json
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
from torch import nn

import halflabel
from halflabel import HalflabelError
from halflabel.share.export import export_model

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
        export_model(str(root / f"{case}_model"), "timm", root / case)
        np.save(root / f"{case}.npy", torch.rand(3, *processor.input_size).numpy())
    libraries = str(Path(timm.__file__).parents[1])
    hub = HubServer(root / "hub")
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


def test_the_configuration_names_no_number_of_classes_for_timm_to_be_given_twice(taken):
    for case in CASES:
        config = json.loads((taken[3] / case / "config.json").read_text())
        assert "num_classes" not in config["model_args"]
        assert config["label_names"] == NAMES


def refusal(model, processor, folder):
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    with pytest.raises(HalflabelError) as error:
        export_model(str(folder / "model"), "timm", folder / "out")
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
