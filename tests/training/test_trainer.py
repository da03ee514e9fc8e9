import math
import os
import re
from pathlib import Path

import exactness
import numpy as np
import pytest
import torch
import yaml
from forked import in_two_processes
from safetensors.torch import load_file
from transfer_runs import make_model, make_trainer
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainerState, TrainingArguments

from halflabel import (
    IGNORE_INDEX,
    HalflabelError,
    MultiLabelTrainer,
    TimmMultiLabelForImageClassification,
    TimmMultiLabelImageProcessor,
)
from halflabel.data.pixels import FeatureDataset, PixelDataset, collate
from halflabel.metrics.trainer import trainer_metrics
from halflabel.training.checkpoints import find_fault
from halflabel.training.trainer import SaveAndStop, TellEpoch, describe_log
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


def loss_by_hand(loss, normalizer):
    """The model's loss over all known entries at once, with loops, in float64."""
    model, features, labels = exactness.head_model(loss, normalizer)
    with torch.no_grad():
        logits = model.double()(features=features.double()).logits.tolist()
    config, losses = model.config, {}
    for i, j in np.argwhere(labels >= 0):
        z, y, w = logits[i][j], labels[i, j], config.pos_weight[j]
        p = 1 / (1 + math.exp(-z))
        focus = ((1 - p) ** 2, p**2) if loss == "focal" else (1, 1)
        losses[i, j] = -config.label_weight[j] * (y * w * focus[0] * math.log(p) + (1 - y) * focus[1] * math.log(1 - p))
    if normalizer != "tasks":
        return sum(losses.values()) / (len(losses) if normalizer == "labels" else len(labels))
    by_label = [[value for (_, j), value in losses.items() if j == label] for label in range(exactness.LABELS)]
    return sum(sum(one) / len(one) for one in by_label) / exactness.LABELS


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """The losses of evaluations in batches of several sizes, in one process, and in each of two."""
    folder = tmp_path_factory.mktemp("evaluated")
    in_two_processes(exactness.write_evaluation_losses, folder, (1, 3, 8, 64), folder=folder)
    alone = {size: exactness.evaluation_losses(folder / "run", size) for size in (1, 3, 8, 64)}
    return [alone, *(torch.load(folder / f"losses.{rank}", weights_only=True) for rank in (0, 1))]


@pytest.mark.parametrize(("loss", "normalizer"), exactness.EVALUATED)
def test_the_loss_of_an_evaluation_is_over_known_entries_whatever_the_batches_and_processes(
    evaluated, loss, normalizer
):
    """Of 20 images eight know nothing, and others only some; a mean of batch means tells the size of the batches."""
    expected = loss_by_hand(loss, normalizer)
    for losses in evaluated:
        for size, found in losses.items():
            assert found[loss, normalizer] == pytest.approx(expected, rel=2e-6), size


def test_several_processes_measure_the_network_that_is_saved(tmp_path):
    """In training each process has its own statistics of BatchNorm; a checkpoint has those of the first."""
    in_two_processes(exactness.write_evaluated_loss, tmp_path, folder=tmp_path)
    expected = exactness.evaluated_loss(tmp_path / "run")
    for rank in (0, 1):
        assert float((tmp_path / f"loss.{rank}").read_text()) == pytest.approx(expected, rel=2e-6)


def test_the_best_checkpoint_by_loss_is_that_of_the_least_loss_over_known_entries(tmp_path):
    """`loss` is what transformers takes where no measure is named."""
    trainer = make_trainer(
        make_model(), tmp_path, num_train_epochs=3, save_strategy="epoch", eval_strategy="epoch",
        load_best_model_at_end=True, per_device_eval_batch_size=3,
    )  # fmt: skip
    trainer.compute_metrics = trainer_metrics
    trainer.train()
    evaluations = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    for entry in evaluations:
        assert entry["eval_loss"] == pytest.approx(entry["eval_known_loss"], rel=1e-5)
    assert trainer.state.best_metric == min(entry["eval_loss"] for entry in evaluations)


def test_an_evaluation_that_knows_nothing_has_no_loss_of_0(tmp_path):
    trainer = make_trainer(make_model(), tmp_path)
    trainer.eval_dataset.labels[:] = IGNORE_INDEX
    assert math.isnan(trainer.evaluate()["eval_loss"])


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
    "keys", [{"max_steps": 6}, {"num_train_epochs": 1.5}, {"num_train_epochs": 9, "patience": 1}], ids=str
)
def test_a_finished_training_that_is_resumed_takes_no_step(tmp_path, caplog, keys):
    """Also where it ends within an epoch, where the stock Trainer takes one step more each time, or by patience."""
    settings = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2,
                "load_best_model_at_end": True, "metric_for_best_model": "mAP", "seed": 1, **keys}  # fmt: skip
    patience = settings.pop("patience", 9)

    def run(**train):
        scores = iter([0.2, 0.9, 0.1, 0.3])
        stop = EarlyStoppingCallback(early_stopping_patience=patience)
        trainer = make_trainer(make_model(), tmp_path, [stop], **settings)
        trainer.compute_metrics = lambda found: {"mAP": next(scores)}
        trainer.train(**train)
        return trainer.model.state_dict(), trainer.state.global_step, sorted(path.name for path in tmp_path.iterdir())

    weights, steps, files = run()
    assert (steps, files) == (6, ["checkpoint-2", "checkpoint-4", "checkpoint-6"])
    again, steps, there = run(resume_from_checkpoint=True)
    assert (steps, there) == (6, files)
    assert all(torch.equal(tensor, again[name]) for name, tensor in weights.items())
    assert f"{tmp_path / 'checkpoint-6'} is the end of its training: no step is left" in caplog.text


