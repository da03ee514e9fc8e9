import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from halflabel.studies import fine_tuning_advice
from halflabel.studies.fine_tuning_advice import fine_tune, train_and_predict
from halflabel.studies.grouped_folds import draw_folds
from halflabel.studies.ranking_influence import ranks_within


@pytest.fixture
def weight_file(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), path)
    return str(path)


def test_each_run_scores_two_folds_whose_answers_it_has_not_seen(colour_images, weight_file, monkeypatch):
    monkeypatch.setattr(fine_tuning_advice, "EPOCHS", 1)
    labels, groups = colour_images.labels, np.arange(48)
    folds = draw_folds(labels, groups)
    found = fine_tune(colour_images, {"test_resnet": weight_file}, labels, folds, groups, seed=3, quiet=True)
    tested = (labels >= 0) & (folds < 4)[:, None]
    np.testing.assert_array_equal(found.labels >= 0, tested)
    assert set(found.comparisons["test_resnet"].labels) == {"red", "blue"}
    for ranks in found.ranks["test_resnet"].values():
        np.testing.assert_array_equal(~np.isnan(ranks), tested)

    second = np.isin(folds, (2, 3))  # the second run, trained alone on a table that lacks its answers
    images = colour_images.with_column("split", np.where(second, "test", "train"))
    images = images.with_labels(np.where(second[:, None], -100, labels))
    scores = np.full(labels.shape, np.nan)
    scores[second] = train_and_predict(images, "test_resnet", weight_file, 1, seed=4, quiet=True)
    expected = ranks_within(np.where(tested, scores, np.nan), np.zeros(48, dtype=int))
    np.testing.assert_array_equal(found.ranks["test_resnet"]["pretrained"][second], expected[second])


def test_a_training_depends_on_its_seed_and_on_nothing_that_was_drawn_before(colour_images):
    images = colour_images.with_column("split", ["test"] * 12 + ["train"] * 36)
    torch.manual_seed(3)
    once, again = (train_and_predict(images, "test_resnet", None, 1, seed=2, quiet=True) for _ in range(2))
    assert once.shape == (12, 2)
    np.testing.assert_array_equal(once, again)
