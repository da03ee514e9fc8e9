import numpy as np
import pytest
import torch
import yaml
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from halflabel import HalflabelError, TimmMultiLabelForImageClassification
from halflabel.data.images import build_images
from halflabel.data.pixels import FeatureDataset
from halflabel.model.labels import count_labels
from halflabel.training.folds import cut_folds, fit_head, logits_of, out_of_fold_logits
from halflabel.training.preparation import TrainingData, start_head
from halflabel.training.recipe import parse_recipe
from halflabel.training.trainer import make_trainer

NAMES = ["red", "blue"]


def annotate(labels, groups=None):
    files = [f"{i}.png" for i in range(len(labels))]
    names = NAMES if labels.shape[1] == 2 else [f"label {i}" for i in range(labels.shape[1])]
    return build_images(files, files, labels, names, groups=groups)


def problem(folder, labels, features, groups=None, **keys):
    """A recipe, a model with a fresh head, its training data, and their features."""
    base = {
        "data": "none.csv", "backbone": "test_resnet", "weights": "none", "freeze_backbone": True,
        "cache_features": True, "optim": "sgd", "num_train_epochs": 30, "learning_rate": 0.05, "use_cpu": True,
        "per_device_train_batch_size": 512, "output_dir": str(folder / "out"),
        "disable_tqdm": True, "report_to": "none",
        "save_strategy": "no", "eval_strategy": "no",
    }  # fmt: skip
    (folder / "my.yaml").write_text(yaml.safe_dump({**base, **keys}))
    recipe = parse_recipe(str(folder / "my.yaml"))
    keys = {"head": recipe.model.head, "head_args": recipe.model.head_args, "loss": recipe.model.loss}
    model = TimmMultiLabelForImageClassification.from_backbone(
        "test_resnet", NAMES, weights=None, normalizer=recipe.model.normalizer, **keys
    )
    model.freeze_backbone()
    images = annotate(labels, groups)
    images = images.with_column("split", ["train"] * len(images))
    train = FeatureDataset(torch.from_numpy(features.astype(np.float32)), labels)
    return recipe, model, TrainingData(images, count_labels(labels)), train


def draw(images=80, known=1.0, width=96, signal=0.0, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (images, 2)).astype(np.int8)
    features = rng.normal(size=(images, width))
    features[:, :2] += signal * labels
    labels[rng.random(labels.shape) > known] = -100
    return labels, features


def scores_of(model, train):
    with torch.no_grad():
        return model.train(False)(features=train.features).logits.numpy()


def test_folds_keep_groups_whole_and_spread_yes_and_no_evenly(caplog, capsys):
    labels = np.random.default_rng(0).choice([1, 0, -100], (200, 3), p=[0.15, 0.6, 0.25]).astype(np.int8)
    images = annotate(labels)
    fold_of = cut_folds(images, 5, seed=0)
    assert np.abs(np.bincount(fold_of, minlength=5) - 40).max() <= 2
    for column in labels.T:
        for value in (0, 1):
            counts = np.bincount(fold_of[column == value], minlength=5)
            assert np.abs(counts - counts.mean()).max() <= 0.2 * counts.mean() + 1
    np.testing.assert_array_equal(fold_of, cut_folds(images, 5, seed=0))
    assert (fold_of != cut_folds(images, 5, seed=1)).any()
    groups = np.random.default_rng(1).integers(0, 30, 200).astype(str).tolist()
    grouped = cut_folds(annotate(labels, groups), 5, seed=0)
    assert set(grouped) == set(range(5))
    assert all(len({fold for fold, own in zip(grouped, groups, strict=True) if own == group}) == 1 for group in groups)
    assert not caplog.records
    assert "".join(capsys.readouterr()) == ""
    with pytest.raises(HalflabelError, match="fewer than 5 groups"):
        cut_folds(annotate(labels, ["all"] * 200), 5, seed=1)


