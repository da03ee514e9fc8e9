"""What every head promises, and the check of a head's arguments."""

import pytest
import torch

from halflabel.model.errors import HalflabelError
from halflabel.model.heads import HEADS, check_head

SMALL = {"width": 16, "feed_forward": 32, "heads": 2}
CASES = {
    "linear": ("linear", {}),
    "mlp": ("mlp", {"width": 16, "dropout": 0.2}),
    "mlp_deep": ("mlp", {"width": 16, "layers": 3, "norm": "batch", "activation": "relu"}),
    "mlp_bare": ("mlp", {"width": 16, "layers": 2, "norm": "none", "activation": "silu"}),
    "csra": ("csra", {}),
    "csra_many": ("csra", {"temperatures": [1, 2.5, "max"], "lam": 0.5}),
    "ml_decoder": ("ml_decoder", {**SMALL, "queries": 2}),
    "ml_decoder_learned": ("ml_decoder", {**SMALL, "learn_queries": True}),
}


def make(case, width=12, labels=5):
    name, args = CASES[case]
    return HEADS[name](width, labels, **args)


def features_for(head, images=6, scale=1.0, dtype=torch.float32):
    shape = (images, 12) if head.consumes == "pooled" else (images, 9, 12)
    return (torch.randn(shape) * scale).to(dtype)


@pytest.fixture(params=CASES)
def case(request):
    return request.param


@pytest.fixture
def head(case):
    return make(case)


def test_every_kind_of_head_is_covered():
    assert {name for name, _ in CASES.values()} == set(HEADS)


def test_logits_have_a_column_per_label(head):
    assert head(features_for(head)).shape == (6, 5)
    assert head.eval()(features_for(head, images=1)).shape == (1, 5)


def test_one_image_can_be_trained_on(head):
    assert torch.isfinite(head.train()(features_for(head, images=1))).all()


def test_features_of_another_form_are_refused(head):
    for wrong in (torch.randn(6, 2, 2, 12), torch.randn(6, 12 if head.consumes != "pooled" else 11)):
        with pytest.raises(HalflabelError, match="takes features of shape .*12"):
            head(wrong)


def test_the_state_holds_everything(head, case):
    head.standardize_(features_for(head, scale=3.0))
    other = make(case)
    other.load_state_dict(head.state_dict())
    features = features_for(head)
    assert torch.equal(other.eval()(features), head.eval()(features))


def test_gradients_reach_every_parameter(head):
    head.train()
    labels, features = torch.randint(0, 2, (6, 5)).float(), features_for(head)
    torch.nn.functional.binary_cross_entropy_with_logits(head(features), labels).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 1e-9, name


def test_gradients_reach_the_features(head):
    features = features_for(head).requires_grad_()
    head(features).square().sum().backward()
    assert features.grad.abs().max() > 0


def test_an_export_leaves_the_number_of_images_free(head):
    images = torch.export.Dim("images", min=1, max=64)
    with torch.no_grad():
        exported = torch.export.export(head.eval(), (features_for(head),), dynamic_shapes=({0: images},))
        features = features_for(head, images=9)
        torch.testing.assert_close(exported.module()(features), head(features))


def test_float16_features_are_taken(head):
    head.eval()
    features = features_for(head, dtype=torch.float16)
    assert torch.equal(head(features), head(features.float()))
    assert head(features).dtype == torch.float32
    assert torch.isfinite(head.half()(features)).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_with_large_features_gives_no_nan(head, dtype):
    """A head computes in its own precision: products of such features overflow float16."""
    features = features_for(head, scale=6e4)
    with torch.autocast("cpu", dtype=dtype):
        logits = head(features)
    logits.sum().backward()
    assert torch.isfinite(logits).all()
    assert all(torch.isfinite(parameter.grad).all() for parameter in head.parameters())
    plain = head.eval()(features)
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(head(features), plain)


def test_logits_start_near_the_log_odds(head):
    """On average over the training features; exactly where the features are their mean."""
    features = features_for(head, images=400, scale=5.0) + 3
    head.standardize_(features)
    positive, known = torch.tensor([9, 0, 0, 99, 1]), torch.tensor([18, 8, 0, 100, 1000])
    head.set_prior_(positive, known)
    expected = ((positive + 1) / (known + 2)).logit()
    with torch.no_grad():
        logits = head.eval()(features)
    torch.testing.assert_close(logits.mean(0), expected, atol=0.25, rtol=0)
    if head.consumes == "pooled":
        torch.testing.assert_close(head(head.feature_mean[None])[0], expected, atol=1e-5, rtol=0)


