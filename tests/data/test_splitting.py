import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reading import error_of

from halflabel import LabelSpace, hide_labels
from halflabel.data import splitting
from halflabel.data.images import build_images
from halflabel.data.splitting import assign_splits


def images_of(count, groups=None, labels=None):
    """Images without a split, every other one a yes to its only label, or with these labels."""
    files = [str(i) for i in range(count)]
    codes = np.arange(count)[:, None] % 2 if labels is None else labels
    return build_images(files, files, codes, [f"l{i}" for i in range(codes.shape[1])], groups=groups)


def cut(images, validation_share, test_share, seed=0):
    return assign_splits(images, validation_share, test_share, seed).column("split")


def test_groups_stay_together_and_shares_are_kept():
    images = images_of(300, [str(i // 5) for i in range(300)])
    splits, groups = cut(images, 0.25, 0.2, 1), images.column("group")
    for group in set(groups):
        assert len(set(splits[groups == group])) == 1
    assert (splits == "test").mean() == pytest.approx(0.2, abs=0.01)
    assert (splits == "validation").mean() == pytest.approx(0.25 * 0.8, abs=0.02)
    assert (splits == cut(images, 0.25, 0.2, 1)).all()
    assert (splits != cut(images, 0.25, 0.2, 2)).any()


def test_given_splits_are_kept_and_validation_comes_from_train_only():
    images = images_of(40).with_column("split", ["train"] * 30 + ["test"] * 10)
    splits = cut(images, 0.2, 0.5)
    assert (splits[30:] == "test").all()
    assert (splits[:30] == "validation").sum() == 6
    assert (splits[:30] == "test").sum() == 0
    assert (cut(images, 0, 0) == images.column("split")).all()
    images = images_of(4).with_column("split", ["test", "", "validation", ""])
    assert cut(images, 0.5, 0.5).tolist() == ["test", "train", "validation", "train"]


def test_a_share_out_of_range_and_no_training_image():
    assert "validation_share is 1" in error_of(cut, images_of(4), 1, 0)
    images = images_of(4).with_column("split", ["test"] * 4)
    assert "no image is left to train on" in error_of(cut, images, 0.1, 0.1)


def grouped(sizes):
    """Images of groups of these sizes, in any order, a third of the entries of three labels known."""
    rng = np.random.default_rng(0)
    groups = rng.permutation(np.repeat([f"g{i}" for i in range(len(sizes))], sizes))
    return images_of(len(groups), groups.tolist(), rng.choice([1, 0, -100], (len(groups), 3), p=[0.1, 0.2, 0.7]))


UNEVEN = {
    "one of 30 %": [300] + [5] * 140,
    "one of half": [500] + [5] * 100,
    "any size": np.random.default_rng(0).integers(1, 60, 100),
    "a few large": np.minimum(np.random.default_rng(0).pareto(1.2, 300) * 3 + 1, 300).astype(int),
    "alike": [7] * 70,
    "five": [30, 30, 20, 10, 10],
}


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
@pytest.mark.parametrize("sizes", UNEVEN.values(), ids=UNEVEN.keys())
def test_shares_are_of_images_also_where_groups_are_uneven(sizes, share):
    images = grouped(sizes)
    groups = images.column("group")
    for seed in range(3):
        splits = cut(images, 0, share, seed)
        assert (splits == "test").mean() == pytest.approx(share, rel=0.0501, abs=0.5 * min(sizes) / len(images))
        assert all(len(set(splits[groups == group])) == 1 for group in set(groups))


def test_uneven_groups_are_still_stratified():
    images = grouped([200] + [2] * 400)
    for seed in range(5):
        chosen = cut(images, 0, 0.25, seed) == "test"
        for code in (1, 0):
            known = images.labels == code
            shares = (known & chosen[:, None]).sum(axis=0) / known.sum(axis=0)
            assert shares == pytest.approx([0.25] * 3, abs=0.05)


def test_a_share_that_cannot_be_given_is_told(caplog):
    assert (cut(grouped([50, 50]), 0, 0.2) == "test").sum() == 50
    assert "the test split has 50.0 % of the images instead of 20.0 %: groups stay whole" in caplog.text
    assert (cut(grouped([50]), 0.2, 0) == "train").all()
    assert "no validation split is cut: all training images are one group" in caplog.text
    cut(images_of(2), 0.15, 0)  # it is not the groups that are blamed
    told = "the validation split has 50.0 % of the images instead of 15.0 %: there are only 2 to cut from"
    assert told in caplog.text


@pytest.mark.parametrize("share", [0.001, 0.4, 0.999])
@pytest.mark.parametrize("count", [2, 3, 10])
def test_every_part_has_an_image(count, share):
    assert set(cut(images_of(count), 0, share, 3)) == {"train", "test"}


def test_no_answers_and_too_many_labels_are_cut_at_random(monkeypatch):
    nothing = images_of(100).with_labels(np.full((100, 1), -100, np.int8))
    assert (cut(nothing, 0.25, 0.2) == "test").sum() == 20
    monkeypatch.setattr(splitting, "_MOST_ENTRIES", 10)
    images = grouped([3] * 100)
    cuts = [cut(images, 0, 0.2, seed) for seed in (0, 0, 1)]
    assert [(cut == "test").sum() for cut in cuts] == [60, 60, 60]
    assert (cuts[0] == cuts[1]).all()
    assert (cuts[0] != cuts[2]).any()


def test_a_rare_answer_is_in_every_part():
    """5 known yes and 5 known no among 400 images: by chance a part would often have one or none of a kind."""
    labels = np.full((400, 2), -100, np.int8)
    labels[:, 0] = np.arange(400) % 2
    labels[10:15, 1], labels[200:205, 1] = 1, 0
    for seed in range(10):
        parted = assign_splits(images_of(400, labels=labels), 0.4, 0, seed=seed)
        for split in ("train", "validation"):
            part = parted.of_split(split).labels[:, 1]
            assert 2 <= (part == 1).sum() <= 3
            assert 2 <= (part == 0).sum() <= 3


FULL = np.random.default_rng(0).integers(0, 2, (400, 6))
SPACE = LabelSpace(list("abcdef"))
GROUPS = {"x": ["a", "b"], "y": ["c", "d", "e", "f"]}
CALLS = {
    "random": {"keep": 0.3},
    "single_positive": {},
    "per_label": {"per_label": 7},
    "by_group": {"groups": GROUPS, "label_space": SPACE},
}


@pytest.mark.parametrize("protocol", CALLS)
def test_hiding_is_seeded(protocol):
    once = hide_labels(FULL, protocol, seed=3, **CALLS[protocol])
    assert (once == hide_labels(FULL, protocol, seed=3, **CALLS[protocol])).all()
    assert (once != hide_labels(FULL, protocol, seed=4, **CALLS[protocol])).any()


@given(st.integers(0, 1000), st.sampled_from(sorted(CALLS)))
@settings(max_examples=40, deadline=None)
def test_hiding_never_adds_knowledge(seed, protocol):
    rng = np.random.default_rng(seed)
    labels = rng.choice([0, 1, -100], (20, 6))
    hidden = hide_labels(labels, protocol, seed=seed, **CALLS[protocol])
    assert ((hidden == labels) | (hidden == -100)).all()


def test_random_keeps_the_asked_share():
    kept = (hide_labels(FULL, "random", keep=0.3) != -100).mean()
    assert abs(kept - 0.3) < 4 * np.sqrt(0.3 * 0.7 / FULL.size)  # four standard errors of a binomial share
    assert (hide_labels(FULL, keep=1) == FULL).all()
    assert (hide_labels(FULL, keep=0) == -100).all()


def test_single_positive_keeps_one_yes_and_no_no():
    hidden = hide_labels(FULL, "single_positive")
    assert ((hidden == 1).sum(axis=1) == FULL.any(axis=1)).all()
    assert not (hidden == 0).any()


def test_per_label_keeps_so_many_of_each_kind_or_all():
    labels = FULL.copy()
    labels[:, 0] = 0
    labels[:3, 0] = 1
    hidden = hide_labels(labels, "per_label", per_label=7)
    assert (hidden == 1).sum(axis=0).tolist() == [3, 7, 7, 7, 7, 7]
    assert (hidden == 0).sum(axis=0).tolist() == [7] * 6


def test_by_group_keeps_whole_groups():
    known = hide_labels(FULL, "by_group", groups=GROUPS, label_space=SPACE) != -100
    first, second = known[:, :2].all(axis=1), known[:, 2:].all(axis=1)
    assert (first ^ second).all()
    assert (known.sum(axis=1) == np.where(first, 2, 4)).all()
    assert 0.35 < first.mean() < 0.65


@pytest.mark.parametrize(
    ("protocol", "arguments", "message"),
    [
        ("randm", {"keep": 0.3}, "did you mean random"),
        ("random", {}, "needs 'keep'"),
        ("random", {"keep": 1.5}, "0 to 1"),
        ("random", {"keep": 0.5, "per_label": 3}, "does not belong"),
        ("per_label", {"per_label": 0}, "at least 1"),
        ("by_group", {"groups": {"x": ["q"]}, "label_space": SPACE}, "unknown label 'q'"),
        ("by_group", {"groups": GROUPS}, "label_space"),
    ],
)
def test_bad_requests(protocol, arguments, message):
    assert message in error_of(hide_labels, FULL, protocol, **arguments)
