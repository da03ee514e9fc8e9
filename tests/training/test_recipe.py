import pytest
import torch
import yaml

from halflabel import HalflabelError
from halflabel.training.recipe import parse_recipe

BASE = {"data": "labels.csv", "backbone": "test_resnet"}


def write(tmp_path, **keys):
    path = tmp_path / "my.yaml"
    path.write_text(yaml.safe_dump({**BASE, "output_dir": str(tmp_path / "out"), **keys}))
    return str(path)


def test_default_then_file_then_command_line(tmp_path):
    path = write(tmp_path, validation_share=0.3)
    assert parse_recipe(path).data.validation_share == 0.3
    assert parse_recipe(path, ["--validation_share", "0.4"]).data.validation_share == 0.4
    assert parse_recipe(path, ["--validation_share=0.4"]).data.validation_share == 0.4
    assert parse_recipe(write(tmp_path)).data.validation_share is None


def test_a_head_on_cached_features_keeps_no_picture_from_training(tmp_path):
    probe = {"cache_features": True, "freeze_backbone": True}
    assert parse_recipe(write(tmp_path)).validation_share == 0.15
    assert parse_recipe(write(tmp_path, **probe)).validation_share == 0
    assert parse_recipe(write(tmp_path, **probe, early_stopping_patience=2)).validation_share == 0.15
    assert parse_recipe(write(tmp_path, **probe, validation_share=0.1)).validation_share == 0.1


