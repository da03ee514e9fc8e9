"""Every shipped recipe says what it is, parses, and runs from its command to a model that loads."""

import json
import shlex

import pytest
import torch
from safetensors.torch import load_file
from transfer_runs import broken_off

import halflabel.training.run
from halflabel import HalflabelError, TimmMultiLabelForImageClassification
from halflabel.model.errors import did_you_mean
from halflabel.share.trained import train
from halflabel.training.keys import shipped_recipes
from halflabel.training.recipe import parse_recipe
from halflabel_cli import parse

QUICK = {"num_train_epochs": 1, "max_train_images": 16, "max_test_images": 8, "per_device_train_batch_size": 8,
         "use_cpu": "true", "disable_tqdm": "true", "report_to": "none"}  # fmt: skip
WITHOUT_TABLE = {
    "quickstart",  # it draws its own pictures, and the test of the README runs it whole
    *("chexpert", "coco_partial", "nuswide", "openimages_v6", "voc2007"),  # test_public_recipes.py has such sets
}


def short_probe(folder, epochs):
    """Write the shipped probe with fewer epochs; return its file."""
    text = shipped_recipes()["linear_probe"].read_text()
    for old, new in (("num_train_epochs: 60", f"num_train_epochs: {epochs}"), ("batch_size: 64", "batch_size: 8")):
        assert old in text
        text = text.replace(old, new)
    (folder / "short_probe.yaml").write_text(text)
    return folder / "short_probe.yaml"


def flags(folder, table, **keys):
    made = {**QUICK, "data": table, "output_dir": folder / "out", "feature_cache": folder / "cache", **keys}
    return [f"--{key}={value}" for key, value in made.items()]


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_recipe_has_its_result_its_hardware_and_its_command_on_top(name):
    lines = shipped_recipes()[name].read_text().splitlines()
    assert lines[0].startswith("# ")
    assert lines[1].startswith("# Hardware: ")
    assert lines[2].startswith(f"# Command: halflabel train {name}")
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 120
    options = parse(shlex.split(lines[2].removeprefix("# Command: halflabel ")), did_you_mean)
    assert (options.command, options.recipe) == ("train", name)
    assert parse_recipe(name, options.overrides).model.backbone


@pytest.mark.parametrize("name", sorted(set(shipped_recipes()) - WITHOUT_TABLE))
def test_a_recipe_runs_on_a_small_network_to_a_model_that_loads(colour_table, tmp_path, name):
    shipped = parse_recipe(name).model
    small = {"backbone": "test_vit" if "vit" in name else "test_resnet", "weights": "none"}
    result = train(parse_recipe(name, flags(tmp_path, colour_table, **small)))
    model = TimmMultiLabelForImageClassification.from_pretrained(result.folder)
    assert model.config.head == shipped.head
    assert result.metrics["split"] == "test"
    assert set(load_file(result.folder / "model.safetensors")) == set(model.state_dict())
    log = json.loads((result.folder / "training_log.json").read_text())
    assert "train_runtime" in log[-1]


def test_probe_first_starts_training_where_the_probe_ended(colour_table, tmp_path, monkeypatch):
    small = {"backbone": "test_resnet", "weights": "none", "num_train_epochs": 3, "validation_share": 0.15}
    probe = train(parse_recipe("linear_probe", flags(tmp_path, colour_table, **small))).folder
    expected = load_file(probe / "model.safetensors")
    seen = {}
    original = halflabel.training.run.choose_trained

    def look(model, settings):
        if settings.probe_first:
            seen.update({key: value.clone() for key, value in model.state_dict().items()})
        original(model, settings)

    monkeypatch.setattr(halflabel.training.run, "choose_trained", look)
    keys = {**small, "probe_first": short_probe(tmp_path, 3), "output_dir": tmp_path / "lp_ft"}
    result = train(parse_recipe("lp_ft", flags(tmp_path, colour_table, **keys)))
    assert set(seen) == set(expected)
    assert all(torch.equal(seen[key], expected[key]) for key in expected)
    trained = load_file(result.folder / "model.safetensors")
    assert any(not torch.equal(trained[key], expected[key]) for key in expected if key.startswith("backbone."))
    assert not (result.folder / "probe").exists()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"probe_first": "finetune"}, "probe_first: 'finetune' must be a recipe with cache_features"),
        ({"probe_first": "mlp_probe"}, "must be a recipe with cache_features: true and head: linear"),
        ({"probe_first": "linear_prob"}, "did you mean linear_probe"),
    ],
)
def test_a_probe_that_does_not_fit_is_refused(colour_table, tmp_path, keys, message):
    small = {"backbone": "test_resnet", "weights": "none"}
    with pytest.raises(HalflabelError, match=message):
        train(parse_recipe("lp_ft", flags(tmp_path, colour_table, **small, **keys)))


def test_a_run_that_was_stopped_in_its_probe_goes_on_with_it(colour_table, tmp_path, caplog):
    small = {"backbone": "test_resnet", "weights": "none", "probe_first": short_probe(tmp_path, 10)}
    whole = load_file(train(parse_recipe("lp_ft", flags(tmp_path, colour_table, **small))).folder / "model.safetensors")
    broken = flags(tmp_path, colour_table, **small, output_dir=tmp_path / "broken")
    with broken_off(evaluation=8):
        train(parse_recipe("lp_ft", broken))
    with caplog.at_level("INFO", logger="halflabel"):
        result = train(parse_recipe("lp_ft", [*broken, "--resume_from_checkpoint"]))
    assert f"going on from {tmp_path / 'broken' / 'probe' / 'checkpoint-14'}" in caplog.text
    again = load_file(result.folder / "model.safetensors")
    assert all(torch.equal(whole[key], again[key]) for key in whole)


def test_a_resumed_run_does_not_probe_again(colour_table, tmp_path, monkeypatch):
    probe = short_probe(tmp_path, 5)
    small = {"backbone": "test_resnet", "weights": "none", "num_train_epochs": 2, "probe_first": probe}
    whole = load_file(train(parse_recipe("lp_ft", flags(tmp_path, colour_table, **small))).folder / "model.safetensors")
    broken = flags(tmp_path, colour_table, **small, output_dir=tmp_path / "broken")
    train(parse_recipe("lp_ft", [*broken, "--save_total_limit=2", "--load_best_model_at_end=false"]))
    first = next(iter(sorted((tmp_path / "broken").glob("checkpoint-*"), key=lambda path: int(path.name[11:]))))
    monkeypatch.setattr(halflabel.training.run, "_fit_head", lambda *_: pytest.fail("the head was probed again"))
    resumed = train(parse_recipe("lp_ft", [*broken, "--resume_from_checkpoint", str(first)])).folder
    again = load_file(resumed / "model.safetensors")
    assert all(torch.equal(whole[key], again[key]) for key in whole)
