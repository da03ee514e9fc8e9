import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification

from halflabel import HalflabelError
from halflabel.training.averaging import AverageWeights, averaging_decay
from halflabel.training.resuming import TRAINING_WEIGHTS

spec = importlib.util.spec_from_file_location(
    "transfer_runs", Path(__file__).parents[1] / "helpers" / "transfer_runs.py"
)
runs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(runs)
one_thread = runs.one_thread
pytestmark = pytest.mark.usefixtures("one_thread")


def by_hand(start, weights, decay):
    """The averages after each step, in float64, and integers as they are."""
    average, found = {name: t.double() if t.is_floating_point() else t for name, t in start.items()}, []
    for step, current in enumerate(weights):
        d = min(decay, (1 + step) / (10 + step))
        average = {
            name: d * old + (1 - d) * current[name].double() if current[name].is_floating_point() else current[name]
            for name, old in average.items()
        }
        found.append(average)
    return found


def assert_near(found, expected):
    assert found.keys() <= expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor.to(expected[name].dtype), expected[name], rtol=1e-5, atol=1e-6, msg=name)


def test_the_first_steps_keep_little():
    assert [averaging_decay(0.5, steps) for steps in (0, 1, 7, 8, 9, 10**6)] == [0.1, 2 / 11, 8 / 17, 0.5, 0.5, 0.5]
    assert averaging_decay(0.999, 90) == 0.91


@pytest.mark.parametrize("decay", [0.3, 0.99])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_model_ends_as_the_average_made_by_hand(decay, accumulation, tmp_path):
    """BatchNorm's statistics too; an accumulated step counts once."""
    model = runs.make_model()
    start, weights = runs.copies(model), runs.Record(runs.copies)
    trainer = runs.make_trainer(
        model, tmp_path, [weights, AverageWeights(decay)], per_device_train_batch_size=2,
        gradient_accumulation_steps=accumulation,
    )  # fmt: skip
    trainer.train()
    assert len(weights.seen) == 16 // accumulation
    assert_near(runs.copies(model), by_hand(start, weights.seen, decay)[-1])
    distance = (model.head.linear.weight - weights.seen[-1]["head.linear.weight"]).abs().max()
    assert distance > 1e-4


def test_training_itself_does_not_notice(tmp_path):
    """With evaluations and checkpoints in between, the trained weights are those of a run without an average."""
    settings = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 3}
    plain, averaged = runs.Record(runs.copies), runs.Record(runs.copies)
    runs.make_trainer(runs.make_model(), tmp_path / "plain", [plain], **settings).train()
    runs.make_trainer(runs.make_model(), tmp_path / "averaged", [averaged, AverageWeights(0.9)], **settings).train()
    assert len(plain.seen) == 8
    for one, other in zip(plain.seen, averaged.seen, strict=True):
        assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("strategy", ["epoch", "steps", "best"])
def test_evaluation_checkpoints_and_the_best_model_are_averages(strategy, tmp_path):
    model = runs.make_model()
    start, weights, logits, scores = runs.copies(model), runs.Record(runs.copies), [], iter([0.2, 0.9, 0.1, 0.3])
    evaluation = "steps" if strategy == "steps" else "epoch"
    trainer = runs.make_trainer(
        model, tmp_path, [weights, AverageWeights(0.8)], num_train_epochs=4, save_strategy=strategy,
        eval_strategy=evaluation, eval_steps=4, save_steps=4, load_best_model_at_end=True, metric_for_best_model="mAP",
    )  # fmt: skip
    trainer.compute_metrics = lambda found: logits.append(found.predictions.copy()) or {"mAP": next(scores)}
    trainer.train()
    expected = by_hand(start, weights.seen, 0.8)
    pixels = runs.Rows(8).pixels
    for number, step in enumerate((4, 8, 12, 16)):
        other = runs.make_model().eval()
        other.load_state_dict({name: tensor.to(start[name].dtype) for name, tensor in expected[step - 1].items()})
        with torch.no_grad():
            np.testing.assert_allclose(logits[number], other(pixels).logits, rtol=1e-3, atol=1e-5)
        folder = tmp_path / f"checkpoint-{step}"
        if strategy == "best" and step > 8:
            assert not folder.exists()
            continue
        assert_near(load_file(folder / "model.safetensors"), expected[step - 1])
        stored = load_file(folder / TRAINING_WEIGHTS)
        for name, tensor in weights.seen[step - 1].items():
            assert torch.equal(stored[f"trained.{name}"], tensor), name
    assert_near(runs.copies(model), expected[7])  # the second was the best
    trainer.save_model(str(tmp_path / "final"))
    again = AutoModelForImageClassification.from_pretrained(tmp_path / "final").eval()
    with torch.no_grad():
        np.testing.assert_allclose(again(pixels).logits, logits[1], rtol=1e-5, atol=1e-6)
    assert not (tmp_path / "final" / TRAINING_WEIGHTS).exists()


