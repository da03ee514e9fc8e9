"""What is summed, masked, weighted and divided, against explicit loops in float64; and the fast path of bce."""

import math

import pytest
import torch
import torch.nn.functional as F

from halflabel import IGNORE_INDEX, UNCERTAIN, HalflabelError, masked_loss
from halflabel.model.losses import LOSSES, bce
from halflabel.model.objective import NORMALIZERS, PlainBCE, count_items


def batch(seed=0, rows=7, columns=5):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, columns, generator=generator, dtype=torch.float64) * 3
    labels = torch.randint(0, 2, (rows, columns), generator=generator).double()
    labels[torch.rand(rows, columns, generator=generator) < 0.5] = IGNORE_INDEX
    return logits, labels


def by_hand(logits, labels, normalizer):
    """The formulas with loops, in float64."""
    rows, columns = logits.shape
    losses = {}
    for i in range(rows):
        for j in range(columns):
            y, p = labels[i, j].item(), 1 / (1 + math.exp(-logits[i, j].item()))
            if y != IGNORE_INDEX:
                losses[i, j] = -(y * math.log(p) + (1 - y) * math.log(1 - p))
    if normalizer == "images":
        return sum(losses.values()) / rows
    if normalizer == "labels":
        return sum(losses.values()) / len(losses)
    tasks = [[v for (_, j), v in losses.items() if j == k] for k in range(columns)]
    means = [sum(task) / len(task) for task in tasks if task]
    return sum(means) / len(means)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("seed", range(4))
def test_value_is_the_formula(normalizer, seed):
    logits, labels = batch(seed)
    labels[:, seed] = IGNORE_INDEX  # one task without any known entry
    value = masked_loss(logits, labels, normalizer=normalizer).item()
    assert value == pytest.approx(by_hand(logits, labels, normalizer), rel=1e-12)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_unknown_entries_change_nothing(normalizer):
    logits, labels = batch()
    unknown = labels == IGNORE_INDEX
    results = []
    for value in (0.0, 5.0, -1e4, float("inf"), float("nan")):
        changed = logits.masked_fill(unknown, value).requires_grad_()
        loss = masked_loss(changed, labels, normalizer=normalizer)
        loss.backward()
        assert (changed.grad[unknown] == 0).all()
        results.append((loss.item(), changed.grad[~unknown]))
    for value, gradient in results[1:]:
        torch.testing.assert_close(value, results[0][0], rtol=1e-13, atol=0)  # not finite: another path to the same
        torch.testing.assert_close(gradient, results[0][1], rtol=1e-13, atol=0)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_nothing_known_is_zero_with_zero_gradients(normalizer):
    logits = torch.randn(3, 4, requires_grad=True)
    loss = masked_loss(logits, torch.full((3, 4), float(IGNORE_INDEX)), normalizer=normalizer)
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [30.0, 1e4, 6e4])
def test_confidently_wrong_still_learns(loss, dtype, size):
    logits = torch.tensor([[size, -size, 0.0]], dtype=dtype, requires_grad=True)
    value = masked_loss(logits, torch.tensor([[0.0, 1.0, IGNORE_INDEX]]), loss, epoch=2)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[0, 0] > 0
    assert logits.grad[0, 1] < 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("loss", LOSSES)
def test_autocast_changes_nothing_about_the_loss(loss, dtype):
    logits, labels = batch()
    logits, labels = logits.float(), labels.float()
    with torch.autocast("cpu", dtype):
        inside = masked_loss(logits, labels, loss, epoch=2)
    torch.testing.assert_close(inside, masked_loss(logits, labels, loss, epoch=2), rtol=1e-6, atol=0)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_label_weight_multiplies_a_labels_share(normalizer):
    logits, labels = batch()
    weight = torch.tensor([1.0, 2.0, 0.0, 0.5, 3.0], dtype=torch.float64)
    value = masked_loss(logits, labels, normalizer=normalizer, label_weight=weight)
    parts = []
    for j in range(5):
        alone = torch.full_like(labels, IGNORE_INDEX)
        alone[:, j] = labels[:, j]
        counts = count_items(labels)
        parts.append(weight[j] * masked_loss(logits, alone, normalizer=normalizer, num_items_in_batch=counts))
    torch.testing.assert_close(value, sum(parts))


def test_pos_weight_is_torchs():
    logits, _ = batch()
    labels, weight = (logits > 0.3).double(), torch.linspace(0.5, 4, 5, dtype=torch.float64)
    expected = F.binary_cross_entropy_with_logits(logits, labels, pos_weight=weight)
    torch.testing.assert_close(masked_loss(logits, labels, pos_weight=weight), expected)


def test_counts_of_pieces_add_up_and_know_what_takes_part():
    labels = torch.tensor([[1.0, IGNORE_INDEX], [0.5, 0.0], [IGNORE_INDEX, IGNORE_INDEX]])
    assert count_items(labels).tolist() == [2, 1, 3]
    assert (count_items(labels[:1]) + count_items(labels[1:])).tolist() == [2, 1, 3]
    labels[2, 0] = UNCERTAIN
    assert count_items(labels, "wan").tolist() == [2, 3, 3]