def test_fresh_again_after_a_reset(head, case):
    features = features_for(head)
    head.standardize_(features * 7 + 1)
    head.set_prior_(torch.ones(5), torch.full((5,), 30))
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.fill_(3.0)
    head.train()(features)  # moves running means where there are any
    head.reset_parameters()
    assert (head.feature_mean == 0).all()
    assert (head.feature_scale == 1).all()
    fresh = make(case)  # the same zeros and ones, other draws
    for (name, value), other in zip(head.state_dict().items(), fresh.state_dict().values(), strict=True):
        if torch.unique(other).numel() == 1:
            assert torch.equal(value, other), name
        else:
            assert 0.3 < value.std() / other.std() < 3, name
    assert head.eval()(features).abs().max() < 2


def test_labels_keep_their_rows(head, case):
    """The old labels 1, 4 and 0 come back at places 0, 1 and 3; two labels are new."""
    old = head.eval()
    old.standardize_(features_for(old, scale=3.0))
    with torch.no_grad():
        for parameter in old.parameters():
            parameter.normal_()
    new = make(case, labels=5).eval()
    kept = new.take_labels_(old, [1, 4, None, 0, None])
    if case == "ml_decoder":  # two queries: labels 1 and 4 had different ones, and would share one
        assert not kept
        assert torch.equal(new.feature_scale, old.feature_scale)
        return
    assert kept
    features = features_for(old)
    with torch.no_grad():
        before, after = old(features), new(features)
    torch.testing.assert_close(after[:, [0, 1, 3]], before[:, [1, 4, 0]], rtol=1e-5, atol=1e-5)
    assert after[:, 2].abs().max() < 1 + before.abs().max()
    assert not torch.allclose(after[:, 2], before[:, 2])


def test_another_kind_of_head_takes_only_the_standardisation():
    old = make("linear")
    old.standardize_(torch.randn(9, 12) * 4 + 1)
    for case, taken in (("mlp", True), ("csra", False)):
        new = make(case)
        assert not new.take_labels_(old, [0, 1, 2, 3, 4])
        assert torch.equal(new.feature_scale, old.feature_scale) is taken
    deeper = make("mlp_bare")
    assert not deeper.take_labels_(make("mlp"), [0, 1, 2, 3, 4])


@pytest.mark.parametrize(("name", "args"), CASES.values(), ids=CASES)
def test_right_arguments_pass(name, args):
    check_head(name, args)
    check_head(name)


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("linaer", {}, "unknown head 'linaer'.*did you mean linear"),
        ("linear", {"depth": 2}, "head 'linear' takes no argument 'depth'; it takes power"),
        ("mlp", {"layer": 2}, "head 'mlp' takes no argument 'layer'; it takes layers, .*did you mean layers"),
        ("mlp", {"layers": 0}, "head 'mlp': layers is 0, expected a whole number of at least 1"),
        ("mlp", {"layers": 1.5}, "layers is 1.5, expected a whole number"),
        ("mlp", {"layers": True}, "layers is True, expected a whole number"),
        ("mlp", {"width": "512"}, "width is '512', expected a whole number of at least 1"),
        ("mlp", {"dropout": 1.0}, "head 'mlp': dropout is 1.0, expected a number of at least 0 and below 1"),
        ("mlp", {"dropout": float("nan")}, "dropout is nan, expected a number"),
        ("mlp", {"norm": "layr"}, "norm is 'layr', expected layer, batch or none; did you mean layer"),
        ("mlp", {"norm": None}, "norm is None, expected layer, batch or none"),
        ("mlp", {"activation": "gelo"}, "activation is 'gelo', expected gelu, relu or silu; did you mean gelu"),
        ("csra", {"lambda": 1}, "takes no argument 'lambda'; it takes temperatures, lam"),
        ("csra", {"lam": -0.1}, "head 'csra': lam is -0.1, expected a number of at least 0"),
        ("csra", {"lam": float("inf")}, "lam is inf"),
        ("csra", {"temperatures": []}, "temperatures is \\[\\], expected a list"),
        ("csra", {"temperatures": 2}, "temperatures is 2, expected a list of numbers above 0 or 'max'"),
        ("csra", {"temperatures": [1, 0]}, "temperatures is \\[1, 0\\]"),
        ("csra", {"temperatures": "max"}, "temperatures is 'max'"),
        ("ml_decoder", {"queries": 0}, "head 'ml_decoder': queries is 0, expected a whole number of at least 1"),
        ("ml_decoder", {"learn_queries": 1}, "learn_queries is 1, expected true or false"),
        ("ml_decoder", {"width": 100}, "head 'ml_decoder': width is 100, expected a multiple of heads, which is 8"),
        ("ml_decoder", {"heads": 7, "width": 700, "feed_forward": 0}, "feed_forward is 0"),
        ("ml_decoder", {"in_features": 3}, "takes no argument 'in_features'"),
        ("mlp", [1], "head_args is \\[1\\], expected a mapping"),
    ],
)
def test_wrong_arguments_are_named(name, args, message):
    with pytest.raises(HalflabelError, match=message):
        check_head(name, args)
