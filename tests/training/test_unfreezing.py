import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import TrainingArguments

from halflabel import HalflabelError
from halflabel.training.transfer import freeze
from halflabel.training.unfreezing import UnfreezeGradually

spec = importlib.util.spec_from_file_location(
    "transfer_runs", Path(__file__).parents[1] / "helpers" / "transfer_runs.py"
)
runs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(runs)
one_thread = runs.one_thread
pytestmark = pytest.mark.usefixtures("one_thread")

ORDER = ["layer4", "layer3", "layer2", "layer1", "stem"]  # from the head down


def part(name):
    top = name.split(".")[1]
    return "stem" if top in ("conv1", "bn1") else top


def trained_parts(model):
    return {part(name) for name, p in model.named_parameters() if name.startswith("backbone") and p.requires_grad}


def parts_in_training_mode(model):
    norms = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]
    return {part(name) for name, module in norms if module.training}


@pytest.mark.parametrize(("every", "epochs", "counts"), [
    (1.0, 3, [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]),
    (0.5, 2, [0, 0, 1, 1, 2, 2, 3, 3]),
    (0.25, 2, [0, 1, 2, 3, 4, 5, 5, 5]),
    (0.1, 1, [0, 2, 5, 5]),
    (0.75, 2, [0, 0, 0, 1, 1, 1, 2, 2]),
    (0.1, 1, [0, 1, 2, 3, 4, 5, 5, 5, 5, 5]),  # 0.3 / 0.1 is 2.9999999999999996
])  # fmt: skip
def test_groups_are_trained_one_after_another_from_the_head_down(every, epochs, counts, tmp_path):
    """`counts` is the number of groups trained in each step, by hand."""
    model = runs.make_model()
    seen = runs.Record(lambda model: (trained_parts(model), parts_in_training_mode(model)))
    rows = 4 * len(counts) // epochs
    runs.make_trainer(model, tmp_path, [UnfreezeGradually(every), seen], rows=rows, num_train_epochs=epochs).train()
    assert [trained for trained, _ in seen.seen] == [set(ORDER[:count]) for count in counts]
    assert all(trained == mode for trained, mode in seen.seen)


@pytest.mark.parametrize("settings", [{}, {"optim": "sgd", "optim_args": "momentum=0.9"}], ids=["adamw", "sgd"])
def test_what_is_not_trained_yet_does_not_move(settings, tmp_path):
    """Not even by weight decay, momentum or BatchNorm's statistics."""
    model = runs.make_model()
    weights = runs.Record(runs.copies)
    runs.make_trainer(model, tmp_path, [UnfreezeGradually(0.5), weights], weight_decay=1.0, **settings).train()
    moments = [runs.copies(runs.make_model()), *weights.seen]
    for step, (before, after) in enumerate(zip(moments, moments[1:], strict=False)):
        trained = ORDER[: step // 2]
        for name in before:
            if name.startswith("backbone."):
                assert torch.equal(before[name], after[name]) == (part(name) not in trained), (step, name)
        assert not torch.equal(before["head.linear.weight"], after["head.linear.weight"])


def test_what_was_frozen_for_good_stays_frozen(tmp_path):
    model = runs.make_model()
    freeze(model, ["layer3", "conv1", "bn1"])
    seen = runs.Record(trained_parts)
    runs.make_trainer(model, tmp_path, [UnfreezeGradually(0.25), seen]).train()
    assert seen.seen == [set(), {"layer4"}, {"layer4"}, {"layer4", "layer2"}, *[{"layer4", "layer2", "layer1"}] * 4]


@pytest.mark.parametrize("save_steps", [3, 4], ids=["within an epoch", "between two"])
def test_an_interrupted_run_resumes_to_the_same_weights(save_steps, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": save_steps, "num_train_epochs": 2}
    whole = runs.make_model()
    runs.make_trainer(whole, tmp_path / "whole", [UnfreezeGradually(0.5)], **settings).train()
    broken = runs.make_trainer(
        runs.make_model(), tmp_path / "broken", [UnfreezeGradually(0.5), runs.Stop(save_steps + 1)], **settings
    )
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    resumed = runs.make_model()
    seen = runs.Record(lambda model: len(trained_parts(model)))
    trainer = runs.make_trainer(resumed, tmp_path / "broken", [UnfreezeGradually(0.5), seen], **settings)
    trainer.train(resume_from_checkpoint=True)
    assert seen.seen == [0, 0, 1, 1, 2, 2, 3, 3][save_steps:]
    for name, tensor in runs.weights_of(whole).items():
        assert torch.equal(tensor, runs.weights_of(resumed)[name]), name


def test_a_pass_over_a_stream_is_counted_in_shares_of_the_steps(tmp_path):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield from (runs.Rows(48)[i] for i in range(48))

    model = runs.make_model()
    seen = runs.Record(lambda model: len(trained_parts(model)))
    trainer = runs.make_trainer(model, tmp_path, [UnfreezeGradually(0.25), seen], max_steps=8)
    trainer.train_dataset = Stream()
    trainer.train()
    assert seen.seen == [0, 0, 1, 1, 2, 2, 3, 3]


def test_mistakes_are_told_in_one_line(tmp_path):
    for every in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(HalflabelError, match="unfreeze_every is .*, expected above 0"):
            UnfreezeGradually(every)
    model = runs.make_model()
    model.freeze_backbone()
    with pytest.raises(HalflabelError, match="the whole backbone is frozen"):
        runs.make_trainer(model, tmp_path, [UnfreezeGradually(1.0)]).train()


@pytest.mark.parametrize("settings", [{"ddp_find_unused_parameters": False}, {"activation_checkpointing": True}])
def test_several_devices_must_not_wait_for_frozen_parameters(settings, tmp_path, monkeypatch):
    """DistributedDataParallel stops in the second step otherwise."""
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", **settings)
    monkeypatch.setattr(TrainingArguments, "world_size", 2)
    with pytest.raises(HalflabelError, match="ddp_find_unused_parameters: true"):
        UnfreezeGradually(1.0).on_train_begin(arguments, SimpleNamespace(epoch=0), None, model=runs.make_model())
