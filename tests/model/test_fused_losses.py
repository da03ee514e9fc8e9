"""The fast twins are held equal to the definitions."""

import pytest
import torch

from halflabel import IGNORE_INDEX, HalflabelError, masked_loss
from halflabel.model.fused_losses import PIECE_ROWS, FusedLoss, TracedBCE, asl_kernel, bce_kernel
from halflabel.model.known_losses import asl, bce

TWINS = {
    "bce": (bce, bce_kernel, {}),
    "smoothed bce": (bce, bce_kernel, {"label_smoothing": 0.1}),
    "asl": (asl, asl_kernel, {}),
    "asl 0, 1": (asl, asl_kernel, {"gamma_pos": 0.0, "gamma_neg": 1.0}),
    "asl 1.5, 2.5": (asl, asl_kernel, {"gamma_pos": 1.5, "gamma_neg": 2.5, "clip": 0.2}),
    "asl without clip": (asl, asl_kernel, {"clip": 0.0}),
    "asl detached": (asl, asl_kernel, {"detach_focus": True}),
    "asl detached without clip": (asl, asl_kernel, {"detach_focus": True, "clip": 0.0}),
}


def batch(rows=2 * PIECE_ROWS + 5, columns=4, seed=0, reach=8.0):
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.rand(rows, columns, generator=generator, dtype=torch.float64) * 2 - 1) * reach
    labels = torch.randint(0, 2, (rows, columns), generator=generator).double()
    labels[::3] = labels[::3] * 0.5 + 0.25  # soft targets
    labels[torch.rand(rows, columns, generator=generator) < 0.5] = IGNORE_INDEX
    return logits, labels


def defined(function, arguments, logits, labels, scale):
    known = labels != IGNORE_INDEX
    entries = function(logits, torch.where(known, labels, 0), **arguments)
    return (torch.where(known, entries, 0) * scale).sum()


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize("scaled", ["one", "by label"])
@pytest.mark.parametrize("reach", [0.0, 8.0, 40.0])
def test_value_and_gradient_are_those_of_the_definition(name, scaled, reach):
    function, kernel, arguments = TWINS[name]
    logits, labels = batch(reach=reach)
    scale = torch.tensor(0.37, dtype=torch.float64) if scaled == "one" else torch.linspace(0.1, 2, 4).double()
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    value, valid = FusedLoss.apply(ours, labels, scale, kernel(**arguments))
    expected = defined(function, arguments, theirs, labels, scale)
    (3 * value).backward()
    (3 * expected).backward()
    assert valid
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in TWINS if "detached" not in name])  # their gradient is not the slope
def test_gradcheck(name):
    _, kernel, arguments = TWINS[name]
    logits, labels = batch(rows=5, reach=3.0)
    scale = torch.linspace(0.1, 2, 4).double()
    chosen = kernel(**arguments)
    assert torch.autograd.gradcheck(lambda z: FusedLoss.apply(z, labels, scale, chosen)[0], logits.requires_grad_())
    if kernel is bce_kernel:
        smoothing = arguments.get("label_smoothing", 0.0)
        assert torch.autograd.gradcheck(lambda z: TracedBCE.apply(z, labels, scale, smoothing), logits)


@pytest.mark.parametrize(("loss", "arguments"), [("bce", {}), ("bce", {"label_smoothing": 0.1}), ("asl", {})])
@pytest.mark.parametrize("normalizer", ["labels", "tasks"])
def test_compiled_equals_eager(loss, arguments, normalizer):
    logits, labels = batch(rows=12)
    logits, labels = logits.float(), labels.float()
    compiled = torch.compile(masked_loss, backend="aot_eager")
    results = []
    for function in (masked_loss, compiled):
        leaf = logits.clone().requires_grad_()
        value = function(leaf, labels, loss, normalizer, **arguments)
        value.backward()
        results.append((value.detach(), leaf.grad))
    for eager, traced in zip(*results, strict=True):
        torch.testing.assert_close(traced, eager, rtol=1e-5, atol=1e-8)
    labels[2, 1] = -1
    with pytest.raises(HalflabelError, match="row 2, column 1"):
        compiled(logits, labels, loss, normalizer, **arguments)


def test_a_second_backward_gives_the_same():
    logits, labels = batch(rows=3)
    leaf = logits.requires_grad_()
    loss = masked_loss(leaf, labels)
    loss.backward(retain_graph=True)
    first = leaf.grad.clone()
    loss.backward()
    torch.testing.assert_close(leaf.grad, 2 * first)


@pytest.mark.parametrize(
    "value", [-1.0, -0.5, -99.0, -100.5, 1.5, 2.0, 200.0, float("nan"), float("inf"), float("-inf")]
)
@pytest.mark.parametrize("place", [(0, 0), (100, 3)])
def test_a_label_that_is_none_is_seen(value, place):
    logits, labels = batch()
    labels[place] = value
    _, valid = FusedLoss.apply(logits, labels, torch.tensor(1.0), bce_kernel())
    assert not valid