@pytest.mark.parametrize("keys", [
    {},
    {"head_ridge": 0.16, "lr_scheduler_type": "cosine", "warmup_steps": 5},
    {"optim": "adamw_torch", "learning_rate": 0.01, "weight_decay": 0.1, "head_lr_multiplier": 2,
     "max_grad_norm": 0.02},
    {"loss": "splc", "normalizer": "images", "max_steps": 11},
    {"head": "mlp", "head_args": {"dropout": 0}},
    {"per_device_train_batch_size": 12, "gradient_accumulation_steps": 2, "max_steps": 50, "data_seed": 4},
])  # fmt: skip
def test_a_head_is_trained_as_the_trainer_trains_it(tmp_path, keys):
    recipe, model, data, train = problem(tmp_path, *draw(known=0.5, signal=1.0), **keys)
    counts = data.target_counts(recipe)
    start_head(model, train, counts)
    fresh = {name: value.clone() for name, value in model.head.state_dict().items()}
    make_trainer(recipe, model, {"train": train}, data).train()
    by_trainer = scores_of(model, train)
    model.head.load_state_dict(fresh)
    assert np.abs(scores_of(model, train) - by_trainer).max() > 0.1
    fit_head(recipe, model, train, counts)
    np.testing.assert_allclose(scores_of(model, train), by_trainer, atol=1e-4)


@pytest.mark.parametrize("known", [1.0, 0.2])
def test_a_ridge_is_the_same_prior_whatever_share_is_known(tmp_path, known):
    labels, features = draw(known=known, signal=1.0)
    keys = {"head_ridge": 0.05, "num_train_epochs": 5000, "learning_rate": 0.3, "max_grad_norm": 0}
    recipe, model, data, train = problem(tmp_path, labels, features, **keys)
    start_head(model, train, data.target_counts(recipe))
    fit_head(recipe, model, train, data.target_counts(recipe))
    standardised = (features - features.mean(axis=0)) / features.std(axis=0)
    for column, found in enumerate(scores_of(model, train).T):
        rows = labels[:, column] >= 0
        sklearn = LogisticRegression(C=1 / (0.05 * features.shape[1]), tol=1e-8, max_iter=1000)
        sklearn.fit(standardised[rows], labels[rows, column])
        np.testing.assert_allclose(found, sklearn.decision_function(standardised), atol=1e-3)


@pytest.mark.parametrize("keys", [{}, {"pseudo_labels": "soft"}])
def test_no_head_has_seen_the_answers_of_a_picture_that_it_is_asked_about(tmp_path, keys):
    """The features are noise, wide enough to learn any answer by heart; each picture is there twice, in one group."""
    labels, features = (np.repeat(one, 2, axis=0) for one in draw(images=100, width=96, known=0.7))
    groups = np.repeat(np.arange(100), 2).astype(str).tolist()
    recipe, model, data, train = problem(tmp_path, labels, features, groups, **keys)
    counts = data.target_counts(recipe)
    start_head(model, train, counts)
    fit_head(recipe, model, train, counts)
    trained, known = scores_of(model, train), labels >= 0
    assert roc_auc_score(labels[known], trained[known]) > 0.9
    found = out_of_fold_logits(recipe, model, data, train).numpy()
    assert 0.35 < roc_auc_score(labels[known], found[known]) < 0.65
    np.testing.assert_array_equal(scores_of(model, train), trained)  # the model is left as it was
    np.testing.assert_array_equal(out_of_fold_logits(recipe, model, data, train), found)


def test_out_of_fold_logits_find_what_is_there(tmp_path):
    labels, features = draw(images=100, signal=3.0, known=0.5)
    recipe, model, data, train = problem(tmp_path, labels, features)
    found, known = out_of_fold_logits(recipe, model, data, train).numpy(), labels >= 0
    assert roc_auc_score(labels[known], found[known]) > 0.75


def test_a_picture_is_scored_in_its_plain_view_whatever_epoch_came_before(tmp_path):
    """As `predict` sees it: what it looks like in the other views changes what is learned, not what is asked."""
    labels, features = draw(images=60, signal=3.0)
    recipe, model, data, _ = problem(tmp_path, labels, features, num_train_epochs=1)
    views = np.stack([features, np.random.default_rng(5).normal(size=features.shape)], axis=1).reshape(120, -1)
    train = FeatureDataset(torch.from_numpy(views.astype(np.float32)), labels, views=2)
    start_head(model, train, data.target_counts(recipe))
    train.set_epoch(1)
    with torch.no_grad():
        expected = model.train(False)(features=train.features[::2]).logits
    torch.testing.assert_close(logits_of(model, train), expected)
    rows = np.array([7, 4])
    torch.testing.assert_close(logits_of(model, train, rows), expected[rows])


def test_pictures_of_one_group_have_no_logits_out_of_fold(tmp_path):
    assert out_of_fold_logits(*problem(tmp_path, *draw(images=20), groups=["all"] * 20)) is None
