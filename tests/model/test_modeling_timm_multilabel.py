import numpy as np
import pytest
import timm
import torch
from rounding import assert_computed_alike
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification, Trainer, TrainingArguments, pipeline
from transformers.utils import logging as transformers_logging

from halflabel import (
    IGNORE_INDEX,
    HalflabelError,
    TimmMultiLabelConfig,
    TimmMultiLabelForImageClassification,
    TimmMultiLabelImageProcessor,
)
from halflabel.data.pixels import collate
from halflabel.model.heads import LinearHead
from halflabel.model.objective import masked_loss

FAMILIES = {
    "resnet10t": {},
    "test_efficientnet": {},
    "test_convnext": {},
    "test_vit": {},
    "swin_tiny_patch4_window7_224": {"depths": [1, 1, 1, 1], "embed_dim": 24, "num_heads": [2, 2, 2, 2]},
    "beit_base_patch16_224": {"depth": 2, "embed_dim": 48, "num_heads": 2},
    "eva02_tiny_patch14_224": {"depth": 2},
    "vit_small_patch16_rope_224": {"depth": 2},
    "levit_128s": {},
    "tiny_vit_5m_224": {},
    "maxvit_rmlp_pico_rw_256": {},
}


@pytest.mark.parametrize("name", FAMILIES)
def test_saved_and_loaded_models_agree(name, tmp_path):
    model = TimmMultiLabelForImageClassification.from_backbone(
        name, ["a", "b", "c"], weights=None, backbone_args=FAMILIES[name] or None
    ).eval()
    size = TimmMultiLabelImageProcessor.from_backbone(model.backbone).input_size
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    pixels = torch.randn(2, *size)
    with torch.no_grad():
        before, after = model(pixels).logits, loaded(pixels).logits
        features = model.extract_features(pixels)
    assert torch.isfinite(before).all()
    torch.testing.assert_close(after, before, rtol=0, atol=1e-4)
    assert features.shape == (2, model.head.in_features)
    assert (before[0] - before[1]).abs().max() > 0  # the logits depend on the picture


def test_the_stock_pipeline_uses_a_sigmoid_per_label(tiny_model, tmp_path):
    processor = TimmMultiLabelImageProcessor.from_backbone(tiny_model.backbone)
    from PIL import Image

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (180, 200, 3), dtype=np.uint8))
    answers = pipeline("image-classification", model=tiny_model.eval(), image_processor=processor)(picture)
    with torch.no_grad():
        scores = tiny_model(**processor(picture)).logits.sigmoid()[0]
    assert {a["label"]: pytest.approx(a["score"]) for a in answers} == {
        "red": scores[0].item(),
        "blue": scores[1].item(),
    }


def test_a_checkpoint_of_other_labels_loads_with_a_fresh_head_and_a_new_model_has_random_weights(tiny_model, tmp_path):
    """Loading leaves out the random weights that it replaces, and only those."""
    tiny_model.save_pretrained(tmp_path)
    kind = type(tiny_model)
    names = {0: "a", 1: "b", 2: "c"}
    config = TimmMultiLabelConfig.from_pretrained(tmp_path, id2label=names)
    loaded = kind.from_pretrained(tmp_path, config=config, ignore_mismatched_sizes=True)
    assert loaded.head.linear.weight.shape[0] == 3
    assert 0 < loaded.head.linear.weight.std() < 1
    state, old = loaded.backbone.state_dict(), tiny_model.backbone.state_dict()
    assert all(torch.equal(state[key], old[key]) for key in old)
    fresh = kind(tiny_model.config)
    for key, value in fresh.backbone.named_parameters():
        if value.ndim > 1:
            assert value.std() > 0, key


def test_features_skip_the_backbone(tiny_model):
    model, pixels = tiny_model.eval(), torch.randn(3, 3, 160, 160)
    with torch.no_grad():
        features = model.extract_features(pixels)
        assert_computed_alike(model(features=features).logits, model(pixels).logits)
    for arguments in ({}, {"pixel_values": pixels, "features": features}):
        with pytest.raises(HalflabelError, match="exactly one"):
            model(**arguments)


def test_nan_in_a_batch_raises(tiny_model):
    with pytest.raises(HalflabelError, match="nan"):
        tiny_model(torch.randn(1, 3, 160, 160), labels=torch.tensor([[float("nan"), 1.0]]))


def test_an_unknown_label_reaches_no_weight(tiny_model):
    """The gradient of the head's row of a label that is unknown everywhere is exactly zero."""
    labels = torch.tensor([[1.0, IGNORE_INDEX], [0.0, IGNORE_INDEX]])
    tiny_model(torch.randn(2, 3, 160, 160), labels=labels).loss.backward()
    assert (tiny_model.head.linear.weight.grad[1] == 0).all()
    assert (tiny_model.head.linear.weight.grad[0] != 0).any()


