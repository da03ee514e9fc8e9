"""What every head promises, the formulas of each written out, and the check of a head's arguments."""

import math
import resource

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from halflabel.model.errors import HalflabelError, number
from halflabel.model.heads import CHUNK, HEADS, CsraHead, Head, LinearHead, MlDecoderHead, MlpHead, find_head
from halflabel.model.modeling_timm_multilabel import TimmMultiLabelForImageClassification, take_labels

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
    F.binary_cross_entropy_with_logits(head(features), labels).backward()
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
    kept = take_labels(new, old, [1, 4, None, 0, None])
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
        assert not take_labels(new, old, [0, 1, 2, 3, 4])
        assert torch.equal(new.feature_scale, old.feature_scale) is taken
    deeper = make("mlp_bare")
    assert not take_labels(deeper, make("mlp"), [0, 1, 2, 3, 4])


@pytest.mark.parametrize(("name", "args"), CASES.values(), ids=CASES)
def test_right_arguments_pass(name, args):
    find_head(name).check_arguments(args, name)
    find_head(name).check_arguments(None, name)


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
        ("ml_decoder", {"heads": 7, "width": 700, "feed_forward": 0}, "feed_forward is 0"),
        ("ml_decoder", {"in_features": 3}, "takes no argument 'in_features'"),
        ("mlp", [1], "head_args is \\[1\\], expected a mapping"),
    ],
)
def test_wrong_arguments_are_named(name, args, message):
    with pytest.raises(HalflabelError, match=message):
        find_head(name).check_arguments(args, name)


def test_a_width_that_the_heads_of_an_attention_cannot_share_is_refused():
    with pytest.raises(HalflabelError, match="ml_decoder: width is 100, expected a multiple of heads, which is 8"):
        MlDecoderHead(16, 2, width=100)


@pytest.fixture
def pooled() -> Head:
    return HEADS["linear"](3, 2)


@pytest.fixture
def positions() -> Head:
    return HEADS["csra"](3, 2)


