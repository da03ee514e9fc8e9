"""Against explicit double loops in float64, and the selective loss against mlcpl."""

import math

import pytest
import torch

from halflabel import IGNORE_INDEX, UNCERTAIN, masked_loss
from halflabel.model.losses import LEARN_FROM_UNKNOWN
from halflabel.model.unknown_losses import em, ll_ct, ll_r, selective, splc, wan


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


@pytest.mark.parametrize("loss", sorted(LEARN_FROM_UNKNOWN))
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


@pytest.mark.parametrize("loss", sorted(LEARN_FROM_UNKNOWN))
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
