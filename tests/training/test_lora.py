import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForImageClassification

from halflabel import HalflabelError
from halflabel.training.averaging import AverageWeights
from halflabel.training.lora import add_lora, merge_lora
from halflabel.training.resuming import KeepTrainingWeights
from halflabel.training.transfer import parameter_groups

pytest.importorskip("peft", reason="needs peft")
spec = importlib.util.spec_from_file_location(
    "transfer_runs", Path(__file__).parents[1] / "helpers" / "transfer_runs.py"
)
runs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(runs)
one_thread = runs.one_thread
pytestmark = pytest.mark.usefixtures("one_thread")

NETWORKS = {"test_vit": None, "test_resnet": ["conv1", "conv2", "downsample.1"], "test_efficientnet": ["conv_pw*"]}


def adapted(name, filled=True, **arguments):
    model = runs.make_model(name)
    names = add_lora(model, 4, targets=NETWORKS[name], **arguments)
    if filled:
        for key, parameter in model.named_parameters():
            if "lora_B" in key:
                nn.init.normal_(parameter, std=0.1)
    return model, names


@torch.no_grad()
def logits_of(model):
    return model.eval()(runs.Rows(8).pixels).logits


def test_attention_and_mlp_layers_are_adapted_by_default():
    model, names = adapted("test_vit", filled=False)
    layers = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    assert sorted(names) == sorted(f"blocks.{i}.{layer}" for i in range(6) for layer in layers)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    factors = {f"backbone.{name}.lora_{factor}.default.weight" for name in names for factor in "AB"}
    assert trained == factors | {"head.linear.weight", "head.linear.bias"}
    torch.testing.assert_close(logits_of(model), logits_of(runs.make_model("test_vit")), rtol=0, atol=0)  # B is 0


def test_frozen_batchnorm_is_in_evaluation_mode_at_once():
    model, _ = adapted("test_resnet")
    assert model.training
    assert not any(module.training for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    assert "peft_config" not in vars(model.backbone)


def test_rates_by_layer_reach_the_adapters():
    model, _ = adapted("test_vit")
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in parameter_groups(model, 1.0, 0.1, layer_decay=0.5):
        for name in (names[id(parameter)] for parameter in group["params"]):
            assert group["lr"] == (1.0 if name.startswith("head") else 0.5 ** (6 - int(name.split(".")[2]))), name


def test_an_adapter_adds_what_the_paper_says():
    model, _ = adapted("test_vit", alpha=6.0)
    layer = model.backbone.blocks[2].mlp.fc1
    x = torch.randn(3, layer.base_layer.in_features)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    expected = x @ layer.base_layer.weight.T + layer.base_layer.bias + 6.0 / 4 * (x @ a.T) @ b.T
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_merged_and_reloaded_model_computes_the_same(name, tmp_path):
    model, _ = adapted(name)
    before = logits_of(model)
    assert (before - logits_of(runs.make_model(name))).abs().max() > 1e-3
    model.save_pretrained(tmp_path / "with")
    merge_lora(model)
    model.save_pretrained(tmp_path / "merged")
    plain = runs.make_model(name)
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert [type(m) for m in model.modules()] == [type(m) for m in plain.modules()]
    for loaded in (model, *(AutoModelForImageClassification.from_pretrained(tmp_path / k) for k in ("with", "merged"))):
        assert (logits_of(loaded) - before).abs().max() < 1e-5


def test_a_saved_model_needs_no_peft(tmp_path):
    model, _ = adapted("test_vit")
    before = logits_of(model)
    model.save_pretrained(tmp_path)
    code = (
        "import sys; sys.modules['peft'] = None\n"
        "import numpy, torch, halflabel\n"
        "from transformers import AutoModelForImageClassification\n"
        f"model = AutoModelForImageClassification.from_pretrained({str(tmp_path)!r})\n"
        f"pixels = torch.load({str(tmp_path / 'pixels.pt')!r})\n"
        f"numpy.save({str(tmp_path / 'logits.npy')!r}, model(pixels).logits.detach())\n"
        "try:\n"
        "    from halflabel.training.lora import add_lora\n"
        "    add_lora(model)\n"
        "except halflabel.HalflabelError as error:\n"
        "    print(error)\n"
    )
    torch.save(runs.Rows(8).pixels, tmp_path / "pixels.pt")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "lora needs peft: pip install 'halflabel[lora]'", done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), before, rtol=0, atol=1e-5)


