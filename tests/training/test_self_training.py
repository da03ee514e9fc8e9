"""Pseudo-labels in recipes: they reach the Trainer, on cached features and in fine-tuning, and only where needed."""

import json
import logging

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transfer_runs import broken_off

from halflabel import HalflabelError
from halflabel.model.labels import IGNORE_INDEX, UNCERTAIN
from halflabel.share.trained import train
from halflabel.training.arguments import parse_recipe
from halflabel.training.preparation import prepare_data
from halflabel.training.probing import prepare_training

BASE = {
    "backbone": "test_resnet", "weights": "none", "optim": "sgd", "num_train_epochs": 3, "learning_rate": 0.01,
    "per_device_train_batch_size": 16, "use_cpu": True, "disable_tqdm": True, "report_to": "none",
    "validation_share": 0.2,
}  # fmt: skip
PROBE = {"freeze_backbone": True, "cache_features": True, "feature_cache": "none"}


def recipe(table, folder, overrides=(), **keys):
    made = {**BASE, "data": str(table), "output_dir": str(folder / "out"), **keys}
    (folder / "my.yaml").write_text(yaml.safe_dump(made))
    return parse_recipe(str(folder / "my.yaml"), overrides)


def weights(result):
    return load_file(result.folder / "model.safetensors")


def alike(one, other):
    return all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("keys", [PROBE, {**PROBE, "views": 2}, {**PROBE, "head": "csra"}, {}],
                         ids=["probe", "views", "positions", "fine-tuning"])  # fmt: skip
def test_unknown_entries_are_trained_on_and_the_run_tells_how_right_the_guesses_are(known_colours, tmp_path, keys):
    half = {**keys, "keep_labels": 0.5}
    plain = train(recipe(known_colours, tmp_path, **half))
    before = weights(plain)
    guessing = train(recipe(known_colours, tmp_path, **half, pseudo_labels="soft", pseudo_args={"folds": 3}))
    report = guessing.metrics["pseudo_labels"]
    assert report["kept_round"] >= 1
    assert report["rounds"][0]["precision"] > 0.7
    assert json.loads((guessing.folder / "metrics.json").read_text())["pseudo_labels"] == report
    assert not alike(before, weights(guessing))


def test_with_all_labels_known_it_is_the_identical_training(known_colours, tmp_path, caplog):
    before = weights(train(recipe(known_colours, tmp_path, **PROBE)))
    with caplog.at_level(logging.WARNING, "halflabel"):
        after = train(recipe(known_colours, tmp_path, **PROBE, pseudo_labels="soft"))
    assert "no training entry is unknown, so there is nothing to learn from" in caplog.text
    assert alike(before, weights(after))
    assert after.metrics["pseudo_labels"] is None


@pytest.mark.parametrize(("policy", "target"), [("ignore", IGNORE_INDEX), (0.4, 0.4)])
def test_what_nobody_could_tell_is_not_guessed_and_keeps_its_policy(uncertain_colours, tmp_path, policy, target):
    keys = {
        **PROBE,
        "uncertain_values": ["u"],
        "uncertain": policy,
        "pseudo_labels": "soft",
        "pseudo_args": {"folds": 3},
    }
    made = recipe(uncertain_colours, tmp_path, **keys)
    data = prepare_data(made)
    targets = prepare_training(made, data)[2]["train"].labels
    codes = data.images.of_split("train").labels
    assert (codes == UNCERTAIN).sum() > 5
    np.testing.assert_allclose(targets[codes == UNCERTAIN], target)
    np.testing.assert_array_equal(targets[codes >= 0], codes[codes >= 0])
    assert (targets[codes == IGNORE_INDEX] >= 0).any()


def test_guesses_that_do_not_help_leave_the_training_as_it_is(known_colours, tmp_path, caplog):
    """With one known yes per image there is nothing to weigh evidence by."""
    keys = {**PROBE, "hide_protocol": "single_positive"}
    before = weights(train(recipe(known_colours, tmp_path, **keys)))
    with caplog.at_level(logging.WARNING, "halflabel"):
        after = train(recipe(known_colours, tmp_path, **keys, pseudo_labels="soft"))
    assert "no pseudo-labels for want of known yes or no: red, blue" in caplog.text
    assert alike(before, weights(after))


def test_a_broken_run_goes_on_to_the_same_model(known_colours, tmp_path):
    keys = {"keep_labels": 0.5, "pseudo_labels": "soft", "num_train_epochs": 3}
    whole = weights(train(recipe(known_colours, tmp_path, **keys)))
    keys["output_dir"] = str(tmp_path / "broken")
    with broken_off():
        train(recipe(known_colours, tmp_path, **keys))
    assert alike(whole, weights(train(recipe(known_colours, tmp_path, ["--resume_from_checkpoint"], **keys))))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"pseudo_labels": "hard"}, "pseudo_labels: 'hard' is neither soft nor none"),
        ({"pseudo_labels": "soft", "unknown": "negative"}, "pseudo_labels does not go with unknown: negative"),
        ({"pseudo_labels": "soft", "loss": "em"}, "pseudo_labels does not go with loss: em"),
        ({"pseudo_args": {"rounds": 2}}, "pseudo_args needs pseudo_labels"),
        ({"pseudo_labels": "soft", "pseudo_args": {"round": 2}}, "takes no 'round'"),
    ],
)
def test_keys_that_contradict_each_other(known_colours, tmp_path, keys, message):
    with pytest.raises(HalflabelError, match=message):
        recipe(known_colours, tmp_path, **keys)
