"""The recipe keys of transfer: each reaches what trains, and a broken run goes on exactly."""

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transfer_runs import broken_off

import halflabel.training.run
from halflabel import HalflabelError, TimmMultiLabelForImageClassification
from halflabel.share.trained import train
from halflabel.training.recipe import parse_recipe

BASE = {
    "backbone": "test_vit", "weights": "none", "optim": "sgd", "num_train_epochs": 3, "learning_rate": 0.01,
    "per_device_train_batch_size": 8, "use_cpu": True, "disable_tqdm": True, "report_to": "none",
    "max_train_images": 16, "max_test_images": 8,
}  # fmt: skip


def recipe(table, folder, overrides=(), **keys):
    made = {**BASE, "data": str(table), "output_dir": str(folder / "out"), **keys}
    (folder / "my.yaml").write_text(yaml.safe_dump(made))
    return parse_recipe(str(folder / "my.yaml"), overrides)


@pytest.mark.parametrize(
    "keys",
    [
        {"freeze": ["patch_embed", "blocks.0"], "layer_decay": 0.5, "head_lr_multiplier": 3.0},
        {"ema_decay": 0.9},
        {"lora_rank": 2},
    ],
    ids=["freeze", "ema", "lora"],
)
def test_a_broken_run_goes_on_to_the_same_plain_model(colour_table, tmp_path, keys):
    whole = load_file(train(recipe(colour_table, tmp_path, **keys)).folder / "model.safetensors")
    keys["output_dir"] = str(tmp_path / "broken")
    with broken_off():
        train(recipe(colour_table, tmp_path, **keys))
    folder = train(recipe(colour_table, tmp_path, ["--resume_from_checkpoint"], **keys)).folder
    resumed = load_file(folder / "model.safetensors")
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert set(whole) == set(TimmMultiLabelForImageClassification.from_pretrained(folder).state_dict())


def test_keys_reach_the_optimizer_and_the_weights(colour_table, tmp_path, monkeypatch):
    seen = {}
    original = halflabel.training.run._test

    def look(trainer, *rest):
        seen["groups"] = [(round(group["lr"], 8), group["weight_decay"]) for group in trainer.optimizer.param_groups]
        seen["frozen"] = sorted(name for name, p in trainer.model.named_parameters() if not p.requires_grad)
        return original(trainer, *rest)

    monkeypatch.setattr(halflabel.training.run, "_test", look)
    keys = {"freeze": ["patch_embed"], "layer_decay": 0.5, "head_lr_multiplier": 3.0, "weight_decay": 0.1,
            "lr_scheduler_type": "constant", "num_train_epochs": 1}  # fmt: skip
    train(recipe(colour_table, tmp_path, **keys))
    assert seen["groups"][0] == (0.03, 0.1)
    assert {rate for rate, _ in seen["groups"]} >= {0.03, 0.005, 0.0025}
    assert seen["frozen"] == ["backbone.patch_embed.proj.bias", "backbone.patch_embed.proj.weight"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"freeze_backbone": True, "lora_rank": 4}, "freeze_backbone does not go with lora_rank"),
        ({"lora_rank": 4, "freeze": ["blocks.0"]}, "lora_rank does not go with freeze"),
        ({"lora_targets": ["attn.qkv"]}, "lora_targets needs lora_rank"),
    ],
)
def test_keys_that_contradict_each_other(colour_table, tmp_path, keys, message):
    with pytest.raises(HalflabelError, match=message):
        recipe(colour_table, tmp_path, **keys)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"freeze": ["blokcs.0"]}, "did you mean blocks.0"),
        ({"layer_decay": 1.5}, "layer_decay is 1.5"),
        ({"ema_decay": 2.0}, "ema_decay is 2.0"),
        ({"lora_rank": 4, "lora_targets": ["kvq"]}, "'kvq' names no layer"),
    ],
)
def test_values_that_fit_nothing_stop_before_training(colour_table, tmp_path, keys, message):
    with pytest.raises(HalflabelError, match=message):
        train(recipe(colour_table, tmp_path, **keys))


def test_a_checkpoint_of_averaged_weights_is_not_gone_on_with_as_if_it_were_plain(colour_table, tmp_path):
    train(recipe(colour_table, tmp_path, ema_decay=0.9, save_total_limit=1))
    checkpoint = next((tmp_path / "out").glob("checkpoint-*"))
    with pytest.raises(HalflabelError, match=r"checkpoint-\d+ was trained with ema_decay 0.9 \(now None\)"):
        train(recipe(colour_table, tmp_path, ["--resume_from_checkpoint", str(checkpoint), "--num_train_epochs", "4"]))


def test_a_second_probe_computes_no_feature_again(colour_table, tmp_path, monkeypatch):
    seen = []
    original = TimmMultiLabelForImageClassification.extract_features

    def counted(self, pixels):
        seen.append(len(pixels))
        return original(self, pixels)

    monkeypatch.setattr(TimmMultiLabelForImageClassification, "extract_features", counted)
    keys = {"freeze_backbone": True, "cache_features": True, "feature_cache": str(tmp_path / "cache"), "seed": 1}
    first = train(recipe(colour_table, tmp_path, **keys)).metrics
    computed = sum(seen)
    seen.clear()
    again = train(recipe(colour_table, tmp_path, output_dir=str(tmp_path / "again"), **keys)).metrics
    assert again == first
    assert sum(seen) <= computed - 24  # what is left are the pictures of examples.png
    train(recipe(colour_table, tmp_path, output_dir=str(tmp_path / "more"), views=3, **keys))
    train_images = 16
    assert computed - 24 < sum(seen) - 3 <= 2 * train_images + 3 + computed - 24


@pytest.mark.parametrize("head", ["mlp", "csra", "ml_decoder"])
def test_every_head_is_probed_on_cached_features(colour_table, tmp_path, head):
    probe = {"freeze_backbone": True, "cache_features": True, "feature_cache": "none", "optim": "adamw_torch"}
    keys = {"head": head, "num_train_epochs": 20, "learning_rate": 0.003, "max_train_images": 32, **probe}
    result = train(recipe(colour_table, tmp_path, backbone="test_resnet", **{**keys, "max_test_images": 16}))
    assert result.metrics["mAP"] > 0.65  # chance is about a half
    saved = TimmMultiLabelForImageClassification.from_pretrained(result.folder)
    assert saved.config.head == head


def test_views_without_a_cache_and_a_wrong_head_argument_are_refused(colour_table, tmp_path):
    with pytest.raises(HalflabelError, match="views is 4: .* only with cache_features"):
        recipe(colour_table, tmp_path, views=4)
    with pytest.raises(HalflabelError, match="layer"):
        recipe(colour_table, tmp_path, head="mlp", head_args={"layrs": 2})