def test_patience_is_counted_on_from_the_checkpoint(tmp_path):
    """One evaluation without a better one before the break and one after it are two."""
    settings = {"save_strategy": "epoch", "eval_strategy": "epoch", "metric_for_best_model": "mAP",
                "load_best_model_at_end": True, "num_train_epochs": 9}  # fmt: skip

    def steps(scores, **train):
        trainer = make_trainer(make_model(), tmp_path, [EarlyStoppingCallback(early_stopping_patience=2)], **settings)
        trainer.compute_metrics = lambda found: {"mAP": scores.pop(0)}
        trainer.train(**train)
        return trainer.state.global_step

    assert steps([0.9, 0.1, 0.2]) == 12
    assert steps([0.2, 0.3], resume_from_checkpoint=str(tmp_path / "checkpoint-8")) == 12


def test_a_checkpoint_of_other_labels_is_refused(tmp_path):
    """Weights fit by their shapes, and an answer for one label would become that for another."""
    settings = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    make_trainer(make_model(), tmp_path, **settings).train()
    model = make_model()
    model.config.id2label = {0: "b", 1: "a"}
    with pytest.raises(HalflabelError, match="checkpoint-2 is of a model with the labels a, b, not b, a"):
        make_trainer(model, tmp_path, **settings).train(resume_from_checkpoint=True)


def diverging(table, folder, lines):
    """Return a command that trains at a rate that is too high."""
    keys = {"data": str(table), "backbone": "test_resnet", "weights": "none", "output_dir": str(folder / "out"),
            "report_to": "none", "learning_rate": 1000, "optim": "sgd", "lr_scheduler_type": "constant",
            "use_cpu": True, "max_grad_norm": 0, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 1,
            "log_epochs": lines, "eval_strategy": "no", "validation_share": 0, "num_train_epochs": 9,
            "per_device_train_batch_size": 4}  # fmt: skip
    (folder / "r.yaml").write_text(yaml.safe_dump(keys))
    return ["train", str(folder / "r.yaml")]


def check_diverged(printed, folder):
    """One line with the rate and the last checkpoint, which is a good one; nothing shows a loss of 0."""
    (line,) = [line for line in printed.splitlines() if "error" in line]
    told = (
        r"halflabel: error: step (\d+) of \d+ has a (?:loss|weight) that is not finite, and training has stopped: "
        r"start afresh in another --output_dir with a --learning_rate below 1000; (.*) is kept"
    )
    found = re.fullmatch(told, line)
    step, checkpoint = int(found[1]), Path(found[2])
    assert step > 2
    assert checkpoint == folder / "out" / f"checkpoint-{step - 1}"
    assert all(tensor.isfinite().all() for tensor in load_file(checkpoint / "model.safetensors").values())
    assert find_fault(checkpoint) is None
    assert not (folder / "out" / "metrics.json").exists()
    assert not re.search(r"loss 0(,|$)", printed)
    assert "Traceback" not in printed


def test_a_loss_that_is_not_finite_ends_the_run(colour_table, tmp_path, capsys):
    assert main(diverging(colour_table, tmp_path, lines=False)) == 2
    check_diverged(capsys.readouterr().err, tmp_path)


def test_a_loss_that_is_not_finite_ends_the_run_in_all_processes(colour_table, tmp_path):
    for printed in in_two_processes(main, diverging(colour_table, tmp_path, lines=True), folder=tmp_path, code=2):
        check_diverged(printed, tmp_path)


class Spoil(TrainerCallback):
    """A step leaves a weight that is not finite."""

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step == 4:
            model.head.linear.bias.data[0] = float("inf")


@pytest.mark.parametrize("settings", [{"save_strategy": "steps", "save_steps": 2}, {"save_strategy": "epoch"}], ids=str)
def test_weights_that_are_not_finite_are_neither_evaluated_nor_saved(tmp_path, settings):
    trainer = make_trainer(make_model(), tmp_path, [Spoil()], save_total_limit=1, num_train_epochs=1, **settings)
    with pytest.raises(
        HalflabelError, match=r"step 4 of 4 has a weight that is not finite.*--learning_rate below 0.01; "
    ):
        trainer.train()
    assert [path.name for path in tmp_path.iterdir()] == (["checkpoint-2"] if "save_steps" in settings else [])


class Listening(TrainerCallback):
    """A training that notes whether SIGTERM would be heard, and then fails."""

    def on_step_end(self, args, state, control, **kwargs):
        self.heard = SaveAndStop.running
        raise RuntimeError("as it happens")


def test_after_a_training_that_failed_nobody_listens_for_sigterm(tmp_path):
    listening = Listening()
    trainer = make_trainer(make_model(), tmp_path, [SaveAndStop(), listening], save_strategy="epoch")
    with pytest.raises(RuntimeError, match="as it happens"):
        trainer.train()
    assert listening.heard
    assert not SaveAndStop.ask()


class SetClockBack(TrainerCallback):
    """After each checkpoint the clock is set back by a day: what was written before is of the future."""

    def on_save(self, args, state, control, **kwargs):
        for path in Path(args.output_dir).glob("checkpoint-*"):
            os.utime(path, (path.stat().st_mtime + 86400,) * 2)


def test_a_clock_that_is_set_back_loses_no_checkpoint(tmp_path):
    """The last one and, with a limit of 1, nothing else; what is not a checkpoint of the Trainer's is left alone."""
    (tmp_path / "checkpoint-4-of-mine").mkdir()
    trainer = make_trainer(
        make_model(), tmp_path, [SetClockBack()], save_strategy="steps", save_steps=2, save_total_limit=1
    )
    trainer.train()
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-8", "checkpoint-4-of-mine"}
    assert not find_fault(tmp_path / "checkpoint-8")


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
