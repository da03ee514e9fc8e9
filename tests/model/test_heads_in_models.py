"""Every head on backbones of several kinds: saving, learning by heart, cached features, adding labels."""

import logging
import subprocess
import sys

import pytest
import torch
from rounding import assert_computed_alike, assert_same_weights
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForImageClassification

from halflabel import DecisionRule, HalflabelError, TimmMultiLabelConfig, TimmMultiLabelForImageClassification
from halflabel.model.losses import LOSSES
from halflabel.model.objective import count_items

HEAD_ARGS = {
    "linear": {},
    "mlp": {"width": 32, "norm": "batch", "dropout": 0.0},
    "csra": {"temperatures": [1, "max"], "lam": 0.3},
    "ml_decoder": {"width": 32, "feed_forward": 32, "heads": 2, "dropout": 0.0},
}
TINY = {"depth": 1, "embed_dim": 32, "num_heads": 2}
# Backbone, its arguments, side of the pictures, width pooled, positions, width of a position.
BACKBONES = {
    "test_resnet": ({}, 64, 96, 4, 96),
    "test_efficientnet": ({}, 64, 256, 4, 256),
    "mobilenetv3_small_050": ({}, 64, 1024, 4, 288),
    "test_mambaout": ({}, 64, 256, 4, 64),
    "vit_little_patch16_reg4_gap_256": ({**TINY, "img_size": 64}, 64, 32, 16, 32),
    "deit_tiny_distilled_patch16_224": ({**TINY, "img_size": 64}, 64, 32, 16, 32),
    "swin_tiny_patch4_window7_224": (
        {"img_size": 64, "window_size": 4, "depths": [1, 1], "embed_dim": 16, "num_heads": [2, 2]}, 64, 32, 64, 32
    ),
}  # fmt: skip
NAMES = ["a", "b", "c"]


def start(head, backbone="test_resnet", names=NAMES, **keys):
    return TimmMultiLabelForImageClassification.from_backbone(
        backbone, names, weights=None, head=head, head_args=dict(HEAD_ARGS[head]), **keys
    )


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("head", HEAD_ARGS)
def test_saved_and_loaded_models_are_the_same(head, backbone, tmp_path):
    arguments, side, pooled, positions, width = BACKBONES[backbone]
    model = start(head, backbone, backbone_args=arguments or None)
    pixels = torch.randn(2, 3, side, side)
    with torch.no_grad():
        features = model.eval().extract_features(pixels)
        # Two pictures alone differ little, and dividing by that would enlarge roundings.
        model.head.standardize_(torch.cat([features, -features]))
        before = model(pixels).logits
        assert_computed_alike(model(features=features).logits, before)
    assert features.shape == ((2, pooled) if model.head.consumes == "pooled" else (2, positions, width))
    assert before.shape == (2, 3)
    assert torch.isfinite(before).all()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert_same_weights(loaded, model)
    with torch.no_grad():
        assert_computed_alike(loaded(pixels).logits, before)


@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
@pytest.mark.parametrize("head", HEAD_ARGS)
def test_eight_pictures_are_learned_by_heart(head, backbone):
    """From cached features in half precision; a third of the answers is unknown."""
    model = start(head, backbone)
    with torch.no_grad():
        features = model.eval().extract_features(torch.randn(8, 3, 160, 160)).half()
    model.head.standardize_(features)
    labels = torch.randint(0, 2, (8, 3)).float()
    labels[torch.rand(8, 3) < 0.3] = -100
    optimizer = torch.optim.Adam(model.head.parameters(), lr=0.03)
    model.train()
    losses = [1.0]
    while losses[-1] >= 0.05 and len(losses) < 300:
        optimizer.zero_grad()
        loss = model(features=features, labels=labels).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05


@pytest.mark.parametrize("head", HEAD_ARGS)
def test_the_whole_network_is_trained(head):
    model = start(head).train()
    model(torch.randn(2, 3, 64, 64), labels=torch.tensor([[1.0, 0, -100], [0, 1, 1]])).loss.backward()
    assert model.backbone.conv1[0].weight.grad.abs().max() > 0
    assert all(parameter.grad is not None for parameter in model.head.parameters())


@pytest.mark.parametrize("head", HEAD_ARGS)
def test_an_added_label_leaves_the_scores_of_the_others(head, tmp_path):
    model = trained(head)
    pixels = torch.randn(4, 3, 64, 64)
    before = scores(model, pixels)
    rows = model.head.weight.detach().clone() if head == "ml_decoder" else model.head.label_bias.detach().clone()
    model.replace_head([*NAMES, "new"])
    after = scores(model, pixels)
    assert after.shape == (4, 4)
    assert_computed_alike(after[:, :3], before)
    now = model.head.weight if head == "ml_decoder" else model.head.label_bias
    assert torch.equal(now[:3], rows)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert_same_weights(loaded, model)
    assert_computed_alike(scores(loaded, pixels), after)
    model.replace_head(["c", "new"])  # fewer, in another order
    assert_computed_alike(scores(model, pixels), after[:, [2, 3]])


