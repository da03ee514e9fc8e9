"""Each loss: against torch, torchvision, timm and mlcpl, and explicit loops, in float64."""

import inspect
import math

import pytest
import torch
import torch.nn.functional as F
from timm.loss import AsymmetricLossMultiLabel
from torchvision.ops import sigmoid_focal_loss

from halflabel import IGNORE_INDEX, UNCERTAIN, HalflabelError, masked_loss
from halflabel.model.losses import (
    LOSSES,
    TANGENT_START,
    Loss,
    asl,
    bce,
    em,
    find_loss,
    focal,
    ll_ct,
    ll_r,
    selective,
    splc,
    wan,
)

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


def partial(seed=0, rows=8, columns=6):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, columns, generator=generator, dtype=torch.float64) * 3
    labels = torch.randint(0, 2, (rows, columns), generator=generator).double()
    labels[torch.rand(rows, columns, generator=generator) < 0.6] = IGNORE_INDEX
    return logits, labels


def by_loops(logits, labels, unknown_cost):
    """-log p or -log(1-p) where known, `unknown_cost(i, j, p)` elsewhere."""
    rows, columns = logits.shape
    out = torch.zeros(rows, columns, dtype=torch.float64)
    for i in range(rows):
        for j in range(columns):
            p = 1 / (1 + math.exp(-logits[i, j].item()))
            y = labels[i, j].item()
            out[i, j] = unknown_cost(i, j, p) if y == IGNORE_INDEX else -math.log(p if y == 1 else 1 - p)
    return out


def largest_unknown(logits, labels, k):
    places = [(i, j) for i in range(len(logits)) for j in range(logits.shape[1]) if labels[i, j] == IGNORE_INDEX]
    return set(sorted(places, key=lambda place: -logits[place].item())[:k])


@pytest.mark.parametrize("seed", range(3))
def test_wan_weights_assumed_negatives(seed):
    logits, labels = partial(seed)
    expected = by_loops(logits, labels, lambda i, j, p: -math.log(1 - p) / 5)  # six labels
    torch.testing.assert_close(wan(logits, labels), expected)
    torch.testing.assert_close(wan(logits, labels, weight=0.3),
                               by_loops(logits, labels, lambda i, j, p: -0.3 * math.log(1 - p)))  # fmt: skip
    assert wan(logits[:, :1], labels[:, :1]).isfinite().all()  # one label: 1 / 0


@pytest.mark.parametrize("seed", range(3))
def test_em_rewards_entropy(seed):
    logits, labels = partial(seed)
    expected = by_loops(logits, labels, lambda i, j, p: 0.2 * (p * math.log(p) + (1 - p) * math.log(1 - p)))
    torch.testing.assert_close(em(logits, labels, alpha=0.2), expected)


@pytest.mark.parametrize("seed", range(3))
def test_splc_takes_likely_unknowns_for_positive_after_the_first_epoch(seed):
    logits, labels = partial(seed)
    first = by_loops(logits, labels, lambda i, j, p: -math.log(1 - p))
    later = by_loops(logits, labels, lambda i, j, p: -math.log(p) if p > 0.7 else -math.log(1 - p))
    torch.testing.assert_close(splc(logits, labels, epoch=0, threshold=0.7), first)
    torch.testing.assert_close(splc(logits, labels, epoch=1, threshold=0.7), later)
    assert not torch.allclose(first, later)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("epoch", [0, 1, 3, 500])
def test_large_losses_are_rejected_or_flipped_among_unknown_entries(seed, epoch):
    logits, labels = partial(seed)
    logits[0] = 9.0
    labels[0, :3] = 0.0  # known negatives with the largest losses of all: they must stay
    unknown = int((labels == IGNORE_INDEX).sum())
    chosen = largest_unknown(logits, labels, min(math.ceil(0.05 * epoch * unknown), unknown))
    rejected = by_loops(logits, labels, lambda i, j, p: 0.0 if (i, j) in chosen else -math.log(1 - p))
    flipped = by_loops(logits, labels, lambda i, j, p: -math.log(p if (i, j) in chosen else 1 - p))
    torch.testing.assert_close(ll_r(logits, labels, epoch=epoch, delta=0.05), rejected)
    torch.testing.assert_close(ll_ct(logits, labels, epoch=epoch, delta=0.05), flipped)
    assert (rejected == 0).sum() == len(chosen)


@pytest.mark.parametrize("seed", range(3))
def test_selective_ignores_common_labels_and_likely_entries(seed):
    logits, labels = partial(seed)
    prior = [0.9, 0.01, 0.2, 0.0, 0.5, 0.04]
    likely = largest_unknown(logits, labels, 8)  # topk 1 times 8 images

    def cost(i, j, p):
        return 0.0 if prior[j] > 0.3 or (i, j) in likely else -(p**2) * math.log(1 - p)

    expected = by_loops(logits, labels, cost)
    known_negative = labels == 0
    p = logits.sigmoid()
    expected = torch.where(known_negative, p * expected, expected)  # gamma_neg 1
    entries = selective(logits, labels, gamma_unknown=2.0, prior=prior, prior_threshold=0.3, topk=1)
    torch.testing.assert_close(entries, expected)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("topk", [0, 1, 3])
