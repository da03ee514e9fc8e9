"""Against torch, torchvision, timm and mlcpl, in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from timm.loss import AsymmetricLossMultiLabel
from torchvision.ops import sigmoid_focal_loss

from halflabel.model.known_losses import TANGENT_START, asl, bce, focal

CASES = {
    "bce": (bce, {}),
    "smoothed bce": (bce, {"label_smoothing": 0.1}),
    "focal": (focal, {"gamma": 2.0, "alpha": 0.25}),
    "asl": (asl, {}),
    "asl without clip": (asl, {"clip": 0.0, "gamma_neg": 2.0}),
    "asl with a root": (asl, {"gamma_neg": 0.5, "gamma_pos": 0.0}),
}


def complete(seed=0, reach=12.0):
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.rand(9, 7, generator=generator, dtype=torch.float64) * 2 - 1) * reach
    return logits, torch.randint(0, 2, (9, 7), generator=generator).double()


def value_and_gradient(function, logits):
    leaf = logits.clone().requires_grad_()
    value = function(leaf).sum()
    value.backward()
    return value.detach(), leaf.grad


def assert_same(ours, theirs, logits):
    for mine, other in zip(value_and_gradient(ours, logits), value_and_gradient(theirs, logits), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_bce_is_torchs(weighted):
    logits, targets = complete()
    targets = targets * 0.8 + 0.1  # soft ones too
    weight = torch.linspace(0.5, 4, 7, dtype=torch.float64) if weighted else None
    theirs = lambda z: F.binary_cross_entropy_with_logits(z, targets, pos_weight=weight, reduction="none")  # noqa: E731
    assert_same(lambda z: bce(z, targets, weight), theirs, logits)


def test_label_smoothing_moves_both_targets_by_half():
    logits, targets = complete()
    smoothed = targets * 0.9 + 0.05
    assert_same(lambda z: bce(z, targets, label_smoothing=0.1), lambda z: bce(z, smoothed), logits)


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (0.5, 0.7), (3.0, -1)])
def test_focal_is_torchvisions(gamma, alpha):
    logits, targets = complete()
    ours = lambda z: focal(z, targets, gamma=gamma, alpha=None if alpha < 0 else alpha)  # noqa: E731
    assert_same(ours, lambda z: sigmoid_focal_loss(z, targets, alpha=alpha, gamma=gamma), logits)


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize(("gamma_pos", "gamma_neg", "clip"), [(1, 4, 0.05), (0, 2, 0.2), (2, 3, 0.0)])
def test_asl_is_timms(gamma_pos, gamma_neg, clip, detach, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # timm rounds to float32 otherwise
    logits, targets = complete(1)
    theirs = AsymmetricLossMultiLabel(gamma_neg, gamma_pos, clip, disable_torch_grad_focal_loss=detach, reduction="sum")
    ours = lambda z: asl(z, targets, None, gamma_pos, gamma_neg, clip, detach)  # noqa: E731
    assert_same(ours, lambda z: theirs(z, targets), logits)


@pytest.mark.parametrize("name", CASES)
def test_pos_weight_multiplies_the_positive_term_alone(name):
    function, arguments = CASES[name]
    arguments = {key: value for key, value in arguments.items() if key != "label_smoothing"}
    logits, targets = complete(2)
    weight = torch.linspace(0.5, 4, 7, dtype=torch.float64)
    plain = function(logits, targets, **arguments)
    weighted = function(logits, targets, weight, **arguments)
    torch.testing.assert_close(weighted, torch.where(targets == 1, plain * weight, plain))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("size", [10.0, 30.0, 1e4, 6e4])
def test_any_logit_gives_finite_numbers_and_a_wrong_one_learns(name, size):
    function, arguments = CASES[name]
    logits = torch.tensor([[size, -size]] * 2, requires_grad=True)
    targets = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    entries = function(logits, targets, **arguments)
    entries.sum().backward()
    assert entries.isfinite().all()
    assert logits.grad.isfinite().all()
    assert logits.grad[0, 0] > 0  # a no that is taken for a yes
    assert logits.grad[0, 1] < 0


def test_at_zero_the_gradient_is_half_the_error():
    """A fresh head gives logits of exactly 0."""
    logits = torch.zeros(1, 2, requires_grad=True)
    bce(logits, torch.tensor([[1.0, 0.0]])).sum().backward()
    assert logits.grad.tolist() == [[-0.5, 0.5]]


def test_beyond_the_tangents_start_the_negative_term_is_its_tangent():
    step = 1e-4
    at = torch.tensor([[TANGENT_START - step, TANGENT_START]], dtype=torch.float64)
    before, start = asl(at, torch.zeros(1, 2, dtype=torch.float64))[0].tolist()
    far = asl(at + 100, torch.zeros(1, 2, dtype=torch.float64))[0, 1].item()
    assert (far - start) / 100 == pytest.approx((start - before) / step, rel=1e-3)


def test_each_loss_is_smooth_where_gradcheck_looks():
    logits, targets = complete(3, reach=3.0)
    logits.requires_grad_()
    for function, arguments in CASES.values():
        if arguments.get("gamma_neg") != 0.5:  # its derivative is unbounded at the clip
            assert torch.autograd.gradcheck(lambda z, f=function, a=arguments: f(z, targets, **a), logits)


@pytest.mark.parametrize("seed", range(3))
def test_partial_labels_as_mlcpl_has_them(seed):
    losses = pytest.importorskip("mlcpl.losses", reason="needs mlcpl: pip install -e '.[oracles]'")
    from halflabel import IGNORE_INDEX, masked_loss

    logits, targets = complete(seed)
    unknown = torch.rand(targets.shape, generator=torch.Generator().manual_seed(seed)) < 0.6
    labels, theirs = targets.masked_fill(unknown, IGNORE_INDEX), targets.masked_fill(unknown, math.nan)
    pairs = [
        ("bce", {}, losses.PartialBCEWithLogitLoss()),
        ("focal", {"gamma": 2.0}, losses.PartialFocalWithLogitLoss(gamma=2, discard_focal_grad=False)),
        ("focal", {"gamma": 1.0, "alpha": 0.3},
         losses.PartialFocalWithLogitLoss(gamma=1, alpha_pos=0.3, alpha_neg=0.7, discard_focal_grad=False)),
    ]  # fmt: skip
    for detach in (False, True):
        other = losses.PartialAsymmetricWithLogitLoss(clip=0.05, gamma_pos=1, gamma_neg=4, discard_focal_grad=detach)
        pairs.append(("asl", {"detach_focus": detach}, other))
    for name, arguments, other in pairs:
        ours = lambda z, n=name, a=arguments: masked_loss(z, labels, n, **a)  # noqa: E731
        assert_same(ours, lambda z, o=other: o(z, theirs), logits)
