import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
import transfer_runs as runs
from forked import in_two_processes
from timm.optim import param_groups_layer_decay
from torch import nn
from transfer_runs import one_thread  # noqa: F401 - a fixture
from transformers import AutoModelForImageClassification, TrainingArguments

from halflabel import HalflabelError, TimmMultiLabelForImageClassification
from halflabel.training.checkpoints import KeepTrainingWeights
from halflabel.training.transfer import (
    AverageWeights,
    add_lora,
    freeze,
    layer_groups,
    merge_lora,
    optimizer_cls_and_kwargs,
    parameter_groups,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def rates_and_decays(model, groups):
    """Name -> (rate, decay) of each parameter that is in exactly one group."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = [(names[id(p)], (g["lr"], g["weight_decay"])) for g in groups for p in g["params"]]
    assert len(found) == len(dict(found))
    return dict(found)


def test_layers_are_numbered_from_the_picture_to_the_head():
    groups, count = layer_groups(timm.create_model("test_resnet", num_classes=0))
    assert count == 5
    assert {name.split(".")[0]: group for name, group in groups.items()} == {
        "conv1": 0, "bn1": 0, "layer1": 1, "layer2": 2, "layer3": 3, "layer4": 4,
    }  # fmt: skip
    groups, count = layer_groups(timm.create_model("test_convnext", num_classes=0))
    assert (count, groups["stages.3.blocks.1.mlp.fc1.weight"], groups["head.norm.weight"]) == (10, 9, 10)
    with pytest.raises(HalflabelError, match="names no layer groups of Sequential; freeze its modules by name"):
        layer_groups(nn.Sequential())


def test_rates_by_hand_of_a_convolutional_network():
    model = runs.make_model("test_resnet")
    found = rates_and_decays(model, parameter_groups(model, 0.1, 0.01, layer_decay=0.5, head_lr_multiplier=10))
    assert found.keys() == dict(model.named_parameters()).keys()
    assert found["head.linear.weight"] == (1.0, 0.01)
    assert found["head.linear.bias"] == (1.0, 0.0)
    halvings = {"conv1": 5, "bn1": 5, "layer1": 4, "layer2": 3, "layer3": 2, "layer4": 1}
    for name, (rate, decay) in found.items():
        if name.startswith("backbone."):
            assert rate == pytest.approx(0.1 / 2 ** halvings[name.split(".")[1]]), name
            assert decay == (0.01 if model.get_parameter(name).ndim > 1 else 0.0), name
    assert found["backbone.layer1.0.bn1.weight"] == (0.1 / 16, 0.0)


def test_rates_by_hand_of_a_transformer():
    model = runs.make_model("test_vit")
    found = rates_and_decays(model, parameter_groups(model, 1.0, 0.05, layer_decay=0.8))
    power = {"cls_token": 7, "pos_embed": 7, "patch_embed": 7, "norm": 1, **{f"blocks.{i}": 6 - i for i in range(6)}}
    for name, (rate, decay) in found.items():
        parts = name.split(".")
        if parts[0] == "head":
            assert rate == 1.0
            continue
        key = ".".join(parts[1:3]) if parts[1] == "blocks" else parts[1]
        assert rate == pytest.approx(0.8 ** power[key]), name
        plain = "norm" in name or name.endswith("bias") or parts[1] in ("cls_token", "pos_embed")
        assert decay == (0.0 if plain else 0.05), name
    assert found["backbone.pos_embed"][1] == 0.0  # three dimensions: only `no_weight_decay()` exempts it


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_vit3", "test_efficientnet", "test_convnext",
                                  "test_convnext2", "test_nfnet", "test_maxvit", "test_byobnet"])  # fmt: skip
def test_rates_are_those_of_timm(name):
    """Oracle: timm's `lr_scale` on the whole model with its own classifier, which is at the place of our head."""
    whole = timm.create_model(name, num_classes=2)
    exempt = whole.no_weight_decay() if hasattr(whole, "no_weight_decay") else ()
    names = {id(parameter): key for key, parameter in whole.named_parameters()}
    expected = {}
    for group in param_groups_layer_decay(whole, 0.05, exempt, layer_decay=0.7):
        expected.update({names[id(p)]: (group["lr_scale"], group["weight_decay"]) for p in group["params"]})
    model = TimmMultiLabelForImageClassification.from_backbone(name, ["a", "b"], weights=None)
    found = rates_and_decays(model, parameter_groups(model, 1.0, 0.05, layer_decay=0.7))
    for key, (rate, decay) in found.items():
        if key.startswith("backbone."):
            assert (pytest.approx(rate), decay) == expected[key.removeprefix("backbone.")], key
    assert sum(key.startswith("backbone.") for key in found) >= len(expected) - 2  # all but the classifier


def test_without_decay_and_multiplier_there_are_two_plain_groups():
    model = runs.make_model("test_vit")
    decayed, plain = sorted(parameter_groups(model, 0.1, 0.01), key=lambda group: -group["weight_decay"])
    assert [(g["lr"], g["weight_decay"]) for g in (decayed, plain)] == [(0.1, 0.01), (0.1, 0.0)]
    assert len(decayed["params"]) + len(plain["params"]) == sum(1 for _ in model.parameters())
    assert len(parameter_groups(model, 0.1, 0.0)) == 1


def test_frozen_parameters_are_in_no_group(tiny_model):
    freeze(tiny_model, [2])
    found = rates_and_decays(tiny_model, parameter_groups(tiny_model, 0.1, 0.01, layer_decay=0.5))
    assert found.keys() == {name for name, parameter in tiny_model.named_parameters() if parameter.requires_grad}
    assert found["backbone.layer2.0.conv1.weight"][0] == pytest.approx(0.1 / 8)  # the rates are those of the whole


OPTIMIZERS = {
    "adamw": (
        {"optim": "adamw_torch", "adam_beta1": 0.8, "adam_beta2": 0.99, "adam_epsilon": 1e-6},
        lambda groups: torch.optim.AdamW(groups, lr=0.01, betas=(0.8, 0.99), eps=1e-6),
    ),
    "nesterov": (
        {"optim": "sgd", "optim_args": "momentum=0.9,nesterov=true"},
        lambda groups: torch.optim.SGD(groups, lr=0.01, momentum=0.9, nesterov=True),
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_plain_groups_train_as_the_optimizer_written_by_hand(name, tmp_path):
    settings, by_hand = OPTIMIZERS[name]
    ours = runs.make_model()
    runs.make_trainer(ours, tmp_path, **settings).train()
    other = runs.make_model()
    decayed = [p for p in other.parameters() if p.ndim > 1]
    plain = [p for p in other.parameters() if p.ndim <= 1]
    made = by_hand([{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}])
    trainer = runs.make_trainer(other, tmp_path, **settings)
    trainer.optimizer, trainer.optimizer_cls_and_kwargs = made, None
    trainer.train()
    for key, tensor in ours.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[key]), key


def test_the_schedule_scales_every_rate(tmp_path):
    model = runs.make_model()
    trainer = runs.make_trainer(
        model, tmp_path, optimizer=lambda arguments: optimizer_cls_and_kwargs(arguments, 0.5, 4.0),
        num_train_epochs=1, lr_scheduler_type="linear", logging_strategy="steps", logging_steps=1,
    )  # fmt: skip
    trainer.train()
    rates = [row["learning_rate"] for row in trainer.state.log_history if "learning_rate" in row]
    assert rates == pytest.approx([0.04 * share for share in (1, 0.75, 0.5, 0.25)])  # the head's
    starts = sorted({group["initial_lr"] for group in trainer.optimizer.param_groups})
    assert starts == pytest.approx([0.01 / 2**i for i in range(5, 0, -1)] + [0.04])


@pytest.mark.parametrize(("decay", "multiplier", "message"), [
    (0.0, 1.0, "layer_decay is 0.0"), (1.1, 1.0, "layer_decay is 1.1"), (float("nan"), 1.0, "layer_decay is nan"),
    (1.0, 0.0, "head_lr_multiplier is 0.0"), (1.0, -2.0, "head_lr_multiplier is -2.0"),
])  # fmt: skip
def test_rates_out_of_range_are_refused_at_once(decay, multiplier, message, tmp_path):
    with pytest.raises(HalflabelError, match=message):
        optimizer_cls_and_kwargs(TrainingArguments(output_dir=str(tmp_path)), decay, multiplier)


@pytest.mark.parametrize(("parts", "frozen"), [
    (["conv1"], {"conv1"}),
    (["conv1", "bn1", "layer1"], {"conv1", "bn1", "layer1"}),
    (["layer[12]"], {"layer1", "layer2"}),
    (["layer*"], {"layer1", "layer2", "layer3", "layer4"}),
    ([2], {"conv1", "bn1", "layer1"}),
    (["2"], {"conv1", "bn1", "layer1"}),
    (["1", "layer4"], {"conv1", "bn1", "layer4"}),
])  # fmt: skip
def test_parts_are_frozen_by_name_glob_or_number(parts, frozen, tiny_model):
    freeze(tiny_model, parts)
    tiny_model.train()
    for name, parameter in tiny_model.backbone.named_parameters():
        assert parameter.requires_grad == (name.split(".")[0] not in frozen), name
    for name, module in tiny_model.backbone.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.training == (name.split(".")[0] not in frozen), name
    assert all(parameter.requires_grad for parameter in tiny_model.head.parameters())


def test_single_parameters_and_inner_modules_are_frozen_too():
    model = runs.make_model("test_vit")
    freeze(model, ["pos_embed", "blocks.0", "blocks.1.attn"])
    model.train()
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    inside = ("backbone.pos_embed", "backbone.blocks.0.", "backbone.blocks.1.attn.")
    assert frozen == {name for name, _ in model.named_parameters() if name.startswith(inside)}
    assert not model.backbone.blocks[0].mlp.act.training  # also what has no parameters, like dropout
    assert not model.backbone.blocks[1].attn.attn_drop.training
    assert model.backbone.blocks[1].mlp.act.training
    model.eval()
    assert not model.backbone.blocks[1].training


@pytest.mark.parametrize(("parts", "message"), [
    (["layr1"], "freeze: 'layr1' matches nothing in ResNet, whose parts are conv1, bn1, layer1, .*did you mean layer1"),
    (["stages.0"], "'stages.0' matches nothing"),
    (["act1"], "'act1' matches nothing"),  # it has no parameters
    ([6], "6 layer groups, but ResNet has 1 to 5"),
    ([0], "0 layer groups"),
])  # fmt: skip
def test_what_matches_nothing_is_an_error(parts, message, tiny_model):
    with pytest.raises(HalflabelError, match=message) as caught:
        freeze(tiny_model, parts)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("precision", [{}, {"bf16": True}], ids=["float32", "bfloat16"])
def test_frozen_parts_stay_bit_for_bit_under_the_trainer(precision, tmp_path):
    model = runs.make_model()
    freeze(model, ["conv1", "bn1", "layer1"])
    before = runs.copies(model)
    trainer = runs.make_trainer(model, tmp_path, gradient_accumulation_steps=2, eval_strategy="epoch", **precision)
    trainer.train()
    moved = {name for name, tensor in runs.weights_of(model).items() if not torch.equal(tensor, before[name])}
    still = ("backbone.conv1", "backbone.bn1", "backbone.layer1", "head.feature")
    assert moved == {name for name in before if not name.startswith(still)}
    assert "backbone.layer2.0.bn1.running_mean" in moved
    assert "backbone.bn1.running_mean" in before


@pytest.mark.parametrize("frozen", [None, ["patch_embed", "pos_embed", "blocks.0", "blocks.1"]])
def test_checkpointed_activations_give_the_same_gradients(frozen):
    gradients = []
    for enable in (False, True):
        model = runs.make_model("test_vit", {"img_size": runs.SIDE})
        if frozen:
            freeze(model, frozen)
        if enable:
            model.activation_checkpointing_enable()
        model.train()
        batch = runs.collate([runs.Rows(4)[i] for i in range(4)])
        model(**batch).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert gradient.norm() > 0 or "bias" in name, name
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-8)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    in_two_processes(runs.write_distributed, folder, folder=folder)
    return [torch.load(folder / f"weights.{rank}", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("case", runs.DISTRIBUTED)
def test_two_processes_train_as_one(case, two_processes, tmp_path):
    """Partly frozen, unfrozen in the course, averaged, with adapters: the same weights in both, and those of one."""
    first, second = two_processes[0][case], two_processes[1][case]
    alone = runs.copies(runs.distributed_run(case, tmp_path, 8))
    start = runs.copies(runs.make_model("test_vit", {"img_size": runs.SIDE}))
    for name, tensor in alone.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], tensor, rtol=1e-4, atol=1e-6)
    assert not torch.equal(alone["head.linear.weight"], start["head.linear.weight"])


@pytest.mark.parametrize("given", ["betas=(0.9,0.999)", "momentum"])
def test_optimizer_arguments_that_cannot_be_read_are_one_line(tmp_path, given):
    arguments = TrainingArguments(str(tmp_path), optim="adamw_torch", optim_args=given, report_to="none", use_cpu=True)
    chosen, kwargs = optimizer_cls_and_kwargs(arguments)
    with pytest.raises(HalflabelError, match="expected key=value,key=value"):
        chosen()(runs.make_model(), **kwargs)


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
        "    from halflabel.training.transfer import add_lora\n"
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


def test_checkpointed_activations_give_adapters_the_same_gradients():
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