def test_a_float_that_yaml_reads_as_text_is_a_number(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text(f"data: a.csv\nbackbone: b\noutput_dir: {tmp_path}/out\nlearning_rate: 1e-3\n")
    assert parse_recipe(str(path), ["--report_to", "tensorboard,wandb"]).arguments.report_to == ["tensorboard", "wandb"]
    assert isinstance(yaml.safe_load(path.read_text())["learning_rate"], str)  # what would go wrong
    assert parse_recipe(str(path)).arguments.learning_rate == 0.001


def test_training_arguments_lists_booleans_and_mappings(tmp_path):
    path = write(tmp_path, seed=5, report_to=["none"], freeze_backbone=True, labels=["a", "b"],
                 backbone_args={"drop_path_rate": 0.1}, lr_scheduler_type="cosine")  # fmt: skip
    recipe = parse_recipe(path, ["--hide_groups", '{"x": ["a"]}'])
    assert recipe.arguments.seed == 5
    assert recipe.arguments.lr_scheduler_type == "cosine"
    assert recipe.training.freeze_backbone is True
    assert recipe.data.labels == ["a", "b"]
    assert recipe.model.backbone_args == {"drop_path_rate": 0.1}
    assert recipe.data.hide_groups == {"x": ["a"]}


def test_null_means_the_default_and_weights_may_be_none(tmp_path):
    recipe = parse_recipe(write(tmp_path, labels=None, weights=None))
    assert recipe.data.labels is None
    assert recipe.model.weights is None  # never the default, which would be a download


@pytest.mark.parametrize(
    ("keys", "overrides", "message"),
    [
        ({"backbonne": "x"}, [], "unknown key 'backbonne'; did you mean backbone"),
        ({"learning_rat": 1}, [], "did you mean learning_rate"),
        ({}, ["--num_train_epoch", "3"], "unknown option --num_train_epoch; did you mean num_train_epochs"),
        ({"learning_rate": "fast"}, [], "learning_rate.*'fast'"),
        ({"unknown": "maybe"}, [], "unknown: 'maybe' is none of ignore, negative, positive"),
        ({"uncertain": "yes"}, [], "uncertain: 'yes' is none of"),
        ({"loss": "focall"}, [], "did you mean focal"),
        ({"loss": "asl", "loss_args": {"gamma": 1}}, [], "takes no argument 'gamma'"),
        ({"normalizer": "task"}, [], "did you mean tasks"),
        ({"cache_features": True}, [], "freeze_backbone"),
        ({"head_args": "[1]"}, [], "head_args.*mapping"),
        ({"lr_scheduler_type": "sinus"}, [], "sinus"),
    ],
)
def test_faults_are_named(tmp_path, keys, overrides, message):
    with pytest.raises(HalflabelError, match=message) as error:
        parse_recipe(write(tmp_path, **keys), overrides)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [", "", "just words"])
def test_files_that_are_no_recipe(tmp_path, text):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(HalflabelError, match=r"x\.yaml"):
        parse_recipe(str(tmp_path / "x.yaml"))


def test_an_unknown_name_lists_the_shipped_ones():
    with pytest.raises(HalflabelError, match="did you mean quickstart"):
        parse_recipe("quikstart")


def test_a_required_key_that_is_missing(tmp_path):
    (tmp_path / "x.yaml").write_text("backbone: test_resnet\n")
    with pytest.raises(HalflabelError, match="data"):
        parse_recipe(str(tmp_path / "x.yaml"))


def test_resume_without_a_value_means_the_last_checkpoint(tmp_path):
    assert parse_recipe(write(tmp_path), ["--resume_from_checkpoint"]).arguments.resume_from_checkpoint == "true"
    given = parse_recipe(write(tmp_path), ["--resume_from_checkpoint", "x", "--seed", "1"])
    assert (given.arguments.resume_from_checkpoint, given.arguments.seed) == ("x", 1)


def test_processes_without_an_accelerator_know_that_they_are_on_cpus(monkeypatch):
    recipe = parse_recipe("quickstart")
    assert recipe.arguments.use_cpu is not torch.accelerator.is_available()
    assert "use_cpu" not in recipe.said  # a recipe written here is also run where there is one
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert not parse_recipe("quickstart").arguments.use_cpu


def test_a_key_that_is_gone_is_passed_over_where_it_said_nothing_and_refused_where_it_did(tmp_path):
    assert parse_recipe(write(tmp_path, teacher_weight=None, teacher_ramp=0.3)).model.backbone == "test_resnet"
    with pytest.raises(HalflabelError, match=r"my.yaml: teacher_weight is gone since version 0\.2: .* leave it out$"):
        parse_recipe(write(tmp_path, teacher_weight=1.0))


def test_fields_of_the_trainer_are_checked_where_a_recipe_is_changed(tmp_path):
    recipe = parse_recipe(write(tmp_path))
    for keys, message in (
        ({"optim": "adam"}, "optim adam: adam is not a valid OptimizerNames"),
        ({"learning_rat": 1}, "unexpected keyword argument 'learning_rat'"),
        ({"eval_steps": 1.5, "eval_strategy": "steps"}, "must be an integer if bigger than 1"),
        ({"fp16": True}, "fp16 needs a GPU"),
    ):
        with pytest.raises(HalflabelError, match=message):
            recipe.change(**keys)
    changed = recipe.change(report_to="wandb,tensorboard", save_strategy="no")
    assert changed.arguments.report_to == ["wandb", "tensorboard"]
    assert (recipe.arguments.load_best_model_at_end, changed.arguments.load_best_model_at_end) == (True, False)
    with pytest.raises(HalflabelError, match="wandb is not installed"):
        changed.check_installed()


@pytest.mark.parametrize("measure", ["known_loss", "eval_loss"])
def test_of_a_loss_the_least_is_the_best(tmp_path, measure):
    recipe = parse_recipe(write(tmp_path))
    assert recipe.arguments.greater_is_better
    assert not parse_recipe(write(tmp_path), ["--metric_for_best_model", measure]).arguments.greater_is_better
    assert not recipe.change(metric_for_best_model=measure).arguments.greater_is_better


def test_a_bare_no_of_yaml_is_the_word_of_a_strategy(tmp_path):
    (tmp_path / "my.yaml").write_text("data: a.csv\nbackbone: test_resnet\neval_strategy: no\nsave_strategy: no\n")
    arguments = parse_recipe(str(tmp_path / "my.yaml")).arguments
    assert (arguments.eval_strategy, arguments.save_strategy) == ("no", "no")
