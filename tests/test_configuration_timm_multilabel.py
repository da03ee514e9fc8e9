import json

import pytest
from transformers import AutoConfig

from halflabel import HalflabelError, TimmMultiLabelConfig


def test_round_trip_through_auto_config(tmp_path):
    config = TimmMultiLabelConfig(backbone="test_vit", label_names=["b", "a"], normalizer="tasks")
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, TimmMultiLabelConfig)
    assert loaded.label_space.names == ("b", "a")
    assert loaded.normalizer == "tasks"
    assert loaded.problem_type == "multi_label_classification"
    assert loaded.to_diff_dict() == config.to_diff_dict()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label_names": ["a", "a"]}, "more than once: a"),
        ({"label_names": [""]}, "non-empty"),
        ({"backbone": "resnet_50"}, "did you mean .*resnet50"),
        ({"backbone": "resnet50.a9_in1k"}, "a1_in1k"),
        ({"head": "liner"}, "did you mean linear"),
        ({"loss": "bcee"}, "did you mean bce"),
        ({"loss": "asl", "loss_args": {"gamma": 2}}, "takes no argument 'gamma'"),
        ({"pos_weight": [1.0, 2.0]}, "pos_weight holds 2 numbers for 1 labels"),
        ({"pos_weight": [0.0]}, "pos_weight holds 0.0, expected above 0"),
        ({"label_weight": [-1.0]}, "label_weight holds -1.0, expected at least 0"),
        ({"normalizer": "label"}, "did you mean labels"),
        ({"normaliser": "labels"}, "unknown configuration key 'normaliser'; did you mean normalizer"),
        ({"id2label": {0: "a", 2: "b"}}, "numbered 0, 2"),
    ],
)
def test_faults_are_named(arguments, message):
    with pytest.raises(HalflabelError, match=message):
        TimmMultiLabelConfig(**{"label_names": ["a"], **arguments} if "id2label" not in arguments else arguments)


def test_an_unknown_key_in_a_saved_file_is_an_error(tmp_path):
    TimmMultiLabelConfig(label_names=["a"]).save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**content, "haed": "linear"}))
    with pytest.raises(HalflabelError, match="'haed'; did you mean head"):
        AutoConfig.from_pretrained(tmp_path)
