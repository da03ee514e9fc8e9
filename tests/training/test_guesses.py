import numpy as np
import pytest

from halflabel import HalflabelError
from halflabel.data.splitting import hide_labels
from halflabel.training.guesses import PseudoLabelOptions, make_pseudo_labels

U, UNSURE = -100, -101


def guess(features, labels, seed=0, **options):
    return make_pseudo_labels(features, labels, "abcd"[: labels.shape[1]], PseudoLabelOptions(**options), seed=seed)


def blobs(seed, images=600, labels=3, width=20, noise=1.0):
    """Images in clusters; a cluster has one answer to each question."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(12, width)) * 1.5
    answers = rng.integers(0, 2, size=(12, labels))
    of = rng.integers(0, 12, size=images)
    return centres[of] + noise * rng.normal(size=(images, width)), answers[of].astype(np.int8)


def test_known_entries_stay_and_what_nobody_could_tell_stays_out():
    features, truth = blobs(0)
    labels = hide_labels(truth, keep=0.2, seed=0)
    labels[:50, 1] = UNSURE
    targets, found = guess(features, labels)
    known = labels >= 0
    assert found["kept_round"]
    np.testing.assert_array_equal(targets[known], labels[known])
    np.testing.assert_array_equal(targets[:50, 1], UNSURE)
    guessed = (labels == U) & (targets >= 0)
    assert guessed.sum() > 500
    assert ((targets[guessed] >= 0.75) | (targets[guessed] <= 0.25)).all()


def test_the_reported_precision_is_the_true_one():
    """Over several draws; a single one has the sampling error of some hundred hidden entries."""
    reported, true = [], []
    for seed in range(6):
        features, truth = blobs(seed, images=900, noise=2.2)
        labels = hide_labels(truth, keep=0.25, seed=seed)
        targets, found = guess(features, labels, rounds=1)
        if found["kept_round"]:
            guessed = (labels == U) & (targets >= 0)
            reported.append(found["rounds"][0]["precision"])
            true.append(((targets >= 0.5) == truth)[guessed].mean())
    assert len(true) >= 4
    assert 0.7 < np.mean(true) < 0.99
    assert np.mean(reported) == pytest.approx(np.mean(true), abs=0.03)
    np.testing.assert_allclose(reported, true, atol=0.06)


def test_labels_drawn_at_random_are_not_foretold():
    """Whoever lets a known entry's own answer into its evidence finds precision here."""
    rng = np.random.default_rng(4)
    features = rng.normal(size=(400, 60))
    labels = hide_labels(rng.integers(0, 2, size=(400, 4)).astype(np.int8), keep=0.5, seed=0)
    targets, found = guess(features, labels)
    assert all(one["log_loss"] > 0.68 for one in found["rounds"])  # ln 2 = 0.693 is what a coin has
    assert found["known_only_log_loss"] > 0.68


def test_nothing_unknown_leaves_the_labels():
    features, truth = blobs(1)
    targets, found = guess(features, truth)
    np.testing.assert_array_equal(targets, truth)
    assert not found["rounds"]


def test_a_label_with_known_yes_only_gets_no_pseudo_labels():
    features, truth = blobs(2)
    labels = hide_labels(truth, keep=0.3, seed=0)
    labels[labels[:, 2] == 0, 2] = U
    targets, found = guess(features, labels)
    assert found["labels_without"] == ["c"]
    np.testing.assert_array_equal(targets[:, 2], labels[:, 2])
    assert (targets[:, :2] >= 0).mean() > 0.5
    single = hide_labels(truth, "single_positive", seed=0)
    assert guess(features, single)[1]["labels_without"] == ["a", "b", "c"]


def test_later_rounds_guess_more_and_a_round_that_is_worse_is_not_kept():
    features, truth = blobs(7, noise=2.0)
    labels = hide_labels(truth, keep=0.15, seed=0)
    targets, found = guess(features, labels, rounds=4)
    sizes = [one["yes"] + one["no"] for one in found["rounds"]]
    assert sizes == sorted(sizes)
    losses = [found["known_only_log_loss"], *(one["probe_log_loss"] for one in found["rounds"])]
    assert found["kept_round"] == int(np.argmin(losses))


def test_the_seed_decides():
    features, truth = blobs(8)
    labels = hide_labels(truth, keep=0.2, seed=0)
    first, again = guess(features, labels, seed=3), guess(features, labels, seed=3)
    np.testing.assert_array_equal(first[0], again[0])
    assert first[1] == again[1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"neighbors": 3}, "takes no 'neighbors'; it takes neighbours, .*did you mean neighbours"),
        ({"confidence": 0.3}, "confidence is 0.3, expected a number of at least 0.5 and below 1"),
        ({"neighbours": 0}, "neighbours is 0, expected a whole number of at least 1"),
        ({"rounds": 0}, "rounds is 0"),
        ({"folds": True}, "folds is True"),
    ],
)
def test_options_are_checked(given, message):
    with pytest.raises(HalflabelError, match=message):
        PseudoLabelOptions.of(given)
