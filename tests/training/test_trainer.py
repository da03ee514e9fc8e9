import logging

import exactness
import numpy as np
import pytest
import torch
from forked import in_two_processes
from safetensors.torch import load_file
from transfer_runs import make_model, make_trainer
from transformers import Trainer, TrainerState, TrainingArguments

from halflabel import (
    HalflabelError,
    MultiLabelTrainer,
    TimmMultiLabelForImageClassification,
    TimmMultiLabelImageProcessor,
    trainer_metrics,
)
from halflabel.data.pixels import FeatureDataset, PixelDataset, collate
from halflabel.training.trainer import TellEpoch, describe_log
from halflabel_cli import main

IN_TWO_PROCESSES = [(12, 1), (4, 3)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return exactness.all_updates(tmp_path_factory.mktemp("whole"), 24, 1)


def assert_same_updates(updates, whole):
    assert updates.keys() == whole.keys()
    for key, update in updates.items():
        assert whole[key].norm() > 1e-3, key
        assert (update - whole[key]).norm() / whole[key].norm() < 1e-5, key


@pytest.mark.parametrize(("size", "steps"), [(4, 6), (12, 2), (7, 3)])
def test_a_step_in_pieces_is_the_step_at_once(tmp_path, whole, size, steps):
    """20 rows as 1 x 20, 5 x 4, 12 + 8, 7 + 7 + 6; some pieces know everything and some nothing."""
    assert_same_updates(exactness.all_updates(tmp_path, size, steps), whole)


@pytest.fixture(scope="module")
def of_two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    in_two_processes(exactness.write_updates, folder, IN_TWO_PROCESSES, folder=folder)
    return torch.load(folder / "updates.pt", weights_only=True)


@pytest.mark.parametrize("split", IN_TWO_PROCESSES)
def test_two_processes_make_the_step_of_one(of_two_processes, whole, split):
    """Twice 12 places for 20 rows: four repeats fill the last batch. With 12 the second process knows nothing."""
    assert_same_updates(of_two_processes[split], whole)


def test_the_stock_trainer_is_exact_for_known_entries_and_refused_for_other_counts(tmp_path, whole):
    once = exactness.update(tmp_path, "focal", {}, "labels", 4, 6, trainer_class=Trainer)
    assert (once - whole["focal", "labels"]).norm() / whole["focal", "labels"].norm() < 1e-5
    for loss, normalizer in (("bce", "images"), ("bce", "tasks"), ("wan", "labels")):
        with pytest.raises(HalflabelError, match="halflabel.MultiLabelTrainer"):
            exactness.update(tmp_path, loss, {}, normalizer, 4, 6, trainer_class=Trainer)
    with pytest.raises(HalflabelError, match="depends on the epoch"):
        exactness.update(tmp_path, "splc", {}, "labels", 4, 6, trainer_class=Trainer)


@pytest.mark.parametrize(("epoch", "done"), [(0, 0), (0.5, 0), (1.0, 1), (2.9999999999, 3), (None, 0)])
def test_the_model_and_the_data_are_told_the_epochs_done(tiny_model, epoch, done):
    """A run resumed within an epoch starts with a fraction."""
    dataset = FeatureDataset(torch.arange(3.0)[:, None], np.zeros((1, 2), np.int8), views=3)
    TellEpoch(dataset).on_epoch_begin(None, TrainerState(epoch=epoch), None, model=tiny_model)
    assert tiny_model.epoch == done
    assert int(dataset[0]["features"]) == done % 3


def test_an_epoch_dependent_loss_resumes_to_the_same_weights(tmp_path):
    features, labels = exactness.rows()

    class Stop(exactness.MultiLabelTrainer):
        stop_after = 10**9

        def training_step(self, *arguments, **keywords):
            if self.state.global_step == self.stop_after:
                raise KeyboardInterrupt
            return super().training_step(*arguments, **keywords)

    def trainer(folder):
        torch.manual_seed(0)
        model = TimmMultiLabelForImageClassification.from_backbone(
            "test_resnet", list("abcde"), weights=None, loss="ll_ct", loss_args={"delta": 0.2}
        )
        model.freeze_backbone()
        wide = features.repeat(1, 1 + model.head.in_features // 16)[:, : model.head.in_features]
        arguments = exactness.TrainingArguments(
            output_dir=folder, num_train_epochs=4, per_device_train_batch_size=5, optim="sgd", learning_rate=0.1,
            report_to="none", use_cpu=True, save_strategy="steps", save_steps=6, disable_tqdm=True,
            remove_unused_columns=False, dataloader_pin_memory=False, seed=1,
        )  # fmt: skip
        return Stop(model, arguments, exactness.collate, exactness.FeatureDataset(wide, labels))

    full = trainer(tmp_path / "full")
    full.train()
    broken = trainer(tmp_path / "broken")
    broken.stop_after = 8
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    resumed = trainer(tmp_path / "broken")
    resumed.train(resume_from_checkpoint=True)  # from step 6, the middle of the second epoch
    np.testing.assert_array_equal(full.model.head.linear.weight.detach(), resumed.model.head.linear.weight.detach())
    other = trainer(tmp_path / "other")
    other.model.config.loss_args = {"delta": 0.0}
    other.train()
    assert not torch.equal(full.model.head.linear.weight, other.model.head.linear.weight)  # the epoch matters here


def test_the_last_checkpoint_stays_beside_the_best_when_training_is_over(tmp_path):
    """The stock Trainer removes it, and a run that is killed while it measures would train all of it again."""
    scores = iter([0.2, 0.9, 0.1, 0.3])
    trainer = make_trainer(
        make_model(), tmp_path, num_train_epochs=4, save_strategy="epoch", eval_strategy="epoch", save_total_limit=1,
        load_best_model_at_end=True, metric_for_best_model="mAP", seed=1,
    )  # fmt: skip
    trainer.compute_metrics = lambda found: {"mAP": next(scores)}
    trainer.train()
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-8", "checkpoint-16"}
    best = load_file(tmp_path / "checkpoint-8" / "model.safetensors")
    assert all(torch.equal(tensor, best[name]) for name, tensor in trainer.model.state_dict().items())
    state = TrainerState.load_from_json(str(tmp_path / "checkpoint-16" / "trainer_state.json"))
    assert state.best_model_checkpoint == str(tmp_path / "checkpoint-8")


@pytest.mark.parametrize(
    ("logs", "line"),
    [
        (
            {"loss": 0.59791, "grad_norm": 2.4, "learning_rate": 0.004321, "epoch": 1.0},
            "epoch 1: training loss 0.598, learning rate 0.00432",
        ),
        (
            {"eval_mAP": 0.6079, "eval_mAUROC": 0.7344, "eval_known_loss": 0.5221, "eval_undefined_labels": 0,
             "eval_CF1": 0.4, "eval_runtime": 0.01, "eval_samples_per_second": 6124.0, "epoch": 12.5},
            "epoch 12.5: validation mAP 0.608, mAUROC 0.734, loss 0.522",
        ),
        (
            {"eval_mAP": float("nan"), "eval_undefined_labels": 2, "epoch": 1.0},
            "epoch 1: validation mAP undefined, undefined labels 2",
        ),
        (
            {"train_runtime": 15.93, "train_samples_per_second": 2048.0, "train_loss": 0.19, "epoch": 60.0},
            "epoch 60: seconds of training 15.9",
        ),
    ],
)  # fmt: skip
def test_a_log_is_a_short_line(logs, line):
    assert describe_log(logs) == line


@pytest.mark.parametrize("bar", ["false", "true"])
@pytest.mark.parametrize("lines", ["false", "true"])
def test_a_run_prints_lines_of_its_epochs_only_where_it_is_asked_to(colour_table, tmp_path, capsys, bar, lines):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"data: {colour_table}\nbackbone: test_resnet\nweights: none\noutput_dir: {tmp_path / 'out'}\n")
    flags = ["--num_train_epochs", "2", "--use_cpu", "--disable_tqdm", bar, "--log_epochs", lines]
    assert main(["train", str(recipe), *flags]) == 0
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    if lines == "false":
        assert not printed
        return
    assert [line.split(" ")[:3] for line in printed[:4]] == [
        ["epoch", "1:", "training"], ["epoch", "1:", "validation"],
        ["epoch", "2:", "training"], ["epoch", "2:", "validation"],
    ]  # fmt: skip
    assert len(printed) == 5
    assert printed[4].startswith("epoch 2: seconds ")
    assert "{" not in "".join(printed)


def test_checkpoints_of_one_second_are_no_reason_for_a_warning(capsys):
    main(["train", "nope"])
    said = "mtime may not be reliable on this filesystem, falling back to numerical ordering"
    for text, passes in ((said, False), ("another warning", True)):
        record = logging.LogRecord("transformers.trainer_utils", logging.WARNING, "", 1, text, None, None)
        assert bool(logging.getLogger("transformers.trainer_utils").filter(record)) == passes


def test_a_model_in_adapters_of_peft_trains_counts_and_is_told_the_epoch(tmp_path, colour_images):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    model = TimmMultiLabelForImageClassification.from_backbone(
        "test_resnet", ["red", "blue"], weights=None, loss="splc"
    )
    processor = TimmMultiLabelImageProcessor.from_backbone(model.backbone)
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(r=2, target_modules=["conv1.0", "layer1.0.conv1"], modules_to_save=["head"])
    )
    data = PixelDataset(colour_images, processor.eval_transform())
    arguments = TrainingArguments(
        tmp_path, num_train_epochs=2, per_device_train_batch_size=12, eval_strategy="epoch", report_to="none",
        use_cpu=True, remove_unused_columns=False, disable_tqdm=True, batch_eval_metrics=True,
    )  # fmt: skip
    start = {key: value.clone() for key, value in adapted.state_dict().items()}
    trainer = MultiLabelTrainer(adapted, arguments, collate, data, data, compute_metrics=trainer_metrics)
    trainer.train()
    assert model.epoch == 1
    changed = {key for key, value in adapted.state_dict().items() if not torch.equal(value, start[key])}
    assert any("lora" in key for key in changed)
    assert any("modules_to_save" in key for key in changed)
    assert not any("base_layer.weight" in key for key in changed)
    assert np.isfinite(trainer.evaluate()["eval_known_loss"])
    with pytest.raises(HalflabelError, match="trains models of halflabel, not a Linear"):
        MultiLabelTrainer(torch.nn.Linear(1, 1), arguments, collate, data, data).train()