def test_an_evaluation_within_an_epoch_sees_the_average(tmp_path):
    model = runs.make_model()
    start, weights, logits = runs.copies(model), runs.Record(runs.copies), []
    trainer = runs.make_trainer(
        model, tmp_path, [weights, AverageWeights(0.9)], eval_strategy="steps", eval_steps=3, eval_on_start=True
    )
    trainer.compute_metrics = lambda found: logits.append(found.predictions.copy()) or {}
    trainer.train()
    averages = [start, *by_hand(start, weights.seen, 0.9)]
    for step, found in zip((0, 3, 6, 8), logits, strict=True):
        other = runs.make_model().eval()
        other.load_state_dict({name: tensor.to(start[name].dtype) for name, tensor in averages[step].items()})
        with torch.no_grad():
            np.testing.assert_allclose(found, other(runs.Rows(8).pixels).logits, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("save_steps", [3, 4], ids=["within an epoch", "between two"])
def test_an_interrupted_run_resumes_to_the_same_average(save_steps, elsewhere, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": save_steps, "eval_strategy": "steps", "eval_steps": 3}
    whole, weights = runs.make_model(), runs.Record(runs.copies)
    runs.make_trainer(whole, tmp_path / "whole", [weights, AverageWeights(0.9)], **settings).train()
    callbacks = [AverageWeights(0.9), runs.Stop(save_steps + 1)]
    with pytest.raises(KeyboardInterrupt):
        runs.make_trainer(runs.make_model(), tmp_path / "broken", callbacks, **settings).train()
    resumed, after, checkpoint = (
        runs.make_model(),
        runs.Record(runs.copies),
        tmp_path / f"broken/checkpoint-{save_steps}",
    )
    if elsewhere:
        checkpoint = shutil.move(checkpoint, tmp_path / "moved")
    trainer = runs.make_trainer(
        resumed, tmp_path / "broken", [after, AverageWeights(0.9, checkpoint if elsewhere else None)], **settings
    )
    trainer.train(resume_from_checkpoint=str(checkpoint))
    for one, other in zip(weights.seen[save_steps:], after.seen, strict=True):
        assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    for name, tensor in runs.weights_of(whole).items():
        assert torch.equal(tensor, runs.weights_of(resumed)[name]), name


@pytest.mark.parametrize("strategy", ["epoch", "best"])
def test_a_run_broken_off_while_it_evaluates_leaves_only_whole_checkpoints(strategy, tmp_path):
    scores = iter([0.1, 0.2])  # and then no more
    trainer = runs.make_trainer(
        runs.make_model(), tmp_path, [AverageWeights(0.9)], num_train_epochs=3, save_strategy=strategy,
        eval_strategy="epoch", metric_for_best_model="mAP", save_total_limit=1,
    )  # fmt: skip
    trainer.compute_metrics = lambda found: {"mAP": next(scores)}
    with pytest.raises(StopIteration):
        trainer.train()
    (checkpoint,) = tmp_path.glob("checkpoint-*")
    assert {"model.safetensors", TRAINING_WEIGHTS, "trainer_state.json"} <= {path.name for path in checkpoint.iterdir()}


def test_a_checkpoint_without_the_trained_weights_cannot_be_resumed(tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 4}
    runs.make_trainer(runs.make_model(), tmp_path, **settings).train()
    with pytest.raises(HalflabelError, match=r"checkpoint-8/training_weights.safetensors: no such file, and this run"):
        runs.make_trainer(runs.make_model(), tmp_path, [AverageWeights(0.9)], **settings).train(
            resume_from_checkpoint=True
        )


def test_only_what_resumes_is_written(tmp_path):
    runs.make_trainer(
        runs.make_model(), tmp_path, [AverageWeights(0.9)], save_strategy="epoch", save_only_model=True
    ).train()
    assert not list(tmp_path.rglob(TRAINING_WEIGHTS))
    assert len(list(tmp_path.rglob("model.safetensors"))) == 2


def test_mistakes_are_told_in_one_line(tmp_path):
    for decay in (0, 1, 1.5, -0.1, float("nan")):
        with pytest.raises(HalflabelError, match="ema_decay is .*, expected between 0 and 1"):
            AverageWeights(decay)
    with pytest.raises(HalflabelError, match="averaging needs float32 weights; backbone.conv1.0.weight is torch.bfl"):
        runs.make_trainer(runs.make_model().bfloat16(), tmp_path, [AverageWeights(0.9)]).train()
