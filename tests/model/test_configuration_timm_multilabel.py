import json
from importlib.metadata import version

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageClassification, TrainingArguments

from halflabel import (
    DecisionRule,
    HalflabelError,
    MultiLabelTrainer,
    TimmMultiLabelConfig,
    TimmMultiLabelImageProcessor,
)
from halflabel.data.pixels import PixelDataset, collate
from halflabel.model.configuration_timm_multilabel import VERSION, short_card


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
        ({"head": "mlp", "head_args": {"dropout": 1}}, "head 'mlp': dropout is 1, expected .* below 1"),
        ({"head": "csra", "head_args": {"lamb": 1}}, "takes no argument 'lamb'.*did you mean lam"),
        ({"head_args": [1]}, "head_args"),
        ({"loss": "bcee"}, "did you mean bce"),
        ({"loss": "asl", "loss_args": {"gamma": 2}}, "takes no argument 'gamma'"),
        ({"pos_weight": [1.0, 2.0]}, "pos_weight holds 2 values for 1 labels"),
        ({"pos_weight": [0.0]}, "pos_weight holds 0.0, expected a number above 0"),
        ({"label_weight": [-1.0]}, "label_weight holds -1.0, expected a number of at least 0"),
        ({"normalizer": "label"}, "did you mean labels"),
        ({"normaliser": "labels"}, "unknown configuration key 'normaliser'; did you mean normalizer"),
        ({"id2label": {0: "a", 2: "b"}}, "numbered 0, 2"),
        ({"decisions": DecisionRule.plain(2).to_dict()}, "decisions were fitted for 2 labels, not these 1"),
        ({"decisions": {"scale": [1.0]}}, "decisions: shift is missing"),
        ({"decisions": [1]}, r"decisions is \[1\], expected a mapping"),
        ({"halflabel_version": None}, "halflabel_version is None, expected a version like '"),
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


def test_only_a_newer_minor_version_is_refused_and_before_its_keys(tmp_path):
    assert version("halflabel") == VERSION
    TimmMultiLabelConfig(label_names=["a"]).save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    assert content["halflabel_version"] == version("halflabel")
    major, minor, patch = map(int, version("halflabel").split("."))
    older = {key: value for key, value in content.items() if key != "halflabel_version"}
    for readable in (older, {**content, "halflabel_version": f"{major}.{minor}.{patch + 9}"}):
        (tmp_path / "config.json").write_text(json.dumps(readable))
        assert AutoConfig.from_pretrained(tmp_path).halflabel_version == version("halflabel")
    for newer in (f"{major}.{minor + 1}.0", f"{major + 1}.0.0.dev3"):
        (tmp_path / "config.json").write_text(json.dumps({**content, "halflabel_version": newer, "new": 1}))
        with pytest.raises(HalflabelError, match=f"saved by halflabel {newer}, and this is halflabel {major}"):
            AutoConfig.from_pretrained(tmp_path)


def test_head_arguments_survive_the_file(tmp_path):
    args = {"temperatures": [1, 2.5, "max"], "lam": 0.3}
    TimmMultiLabelConfig(label_names=["a"], head="csra", head_args=args).save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).head_args == args


KEYS = {
    "label_names": ["a", "b", "c"],
    "pos_weight": [2.0, 3.0, 4.0],
    "label_weight": [0.5, 0.0, 1.0],
    "loss": "selective",
    "loss_args": {"gamma_unknown": 0.2, "prior": [0.1, 0.2, 0.3]},
}


