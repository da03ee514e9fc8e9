"""Small runs through the real Trainer for the tests of transfer, averaging and lora.

`write_distributed` trains each of `DISTRIBUTED` in one of two processes and writes the weights there.
"""

import os
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from transformers import TrainerCallback, TrainingArguments

import halflabel.training.trainer
from halflabel import IGNORE_INDEX, MultiLabelTrainer, TimmMultiLabelForImageClassification
from halflabel.data.pixels import collate
from halflabel.metrics.trainer import trainer_metrics
from halflabel.training.checkpoints import weights_of
from halflabel.training.transfer import AverageWeights, add_lora, freeze, optimizer_cls_and_kwargs

SIDE = 32
BACKBONE_ARGS = {"test_vit": {"img_size": SIDE, "drop_path_rate": 0.2, "num_classes": 0}}


class Rows(torch.utils.data.Dataset):
    """Noise with a mean far from 0, so that BatchNorm's statistics move, and two labels of which some are unknown."""

    def __init__(self, count):
        generator = torch.Generator().manual_seed(0)
        self.pixels = torch.randn(count, 3, SIDE, SIDE, generator=generator) + 1
        self.labels = torch.randint(0, 2, (count, 2), generator=generator).numpy().astype(np.int8)
        self.labels[1::5, 0] = IGNORE_INDEX

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, i):
        return {"pixel_values": self.pixels[i], "labels": self.labels[i]}


class Record(TrainerCallback):
    """Keep what `look(model)` returns after each optimizer step (put it before callbacks that change the model)."""

    def __init__(self, look):
        self.look = look
        self.seen = []

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.seen.append(self.look(model))


class Stop(TrainerCallback):
    """Break off in the step after `step`, as a power cut would."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise KeyboardInterrupt


@contextmanager
def broken_off(evaluation=2):
    """What runs inside is stopped, as by Ctrl-C, in an evaluation on validation, counted from 1."""
    calls = []

    def stop(prediction):
        calls.append(1)
        if len(calls) == evaluation:
            raise KeyboardInterrupt
        return trainer_metrics(prediction)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(halflabel.training.trainer, "trainer_metrics", stop)
        with pytest.raises(KeyboardInterrupt):
            yield


@pytest.fixture(scope="module")
def one_thread():
    """Several threads only get in one another's way on networks this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def copies(model):
    return {name: tensor.clone() for name, tensor in weights_of(model).items()}


def make_model(name="test_resnet", backbone_args=None, head_start=0.5):
    torch.manual_seed(0)
    model = TimmMultiLabelForImageClassification.from_backbone(
        name, ["a", "b"], weights=None, backbone_args=backbone_args or BACKBONE_ARGS.get(name)
    )
    model.head.linear.weight.data.normal_(std=head_start)  # else next to nothing reaches the backbone
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # timm starts the last of a block at 0: nothing reaches the block
            module.weight.data.fill_(1.0)
    return model


def make_trainer(model, folder, callbacks=(), optimizer=None, rows=16, trainer_class=MultiLabelTrainer, **changes):
    settings = {
        "num_train_epochs": 2, "per_device_train_batch_size": 4, "optim": "adamw_torch", "learning_rate": 1e-2,
        "weight_decay": 0.1, "report_to": "none", "use_cpu": True, "save_strategy": "no", "disable_tqdm": True,
        "remove_unused_columns": False, "dataloader_pin_memory": False, "logging_strategy": "no",
    }  # fmt: skip
    arguments = TrainingArguments(output_dir=str(folder), **{**settings, **changes})
    chosen = optimizer(arguments) if optimizer else optimizer_cls_and_kwargs(arguments)
    data = Rows(rows)
    return trainer_class(
        model=model, args=arguments, data_collator=collate, train_dataset=data, eval_dataset=Rows(8),
        callbacks=list(callbacks), optimizer_cls_and_kwargs=chosen,
    )  # fmt: skip


def distributed_run(case, folder, batch_size):
    """Train on 16 pictures of which every step sees eight, and return the model; test_vit has no BatchNorm."""
    model = make_model("test_vit", {"img_size": SIDE})
    callbacks, frozen = [], {}
    if case == "averaging":
        callbacks = [AverageWeights(0.9)]
    elif case == "freezing":
        freeze(model, [3])
        frozen = {"ddp_find_unused_parameters": False}
    elif case == "lora":
        add_lora(model, 4)
        frozen = {"ddp_find_unused_parameters": False}
    trainer = make_trainer(
        model, folder, callbacks, num_train_epochs=3, per_device_train_batch_size=batch_size, optim="sgd",
        optim_args="momentum=0.9", learning_rate=0.05, train_sampling_strategy="sequential", **frozen,
    )  # fmt: skip
    trainer.train()
    assert trainer.state.global_step == 6
    return model


DISTRIBUTED = ("freezing", "averaging", "lora")


def write_distributed(folder):
    found = {case: copies(distributed_run(case, folder / "run", 4)) for case in DISTRIBUTED}
    torch.save(found, folder / f"weights.{os.environ['RANK']}")
