import json
import logging
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file

from halflabel import HalflabelError
from halflabel.model.relations import Relations
from halflabel.share.trained import train
from halflabel.training.arguments import parse_recipe
from halflabel.training.cross_fitting import cross_fitted_logits
from halflabel.training.preparation import prepare_data
from halflabel.training.probing import prepare_training
from halflabel.use.inference import load_model
from halflabel.use.prediction import predict_files
from halflabel_cli import main

BASE = {
    "backbone": "test_resnet", "weights": "none", "freeze_backbone": True, "cache_features": True, "optim": "sgd",
    "num_train_epochs": 3, "learning_rate": 0.05, "per_device_train_batch_size": 16, "use_cpu": True,
    "disable_tqdm": True, "report_to": "none", "feature_cache": "none", "relations": True,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _few_folds(monkeypatch):
    monkeypatch.setattr("halflabel.training.cross_fitting.FOLDS", 2)


@pytest.fixture
def twins(colour_table):
    """A third label that is always that of red, though the picture is too small to be sure of either."""
    table = pd.read_csv(colour_table)
    answers = (pd.read_csv(colour_table)["red"]).fillna(1).astype(int)
    table["twin"] = answers
    table["red"] = answers
    table.loc[table.index[::7], "blue"] = None
    table["group"] = [f"g{i // 2}" for i in range(len(table))]
    table.to_csv(colour_table, index=False)
    return colour_table


def recipe(table, folder, **keys):
    path = folder / "my.yaml"
    path.write_text(yaml.safe_dump({**BASE, "data": str(table), "output_dir": str(folder / "out"), **keys}))
    return parse_recipe(str(path))


def test_a_run_finds_that_two_labels_go_together_and_the_model_keeps_it(twins, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    train(recipe(twins, tmp_path))
    assert "labels that go together (log odds): red and twin" in caplog.text
    relations = load_model(str(tmp_path / "out"))[0].config.label_relations
    weights = dict(zip(zip(relations.first, relations.second, strict=True), relations.weights, strict=True))
    assert weights[0, 2] > 1
    assert not (tmp_path / "out" / "cross_fit").exists()


def test_fitting_relations_leaves_the_trained_weights_as_they_are(twins, tmp_path):
    weights = []
    for relations in (True, False):
        train(recipe(twins, tmp_path, relations=relations, num_train_epochs=1))
        weights.append(load_file(tmp_path / "out" / "model.safetensors"))
        stored = json.loads((tmp_path / "out" / "config.json").read_text())
        assert (stored.get("relations") is not None) == relations
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_no_head_sees_an_image_that_it_is_asked_about_nor_its_group(twins, tmp_path, monkeypatch):
    seen = []

    def remember(recipe, model, datasets, data, left_out):
        seen.append((datasets["train"].features, left_out.features))
        return left_out.features[:, :3].double().numpy()

    monkeypatch.setattr("halflabel.training.cross_fitting._fit_head", remember)
    mine = recipe(twins, tmp_path, views=2)
    data = prepare_data(mine)
    model, _, datasets = prepare_training(mine, data)
    logits = cross_fitted_logits(mine, model, datasets, data)
    plain = datasets["train"].features[::2]
    np.testing.assert_array_equal(logits, plain[:, :3].double().numpy())  # each image once, by its first view
    groups = data.images.of_split("train").column("group")
    group_of = {row.numpy().tobytes(): group for row, group in zip(plain, groups, strict=True)}
    for inside, outside in seen:
        assert len(inside) == 2 * (len(plain) - len(outside))
        inner, outer = ({group_of[row.numpy().tobytes()] for row in rows} for rows in (inside[::2], outside))
        assert not inner & outer


def test_what_is_known_of_an_image_does_not_reach_its_own_cross_fitted_logits(twins, tmp_path):
    mine = recipe(twins, tmp_path, num_train_epochs=1)
    data = prepare_data(mine)
    model, _, datasets = prepare_training(mine, data)
    logits = cross_fitted_logits(mine, model, datasets, data)
    np.testing.assert_array_equal(cross_fitted_logits(mine, model, datasets, data), logits)
    row = np.flatnonzero(data.images.column("split") == "train")[0]
    group = data.images.column("group") == data.images.column("group")[row]
    flipped = np.where(group[:, None], 1 - data.images.labels.clip(0), data.images.labels)
    other = cross_fitted_logits(mine, model, datasets, replace(data, images=data.images.with_labels(flipped)))
    changed = (other != logits).any(axis=1)
    assert not changed[group[data.images.column("split") == "train"]].any()
    assert 0.3 < changed.mean() < 0.7  # the other fold


def test_without_cached_features_the_validation_split_tells(twins, tmp_path, monkeypatch):
    monkeypatch.setattr("halflabel.training.cross_fitting._fit_head", None)
    table = pd.read_csv(twins)
    table.loc[table.index[:24], "split"] = "validation"
    table.to_csv(twins, index=False)
    train(recipe(twins, tmp_path, cache_features=False, num_train_epochs=1))
    relations = load_model(str(tmp_path / "out"))[0].config.label_relations
    weights = dict(zip(zip(relations.first, relations.second, strict=True), relations.weights, strict=True))
    assert weights[0, 2] > 0.5


def test_without_validation_or_features_there_are_none_and_the_log_says_so(twins, tmp_path, caplog):
    train(recipe(twins, tmp_path, cache_features=False, num_train_epochs=1, validation_share=0))
    assert "relations: no validation split to fit them on" in caplog.text
    assert load_model(str(tmp_path / "out"))[0].config.label_relations is None


def test_predicting_beside_given_answers(twins, tmp_path, capsys):
    train(recipe(twins, tmp_path, decide="f1"))
    model, scores = str(tmp_path / "out"), tmp_path / "scores.csv"
    pictures = sorted(twins.parent.glob("*.png"))[:6]
    lines = ["file_name,red,blue", "000.png,1,", "001.png,0,", "003.png,,1"]
    (tmp_path / "given.csv").write_text("\n".join(lines))
    paths = [str(path) for path in pictures]
    command = ["predict", model, *paths, "--output", str(scores), "--given", str(tmp_path / "given.csv")]
    assert main(command) == 0
    frame, (plain, _) = pd.read_csv(scores, keep_default_na=False), predict_files(model, pictures)
    assert list(frame.columns) == ["file_name", "answered_yes", "given", "red", "blue", "twin"]
    assert frame["given"].tolist() == ["red", "red", "", "blue", "", ""]
    assert frame["red"].tolist()[:2] == [1.0, 0.0]
    assert "red" in frame["answered_yes"][0].split("|")
    assert "red" not in frame["answered_yes"][1].split("|")
    assert frame["twin"][0] > plain["twin"][0]
    assert frame["twin"][1] < plain["twin"][1]
    untouched = frame.loc[[2, 4, 5], ["red", "blue", "twin"]].to_numpy()
    np.testing.assert_allclose(untouched, plain.loc[[2, 4, 5], ["red", "blue", "twin"]].to_numpy(), rtol=1e-12)
    assert main([*command, "--labels", "twin"]) == 0  # what is given on other labels is evidence all the same
    alone = pd.read_csv(scores, keep_default_na=False)
    assert list(alone.columns) == ["file_name", "answered_yes", "given", "twin"]
    assert alone["twin"].tolist() == frame["twin"].tolist()
    assert alone["given"].tolist() == frame["given"].tolist()
    config = load_model(model)[0].config
    logits = np.log(plain["twin"][0] / (1 - plain["twin"][0]))
    weights = Relations.from_dict(config.relations, 3)
    pair = list(zip(weights.first, weights.second, strict=True)).index((0, 2))
    expected = logits + weights.weights[pair] * (1 - plain["red"][0])
    assert np.log(frame["twin"][0] / (1 - frame["twin"][0])) == pytest.approx(expected, rel=1e-6)


def test_a_skipped_picture_and_a_model_without_relations(twins, tmp_path):
    train(recipe(twins, tmp_path, num_train_epochs=1))
    model, pictures, bad = tmp_path / "out", sorted(twins.parent.glob("*.png"))[:3], tmp_path / "bad.png"
    (tmp_path / "given.csv").write_text("file_name,red\n002.png,1\n")
    bad.write_text("x")
    frame, skipped = predict_files(str(model), [pictures[0], bad, pictures[2]], given=tmp_path / "given.csv")
    assert len(skipped) == 1
    assert frame["given"].tolist() == [[], ["red"]]
    config = json.loads((model / "config.json").read_text()) | {"relations": None}
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(HalflabelError, match="has no relations between labels: train it with relations: true"):
        predict_files(str(model), pictures, given=tmp_path / "given.csv")