def test_what_is_set_per_label_follows_the_label(caplog):
    config = TimmMultiLabelConfig(**KEYS)
    fewer = config.with_labels(["c", "a"])
    assert (fewer.pos_weight, fewer.label_weight) == ([4.0, 2.0], [1.0, 0.5])
    assert fewer.loss_args == {"gamma_unknown": 0.2, "prior": [0.3, 0.1]}
    assert not caplog.records
    more = config.with_labels(["a", "b", "c", "d"])
    assert (more.pos_weight, more.label_weight) == ([2.0, 3.0, 4.0, 1.0], [0.5, 0.0, 1.0, 1.0])
    assert more.loss_args == {"gamma_unknown": 0.2}
    assert [record.getMessage() for record in caplog.records] == [
        "the loss's prior is dropped: the new labels have none",
        "pos_weight is 1 for the new labels",
        "label_weight is 1 for the new labels",
    ]
    assert config.pos_weight == KEYS["pos_weight"]
    assert (config.loss_args, config.label_space.names) == (KEYS["loss_args"], ("a", "b", "c"))


def test_other_labels_inherit_nothing():
    config = TimmMultiLabelConfig(**KEYS)
    for other in (config.with_labels(["x", "y"]), config.with_labels(["a", "b", "c"], keep=False)):
        assert (other.pos_weight, other.label_weight) == (None, None)
        assert other.loss_args == {"gamma_unknown": 0.2}
        assert other.loss == "selective"


def test_the_head_and_its_arguments_stay_or_go():
    config = TimmMultiLabelConfig(label_names=["a"], head="mlp", head_args={"layers": 2})
    assert config.with_labels(["b"]).head_args == {"layers": 2}
    assert config.with_labels(["b"], head_args={"width": 8}).head_args == {"width": 8}
    assert config.with_labels(["b"], head="linear").head_args is None


def with_decisions(**keys):
    decisions = DecisionRule.plain(3).to_dict() | {
        "scale": [0.5, 0.25, 2.0],
        "thresholds": [0.1, 0.2, 2.0],
        "known": [30, 20, 10],
        "unmet": [False, False, True],
        "calibration": "temperature",
        "objective": "precision>=0.9",
    }
    return TimmMultiLabelConfig(label_names=["a", "b", "c"], decisions=decisions, **keys)


def test_decisions_survive_the_file_and_without_any_yes_starts_at_a_half(tmp_path):
    config = with_decisions()
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert loaded.decisions == config.decisions
    assert loaded.decision_rule == config.decision_rule == DecisionRule.from_dict(config.decisions, 3)
    assert loaded.decision_rule.scores([[2.0, 4.0, 0.5]]).std() == 0
    assert TimmMultiLabelConfig(label_names=["a", "b"]).decision_rule == DecisionRule.plain(2)


def test_decisions_follow_their_labels_and_new_ones_are_named(caplog):
    config = with_decisions()
    rule = config.with_labels(["c", "a"]).decision_rule
    assert (rule.scale, rule.thresholds, rule.known) == ((2.0, 0.5), (2.0, 0.1), (10, 30))
    assert (rule.unmet, rule.objective) == ((True, False), "precision>=0.9")
    assert not caplog.records
    rule = config.with_labels(["a", "d", "b"]).decision_rule
    assert (rule.scale, rule.thresholds, rule.known) == ((0.5, 1.0, 0.25), (0.1, 0.5, 0.2), (30, 0, 20))
    assert [record.getMessage() for record in caplog.records] == [
        "the new labels are not calibrated and answered with yes from a score of 0.5: d"
    ]
    assert config.decision_rule.known == (30, 20, 10)