def trained(head):
    """A model whose head holds other numbers than a fresh one."""
    model = start(head).eval()
    with torch.no_grad():
        model.head.standardize_(model.extract_features(torch.randn(6, 3, 64, 64)) * 2 + 1)
        for parameter in model.head.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def scores(model, pixels):
    with torch.no_grad():
        return model.eval()(pixels).logits.double().sigmoid()


def test_the_rows_of_a_linear_head_are_copied_exactly():
    model, pixels = trained("linear"), torch.randn(4, 3, 64, 64)
    old = {key: value.clone() for key, value in model.head.state_dict().items()}
    before = scores(model, pixels)
    model.replace_head([*NAMES, "new"])
    for key, value in model.head.state_dict().items():
        assert torch.equal(value[:3] if key.startswith("linear") else value, old[key]), key
    assert_computed_alike(scores(model, pixels)[:, :3], before)


def test_everything_is_fresh_where_nothing_is_to_be_kept():
    model = trained("linear")
    old = model.head.linear.weight.clone()
    model.replace_head(NAMES, keep=False)
    assert (model.head.linear.bias == 0).all()
    assert (model.head.feature_scale == 1).all()
    assert not torch.isclose(model.head.linear.weight, old).any()


def test_another_head_keeps_the_standardisation_and_says_that_it_is_fresh(caplog):
    model = trained("linear").eval()
    scale = model.head.feature_scale.clone()
    with caplog.at_level(logging.WARNING):
        model.replace_head(["b", "new"], "mlp", layers=2, width=16, dropout=0.5)
    assert [record.getMessage() for record in caplog.records] == [
        "the new mlp head cannot continue the old one: it starts fresh for b"
    ]
    assert torch.equal(model.head.feature_scale, scale)
    assert model.config.head_args == {"layers": 2, "width": 16, "dropout": 0.5}
    assert not model.head.training  # as the model it is put in: no dropout in evaluation


def test_a_head_that_does_not_fit_leaves_the_model_as_it_was():
    with torch.device("meta"):
        model = start("linear", "pit_ti_224")
    with pytest.raises(HalflabelError, match="gives no single map"):
        model.replace_head(["x"], "csra")
    with pytest.raises(HalflabelError, match="takes no argument"):
        model.replace_head(["x"], "csra", depth=3)
    assert (model.config.head, model.config.label_space.names) == ("linear", tuple(NAMES))
    assert model.head.num_labels == 3


@pytest.mark.parametrize("head", HEAD_ARGS)
def test_rows_that_a_checkpoint_lacks_are_drawn_and_the_rest_is_loaded(head, tmp_path):
    """What the checkpoint holds of the head stays; without a draw the rest would be whatever was in memory."""
    model = trained(head)
    model.save_pretrained(tmp_path)
    keys = {**model.config.to_dict(), "id2label": None, "label2id": None, "label_names": ["v", "w", "x", "y", "z"]}
    config = TimmMultiLabelConfig(**keys)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path, config=config, ignore_mismatched_sizes=True)
    assert torch.equal(loaded.head.feature_scale, model.head.feature_scale)
    assert (loaded.head.label_bias == 0).all()
    last = loaded.head.weight if head in ("csra", "ml_decoder") else loaded.head.linear.weight
    assert 0.005 < last.std() < 0.025
    if head == "mlp":
        assert torch.equal(loaded.head.hidden[0].weight, model.head.hidden[0].weight)
        assert torch.equal(loaded.head.hidden[1].running_var, model.head.hidden[1].running_var)
    loaded.head.reset_parameters()  # what was loaded is kept in loading only
    assert (loaded.head.feature_scale == 1).all()


def test_labels_that_would_share_a_query_start_fresh_and_the_log_says_so(caplog):
    model = start("ml_decoder")
    model.replace_head(list("abcdef"), queries=3, width=32, feed_forward=32, heads=2)
    caplog.clear()
    old = model.head.weight.detach().clone()
    model.replace_head(list("fedcba"))  # pairs stay pairs
    assert torch.equal(model.head.weight, old.flip(0))
    assert not caplog.records
    model.replace_head(list("acbd"))
    assert "cannot continue the old one: it starts fresh for a, c, b, d" in caplog.text
    assert not torch.isin(model.head.weight, old).any()


