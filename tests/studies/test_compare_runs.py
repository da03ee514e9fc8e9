import numpy as np
import pytest
import yaml
from sklearn.metrics import average_precision_score, roc_auc_score

from halflabel import HalflabelError
from halflabel.share.trained import train
from halflabel.studies.compare_runs import (
    RunLog,
    judge,
    parse_entrants,
    run_all,
    split_images,
    train_and_score,
)
from halflabel.training.folds import FOLDS, cut_folds
from halflabel.training.recipe import parse_recipe

PROBE = {
    "backbone": "test_resnet", "weights": "none", "freeze_backbone": True, "cache_features": True, "use_cpu": True,
    "num_train_epochs": 8, "learning_rate": 0.05, "per_device_train_batch_size": 8, "optim": "sgd", "data": "given",
}  # fmt: skip


@pytest.fixture
def probe(tmp_path):
    path = tmp_path / "probe.yaml"
    path.write_text(yaml.safe_dump(PROBE))
    return str(path)


@pytest.fixture
def plain(probe, tmp_path):
    return parse_entrants([probe], tmp_path / "runs")[0].recipe


@pytest.fixture
def hiding(probe, tmp_path):
    return parse_entrants([f"{probe} --keep_labels 0.9"], tmp_path / "runs")


def noise(images=80, labels=3, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, (images, labels))
    return truth + rng.normal(size=truth.shape), truth.astype(np.int8)


def hide(truth, share, seed=1):
    return np.where(np.random.default_rng(seed).random(truth.shape) < share, -100, truth).astype(np.int8)


def test_a_run_reaches_what_train_reaches(probe, hiding, colour_table, colour_images, tmp_path):
    images = split_images(colour_images, hiding[0].recipe)
    _, logits = train_and_score(hiding[0].recipe, images, cut_folds(images.of_split("train"), FOLDS, seed=0), seed=3)
    flags = ["--data", str(colour_table), "--output_dir", str(tmp_path / "out")]
    flags += ["--report_to", "none", "--seed", "3", "--disable_tqdm", "true"]
    result = train(parse_recipe(probe, flags))
    labels = colour_images.of_split("test").labels
    expected = [result.metrics["labels"][name]["AP"] for name in ("red", "blue")]
    assert [average_precision_score(labels[:, j], logits[:, j]) for j in range(2)] == pytest.approx(expected, abs=1e-6)


def test_an_image_is_scored_by_a_model_that_did_not_see_its_answers(plain, colour_images):
    images = colour_images.of_split("train")
    fold_of = cut_folds(images, FOLDS, seed=0)
    logits, _ = train_and_score(plain, images, fold_of, seed=0)
    changed = images.labels.copy()
    changed[fold_of == 2] = 1 - changed[fold_of == 2].clip(0)
    again, _ = train_and_score(plain, images.with_labels(changed), fold_of, seed=0)
    np.testing.assert_array_equal(again[fold_of == 2], logits[fold_of == 2])
    assert (again[fold_of != 2] != logits[fold_of != 2]).all()


def test_labels_of_the_test_split_are_never_hidden_nor_seen(hiding, colour_images, tmp_path):
    images = split_images(colour_images, hiding[0].recipe)
    flipped = images.labels.copy()
    test = images.column("split") == "test"
    flipped[test] = 1 - flipped[test]
    runs = [
        run_all(hiding, some, 1, RunLog(tmp_path / f"{i}.jsonl", {}))[0]
        for i, some in enumerate((images, images.with_labels(flipped)))
    ]
    assert runs[0].held_out_ap == runs[1].held_out_ap
    assert runs[0].judged == runs[1].judged
    assert runs[0].test_ap != runs[1].test_ap
    assert None not in runs[0].test_ap
    assert runs[0].known_per_label < (images.labels[~test] >= 0).sum() / 2


def test_scores_are_judged_by_known_entries_and_by_known_yes_against_all_images():
    scores, truth = noise()
    labels = hide(truth, 0.6)
    labels[5, 0] = -101
    of_known, of_all = [], []
    for j in range(3):
        known = labels[:, j] >= 0
        of_known.append(roc_auc_score(labels[known, j], scores[known, j]))
        asked = labels[:, j] != -101
        of_all.append(roc_auc_score(labels[asked, j] == 1, scores[asked, j]))
    value, resampled = judge(scores, labels)
    assert value == pytest.approx((np.mean(of_known) + np.mean(of_all)) / 2)
    assert abs(resampled.mean() - value) < 3 * resampled.std()


def test_copies_of_an_image_in_its_group_make_nothing_surer():
    scores, truth = noise()
    copied, groups = (np.repeat(one, 9, axis=0) for one in (scores, np.arange(80)))
    spread = [judge(scores, truth)[1].std(), judge(copied, np.repeat(truth, 9, axis=0), groups)[1].std()]
    assert spread[0] == pytest.approx(spread[1], rel=1e-6)


def test_without_a_known_no_known_yes_are_ranked_among_all_images():
    scores, truth = noise()
    labels = np.where(truth == 1, hide(truth, 0.5), -100)
    expected = np.mean([roc_auc_score(labels[:, j] == 1, scores[:, j]) for j in range(3)])
    assert judge(scores, labels)[0] == pytest.approx(expected)
    assert np.isnan(judge(scores, np.full_like(labels, -100))[0])


def test_what_cannot_be_measured_is_refused(plain, hiding, colour_images):
    splits = np.where(colour_images.column("split") == "test", "validation", "train").astype(object)
    without_test = colour_images.with_column("split", splits)
    with pytest.raises(HalflabelError, match="in the test split: nothing can be measured"):
        split_images(without_test, hiding[0].recipe)
    assert set(split_images(without_test, plain).column("split")) == {"train"}
    with pytest.raises(HalflabelError, match="no known yes"):
        split_images(colour_images.with_labels(np.zeros_like(colour_images.labels)), hiding[0].recipe)


def test_where_everything_is_known_a_line_says_so(plain, colour_images, caplog):
    caplog.set_level("INFO", "halflabel")
    split_images(colour_images.with_labels(np.abs(colour_images.labels) % 2), plain)
    assert "every entry is known" in caplog.text