@pytest.mark.parametrize("precision", [{}, {"bf16": True}], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", NETWORKS)
def test_only_the_adapters_and_the_head_are_trained(name, precision, tmp_path):
    model, names = adapted(name, filled=False)
    before = runs.copies(model)
    runs.make_trainer(model, tmp_path, gradient_accumulation_steps=2, **precision).train()
    moved = {key for key, tensor in runs.weights_of(model).items() if not torch.equal(tensor, before[key])}
    factors = {f"backbone.{name}.lora_{factor}.default.weight" for name in names for factor in "AB"}
    assert moved == factors | {"head.linear.weight", "head.linear.bias"}  # no BatchNorm, no frozen weight


def test_training_reports_and_keeps_the_best_model_with_adapters(tmp_path):
    model, _ = adapted("test_resnet", filled=False)
    logits, scores = [], iter([0.2, 0.9, 0.1])
    trainer = runs.make_trainer(
        model, tmp_path, [KeepTrainingWeights()], num_train_epochs=3, eval_strategy="epoch", save_strategy="epoch",
        load_best_model_at_end=True, metric_for_best_model="mAP",
    )  # fmt: skip
    trainer.compute_metrics = lambda found: logits.append(found.predictions.copy()) or {"mAP": next(scores)}
    trainer.train()
    assert np.abs(logits[2] - logits[1]).max() > 1e-2
    np.testing.assert_allclose(logits_of(model), logits[1], rtol=0, atol=1e-5)
    merge_lora(model)
    trainer.compute_metrics = None
    np.testing.assert_allclose(trainer.predict(runs.Rows(8)).predictions, logits[1], rtol=0, atol=1e-5)
    for number, step in enumerate((4, 8, 12)):  # each checkpoint is a whole plain model
        loaded = AutoModelForImageClassification.from_pretrained(tmp_path / f"checkpoint-{step}")
        np.testing.assert_allclose(logits_of(loaded), logits[number], rtol=0, atol=1e-5)


@pytest.mark.parametrize("callback", [KeepTrainingWeights, lambda: AverageWeights(0.9)], ids=["plain", "averaged"])
@pytest.mark.parametrize("save_steps", [3, 4], ids=["within an epoch", "between two"])
def test_an_interrupted_run_resumes_to_the_same_weights(save_steps, callback, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": save_steps}
    whole, _ = adapted("test_vit", filled=False)
    runs.make_trainer(whole, tmp_path / "whole", [callback()], **settings).train()
    broken, _ = adapted("test_vit", filled=False)
    with pytest.raises(KeyboardInterrupt):
        runs.make_trainer(broken, tmp_path / "broken", [callback(), runs.Stop(save_steps + 1)], **settings).train()
    resumed, _ = adapted("test_vit", filled=False)
    trainer = runs.make_trainer(resumed, tmp_path / "broken", [callback()], **settings)
    trainer.train(resume_from_checkpoint=True)
    for name, tensor in runs.weights_of(whole).items():
        assert torch.equal(tensor, runs.weights_of(resumed)[name]), name


def test_another_rank_cannot_resume(tmp_path):
    model, _ = adapted("test_vit", filled=False)
    settings = {"save_strategy": "steps", "save_steps": 4}
    runs.make_trainer(model, tmp_path, [KeepTrainingWeights()], **settings).train()
    other = runs.make_model("test_vit")
    add_lora(other, 2)
    trainer = runs.make_trainer(other, tmp_path, [KeepTrainingWeights()], optim="sgd", **settings)
    with pytest.raises(HalflabelError, match="is of a run with another model or other settings"):
        trainer.train(resume_from_checkpoint=True)


def test_checkpointed_activations_give_the_same_gradients():
    gradients = []
    for enable in (False, True):
        torch.manual_seed(0)
        model = runs.make_model("test_vit", {"img_size": runs.SIDE})
        add_lora(model, 4)
        for key, parameter in model.named_parameters():
            if "lora_B" in key:
                nn.init.normal_(parameter, std=0.1)
        if enable:
            model.activation_checkpointing_enable()
        batch = runs.collate([runs.Rows(4)[i] for i in range(4)])
        model.train()(**batch).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    assert all(gradient.norm() > 0 for gradient in gradients[0].values())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-8)


def test_layers_whose_weight_is_used_without_them_have_no_adapters():
    """BEiT adds its bias to the output of `F.linear` with the weight of qkv: an adapter there would learn nothing."""
    small = {"depth": 1, "embed_dim": 48, "num_heads": 2}
    model = runs.make_model("beit_base_patch16_224", small)
    assert add_lora(model, 2) == ["blocks.0.attn.proj", "blocks.0.mlp.fc1", "blocks.0.mlp.fc2"]
    with pytest.raises(HalflabelError, match="'qkv' names no layer of Beit that can be adapted"):
        add_lora(runs.make_model("beit_base_patch16_224", small), 2, targets=["qkv"])


@pytest.mark.parametrize(("name", "arguments", "message"), [
    ("test_vit", {"targets": ["qvk"]}, r"'qvk' names no layer of VisionTransformer that can be adapted .*mean qkv"),
    ("test_resnet", {}, "ResNet has no linear layers in attention or mlp blocks; name its layers with lora_targets"),
    ("test_efficientnet", {"targets": ["conv_dw"]}, "'conv_dw' names no layer .* convolution in one group"),
    ("test_vit", {"rank": 0}, "rank 0 and alpha None"),
    ("test_vit", {"alpha": 0.0}, "rank 8 and alpha 0.0"),
])  # fmt: skip
def test_mistakes_are_told_in_one_line(name, arguments, message):
    with pytest.raises(HalflabelError, match=message) as caught:
        add_lora(runs.make_model(name), **arguments)
    assert "\n" not in str(caught.value)


def test_adapters_are_added_once_and_not_to_a_frozen_backbone():
    model, _ = adapted("test_vit")
    with pytest.raises(HalflabelError, match="has adapters already"):
        add_lora(model)
    model = runs.make_model("test_vit")
    model.freeze_backbone()
    with pytest.raises(HalflabelError, match="the backbone is frozen"):
        add_lora(model)