def arguments(folder, **extra):
    return TrainingArguments(
        output_dir=folder, report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True,
        remove_unused_columns=False, dataloader_pin_memory=False, **extra
    )  # fmt: skip


class Rows(torch.utils.data.Dataset):
    def __init__(self, pixels, labels):
        self.pixels, self.labels = pixels, labels

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, i):
        return {"pixel_values": self.pixels[i], "labels": self.labels[i]}


def test_frozen_batchnorm_does_not_drift_under_the_trainer(tiny_model, tmp_path):
    tiny_model.freeze_backbone()
    before = {key: value.clone() for key, value in tiny_model.backbone.state_dict().items()}
    head = tiny_model.head.linear.weight.detach().clone()
    rows = Rows(torch.randn(8, 3, 64, 64) + 3, np.ones((8, 2), np.int8))
    Trainer(tiny_model, arguments(tmp_path, max_steps=3), collate, rows).train()
    for key, value in tiny_model.backbone.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert not torch.equal(tiny_model.head.linear.weight, head)
    tiny_model.unfreeze_backbone()
    Trainer(tiny_model, arguments(tmp_path, max_steps=1), collate, rows).train()
    assert not torch.equal(tiny_model.backbone.state_dict()["bn1.running_mean"], before["bn1.running_mean"])