def test_a_given_count_divides_instead_of_the_batchs_own():
    logits, labels = batch()
    known = (labels != IGNORE_INDEX).sum()
    own = masked_loss(logits, labels)
    torch.testing.assert_close(masked_loss(logits, labels, num_items_in_batch=10 * known), own / 10)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([[2.0, 0.0]]), r"2\.0 at row 0, column 0"),
        (torch.tensor([[0.0, -1.0]]), r"-1\.0 at row 0, column 1"),
        (torch.tensor([[0.0, float("nan")]]), "nan"),
        (torch.tensor([[1, 0]]), "int64"),
        (torch.tensor([[1.0]]), "shape"),
        (torch.tensor([[1.0, -101.0]]), "apply a policy to uncertain entries first"),
    ],
)
def test_labels_that_are_none_raise(labels, message):
    with pytest.raises(HalflabelError, match=message):
        masked_loss(torch.zeros(1, 2), labels)


def test_names_are_checked():
    with pytest.raises(HalflabelError, match="bce"):
        masked_loss(torch.zeros(1, 1), torch.zeros(1, 1), loss="bse")
    with pytest.raises(HalflabelError, match="did you mean images"):
        masked_loss(torch.zeros(1, 1), torch.zeros(1, 1), normalizer="image")


def soft_batch(rows=9, columns=4, reach=8.0):
    generator = torch.Generator().manual_seed(0)
    logits = (torch.rand(rows, columns, generator=generator, dtype=torch.float64) * 2 - 1) * reach
    labels = torch.randint(0, 2, (rows, columns), generator=generator).double()
    labels[::3] = labels[::3] * 0.5 + 0.25
    labels[torch.rand(rows, columns, generator=generator) < 0.5] = IGNORE_INDEX
    return logits, labels


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("scaled", ["one", "by label"])
@pytest.mark.parametrize("reach", [0.0, 8.0, 40.0])
def test_plain_bce_is_the_definition(smoothing, scaled, reach, monkeypatch):
    monkeypatch.setattr("halflabel.model.objective._PIECE", 10)  # two rows at a time
    logits, labels = soft_batch(reach=reach)
    scale = torch.tensor(0.37, dtype=torch.float64) if scaled == "one" else torch.linspace(0.1, 2, 4).double()
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    value, valid = PlainBCE.apply(ours, labels, scale, smoothing)
    known = labels != IGNORE_INDEX
    entries = bce(theirs, torch.where(known, labels, 0), label_smoothing=smoothing)
    expected = (torch.where(known, entries, 0) * scale).sum()
    (3 * value).backward()
    (3 * expected).backward()
    assert valid
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-7, atol=1e-12)


def test_gradcheck_of_plain_bce():
    logits, labels = soft_batch(rows=5, reach=3.0)
    scale = torch.linspace(0.1, 2, 4).double()
    assert torch.autograd.gradcheck(lambda z: PlainBCE.apply(z, labels, scale, 0.1)[0], logits.requires_grad_())


@pytest.mark.parametrize(
    ("loss", "arguments", "normalizer"),
    [
        ("bce", {}, "labels"),
        ("bce", {"label_smoothing": 0.1}, "tasks"),
        ("asl", {}, "tasks"),
        ("selective", {"topk": 1}, "labels"),
        ("ll_r", {"delta": 0.1, "epoch": 2}, "labels"),
        ("ll_ct", {"delta": 0.1, "epoch": 2}, "labels"),
    ],
)
def test_compiled_in_one_graph_equals_eager(loss, arguments, normalizer):
    logits, labels = (matrix.float() for matrix in soft_batch(rows=12))
    torch._dynamo.reset()
    compiled = torch.compile(masked_loss, backend="aot_eager", fullgraph=True)
    results = []
    for function in (masked_loss, compiled):
        leaf = logits.clone().requires_grad_()
        value = function(leaf, labels, loss, normalizer, **arguments)
        value.backward()
        results.append((value.detach(), leaf.grad))
    for eager, traced in zip(*results, strict=True):
        torch.testing.assert_close(traced, eager, rtol=1e-5, atol=1e-8)
    labels[2, 1] = -1
    with pytest.raises(RuntimeError, match=r"a label of the batch is neither in 0\.\.1 nor -100"):
        compiled(logits, labels, loss, normalizer, **arguments)


def test_a_second_backward_gives_the_same():
    logits, labels = soft_batch(rows=3)
    leaf = logits.requires_grad_()
    loss = masked_loss(leaf, labels)
    loss.backward(retain_graph=True)
    first = leaf.grad.clone()
    loss.backward()
    torch.testing.assert_close(leaf.grad, 2 * first)


@pytest.mark.parametrize(
    "value", [-1.0, -0.5, -99.0, -100.5, 1.5, 2.0, 200.0, float("nan"), float("inf"), float("-inf")]
)
@pytest.mark.parametrize("place", [(0, 0), (8, 3)])
def test_a_label_that_is_none_is_seen_by_plain_bce(value, place):
    logits, labels = soft_batch()
    labels[place] = value
    with pytest.raises(HalflabelError, match=f"at row {place[0]}, column {place[1]} of the batch"):
        masked_loss(logits, labels)