def test_decisions_of_other_labels_go_and_the_log_says_so(caplog):
    config = with_decisions(head="mlp", head_args={"width": 8})
    assert config.with_labels(["x"]).decisions is None
    assert [record.getMessage() for record in caplog.records] == ["decisions is dropped: no label stays"]
    assert config.with_labels(["a", "b", "c"], keep=False).decisions is None
    assert config.with_labels(["b"], head="mlp").decision_rule.scale == (0.25,)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"pos_weight": [-1.0, 2.0]}, "pos_weight holds -1.0"),
        ({"label_weight": [float("nan"), 1.0]}, "label_weight holds nan"),
        ({"loss": "bcee"}, "did you mean bce"),
        ({"loss_args": {"gamma": 2}}, "takes no argument 'gamma'"),
        ({"head": "liner"}, "did you mean linear"),
        ({"normalizer": "label"}, "did you mean labels"),
        ({"decisions": {"scale": [1.0]}}, "decisions: shift is missing"),
        ({"label2id": {"a": 0, "b": 2}}, "label2id is numbered 0, 2"),
        ({"id2label": {0: "a", 1: "b"}, "label2id": {"b": 0, "a": 1}}, "id2label says a, b, and label2id b, a: they"),
        ({"id2label": {"0": "a", "x": "b"}}, "expected numbers from 0 and label names"),
        ({"num_labels": 3, "id2label": {0: "a", 1: "b"}}, "num_labels is 3, and id2label names 2: a, b"),
        ({"num_labels": 10**9}, "num_labels is 1000000000, expected a whole number of at least 1 and at most 100000"),
        ({"problem_type": "regression"}, "problem_type is 'regression', expected multi_label_classification"),
        ({"attn_implementation": "someone/kernel"}, "attn_implementation is 'someone/kernel', expected eager or sdpa"),
    ],
)
def test_what_overrides_a_saved_configuration_is_checked_as_if_it_stood_there(override, message, tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    for load in (TimmMultiLabelConfig.from_pretrained, AutoModelForImageClassification.from_pretrained):
        with pytest.raises(HalflabelError, match=message):
            load(tmp_path, **override)


@pytest.mark.parametrize(
    "labels",
    [
        {"id2label": {"1": "b", "0": "a", "2": "c"}},
        {"label2id": {"b": 1, "a": 0, "c": 2}},
        {"id2label": {"0": "a", "1": "b", "2": "c"}, "label2id": {"a": "0", "b": "1", "c": "2"}, "num_labels": 3},
    ],
)
def test_other_labels_may_be_said_as_the_stock_scripts_do(labels, tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path, **labels)
    assert (config.id2label, config.label2id) == ({0: "a", 1: "b", 2: "c"}, {"a": 0, "b": 1, "c": 2})
    assert AutoConfig.from_pretrained(tmp_path, num_labels=2).label_space.names == ("red", "blue")
    assert AutoConfig.from_pretrained(tmp_path, num_labels=3).label_space.names == ("LABEL_0", "LABEL_1", "LABEL_2")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("pos_weight", [-1.0, 2.0], "pos_weight holds -1.0"),
        ("id2label", {0: "a", 2: "b"}, "numbered 0, 2"),
        ("backbone_args", {"act_layer": torch.nn.GELU}, "backbone_args: .* which no file can hold"),
        ("note", "trained on Monday", "has 'note', which no saved one may have"),
    ],
)
def test_what_was_set_and_cannot_be_loaded_again_is_refused_before_training_and_saving(
    key, value, message, tiny_model, colour_images, tmp_path
):
    setattr(tiny_model.config, key, value)
    with pytest.raises(HalflabelError, match=message):
        tiny_model.save_pretrained(tmp_path / "model")
    dataset = PixelDataset(
        colour_images, TimmMultiLabelImageProcessor.from_backbone(tiny_model.backbone).eval_transform()
    )
    trainer = MultiLabelTrainer(
        model=tiny_model,
        args=TrainingArguments(tmp_path / "run", max_steps=1, report_to="none", remove_unused_columns=False),
        data_collator=collate,
        train_dataset=dataset,
    )
    with pytest.raises(HalflabelError, match=message):
        trainer.train()
    assert trainer.state.global_step == 0


def test_the_key_that_transformers_advises_to_set_can_be_saved(tiny_model, tmp_path):
    tiny_model.config.tie_word_embeddings = False  # the words of its warning about tied weights
    tiny_model.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).tie_word_embeddings is False


def test_the_short_card_shows_marks_in_names_as_codes_and_names_the_labels():
    names = ["safe\u202eevil", "````", "naïve"]
    card = short_card(TimmMultiLabelConfig(backbone="test_resnet", label_names=names), "me/model")
    assert "\u202e" not in card.content
    shown = card.content.split("````json\n")[1].split("\n````\n")[0]
    assert list(json.loads(shown)) == names
    assert "naïve" in shown