def test_selective_is_mlcpls(seed, topk):
    losses = pytest.importorskip("mlcpl.losses", reason="needs mlcpl: pip install -e '.[oracles]'")
    logits, labels = partial(seed, 10, 7)
    prior = torch.rand(7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 0.2
    theirs = losses.PartialSelectiveAsymmetricWithLogitLoss(
        clip=0.05, gamma_pos=1, gamma_neg=3, discard_focal_grad=True, label_priors=prior, likelihood_topk=topk,
        prior_threshold=0.1, reduction="none",
    )  # fmt: skip
    nan_labels = torch.where(labels == IGNORE_INDEX, math.nan, labels)
    leaves = [logits.clone().requires_grad_() for _ in range(2)]
    ours = selective(leaves[0], labels, gamma_pos=1, gamma_neg=3, clip=0.05, prior=prior.tolist(), prior_threshold=0.1,
                     topk=topk, detach_focus=True)  # fmt: skip
    other = theirs(leaves[1], nan_labels)
    torch.testing.assert_close(ours, other, rtol=1e-5, atol=1e-12)
    ours.sum().backward()
    other.sum().backward()
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("loss", [name for name, loss in LOSSES.items() if loss.uses_unknown])
def test_known_negatives_and_uncertain_entries_are_left_alone(loss):
    """With nothing unknown each is the plain loss; an uncertain entry costs nothing and counts for nothing."""
    logits, labels = partial(5)
    labels = torch.where(labels == IGNORE_INDEX, 0.0, labels)
    base = ("asl", {"gamma_pos": 0.0, "gamma_neg": 1.0, "clip": 0.0}) if loss == "selective" else ("bce", {})
    whole = masked_loss(logits, labels, loss, epoch=400)
    torch.testing.assert_close(whole, masked_loss(logits, labels, base[0], **base[1]))
    without = masked_loss(logits[1:], labels[1:], loss, epoch=400)
    labels[0] = UNCERTAIN
    changed = logits.clone()
    changed[0] = 50.0
    torch.testing.assert_close(masked_loss(changed, labels, loss, epoch=400), without)


@pytest.mark.parametrize("loss", [name for name, loss in LOSSES.items() if loss.uses_unknown])
@pytest.mark.parametrize("fill", [IGNORE_INDEX, UNCERTAIN])
@pytest.mark.parametrize("size", [0.0, 30.0, -1e4, 6e4])
def test_nothing_known_stays_finite(loss, fill, size):
    logits = torch.full((3, 4), size, requires_grad=True)
    value = masked_loss(logits, torch.full((3, 4), float(fill)), loss, epoch=3)
    value.backward()
    assert value.isfinite()
    assert logits.grad.isfinite().all()
    if fill == UNCERTAIN:
        assert value == 0
        assert (logits.grad == 0).all()


@pytest.mark.parametrize(
    ("loss", "arguments", "message"),
    [
        ("bcee", {}, "unknown loss 'bcee'; it is one of bce, focal.*did you mean bce"),
        ("asl", {"gama_neg": 2}, "takes no argument 'gama_neg'; it takes gamma_pos, gamma_neg.*did you mean gamma_neg"),
        ("bce", {"epoch": 2}, "takes no argument 'epoch'"),
        ("bce", {"label_smoothing": 1.0}, r"label_smoothing is 1\.0, expected a number of at least 0 and below 1"),
        ("focal", {"gamma": -1}, "gamma is -1"),
        ("focal", {"alpha": "x"}, "alpha is 'x'"),
        ("asl", {"clip": True}, "clip is True"),
        ("asl", {"detach_focus": 1}, "true or false"),
        ("selective", {"topk": 1.5}, "whole number"),
        ("selective", {"prior": [0.1]}, "a list of 2 numbers"),
        ("selective", {"prior": [0.1, 2]}, "from 0 to 1"),
        ("splc", {"threshold": float("nan")}, "threshold is nan"),
    ],
)
def test_faults_are_named(loss, arguments, message):
    with pytest.raises(HalflabelError, match=message):
        find_loss(loss).check(loss, arguments, 2)


def test_the_defaults_of_every_loss_are_in_range():
    for name, loss in LOSSES.items():
        defaults = {key: p.default for key, p in inspect.signature(loss.function).parameters.items()
                    if key not in ("logits", "targets", "pos_weight", "epoch")}  # fmt: skip
        assert loss.arguments.keys() == defaults.keys()
        loss.check(name, defaults, 2)


def test_a_loss_of_ones_own_is_one_record(monkeypatch):
    """Its function and its record are all: it is masked, counted, checked and found by name like the others."""

    def huber(logits, targets, pos_weight=None, delta=1.0):
        return F.huber_loss(logits, 2 * targets - 1, reduction="none", delta=delta)

    monkeypatch.setitem(LOSSES, "huber", Loss(huber))
    logits, labels = partial()
    known = labels != IGNORE_INDEX
    expected = F.huber_loss(logits[known], 2 * labels[known] - 1, delta=0.3)
    torch.testing.assert_close(masked_loss(logits, labels, "huber", delta=0.3), expected)
    torch.testing.assert_close(masked_loss(logits, labels, huber, delta=0.3), expected)
    with pytest.raises(
        HalflabelError, match="loss 'huber' takes no argument 'dleta'; it takes delta; did you mean delta"
    ):
        masked_loss(logits, labels, "huber", dleta=1)