def test_standardised_features_have_mean_zero_and_sd_one(pooled):
    features = torch.randn(500, 3) * torch.tensor([1.0, 20.0, 0.0]) + torch.tensor([5.0, -3.0, 2.0])
    pooled.standardize_(features)
    standardised = (features - pooled.feature_mean) / pooled.feature_scale
    torch.testing.assert_close(standardised.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(standardised.std(0, correction=0)[:2], torch.ones(2), atol=1e-4, rtol=0)
    assert pooled.feature_scale[2] == 1  # a constant feature is not divided by 0


def test_positions_count_like_images(positions):
    features = torch.randn(20, 7, 3) * torch.tensor([1.0, 20.0, 3.0]) + 4
    positions.standardize_(features)
    rows = features.double().reshape(-1, 3).numpy()
    np.testing.assert_allclose(positions.feature_mean, rows.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(positions.feature_scale, rows.std(axis=0), rtol=1e-6)


def test_many_chunks_give_the_numbers_of_one(pooled):
    """A large mean beside a small spread: sums of squares in float32 would lose it."""
    rows = CHUNK // 3 * 2 + 1001
    features = torch.randn(rows, 3, generator=torch.Generator().manual_seed(1)) * 0.1 + 1000
    features[: rows // 3] += 0.5
    pooled.standardize_(features)
    exact = features.double()
    torch.testing.assert_close(pooled.feature_mean.double(), exact.mean(0), rtol=1e-7, atol=0)
    torch.testing.assert_close(pooled.feature_scale.double(), exact.std(0, correction=0), rtol=1e-6, atol=0)


def test_memory_mapped_half_precision_features(positions, tmp_path):
    values = np.random.default_rng(0).normal(3, 2, (50, 4, 3)).astype(np.float16)
    np.save(tmp_path / "features.npy", values)
    mapped = torch.from_numpy(np.load(tmp_path / "features.npy", mmap_mode="r+"))
    positions.standardize_(mapped)
    rows = values.astype(np.float64).reshape(-1, 3)
    np.testing.assert_allclose(positions.feature_mean, rows.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(positions.feature_scale, rows.std(axis=0), rtol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_features_that_are_no_numbers_are_refused(pooled, bad):
    features = torch.randn(5, 3)
    features[2, 1] = bad
    with pytest.raises(HalflabelError, match="not finite"):
        pooled.standardize_(features)
    assert (pooled.feature_mean == 0).all()


def test_no_features_at_all_are_refused(pooled):
    with pytest.raises(HalflabelError, match="no features"):
        pooled.standardize_(torch.empty(0, 3))


def test_features_of_another_width_are_refused(pooled, positions):
    with pytest.raises(HalflabelError, match=r"LinearHead takes features of shape \(images, 3\), got \(5, 4\)"):
        pooled.standardize_(torch.randn(5, 4))
    with pytest.raises(
        HalflabelError, match=r"CsraHead takes features of shape \(images, positions, 3\), got \(5, 3\)"
    ):
        positions.standardize_(torch.randn(5, 3))


def test_linear_is_a_matrix_on_standardised_features():
    head = LinearHead(4, 3)
    features = torch.randn(8, 4) * 5 + 2
    head.standardize_(features)
    x = (features - features.mean(0)) / features.std(0, correction=0)
    torch.testing.assert_close(head(features), x @ head.linear.weight.T + head.linear.bias)


@pytest.mark.parametrize("kind", [LinearHead, MlpHead])
def test_a_power_is_taken_before_features_are_standardised(kind):
    head = kind(4, 3, power=0.5).eval()
    features = torch.randn(8, 4) * 5
    features[0, 0] = 0.0
    roots = torch.where(features < 0, -(-features).clamp(min=0).sqrt(), features.clamp(min=0).sqrt())
    plain = kind(4, 3).eval()
    head.standardize_(features)
    plain.standardize_(roots)
    plain.load_state_dict({**head.state_dict(), **{k: v for k, v in plain.state_dict().items() if "feature" in k}})
    torch.testing.assert_close(head(features), plain(roots))


def test_a_head_of_another_power_takes_over_nothing():
    old, new = LinearHead(4, 3), LinearHead(4, 3, power=0.5)
    old.standardize_(torch.randn(8, 4) * 5 + 2)
    before = {key: value.clone() for key, value in new.state_dict().items()}
    assert not take_labels(new, old, [0, 1, 2])
    assert all(torch.equal(value, before[key]) for key, value in new.state_dict().items())


def test_the_bias_starts_at_the_known_log_odds():
    head = LinearHead(4, 3)
    head.set_prior_(torch.tensor([9, 0, 0]), torch.tensor([18, 8, 0]))
    expected = torch.tensor([10 / 20, 1 / 10, 1 / 2]).logit()
    torch.testing.assert_close(head.linear.bias.detach(), expected)


def test_mlp_is_layers_of_linear_norm_activation():
    head = MlpHead(4, 3, layers=2, width=6, dropout=0.5, norm="layer", activation="relu").eval()
    x = torch.randn(8, 4)
    state = [head.get_parameter(name) for name, _ in head.named_parameters()]
    assert len(state) == 2 * 4 + 2  # weight and bias of each layer and of its norm; the last layer
    w1, b1, g1, s1, w2, b2, g2, s2, w3, b3 = state
    h = F.relu(F.layer_norm(x @ w1.T + b1, (6,), g1, s1))
    h = F.relu(F.layer_norm(h @ w2.T + b2, (6,), g2, s2))
    torch.testing.assert_close(head(x), h @ w3.T + b3)


def test_dropout_acts_in_training_only():
    head = MlpHead(4, 3, dropout=0.5)
    x = torch.randn(8, 4)
    assert not torch.equal(head(x), head(x))
    head.eval()
    assert torch.equal(head(x), head(x))


def test_batch_norm_of_one_image_uses_the_running_statistics():
    """The last batch of an epoch may hold one image, which has no spread of its own."""
    head = MlpHead(4, 3, width=8, dropout=0.0, norm="batch")
    for _ in range(50):
        head(torch.randn(16, 4) * 3 + 1)
    before = {key: value.clone() for key, value in head.state_dict().items()}
    one = torch.randn(1, 4)
    assert torch.equal(head(one), head.eval()(one))
    assert all(torch.equal(value, before[key]) for key, value in head.state_dict().items())


def randomised(head):
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_()
    return head.double().eval()


def array(tensor):
    return tensor.detach().numpy()


def csra_by_hand(x, weight, bias, temperatures, lam):
    images, positions, _ = x.shape
    heads, labels, _ = weight.shape
    logits = np.zeros((images, labels))
    for b in range(images):
        for i in range(labels):
            logits[b, i] = bias[i]
            for h in range(heads):
                scores = [float(weight[h, i] @ x[b, j]) for j in range(positions)]
                base = sum(scores) / positions
                if temperatures[h] == "max":
                    attended = max(scores)
                else:
                    powers = [math.exp(temperatures[h] * score) for score in scores]
                    attended = sum(p * s for p, s in zip(powers, scores, strict=True)) / sum(powers)
                logits[b, i] += base + lam * attended
    return logits


@pytest.mark.parametrize("temperatures", [[1], [0.5, 3, "max"], ["max"]])
def test_csra_is_the_formula_of_the_paper(temperatures):
    head = randomised(CsraHead(5, 3, temperatures=temperatures, lam=0.7))
    x = torch.randn(4, 6, 5, dtype=torch.float64)
    assert head.weight.shape == (len(temperatures), 3, 5)
    expected = csra_by_hand(array(x), array(head.weight), array(head.bias), temperatures, 0.7)
    np.testing.assert_allclose(array(head(x)), expected, rtol=1e-12, atol=1e-12)


def test_csra_without_attention_is_linear_on_the_mean_position():
    head = randomised(CsraHead(5, 3, lam=0))
    x = torch.randn(4, 6, 5, dtype=torch.float64)
    torch.testing.assert_close(head(x), x.mean(1) @ head.weight[0].T + head.bias)


def test_csra_high_temperature_tends_to_the_maximum():
    sharp, highest = CsraHead(5, 3, temperatures=[1e4]), CsraHead(5, 3, temperatures=["max"])
    highest.load_state_dict(randomised(sharp).state_dict())
    x = torch.randn(4, 6, 5, dtype=torch.float64)
    torch.testing.assert_close(sharp(x), highest.double()(x), rtol=0, atol=1e-4)


def layer_norm(v, norm):
    return (v - v.mean()) / math.sqrt(v.var() + norm.eps) * array(norm.weight) + array(norm.bias)


def affine(v, layer):
    return array(layer.weight) @ v + (0 if layer.bias is None else array(layer.bias))


def ml_decoder_by_hand(head, x, heads, group_size):
    """One image: a query per group attends to the positions; the label's own vector reads its group's answer."""
    memory = [np.maximum(affine(position, head.embed), 0) for position in x]
    width = len(memory[0])
    part = width // heads
    answers = []
    for query in array(head.queries):
        q = affine(query, head.query)
        attended = np.zeros(width)
        for a in range(heads):
            place = slice(a * part, (a + 1) * part)
            scores = [float(q[place] @ affine(m, head.key)[place]) / math.sqrt(part) for m in memory]
            powers = [math.exp(score) for score in scores]
            for power, m in zip(powers, memory, strict=True):
                attended[place] += power / sum(powers) * affine(m, head.value)[place]
        h = layer_norm(query + affine(attended, head.out), head.attention_norm)
        answers.append(layer_norm(h + affine(np.maximum(affine(h, head.expand), 0), head.contract), head.feed_norm))
    weight, bias = array(head.weight), array(head.bias)
    return [float(weight[i] @ answers[i // group_size]) + bias[i] for i in range(len(weight))]


@pytest.mark.parametrize(("labels", "queries", "used"), [(3, 100, 3), (7, 3, 3), (9, 4, 3), (6, 3, 3), (5, 1, 1)])
@pytest.mark.parametrize("learn", [False, True])
def test_ml_decoder_is_the_formula_of_the_paper(labels, queries, used, learn):
    head = randomised(MlDecoderHead(5, labels, queries=queries, width=8, feed_forward=6, heads=2, learn_queries=learn))
    assert head.queries.shape == (used, 8)  # no query without labels
    x = torch.randn(2, 4, 5, dtype=torch.float64)
    expected = [ml_decoder_by_hand(head, array(image), 2, math.ceil(labels / used)) for image in x]
    np.testing.assert_allclose(array(head(x)), expected, rtol=1e-10, atol=1e-10)


def test_ml_decoder_queries_are_fixed_or_learned():
    for learn in (False, True):
        head = MlDecoderHead(5, 3, width=8, feed_forward=6, heads=2, learn_queries=learn)
        assert ("queries" in dict(head.named_parameters())) is learn
        assert "queries" in head.state_dict()


def test_ml_decoder_labels_appended_to_a_group_keep_the_others():
    """Labels 0, 1 | 2, 3 | 4 of five on three queries; a sixth joins the last group."""
    settings = {"queries": 3, "width": 8, "feed_forward": 6, "heads": 2}
    old = randomised(MlDecoderHead(5, 5, **settings)).float()
    new = MlDecoderHead(5, 6, **settings).eval()
    assert take_labels(new, old, [0, 1, 2, 3, 4, None])
    x = torch.randn(4, 6, 5)
    torch.testing.assert_close(new(x)[:, :5], old(x), rtol=1e-6, atol=1e-6)
    larger = MlDecoderHead(5, 7, **settings)  # three labels a query: 2 would join 0 and 1
    assert not take_labels(larger, old, [0, 1, 2, 3, 4, None, None])


def test_ml_decoder_answers_ten_thousand_labels():
    head = MlDecoderHead(64, 10_000, width=256, feed_forward=512)
    assert head.queries.shape == (100, 256)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    logits = head(torch.randn(8, 49, 64))
    assert logits.shape == (8, 10_000)
    F.binary_cross_entropy_with_logits(logits, torch.zeros_like(logits)).backward()
    assert (head.weight.grad.abs().amax(1) > 0).all()
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20 < 2  # KiB -> GiB


def test_a_head_of_ones_own_is_one_class(monkeypatch):
    """Its class and its name are all: it is built, checked, standardised, saved and grown like the others."""

    class ScaledHead(LinearHead):
        arguments = {**LinearHead.arguments, "factor": number(0, above=True)}

        def __init__(self, in_features, num_labels, power=1.0, factor=1.0):
            super().__init__(in_features, num_labels, power)
            self.factor = factor

        def compute_logits(self, features):
            return self.factor * super().compute_logits(features)

    monkeypatch.setitem(HEADS, "scaled", ScaledHead)
    with pytest.raises(HalflabelError, match="head 'scaled': factor is 0, expected a number above 0"):
        find_head("scaled").check_arguments({"factor": 0}, "scaled")
    model = TimmMultiLabelForImageClassification.from_backbone(
        "test_resnet", ["a", "b"], weights=None, head="scaled", head_args={"factor": 3.0}
    )
    features = torch.randn(4, model.head.in_features)
    expected = 3 * (features @ model.head.linear.weight.T + model.head.linear.bias)
    torch.testing.assert_close(model(features=features).logits, expected)
    model.replace_head(["b", "c"])
    torch.testing.assert_close(model(features=features).logits[:, 0], expected[:, 1])