@pytest.mark.parametrize("known", ["uneven", "one half all unknown"])
def test_accumulation_gives_the_update_of_one_batch(tmp_path, known):
    """2 x 8 equals 1 x 16 in w1 - w0, although the halves know different numbers of entries."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(16, 3, 64, 64, generator=generator)
    labels = torch.randint(0, 2, (16, 4), generator=generator).numpy().astype(np.int8)
    labels[:8, 1:] = IGNORE_INDEX
    if known != "uneven":
        labels[8:] = IGNORE_INDEX
    start = TimmMultiLabelForImageClassification.from_backbone("test_vit", list("abcd"), weights=None,
                                                               backbone_args={"img_size": 64})  # fmt: skip
    updates = []
    for size, steps in ((16, 1), (8, 2), (2, 8)):
        model = TimmMultiLabelForImageClassification(start.config)
        model.load_state_dict(start.state_dict())
        settings = arguments(
            tmp_path, max_steps=1, per_device_train_batch_size=size, gradient_accumulation_steps=steps, optim="sgd",
            learning_rate=1.0, max_grad_norm=0.0, lr_scheduler_type="constant", train_sampling_strategy="sequential",
        )  # fmt: skip
        Trainer(model, settings, collate, Rows(pixels, labels)).train()
        first = start.state_dict()
        updates.append(torch.cat([(v.double() - first[k].double()).flatten() for k, v in model.state_dict().items()]))
    assert updates[0].norm() > 1e-3
    for update in updates[1:]:
        assert (update - updates[0]).norm() / updates[0].norm() < 1e-5


def test_replace_head_keeps_the_backbone(tiny_model, tmp_path):
    before = {key: value.clone() for key, value in tiny_model.backbone.state_dict().items()}
    tiny_model.eval().replace_head(["x", "y", "z"])
    assert tiny_model.config.label_space.names == ("x", "y", "z")
    assert tiny_model(torch.randn(2, 3, 160, 160)).logits.shape == (2, 3)
    assert all(torch.equal(value, before[key]) for key, value in tiny_model.backbone.state_dict().items())
    tiny_model.save_pretrained(tmp_path)
    assert AutoModelForImageClassification.from_pretrained(tmp_path).config.label_space.names == ("x", "y", "z")
    with pytest.raises(HalflabelError, match="more than once"):
        tiny_model.replace_head(["x", "x"])
    assert tiny_model.config.label_space.names == ("x", "y", "z")


def test_the_objective_of_the_configuration_is_the_one_trained_on(tmp_path):
    keys = {"loss": "asl", "loss_args": {"gamma_neg": 2.0}, "normalizer": "tasks", "pos_weight": [2.0, 1.0],
            "label_weight": [1.0, 0.5]}  # fmt: skip
    model = TimmMultiLabelForImageClassification.from_backbone("test_resnet", ["a", "b"], weights=None, **keys)
    model.save_pretrained(tmp_path)
    model = AutoModelForImageClassification.from_pretrained(tmp_path)
    features, labels = torch.randn(5, model.head.in_features), torch.tensor([[1.0, 0.0]] * 4 + [[0.0, IGNORE_INDEX]])
    result = model(features=features, labels=labels)
    weights = {key: torch.tensor(keys[key]) for key in ("pos_weight", "label_weight")}
    expected = masked_loss(result.logits, labels, "asl", "tasks", gamma_neg=2.0, **weights)
    torch.testing.assert_close(result.loss, expected)
    model.replace_head(["c", "d", "e"])
    assert (model.config.pos_weight, model.config.label_weight) == (None, None)  # those of other labels
    assert model.config.loss_args == {"gamma_neg": 2.0}


def test_gradient_checkpointing_changes_no_gradient():
    model = TimmMultiLabelForImageClassification.from_backbone("test_vit", ["a"], weights=None)
    pixels, labels = torch.randn(2, 3, 160, 160), torch.tensor([[1.0], [0.0]])
    gradients = []
    for on in (False, True):
        (model.gradient_checkpointing_enable if on else model.gradient_checkpointing_disable)()
        model.zero_grad()
        model.train()(pixels, labels=labels).loss.backward()
        gradients.append(model.backbone.patch_embed.proj.weight.grad.clone())
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-8)


class Doubled(LinearHead):
    def compute_logits(self, features):
        return 2 * super().compute_logits(features)


def squared(logits, targets, pos_weight=None, power=2.0):
    return (logits.sigmoid() - targets).abs() ** power


def test_parts_of_a_program_train_are_saved_and_are_given_again(tmp_path, caplog):
    """A timm model, a head class and a function: trained by the stock Trainer to the same weights as by hand."""
    parts = {"backbone": timm.create_model("test_resnet", num_classes=7), "head": Doubled, "loss": squared}
    model = TimmMultiLabelForImageClassification.from_backbone(
        label_names=["a", "b"], loss_args={"power": 3.0}, **parts
    )
    assert [record.getMessage() for record in caplog.records] == [
        "backbone ResNet is not saved: load with from_pretrained(folder, backbone=ResNet)",
        "head Doubled is not saved: load with from_pretrained(folder, head=Doubled)",
        "loss squared is not saved: load with from_pretrained(folder, loss=squared)",
    ]
    labels = torch.tensor([[1.0, IGNORE_INDEX], [0.0, 1.0]])
    features = torch.randn(2, model.head.in_features)
    output = model(features=features, labels=labels)
    scores = (2 * model.head.linear(features)).sigmoid()
    expected = ((1 - scores[0, 0]) ** 3 + scores[1, 0] ** 3 + (1 - scores[1, 1]) ** 3) / 3
    torch.testing.assert_close(output.loss, expected)
    model.save_pretrained(tmp_path)
    for missing, kept in (("head", "backbone"), ("backbone", "head")):
        with pytest.raises(HalflabelError, match=f"{missing} .* is code of your own, which no file holds: give it"):
            TimmMultiLabelForImageClassification.from_pretrained(tmp_path, **{kept: parts[kept]})
    again = {"backbone": timm.create_model("test_resnet", num_classes=0), "head": Doubled}
    loaded = TimmMultiLabelForImageClassification.from_pretrained(tmp_path, **again)
    pixels = torch.randn(2, 3, 160, 160)
    assert_computed_alike(loaded(pixels).logits, model.eval()(pixels).logits)
    with pytest.raises(HalflabelError, match="loss squared is code of your own"):
        loaded(pixels, labels=labels)
    again["backbone"] = timm.create_model("test_resnet", num_classes=0)
    loaded = TimmMultiLabelForImageClassification.from_pretrained(tmp_path, **again, loss=squared)
    assert_computed_alike(loaded(pixels, labels=labels).loss, model(pixels, labels=labels).loss)


def test_a_backbone_that_is_no_model_of_timm_is_refused():
    with pytest.raises(HalflabelError, match="backbone Linear has no forward_features, .*: give a name that timm"):
        TimmMultiLabelForImageClassification.from_backbone(torch.nn.Linear(2, 2), ["a"])


def test_bad_requests():
    start = TimmMultiLabelForImageClassification.from_backbone
    with pytest.raises(HalflabelError, match="did you mean"):
        start("resnt18", ["a"], weights=None)
    with pytest.raises(HalflabelError, match="takes no argument 'depth'"):
        start("test_resnet", ["a"], weights=None, head_args={"depth": 2})
    with pytest.raises(HalflabelError, match="backbone_args"):
        start("test_resnet", ["a"], weights=None, backbone_args={"colour": 2})


def fill_freed_memory():
    """Leave numbers in memory that is about to be given out again."""
    for _ in range(50):
        torch.full((50_000,), 1e31)


def load_without(keys, model, folder, **arguments):
    model.save_pretrained(folder)
    state = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in state.items() if k not in keys}, folder / "model.safetensors", {"format": "pt"})
    fill_freed_memory()
    return state, type(model).from_pretrained(folder, **arguments).state_dict()


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "swin_tiny_patch4_window7_224"])
def test_what_a_checkpoint_lacks_of_the_backbone_starts_as_in_a_new_model_and_is_named(name, tmp_path, caplog):
    model = TimmMultiLabelForImageClassification.from_backbone(
        name, ["a", "b"], weights=None, backbone_args=FAMILIES.get(name)
    )
    model.backbone.load_state_dict({key: value + 1 for key, value in model.backbone.state_dict().items()})
    lacking = [key for key in model.state_dict() if key.startswith("backbone.")][::3]
    transformers_logging.enable_propagation()
    state, loaded = load_without(lacking, model, tmp_path)
    transformers_logging.disable_propagation()
    assert "MISSING" in caplog.text
    assert all(torch.equal(loaded[key], value) for key, value in state.items() if key not in lacking)
    new = TimmMultiLabelForImageClassification(model.config).state_dict()
    for key in lacking:
        assert loaded[key].float().mean() == pytest.approx(new[key].float().mean().item(), abs=0.1), key
        assert loaded[key].float().abs().max() < 10, key


def test_a_backbone_of_another_shape_starts_new_where_it_differs(tmp_path):
    model = TimmMultiLabelForImageClassification.from_backbone("test_vit", ["a", "b"], weights=None)
    for arguments, differs in (
        ({"img_size": 96}, "backbone.pos_embed"),
        ({"in_chans": 1}, "backbone.patch_embed.proj.weight"),
    ):
        state, loaded = load_without([], model, tmp_path, backbone_args=arguments, ignore_mismatched_sizes=True)
        assert [key for key in state if not torch.equal(state[key], loaded[key])] == [differs]
        assert 0 < loaded[differs].abs().max() < 1


def test_a_backbone_of_ones_own_keeps_what_a_checkpoint_lacks(tmp_path):
    own = timm.create_model("test_resnet", num_classes=0)
    own.register_buffer("places", torch.arange(5.0), persistent=False)
    model = TimmMultiLabelForImageClassification.from_backbone(own, ["a", "b"])
    again = timm.create_model("test_resnet", num_classes=0)
    again.register_buffer("places", torch.arange(5.0), persistent=False)
    expected = again.bn1.running_var.add_(3).clone()
    state, loaded = load_without(["backbone.bn1.running_var"], model, tmp_path, backbone=again)
    assert torch.equal(loaded["backbone.bn1.running_var"], expected)
    assert again.places.tolist() == [0, 1, 2, 3, 4]


def test_other_labels_leave_the_statistics_of_a_batch_norm_head(tmp_path):
    arguments = {"norm": "batch", "width": 8}
    model = TimmMultiLabelForImageClassification.from_backbone(
        "test_resnet", ["a", "b"], weights=None, head="mlp", head_args=arguments
    )
    norm = model.head.hidden[1]
    norm.running_mean.add_(3)
    norm.running_var.add_(4)
    labels = {"id2label": {0: "a", 1: "b", 2: "c"}, "ignore_mismatched_sizes": True}
    state, loaded = load_without([], model, tmp_path, **labels)
    changed = [key for key, value in state.items() if not torch.equal(loaded[key], value)]
    assert changed == ["head.linear.bias", "head.linear.weight"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "parts", [{"loss": "asl", "loss_args": {"clip": 0.1}, "pos_weight": [2.0, 1.0]}, {"head": "csra"}]
)
def test_a_model_with_labels_compiles_as_one_graph(parts):
    model = TimmMultiLabelForImageClassification.from_backbone("test_resnet", ["a", "b"], weights=None, **parts)
    batch = {"pixel_values": torch.randn(2, 3, 64, 64), "labels": torch.tensor([[1.0, -100.0], [0.0, 1.0]])}
    torch._dynamo.reset()
    compiled = torch.compile(model.eval(), backend="aot_eager", fullgraph=True)
    for counts in (None, torch.tensor([2, 1, 2])):
        expected, found = (one(**batch, num_items_in_batch=counts).loss for one in (model, compiled))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        found.backward()


def test_a_network_that_uses_a_tensor_twice_is_refused_when_it_is_built():
    own = timm.create_model("test_resnet", num_classes=0)
    own.layer2[0].bn1.weight = own.layer1[0].bn1.weight
    message = "ResNet uses one tensor as layer1.0.bn1.weight and as layer2.0.bn1.weight, so that it cannot be saved"
    with pytest.raises(HalflabelError, match=message):
        TimmMultiLabelForImageClassification.from_backbone(own, ["a"])
    with torch.device("meta"), pytest.raises(HalflabelError, match="CoaT uses one tensor as cpe1.proj.weight"):
        TimmMultiLabelForImageClassification.from_backbone("coat_lite_tiny", ["a"], weights=None)