def test_the_heads_travel_with_the_model(tmp_path):
    """A model saved with its code loads where halflabel is not installed."""
    code = (
        "import sys, torch\n"
        "sys.modules['halflabel'] = None\n"
        "from transformers import AutoModelForImageClassification\n"
        "folder = sys.argv[1]\n"
        "model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)\n"
        "with torch.no_grad():\n"
        "    torch.save(model(torch.load(folder + '/pixels.pt')).logits, folder + '/logits.pt')\n"
    )
    model, pixels = trained("ml_decoder"), torch.randn(2, 3, 64, 64)
    model.save_pretrained(tmp_path)
    torch.save(pixels, tmp_path / "pixels.pt")
    environment = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PATH": ""}
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr
    with torch.no_grad():
        assert_computed_alike(torch.load(tmp_path / "logits.pt"), model(pixels).logits)


def decided(model, thresholds):
    """Store thresholds as if they had been fitted."""
    rule = DecisionRule.plain(len(thresholds)).to_dict()
    model.config.decisions = {**rule, "thresholds": thresholds, "objective": "f1"}


def test_thresholds_follow_their_labels_to_a_new_head(caplog):
    model = TimmMultiLabelForImageClassification.from_backbone("test_resnet", list("abc"), weights=None)
    decided(model, [0.1, 0.2, 0.3])
    with caplog.at_level(logging.WARNING, "halflabel"):
        model.replace_head(["c", "new", "a"])
    assert model.config.decision_rule.thresholds == (0.3, 0.5, 0.1)
    assert "answered with yes from a score of 0.5: new" in caplog.text
    model.replace_head(["new"], keep=False)
    assert model.config.decisions is None


def test_thresholds_go_where_the_head_cannot_continue(caplog):
    args = {"queries": 2, "width": 32, "feed_forward": 32, "heads": 2}
    model = TimmMultiLabelForImageClassification.from_backbone(
        "test_resnet", list("abcd"), weights=None, head="ml_decoder", head_args=args
    )
    decided(model, [0.1, 0.2, 0.3, 0.4])
    with caplog.at_level(logging.WARNING, "halflabel"):
        model.replace_head(list("acbd"))  # labels of different queries would share one
    assert model.config.decisions is None
    assert "the decisions are dropped" in caplog.text


def on_device(model, device):
    """Put a model with tensors that hold nothing on a device that need not be there."""
    for module in model.modules():
        for name, value in [*module._parameters.items(), *module._buffers.items()]:
            if value is not None:
                empty = torch.empty(value.shape, dtype=value.dtype, device=device)
                if name in module._parameters:
                    empty = torch.nn.Parameter(empty, value.requires_grad)
                setattr(module, name, empty)
    return model


@pytest.mark.parametrize(
    ("head", "loss"), [*((head, "bce") for head in HEAD_ARGS), *(("linear", one) for one in LOSSES)]
)
def test_nothing_is_on_another_device_than_the_model(head, loss, monkeypatch):
    """Tensors of a GPU that need not be there, with and without autocast; backward on torch's device without memory.

    What depends on values (are the labels labels?) is taken for true.
    """
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda self: True)
    images, labels, weights = (4, 3, 64, 64), (4, 3), {"pos_weight": [1.0, 2.0, 3.0], "label_weight": [1.0, 1.0, 2.0]}
    model = start(head, loss=loss)
    with monkeypatch.context() as gpu, FakeTensorMode(), torch.no_grad():
        gpu.setattr(torch.cuda, "is_available", lambda: True)
        gpu.setattr(torch.cuda, "is_bf16_supported", lambda *args, **kwargs: True)
        gpu.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
        on_device(model, "cuda").train().epoch = 2
        for cast in (False, True):
            with torch.autocast("cuda", dtype=torch.bfloat16, enabled=cast):
                given = torch.empty(images, device="cuda")
                assert model.extract_features(given).dtype == (torch.bfloat16 if cast else torch.float32)
                known = torch.empty(labels, device="cuda")
                out = model(pixel_values=given, labels=known, num_items_in_batch=count_items(known, loss))
                assert model.sum_losses(out.logits, known).device.type == "cuda"  # what an evaluation adds up
            assert {out.loss.device.type, out.logits.device.type} == {"cuda"}
            assert {out.loss.dtype, out.logits.dtype} == {torch.float32}
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: self)
    model = start(head, loss=loss, **weights).to("meta").train()
    model.epoch = 2
    model(pixel_values=torch.empty(images, device="meta"), labels=torch.empty(labels, device="meta")).loss.backward()
    assert {weight.grad.device.type for weight in model.parameters()} == {"meta"}
