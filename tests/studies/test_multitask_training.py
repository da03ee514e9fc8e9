import numpy as np
import pytest
import timm
from safetensors.torch import save_file
from sklearn.metrics import average_precision_score, roc_auc_score

from halflabel.studies import multitask_training
from halflabel.studies.affinity import mean_known_loss
from halflabel.studies.fine_tuning_advice import train_and_predict
from halflabel.studies.grouped_folds import draw_folds
from halflabel.studies.multitask_training import compare_ways, train_both_ways


def scored(gain, seed=0, count=400):
    """Scores of which the joint ones tell more of the first label."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (count, 2)).astype(np.int8)
    labels[rng.random(labels.shape) < 0.3] = -100
    single = rng.normal(size=labels.shape) + (labels == 1)
    joint = single + np.array([gain, 0]) * (labels == 1)
    return {"joint": joint, "single": single}, labels


def test_gains_are_differences_of_what_scikit_learn_measures_on_known_entries():
    scores, labels = scored(0.5)
    found = compare_ways(scores, labels, ["a", "b"], np.arange(400))
    for column, name in enumerate("ab"):
        known = labels[:, column] >= 0
        for key, measure in (("auroc", roc_auc_score), ("ap", average_precision_score)):
            joint, single = (measure(labels[known, column], scores[way][known, column]) for way in ("joint", "single"))
            assert found[name][key]["joint"] == pytest.approx(joint)
            assert found[name][key]["gain"] == pytest.approx(joint - single)


@pytest.mark.parametrize(("gain", "verdict"), [(2.0, "helps"), (-2.0, "hurts"), (0.0, "no evidence")])
def test_a_clear_gain_is_told_and_no_gain_is_not(gain, verdict):
    scores, labels = scored(gain)
    found = compare_ways(scores, labels, ["a", "b"], np.arange(400))
    assert found["a"]["verdict"] == verdict
    assert found["b"]["verdict"] == "no evidence"
    assert f"gain {found['a']['auroc']['gain']:+.3f}" in found["a"]["sentence"]


def test_a_label_with_too_few_tested_answers_has_no_numbers():
    scores, labels = scored(0.5)
    labels[:, 1] = np.where(np.arange(400) < 3, 1, 0)
    found = compare_ways(scores, labels, ["a", "b"], np.arange(400))
    assert found["b"]["verdict"] == "not enough data to tell"
    assert found["b"]["auroc"] is found["b"]["ap"] is found["b"]["p_holm"] is None


@pytest.mark.slow
def test_both_ways_are_trained_on_the_same_images_with_the_same_seed(colour_images, tmp_path, monkeypatch):
    monkeypatch.setattr(multitask_training, "EPOCHS", 1)
    path = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), path)
    folds = draw_folds(colour_images.labels, np.arange(48))
    found = train_both_ways(colour_images, ("test_resnet", str(path)), folds, np.arange(48), seed=5, quiet=True)
    assert found["trainings"] == 6
    losses = {"joint": [], "single": []}
    for run in range(2):  # once more, by hand
        tested = folds // 2 == run
        part = colour_images.with_column("split", np.where(tested, "test", "train"))
        for way, chosen in (("joint", part), ("single", part.with_only(["blue"]))):
            logits = train_and_predict(chosen, "test_resnet", str(path), 1, 5 + run, quiet=True, everywhere=True)
            losses[way].append(mean_known_loss(logits[~tested], chosen.labels[~tested])[-1])
    told = found["labels"]["blue"]["training_loss"]
    assert [told["joint"], told["single"]] == pytest.approx([np.mean(losses[way]) for way in ("joint", "single")])
