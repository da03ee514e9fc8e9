import numpy as np
import pytest
import torch
import yaml

from halflabel import HalflabelError, TimmMultiLabelImageProcessor, count_labels
from halflabel.data.pixels import PixelDataset
from halflabel.training.arguments import parse_recipe
from halflabel.training.objective import training_targets
from halflabel.training.preparation import load_data, make_datasets, prepare_data, report_labels, start_head


def recipe(table, folder, **keys):
    base = {"data": str(table), "backbone": "test_resnet", "output_dir": str(folder / "out"), "use_cpu": True}
    (folder / "my.yaml").write_text(yaml.safe_dump({**base, **keys}))
    return parse_recipe(str(folder / "my.yaml"))


def test_hiding_depends_on_the_other_splits_alone(colour_table, tmp_path):
    settings = recipe(colour_table, tmp_path, keep_labels=0.5, hide_seed=2, validation_share=0).settings
    images = load_data(settings, seed=0)
    test = images.column("split") == "test"
    assert (images.labels[test] != -100).all()
    shorter = load_data(
        recipe(colour_table, tmp_path, keep_labels=0.5, hide_seed=2, validation_share=0, max_test_images=3).settings, 0
    )
    assert (shorter.of_split("train").labels == images.of_split("train").labels).all()


def test_a_missing_parameter_of_a_protocol_is_an_error(colour_table, tmp_path):
    with pytest.raises(HalflabelError, match="needs 'per_label'"):
        load_data(recipe(colour_table, tmp_path, hide_protocol="per_label").settings, 0)


def test_no_known_entry_at_all_is_an_error_even_when_not_strict(colour_images):
    nothing = colour_images.with_labels(np.full_like(colour_images.labels, -100))
    with pytest.raises(HalflabelError, match="red, blue"):
        report_labels(count_labels(nothing.labels), ("red", "blue"), strict=False)


@pytest.mark.parametrize("cached", [True, False])
def test_the_head_starts_from_the_training_data(colour_table, tmp_path, tiny_model, cached):
    made = recipe(colour_table, tmp_path, freeze_backbone=True, cache_features=cached, unknown="negative")
    data = prepare_data(made)
    processor = TimmMultiLabelImageProcessor.from_backbone(tiny_model.backbone)
    train = data.images.of_split("train")
    targets = training_targets(train.labels, train.label_space.names, made.settings)
    sets = make_datasets(made, tiny_model, processor, data)
    start_head(tiny_model, sets["train"], data.target_counts(made.settings))
    assert {split: len(part) for split, part in sets.items()} == {"train": 27, "validation": 5, "test": 16}
    assert (sets["train"].labels == targets).all()
    positive = (data.images.of_split("train").labels == 1).sum(axis=0)
    expected = torch.logit(torch.from_numpy((positive + 1) / (27 + 2)).float())  # unknown was taken as no: 27 known
    torch.testing.assert_close(tiny_model.head.linear.bias.detach(), expected)
    if cached:
        mean = sets["train"].features.mean(dim=0)
        torch.testing.assert_close(tiny_model.head.feature_mean, mean, rtol=1e-4, atol=1e-5)
    else:
        assert isinstance(sets["train"], PixelDataset)
        assert (tiny_model.head.feature_scale == 1).all()
