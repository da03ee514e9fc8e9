import pytest
import timm
import torch
import transfer_runs as runs
from forked import in_two_processes
from timm.optim import param_groups_layer_decay
from torch import nn
from transfer_runs import one_thread  # noqa: F401 - a fixture
from transformers import TrainingArguments

from halflabel import HalflabelError, TimmMultiLabelForImageClassification
from halflabel.training.transfer import freeze, layer_groups, optimizer_cls_and_kwargs, parameter_groups

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
    freeze(tiny_model, 2)
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
    (2, {"conv1", "bn1", "layer1"}),
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
    (6, "6 layer groups, but ResNet has 1 to 5"),
    (0, "0 layer groups"),
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
